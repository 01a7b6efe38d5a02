//! What the store costs beside the bare database: rows per second of create, claim and apply, each beside the plainest statement that
//! writes the same rows into the same table, in the same pass; and row writes per task from the server's own statistics.
//!
//! ```text
//! cargo run --release -p muster-store --example bench_store -- [--rows 100000] [--passes 5] [--batch 500] [--only postgres|sqlite] [--sql STATEMENT] [--figures yes]
//! ```
//!
//! Postgres: a database of its own on the server of `MUSTER_TEST_POSTGRES` (default `postgres://root@127.0.0.1:5432/postgres`), dropped at the
//! end. SQLite: a file in a private directory. `--sql` runs once after the schema was made, to try another index or fill factor.
//! `--figures yes` also prints what `make bench` takes into its table, as lines of JSON.

#![expect(clippy::print_stdout, reason = "the table is what this program is for")]

use std::error::Error;
use std::time::{Duration, Instant};

use muster_store::{ClaimRequest, DeviceEntry, Dialect, NewCollection, NewTask, Step, Store, StoreOptions};
use muster_wire::http::{CollectionRequest, Priority, Rollout, TargetView};
use muster_wire::presence::Presence;
use muster_wire::{CollectionId, DeviceId, Reason, TaskState};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, Row, SqliteConnection};
use time::OffsetDateTime;
use uuid::Uuid;

type Outcome<T> = Result<T, Box<dyn Error>>;

struct Settings {
    rows: usize,
    passes: usize,
    batch: usize,
    only: Option<String>,
    sql: Option<String>,
    figures: bool,
}

/// Seconds per phase of one pass.
#[derive(Default, Clone, Copy)]
struct Pass {
    bare_insert: f64,
    create: f64,
    bare_update: f64,
    claim: f64,
    apply: f64,
    claim_and_apply: f64,
    bundles: f64,
    births: f64,
    counters: f64,
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let settings = settings()?;
    if settings.only.as_deref() != Some("sqlite") {
        let server = std::env::var("MUSTER_TEST_POSTGRES").unwrap_or_else(|_| "postgres://root@127.0.0.1:5432/postgres".to_owned());
        let name = format!("muster_bench_{}", Uuid::new_v4().simple());
        let mut admin = PgConnection::connect(&server).await?;
        admin.execute(AssertSqlSafe(format!("CREATE DATABASE {name}"))).await?;
        let (stem, _) = server.rsplit_once('/').ok_or("MUSTER_TEST_POSTGRES names no database")?;
        // As the store does within one machine; both sides are to pay the same.
        let ended = postgres(&settings, &format!("{stem}/{name}?sslmode=disable")).await;
        admin.execute(AssertSqlSafe(format!("DROP DATABASE {name} WITH (FORCE)"))).await?;
        ended?;
    }
    if settings.only.as_deref() != Some("postgres") {
        let directory = tempfile::tempdir()?;
        sqlite(&settings, &format!("sqlite://{}", directory.path().join("bench.db").display())).await?;
    }
    Ok(())
}

fn settings() -> Outcome<Settings> {
    let mut settings = Settings { rows: 100_000, passes: 5, batch: 500, only: None, sql: None, figures: false };
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--rows" => settings.rows = value.parse()?,
            "--passes" => settings.passes = value.parse()?,
            "--batch" => settings.batch = value.parse()?,
            "--only" => settings.only = Some(value),
            "--sql" => settings.sql = Some(value),
            "--figures" => settings.figures = value == "yes",
            _ => return Err(format!("{flag} is not a flag of this program").into()),
        }
    }
    Ok(settings)
}

/// The plainest way to write the same rows.
enum Bare {
    Postgres(PgConnection),
    Sqlite(SqliteConnection),
}

impl Bare {
    async fn run(&mut self, sql: &str) -> Outcome<()> {
        let sql = AssertSqlSafe(sql.to_owned());
        match self {
            Self::Postgres(connection) => connection.execute(sql).await.map(|_| ())?,
            Self::Sqlite(connection) => connection.execute(sql).await.map(|_| ())?,
        }
        Ok(())
    }

