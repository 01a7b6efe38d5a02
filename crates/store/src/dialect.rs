//! All that differs between Postgres and SQLite, in one place.
//!
//! Statements are written once, with `$1`, `$2`, … for single values and `[[v]]` where a [`Batch`] of rows stands, which is then the table
//! `v`: arrays through `UNNEST` in Postgres, one JSON text through `json_each` in SQLite. So a batch of any length is one statement with
//! one text, prepared once. `[[lock t]]` locks rows in Postgres and skips those that are locked,
//! `[[hold p]]` waits for them; SQLite has one writer, so there is nobody to lock out.

use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use sea_orm::{DatabaseConnection, SqlxPostgresConnector, SqlxSqliteConnector};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgArguments, PgConnectOptions, PgPoolOptions, PgRow, PgSslMode};
use sqlx::sqlite::{SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous};
use sqlx::{Arguments, AssertSqlSafe, ConnectOptions, Decode, Executor, PgPool, Postgres, Row as _, Sqlite, SqlitePool, Transaction, Type};
use uuid::Uuid;

use crate::error::StoreError;

/// How long a SQLite writer waits for another process that writes.
const SQLITE_BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest statement in Postgres; the longest of ours moves all tasks of a large collection.
const POSTGRES_STATEMENT_TIMEOUT: &str = "120s";
/// A transaction of ours never waits for anything but the database.
const POSTGRES_IDLE_IN_TRANSACTION_TIMEOUT: &str = "60s";
/// Any number; all programs that migrate the same database take this lock.
pub(crate) const MIGRATION_LOCK: i64 = 0x6d75_7374_6572;

/// Which database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// PostgreSQL, or a cluster that speaks like it.
    Postgres,
    /// SQLite in a file.
    Sqlite,
}

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
                "53300" => "the server has no free connection: lower database.max_connections or raise the server's",
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
/// (see [`STATEMENT_BYTES`]). Who asks for it (`sslmode=require` and stronger) gets it.
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

impl Dialect {
    /// A text parameter or column as the type of the JSON columns.
    pub(crate) fn json(self, expression: &str) -> String {
        match self {
            Self::Postgres => format!("CAST({expression} AS jsonb)"),
            Self::Sqlite => expression.to_owned(),
        }
    }

    /// The end of a query whose rows are about to be rewritten, of a table by its name: they wait for who has them, and others wait for us.
    pub(crate) fn hold(self, table: &str) -> String {
        match self {
            Self::Postgres => format!("FOR NO KEY UPDATE OF {table}"),
            Self::Sqlite => String::new(),
        }
    }

    /// The larger of two numbers.
    pub(crate) fn larger(self, a: &str, b: &str) -> String {
        match self {
            Self::Postgres => format!("GREATEST({a}, {b})"),
            Self::Sqlite => format!("max({a}, {b})"),
        }
    }

    fn render(self, sql: &str, batch: Option<&Batch<'_>>, scalars: usize) -> String {
        let mut text = match batch {
            Some(batch) => sql.replace("[[v]]", &batch.table(self, scalars + 1)),
            None => sql.to_owned(),
        };
        for table in ["t", "c"] {
            let lock = match self {
                Self::Postgres => format!("FOR NO KEY UPDATE OF {table} SKIP LOCKED"),
                Self::Sqlite => String::new(),
            };
            text = text.replace(&format!("[[lock {table}]]"), &lock);
        }
        let hold = match self {
            Self::Postgres => "FOR NO KEY UPDATE OF p",
            Self::Sqlite => "",
        };
        text.replace("[[hold p]]", hold)
    }
}

/// Most bytes of rows in one statement. Over loopback this is one TCP segment. The driver leaves Nagle's algorithm on (sqlx 0.9.0, its issue
/// 4335, fixed after it), so the end of a statement that does not fill a segment waits for the server's delayed acknowledgement: 40 ms.
pub(crate) const STATEMENT_BYTES: usize = 60_000;
/// Bytes of one value beside its content, on the wire.
pub(crate) const VALUE_BYTES: usize = 4;
/// Bytes of one id on the wire.
pub(crate) const ID_BYTES: usize = 20;

/// Divides the items among statements of at most [`STATEMENT_BYTES`]; an item that is larger by itself goes alone.
pub(crate) fn parcels<T>(items: &[T], bytes: impl Fn(&T) -> usize) -> impl Iterator<Item = &[T]> {
    let mut rest = items;
    std::iter::from_fn(move || {
        let mut sum = 0;
        let fits = rest.iter().take_while(|item| {
            sum += bytes(item);
            sum <= STATEMENT_BYTES
        });
        let count = fits.count().max(1).min(rest.len());
        let (parcel, behind) = rest.split_at(count);
        rest = behind;
        (!parcel.is_empty()).then_some(parcel)
    })
}

