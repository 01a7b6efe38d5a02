//! Opening a database, and its connections.

use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use sea_orm::{DatabaseConnection, SqlxPostgresConnector, SqlxSqliteConnector};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgSslMode};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, PgPool, SqlitePool};

use super::{Dialect, Reader, Tx};
use crate::error::StoreError;

/// How long a SQLite writer waits for another process that writes.
const SQLITE_BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest statement in Postgres; the longest of ours moves all tasks of a large collection.
const POSTGRES_STATEMENT_TIMEOUT: &str = "120s";
/// A transaction of ours never waits for anything but the database.
const POSTGRES_IDLE_IN_TRANSACTION_TIMEOUT: &str = "60s";

/// The connections.
#[derive(Debug)]
pub(crate) enum Pools {
    Postgres(PgPool),
    /// SQLite has one writer at a time. One connection writes, so waiting is ours (fair) and not SQLite's (polling); readers never wait.
    Sqlite {
        writer: SqlitePool,
        reader: SqlitePool,
    },
}

/// A database that was opened: pools, sea-orm over the writing and the reading one, and where it is, without a password.
pub(crate) struct Opened {
    pub(crate) pools: Pools,
    pub(crate) write: DatabaseConnection,
    pub(crate) read: DatabaseConnection,
    pub(crate) place: String,
}

/// Opens what the URL names.
pub(crate) async fn open(url: &str, max_connections: u32, wait: Duration) -> Result<Opened, StoreError> {
    match url.split(':').next().unwrap_or_default() {
        "postgres" | "postgresql" => open_postgres(url, max_connections, wait).await,
        "sqlite" => open_sqlite(url, max_connections, wait).await,
        // The URL may hold a password anywhere, so it is not repeated.
        _ => Err(StoreError::Misuse("the database URL begins with postgres:// or sqlite://; this one does not".to_owned())),
    }
}

async fn open_postgres(url: &str, max_connections: u32, wait: Duration) -> Result<Opened, StoreError> {
    let options = PgConnectOptions::from_str(url)
        .map_err(|_| StoreError::Misuse("the database URL is not postgres://USER:PASSWORD@HOST:PORT/DATABASE".to_owned()))?
        .application_name("muster")
        // Every statement of ours knows its way: by key, or along the key through one collection. The planner, asked about a table that was
        // filled a second ago, guesses otherwise: it reads and sorts a whole collection to claim its first hundred tasks, or keeps the plan
        // it made while the table was empty. So it is told: plan for unknown values, and walk the index.
        .options([("plan_cache_mode", "force_generic_plan"), ("enable_seqscan", "off"), ("enable_bitmapscan", "off"), ("jit", "off")])
        .options([
            ("statement_timeout", POSTGRES_STATEMENT_TIMEOUT),
            ("idle_in_transaction_session_timeout", POSTGRES_IDLE_IN_TRANSACTION_TIMEOUT),
        ])
        .disable_statement_logging();
    let options = without_pointless_tls(options);
    let host =
        options.get_socket().map_or_else(|| format!("{}:{}", options.get_host(), options.get_port()), |path| path.display().to_string());
    let place = format!("{host}/{}", options.get_database().unwrap_or(options.get_username()));
    let pool = PgPoolOptions::new().max_connections(max_connections).acquire_timeout(wait).connect_lazy_with(options.clone());
    // One connection without the pool: its error says why, where the pool would only say that time ran out.
    let probe = tokio::time::timeout(wait, options.connect()).await;
    let unreachable =
        |cause: Box<dyn std::error::Error + Send + Sync>, next_step| StoreError::Unreachable { place: place.clone(), next_step, cause };
    match probe {
        Ok(Ok(connection)) => {
            sqlx::Connection::close(connection).await.ok();
        }
        Ok(Err(error)) => {
            let code = error.as_database_error().and_then(|e| e.code().map(String::from)).unwrap_or_default();
            let next_step = match code.as_str() {
                "3D000" => "the server answers, but this database does not exist: create it (createdb) or correct the name in database.url",
                code if code.starts_with("28") => "the server refused user or password: correct database.url",
                "53300" => "the server has no free connection: raise its max_connections; each controller uses up to eight",
                _ => "check that PostgreSQL runs there and that host and port in database.url are right",
            };
            return Err(unreachable(Box::new(error), next_step));
        }
        Err(elapsed) => {
            return Err(unreachable(Box::new(elapsed), "it did not answer in time: check host, port and firewall"));
        }
    }
    let orm = SqlxPostgresConnector::from_sqlx_postgres_pool(pool.clone());
    Ok(Opened { pools: Pools::Postgres(pool), write: orm.clone(), read: orm, place })
}

