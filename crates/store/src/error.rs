//! What can go wrong between us and the database.

use std::future::Future;
use std::time::{Duration, Instant};

use sea_orm::{DbErr, RuntimeErr};

/// How often a statement that lost against another one (deadlock, serialization) is tried again before its caller hears of it.
pub const MAX_CONFLICT_RETRIES: u32 = 5;
const CONFLICT_PAUSE: Duration = Duration::from_millis(4);

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// An error of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Nobody answers there, or the database does not exist.
    #[error("cannot open the database at {place}; {next_step}")]
    Unreachable {
        /// Host, port and database name, or the file. Never a password.
        place: String,
        /// What to do.
        next_step: &'static str,
        /// What the driver said.
        #[source]
        cause: Cause,
    },
    /// The database refused or lost a statement.
    #[error("{operation} failed in the database")]
    Database {
        /// What was being done.
        operation: &'static str,
        /// Whether the same call can succeed later.
        failure: Failure,
        /// What the driver said.
        #[source]
        cause: Cause,
    },
    /// A row that no version of this program writes.
    #[error("the database holds a row that makes no sense: {0}; restore it from a backup or report this")]
    Inconsistent(String),
    /// The caller broke a rule of this crate.
    #[error("{0}")]
    Misuse(String),
    /// The database was migrated by a later version.
    #[error("the database schema is newer than this program: it has {}; upgrade this program", unknown.join(", "))]
    SchemaNewer {
        /// Steps this program does not know.
        unknown: Vec<String>,
    },
}

/// Kinds of failure inside the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Lost against another transaction; trying again at once is right, and the store has done so already.
    Conflict,
    /// The database is away, starting, full or overloaded; try again later.
    Transient,
    /// A row is refused: a value the database does not take, or one that breaks a rule of the schema. Rows beside it can be written
    /// without it.
    Refused,
    /// Trying again will not help.
    Permanent,
}

impl StoreError {
    /// Whether the same call can succeed later without anybody changing anything in the program or its settings.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Database { failure, .. } => matches!(failure, Failure::Conflict | Failure::Transient),
            Self::Inconsistent(_) | Self::Misuse(_) | Self::SchemaNewer { .. } => false,
        }
    }

    /// Whether a row is at fault and not the database: the same call without that row can succeed, with it never.
    pub fn is_about_a_row(&self) -> bool {
        match self {
            Self::Database { failure, .. } => *failure == Failure::Refused,
            Self::Inconsistent(_) | Self::Misuse(_) => true,
            Self::Unreachable { .. } | Self::SchemaNewer { .. } => false,
        }
    }

    fn is_conflict(&self) -> bool {
        matches!(self, Self::Database { failure: Failure::Conflict, .. })
    }

    fn during(self, name: &'static str) -> Self {
        match self {
            Self::Database { failure, cause, .. } => Self::Database { operation: name, failure, cause },
            other => other,
        }
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database { operation: "a statement", failure: classify(&error), cause: Box::new(error) }
    }
}

impl From<DbErr> for StoreError {
    fn from(error: DbErr) -> Self {
        let failure = match &error {
            DbErr::Conn(RuntimeErr::SqlxError(e)) | DbErr::Exec(RuntimeErr::SqlxError(e)) | DbErr::Query(RuntimeErr::SqlxError(e)) => {
                classify(e)
            }
            DbErr::ConnectionAcquire(_) => Failure::Transient,
            _ => Failure::Permanent,
        };
        Self::Database { operation: "a query", failure, cause: Box::new(error) }
    }
}

fn classify(error: &sqlx::Error) -> Failure {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => {
            Failure::Transient
        }
        // The driver reports a connection cut in the middle of a message as a protocol error.
        sqlx::Error::Protocol(_) => Failure::Transient,
        sqlx::Error::Database(database) => database.code().map_or(Failure::Permanent, |code| by_code(&code)),
        sqlx::Error::Encode(_) | sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } => Failure::Refused,
        _ => Failure::Permanent,
    }
}

