//! One-device requests while a large collection runs, beside the same on an idle system.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use muster_tests::api::{Api, collection};
use muster_tests::broker::{Mosquitto, Tuning};
use muster_tests::controllers::Controllers;
use muster_tests::postgres::Database;
use muster_wire::DeviceId;
use muster_wire::http::{CollectionRequest, CollectionState, Priority, Target};

use crate::edges::Edges;
use crate::fleet::{self, Fleets, Group};
use crate::{Findings, Plan};

/// Between two looks at a request.
const LOOK_EVERY: Duration = Duration::from_millis(4);
/// Devices that are asked one at a time; apart from the many, or they would be busy.
const SINGLES: usize = 20;

pub(crate) async fn run(plan: &Plan, directory: &Path) -> Result<Findings> {
    let broker = Mosquitto::start(directory, Tuning::Shipped).await;
    let mut edges = Edges::start(directory, broker.port, plan.devices, plan.edges).await;
    let database = Database::create().await;
    let controllers = Controllers::start(1, directory, &broker.url(), &database.url, &[("telemetry.log", "warn")]).await;
    let api = controllers.api(0);
    let many = Group { name: "many", devices: plan.devices, bundle_kb: plan.bundle_kb, faults: &[], consent: false, slow_ms: 0 };
    let many = Fleets::start(directory, &mut edges, &many).await;
    let single = Group { name: "single", devices: SINGLES, bundle_kb: plan.bundle_kb, faults: &[], consent: false, slow_ms: 0 };
    let single = Fleets::start(directory, &mut edges, &single).await;
    fleet::until(api, "online", plan.devices + SINGLES, Duration::from_secs(600)).await;

    let mut findings = Findings::default();
    findings.note("devices of the large collection", plan.devices);
    findings.note("brokers in front of the core", edges.count());
    let idle = measure(api, &single.devices, plan.requests, Priority::High).await?;
    let mut new = collection(CollectionRequest::Bundle { since: None, edge_runtime_only: false }, Target::All {}, 600, 3);
    new.options.priority = Some(Priority::Low);
    new.options.expires_in_seconds = Some(24 * 3600);
    let id = api.create(&new).await.id;
    let before = api.collection(id).await.map_err(anyhow::Error::msg)?;
    let high = measure(api, &single.devices, plan.requests, Priority::High).await?;
    let normal = measure(api, &single.devices, plan.requests, Priority::Normal).await?;
    let after = api.collection(id).await.map_err(anyhow::Error::msg)?;
    let state = |view: &muster_wire::http::CollectionView| format!("{} of {} done", view.counters.done(), view.counters.targeted);
    findings.note("the large collection when measuring began", state(&before));
    findings.check("and when it ended", state(&after), "still running", after.state == CollectionState::Running);
    for (what, times) in [("idle", idle), ("high, beside the large one", high), ("normal, beside the large one", normal)] {
        let slowest = times.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(index, _)| index + 1);
        let mut sorted = times;
        sorted.sort_by(f64::total_cmp);
        findings.note(&format!("{what}: median"), format!("{:.0} ms", at(&sorted, 0.5)));
        findings.note(&format!("{what}: 99th percentile"), format!("{:.0} ms", at(&sorted, 0.99)));
        findings.note(&format!("{what}: slowest, and which"), format!("{:.0} ms, #{slowest} of {}", at(&sorted, 1.0), sorted.len()));
    }
    drop((controllers, many, single));
    database.drop_now().await;
    Ok(findings)
}

/// The time of one request after the other, each for one device, in milliseconds.
pub(crate) async fn measure(api: &Api, singles: &[DeviceId], requests: usize, priority: Priority) -> Result<Vec<f64>> {
    let mut times = Vec::with_capacity(requests);
    for number in 0..requests {
        let device = &singles[number % singles.len()];
        let mut new = collection(CollectionRequest::Ping {}, Target::Devices { devices: vec![device.clone()] }, 60, 1);
        new.options.priority = Some(priority);
        let began = Instant::now();
        let id = api.create(&new).await.id;
        loop {
            let view = api.collection(id).await.map_err(anyhow::Error::msg)?;
            if view.counters.done() == view.counters.targeted {
                ensure!(view.counters.verified == 1, "{device} did not answer: {:?}", view.reasons);
                break;
            }
            ensure!(began.elapsed() < Duration::from_secs(60), "{device} did not answer within a minute");
            tokio::time::sleep(LOOK_EVERY).await;
        }
        times.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    Ok(times)
}

pub(crate) fn at(sorted: &[f64], share: f64) -> f64 {
    sorted.get(((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}
