//! All that differs between Postgres and SQLite, in one place.
//!
//! Statements are written once, with `$1`, `$2`, … for single values and `[[v]]` where a [`Batch`] of rows stands, which is then the table
//! `v`: arrays through `UNNEST` in Postgres, one JSON text through `json_each` in SQLite. So a batch of any length is one statement with
//! one text, prepared once. `[[lock t]]` locks rows in Postgres and skips those that are locked,
//! `[[hold p]]` waits for them; SQLite has one writer, so there is nobody to lock out.

mod batch;
mod condition;
mod open;
mod tx;

pub(crate) use batch::{Batch, ID_BYTES, STATEMENT_BYTES, VALUE_BYTES, Value, parcels};
pub(crate) use condition::{Spot, sign};
pub(crate) use open::{Pools, open};
pub(crate) use tx::{Reader, Row, Tx};

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

    /// The highest id an attempt at this task can have: the number of an attempt is the last byte.
    pub(crate) fn last_attempt(self, task: &str) -> String {
        match self {
            Self::Postgres => format!("CAST(left(CAST({task} AS text), 34) || 'ff' AS uuid)"),
            Self::Sqlite => format!("unhex(hex(substr({task}, 1, 15)) || 'ff')"),
        }
    }

    /// For each row of `outer` the tasks `t` of `inner` that meet the condition: at most `limit` in all, in the order of their ids within one
    /// row of `outer`, locked, those that are locked left out.
    ///
    /// The range of ids of a row of `outer` is looked up once for each row, whatever the planner thinks of how many there are: in Postgres a
    /// subquery with a limit is never turned into another join; in SQLite `CROSS JOIN` means the order in which it is written.
    pub(crate) fn tasks_of_each(self, outer: &str, inner: &str, columns: &str, condition: &str, limit: &str) -> String {
        match self {
            Self::Postgres => format!(
                "SELECT x.* FROM {outer} CROSS JOIN LATERAL \
                 (SELECT {columns} FROM {inner} WHERE {condition} ORDER BY t.id LIMIT {limit} [[lock t]]) x LIMIT {limit}"
            ),
            Self::Sqlite => format!("SELECT {columns} FROM {outer} CROSS JOIN {inner} WHERE {condition} LIMIT {limit}"),
        }
    }

    /// The rows `t` of a table whose key lies in a range of `v`, from `low` to `high`, as a part of `FROM`. As above each range is looked up
    /// for itself: a plan made while the table was empty would read all of it and compare each row with every range.
    pub(crate) fn in_ranges(self, table: &str, key: &str) -> String {
        let within = format!("t.{key} >= v.low AND t.{key} <= v.high");
        match self {
            Self::Postgres => format!("[[v]] CROSS JOIN LATERAL (SELECT t.* FROM {table} t WHERE {within} OFFSET 0) t"),
            Self::Sqlite => format!("[[v]] CROSS JOIN {table} t ON {within}"),
        }
    }

    /// Joins, as `alias`, the row of `table` that meets the condition and has the highest `order`, or nothing. `condition` makes the condition
    /// for an alias. The index over what is compared and the order is gone to once for each row: left to the planner, PostgreSQL reads the
    /// whole table for a batch while it knows nothing of its size.
    pub(crate) fn left_join_last(self, table: &str, alias: &str, condition: impl Fn(&str) -> String, order: &str) -> String {
        match self {
            Self::Postgres => format!(
                " LEFT JOIN LATERAL (SELECT y.* FROM {table} y WHERE {} ORDER BY y.{order} DESC LIMIT 1) {alias} ON true",
                condition("y")
            ),
            Self::Sqlite => format!(
                " LEFT JOIN {table} {alias} ON {} AND {alias}.{order} = (SELECT max(y.{order}) FROM {table} y WHERE {})",
                condition(alias),
                condition("y")
            ),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_locked_only_where_there_is_somebody_else() {
        assert_eq!(Dialect::Postgres.render("SELECT 1 [[lock t]]", None, 0), "SELECT 1 FOR NO KEY UPDATE OF t SKIP LOCKED");
        assert_eq!(Dialect::Sqlite.render("SELECT 1 [[lock t]]", None, 0), "SELECT 1 ");
        assert_eq!(Dialect::Postgres.render("SELECT 1 [[hold p]]", None, 0), "SELECT 1 FOR NO KEY UPDATE OF p");
        assert_eq!(Dialect::Sqlite.render("SELECT 1 [[hold p]]", None, 0), "SELECT 1 ");
    }
}
