//! Tens of thousands of collections of one device each, as alerts make them: all at once, and a stream beside as many that wait for devices
//! that are away. Beside both, one request at a time that somebody waits for.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use muster_tests::api::{Api, collection};
use muster_tests::broker::{Mosquitto, Tuning};
use muster_tests::controllers::Controllers;
use muster_tests::postgres::Database;
use muster_wire::http::{CollectionRequest, Priority, Target, TargetView};
use muster_wire::{CollectionId, DeviceId};
use sqlx::PgConnection;
use time::OffsetDateTime;

use crate::edges::Edges;
use crate::fleet::{self, Fleets, Group};
use crate::priority::{at, measure};
use crate::{Findings, Plan};

/// Requests of the stream on their way at the same time.
const POSTING: usize = 24;
/// Devices that are asked one at a time.
const SINGLES: usize = 20;
/// What a device is in the registry when its will has said that it is away.
const OFFLINE: i16 = 2;
/// Least collections a second, and longest time of a request that somebody waits for.
const RATE: f64 = 3000.0;
const LONE_MS: f64 = 1000.0;

pub(crate) async fn run(plan: &Plan, directory: &Path) -> Result<Findings> {
    let broker = Mosquitto::start(directory, Tuning::Shipped).await;
    let mut edges = Edges::start(directory, broker.port, plan.devices, plan.edges).await;
    let database = Database::create().await;
    let controllers = Controllers::start(1, directory, &broker.url(), &database.url, &[("telemetry.log", "warn")]).await;
    let api = controllers.api(0);
    let group = |name, devices| Group { name, devices, bundle_kb: plan.bundle_kb, faults: &[], consent: false, slow_ms: 0 };
    let many = Fleets::start(directory, &mut edges, &group("many", plan.devices)).await;
    let single = Fleets::start(directory, &mut edges, &group("single", SINGLES)).await;
    fleet::until(api, "online", plan.devices + SINGLES, Duration::from_secs(600)).await;
    let mut connection = database.connect().await;
    let mut findings = Findings::default();
    findings.note("devices", plan.devices);
    findings.note("collections of one device", plan.collections);
    let idle = measure(api, &single.devices, plan.requests.min(100), Priority::High).await?;
    note(&mut findings, "idle: a lone request", idle);

    // All at once.
    let cpu = controllers.cpu_seconds(0);
    let began = Instant::now();
    insert(&mut connection, plan.collections, |n| many.devices[n % many.devices.len()].to_string()).await?;
    findings.note("made in", format!("{:.1} s", began.elapsed().as_secs_f64()));
    let (drained, lone) = tokio::join!(drained(&mut connection, began), measure(api, &single.devices, plan.requests, Priority::High));
    let took = drained?;
    let (rate, times) = dispatched(&mut connection).await?;
    findings.check("all at once: sent a second", format!("{rate:.0}"), format!("at least {RATE:.0}"), rate >= RATE);
    note(&mut findings, "all at once: made to sent", times);
    findings.note("all at once: closed after", format!("{:.1} s", took.as_secs_f64()));
    findings.note("all at once: CPU of the controller", format!("{:.1} s", controllers.cpu_seconds(0) - cpu));
    findings.note("peak memory of the controller", format!("{} MiB", controllers.peak_rss_kib(0) / 1024));
    lone_is_quick(&mut findings, "beside all at once: a lone request", lone?);

    // As many that wait, and a stream.
    sqlx::query("INSERT INTO device (id, presence, first_seen) SELECT 'away-' || n, $1, 0 FROM generate_series(0, $2) n")
        .bind(OFFLINE)
        .bind(i64::try_from(plan.devices)?)
        .execute(&mut connection)
        .await?;
    sqlx::query("UPDATE task SET dispatched_at = NULL").execute(&mut connection).await?;
    insert(&mut connection, plan.collections, |n| format!("away-{}", n % plan.devices)).await?;
    // Until they have been read and walked over.
    tokio::time::sleep(Duration::from_secs(15)).await;
    let cpu = controllers.cpu_seconds(0);
    tokio::time::sleep(Duration::from_secs(10)).await;
    findings.note("many wait: CPU of the controller", format!("{:.0} %", (controllers.cpu_seconds(0) - cpu) * 10.0));
    let cpu = controllers.cpu_seconds(0);
    let began = Instant::now();
    let (made, lone) = tokio::join!(stream(api, &many.devices, plan), measure(api, &single.devices, plan.requests, Priority::High));
    let (_, times) = dispatched(&mut connection).await?;
    findings.note("stream beside many that wait: made a second", format!("{:.0}", made as f64 / plan.span.as_secs_f64()));
    note(&mut findings, "stream beside many that wait: made to sent", times);
    let share = (controllers.cpu_seconds(0) - cpu) / began.elapsed().as_secs_f64();
    findings.note("stream beside many that wait: CPU of the controller", format!("{:.0} %", share * 100.0));
    lone_is_quick(&mut findings, "beside the stream: a lone request", lone?);
    findings.note("peak memory of the controller", format!("{} MiB", controllers.peak_rss_kib(0) / 1024));
    drop((controllers, many, single, connection));
    database.drop_now().await;
    Ok(findings)
}

