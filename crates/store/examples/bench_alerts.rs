//! How many alerts a second are taken in: new ones, those of a collection that is open, those without consent, and repetitions.
//!
//! ```text
//! cargo run --release -p muster-store --example bench_alerts -- [DEVICES] [sqlite]
//! ```
//!
//! Five thousand devices unless said otherwise, in a database of its own on the server of `MUSTER_TEST_POSTGRES` (default
//! `postgres://root@127.0.0.1:5432/postgres`), dropped at the end; or in a file.

#![expect(clippy::print_stdout, reason = "the figures are what this program is for")]

use std::error::Error;
use std::time::{Duration, Instant};

use muster_domain::consent::{By, What};
use muster_store::{AlertLimits, Deciding, DeviceEntry, MAX_ALERTS, ReceivedAlert, Store, StoreOptions};
use muster_wire::alert::{Alert, AlertVia};
use muster_wire::http::{Actor, Channel, ConsentKind, ConsentScope, Role, StormPolicy};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use time::OffsetDateTime;
use uuid::Uuid;

type Outcome<T> = Result<T, Box<dyn Error>>;

const INDICATOR: &str = "IOTEdgeAgentNotRunningCondition";
/// About what an event of the common alert schema has.
const DATA_BYTES: usize = 1_200;

#[tokio::main]
async fn main() -> Outcome<()> {
    let devices: usize = std::env::args().nth(1).map_or(Ok(5_000), |text| text.parse())?;
    if std::env::args().nth(2).as_deref() == Some("sqlite") {
        let directory = tempfile::tempdir()?;
        return measure(&format!("sqlite://{}", directory.path().join("bench.db").display()), devices).await;
    }
    let server = std::env::var("MUSTER_TEST_POSTGRES").unwrap_or_else(|_| "postgres://root@127.0.0.1:5432/postgres".to_owned());
    let name = format!("muster_bench_{}", Uuid::new_v4().simple());
    let (stem, _) = server.rsplit_once('/').ok_or("MUSTER_TEST_POSTGRES names no database")?;
    let mut admin = PgConnection::connect(&server).await?;
    admin.execute(AssertSqlSafe(format!("CREATE DATABASE {name}"))).await?;
    let ended = measure(&format!("{stem}/{name}"), devices).await;
    admin.execute(AssertSqlSafe(format!("DROP DATABASE {name} WITH (FORCE)"))).await?;
    ended
}

async fn measure(url: &str, devices: usize) -> Outcome<()> {
    let store = Store::connect(&StoreOptions::new(url)).await?;
    store.migrate().await?;
    let now = OffsetDateTime::now_utc();
    let entry = |n: usize| {
        let tenant = if n.is_multiple_of(2) { "contoso" } else { "fabrikam" };
        let tags = json!({ "tenant": tenant, "site": format!("site-{}", n % 50), "model": "press" });
        Ok::<_, Box<dyn Error>>(DeviceEntry { device: format!("press-{n:06}").parse()?, tags: Some(tags), parent: None })
    };
    let entries = (0..devices).map(entry).collect::<Outcome<Vec<_>>>()?;
    for chunk in entries.chunks(1_000) {
        store.enter_devices(chunk, "bench", now).await?;
    }
    let deciding = Deciding {
        kind: ConsentKind::Proactive,
        scope: ConsentScope::Tenant { id: "contoso".to_owned() },
        what: What::Enable,
        by: By::Customer,
        actor: Actor { id: "ada".to_owned(), role: Role::TenantOwner, auth: None },
        channel: Channel::Portal,
        recorded_by: "bench".to_owned(),
        tenant: None,
        terms_version: None,
        locale: None,
        expires_at: None,
        reason: None,
        case: None,
        expect_version: None,
    };
    store.decide_consent(&deciding, now).await?;
    let day = Duration::from_secs(24 * 3600);
    let limits = AlertLimits {
        max_age: day,
        expires_after: day,
        attempt_timeout: Duration::from_secs(600),
        max_attempts: 3,
        per_day: u32::MAX,
        per_tenant_per_day: u32::MAX,
        storm: StormPolicy { devices: 10_000, ..StormPolicy::default() },
    };
    let data = format!("{{\"data\":\"{}\"}}", "x".repeat(DATA_BYTES));
    let event = |round: usize, n: usize| Alert {
        data: data.clone(),
        ..Alert::fired("/subscriptions/1/devices", &format!("{round}-{n}"), &format!("press-{n:06}"), INDICATOR, now)
    };
    let agreed = || (0..devices).step_by(2);
    let other = || (1..devices).step_by(2);
    take(&store, "new, each makes a collection", agreed().map(|n| event(0, n)).collect(), &limits, now).await?;
    take(
        &store,
        "of a collection that is open",
        agreed().chain(agreed()).enumerate().map(|(i, n)| event(10 + i, n)).collect(),
        &limits,
        now,
    )
    .await?;
    take(&store, "without consent", other().map(|n| event(1, n)).collect(), &limits, now).await?;
    take(&store, "repetitions", agreed().map(|n| event(0, n)).collect(), &limits, now).await
}

async fn take(store: &Store, what: &str, alerts: Vec<Alert>, limits: &AlertLimits, now: OffsetDateTime) -> Outcome<()> {
    let received: Vec<_> =
        alerts.iter().map(|alert| ReceivedAlert { alert, via: AlertVia::Amqp, tenant: None, speaks_for: None, received_at: now }).collect();
    let started = Instant::now();
    for chunk in received.chunks(MAX_ALERTS) {
        store.take_alerts(chunk, limits, now).await?;
    }
    let seconds = started.elapsed().as_secs_f64();
    println!("{what}: {} in {seconds:.2} s, {:.0} a second", alerts.len(), alerts.len() as f64 / seconds);
    Ok(())
}
