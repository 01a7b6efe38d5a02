//! Alerts in numbers: a stream with repetitions beside the bare queue, crashes between commit and acknowledgement, a RabbitMQ that is away,
//! a storm, and poison among good ones. Each part has a stack of its own.

mod kills;
mod outage;
mod poison;
mod storm;
mod stream;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use muster_agent::trace::{Happened, Line};
use muster_tests::broker::{Mosquitto, Tuning};
use muster_tests::controllers::Controllers;
use muster_tests::postgres::Database;
use muster_tests::rabbit::Rabbit;
use muster_wire::http::AlertCounts;
use serde_json::{Value, json};
use sqlx::PgConnection;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::edges::Edges;
use crate::fleet::{self, Fleets, Group};
use crate::{Findings, Plan};

pub(crate) const QUEUE: &str = "muster.alerts";
pub(crate) const DEAD: &str = "muster.alerts.dead";
/// What is collected for an indicator of ours: little, so that the alerts are what is measured.
const LINES: usize = 20;
/// As large as the settings have it.
const PREFETCH: u16 = 1000;
/// Nothing here is bounded by a budget, and nothing but the storm is a storm.
const NO_BOUNDS: [(&str, &str); 3] =
    [("intake.per_day", "1000000"), ("intake.per_tenant_per_day", "1000000"), ("intake.storm_devices", "10000")];
const PATIENCE: Duration = Duration::from_secs(600);

pub(crate) async fn run(plan: &Plan, directory: &Path) -> Result<Findings> {
    let mut findings = Findings::default();
    for part in ["stream", "kills", "outage", "storm", "poison"] {
        if plan.run != "alerts" && plan.run != format!("alerts-{part}") {
            continue;
        }
        eprintln!("alerts: {part}");
        let own = directory.join(part);
        std::fs::create_dir(&own)?;
        match part {
            "stream" => stream::run(plan, &own, &mut findings).await,
            "kills" => kills::run(plan, &own, &mut findings).await,
            "outage" => outage::run(plan, &own, &mut findings).await,
            "storm" => storm::run(plan, &own, &mut findings).await,
            _ => poison::run(plan, &own, &mut findings).await,
        }
        .with_context(|| format!("alerts: {part}"))?;
    }
    Ok(findings)
}

/// Everything of one part. Dropped in this order.
struct Stack {
    controllers: Controllers,
    fleet: Fleets,
    _edges: Edges,
    _broker: Mosquitto,
    database: Database,
    /// Ids of the devices, one a line.
    list: PathBuf,
}

impl Stack {
    /// A controller that reads from `amqp`, and devices that are online and whose owners agreed.
    async fn start(plan: &Plan, directory: &Path, amqp: &str, more: &[(&str, &str)]) -> Result<Self> {
        let broker = Mosquitto::start(directory, Tuning::Shipped).await;
        let mut edges = Edges::start(directory, broker.port, plan.devices, plan.edges).await;
        let database = Database::create().await;
        let prefetch = PREFETCH.to_string();
        let settings: Vec<_> =
            [("telemetry.log", "warn"), ("amqp.url", amqp), ("amqp.prefetch", &prefetch)].into_iter().chain(more.iter().copied()).collect();
        let controllers = Controllers::start(1, directory, &broker.url(), &database.url, &settings).await;
        let group = Group { name: "soak", devices: plan.devices, bundle_kb: plan.bundle_kb, faults: &[], consent: true, slow_ms: 0 };
        let fleet = Fleets::start(directory, &mut edges, &group).await;
        fleet::until(controllers.api(0), "online", plan.devices, PATIENCE).await;
        let list = directory.join("devices");
        std::fs::write(&list, fleet.devices.iter().map(|id| format!("{id}\n")).collect::<String>())?;
        Ok(Self { controllers, fleet, _edges: edges, _broker: broker, database, list })
    }

