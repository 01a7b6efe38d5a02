//! Reading alerts.

use std::collections::BTreeMap;

use muster_domain::alert::{DeferredFor, indicator_key};
use muster_wire::alert::{AlertCondition, AlertShape, AlertVia, Severity};
use muster_wire::http::{AlertCounts, AlertOutcome, AlertView, MAX_PAGE, ParkedState};
use muster_wire::{AlertId, ConsentId, StormId};
use time::OffsetDateTime;
use uuid::Uuid;

use super::AlertFilter;
use super::take::DUPLICATES;
use crate::collections::{collection_id, number, parse};
use crate::connect::Store;
use crate::device_events::lowest_id;
use crate::dialect::{Row, Value};
use crate::error::{StoreError, run};
use crate::instant::{from_ms, maybe_from_ms};

/// A word of a closed list, as it stands in the database.
pub(super) fn word<T>(what: &str, word: &str, known: Option<T>) -> Result<T, StoreError> {
    known.ok_or_else(|| StoreError::Inconsistent(format!("{what} {word:?}")))
}

pub(super) fn outcome(text: &str) -> Result<AlertOutcome, StoreError> {
    word("the outcome of an alert", text, AlertOutcome::from_word(text))
}

/// When it is decided again, and why not now.
pub(super) fn due(at: Option<OffsetDateTime>, cause: Option<String>) -> Result<Option<(OffsetDateTime, DeferredFor)>, StoreError> {
    let (Some(at), Some(cause)) = (at, cause) else { return Ok(None) };
    let known = DeferredFor::ALL.iter().copied().find(|known| known.as_str() == cause);
    Ok(Some((at, word("why an alert waits", &cause, known)?)))
}

/// The columns of a view, of `alert AS a` and `alert_job AS j`. How often it occurred stands with its collection.
const COLUMNS: &str = "a.id, a.source, a.event_id, a.device_id, a.indicator, a.condition, a.severity, a.shape, a.via, a.tenant, a.site, a.model, \
    a.version, a.fired_at, a.time_inferred, a.received_at, a.resolved_at, a.origin_alert_id, a.outcome, a.why, a.decided_at, a.due_at, a.rule, \
    a.catalogue_version, a.consent_id, a.collection_id, a.storm_id, a.shadow, a.description, a.traceparent, \
    (SELECT j.occurrences FROM alert_job j WHERE j.device_id = a.device_id AND j.indicator_key = a.indicator_key \
    AND j.task_id >= a.collection_id ORDER BY j.task_id LIMIT 1)";

fn view(row: &Row) -> Result<AlertView, StoreError> {
    let text = |place: usize| row.get::<String>(place);
    let maybe = |place: usize| row.get::<Option<String>>(place);
    let (condition, severity, shape, via) = (text(5)?, maybe(6)?, text(7)?, text(8)?);
    let severity = severity.map(|severity| word("a severity", &severity, Severity::from_word(&severity))).transpose()?;
    Ok(AlertView {
        id: AlertId::from_uuid(row.get(0)?),
        source: text(1)?,
        event_id: text(2)?,
        device: text(3)?,
        indicator: text(4)?,
        condition: word("the condition of an alert", &condition, AlertCondition::from_word(&condition))?,
        severity,
        shape: word("the shape of an alert", &shape, AlertShape::from_word(&shape))?,
        via: word("the way of an alert", &via, AlertVia::from_word(&via))?,
        tenant: maybe(9)?,
        site: maybe(10)?,
        model: maybe(11)?,
        version: maybe(12)?,
        fired_at: from_ms(row.get(13)?)?,
        time_inferred: row.get::<i16>(14)? == 1,
        received_at: from_ms(row.get(15)?)?,
        resolved_at: maybe_from_ms(row.get(16)?)?,
        origin_alert_id: maybe(17)?,
        outcome: outcome(&text(18)?)?,
        why: text(19)?,
        decided_at: from_ms(row.get(20)?)?,
        due_at: maybe_from_ms(row.get(21)?)?,
        rule: maybe(22)?,
        catalogue_version: number("the version of the catalogue", row.get::<i64>(23)?)?,
        consent: row.get::<Option<Uuid>>(24)?.map(ConsentId::from_uuid),
        collection: row.get::<Option<Uuid>>(25)?.map(collection_id).transpose()?,
        storm: row.get::<Option<Uuid>>(26)?.map(StormId::from_uuid),
        shadow: maybe(27)?.map(|text| parse("what rules in shadow would have done", &text)).transpose()?.unwrap_or_default(),
        description: maybe(28)?,
        traceparent: maybe(29)?,
        occurrences: row.get::<Option<i64>>(30)?.map_or(Ok(1), |count| number("a number of alerts", count))?,
        extensions: BTreeMap::new(),
        data: None,
    })
}