    /// All rows in one transaction, 5,000 per statement.
    async fn insert(&mut self, ids: &[Uuid], devices: &[DeviceId]) -> Outcome<()> {
        self.run("BEGIN").await?;
        for (ids, devices) in ids.chunks(5_000).zip(devices.chunks(5_000)) {
            match self {
                Self::Postgres(connection) => {
                    let devices: Vec<&str> = devices.iter().map(DeviceId::as_str).collect();
                    sqlx::query("INSERT INTO task (id, device_id, state) SELECT i, d, 0 FROM UNNEST($1::uuid[], $2::text[]) v(i, d)")
                        .bind(ids)
                        .bind(&devices)
                        .execute(connection)
                        .await?;
                }
                Self::Sqlite(connection) => {
                    let mut query = sqlx::QueryBuilder::new("INSERT INTO task (id, device_id, state) ");
                    query.push_values(ids.iter().zip(devices), |mut row, (id, device)| {
                        row.push_bind(*id).push_bind(device.as_str().to_owned()).push("0");
                    });
                    query.build().execute(connection).await?;
                }
            }
        }
        self.run("COMMIT").await
    }

    /// One transaction per batch.
    async fn update(&mut self, ids: &[Uuid], batch: usize) -> Outcome<()> {
        for ids in ids.chunks(batch) {
            match self {
                Self::Postgres(connection) => {
                    sqlx::query("UPDATE task SET state = 4, finished_at = 1 FROM UNNEST($1::uuid[]) v(i) WHERE task.id = v.i")
                        .bind(ids)
                        .execute(connection)
                        .await?;
                }
                Self::Sqlite(connection) => {
                    let json = serde_json::to_string(&ids.iter().map(|id| id.simple().to_string()).collect::<Vec<_>>())?;
                    sqlx::query("UPDATE task SET state = 4, finished_at = 1 FROM (SELECT unhex(value) AS i FROM json_each(?)) v WHERE task.id = v.i")
                        .bind(json)
                        .execute(connection)
                        .await?;
                }
            }
        }
        Ok(())
    }
}

async fn postgres(settings: &Settings, url: &str) -> Outcome<()> {
    let store = open(url).await?;
    let mut bare = Bare::Postgres(PgConnection::connect(url).await?);
    if let Some(sql) = &settings.sql {
        bare.run(sql).await?;
    }
    measure("PostgreSQL", settings, &store, &mut bare).await?;
    drop(bare);
    store.close().await;
    alone(url).await?;
    let mut server = PgConnection::connect(url).await?;
    server.execute("TRUNCATE task, collection; SELECT pg_stat_reset()").await?;
    server.close().await?;
    println!("{}", row_writes(settings, url).await?);
    Ok(())
}

async fn sqlite(settings: &Settings, url: &str) -> Outcome<()> {
    let store = open(url).await?;
    let options: sqlx::sqlite::SqliteConnectOptions = url.parse()?;
    let options = options.synchronous(sqlx::sqlite::SqliteSynchronous::Full).pragma("cache_size", "-65536");
    let mut bare = Bare::Sqlite(SqliteConnection::connect_with(&options).await?);
    if let Some(sql) = &settings.sql {
        bare.run(sql).await?;
    }
    measure("SQLite", settings, &store, &mut bare).await?;
    store.close().await;
    Ok(())
}

async fn open(url: &str) -> Outcome<Store> {
    let store = Store::connect(&StoreOptions::new(url)).await?;
    store.migrate().await?;
    Ok(store)
}

fn collection(devices: &[DeviceId]) -> NewCollection {
    let now = OffsetDateTime::now_utc();
    NewCollection {
        id: CollectionId::new(),
        request: CollectionRequest::Ping {},
        target: TargetView::All,
        reason: None,
        case: None,
        created_by: "bench".to_owned(),
        origin: muster_wire::http::Origin::Manual,
        needs_consent: None,
        created_at: now,
        expires_at: now + Duration::from_secs(3600),
        attempt_timeout: Duration::from_secs(60),
        max_attempts: 3,
        in_flight: None,
        priority: Priority::Normal,
        rollout: Rollout::default(),
        retry: None,
        window: None,
        standing: false,
        steps: Vec::new(),
        step_of: None,
        when_matches: None,
        paused: None,
        idempotency: None,
        tasks: devices.iter().map(|device| NewTask { device: device.clone(), skip: None }).collect(),
    }
}

fn claim(collection: CollectionId, after: Option<muster_wire::TaskId>, batch: usize) -> ClaimRequest<'static> {
    let now = OffsetDateTime::now_utc();
    ClaimRequest {
        collection,
        after,
        limit: u32::try_from(batch).unwrap_or(u32::MAX),
        owner: "bench",
        now,
        lease_until: now + Duration::from_secs(60),
        method: "ping",
        device_until: None,
        consent: None,
    }
}

fn verified(attempt: muster_wire::AttemptId, device: DeviceId) -> Step {
    Step {
        device: Some(device),
        releases_slot: false,
        ..Step::new(attempt, TaskState::Verified, OffsetDateTime::now_utc()).because(Reason::Answered)
    }
}

