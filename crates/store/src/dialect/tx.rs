//! Running statements: transactions, reads, and the rows they give.

use sqlx::pool::PoolConnection;
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Decode, Executor, Postgres, Row as _, Sqlite, Transaction, Type};

use super::batch::{postgres_arguments, sqlite_arguments};
use super::{Batch, Dialect, Value};
use crate::error::StoreError;

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