impl Store {
    /// Alerts, newest first.
    ///
    /// # Errors
    /// The database's.
    pub async fn alerts(&self, filter: &AlertFilter) -> Result<Vec<AlertView>, StoreError> {
        let key = filter.indicator.as_deref().map(indicator_key);
        let outcome = filter.outcome.map(AlertOutcome::as_str);
        let asked = [
            ("a.id <", filter.before.map(|id| Value::Id(id.uuid()))),
            ("a.id >=", filter.since.map(|since| Value::Id(lowest_id(since)))),
            ("a.storm_id =", filter.storm.map(|id| Value::Id(id.uuid()))),
            ("a.collection_id =", filter.collection.map(|id| Value::Id(id.uuid()))),
            ("a.device_id =", filter.device.as_ref().map(|device| Value::Text(device.as_str()))),
            ("a.indicator_key =", key.as_deref().map(Value::Text)),
            ("a.outcome =", outcome.map(Value::Text)),
            ("a.tenant =", filter.tenant.as_deref().map(Value::Text)),
        ];
        // Only what is asked for stands in the statement, so that its index is found.
        let mut values = vec![Value::Number(i64::from(filter.limit.min(MAX_PAGE)))];
        let mut conditions = vec!["TRUE".to_owned()];
        for (condition, value) in asked {
            if let Some(value) = value {
                values.push(value);
                conditions.push(format!("{condition} ${}", values.len()));
            }
        }
        let sql = format!("SELECT {COLUMNS} FROM alert a WHERE {} ORDER BY a.id DESC LIMIT $1", conditions.join(" AND "));
        run("reading alerts", || async { self.reader().await?.fetch(&sql, &values, None).await?.iter().map(view).collect() }).await
    }

    /// One alert with its data and attributes.
    ///
    /// # Errors
    /// The database's.
    pub async fn alert(&self, id: AlertId) -> Result<Option<AlertView>, StoreError> {
        run("reading an alert", || async {
            let sql = format!("SELECT {COLUMNS}, a.extensions, a.data FROM alert a WHERE a.id = $1");
            let rows = self.reader().await?.fetch(&sql, &[Value::Id(id.uuid())], None).await?;
            let Some(row) = rows.first() else { return Ok(None) };
            let extensions = row.get::<Option<String>>(31)?.map(|text| parse("attributes of an alert", &text)).transpose()?;
            let data: String = row.get(32)?;
            // What is no JSON any more, because a character was replaced that no database takes, is shown as a text.
            let data = serde_json::from_str(&data).unwrap_or(serde_json::Value::String(data));
            Ok(Some(AlertView { extensions: extensions.unwrap_or_default(), data: Some(data), ..view(row)? }))
        })
        .await
    }

    /// How many alerts came to what, since then. Repetitions are counted by the day.
    ///
    /// # Errors
    /// The database's.
    pub async fn alert_counts(&self, since: OffsetDateTime) -> Result<AlertCounts, StoreError> {
        run("counting alerts", || async {
            let mut reader = self.reader().await?;
            let mut counts = AlertCounts::default();
            // One spelling of each indicator: those that are not in the catalogue come in any.
            let sql = "SELECT a.outcome, min(a.indicator), count(*) FROM alert a WHERE a.id >= $1 GROUP BY a.outcome, a.indicator_key";
            for row in reader.fetch(sql, &[Value::Id(lowest_id(since))], None).await? {
                let count: u64 = number("a number of alerts", row.get::<i64>(2)?)?;
                *counts.outcomes.entry(row.get(0)?).or_default() += count;
                *counts.indicators.entry(row.get(1)?).or_default() += count;
            }
            let parked = format!("SELECT count(*) FROM parked_alert WHERE state = '{}'", ParkedState::Parked);
            let rows = reader.fetch(&parked, &[], None).await?;
            counts.parked = rows.first().map_or(Ok(0), |row| number("a number of messages", row.get::<i64>(0)?))?;
            let sql = "SELECT CAST(COALESCE(sum(used), 0) AS bigint) FROM alert_use WHERE scope = $1 AND day >= $2";
            let values = [Value::Text(DUPLICATES), Value::Number(muster_domain::alert::day(since))];
            let rows = reader.fetch(sql, &values, None).await?;
            counts.duplicates = rows.first().map_or(Ok(0), |row| number("a number of repetitions", row.get::<i64>(0)?))?;
            Ok(counts)
        })
        .await
    }
}