/// Within one machine encryption protects nobody, and it cuts a statement into records of 16 KiB, each of which waits for the one before
/// (see [`super::batch::STATEMENT_BYTES`]). Who asks for it (`sslmode=require` and stronger) gets it.
fn without_pointless_tls(options: PgConnectOptions) -> PgConnectOptions {
    let host = options.get_host();
    let loopback =
        host == "localhost" || host.trim_matches(['[', ']']).parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback());
    if loopback && matches!(options.get_ssl_mode(), PgSslMode::Prefer | PgSslMode::Allow) {
        options.ssl_mode(PgSslMode::Disable)
    } else {
        options
    }
}

async fn open_sqlite(url: &str, max_connections: u32, wait: Duration) -> Result<Opened, StoreError> {
    if url.contains(":memory:") || url.contains("mode=memory") {
        return Err(StoreError::Misuse(
            "a database in memory forgets all work when the program ends: name a file, like sqlite://muster.db".to_owned(),
        ));
    }
    let options = SqliteConnectOptions::from_str(url)
        .map_err(|error| StoreError::Misuse(format!("the database URL is not sqlite://PATH: {error}")))?
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(SQLITE_BUSY_TIMEOUT)
        .foreign_keys(true)
        .pragma("cache_size", "-65536")
        .pragma("temp_store", "memory")
        .disable_statement_logging();
    let path: &Path = options.get_filename();
    let place = path.display().to_string();
    let failed = |error: sqlx::Error| StoreError::Unreachable {
        place: place.clone(),
        next_step: "check that its directory exists, that it can be written, and that the file is a SQLite database",
        cause: Box::new(error),
    };
    let writer = SqlitePoolOptions::new().max_connections(1).acquire_timeout(wait).connect_with(options.clone()).await.map_err(failed)?;
    let reader = SqlitePoolOptions::new()
        .max_connections(max_connections)
        .acquire_timeout(wait)
        .connect_with(options.create_if_missing(false).pragma("query_only", "on"))
        .await
        .map_err(failed)?;
    let write = SqlxSqliteConnector::from_sqlx_sqlite_pool(writer.clone());
    let read = SqlxSqliteConnector::from_sqlx_sqlite_pool(reader.clone());
    Ok(Opened { pools: Pools::Sqlite { writer, reader }, write, read, place })
}

impl Pools {
    pub(crate) fn dialect(&self) -> Dialect {
        match self {
            Self::Postgres(_) => Dialect::Postgres,
            Self::Sqlite { .. } => Dialect::Sqlite,
        }
    }

    /// Begins a transaction that writes. Dropped without [`Tx::commit`], it is undone.
    pub(crate) async fn begin(&self) -> Result<Tx, StoreError> {
        Ok(match self {
            Self::Postgres(pool) => Tx::Postgres(pool.begin().await?),
            // Not the deferred default: a reader that turns writer in the middle fails where it should wait.
            Self::Sqlite { writer, .. } => Tx::Sqlite(writer.begin_with("BEGIN IMMEDIATE").await?),
        })
    }

    /// Begins a transaction that only reads.
    pub(crate) async fn begin_read(&self) -> Result<Tx, StoreError> {
        Ok(match self {
            Self::Postgres(pool) => Tx::Postgres(pool.begin().await?),
            Self::Sqlite { reader, .. } => Tx::Sqlite(reader.begin().await?),
        })
    }

    /// A connection for one read outside a transaction.
    pub(crate) async fn reader(&self) -> Result<Reader, StoreError> {
        Ok(match self {
            Self::Postgres(pool) => Reader::Postgres(pool.acquire().await?),
            Self::Sqlite { reader, .. } => Reader::Sqlite(reader.acquire().await?),
        })
    }

    pub(crate) async fn close(&self) {
        match self {
            Self::Postgres(pool) => pool.close().await,
            Self::Sqlite { writer, reader } => {
                reader.close().await;
                writer.close().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encryption_is_left_out_only_within_one_machine() {
        for (url, disabled) in [
            ("postgres://u@127.0.0.1/d", true),
            ("postgres://u@localhost:5433/d", true),
            ("postgres://u@[::1]/d", true),
            ("postgres://u@127.0.0.1/d?sslmode=require", false),
            ("postgres://u@db.example.com/d", false),
            ("postgres://u@10.0.0.7/d", false),
        ] {
            let options = without_pointless_tls(PgConnectOptions::from_str(url).expect("a URL"));
            assert_eq!(matches!(options.get_ssl_mode(), PgSslMode::Disable), disabled, "{url}");
        }
    }
}
