//! RabbitMQ is away in the middle of a stream, longer than anybody waits; then it is back.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use muster_tests::rabbit::OwnRabbit;

use super::{NO_BOUNDS, QUEUE, Stack, made, number, pika, words};
use crate::{Findings, Plan};

/// How soon after it is back what waits in the queue is worked on.
const BACK: Duration = Duration::from_secs(60);

pub(super) async fn run(plan: &Plan, directory: &Path, findings: &mut Findings) -> Result<()> {
    let mut own = OwnRabbit::start(directory).await;
    let rabbit = own.rabbit();
    let stack = Stack::start(plan, directory, &rabbit.url, &NO_BOUNDS).await?;
    let mut connection = stack.database.connect().await;
    let list = stack.list.display().to_string();
    rabbit.declared(QUEUE, super::PATIENCE).await;
    let half = (plan.alerts / 2).to_string();
    let arguments = |seed: &str| words(&["--generate", &half, "--repeats", "30", "--seed", seed, "--devices", &list]);
    let first = pika(&rabbit, arguments("1"), String::new()).await;
    let waiting = rabbit.count(QUEUE).await.unwrap_or_default();
    own.stop().await;
    let began = Instant::now();
    let at_stop = super::written(&mut connection).await?;
    findings.note("outage: messages waiting when RabbitMQ was stopped", waiting);
    // The rest of the house goes on.
    let api = stack.controllers.api(0);
    let mut answered = 0_u32;
    while began.elapsed() < plan.span {
        let list = api.get::<serde_json::Value>("/api/v1/devices?limit=1").await;
        ensure!(list.is_ok(), "the controller does not answer while RabbitMQ is away: {list:?}");
        answered += 1;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    findings.note("outage: RabbitMQ was away", format!("{:.0} s, the API answered {answered} times", began.elapsed().as_secs_f64()));
    own.start_again().await;
    let back = Instant::now();
    let second = pika(&rabbit, arguments("2"), String::new()).await;
    let more = stack.recorded(&mut connection, at_stop + 1, back).await?;
    let allowed = format!("at most {} s", BACK.as_secs());
    findings.check("outage: from its return to the next alert", format!("{:.1} s", more.as_secs_f64()), allowed, more <= BACK);
    let distinct = number(&first, "distinct")? + number(&second, "distinct")?;
    let all = stack.recorded(&mut connection, distinct, back).await?;
    findings.note("outage: from its return to all written down", format!("{:.1} s", all.as_secs_f64()));
    let pairs = number(&first, "pairs")?.max(number(&second, "pairs")?);
    let (collections, _) = made(&mut connection).await?;
    let recorded = super::written(&mut connection).await?;
    findings.check("outage: alerts written down", recorded, format!("{distinct}: none lost, none twice"), recorded == distinct);
    findings.check("outage: collections made", collections, pairs, collections == pairs);
    let ready = api.request(reqwest::Method::GET, "/readyz").send().await?.status().as_u16();
    findings.check("outage: ready afterwards", ready, 200, ready == 200);
    drop(connection);
    stack.end().await;
    Ok(())
}
