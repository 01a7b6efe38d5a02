//! All devices raise the same within a minute: a sample is collected, with healthy ones beside it; the rest is had with one word.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use muster_tests::rabbit::Rabbit;
use muster_wire::http::{Page, StormCollected, StormPolicy, StormView};
use serde_json::json;

use super::{NO_BOUNDS, Stack, number, pika, words};
use crate::{Findings, Plan};

const INDICATOR: &str = "SoakStormCondition";
const SITES: [&str; 4] = ["oslo", "bergen", "trondheim", "turku"];
/// Devices that stay healthy, so that there is somebody to be a twin: one in so many.
const HEALTHY: usize = 20;

pub(super) async fn run(plan: &Plan, directory: &Path, findings: &mut Findings) -> Result<()> {
    let rabbit = Rabbit::from_env().await;
    // Budgets apart, as installed.
    let stack = Stack::start(plan, directory, &rabbit.url, &NO_BOUNDS[..2]).await?;
    let mut connection = stack.database.connect().await;
    let api = stack.controllers.api(0);
    for (place, site) in SITES.iter().enumerate() {
        let of_site: Vec<_> = stack.fleet.devices.iter().skip(place).step_by(SITES.len()).collect();
        for some in of_site.chunks(500) {
            let body = json!({"devices": some, "patch": {"tags": {"tenant": "soak", "site": site}}}).to_string();
            let (status, text) = api.post_text("/api/v1/devices/tags", body).await;
            ensure!(status == 200, "tags: {status} {text}");
        }
    }
    stack.indicator(INDICATOR).await?;
    let ill: Vec<_> = stack.fleet.devices.iter().enumerate().filter(|(n, _)| n % HEALTHY != 0).map(|(_, id)| id.to_string()).collect();
    let list = directory.join("ill");
    std::fs::write(&list, ill.join("\n"))?;
    let (count, rate) = (ill.len().to_string(), (ill.len() as f64 / 60.0).to_string());
    let list = list.display().to_string();
    let storm = words(&["--generate", &count, "--devices", &list, "--indicators", INDICATOR, "--rate", &rate]);
    let sent = number(&pika(&rabbit, storm, String::new()).await, "sent")?;
    stack.recorded(&mut connection, sent, Instant::now()).await?;
    let page: Page<StormView> = api.get("/api/v1/storms").await.map_err(anyhow::Error::msg)?;
    let storm = page.items.iter().find(|storm| storm.indicator == INDICATOR).context("no storm was seen")?;
    let storm: StormView = api.get(&format!("/api/v1/storms/{}", storm.id)).await.map_err(anyhow::Error::msg)?;
    let policy = StormPolicy::default();
    findings.note("storm", &storm.why);
    findings.check("storm: devices", storm.devices, sent, storm.devices == sent);
    findings.check(
        "storm: collected",
        storm.collected,
        format!("at most {}", policy.at_most),
        storm.collected <= u64::from(policy.at_most),
    );
    findings.check("storm: left on demand", storm.on_demand, "the rest", storm.on_demand + storm.collected == sent);
    let with_twin = storm.strata.iter().filter(|stratum| stratum.twin.is_some()).count();
    let explained = storm.strata.iter().filter(|stratum| stratum.twin.is_none() && stratum.collected > 0).all(|s| s.no_twin.is_some());
    findings.check(
        "storm: combinations of version, site and model, with a healthy one beside",
        format!("{} and {with_twin}", storm.strata.len()),
        "each with one or a reason",
        explained,
    );
    let counts = stack.counts().await?;
    findings.note("storm: outcomes", format!("{:?}", counts.outcomes));
    let began = Instant::now();
    let (status, text) = api.post_text(&format!("/api/v1/storms/{}/collect", storm.id), "{}").await;
    ensure!((200..300).contains(&status), "the rest: {status} {text}");
    let rest: StormCollected = serde_json::from_str(&text)?;
    findings.check("storm: the rest, asked for", rest.devices, storm.on_demand, rest.devices == storm.on_demand);
    let view = api.finished(rest.collection.context("one collection")?, Duration::from_secs(600)).await;
    let took = format!("{} in {:.0} s", view.counters.verified, began.elapsed().as_secs_f64());
    findings.check("storm: the rest, verified", took, rest.devices, view.counters.verified == rest.devices);
    drop(connection);
    stack.end().await;
    Ok(())
}