/// A single value of a statement.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Value<'a> {
    Id(Uuid),
    Number(i64),
    Text(&'a str),
    MaybeText(Option<&'a str>),
    MaybeId(Option<Uuid>),
    MaybeNumber(Option<i64>),
}

#[derive(Debug)]
enum Column<'a> {
    Ids(Vec<Uuid>),
    Texts(Vec<Option<&'a str>>),
    Smalls(Vec<Option<i16>>),
    Numbers(Vec<Option<i64>>),
}

/// Rows for one statement, by column.
#[derive(Debug, Default)]
pub(crate) struct Batch<'a> {
    columns: Vec<(&'static str, Column<'a>)>,
}

impl<'a> Batch<'a> {
    pub(crate) fn ids(mut self, name: &'static str, values: impl IntoIterator<Item = Uuid>) -> Self {
        self.columns.push((name, Column::Ids(values.into_iter().collect())));
        self
    }

    pub(crate) fn texts(mut self, name: &'static str, values: impl IntoIterator<Item = Option<&'a str>>) -> Self {
        self.columns.push((name, Column::Texts(values.into_iter().collect())));
        self
    }

    pub(crate) fn smalls(mut self, name: &'static str, values: impl IntoIterator<Item = Option<i16>>) -> Self {
        self.columns.push((name, Column::Smalls(values.into_iter().collect())));
        self
    }

    pub(crate) fn numbers(mut self, name: &'static str, values: impl IntoIterator<Item = Option<i64>>) -> Self {
        self.columns.push((name, Column::Numbers(values.into_iter().collect())));
        self
    }

    /// Columns that travel. One without any value does not: the table names it as `NULL`.
    fn filled(&self) -> impl Iterator<Item = &(&'static str, Column<'a>)> {
        self.columns.iter().filter(|(_, column)| !column.is_bare())
    }

    /// The batch as a table named `v`, its first parameter being number `first`.
    fn table(&self, dialect: Dialect, first: usize) -> String {
        let filled = |make: &dyn Fn(usize, &'static str, &Column<'a>) -> String| {
            self.filled().enumerate().map(|(i, (name, column))| make(i, name, column)).collect::<Vec<_>>().join(", ")
        };
        let bare = self.columns.iter().filter(|(_, column)| column.is_bare());
        match dialect {
            Dialect::Postgres => {
                let arrays = filled(&|i, _, column| format!("${}::{}[]", first + i, column.postgres_type()));
                let names = filled(&|_, name, _| name.to_owned());
                let bare: String = bare.map(|(name, column)| format!(", NULL::{} AS {name}", column.postgres_type())).collect();
                format!("(SELECT u.*{bare} FROM UNNEST({arrays}) AS u({names})) AS v")
            }
            Dialect::Sqlite => {
                let columns = filled(&|i, name, column| match column {
                    Column::Ids(_) => format!("unhex(value->>{i}) AS {name}"),
                    _ => format!("value->>{i} AS {name}"),
                });
                let bare: String = bare.map(|(name, _)| format!(", NULL AS {name}")).collect();
                format!("(SELECT {columns}{bare} FROM json_each(${first})) AS v")
            }
        }
    }

    /// The rows as JSON arrays in one JSON array; an id is its hex digits.
    fn json(&self) -> Result<String, StoreError> {
        let rows = self.filled().next().map_or(0, |(_, column)| column.len());
        let mut text = Vec::with_capacity(rows * self.columns.len() * 12 + 2);
        text.push(b'[');
        for row in 0..rows {
            text.extend_from_slice(if row == 0 { b"[" } else { b",[" });
            for (i, (_, column)) in self.filled().enumerate() {
                if i > 0 {
                    text.push(b',');
                }
                column.write_json(row, &mut text)?;
            }
            text.push(b']');
        }
        text.push(b']');
        Ok(String::from_utf8(text).expect("JSON made of texts is UTF-8"))
    }
}

impl Column<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Ids(values) => values.len(),
            Self::Texts(values) => values.len(),
            Self::Smalls(values) => values.len(),
            Self::Numbers(values) => values.len(),
        }
    }

    /// Without any value. A list of ids is never that: it says how many rows there are.
    fn is_bare(&self) -> bool {
        match self {
            Self::Ids(_) => false,
            Self::Texts(values) => values.iter().all(Option::is_none),
            Self::Smalls(values) => values.iter().all(Option::is_none),
            Self::Numbers(values) => values.iter().all(Option::is_none),
        }
    }

    fn postgres_type(&self) -> &'static str {
        match self {
            Self::Ids(_) => "uuid",
            Self::Texts(_) => "text",
            Self::Smalls(_) => "int2",
            Self::Numbers(_) => "int8",
        }
    }

    fn write_json(&self, row: usize, text: &mut Vec<u8>) -> Result<(), StoreError> {
        let written = match self {
            Self::Ids(values) => {
                text.push(b'"');
                text.extend_from_slice(values[row].simple().encode_lower(&mut Uuid::encode_buffer()).as_bytes());
                text.push(b'"');
                Ok(())
            }
            Self::Texts(values) => serde_json::to_writer(text, &values[row]),
            Self::Smalls(values) => serde_json::to_writer(text, &values[row]),
            Self::Numbers(values) => serde_json::to_writer(text, &values[row]),
        };
        written.map_err(|error| StoreError::Misuse(format!("a batch could not be written as JSON: {error}")))
    }
}

