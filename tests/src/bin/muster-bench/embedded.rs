//! P16, P17: everything in one process, SQLite and the embedded broker.

use anyhow::Result;
use muster_tests::program::Program;

use crate::Plan;
use crate::raw;
use crate::rows::{directory, pings};
use crate::table::{Bar, Spread, Table};
use crate::tracked::{CONTROLLER_LOGIN, Shape, Stack, fleet};

/// Connections added to those that are there, so that the memory of one can be told from that of the process.
const MORE_CONNECTIONS: usize = 5000;
/// Runs that must all come to their end. The ratio takes some; the rest are short.
const RUNS: usize = 20;
const SHORT_RUN: usize = 5000;

/// Both rows.
pub(crate) async fn embedded(plan: &Plan, table: &mut Table) -> Result<()> {
    if !plan.wants("P16") && !plan.wants("P17") {
        return Ok(());
    }
    let directory = directory()?;
    let (_, password) = CONTROLLER_LOGIN;
    let mut shape = Shape { tuning: None, postgres: false, devices: 1000, settings: pings(4000) };
    shape.settings.push(("mqtt.password", password.to_owned()));
    let stack = Stack::start(directory.path(), &shape).await?;
    let idle = stack.controller.rss_kib();
    table.noted("P16", "one process with 1,000 connections, before work", format!("{:.0} MB", idle as f64 / 1024.0));
    raw::round_trips(stack.mqtt_port, Some(CONTROLLER_LOGIN), &stack.devices, SHORT_RUN).await?;
    stack.tracked_round_trips(SHORT_RUN).await?;
    let (mut raws, mut ratios, mut rates, mut stalls) = (vec![], vec![], vec![], vec![]);
    for run in 0..RUNS.max(plan.pairs) {
        let pair = run < plan.pairs;
        let raw = match pair {
            true => Some(raw::round_trips(stack.mqtt_port, Some(CONTROLLER_LOGIN), &stack.devices, plan.tasks).await?),
            false => None,
        };
        // The rest only has to end: without the raw row nobody would wait for it.
        if !pair && !plan.wants("P16") {
            break;
        }
        match (stack.tracked_round_trips(if pair { plan.tasks } else { SHORT_RUN }).await, raw) {
            (Ok(tracked), Some(raw)) => {
                eprintln!("embedded pair {}: raw {raw:.0}/s, tracked {tracked:.0}/s", run + 1);
                raws.push(raw);
                ratios.push(100.0 * tracked / raw);
                rates.push(tracked);
            }
            (Ok(_), None) => {}
            (Err(error), _) => {
                eprintln!("embedded run {}: {error:#}", run + 1);
                stalls.push(error);
            }
        }
    }
    if plan.wants("P16") {
        let ratio = Spread::of(ratios);
        table.judged("P16", "embedded broker: tracked ÷ its own raw", format!("{ratio} %"), ratio.median, Bar::at_least(55.0, 70.0, " %"));
        table.distance("one process does the work of broker, controller and database; raw, its broker has the cores to itself");
        table.noted("P16", "its raw round trips per second", Spread::of(raws).to_string());
        let (runs, stalls) = (RUNS.max(plan.pairs), stalls.len());
        let what = format!("stalls in {runs} runs, acknowledged by hand");
        table.judged("P16", &what, stalls.to_string(), stalls as f64, Bar::at_most(0.0, 0.0, ""));
        memory_per_connection(&stack, directory.path(), table).await?;
    }
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

/// What the process grows by with each connection, everything it keeps for a device included.
async fn memory_per_connection(stack: &Stack, directory: &std::path::Path, table: &mut Table) -> Result<()> {
    let before = stack.controller.rss_kib();
    let mut command = fleet("more", MORE_CONNECTIONS, &format!("mqtt://127.0.0.1:{}", stack.mqtt_port));
    let _more = Program::start("muster-agent-more", directory, &mut command);
    stack.api.devices_online(stack.devices.len() + MORE_CONNECTIONS, std::time::Duration::from_secs(120)).await;
    let grown = stack.controller.rss_kib().saturating_sub(before) as f64 / MORE_CONNECTIONS as f64;
    table.judged("P16", "memory per connection, broker and registry", format!("{grown:.1} KB"), grown, Bar::at_most(25.0, 25.0, " KB"));
    table.distance("the broker library's: a read and a write buffer of 4 KB, two delivery queues of 32 places made in advance, its task; then session and retained birth");
    Ok(())
}
