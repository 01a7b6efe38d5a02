//! A large collection: a fifth of the devices offline at the start and back during the run, one in twenty faulty, with a ramp, a window and
//! an abort rule.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use muster_tests::api::bundles_from_all;
use muster_tests::broker::{Mosquitto, Tuning};
use muster_tests::controllers::Controllers;
use muster_tests::cpu_seconds_of_this_process;
use muster_tests::postgres::Database;
use muster_tests::trace::Trace;
use muster_wire::http::{AbortAction, AbortRule, CollectionState, Ramp, Rate};
use muster_wire::method::Method;

use crate::edges::Edges;
use crate::fleet::{self, Fleets, Group};
use crate::{Findings, Plan};

/// The devices that were offline come back after this part of the time.
const AWAY_SHARE: u32 = 4;
/// How long a scan may take to come round.
const SCAN: Duration = Duration::from_secs(5);

pub(crate) async fn run(plan: &Plan, directory: &Path) -> Result<Findings> {
    let broker = Mosquitto::start(directory, Tuning::Shipped).await;
    let mut edges = Edges::start(directory, broker.port, plan.devices, plan.edges).await;
    let database = Database::create().await;
    let settings = [("dispatch.look_first", "10s"), ("dispatch.backoff_first", "5s"), ("telemetry.log", "warn")];
    let controllers = Controllers::start(2, directory, &broker.url(), &database.url, &settings).await;
    let api = controllers.api(0);
    let faults = ["liar=2%", "deaf=2%", "truncated_zip=2.25%"];
    let group = |name, devices, faults| Group { name, devices, bundle_kb: plan.bundle_kb, faults, consent: false, slow_ms: 0 };
    let away = plan.devices / 5;
    let here = Fleets::start(directory, &mut edges, &group("here", plan.devices - away, &faults)).await;
    let mut gone = Fleets::start(directory, &mut edges, &group("away", away, &[])).await;
    fleet::until(api, "online", plan.devices, Duration::from_secs(900)).await;
    gone.kill();
    fleet::until(api, "offline", away, Duration::from_secs(300)).await;

    let mut new = bundles_from_all(60, 2);
    new.options.in_flight = Some(plan.in_flight);
    new.options.expires_in_seconds = Some(plan.span.as_secs());
    let ramp = Ramp { factor: 2.0, every_verified: (plan.devices as u64 / 50).max(1), max_per_minute: Some(plan.devices as f64 * 4.0) };
    new.rollout.rate = Some(Rate { per_minute: plan.devices as f64 / 10.0, ramp: Some(ramp) });
    new.rollout.abort = vec![AbortRule { reasons: Vec::new(), percent: 15.0, minimum_done: 100, action: AbortAction::Pause }];
    let began = Instant::now();
    let id = api.create(&new).await.id;
    let (mut samples, mut wrong, mut most_out, mut back, mut fastest) = (0_u64, 0_u64, 0, false, 0.0_f64);
    let view = loop {
        if let Ok(view) = controllers.api(samples as usize % controllers.count()).collection(id).await {
            samples += 1;
            wrong += u64::from(view.counters.sum() != view.counters.targeted);
            most_out = most_out.max(view.counters.dispatched + view.counters.accepted);
            fastest = fastest.max(view.pace.and_then(|pace| pace.per_minute).unwrap_or_default());
            if samples.is_multiple_of(20) {
                eprintln!("{:>4} s: {:?}", began.elapsed().as_secs(), view.counters);
            }
            let stuck = view.paused.is_some() || began.elapsed() > plan.span + Duration::from_secs(60);
            if view.state != CollectionState::Running || stuck {
                break view;
            }
        }
        if !back && began.elapsed() >= plan.span / AWAY_SHARE {
            gone.start_again();
            back = true;
            eprintln!("{:>4} s: the devices that were offline come back", began.elapsed().as_secs());
        }
        ensure!(began.elapsed() < plan.span + Duration::from_secs(180), "the controllers do not answer");
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    let took = began.elapsed();
    let traces: Vec<_> = here.traces.iter().chain(&gone.traces).cloned().collect();
    let trace = Trace::read(&traces, Method::UploadSupportBundle);
    let counters = view.counters;
    let mut findings = Findings::default();
    findings.note("devices / offline at the start", format!("{} / {away}", plan.devices));
    findings.note("brokers in front of the core", edges.count());
    // What is left at the expiry is final one scan later.
    let allowed = plan.span + SCAN;
    findings.check(
        "took",
        format!("{:.0} s", took.as_secs_f64()),
        format!("the expiry, {} s, and a scan", plan.span.as_secs()),
        took <= allowed,
    );
    findings.check("tasks that are final", counters.done(), counters.targeted, counters.done() == counters.targeted);
    findings.note(
        "verified / failed / refused / expired",
        format!("{} / {} / {} / {}", counters.verified, counters.failed, counters.refused, counters.expired),
    );
    for (reason, count) in &view.reasons {
        findings.note(&format!("  {reason}"), count);
    }
    findings.check("paused itself", view.paused.as_ref().map_or("no", |paused| paused.why.as_str()), "no", view.paused.is_none());
    findings.check("samples whose counters do not add up", wrong, format!("0 of {samples}"), wrong == 0);
    findings.check("most in flight, by the counters", most_out, format!("<= {}", plan.in_flight), most_out <= u64::from(plan.in_flight));
    findings.note("most at once at the devices, deaf ones included", trace.most_at_once());
    findings.note("rate at the end of the ramp", format!("{fastest:.0}/min"));
    let (up, down) = edges.carried();
    findings.note("messages carried to the core / to the devices", format!("{up} / {down}"));
    findings.note("CPU of this process, which carries them", format!("{:.0} s", cpu_seconds_of_this_process()));
    for (whose, kib) in [
        ("a controller", (0..controllers.count()).map(|number| controllers.peak_rss_kib(number)).max().unwrap_or(0)),
        ("the broker", broker.program.peak_rss_kib()),
        ("a broker in front of it", edges.peak_rss_kib()),
        ("a process of devices", here.peak_rss_kib()),
    ] {
        findings.note(&format!("memory of {whose} at its peak"), format!("{} MB", kib / 1024));
    }
    drop((controllers, here, gone, edges));
    database.drop_now().await;
    Ok(findings)
}
