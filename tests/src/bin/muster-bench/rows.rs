//! The rows.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use muster_tests::api::{collection, devices};
use muster_tests::broker::{Mosquitto, Tuning};
use muster_tests::cpu_seconds_of_this_process;
use muster_tests::program::Program;
use muster_wire::http::{CollectionRequest, CollectionState, Target};

use crate::Plan;
use crate::raw;
use crate::table::{Bar, Spread, Table};
use crate::tracked::{Shape, Stack, fleet};

pub(crate) fn directory() -> Result<tempfile::TempDir> {
    tempfile::Builder::new().prefix("muster-bench-").tempdir().context("a private directory")
}

pub(crate) fn pings(in_flight: u32) -> Vec<(&'static str, String)> {
    vec![
        ("dispatch.in_flight", in_flight.to_string()),
        ("dispatch.reserve_percent", "0".to_owned()),
        ("dispatch.look_first", "120s".to_owned()),
        ("telemetry.log", "warn".to_owned()),
    ]
}

/// P1–P4, P8, P9: 1,000 connections on a tuned Mosquitto and Postgres, raw and tracked in turn.
pub(crate) async fn throughput(plan: &Plan, table: &mut Table) -> Result<()> {
    if !["P1", "P2", "P3", "P4", "P8", "P9"].iter().any(|row| plan.wants(row)) {
        return Ok(());
    }
    let directory = directory()?;
    let shape = Shape { tuning: Some(Tuning::Shipped), postgres: true, devices: 1000, settings: pings(4000) };
    let stack = Stack::start(directory.path(), &shape).await?;
    // Once each, uncounted: caches, connections, the growth of heaps.
    raw::round_trips(stack.mqtt_port, None, &stack.devices, 5000).await?;
    stack.tracked_round_trips(5000).await?;
    let (mut raws, mut trackeds, mut ratios, mut cpu_ratios, mut controller_us, mut shares) =
        (vec![], vec![], vec![], vec![], vec![], vec![]);
    for pair in 0..plan.pairs {
        let (cpu, own) = (stack.cpu(), cpu_seconds_of_this_process());
        let raw = raw::round_trips(stack.mqtt_port, None, &stack.devices, plan.tasks).await?;
        let used = stack.cpu().since(cpu);
        let raw_cpu = used.broker + used.devices + (cpu_seconds_of_this_process() - own);
        let cpu = stack.cpu();
        let tracked = stack.tracked_round_trips(plan.tasks).await?;
        let used = stack.cpu().since(cpu);
        eprintln!("pair {}: raw {raw:.0}/s, tracked {tracked:.0}/s", pair + 1);
        raws.push(raw);
        trackeds.push(tracked);
        ratios.push(100.0 * tracked / raw);
        cpu_ratios.push(used.total() / raw_cpu);
        let micros = |seconds: f64| seconds * 1e6 / plan.tasks as f64;
        controller_us.push(micros(used.controller));
        shares.push((micros(used.broker), micros(used.devices), micros(used.controller), micros(used.database)));
    }
    let own_rate = Spread::of(trackeds.clone());
    table.noted("P1", "raw round trips per second", Spread::of(raws).to_string());
    table.noted("P1", "tracked round trips per second", own_rate.to_string());
    let ratio = Spread::of(ratios);
    let middle = shares[shares.len() / 2];
    let parts = format!("{:.0} broker, {:.0} devices, {:.0} controller, {:.0} database", middle.0, middle.1, middle.2, middle.3);
    let busy = format!("of all cores' time, µs per round trip: {parts}");
    table.judged("P1", "tracked ÷ raw, same pair", format!("{ratio} %"), ratio.median, Bar::at_least(60.0, 80.0, " %"));
    table.distance(&busy);
    let ratio = Spread::of(cpu_ratios);
    table.judged("P3", "total CPU per tracked round trip ÷ raw's", format!("{ratio} ×"), ratio.median, Bar::at_most(1.6, 1.35, " ×"));
    let us = Spread::of(controller_us);
    table.judged("P4", "controller CPU per tracked round trip", format!("{us} µs"), us.median, Bar::at_most(60.0, 35.0, " µs"));
    table.noted("P3", "CPU per tracked round trip, in µs", parts);

    if plan.wants("P8") {
        let before = stack.writes().await?;
        stack.tracked_round_trips(plan.tasks).await?;
        let after = stack.writes().await?;
        let per_task = |n: f64| n / plan.tasks as f64;
        let (inserts, updates) = (per_task(after.inserted - before.inserted), per_task(after.updated - before.updated));
        table.judged(
            "P8",
            "row updates per completed task (beside its insert)",
            format!("{inserts:.2} inserts, {updates:.2} updates"),
            updates,
            Bar::at_most(2.2, 1.2, ""),
        );
    }
    if plan.wants("P9") {
        let before = stack.writes().await?;
        let seconds = paced(&stack, 10).await?;
        let after = stack.writes().await?;
        // Ours for counting: the statistics queries themselves are three commits.
        let commits = (after.committed - before.committed) / seconds;
        table.judged(
            "P9",
            "commits per second at 1,000 round trips per second",
            format!("{commits:.0}"),
            commits,
            Bar::at_most(250.0, 120.0, ""),
        );
    }
    if plan.wants("P2") {
        let raw = raw::round_trips(stack.mqtt_port, None, &stack.devices, plan.many_tasks).await?;
        let tracked = stack.tracked_round_trips(plan.many_tasks).await?;
        table.judged(
            "P2",
            "the same at 100 k tasks",
            format!("{:.0} % ({tracked:.0}/s of {raw:.0}/s)", 100.0 * tracked / raw),
            100.0 * tracked / raw,
            Bar::at_least(55.0, 75.0, " %"),
        );
        table.distance(&busy);
        let own = 100.0 * tracked / own_rate.median;
        table.judged("P2", "100 k rate ÷ own 20 k rate", format!("{own:.0} %"), own, Bar::at_least(90.0, 90.0, " %"));
    }
    stack.end().await;
    Ok(())
}