/// Pings of one device each, in one transaction, past the API: as fast as alerts make them at most.
async fn insert(connection: &mut PgConnection, count: usize, device: impl Fn(usize) -> String) -> Result<()> {
    let request = CollectionRequest::Ping {};
    let now = i64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000)?;
    let mut ids = std::collections::BTreeSet::new();
    while ids.len() < count {
        ids.insert(CollectionId::new());
    }
    let ids: Vec<uuid::Uuid> = ids.into_iter().map(CollectionId::uuid).collect();
    let devices: Vec<String> = (0..count).map(device).collect();
    let collections = "INSERT INTO collection (id, last_task, kind, request, target, attempt_timeout_ms, max_attempts, attempt_limit, in_flight, \
        targeted, created_by, created_at, expires_at, priority) \
        SELECT i, i, $2, $3, $4, 60000, 1, 1, 0, 1, 'soak', $5, $5 + 3600000, $6 FROM UNNEST($1::uuid[]) v(i)";
    sqlx::query("BEGIN").execute(&mut *connection).await?;
    sqlx::query(collections)
        .bind(&ids)
        .bind(request.kind())
        .bind(serde_json::to_string(&request)?)
        .bind(serde_json::to_string(&TargetView::Devices)?)
        .bind(now)
        .bind(Priority::Normal.code())
        .execute(&mut *connection)
        .await?;
    sqlx::query("INSERT INTO task (id, device_id, state) SELECT i, d, 0 FROM UNNEST($1::uuid[], $2::text[]) v(i, d)")
        .bind(&ids)
        .bind(&devices)
        .execute(&mut *connection)
        .await?;
    sqlx::query("COMMIT").execute(connection).await?;
    Ok(())
}

/// How long it takes until nothing is open.
async fn drained(connection: &mut PgConnection, began: Instant) -> Result<Duration> {
    let open = "SELECT count(*) FROM collection WHERE closed_at IS NULL AND created_by = 'soak'";
    let deadline = Instant::now() + Duration::from_secs(600);
    while sqlx::query_scalar::<_, i64>(open).fetch_one(&mut *connection).await? > 0 {
        anyhow::ensure!(Instant::now() < deadline, "the collections do not end within ten minutes");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(began.elapsed())
}

/// Claims a second, from the first to the last, and the milliseconds from the making of each to its claim.
async fn dispatched(connection: &mut PgConnection) -> Result<(f64, Vec<f64>)> {
    let sql = "SELECT c.created_at, t.dispatched_at FROM collection c JOIN task t ON t.id = c.id \
        WHERE t.dispatched_at IS NOT NULL AND c.priority = $1 ORDER BY t.dispatched_at";
    let rows: Vec<(i64, i64)> = sqlx::query_as(sql).bind(Priority::Normal.code()).fetch_all(connection).await?;
    let span = rows.last().map_or(0, |row| row.1) - rows.first().map_or(0, |row| row.1);
    let times = rows.iter().map(|(made, sent)| (sent - made) as f64).collect();
    Ok((rows.len() as f64 * 1000.0 / span.max(1) as f64, times))
}

/// Posts pings for one device each at the rate of the plan, or as fast as the controller takes them; how many.
async fn stream(api: &Api, all: &[DeviceId], plan: &Plan) -> usize {
    let (made, began) = (Arc::new(AtomicUsize::new(0)), Instant::now());
    let posters = (0..POSTING).map(|_| {
        let (api, made, plan, all) = (api.clone(), made.clone(), plan.clone(), all.to_vec());
        tokio::spawn(async move {
            while began.elapsed() < plan.span {
                let number = made.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep_until((began + Duration::from_secs_f64(number as f64 / plan.rate)).into()).await;
                let device = &all[number % all.len()];
                api.create(&collection(CollectionRequest::Ping {}, Target::Devices { devices: vec![device.clone()] }, 60, 1)).await;
            }
        })
    });
    for poster in posters.collect::<Vec<_>>() {
        poster.await.expect("a poster ends");
    }
    made.load(Ordering::Relaxed)
}

fn note(findings: &mut Findings, what: &str, mut times: Vec<f64>) {
    times.sort_by(f64::total_cmp);
    findings.note(&format!("{what}, median"), format!("{:.0} ms", at(&times, 0.5)));
    findings.note(&format!("{what}, 99th percentile"), format!("{:.0} ms", at(&times, 0.99)));
}

fn lone_is_quick(findings: &mut Findings, what: &str, mut times: Vec<f64>) {
    times.sort_by(f64::total_cmp);
    findings.note(&format!("{what}, median"), format!("{:.0} ms", at(&times, 0.5)));
    let slow = at(&times, 0.99);
    findings.check(&format!("{what}, 99th percentile"), format!("{slow:.0} ms"), format!("below {LONE_MS:.0} ms"), slow < LONE_MS);
}