/// SQLSTATE of Postgres (five characters) or a result code of SQLite (a number; its low byte is the kind).
fn by_code(code: &str) -> Failure {
    if code.len() != 5 {
        return match code.parse::<u32>().map(|number| number & 0xff) {
            // BUSY, LOCKED
            Ok(5 | 6) => Failure::Conflict,
            // IOERR, FULL, CANTOPEN
            Ok(10 | 13 | 14) => Failure::Transient,
            // TOOBIG, CONSTRAINT, MISMATCH
            Ok(18..=20) => Failure::Refused,
            _ => Failure::Permanent,
        };
    }
    match code {
        // serialization failure, deadlock, lock not available
        "40001" | "40P01" | "55P03" => Failure::Conflict,
        // cancelled by timeout; shutting down or starting; read-only after a failover
        "57014" | "57P01" | "57P02" | "57P03" | "57P05" | "25006" | "25P03" => Failure::Transient,
        // connection errors; out of disk, memory, connections
        _ if code.starts_with("08") || code.starts_with("53") || code.starts_with("58") => Failure::Transient,
        // a value, a constraint, a limit of a row; a trigger of the operator's
        _ if code.starts_with("22") || code.starts_with("23") || code.starts_with("54") || code == "P0001" => Failure::Refused,
        _ => Failure::Permanent,
    }
}

/// Runs one operation: names it in its error and in the metrics, and repeats it when it lost against another transaction. Every operation
/// is one transaction or one read, so a repeat starts from nothing.
pub(crate) async fn run<T, F>(name: &'static str, mut operation: impl FnMut() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let started = Instant::now();
    let mut tries = 0;
    let result = loop {
        match operation().await {
            Err(error) if error.is_conflict() && tries < MAX_CONFLICT_RETRIES => {
                tries += 1;
                metrics::counter!("muster_store_conflicts_total", "operation" => name).increment(1);
                tokio::time::sleep(CONFLICT_PAUSE * tries).await;
            }
            other => break other.map_err(|error| error.during(name)),
        }
    };
    metrics::histogram!("muster_store_seconds", "operation" => name).record(started.elapsed().as_secs_f64());
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_both_databases_are_told_apart() {
        for (code, failure) in [
            ("40P01", Failure::Conflict),
            ("40001", Failure::Conflict),
            ("57P01", Failure::Transient),
            ("08006", Failure::Transient),
            ("53300", Failure::Transient),
            ("23505", Failure::Refused),
            ("22021", Failure::Refused),
            ("54000", Failure::Refused),
            ("P0001", Failure::Refused),
            ("42P01", Failure::Permanent),
            ("5", Failure::Conflict),
            ("517", Failure::Conflict),
            ("13", Failure::Transient),
            ("778", Failure::Transient),
            ("2067", Failure::Refused),
            ("18", Failure::Refused),
            ("1", Failure::Permanent),
        ] {
            assert_eq!(by_code(code), failure, "{code}");
        }
    }

    #[tokio::test]
    async fn a_conflict_is_tried_again_and_then_told() {
        let conflict = || StoreError::Database { operation: "", failure: Failure::Conflict, cause: "deadlock".into() };
        let mut calls = 0;
        let ended = run("a test", || {
            calls += 1;
            let failed = calls < 3;
            async move { if failed { Err(conflict()) } else { Ok(()) } }
        })
        .await;
        assert!(ended.is_ok());
        assert_eq!(calls, 3);

        let mut calls = 0;
        let ended = run("a test", || {
            calls += 1;
            async { Err::<(), _>(conflict()) }
        })
        .await;
        assert_eq!(calls, MAX_CONFLICT_RETRIES + 1);
        let error = ended.expect_err("never succeeds");
        assert!(error.is_transient());
        assert_eq!(error.to_string(), "a test failed in the database");
    }
}