/// About 1,000 tasks a second for so many seconds: ten collections of 100 devices each second.
async fn paced(stack: &Stack, seconds: u64) -> Result<f64> {
    let began = Instant::now();
    let groups: Vec<Vec<&str>> = stack.devices.chunks(100).map(|group| group.iter().map(String::as_str).collect()).collect();
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    for tick in 0..seconds * 10 {
        ticks.tick().await;
        let group = &groups[tick as usize % groups.len()];
        stack.api.create(&collection(CollectionRequest::Ping {}, devices(group), 60, 1)).await;
    }
    Ok(began.elapsed().as_secs_f64())
}

/// P6: 100,000 requests in flight.
pub(crate) async fn many_in_flight(plan: &Plan, table: &mut Table) -> Result<()> {
    if !plan.wants("P6") {
        return Ok(());
    }
    let directory = directory()?;
    let mut shape = Shape { tuning: Some(Tuning::Shipped), postgres: true, devices: 1000, settings: pings(200_000) };
    shape.settings.push(("dispatch.look_max", "600s".to_owned()));
    let stack = Stack::start(directory.path(), &shape).await?;
    stack.tracked_round_trips(1000).await?;
    let at_1k = stack.controller.rss_kib() as f64 / 1024.0;
    // Devices that stop reading keep requests in flight: the process is stopped, its connections stay.
    stack.fleet.signal(nix::sys::signal::Signal::SIGSTOP);
    for _ in 0..100 {
        stack.api.create(&collection(CollectionRequest::Ping {}, Target::All {}, 600, 1)).await;
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let status: serde_json::Value = stack.api.get("/api/v1/status").await.map_err(anyhow::Error::msg)?;
        let in_flight = status.pointer("/dispatch/in_flight").and_then(serde_json::Value::as_u64).unwrap_or(0);
        if in_flight >= 100_000 {
            break;
        }
        anyhow::ensure!(Instant::now() < deadline, "only {in_flight} requests in flight after 60 s");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let at_100k = stack.controller.rss_kib() as f64 / 1024.0;
    stack.fleet.signal(nix::sys::signal::Signal::SIGCONT);
    table.judged(
        "P6",
        "controller memory with 100 k requests in flight",
        format!("{at_100k:.0} MB"),
        at_100k,
        Bar::at_most(64.0, 32.0, " MB"),
    );
    table.judged("P6", "above its memory at 1 k", format!("{:.0} MB", at_100k - at_1k), at_100k - at_1k, Bar::at_most(30.0, 30.0, " MB"));
    stack.end().await;
    Ok(())
}

/// Requests of the row about latency, and how long the system is left alone between two.
const LONE_REQUESTS: usize = 200;
const IDLE: Duration = Duration::from_millis(20);
/// Between two looks at a lone request: what the figure may be too high by.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// P10: one request on an idle system, as its caller sees it: from the first byte of the request to the answer that shows the completed row.
pub(crate) async fn latency(plan: &Plan, table: &mut Table) -> Result<()> {
    if !plan.wants("P10") {
        return Ok(());
    }
    let directory = directory()?;
    let shape = Shape { tuning: Some(Tuning::Shipped), postgres: true, devices: 10, settings: pings(4000) };
    let stack = Stack::start(directory.path(), &shape).await?;
    let (mut made, mut completed, mut closed) = (Vec::new(), Vec::new(), Vec::new());
    let commits = stack.bare_commits(LONE_REQUESTS, IDLE).await?;
    // Each device once, uncounted: connections, plans, caches.
    for index in 0..stack.devices.len() + LONE_REQUESTS {
        let device = stack.devices[index % stack.devices.len()].as_str();
        let began = Instant::now();
        let created = stack.api.create(&collection(CollectionRequest::Ping {}, devices(&[device]), 60, 1)).await;
        let accepted = began.elapsed();
        let mut seen = None;
        loop {
            let view = stack.api.collection(created.id).await.map_err(anyhow::Error::msg)?;
            if view.counters.verified == 1 {
                seen.get_or_insert_with(|| began.elapsed());
            }
            if view.state == CollectionState::Finished {
                break;
            }
            anyhow::ensure!(began.elapsed() < Duration::from_secs(10), "{device} was not done after 10 s: {:?}", view.counters);
            tokio::time::sleep(LOOK_EVERY).await;
        }
        if index >= stack.devices.len() {
            made.push(accepted.as_secs_f64() * 1e3);
            completed.push(seen.context("a collection is closed after its last task")?.as_secs_f64() * 1e3);
            closed.push(began.elapsed().as_secs_f64() * 1e3);
        }
        tokio::time::sleep(IDLE).await;
    }
    let (commits, made, closed) = (percentiles(commits), percentiles(made), percentiles(closed));
    let parts = format!(
        "three commits lie on the way, and a bare one takes {:.1} ms (p99 {:.1}); made after {:.1} ms (p99 {:.1})",
        commits.0, commits.1, made.0, made.1
    );
    let (p50, p99) = percentiles(completed);
    table.judged("P10", "one request on an idle system, p50", format!("{p50:.1} ms"), p50, Bar::at_most(15.0, 5.0, " ms"));
    table.distance(&parts);
    table.judged("P10", "the same, p99", format!("{p99:.1} ms"), p99, Bar::at_most(40.0, 40.0, " ms"));
    table.distance(&parts);
    table.noted("P10", "until its collection is closed, p50 and p99", format!("{:.1} ms, {:.1} ms", closed.0, closed.1));
    table.noted("P10", "of which", parts);
    stack.end().await;
    Ok(())
}

fn percentiles(mut times: Vec<f64>) -> (f64, f64) {
    times.sort_by(f64::total_cmp);
    (times[times.len() / 2], times[times.len() * 99 / 100])
}

/// P11: 50,000 tasks at once on a Mosquitto as installed.
pub(crate) async fn stock_broker(plan: &Plan, table: &mut Table) -> Result<()> {
    if !plan.wants("P11") {
        return Ok(());
    }
    let directory = directory()?;
    let stack =
        Stack::start(directory.path(), &Shape { tuning: Some(Tuning::Stock), postgres: true, devices: 1000, settings: pings(4000) })
            .await?;
    let began = Instant::now();
    let rate = stack.tracked_round_trips(50_000).await;
    match rate {
        Ok(rate) => {
            table.judged("P11", "tasks lost of 50,000 on an untuned broker", format!("0 ({rate:.0}/s)"), 0.0, Bar::at_most(0.0, 0.0, ""))
        }
        Err(error) => table.judged(
            "P11",
            "tasks lost of 50,000 on an untuned broker",
            format!("{error} after {:?}", began.elapsed()),
            1.0,
            Bar::at_most(0.0, 0.0, ""),
        ),
    }
    stack.end().await;
    Ok(())
}

/// P14: how many simulated devices one process holds.
pub(crate) async fn simulator(plan: &Plan, table: &mut Table) -> Result<()> {
    if !plan.wants("P14") {
        return Ok(());
    }
    const DEVICES: usize = 18_000;
    let directory = directory()?;
    let broker = Mosquitto::start(directory.path(), Tuning::Shipped).await;
    let stats = directory.path().join("stats.ndjson");
    let mut command = fleet("sim", DEVICES, &broker.url());
    command.arg("--stats-file").arg(&stats);
    let began = Instant::now();
    let fleet = Program::start("muster-agent", directory.path(), &mut command);
    let deadline = began + Duration::from_secs(120);
    let connected = || {
        let text = std::fs::read_to_string(&stats).unwrap_or_default();
        let last = text.lines().rev().find_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())?;
        last["connected"].as_u64()
    };
    while connected().unwrap_or(0) < DEVICES as u64 {
        anyhow::ensure!(Instant::now() < deadline, "{:?} of {DEVICES} connected after 120 s:\n{}", connected(), fleet.tail());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let seconds = began.elapsed().as_secs_f64();
    let fleet_cpu = fleet.cpu_seconds();
    let per_device = fleet.rss_kib() as f64 / DEVICES as f64;
    table.judged("P14", "18,000 devices in one process: connected in", format!("{seconds:.1} s"), seconds, Bar::at_most(10.0, 10.0, " s"));
    table.distance(format!("{:.1} s of CPU in the simulator and {:.1} s in the broker", fleet_cpu, broker.program.cpu_seconds()));
    table.judged("P14", "memory per device", format!("{per_device:.1} KB"), per_device, Bar::at_most(40.0, 4.0, " KB"));
    Ok(())
}
