//! Many rows in one statement, and the values of a statement.

use sqlx::Arguments as _;
use sqlx::postgres::PgArguments;
use sqlx::sqlite::SqliteArguments;
use uuid::Uuid;

use super::Dialect;
use crate::error::StoreError;

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
    MaybeIds(Vec<Option<Uuid>>),
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

    pub(crate) fn maybe_ids(mut self, name: &'static str, values: impl IntoIterator<Item = Option<Uuid>>) -> Self {
        self.columns.push((name, Column::MaybeIds(values.into_iter().collect())));
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
    pub(super) fn table(&self, dialect: Dialect, first: usize) -> String {
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
                    Column::Ids(_) | Column::MaybeIds(_) => format!("unhex(value->>{i}) AS {name}"),
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
            Self::MaybeIds(values) => values.len(),
            Self::Texts(values) => values.len(),
            Self::Smalls(values) => values.len(),
            Self::Numbers(values) => values.len(),
        }
    }

    /// Without any value. A list of ids is never that: it says how many rows there are.
    fn is_bare(&self) -> bool {
        match self {
            Self::Ids(_) => false,
            Self::MaybeIds(values) => values.iter().all(Option::is_none),
            Self::Texts(values) => values.iter().all(Option::is_none),
            Self::Smalls(values) => values.iter().all(Option::is_none),
            Self::Numbers(values) => values.iter().all(Option::is_none),
        }
    }

    fn postgres_type(&self) -> &'static str {
        match self {
            Self::Ids(_) | Self::MaybeIds(_) => "uuid",
            Self::Texts(_) => "text",
            Self::Smalls(_) => "int2",
            Self::Numbers(_) => "int8",
        }
    }

    fn write_json(&self, row: usize, text: &mut Vec<u8>) -> Result<(), StoreError> {
        let written = match self {
            Self::MaybeIds(values) => serde_json::to_writer(text, &values[row].map(|id| id.simple().to_string())),
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

pub(super) fn postgres_arguments(values: &[Value<'_>], batch: Option<&Batch<'_>>) -> Result<PgArguments, StoreError> {
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
            Column::MaybeIds(values) => arguments.add(values.as_slice()),
            Column::Texts(values) => arguments.add(values.as_slice()),
            Column::Smalls(values) => arguments.add(values.as_slice()),
            Column::Numbers(values) => arguments.add(values.as_slice()),
        }
        .map_err(sqlx::Error::Encode)?;
    }
    Ok(arguments)
}

pub(super) fn sqlite_arguments(values: &[Value<'_>], batch: Option<&Batch<'_>>) -> Result<SqliteArguments, StoreError> {
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
    fn a_statement_stays_within_its_bytes() {
        let sizes = [STATEMENT_BYTES, 1, STATEMENT_BYTES - 1, STATEMENT_BYTES + 5, 10, 10];
        let divided: Vec<&[usize]> = parcels(&sizes, |size| *size).collect();
        assert_eq!(divided, [&sizes[..1], &sizes[1..3], &sizes[3..4], &sizes[4..]]);
        assert_eq!(parcels(&[] as &[usize], |size| *size).count(), 0);
        assert!(parcels(&[ID_BYTES; 9_999], |size| *size).all(|parcel| parcel.len() * ID_BYTES <= STATEMENT_BYTES));
    }
}