    /// An indicator that nobody has raised yet.
    async fn indicator(&self, name: &str) -> Result<()> {
        let new = json!({
            "name": name,
            "description": "Raised by a soak.",
            "collect": {"kind": "upload_logs", "items": [{"id": "edgeAgent", "filter": {"tail": LINES}}]},
            "lookback_seconds": 3600,
            "cooldown_seconds": 3600,
        });
        let (status, text) = self.controllers.api(0).post_text("/api/v1/indicators", new.to_string()).await;
        ensure!(status == 201, "the indicator {name}: {status} {text}");
        Ok(())
    }

    async fn counts(&self) -> Result<AlertCounts> {
        let since = (OffsetDateTime::now_utc() - Duration::from_secs(24 * 3600)).format(&Rfc3339)?;
        self.controllers.api(0).get(&format!("/api/v1/alerts/counts?since={since}")).await.map_err(anyhow::Error::msg)
    }

    /// Waits until so many alerts are written down; how long after `began`.
    async fn recorded(&self, connection: &mut PgConnection, wanted: u64, began: Instant) -> Result<Duration> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let seen = written(connection).await?;
            if seen >= wanted {
                return Ok(began.elapsed());
            }
            ensure!(Instant::now() < deadline, "waited {PATIENCE:?} for {wanted} alerts to be written down; last seen: {seen}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until so many repetitions are known.
    async fn repeated(&self, wanted: u64) -> Result<u64> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let seen = self.counts().await?.duplicates;
            if seen >= wanted {
                return Ok(seen);
            }
            ensure!(Instant::now() < deadline, "waited {PATIENCE:?} for {wanted} repetitions to be known; last seen: {seen}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// When a request first came to each device, in Unix milliseconds, of those that came later than this.
    fn asked_since(&self, since_ms: i64) -> HashMap<String, i64> {
        let mut asked = HashMap::new();
        for file in &self.fleet.traces {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            let lines = text.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok());
            for line in lines.filter(|line| line.what == Happened::Arrived && line.at_ms >= since_ms) {
                let first = asked.entry(line.device.to_string()).or_insert(line.at_ms);
                *first = line.at_ms.min(*first);
            }
        }
        asked
    }

    async fn end(self) {
        drop((self.controllers, self.fleet));
        self.database.drop_now().await;
    }
}

/// Alerts that are written down.
async fn written(connection: &mut PgConnection) -> Result<u64> {
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM alert").fetch_one(connection).await?;
    Ok(u64::try_from(count)?)
}

/// Collections that alerts made, and how many pairs of device and what was asked they are for: the same number, or one was made twice.
async fn made(connection: &mut PgConnection) -> Result<(u64, u64)> {
    let sql = "SELECT count(*), count(DISTINCT (t.device_id, c.reason)) FROM collection c JOIN task t ON t.id = c.id WHERE c.created_by = 'alerts'";
    let (all, distinct): (i64, i64) = sqlx::query_as(sql).fetch_one(connection).await?;
    Ok((u64::try_from(all)?, u64::try_from(distinct)?))
}

/// What pika said it had sent.
fn number(summary: &Value, name: &str) -> Result<u64> {
    summary[name].as_u64().with_context(|| format!("the publisher says no {name}: {summary}"))
}

/// Publishes with pika away from the runtime, which has a controller to watch.
async fn pika(rabbit: &Rabbit, arguments: Vec<String>, lines: String) -> Value {
    tokio::task::block_in_place(|| {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        rabbit.pika(QUEUE, &arguments, &lines)
    })
}

fn words(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn unix_ms() -> i64 {
    i64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX)
}

/// Milliseconds from what pika wrote into its log to the first request at the device, sorted; and devices that heard nothing.
fn to_request(log: &Path, asked: &HashMap<String, i64>) -> Result<(Vec<f64>, usize)> {
    let (mut times, mut unheard) = (Vec::new(), 0);
    for line in std::fs::read_to_string(log)?.lines() {
        let mut words = line.split(' ');
        let (Some(device), Some(_), Some(Ok(nanoseconds))) = (words.next(), words.next(), words.next().map(str::parse::<i64>)) else {
            continue;
        };
        match asked.get(device) {
            Some(at) => times.push(*at as f64 - nanoseconds as f64 / 1e6),
            None => unheard += 1,
        }
    }
    times.sort_by(f64::total_cmp);
    Ok((times, unheard))
}
