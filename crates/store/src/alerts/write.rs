//! Writes what was decided: a fixed number of statements, each with as many rows as fit.

use std::borrow::Cow;
use std::collections::HashSet;

use muster_domain::alert::{DeferredFor, day};
use muster_wire::alert::MAX_ALERT_BYTES;
use muster_wire::http::{AlertOutcome, ConsentKind, Origin, Priority, Rollout, ShadowView, TargetView};
use muster_wire::{AlertId, CollectionId, ConsentId, DeviceId, StormId, TaskId};
use time::OffsetDateTime;
use uuid::Uuid;

use super::consider::{Verdict, before_condition, before_values, reason};
use super::facts::{Case, LastJob, Of, Pair, Stratum};
use super::ledger::Ledger;
use super::{AlertLimits, ReceivedAlert};
use crate::create::{NewCollection, NewTask};
use crate::create_many::{OfOne, create_of_one};
use crate::dialect::{Batch, ID_BYTES, Tx, VALUE_BYTES, Value, parcels};
use crate::error::StoreError;
use crate::instant::to_ms;
use crate::text::bounded;

/// Who makes the collections of alerts.
pub(super) const CREATOR: &str = "alerts";
/// Longest reason of a decision, in characters.
pub(super) const MAX_WHY_CHARS: usize = 1_000;
/// Longest text of an event that is kept beside its data, in characters.
pub(super) const MAX_ALERT_TEXT_CHARS: usize = 2_000;
/// A healthy device is looked for so long after the first of a stratum: some that are healthy at first are not for long.
pub(super) const TWIN_AFTER: std::time::Duration = std::time::Duration::from_secs(5);

/// An id of this moment; within one batch the ids are in the order of the numbers.
pub(super) fn ordered_id(at: OffsetDateTime, number: usize) -> Uuid {
    let ms = u64::try_from(to_ms(at)).unwrap_or_default();
    // The first two bytes behind the time hold twelve bits beside the version, the third six beside the variant.
    let [high, low] = u16::try_from((number >> 6) & 0xfff).unwrap_or_default().to_be_bytes();
    let mut bytes: [u8; 10] = *Uuid::new_v4().as_bytes().last_chunk().expect("a UUID has 16 bytes");
    bytes[..3].copy_from_slice(&[high, low, u8::try_from(number & 0x3f).unwrap_or_default()]);
    uuid::Builder::from_unix_timestamp_millis(ms, &bytes).into_uuid()
}

/// One row of `alert`.
pub(super) struct AlertRow<'a> {
    pub(super) id: AlertId,
    pub(super) digest: Uuid,
    pub(super) received: &'a ReceivedAlert<'a>,
    pub(super) device: String,
    pub(super) indicator: String,
    pub(super) key: String,
    pub(super) tenant: Option<String>,
    pub(super) site: Option<String>,
    pub(super) model: Option<String>,
    pub(super) version: Option<String>,
    pub(super) fired_at: OffsetDateTime,
    pub(super) resolved_at: Option<OffsetDateTime>,
    pub(super) outcome: AlertOutcome,
    pub(super) why: String,
    pub(super) due: Option<(OffsetDateTime, DeferredFor)>,
    pub(super) rule: Option<String>,
    pub(super) consent: Option<ConsentId>,
    pub(super) collection: Option<CollectionId>,
    pub(super) storm: Option<StormId>,
    pub(super) in_sample: bool,
    pub(super) shadow: Vec<ShadowView>,
}

/// Texts of a row that have to be made.
struct Made<'a> {
    source: Cow<'a, str>,
    event_id: Cow<'a, str>,
    why: Cow<'a, str>,
    origin: Option<Cow<'a, str>>,
    description: Option<Cow<'a, str>>,
    traceparent: Option<Cow<'a, str>>,
    shadow: Option<String>,
    extensions: Option<String>,
    data: Cow<'a, str>,
}

impl<'a> Made<'a> {
    fn new(row: &'a AlertRow<'a>) -> Self {
        let alert = row.received.alert;
        let text = |text: &'a str| bounded(text, MAX_ALERT_TEXT_CHARS);
        let json = |value: Result<String, serde_json::Error>| value.ok();
        Self {
            source: text(&alert.source),
            event_id: text(&alert.id),
            why: bounded(&row.why, MAX_WHY_CHARS),
            origin: alert.origin_alert_id.as_deref().map(text),
            description: alert.description.as_deref().map(text),
            traceparent: alert.traceparent.as_deref().map(text),
            shadow: (!row.shadow.is_empty()).then(|| serde_json::to_string(&row.shadow)).and_then(json),
            extensions: (!alert.extensions.is_empty()).then(|| serde_json::to_string(&alert.extensions)).and_then(json),
            data: bounded(&alert.data, MAX_ALERT_BYTES),
        }
    }
}

