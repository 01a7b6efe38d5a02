//! Conditions over the registry as SQL, and the devices that meet them.
//!
//! True, false and undefined of a condition are true, false and null of SQL, whose `AND`, `OR` and `NOT` are the same. Where no `NOT` stands
//! above a test, undefined and false have one outcome, and Postgres may be asked by containment (`@>`), for which tags and reported
//! properties have an index.

use muster_domain::condition::{Column, Comparison, Condition, Kind, Literal, Path, Test};
use muster_wire::DeviceId;
use muster_wire::http::PresenceState;
use serde_json::{Value as Json, json};

use crate::apply::device_id;
use crate::connect::Store;
use crate::devices::MAX_IDS;
use crate::dialect::{Batch, Dialect, Spot, Tx, VALUE_BYTES, Value, parcels, sign};
use crate::error::{StoreError, run};
use crate::presence::{OFFLINE, ONLINE};

/// Longest list that is asked for by containment, a look into the index for each; a longer one is a table that rows are compared with.
const MAX_CONTAINED: usize = 32;

/// What is neither true nor false.
const UNDEFINED: &str = "CAST(NULL AS boolean)";

/// A condition as SQL over `device AS d`, with its parameters.
struct Compiled {
    sql: String,
    values: Vec<String>,
}

impl Compiled {
    /// Its first parameter is number `first`.
    fn new(condition: &Condition, dialect: Dialect, first: usize) -> Self {
        let mut compiler = Compiler { dialect, first, values: Vec::new() };
        let sql = compiler.condition(condition, true);
        Self { sql, values: compiler.values }
    }

    fn values(&self) -> impl Iterator<Item = Value<'_>> {
        self.values.iter().map(|value| Value::Text(value))
    }
}

struct Compiler {
    dialect: Dialect,
    first: usize,
    values: Vec<String>,
}

impl Compiler {
    fn parameter(&mut self, value: String) -> String {
        self.values.push(value);
        format!("${}", self.first + self.values.len() - 1)
    }

    fn text(&mut self, value: &str) -> String {
        format!("CAST({} AS text)", self.parameter(value.to_owned()))
    }

    /// `selects`: whether undefined may as well be false.
    fn condition(&mut self, condition: &Condition, selects: bool) -> String {
        match condition {
            Condition::All(all) => self.joined(all, selects, " AND "),
            Condition::Any(any) => self.joined(any, selects, " OR "),
            Condition::Not(inner) => format!("(NOT {})", self.condition(inner, false)),
            Condition::Test(path, test) => self.test(path, test, selects),
        }
    }

    fn joined(&mut self, members: &[Condition], selects: bool, word: &str) -> String {
        let members: Vec<String> = members.iter().map(|member| self.condition(member, selects)).collect();
        balanced(&members, word)
    }

    fn test(&mut self, path: &Path, test: &Test, selects: bool) -> String {
        if selects
            && self.dialect == Dialect::Postgres
            && let Some((column, keys, literals)) = contained(path, test)
        {
            let members: Vec<String> =
                literals.iter().map(|literal| format!("{column} @> CAST({} AS jsonb)", self.document(keys, literal))).collect();
            return balanced(&members, " OR ");
        }
        let spot = self.spot(path);
        match test {
            Test::Defined => spot.defined(),
            Test::Is(kind) => format!("COALESCE({}, FALSE)", spot.about(&spot.is(*kind))),
            Test::Compare(comparison, literal) => self.compare(&spot, *comparison, literal),
            Test::In(list) => self.is_one_of(&spot, list),
            Test::Holds(place, part) => {
                let part = self.text(part);
                let holds = self.dialect.holds(*place, &spot.text(), &part);
                spot.about(&when(&spot, &[(Kind::String, holds)]))
            }
        }
    }

    fn spot(&mut self, path: &Path) -> Spot {
        let mut below = |column, keys: &[String]| {
            let keys: Vec<String> = keys.iter().map(|key| self.parameter(key.clone())).collect();
            self.dialect.below(column, &keys)
        };
        match path {
            Path::Tags(keys) => below("d.tags", keys),
            Path::Reported(keys) => below("d.reported", keys),
            Path::Column(Column::DeviceId) => Spot::Text("d.id".to_owned()),
            Path::Column(Column::Parent) => Spot::Text("d.parent".to_owned()),
            Path::Column(Column::AgentName) => Spot::Text("d.agent_name".to_owned()),
            Path::Column(Column::AgentVersion) => Spot::Text("d.agent_version".to_owned()),
            Path::Column(Column::Presence) => {
                let word = PresenceState::as_str;
                let (online, offline, unknown) = (word(PresenceState::Online), word(PresenceState::Offline), word(PresenceState::Unknown));
                Spot::Text(format!("CASE d.presence WHEN {ONLINE} THEN '{online}' WHEN {OFFLINE} THEN '{offline}' ELSE '{unknown}' END"))
            }
        }
    }

