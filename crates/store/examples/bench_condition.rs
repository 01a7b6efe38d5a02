//! How Postgres finds devices by a condition on a large registry: the plan of three typical ones, rows touched and time, as the server
//! reports them.
//!
//! ```text
//! cargo run -p muster-store --example bench_condition -- [DEVICES]
//! ```
//!
//! A million devices unless said otherwise, in a database of its own on the server of `MUSTER_TEST_POSTGRES` (default
//! `postgres://root@127.0.0.1:5432/postgres`), dropped at the end.

#![expect(clippy::print_stdout, reason = "the plans are what this program is for")]

use std::error::Error;
use std::time::Instant;

use muster_domain::condition::Condition;
use muster_store::{Store, StoreOptions};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use uuid::Uuid;

type Outcome<T> = Result<T, Box<dyn Error>>;

const CONDITIONS: [&str; 3] = [
    // One site of a thousand.
    "tags.site = 'site-0042' AND NOT presence = 'offline'",
    // Two firmwares of a hundred, at one customer of fifty.
    "reported.firmware IN ['1.4.2', '1.4.3'] AND tags.customer = 'customer-7'",
    // Nothing for an index: the temperature of everybody.
    "reported.temperature > 99.5 AND is_defined(tags.site)",
];

#[tokio::main]
async fn main() -> Outcome<()> {
    let devices: u32 = std::env::args().nth(1).map_or(Ok(1_000_000), |text| text.parse())?;
    let server = std::env::var("MUSTER_TEST_POSTGRES").unwrap_or_else(|_| "postgres://root@127.0.0.1:5432/postgres".to_owned());
    let name = format!("muster_bench_{}", Uuid::new_v4().simple());
    let (stem, _) = server.rsplit_once('/').ok_or("MUSTER_TEST_POSTGRES names no database")?;
    let mut admin = PgConnection::connect(&server).await?;
    admin.execute(AssertSqlSafe(format!("CREATE DATABASE {name}"))).await?;
    let ended = measure(&format!("{stem}/{name}"), devices).await;
    admin.execute(AssertSqlSafe(format!("DROP DATABASE {name} WITH (FORCE)"))).await?;
    ended
}

async fn measure(url: &str, devices: u32) -> Outcome<()> {
    let store = Store::connect(&StoreOptions::new(url)).await?;
    store.migrate().await?;
    let mut connection = PgConnection::connect(url).await?;
    let started = Instant::now();
    connection
        .execute(AssertSqlSafe(format!(
            "INSERT INTO device (id, presence, presence_at, first_seen, proto, tags, reported) \
             SELECT 'press-' || lpad(n::text, 7, '0'), n % 3, 1, 1, '[]', \
                 jsonb_build_object('site', 'site-' || lpad((n % 1000)::text, 4, '0'), 'customer', 'customer-' || (n / 7) % 50, 'line', n % 8), \
                 jsonb_build_object('firmware', '1.' || (n / 3) % 10 || '.' || (n / 11) % 10, 'temperature', (n % 1000 * 7919 % 1000) / 10.0) \
             FROM generate_series(1, {devices}) AS n"
        )))
        .await?;
    connection.execute("VACUUM ANALYZE device").await?;
    println!("{devices} devices inserted and analysed in {:.1} s", started.elapsed().as_secs_f64());
    for text in CONDITIONS {
        let condition: Condition = text.parse()?;
        let started = Instant::now();
        let count = store.count_matching(&condition).await?;
        println!("\n{text}\n{count} devices, counted in {:.0} ms; the first page of 10,000:", started.elapsed().as_secs_f64() * 1000.0);
        for line in store.explain_matching(&condition, 10_000).await? {
            println!("  {line}");
        }
    }
    store.close().await;
    Ok(())
}