pub(super) async fn write_alerts(tx: &mut Tx, rows: &[AlertRow<'_>], version: u32, now: OffsetDateTime) -> Result<(), StoreError> {
    const SQL: &str = "INSERT INTO alert (id, digest, source, event_id, device_id, indicator, indicator_key, condition, severity, shape, via, \
        tenant, site, model, version, fired_at, time_inferred, received_at, resolved_at, origin_alert_id, outcome, why, decided_at, due_at, \
        deferred_for, rule, catalogue_version, consent_id, collection_id, storm_id, in_sample, shadow, description, traceparent, extensions, data) \
        SELECT v.id, v.digest, v.source, v.event_id, v.device, v.indicator, v.key, v.condition, v.severity, v.shape, v.via, v.tenant, v.site, \
        v.model, v.version, v.fired_at, v.time_inferred, v.received_at, v.resolved_at, v.origin, v.outcome, v.why, $1, v.due_at, v.deferred_for, \
        v.rule, $2, v.consent, v.collection, v.storm, v.in_sample, v.shadow, v.description, v.traceparent, v.extensions, v.data FROM [[v]]";
    let values = [Value::Number(to_ms(now)), Value::Number(i64::from(version))];
    let rows: Vec<(&AlertRow<'_>, Made<'_>)> = rows.iter().map(|row| (row, Made::new(row))).collect();
    let long = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    let bytes = |(row, made): &(&AlertRow<'_>, Made<'_>)| {
        let texts =
            made.source.len() + made.event_id.len() + made.why.len() + made.data.len() + long(&made.shadow) + long(&made.extensions);
        let maybe = [&made.origin, &made.description, &made.traceparent].map(|text| text.as_ref().map_or(0, |text| text.len()));
        let words = long(&row.tenant) + long(&row.site) + long(&row.model) + long(&row.version) + long(&row.rule);
        let names = row.device.len() + row.indicator.len() + row.key.len();
        // Thirty-four columns, of which the words of closed lists are short.
        5 * ID_BYTES + 29 * VALUE_BYTES + 6 * 8 + 60 + texts + maybe.iter().sum::<usize>() + words + names
    };
    for parcel in parcels(&rows, bytes) {
        let rows = || parcel.iter().map(|(row, _)| *row);
        let made = || parcel.iter().map(|(_, made)| made);
        let alerts = || rows().map(|row| row.received.alert);
        let batch = Batch::default()
            .ids("id", rows().map(|row| row.id.uuid()))
            .ids("digest", rows().map(|row| row.digest))
            .texts("source", made().map(|made| Some(&*made.source)))
            .texts("event_id", made().map(|made| Some(&*made.event_id)))
            .texts("device", rows().map(|row| Some(row.device.as_str())))
            .texts("indicator", rows().map(|row| Some(row.indicator.as_str())))
            .texts("key", rows().map(|row| Some(row.key.as_str())))
            .texts("condition", alerts().map(|alert| Some(alert.condition.as_str())))
            .texts("severity", alerts().map(|alert| alert.severity.map(|severity| severity.as_str())))
            .texts("shape", alerts().map(|alert| Some(alert.shape.as_str())))
            .texts("via", rows().map(|row| Some(row.received.via.as_str())))
            .texts("tenant", rows().map(|row| row.tenant.as_deref()))
            .texts("site", rows().map(|row| row.site.as_deref()))
            .texts("model", rows().map(|row| row.model.as_deref()))
            .texts("version", rows().map(|row| row.version.as_deref()))
            .numbers("fired_at", rows().map(|row| Some(to_ms(row.fired_at))))
            .smalls("time_inferred", alerts().map(|alert| Some(i16::from(alert.time_inferred))))
            .numbers("received_at", rows().map(|row| Some(to_ms(row.received.received_at))))
            .numbers("resolved_at", rows().map(|row| row.resolved_at.map(to_ms)))
            .texts("origin", made().map(|made| made.origin.as_deref()))
            .texts("outcome", rows().map(|row| Some(row.outcome.as_str())))
            .texts("why", made().map(|made| Some(&*made.why)))
            .numbers("due_at", rows().map(|row| row.due.map(|(at, _)| to_ms(at))))
            .texts("deferred_for", rows().map(|row| row.due.map(|(_, cause)| cause.as_str())))
            .texts("rule", rows().map(|row| row.rule.as_deref()))
            .maybe_ids("consent", rows().map(|row| row.consent.map(ConsentId::uuid)))
            .maybe_ids("collection", rows().map(|row| row.collection.map(CollectionId::uuid)))
            .maybe_ids("storm", rows().map(|row| row.storm.map(StormId::uuid)))
            .smalls("in_sample", rows().map(|row| Some(i16::from(row.in_sample))))
            .texts("shadow", made().map(|made| made.shadow.as_deref()))
            .texts("description", made().map(|made| made.description.as_deref()))
            .texts("traceparent", made().map(|made| made.traceparent.as_deref()))
            .texts("extensions", made().map(|made| made.extensions.as_deref()))
            .texts("data", made().map(|made| Some(&*made.data)));
        tx.execute(SQL, &values, Some(&batch)).await?;
    }
    Ok(())
}

/// The collection of a case that is collected.
fn collection_of(case: &Case, verdict: &Verdict, limits: &AlertLimits, now: OffsetDateTime) -> Option<OfOne> {
    let (id, consent) = (verdict.collection?, verdict.consent?);
    let (request, priority) = verdict.request.clone()?;
    let origin = Origin::Alert { alert: case.id, indicator: case.indicator.clone() };
    let new = NewCollection { priority, ..of_devices(id, request, origin, reason(case), vec![case.device.id.clone()], limits, now) };
    Some(OfOne { new, consent })
}

/// A collection as alerts make them: nobody asked, so consent is needed.
pub(super) fn of_devices(
    id: CollectionId,
    request: muster_wire::http::CollectionRequest,
    origin: Origin,
    reason: String,
    devices: Vec<DeviceId>,
    limits: &AlertLimits,
    now: OffsetDateTime,
) -> NewCollection {
    NewCollection {
        id,
        request,
        target: TargetView::Devices,
        reason: Some(reason),
        case: None,
        created_by: CREATOR.to_owned(),
        origin,
        needs_consent: Some(ConsentKind::Proactive),
        created_at: now,
        expires_at: now.saturating_add(limits.expires_after.try_into().unwrap_or(time::Duration::MAX)),
        attempt_timeout: limits.attempt_timeout,
        max_attempts: limits.max_attempts,
        in_flight: None,
        priority: Priority::Normal,
        rollout: Rollout::default(),
        retry: None,
        window: None,
        standing: false,
        steps: Vec::new(),
        step_of: None,
        when_matches: None,
        paused: None,
        idempotency: None,
        tasks: devices.into_iter().map(|device| NewTask { device, skip: None }).collect(),
    }
}

/// Writes what follows from a batch beside its alerts.
pub(super) async fn write_ledger(
    tx: &mut Tx,
    ledger: &Ledger,
    cases: &[Case],
    verdicts: &[Verdict],
    limits: &AlertLimits,
    now: OffsetDateTime,
) -> Result<Vec<CollectionId>, StoreError> {
    let mut made: Vec<OfOne> = Vec::new();
    let mut jobs: Vec<(Of, LastJob, u64)> = Vec::new();
    for (case, verdict) in cases.iter().zip(verdicts) {
        if verdict.outcome != AlertOutcome::Collected {
            continue;
        }
        let of: Of = (case.device.id.clone(), case.key.clone());
        let (Some(one), Some(last)) = (collection_of(case, verdict, limits, now), ledger.jobs.get(&of).copied()) else {
            return Err(StoreError::Misuse(format!("{} is collected without a collection or a consent", case.id)));
        };
        let counted = ledger.coalesced.get(&of).filter(|(with, _)| with.task == last.task).map_or(0, |(_, count)| *count);
        made.push(one);
        jobs.push((of, last, 1 + counted));
    }
    create_of_one(tx, &made).await?;
    insert_jobs(tx, &jobs, now).await?;
    // What was counted with a collection of this batch is in its row already.
    let new: HashSet<TaskId> = jobs.iter().map(|(_, last, _)| last.task).collect();
    let counted = ledger.coalesced.iter().filter(|(_, (with, _))| !new.contains(&with.task));
    let counted: Vec<(&Of, &LastJob, u64)> = counted.map(|(of, (with, count))| (of, with, *count)).collect();
    count_occurrences(tx, &counted).await?;
    touch_recent(tx, ledger, now).await?;
    count_uses(tx, ledger.uses.added.iter().map(|(scope, count)| (scope.as_str(), *count)), day(now)).await?;
    write_strata(tx, ledger, now).await?;
    Ok(made.into_iter().map(|one| one.new.id).collect())
}

pub(super) async fn insert_jobs(tx: &mut Tx, jobs: &[(Of, LastJob, u64)], now: OffsetDateTime) -> Result<(), StoreError> {
    let sql = "INSERT INTO alert_job (device_id, indicator_key, task_id, occurrences, made_at) \
        SELECT v.device, v.key, v.task, v.occurrences, $1 FROM [[v]]";
    for parcel in parcels(jobs, |((device, key), ..)| ID_BYTES + 3 * VALUE_BYTES + 8 + device.as_str().len() + key.len()) {
        let batch = Batch::default()
            .ids("task", parcel.iter().map(|(_, last, _)| last.task.uuid()))
            .texts("device", parcel.iter().map(|((device, _), ..)| Some(device.as_str())))
            .texts("key", parcel.iter().map(|((_, key), ..)| Some(key.as_str())))
            .numbers("occurrences", parcel.iter().map(|(.., count)| i64::try_from(*count).ok()));
        tx.execute(sql, &[Value::Number(to_ms(now))], Some(&batch)).await?;
    }
    Ok(())
}

async fn count_occurrences(tx: &mut Tx, counted: &[(&Of, &LastJob, u64)]) -> Result<(), StoreError> {
    let sql = "UPDATE alert_job SET occurrences = alert_job.occurrences + v.more FROM [[v]] \
        WHERE alert_job.device_id = v.device AND alert_job.indicator_key = v.key AND alert_job.task_id = v.task";
    for parcel in parcels(counted, |((device, key), ..)| ID_BYTES + 3 * VALUE_BYTES + 8 + device.as_str().len() + key.len()) {
        let batch = Batch::default()
            .ids("task", parcel.iter().map(|(_, last, _)| last.task.uuid()))
            .texts("device", parcel.iter().map(|((device, _), ..)| Some(device.as_str())))
            .texts("key", parcel.iter().map(|((_, key), ..)| Some(key.as_str())))
            .numbers("more", parcel.iter().map(|(.., count)| i64::try_from(*count).ok()));
        tx.execute(sql, &[], Some(&batch)).await?;
    }
    Ok(())
}

async fn touch_recent(tx: &mut Tx, ledger: &Ledger, now: OffsetDateTime) -> Result<(), StoreError> {
    let sql = "INSERT INTO alert_recent (indicator_key, tenant, device_id, last_at) SELECT v.key, v.tenant, v.device, $1 FROM [[v]] WHERE true \
        ON CONFLICT (device_id, indicator_key, tenant) DO UPDATE SET last_at = excluded.last_at";
    // In one order, so that the pages of the index are gone through once.
    let mut touched: Vec<&(Pair, DeviceId)> = ledger.touched.iter().collect();
    touched.sort_unstable();
    for parcel in parcels(&touched, |(pair, device)| 3 * VALUE_BYTES + pair.key.len() + pair.tenant.len() + device.as_str().len()) {
        let batch = Batch::default()
            .texts("key", parcel.iter().map(|(pair, _)| Some(pair.key.as_str())))
            .texts("tenant", parcel.iter().map(|(pair, _)| Some(pair.tenant.as_str())))
            .texts("device", parcel.iter().map(|(_, device)| Some(device.as_str())));
        tx.execute(sql, &[Value::Number(to_ms(now))], Some(&batch)).await?;
    }
    Ok(())
}

pub(super) async fn count_uses<'a>(tx: &mut Tx, added: impl Iterator<Item = (&'a str, u64)>, day: i64) -> Result<(), StoreError> {
    let sql = "INSERT INTO alert_use (scope, day, used) SELECT v.scope, $1, v.more FROM [[v]] WHERE true \
        ON CONFLICT (scope, day) DO UPDATE SET used = alert_use.used + excluded.used";
    let added: Vec<(&str, u64)> = added.collect();
    for parcel in parcels(&added, |(scope, _)| 2 * VALUE_BYTES + 8 + scope.len()) {
        let batch = Batch::default()
            .texts("scope", parcel.iter().map(|(scope, _)| Some(*scope)))
            .numbers("more", parcel.iter().map(|(_, count)| i64::try_from(*count).ok()));
        tx.execute(sql, &[Value::Number(day)], Some(&batch)).await?;
    }
    Ok(())
}