    fn compare(&mut self, spot: &Spot, comparison: Comparison, literal: &Literal) -> String {
        if spot.is_never(literal.kind()) {
            return UNDEFINED.to_owned();
        }
        let sign = sign(comparison);
        let compared = match literal {
            Literal::Text(text) => format!("{} {sign} {}", spot.text(), self.text(text)),
            Literal::Number(number) => {
                let parameter = self.parameter(json!(number).to_string());
                format!("{} {sign} {}", spot.number(), self.dialect.number(&parameter))
            }
            Literal::Bool(truth) => format!("{} {sign} {}", spot.truth(), word(*truth)),
            Literal::Null => word(comparison == Comparison::Equal).to_owned(),
        };
        spot.about(&when(spot, &[(literal.kind(), compared)]))
    }

    fn is_one_of(&mut self, spot: &Spot, list: &[Literal]) -> String {
        let of = |kind: Kind| list.iter().filter(move |literal| literal.kind() == kind);
        let listed = |kind: Kind| Json::Array(of(kind).map(as_json).collect()).to_string();
        let kinds: Vec<Kind> =
            [Kind::String, Kind::Number, Kind::Bool, Kind::Null].into_iter().filter(|kind| of(*kind).next().is_some()).collect();
        let mut cases = Vec::new();
        for kind in kinds.iter().filter(|kind| !spot.is_never(**kind)) {
            let found = match kind {
                Kind::String => {
                    let parameter = self.parameter(listed(*kind));
                    format!("{} IN {}", spot.text(), self.dialect.listed_texts(&parameter))
                }
                Kind::Number => {
                    let parameter = self.parameter(listed(*kind));
                    format!("{} IN {}", spot.number(), self.dialect.listed_numbers(&parameter))
                }
                Kind::Bool => {
                    let has = |truth| list.contains(&Literal::Bool(truth));
                    if has(true) && has(false) { word(true).to_owned() } else { format!("{} = {}", spot.truth(), word(has(true))) }
                }
                _ => word(true).to_owned(),
            };
            // Beside a literal of another kind the comparison is undefined, and so is the whole unless one is equal.
            cases.push((*kind, if kinds.len() > 1 { format!("NULLIF({found}, FALSE)") } else { found }));
        }
        spot.about(&when(spot, &cases))
    }

    /// `{"a": {"b": literal}}`, as a parameter.
    fn document(&mut self, keys: &[String], literal: &Literal) -> String {
        let document = keys.iter().rev().fold(as_json(literal), |inner, key| json!({ key: inner }));
        self.parameter(document.to_string())
    }
}

/// Column, keys and literals of a test that a JSON column answers by containment.
fn contained<'a>(path: &'a Path, test: &'a Test) -> Option<(&'static str, &'a [String], &'a [Literal])> {
    let literals = match test {
        Test::Compare(Comparison::Equal, literal) => std::slice::from_ref(literal),
        Test::In(list) if list.len() <= MAX_CONTAINED => list,
        _ => return None,
    };
    match path {
        Path::Tags(keys) => Some(("d.tags", keys, literals)),
        Path::Reported(keys) => Some(("d.reported", keys, literals)),
        Path::Column(_) => None,
    }
}

/// The outcome for each kind the value may be of; undefined for every other. A column of text is of one kind, or null.
fn when(spot: &Spot, cases: &[(Kind, String)]) -> String {
    if let Spot::Text(_) = spot {
        let text = cases.iter().find(|(kind, _)| *kind == Kind::String);
        return text.map_or_else(|| UNDEFINED.to_owned(), |(_, outcome)| outcome.clone());
    }
    let cases: String = cases.iter().map(|(kind, outcome)| format!(" WHEN {} THEN {outcome}", spot.is(*kind))).collect();
    format!("CASE{cases} END")
}

fn word(truth: bool) -> &'static str {
    if truth { "TRUE" } else { "FALSE" }
}

fn as_json(literal: &Literal) -> Json {
    match literal {
        Literal::Text(text) => json!(text),
        Literal::Number(number) => json!(number),
        Literal::Bool(truth) => json!(truth),
        Literal::Null => Json::Null,
    }
}

/// Joined as a tree of small depth: SQLite refuses expressions deeper than a thousand, and a chain is as deep as it is long.
fn balanced(members: &[String], word: &str) -> String {
    match members {
        [one] => one.clone(),
        _ => {
            let (left, right) = members.split_at(members.len() / 2);
            format!("({}{word}{})", balanced(left, word), balanced(right, word))
        }
    }
}

impl Store {
    /// Ids of the devices that meet the condition, sorted, at most 10,000 of them behind `after`.
    ///
    /// # Errors
    /// The database's.
    pub async fn matching_devices(&self, condition: &Condition, after: Option<&DeviceId>, limit: u32) -> Result<Vec<DeviceId>, StoreError> {
        run("looking for devices", || async {
            let mut tx = self.begin_read().await?;
            tx.plan_for_values().await?;
            let compiled = Compiled::new(condition, tx.dialect(), 3);
            let sql = page_sql(&compiled);
            let mut values = vec![Value::Text(after.map_or("", DeviceId::as_str)), Value::Number(limit.min(MAX_IDS).into())];
            values.extend(compiled.values());
            tx.fetch(&sql, &values, None).await?.iter().map(|row| device_id(row.get(0)?)).collect()
        })
        .await
    }

