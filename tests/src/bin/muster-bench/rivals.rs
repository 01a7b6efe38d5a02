//! P5: what one would write instead, in Python, doing the same tasks on the same broker, database and devices in turn with ours.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use muster_tests::broker::Tuning;
use muster_tests::postgres::Database;
use serde::Deserialize;

use crate::Plan;
use crate::rows::{directory, pings};
use crate::table::{Bar, Spread, Table};
use crate::tracked::{Shape, Stack};

/// Tasks of one run of each.
const TASKS: usize = 5000;
/// A rival that takes longer than this is stuck.
const PATIENCE: Duration = Duration::from_secs(300);
const AMQP: &str = "127.0.0.1:5672";

struct Rival {
    script: &'static str,
    what: &'static str,
    bar: Bar,
    needs_amqp: bool,
}

fn rivals() -> [Rival; 3] {
    let rival = |script, what, goal, moonshot, needs_amqp| Rival { script, what, bar: Bar::at_least(goal, moonshot, " ×"), needs_amqp };
    [
        rival("threads.py", "÷ Python, 16 threads, paho and a pool", 5.0, 6.0, false),
        rival("aio.py", "÷ Python, asyncio, aiomqtt and a pool", 6.0, 8.0, false),
        rival("queue_tasks.py", "÷ celery and RabbitMQ with rows", 20.0, 40.0, true),
    ]
}

/// The last line of a rival.
#[derive(Deserialize)]
struct Done {
    tasks: usize,
    seconds: f64,
}

/// All of P5.
pub(crate) async fn rivals_beside(plan: &Plan, table: &mut Table) -> Result<()> {
    if !plan.wants("P5") {
        return Ok(());
    }
    let scripts = muster_tests::root().join("scripts/rivals");
    let Some(python) = std::env::var_os("MUSTER_BENCH_PYTHON").map(PathBuf::from).filter(|path| path.is_file()) else {
        table.noted("P5", "beside Python", "not run: MUSTER_BENCH_PYTHON names no Python; scripts/bench.sh installs one".to_owned());
        return Ok(());
    };
    let directory = directory()?;
    let shape = Shape { tuning: Some(Tuning::Shipped), postgres: true, devices: 1000, settings: pings(4000) };
    let stack = Stack::start(directory.path(), &shape).await?;
    stack.tracked_round_trips(TASKS).await?;
    let database = Database::create().await;
    let has_amqp = tokio::net::TcpStream::connect(AMQP).await.is_ok();
    let mut rows: Vec<(Rival, Vec<f64>, Vec<f64>)> = Vec::new();
    for rival in rivals() {
        if rival.needs_amqp && !has_amqp {
            table.noted("P5", rival.what, format!("not run: no RabbitMQ answers at {AMQP}"));
        } else {
            rows.push((rival, Vec::new(), Vec::new()));
        }
    }
    let mut own = Vec::new();
    for round in 0..plan.pairs {
        // Ours before each of them, so that each ratio is of two runs that stood side by side.
        for (rival, rates, ratios) in &mut rows {
            let ours = stack.tracked_round_trips(TASKS).await?;
            let theirs = run(&python, &scripts, rival.script, &stack, &database).await?;
            eprintln!("round {}: ours {ours:.0}/s, {} {theirs:.0}/s", round + 1, rival.script);
            own.push(ours);
            rates.push(theirs);
            ratios.push(ours / theirs);
        }
    }
    table.noted("P5", "tracked per second, tasks of 5,000", Spread::of(own).to_string());
    for (rival, rates, ratios) in rows {
        let ratio = Spread::of(ratios);
        let measured = format!("{ratio} × ({}/s)", Spread::of(rates));
        table.judged("P5", rival.what, measured, ratio.median, rival.bar);
    }
    database.drop_now().await;
    stack.end().await;
    Ok(())
}

/// Tasks per second of one run.
async fn run(python: &Path, scripts: &Path, script: &str, stack: &Stack, database: &Database) -> Result<f64> {
    let mut command = tokio::process::Command::new(python);
    command
        .arg(scripts.join(script))
        .current_dir(scripts)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    command.args(["--mqtt-port", &stack.mqtt_port.to_string(), "--database", &database.url, "--tasks", &TASKS.to_string()]);
    for device in &stack.devices {
        command.args(["--device", device]);
    }
    let output =
        tokio::time::timeout(PATIENCE, command.output()).await.with_context(|| format!("{script} took longer than {PATIENCE:?}"))??;
    ensure!(output.status.success(), "{script} ended with {}", output.status);
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().with_context(|| format!("{script} said nothing"))?;
    let done: Done = serde_json::from_str(last).with_context(|| format!("{script} ended with {last:?}"))?;
    Ok(done.tasks as f64 / done.seconds)
}