/// Closes the storms that are over, writes those that opened, and links what came before them. Ahead of the alerts of the batch.
pub(super) async fn write_storms(
    tx: &mut Tx,
    ledger: &Ledger,
    indicator: impl Fn(&str) -> String,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    for storm in &ledger.over {
        let sql = "UPDATE alert_storm SET closed_at = ends_at WHERE id = $1 AND closed_at IS NULL";
        tx.execute(sql, &[Value::Id(storm.uuid())], None).await?;
    }
    for (pair, storm) in &ledger.storms {
        let sampled = Value::Number(i64::try_from(storm.sampled).unwrap_or(i64::MAX));
        let (id, at, ends) = (Value::Id(storm.id.uuid()), Value::Number(to_ms(now)), Value::Number(storm.ends_at));
        let Some(opened) = &storm.opened else {
            if storm.touched {
                let sql = "UPDATE alert_storm SET last_at = $1, ends_at = $2, sampled = $3 WHERE id = $4";
                tx.execute(sql, &[at, ends, sampled, id], None).await?;
            }
            continue;
        };
        let plan = serde_json::to_string(&opened.collect)
            .map_err(|error| StoreError::Misuse(format!("what a storm collects could not be written as JSON: {error}")))?;
        let name = indicator(&pair.key);
        let sql = "INSERT INTO alert_storm (id, indicator, indicator_key, tenant, opened_at, last_at, ends_at, sampled, plan, first_fired_at, why) \
            VALUES ($1, $2, $3, $4, $5, $5, $6, $7, $8, $9, $10)";
        let values = [
            id,
            Value::Text(&name),
            Value::Text(&pair.key),
            Value::Text(&pair.tenant),
            at,
            ends,
            sampled,
            Value::Text(&plan),
            Value::Number(to_ms(opened.first_fired_at)),
            Value::Text(&opened.why),
        ];
        tx.execute(sql, &values, None).await?;
        let link = format!("UPDATE alert SET storm_id = $4 WHERE {}", before_condition("alert"));
        let [key, tenant, lowest] = before_values(pair, opened.since)?;
        tx.execute(&link, &[key, tenant, lowest, id], None).await?;
    }
    Ok(())
}