    /// Those of the devices that meet the condition, in no order.
    ///
    /// # Errors
    /// The database's.
    pub async fn matching_among(&self, condition: &Condition, devices: &[DeviceId]) -> Result<Vec<DeviceId>, StoreError> {
        run("looking among devices", || async {
            let mut tx = self.begin_read().await?;
            matching_among_in(&mut tx, condition, devices).await
        })
        .await
    }

    /// How many devices meet the condition.
    ///
    /// # Errors
    /// The database's.
    pub async fn count_matching(&self, condition: &Condition) -> Result<u64, StoreError> {
        run("counting devices", || async {
            let mut tx = self.begin_read().await?;
            tx.plan_for_values().await?;
            let compiled = Compiled::new(condition, tx.dialect(), 1);
            let sql = format!("SELECT COUNT(*) FROM device d WHERE {}", compiled.sql);
            let values: Vec<Value<'_>> = compiled.values().collect();
            let rows = tx.fetch(&sql, &values, None).await?;
            let count: i64 = rows.first().map(|row| row.get(0)).transpose()?.unwrap_or_default();
            Ok(u64::try_from(count).unwrap_or_default())
        })
        .await
    }

    /// How Postgres goes about [`Store::matching_devices`], line by line, with rows and time; the statement is run for it.
    ///
    /// # Errors
    /// [`StoreError::Misuse`] on SQLite; otherwise the database's.
    pub async fn explain_matching(&self, condition: &Condition, limit: u32) -> Result<Vec<String>, StoreError> {
        if self.dialect() == Dialect::Sqlite {
            return Err(StoreError::Misuse("only Postgres explains what it does".to_owned()));
        }
        run("explaining a condition", || async {
            let mut tx = self.begin_read().await?;
            tx.plan_for_values().await?;
            let compiled = Compiled::new(condition, tx.dialect(), 3);
            let sql = format!("EXPLAIN (ANALYZE, BUFFERS) {}", page_sql(&compiled));
            let mut values = vec![Value::Text(""), Value::Number(limit.min(MAX_IDS).into())];
            values.extend(compiled.values());
            tx.fetch(&sql, &values, None).await?.iter().map(|row| row.get(0)).collect()
        })
        .await
    }
}

/// Those of the devices that meet the condition, in no order, within a transaction.
pub(crate) async fn matching_among_in(tx: &mut Tx, condition: &Condition, devices: &[DeviceId]) -> Result<Vec<DeviceId>, StoreError> {
    let compiled = Compiled::new(condition, tx.dialect(), 1);
    let sql = format!("SELECT d.id FROM [[v]] JOIN device d ON d.id = v.id WHERE {}", compiled.sql);
    let values: Vec<Value<'_>> = compiled.values().collect();
    let mut matching = Vec::new();
    for chunk in parcels(devices, |device| VALUE_BYTES + device.as_str().len()) {
        let batch = Batch::default().texts("id", chunk.iter().map(|device| Some(device.as_str())));
        for row in tx.fetch(&sql, &values, Some(&batch)).await? {
            matching.push(device_id(row.get(0)?)?);
        }
    }
    Ok(matching)
}

fn page_sql(compiled: &Compiled) -> String {
    format!("SELECT d.id FROM device d WHERE d.id > $1 AND {} ORDER BY d.id LIMIT $2", compiled.sql)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sql(text: &str, dialect: Dialect) -> Compiled {
        Compiled::new(&text.parse().expect(text), dialect, 1)
    }

    #[test]
    fn equality_is_asked_of_the_index_only_where_undefined_is_as_good_as_false() {
        let plain = sql("tags.a.b = 'x'", Dialect::Postgres);
        assert_eq!(plain.sql, "d.tags @> CAST($1 AS jsonb)");
        assert_eq!(plain.values, [r#"{"a":{"b":"x"}}"#]);
        assert!(!sql("NOT tags.a.b = 'x'", Dialect::Postgres).sql.contains("@>"));
        assert!(!sql("tags.a.b = 'x'", Dialect::Sqlite).sql.contains("@>"));
        let list = |count: usize| format!("reported.v IN [{}]", vec!["1"; count].join(","));
        assert!(sql(&list(MAX_CONTAINED), Dialect::Postgres).sql.contains("@>"));
        assert!(!sql(&list(MAX_CONTAINED + 1), Dialect::Postgres).sql.contains("@>"));
    }

    #[test]
    fn no_text_of_a_condition_is_part_of_the_statement() {
        for dialect in [Dialect::Postgres, Dialect::Sqlite] {
            let hostile =
                "tags['k-e-y'].x >= 'v-a-l' AND NOT reported['k-e-y'] IN ['v-a-l', 77123] OR CONTAINS(deviceId, 'v-a-l') OR tags.n < 77123";
            let compiled = sql(hostile, dialect);
            assert!(!["k-e-y", "v-a-l", "77123"].iter().any(|text| compiled.sql.contains(text)), "{}", compiled.sql);
        }
    }
}