async fn measure(name: &str, settings: &Settings, store: &Store, bare: &mut Bare) -> Outcome<()> {
    let devices: Vec<DeviceId> = (0..settings.rows).map(|n| format!("press-{n:07}").parse()).collect::<Result<_, _>>()?;
    let births: Vec<muster_store::Birth> = devices
        .iter()
        .take(20_000)
        .map(|device| muster_store::Birth {
            device: device.clone(),
            presence: Presence {
                online: true,
                proto: vec!["1.0".to_owned()],
                methods: vec!["ping".to_owned(), "UploadSupportBundle".to_owned(), "GetTaskStatus".to_owned()],
                ..Presence::will()
            },
            at: OffsetDateTime::now_utc(),
            retained: false,
        })
        .collect();
    let entries: Vec<_> = devices.iter().map(|device| DeviceEntry { device: device.clone(), tags: None, parent: None }).collect();
    store.enter_devices(&entries, "bench", OffsetDateTime::now_utc()).await?;
    // Unmeasured: plans, caches, and the files' first growth.
    Box::pin(pass(settings, store, bare, &devices, &births)).await?;
    let mut passes = Vec::new();
    for _ in 0..settings.passes {
        passes.push(Box::pin(pass(settings, store, bare, &devices, &births)).await?);
    }
    let median = |part: &dyn Fn(&Pass) -> f64| {
        let mut values: Vec<f64> = passes.iter().map(part).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let rows = settings.rows as f64;
    let rate = |part: &dyn Fn(&Pass) -> f64| rows / median(part);
    println!("{name}: {} rows, batches of {}, median of {} passes", settings.rows, settings.batch, settings.passes);
    println!("  {:<34} {:>10}/s", "bare insert, 5,000 a statement", rate(&|p| p.bare_insert).round());
    println!(
        "  {:<34} {:>10}/s   {:>4.0} % of bare insert (P7)",
        "create_collection",
        rate(&|p| p.create).round(),
        100.0 * median(&|p| p.bare_insert / p.create)
    );
    if settings.figures {
        let share = 100.0 * median(&|p| p.bare_insert / p.create);
        let measured = format!("{share:.0} % ({:.0}/s of {:.0}/s)", rate(&|p| p.create), rate(&|p| p.bare_insert));
        println!("{}", serde_json::json!({ "figure": "create", "value": share, "measured": measured }));
    }
    println!("  {:<34} {:>10}/s", "bare update by key", rate(&|p| p.bare_update).round());
    println!(
        "  {:<34} {:>10}/s   {:>4.0} % of bare update",
        "claim",
        rate(&|p| p.claim).round(),
        100.0 * median(&|p| p.bare_update / p.claim)
    );
    println!(
        "  {:<34} {:>10}/s   {:>4.0} % of bare update",
        "apply, one step a task",
        rate(&|p| p.apply).round(),
        100.0 * median(&|p| p.bare_update / p.apply)
    );
    println!(
        "  {:<34} {:>10}/s   tracked tasks, database only (P17)",
        "create + claim + apply",
        rate(&|p| p.create + p.claim + p.apply).round()
    );
    println!("  {:<34} {:>10}/s   at the same time", "claim and apply", rate(&|p| p.claim_and_apply).round());
    println!(
        "  {:<34} {:>10}/s   one at a time per device, three steps in two batches",
        "bundles: claim + apply",
        rate(&|p| p.bundles).round()
    );
    println!("  {:<34} {:>10}/s", "births again", (births.len() as f64 / median(&|p| p.births)).round());
    println!("  {:<34} {:>10.1} ms", "counters of the collection", 1000.0 * median(&|p| p.counters));
    Ok(())
}

async fn pass(settings: &Settings, store: &Store, bare: &mut Bare, devices: &[DeviceId], births: &[muster_store::Birth]) -> Outcome<Pass> {
    let mut pass = Pass::default();
    empty(store, bare).await?;
    let id = CollectionId::new();
    let ids: Vec<Uuid> = (0..u32::try_from(devices.len())?).map(|n| id.task(n).uuid()).collect();
    pass.bare_insert = timed(bare.insert(&ids, devices)).await?;
    pass.bare_update = timed(bare.update(&ids, settings.batch)).await?;
    empty(store, bare).await?;

    let new = collection(devices);
    pass.create = timed(async { Ok(store.create_collection(&new).await.map(|_| ())?) }).await?;
    let mut claimed = Vec::with_capacity(devices.len());
    pass.claim = timed(async {
        let mut after = None;
        loop {
            let batch = store.claim(&claim(new.id, after, settings.batch)).await?;
            claimed.extend(batch.tasks);
            after = batch.scanned_to;
            if after.is_none() {
                return Ok(());
            }
        }
    })
    .await?;
    let steps: Vec<Step> = claimed.into_iter().map(|task| verified(task.attempt, task.device)).collect();
    pass.apply = timed(async {
        for steps in steps.chunks(settings.batch) {
            store.apply(steps).await?;
        }
        Ok(())
    })
    .await?;
    pass.counters = timed(async { Ok(store.counters(new.id).await.map(|_| ())?) }).await?;
    pass.births = timed(async { Ok(store.record_births(births).await?) }).await?;

    let both = collection(devices);
    store.create_collection(&both).await?;
    pass.claim_and_apply = timed(claim_and_apply(store, both.id, settings.batch)).await?;

    let bundles = collection(devices);
    store.create_collection(&bundles).await?;
    pass.bundles = timed(async {
        let mut after = None;
        loop {
            let request = claim(bundles.id, after, settings.batch);
            let batch = store.claim(&ClaimRequest { device_until: Some(request.lease_until), ..request }).await?;
            let accepted: Vec<Step> = batch
                .tasks
                .iter()
                .map(|task| Step {
                    correlation_id: Some("0123456789abcdef".to_owned()),
                    ..Step::new(task.attempt, TaskState::Accepted, OffsetDateTime::now_utc())
                })
                .collect();
            store.apply(&accepted).await?;
            let done: Vec<Step> = batch
                .tasks
                .into_iter()
                .flat_map(|task| {
                    [
                        Step::new(task.attempt, TaskState::Uploaded, OffsetDateTime::now_utc()),
                        Step { releases_slot: true, ..verified(task.attempt, task.device) },
                    ]
                })
                .collect();
            store.apply(&done).await?;
            after = batch.scanned_to;
            if after.is_none() {
                return Ok(());
            }
        }
    })
    .await?;
    Ok(pass)
}

/// One claims, the other applies what was claimed: as a controller does.
async fn claim_and_apply(store: &Store, collection: CollectionId, batch: usize) -> Outcome<()> {
    let (sender, mut receiver) = tokio::sync::mpsc::channel::<Vec<Step>>(4);
    let applier = store.clone();
    let applying = tokio::spawn(async move {
        while let Some(steps) = receiver.recv().await {
            applier.apply(&steps).await?;
        }
        Ok::<(), muster_store::StoreError>(())
    });
    let mut after = None;
    loop {
        let claimed = store.claim(&claim(collection, after, batch)).await?;
        sender.send(claimed.tasks.into_iter().map(|task| verified(task.attempt, task.device)).collect()).await?;
        after = claimed.scanned_to;
        if after.is_none() {
            break;
        }
    }
    drop(sender);
    applying.await??;
    Ok(())
}

async fn empty(store: &Store, bare: &mut Bare) -> Outcome<()> {
    match store.dialect() {
        Dialect::Postgres => bare.run("TRUNCATE task, collection, collection_event, device_slot; CHECKPOINT").await,
        Dialect::Sqlite => bare.run("DELETE FROM task; DELETE FROM collection; DELETE FROM collection_event; DELETE FROM device_slot; PRAGMA wal_checkpoint(TRUNCATE)").await,
    }
}

async fn timed(work: impl Future<Output = Outcome<()>>) -> Outcome<f64> {
    let started = Instant::now();
    work.await?;
    Ok(started.elapsed().as_secs_f64())
}

/// A connection, once it is the only one: those that have ended have handed in their statistics.
async fn alone(url: &str) -> Outcome<PgConnection> {
    let mut connection = PgConnection::connect(url).await?;
    let deadline = Instant::now() + Duration::from_secs(30);
    let others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'";
    while connection.fetch_one(others).await?.get::<i64, _>(0) > 0 {
        if Instant::now() > deadline {
            return Err("other connections to the bench's database do not end".into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(connection)
}

/// Rows written per completed task, as the server counted them (P8).
async fn row_writes(settings: &Settings, url: &str) -> Outcome<String> {
    let store = open(url).await?;
    let devices: Vec<DeviceId> = (0..settings.rows).map(|n| format!("press-{n:07}").parse()).collect::<Result<_, _>>()?;
    let new = collection(&devices);
    store.create_collection(&new).await?;
    claim_and_apply(&store, new.id, settings.batch).await?;
    store.close().await;
    let row =
        alone(url).await?.fetch_one("SELECT n_tup_ins, n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'task'").await?;
    let (inserted, updated, hot): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
    let rows = settings.rows as f64;
    Ok(format!(
        "  row writes per task: {:.2} inserts + {:.2} updates, {:.0} % of them within their page (P8)",
        inserted as f64 / rows,
        updated as f64 / rows,
        100.0 * hot as f64 / updated as f64
    ))
}