async fn write_strata(tx: &mut Tx, ledger: &Ledger, now: OffsetDateTime) -> Result<(), StoreError> {
    let sql = "INSERT INTO alert_stratum (storm_id, version, site, model, sampled, twin_from) \
        SELECT v.storm, v.version, v.site, v.model, v.more, v.twin_from FROM [[v]] WHERE true \
        ON CONFLICT (storm_id, version, site, model) DO UPDATE SET sampled = alert_stratum.sampled + excluded.sampled";
    let twin_from = to_ms(now + TWIN_AFTER);
    let grown: Vec<(StormId, &Stratum, u64, bool)> = ledger
        .storms
        .values()
        .flat_map(|storm| storm.strata.iter().map(move |(stratum, grown)| (storm.id, stratum, grown.added, grown.twin)))
        .filter(|(.., added, _)| *added > 0)
        .collect();
    let bytes = |(_, stratum, ..): &(StormId, &Stratum, u64, bool)| {
        ID_BYTES + 5 * VALUE_BYTES + 16 + stratum.version.len() + stratum.site.len() + stratum.model.len()
    };
    for parcel in parcels(&grown, bytes) {
        let batch = Batch::default()
            .ids("storm", parcel.iter().map(|(id, ..)| id.uuid()))
            .texts("version", parcel.iter().map(|(_, stratum, ..)| Some(stratum.version.as_str())))
            .texts("site", parcel.iter().map(|(_, stratum, ..)| Some(stratum.site.as_str())))
            .texts("model", parcel.iter().map(|(_, stratum, ..)| Some(stratum.model.as_str())))
            .numbers("more", parcel.iter().map(|(_, _, added, _)| i64::try_from(*added).ok()))
            .numbers("twin_from", parcel.iter().map(|(.., twin)| twin.then_some(twin_from)));
        tx.execute(sql, &[], Some(&batch)).await?;
    }
    Ok(())
}
