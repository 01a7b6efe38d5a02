//! A whole Muster for one measurement, as processes, so that each one's CPU and memory can be read.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use muster_tests::api::{Api, collection};
use muster_tests::broker::{Mosquitto, Tuning};
use muster_tests::postgres::Database;
use muster_tests::program::{Program, built, cpu_seconds};
use muster_tests::{free_port, wait};
use muster_wire::http::{CollectionRequest, CollectionState, Target};
use sqlx::Row;

/// How the raw caller comes in at the embedded broker: as the controller does.
pub(crate) const CONTROLLER_LOGIN: (&str, &str) = ("muster-controller", "the bench looks on");
/// So long without a single completed task is a stall.
const STALL: Duration = Duration::from_secs(20);

/// Simulated devices of this name.
pub(crate) fn fleet(name: &str, devices: usize, url: &str) -> Command {
    let mut command = Command::new(built("muster-agent"));
    command.args(["fleet", "--devices", &devices.to_string(), "--name", name, "--mqtt", url]);
    command
}

/// Broker, database, controller and fleet.
pub(crate) struct Stack {
    pub(crate) broker: Option<Mosquitto>,
    pub(crate) database: Option<Database>,
    pub(crate) controller: Program,
    pub(crate) fleet: Program,
    pub(crate) api: Api,
    pub(crate) mqtt_port: u16,
    pub(crate) devices: Vec<String>,
}

/// How a stack is made.
pub(crate) struct Shape {
    pub(crate) tuning: Option<Tuning>,
    pub(crate) postgres: bool,
    pub(crate) devices: usize,
    pub(crate) settings: Vec<(&'static str, String)>,
}

impl Stack {
    pub(crate) async fn start(directory: &Path, shape: &Shape) -> Result<Self> {
        let broker = match shape.tuning {
            Some(tuning) => Some(Mosquitto::start(directory, tuning).await),
            None => None,
        };
        let database = if shape.postgres { Some(Database::create().await) } else { None };
        let (http, embedded) = (free_port(), free_port());
        let mqtt_port = broker.as_ref().map_or(embedded, |broker| broker.port);
        let mut command = Command::new(built("muster"));
        command.arg("serve").current_dir(directory);
        let mut set = |key: &str, value: &str| {
            command.arg("--set").arg(format!("{key}={value}"));
        };
        set("server.listen", &format!("127.0.0.1:{http}"));
        set("server.data_dir", &directory.join("data").display().to_string());
        set("mqtt.embedded_listen", &format!("127.0.0.1:{embedded}"));
        if let Some(broker) = &broker {
            set("mqtt.url", &broker.url());
        }
        if let Some(database) = &database {
            set("database.url", &database.url);
        }
        for (key, value) in &shape.settings {
            set(key, value);
        }
        let controller = Program::start("muster", directory, &mut command);
        let api = Api::new(format!("http://127.0.0.1:{http}"));
        wait::for_port(http, Duration::from_secs(30), || controller.tail()).await;
        wait::for_port(mqtt_port, Duration::from_secs(30), || controller.tail()).await;
        let mut command = fleet("bench", shape.devices, &format!("mqtt://127.0.0.1:{mqtt_port}"));
        let fleet = Program::start("muster-agent", directory, &mut command);
        api.devices_online(shape.devices, Duration::from_secs(60)).await;
        let page: serde_json::Value = api.get("/api/v1/devices?limit=1").await.map_err(anyhow::Error::msg)?;
        let first = page["items"][0]["id"].as_str().context("a device")?;
        let width = first.rsplit('-').next().map_or(4, str::len);
        let devices = (1..=shape.devices).map(|n| format!("bench-{n:0width$}")).collect();
        Ok(Self { broker, database, controller, fleet, api, mqtt_port, devices })
    }

    /// Pings every device as often as it takes to make `count` tasks; returns tasks per second from the first request to the last
    /// completed row, as the controller's own count of committed moves says, and checks each collection afterwards.
    pub(crate) async fn tracked_round_trips(&self, count: usize) -> Result<f64> {
        let rounds = count.div_ceil(self.devices.len());
        let before = self.applied().await?;
        let wanted = before + (rounds * self.devices.len()) as u64;
        let began = Instant::now();
        let mut ids = Vec::new();
        for _ in 0..rounds {
            ids.push(self.api.create(&collection(CollectionRequest::Ping {}, Target::All {}, 600, 1)).await.id);
        }
        let (mut last, mut moved) = (before, Instant::now());
        while last < wanted {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let applied = self.applied().await?;
            if applied > last {
                (last, moved) = (applied, Instant::now());
            }
            ensure!(moved.elapsed() < STALL, "a stall: nothing was completed for {STALL:?} after {} of {count}", last - before);
        }
        let rate = (rounds * self.devices.len()) as f64 / began.elapsed().as_secs_f64();
        for id in ids {
            let view = self.api.finished(id, Duration::from_secs(60)).await;
            ensure!(view.counters.verified == self.devices.len() as u64 && view.state == CollectionState::Finished, "{:?}", view.counters);
        }
        Ok(rate)
    }