fn postgres_arguments(values: &[Value<'_>], batch: Option<&Batch<'_>>) -> Result<PgArguments, StoreError> {
    let mut arguments = PgArguments::default();
    for value in values {
        match value {
            Value::Id(id) => arguments.add(*id),
            Value::Number(number) => arguments.add(*number),
            Value::Text(text) => arguments.add(*text),
            Value::MaybeText(text) => arguments.add(*text),
            Value::MaybeId(id) => arguments.add(*id),
            Value::MaybeNumber(number) => arguments.add(*number),
        }
        .map_err(sqlx::Error::Encode)?;
    }
    for (_, column) in batch.iter().flat_map(|batch| batch.filled()) {
        match column {
            Column::Ids(values) => arguments.add(values.as_slice()),
            Column::Texts(values) => arguments.add(values.as_slice()),
            Column::Smalls(values) => arguments.add(values.as_slice()),
            Column::Numbers(values) => arguments.add(values.as_slice()),
        }
        .map_err(sqlx::Error::Encode)?;
    }
    Ok(arguments)
}

fn sqlite_arguments(values: &[Value<'_>], batch: Option<&Batch<'_>>) -> Result<SqliteArguments, StoreError> {
    let mut arguments = SqliteArguments::default();
    for value in values {
        match value {
            Value::Id(id) => arguments.add(*id),
            Value::Number(number) => arguments.add(*number),
            Value::Text(text) => arguments.add((*text).to_owned()),
            Value::MaybeText(text) => arguments.add(text.map(str::to_owned)),
            Value::MaybeId(id) => arguments.add(*id),
            Value::MaybeNumber(number) => arguments.add(*number),
        }
        .map_err(sqlx::Error::Encode)?;
    }
    if let Some(batch) = batch {
        arguments.add(batch.json()?).map_err(sqlx::Error::Encode)?;
    }
    Ok(arguments)
}

/// A row of either database.
pub(crate) enum Row {
    Postgres(PgRow),
    Sqlite(SqliteRow),
}

impl Row {
    /// The column at this place.
    pub(crate) fn get<T>(&self, index: usize) -> Result<T, StoreError>
    where
        T: for<'r> Decode<'r, Postgres> + Type<Postgres> + for<'r> Decode<'r, Sqlite> + Type<Sqlite>,
    {
        let value = match self {
            Self::Postgres(row) => row.try_get(index),
            Self::Sqlite(row) => row.try_get(index),
        };
        value.map_err(|error| StoreError::Inconsistent(error.to_string()))
    }
}

async fn fetch_postgres<'c>(
    connection: impl Executor<'c, Database = Postgres>,
    sql: &str,
    values: &[Value<'_>],
    batch: Option<&Batch<'_>>,
) -> Result<Vec<Row>, StoreError> {
    let sql = Dialect::Postgres.render(sql, batch, values.len());
    let rows = sqlx::query_with(AssertSqlSafe(sql), postgres_arguments(values, batch)?).fetch_all(connection).await?;
    Ok(rows.into_iter().map(Row::Postgres).collect())
}

async fn fetch_sqlite<'c>(
    connection: impl Executor<'c, Database = Sqlite>,
    sql: &str,
    values: &[Value<'_>],
    batch: Option<&Batch<'_>>,
) -> Result<Vec<Row>, StoreError> {
    let sql = Dialect::Sqlite.render(sql, batch, values.len());
    let rows = sqlx::query_with(AssertSqlSafe(sql), sqlite_arguments(values, batch)?).fetch_all(connection).await?;
    Ok(rows.into_iter().map(Row::Sqlite).collect())
}

/// A transaction.
pub(crate) enum Tx {
    Postgres(Transaction<'static, Postgres>),
    Sqlite(Transaction<'static, Sqlite>),
}

impl Tx {
    pub(crate) fn dialect(&self) -> Dialect {
        match self {
            Self::Postgres(_) => Dialect::Postgres,
            Self::Sqlite(_) => Dialect::Sqlite,
        }
    }

    /// Runs a statement; how many rows it wrote.
    pub(crate) async fn execute(&mut self, sql: &str, values: &[Value<'_>], batch: Option<&Batch<'_>>) -> Result<u64, StoreError> {
        let sql = self.dialect().render(sql, batch, values.len());
        Ok(match self {
            Self::Postgres(tx) => {
                sqlx::query_with(AssertSqlSafe(sql), postgres_arguments(values, batch)?).execute(&mut **tx).await?.rows_affected()
            }
            Self::Sqlite(tx) => {
                sqlx::query_with(AssertSqlSafe(sql), sqlite_arguments(values, batch)?).execute(&mut **tx).await?.rows_affected()
            }
        })
    }

    /// Runs a statement that returns rows.
    pub(crate) async fn fetch(&mut self, sql: &str, values: &[Value<'_>], batch: Option<&Batch<'_>>) -> Result<Vec<Row>, StoreError> {
        match self {
            Self::Postgres(tx) => fetch_postgres(&mut **tx, sql, values, batch).await,
            Self::Sqlite(tx) => fetch_sqlite(&mut **tx, sql, values, batch).await,
        }
    }

    /// For a statement over all tasks of a collection: joins by hashing, not by looking up each row.
    pub(crate) async fn join_in_bulk(&mut self) -> Result<(), StoreError> {
        match self {
            Self::Postgres(tx) => tx.execute("SET LOCAL enable_nestloop = off; SET LOCAL enable_sort = off").await.map(|_| ())?,
            // Has no other way than looking up, in its own memory.
            Self::Sqlite(_) => {}
        }
        Ok(())
    }

    pub(crate) async fn commit(self) -> Result<(), StoreError> {
        match self {
            Self::Postgres(tx) => tx.commit().await?,
            Self::Sqlite(tx) => tx.commit().await?,
        }
        Ok(())
    }
}

/// A connection for reading.
pub(crate) enum Reader {
    Postgres(PoolConnection<Postgres>),
    Sqlite(PoolConnection<Sqlite>),
}

impl Reader {
    pub(crate) async fn fetch(&mut self, sql: &str, values: &[Value<'_>], batch: Option<&Batch<'_>>) -> Result<Vec<Row>, StoreError> {
        match self {
            Self::Postgres(connection) => fetch_postgres(&mut **connection, sql, values, batch).await,
            Self::Sqlite(connection) => fetch_sqlite(&mut **connection, sql, values, batch).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_one_table_in_both_languages() {
        let batch = Batch::default()
            .smalls("state", [None])
            .ids("id", [Uuid::from_u128(10)])
            .texts("device", [Some("a\"b")])
            .numbers("at", [Some(7)]);
        assert_eq!(
            Dialect::Postgres.render("UPDATE x SET y = $1 FROM [[v]]", Some(&batch), 1),
            "UPDATE x SET y = $1 FROM (SELECT u.*, NULL::int2 AS state FROM UNNEST($2::uuid[], $3::text[], $4::int8[]) AS u(id, device, at)) AS v"
        );
        assert_eq!(
            Dialect::Sqlite.render("UPDATE x SET y = $1 FROM [[v]]", Some(&batch), 1),
            "UPDATE x SET y = $1 FROM (SELECT unhex(value->>0) AS id, value->>1 AS device, value->>2 AS at, NULL AS state FROM json_each($2)) AS v"
        );
        assert_eq!(batch.json().expect("JSON"), r#"[["0000000000000000000000000000000a","a\"b",7]]"#);
        assert_eq!(Batch::default().ids("id", []).json().expect("JSON"), "[]");
    }

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

    #[test]
    fn a_statement_stays_within_its_bytes() {
        let sizes = [STATEMENT_BYTES, 1, STATEMENT_BYTES - 1, STATEMENT_BYTES + 5, 10, 10];
        let divided: Vec<&[usize]> = parcels(&sizes, |size| *size).collect();
        assert_eq!(divided, [&sizes[..1], &sizes[1..3], &sizes[3..4], &sizes[4..]]);
        assert_eq!(parcels(&[] as &[usize], |size| *size).count(), 0);
        assert!(parcels(&[ID_BYTES; 9_999], |size| *size).all(|parcel| parcel.len() * ID_BYTES <= STATEMENT_BYTES));
    }

    #[test]
    fn rows_are_locked_only_where_there_is_somebody_else() {
        assert_eq!(Dialect::Postgres.render("SELECT 1 [[lock t]]", None, 0), "SELECT 1 FOR NO KEY UPDATE OF t SKIP LOCKED");
        assert_eq!(Dialect::Sqlite.render("SELECT 1 [[lock t]]", None, 0), "SELECT 1 ");
        assert_eq!(Dialect::Postgres.render("SELECT 1 [[hold p]]", None, 0), "SELECT 1 FOR NO KEY UPDATE OF p");
        assert_eq!(Dialect::Sqlite.render("SELECT 1 [[hold p]]", None, 0), "SELECT 1 ");
    }
}
