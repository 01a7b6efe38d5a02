//! The rows.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use muster_tests::api::{collection, devices};
use muster_tests::broker::{Mosquitto, Tuning};
use muster_tests::cpu_seconds_of_this_process;
use muster_tests::program::{Program, built};
use muster_wire::http::{CollectionRequest, Target};

use crate::Plan;
use crate::raw;
use crate::table::{Bar, Spread, Table};
use crate::tracked::{Shape, Stack};

fn directory() -> Result<tempfile::TempDir> {
    tempfile::Builder::new().prefix("muster-bench-").tempdir().context("a private directory")
}

fn pings(in_flight: u32) -> Vec<(&'static str, String)> {
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
    let shape = Shape { tuning: Some(Tuning::Ours), postgres: true, devices: 1000, settings: pings(4000) };
    let stack = Stack::start(directory.path(), &shape).await?;
    // Once each, uncounted: caches, connections, the growth of heaps.
    raw::round_trips(stack.mqtt_port, &stack.devices, 5000).await?;
    stack.tracked_round_trips(5000).await?;
    let (mut raws, mut trackeds, mut ratios, mut cpu_ratios, mut controller_us, mut shares) =
        (vec![], vec![], vec![], vec![], vec![], vec![]);
    for pair in 0..plan.pairs {
        let (cpu, own) = (stack.cpu(), cpu_seconds_of_this_process());
        let raw = raw::round_trips(stack.mqtt_port, &stack.devices, plan.tasks).await?;
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
    table.judged("P1", "tracked ÷ raw, same pair", format!("{ratio} %"), ratio.median, Bar::at_least(60.0, 80.0, " %"));
    let ratio = Spread::of(cpu_ratios);
    table.judged("P3", "total CPU per tracked round trip ÷ raw's", format!("{ratio} ×"), ratio.median, Bar::at_most(1.6, 1.35, " ×"));
    let us = Spread::of(controller_us);
    table.judged("P4", "controller CPU per tracked round trip", format!("{us} µs"), us.median, Bar::at_most(60.0, 35.0, " µs"));
    let middle = shares[shares.len() / 2];
    table.noted(
        "P3",
        "µs per round trip: broker, devices, controller, database",
        format!("{:.0}, {:.0}, {:.0}, {:.0}", middle.0, middle.1, middle.2, middle.3),
    );

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
        let raw = raw::round_trips(stack.mqtt_port, &stack.devices, plan.many_tasks).await?;
        let tracked = stack.tracked_round_trips(plan.many_tasks).await?;
        table.judged(
            "P2",
            "the same at 100 k tasks",
            format!("{:.0} % ({tracked:.0}/s of {raw:.0}/s)", 100.0 * tracked / raw),
            100.0 * tracked / raw,
            Bar::at_least(55.0, 75.0, " %"),
        );
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
    let mut shape = Shape { tuning: Some(Tuning::Ours), postgres: true, devices: 1000, settings: pings(200_000) };
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

/// P10: one request on an idle system, from the row's creation to the completed row.
pub(crate) async fn latency(plan: &Plan, table: &mut Table) -> Result<()> {
    if !plan.wants("P10") {
        return Ok(());
    }
    let directory = directory()?;
    let stack =
        Stack::start(directory.path(), &Shape { tuning: Some(Tuning::Ours), postgres: true, devices: 10, settings: pings(4000) }).await?;
    let mut times = Vec::new();
    for index in 0..200 {
        let device = stack.devices[index % stack.devices.len()].as_str();
        let created = stack.api.create(&collection(CollectionRequest::Ping {}, devices(&[device]), 60, 1)).await;
        let view = stack.api.finished(created.id, Duration::from_secs(10)).await;
        let task = stack.api.tasks(created.id).await.remove(0);
        let finished = task.finished_at.context("a finished task")?;
        times.push((finished - view.created_at).as_seconds_f64() * 1e3);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    times.sort_by(f64::total_cmp);
    let (p50, p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
    table.judged("P10", "one request on an idle system, p50", format!("{p50:.0} ms"), p50, Bar::at_most(15.0, 5.0, " ms"));
    table.judged("P10", "the same, p99", format!("{p99:.0} ms"), p99, Bar::at_most(40.0, 40.0, " ms"));
    stack.end().await;
    Ok(())
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
    let broker = Mosquitto::start(directory.path(), Tuning::Ours).await;
    let stats = directory.path().join("stats.ndjson");
    let mut command = Command::new(built("muster-agent"));
    command.args(["fleet", "--devices", &DEVICES.to_string(), "--mqtt", &broker.url(), "--stats-file"]).arg(&stats);
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
    let per_device = fleet.rss_kib() as f64 / DEVICES as f64;
    table.judged("P14", "18,000 devices in one process: connected in", format!("{seconds:.1} s"), seconds, Bar::at_most(10.0, 10.0, " s"));
    table.judged("P14", "memory per device", format!("{per_device:.1} KB"), per_device, Bar::at_most(40.0, 4.0, " KB"));
    Ok(())
}

/// P16, P17: everything in one process, SQLite and the embedded broker.
pub(crate) async fn embedded(plan: &Plan, table: &mut Table) -> Result<()> {
    if !plan.wants("P16") && !plan.wants("P17") {
        return Ok(());
    }
    let directory = directory()?;
    let stack = Stack::start(directory.path(), &Shape { tuning: None, postgres: false, devices: 1000, settings: pings(4000) }).await?;
    let idle = stack.controller.rss_kib();
    raw::round_trips(stack.mqtt_port, &stack.devices, 5000).await?;
    stack.tracked_round_trips(5000).await?;
    let (mut ratios, mut rates) = (vec![], vec![]);
    for _ in 0..plan.pairs {
        let raw = raw::round_trips(stack.mqtt_port, &stack.devices, plan.tasks).await?;
        let tracked = stack.tracked_round_trips(plan.tasks).await?;
        ratios.push(100.0 * tracked / raw);
        rates.push(tracked);
    }
    let ratio = Spread::of(ratios);
    table.judged("P16", "embedded broker: tracked ÷ its own raw", format!("{ratio} %"), ratio.median, Bar::at_least(55.0, 70.0, " %"));
    table.noted("P16", "one process with 1,000 connections, before work", format!("{:.0} MB", idle as f64 / 1024.0));
    let rate = Spread::of(rates);
    table.judged(
        "P17",
        "SQLite and embedded broker: tracked per second",
        rate.to_string(),
        rate.median,
        Bar::at_least(5000.0, 10_000.0, "/s"),
    );
    stack.end().await;
    Ok(())
}