    pub(crate) async fn applied(&self) -> Result<u64> {
        let status: serde_json::Value = self.api.get("/api/v1/status").await.map_err(anyhow::Error::msg)?;
        status.pointer("/dispatch/loops/applied").and_then(serde_json::Value::as_u64).context("the status page counts applied moves")
    }

    /// CPU seconds so far: broker, devices, controller, database.
    pub(crate) fn cpu(&self) -> Cpu {
        let database = self.database.as_ref().map_or(0.0, |database| postgres_cpu(&database.url));
        Cpu {
            broker: self.broker.as_ref().map_or(0.0, |b| b.program.cpu_seconds()),
            devices: self.fleet.cpu_seconds(),
            controller: self.controller.cpu_seconds(),
            database,
        }
    }

    /// (inserted, updated, committed) in our database so far.
    pub(crate) async fn writes(&self) -> Result<Writes> {
        let database = self.database.as_ref().context("a Postgres stack")?;
        let mut connection = database.connect().await;
        // Backends report their counts when idle, at least once a second.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        sqlx::query("SELECT pg_stat_clear_snapshot()").execute(&mut connection).await?;
        let row = sqlx::query(
            "SELECT (SELECT sum(n_tup_ins)::bigint FROM pg_stat_user_tables) AS inserted, (SELECT sum(n_tup_upd + n_tup_del)::bigint FROM pg_stat_user_tables) AS updated, \
             (SELECT xact_commit::bigint FROM pg_stat_database WHERE datname = current_database()) AS committed",
        )
        .fetch_one(&mut connection)
        .await?;
        Ok(Writes {
            inserted: row.try_get::<i64, _>("inserted")? as f64,
            updated: row.try_get::<i64, _>("updated")? as f64,
            committed: row.try_get::<i64, _>("committed")? as f64,
        })
    }

    /// How long a commit of one small row takes here, in milliseconds, each on an idle server.
    pub(crate) async fn bare_commits(&self, count: usize, idle: Duration) -> Result<Vec<f64>> {
        let database = self.database.as_ref().context("a Postgres stack")?;
        let mut connection = database.connect().await;
        sqlx::query("CREATE TABLE bench_commit (n int)").execute(&mut connection).await?;
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            let began = Instant::now();
            sqlx::query("INSERT INTO bench_commit VALUES (1)").execute(&mut connection).await?;
            times.push(began.elapsed().as_secs_f64() * 1e3);
            tokio::time::sleep(idle).await;
        }
        sqlx::query("DROP TABLE bench_commit").execute(&mut connection).await?;
        Ok(times)
    }

    pub(crate) async fn end(self) {
        drop(self.fleet);
        drop(self.controller);
        if let Some(database) = self.database {
            database.drop_now().await;
        }
    }
}

/// CPU seconds of each part.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cpu {
    pub(crate) broker: f64,
    pub(crate) devices: f64,
    pub(crate) controller: f64,
    pub(crate) database: f64,
}

impl Cpu {
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            broker: self.broker - before.broker,
            devices: self.devices - before.devices,
            controller: self.controller - before.controller,
            database: self.database - before.database,
        }
    }

    pub(crate) fn total(self) -> f64 {
        self.broker + self.devices + self.controller + self.database
    }
}

/// Row writes and commits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Writes {
    pub(crate) inserted: f64,
    pub(crate) updated: f64,
    pub(crate) committed: f64,
}

/// PostgreSQL's processes that serve our database, and those that write for all. What others do in the server at the same time is theirs, and their
/// processes would take their CPU time with them when they end.
fn postgres_cpu(url: &str) -> f64 {
    let database = url.rsplit('/').next().unwrap_or_default();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_ours = |pid: &u32| {
        let title = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        title.starts_with("postgres: ")
            && (title.contains(database) || ["walwriter", "checkpointer", "background writer"].iter().any(|writer| title.contains(writer)))
    };
    pids.filter(is_ours).map(cpu_seconds).sum()
}
