//! What differs between the two databases in a condition over the registry: how a value inside JSON is found, and what it is.
//!
//! Postgres walks with `->`, which leads from an object to a member and from anything else to nothing. SQLite joins `json_each` with itself,
//! once per key: names of keys are compared as values, so that no character in one means anything. Every text of a condition, key or value,
//! travels as a parameter.

use muster_domain::condition::{Comparison, Kind, Place};

use super::{Dialect, Tx};
use crate::error::StoreError;

/// A value of a device, and how to ask about it.
pub(crate) enum Spot {
    /// Inside a JSON column of Postgres: an expression.
    Jsonb(String),
    /// Inside a JSON column of SQLite: the rows to select from, and the name of the last.
    Each { from: String, last: String },
    /// A column of text.
    Text(String),
}

impl Dialect {
    /// What a JSON column has below these keys, each the name of a parameter.
    pub(crate) fn below(self, column: &str, keys: &[String]) -> Spot {
        match self {
            Self::Postgres => {
                Spot::Jsonb(format!("({column}{})", keys.iter().map(|key| format!(" -> CAST({key} AS text)")).collect::<String>()))
            }
            Self::Sqlite => {
                let tables = (0..keys.len()).map(|n| match n.checked_sub(1) {
                    None => format!("json_each({column}) AS j0"),
                    // What is no object has no members, and a text is not to be read as JSON.
                    Some(before) => format!("json_each(CASE j{before}.type WHEN 'object' THEN j{before}.value END) AS j{n}"),
                });
                let tables = tables.collect::<Vec<_>>().join(", ");
                let names = keys.iter().enumerate().map(|(n, key)| format!("j{n}.key = {key}")).collect::<Vec<_>>().join(" AND ");
                Spot::Each { from: format!("{tables} WHERE {names}"), last: format!("j{}", keys.len().saturating_sub(1)) }
            }
        }
    }

    /// A number that travels as text. Both sides of a comparison are read by the database, so that both are rounded alike.
    pub(crate) fn number(self, parameter: &str) -> String {
        format!("CAST({parameter} AS numeric)")
    }

    /// The texts of a list that travels as JSON.
    pub(crate) fn listed_texts(self, parameter: &str) -> String {
        match self {
            Self::Postgres => format!("(SELECT jsonb_array_elements_text(CAST({parameter} AS jsonb)))"),
            Self::Sqlite => format!("(SELECT value FROM json_each({parameter}))"),
        }
    }

    /// The numbers of a list that travels as JSON.
    pub(crate) fn listed_numbers(self, parameter: &str) -> String {
        match self {
            Self::Postgres => {
                format!("(SELECT CAST(e.text AS numeric) FROM jsonb_array_elements_text(CAST({parameter} AS jsonb)) AS e(text))")
            }
            Self::Sqlite => format!("(SELECT value FROM json_each({parameter}))"),
        }
    }

    /// Whether a text has another one in this place.
    pub(crate) fn holds(self, place: Place, text: &str, part: &str) -> String {
        match (self, place) {
            (Self::Postgres, Place::Start) => format!("starts_with({text}, {part})"),
            (Self::Postgres, Place::End) => format!("right({text}, char_length({part})) = {part}"),
            (Self::Postgres, Place::Anywhere) => format!("strpos({text}, {part}) > 0"),
            (Self::Sqlite, Place::Start) => format!("substr({text}, 1, length({part})) = {part}"),
            (Self::Sqlite, Place::End) => {
                format!("length({text}) >= length({part}) AND substr({text}, length({text}) - length({part}) + 1) = {part}")
            }
            (Self::Sqlite, Place::Anywhere) => format!("instr({text}, {part}) > 0"),
        }
    }
}

impl Spot {
    /// An expression about the value, null where there is none.
    pub(crate) fn about(&self, expression: &str) -> String {
        match self {
            Self::Each { from, .. } => format!("(SELECT {expression} FROM {from})"),
            Self::Jsonb(_) | Self::Text(_) => format!("({expression})"),
        }
    }

    /// Whether there is a value.
    pub(crate) fn defined(&self) -> String {
        match self {
            Self::Each { from, .. } => format!("EXISTS (SELECT 1 FROM {from})"),
            Self::Jsonb(value) | Self::Text(value) => format!("({value} IS NOT NULL)"),
        }
    }

    /// Whether the value is of this kind.
    pub(crate) fn is(&self, kind: Kind) -> String {
        match self {
            Self::Jsonb(value) => {
                let name = match kind {
                    Kind::Bool => "boolean",
                    Kind::Number => "number",
                    Kind::String => "string",
                    Kind::Null => "null",
                    Kind::Object => "object",
                    Kind::Array => "array",
                };
                format!("jsonb_typeof({value}) = '{name}'")
            }
            Self::Each { last, .. } => {
                let names = match kind {
                    Kind::Bool => "'true', 'false'",
                    Kind::Number => "'integer', 'real'",
                    Kind::String => "'text'",
                    Kind::Null => "'null'",
                    Kind::Object => "'object'",
                    Kind::Array => "'array'",
                };
                format!("{last}.type IN ({names})")
            }
            Self::Text(value) if kind == Kind::String => format!("{value} IS NOT NULL"),
            Self::Text(_) => "FALSE".to_owned(),
        }
    }

    /// Whether no value here is of this kind, whatever the device. Nothing is to be compared then, and no parameter to be made for it.
    pub(crate) fn is_never(&self, kind: Kind) -> bool {
        matches!(self, Self::Text(_)) && kind != Kind::String
    }

    /// The value, known to be a string. Strings are ordered byte by byte: SQLite does nothing else, Postgres is told to.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Jsonb(value) => format!("({value} #>> '{{}}') COLLATE \"C\""),
            Self::Each { last, .. } => format!("{last}.atom"),
            Self::Text(value) => value.clone(),
        }
    }

    /// The value, known to be a number.
    pub(crate) fn number(&self) -> String {
        match self {
            Self::Jsonb(value) => format!("CAST({value} #>> '{{}}' AS numeric)"),
            Self::Each { last, .. } => format!("{last}.atom"),
            Self::Text(_) => "NULL".to_owned(),
        }
    }

    /// The value, known to be true or false.
    pub(crate) fn truth(&self) -> String {
        match self {
            Self::Jsonb(value) => format!("CAST({value} #>> '{{}}' AS boolean)"),
            Self::Each { last, .. } => format!("({last}.type = 'true')"),
            Self::Text(_) => "NULL".to_owned(),
        }
    }
}

/// The sign of a comparison.
pub(crate) fn sign(comparison: Comparison) -> &'static str {
    match comparison {
        Comparison::Equal => "=",
        Comparison::NotEqual => "<>",
        Comparison::Less => "<",
        Comparison::LessOrEqual => "<=",
        Comparison::Greater => ">",
        Comparison::GreaterOrEqual => ">=",
    }
}

impl Tx {
    /// For a statement whose way depends on what is asked for: which index, if any, is the planner's to say, once it sees the values.
    pub(crate) async fn plan_for_values(&mut self) -> Result<(), StoreError> {
        match self {
            Self::Postgres(_) => {
                for setting in ["enable_seqscan = on", "enable_bitmapscan = on", "plan_cache_mode = force_custom_plan"] {
                    self.execute(&format!("SET LOCAL {setting}"), &[], None).await?;
                }
            }
            // Plans each statement for itself anyway.
            Self::Sqlite(_) => {}
        }
        Ok(())
    }
}
