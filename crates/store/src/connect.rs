//! Opening the database and bringing its schema up to date.

use std::sync::Arc;
use std::time::Duration;

use muster_migrations::{Migrator, MigratorTrait};
use sea_orm::{ConnectionTrait, DatabaseConnection, SqliteTransactionMode, TransactionOptions, TransactionTrait};

use crate::dialect::{self, Dialect, MIGRATION_LOCK, Pools, Reader, Tx};
use crate::error::{StoreError, run};

/// Connections of one program, when the settings say nothing.
pub const DEFAULT_CONNECTIONS: u32 = 8;

/// How to open the database.
#[derive(Clone)]
pub struct StoreOptions {
    /// `postgres://…` or `sqlite://PATH`.
    pub url: String,
    /// Most connections of this program.
    pub max_connections: u32,
    /// How long to wait for a connection.
    pub connect_timeout: Duration,
}

impl StoreOptions {
    /// Defaults for this URL.
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), max_connections: DEFAULT_CONNECTIONS, connect_timeout: Duration::from_secs(10) }
    }
}

impl std::fmt::Debug for StoreOptions {
    /// Without the URL: it may hold a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreOptions").field("max_connections", &self.max_connections).finish_non_exhaustive()
    }
}

/// The database. Cheap to clone; all clones share the connections.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    pools: Pools,
    write: DatabaseConnection,
    read: DatabaseConnection,
    place: String,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("place", &self.inner.place).finish_non_exhaustive()
    }
}

/// How the schema of the database stands to this program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SchemaState {
    /// The same.
    Current,
    /// These steps are not applied yet; all of them in an empty database.
    Behind {
        /// Their names, oldest first.
        pending: Vec<String>,
    },
    /// A later version applied these.
    Newer {
        /// Their names.
        unknown: Vec<String>,
    },
}

impl Store {
    /// Opens the database. Does not touch its schema.
    ///
    /// # Errors
    /// [`StoreError::Unreachable`] names the place and what to do; [`StoreError::Misuse`] when the URL is not one.
    pub async fn connect(options: &StoreOptions) -> Result<Self, StoreError> {
        let opened = dialect::open(&options.url, options.max_connections.max(2), options.connect_timeout).await?;
        Ok(Self { inner: Arc::new(Inner { pools: opened.pools, write: opened.write, read: opened.read, place: opened.place }) })
    }

    /// Which database this is.
    pub fn dialect(&self) -> Dialect {
        self.inner.pools.dialect()
    }

    /// Host, port and database, or the file; for messages.
    pub fn place(&self) -> &str {
        &self.inner.place
    }

    /// How the schema stands.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn schema_state(&self) -> Result<SchemaState, StoreError> {
        run("reading the schema version", || async {
            let known = muster_migrations::names();
            let applied = applied_steps(&self.inner.read).await?;
            let unknown: Vec<String> = applied.iter().filter(|step| !known.contains(step)).cloned().collect();
            if !unknown.is_empty() {
                return Ok(SchemaState::Newer { unknown });
            }
            let pending: Vec<String> = known.into_iter().filter(|step| !applied.contains(step)).collect();
            Ok(if pending.is_empty() { SchemaState::Current } else { SchemaState::Behind { pending } })
        })
        .await
    }

    /// Applies the missing steps, all in one transaction; several programs may do so at the same time, one will. Returns the steps applied.
    ///
    /// # Errors
    /// [`StoreError::SchemaNewer`] when a later version was here; then nothing is changed.
    pub async fn migrate(&self) -> Result<Vec<String>, StoreError> {
        run("migrating the schema", || async {
            let options =
                TransactionOptions { sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate), ..TransactionOptions::default() };
            let tx = self.inner.write.begin_with_options(options).await?;
            if self.dialect() == Dialect::Postgres {
                tx.execute_unprepared(&format!("SET LOCAL statement_timeout = 0; SELECT pg_advisory_xact_lock({MIGRATION_LOCK})")).await?;
            }
            let known = muster_migrations::names();
            let applied = applied_steps(&tx).await?;
            let unknown: Vec<String> = applied.iter().filter(|step| !known.contains(step)).cloned().collect();
            if !unknown.is_empty() {
                return Err(StoreError::SchemaNewer { unknown });
            }
            Migrator::up(&tx, None).await?;
            tx.commit().await?;
            Ok(known.into_iter().filter(|step| !applied.contains(step)).collect())
        })
        .await
    }

    /// Asks the database for an answer.
    ///
    /// # Errors
    /// When there is none.
    pub async fn ping(&self) -> Result<(), StoreError> {
        run("asking the database", || async { self.reader().await?.fetch("SELECT 1", &[], None).await.map(|_| ()) }).await
    }

    /// Closes the connections once what runs on them is done.
    pub async fn close(&self) {
        self.inner.pools.close().await;
    }

    pub(crate) async fn begin(&self) -> Result<Tx, StoreError> {
        self.inner.pools.begin().await
    }

    pub(crate) async fn begin_read(&self) -> Result<Tx, StoreError> {
        self.inner.pools.begin_read().await
    }

    pub(crate) async fn reader(&self) -> Result<Reader, StoreError> {
        self.inner.pools.reader().await
    }

    /// For sea-orm queries that only read.
    pub(crate) fn entities(&self) -> &DatabaseConnection {
        &self.inner.read
    }
}

/// Names of the applied steps; none when nobody ever migrated this database.
async fn applied_steps<C: ConnectionTrait>(db: &C) -> Result<Vec<String>, StoreError> {
    let exists = match db.get_database_backend() {
        sea_orm::DbBackend::Sqlite => "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'seaql_migrations'",
        _ => "SELECT 1 FROM pg_tables WHERE schemaname = current_schema() AND tablename = 'seaql_migrations'",
    };
    let statement = |sql: &str| sea_orm::Statement::from_string(db.get_database_backend(), sql.to_owned());
    if db.query_one_raw(statement(exists)).await?.is_none() {
        return Ok(Vec::new());
    }
    let rows = db.query_all_raw(statement("SELECT version FROM seaql_migrations ORDER BY version")).await?;
    Ok(rows.iter().map(|row| row.try_get_by_index::<String>(0)).collect::<Result<_, _>>()?)
}
