//! Takes alerts in: whose they are, whether they came before, what is decided, and what follows, in one transaction.

use std::collections::HashMap;

use muster_domain::alert::indicator_key;
use muster_wire::AlertId;
use muster_wire::alert::{AlertCondition, AlertVia, Poison, Refused};
use muster_wire::http::{AlertOutcome, AnsweredAlert, MAX_INDICATOR_CHARS, RuleTest, TestedDevice};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::consider::{Verdict, consider};
use super::facts::{Case, Device, digest, known_digests, resolve};
use super::policy::{Policy, catalogue_version, take_gate};
use super::resolve::{Ended, Noted, resolve_ends};
use super::write::{AlertRow, MAX_ALERT_TEXT_CHARS, count_uses, ordered_id, write_alerts, write_ledger, write_storms};
use super::{AlertLimits, MAX_ALERTS, ReceivedAlert, Taken};
use crate::connect::Store;
use crate::dialect::Tx;
use crate::error::{StoreError, run};
use crate::text::bounded;

/// Under which name repetitions are counted.
pub(super) const DUPLICATES: &str = "duplicates";
/// A clock that is wrong by no more than this counts as right, as when windows are told to a device.
const CLOCK_TOLERANCE: Duration = Duration::seconds(30);

/// Longest name of a device that is none, in characters.
const MAX_DEVICE_CHARS: usize = 200;

/// Where one device of an event stands.
enum Whose {
    Ours(Box<Device>),
    Not(Poison, String),
}

/// One device of one event, to be written down.
struct Entry {
    /// Place of its event in the batch.
    of: usize,
    id: AlertId,
    digest: Uuid,
    said: String,
    indicator: String,
    key: String,
    fired_at: OffsetDateTime,
    kind: Kind,
}

enum Kind {
    /// Place of its case.
    Fired(usize),
    /// Place among those that ended.
    Ended(usize),
    Not(AlertOutcome, String),
}

impl Store {
    /// Writes alerts down and decides each, makes the collections that follow, all in one transaction and in the order given.
    /// `results[i]` is what became of `alerts[i]`. At most [`MAX_ALERTS`].
    ///
    /// # Errors
    /// [`StoreError::Misuse`] for more; otherwise the database's. Then nothing was done.
    pub async fn take_alerts(
        &self,
        alerts: &[ReceivedAlert<'_>],
        limits: &AlertLimits,
        now: OffsetDateTime,
    ) -> Result<Vec<Taken>, StoreError> {
        if alerts.len() > MAX_ALERTS {
            return Err(StoreError::Misuse(format!("{} alerts in one call; at most {MAX_ALERTS}", alerts.len())));
        }
        if alerts.is_empty() {
            return Ok(Vec::new());
        }
        run("taking alerts", || async {
            let mut tx = self.begin().await?;
            let taken = Box::pin(take_in(&mut tx, alerts, limits, now)).await?;
            tx.commit().await?;
            Ok(taken)
        })
        .await
    }

    /// What would be decided about an alert now; nothing is written, and whether it came before is not asked.
    ///
    /// # Errors
    /// The database's.
    pub async fn test_alert(
        &self,
        alert: &ReceivedAlert<'_>,
        limits: &AlertLimits,
        now: OffsetDateTime,
    ) -> Result<Result<RuleTest, Refused>, StoreError> {
        run("testing an alert", || async {
            let mut tx = self.begin_read().await?;
            Box::pin(test_in(&mut tx, alert, limits, now)).await
        })
        .await
    }
}

/// Whose each device of an event is; the whole event is refused when it may be acted on for none of them.
fn whose(received: &ReceivedAlert<'_>, devices: &HashMap<String, Device>) -> Result<Vec<(String, Whose)>, Refused> {
    let mut all = Vec::with_capacity(received.alert.devices.len());
    for said in &received.alert.devices {
        let whose = match devices.get(said.as_str()) {
            None => Whose::Not(Poison::UnknownDevice, format!("device {} is not in the registry", bounded(said, MAX_DEVICE_CHARS))),
            Some(device) => match may_speak(received, device) {
                Ok(()) => Whose::Ours(Box::new(device.clone())),
                Err(why) => Whose::Not(Poison::TenantMismatch, why),
            },
        };
        all.push((said.clone(), whose));
    }
    if all.iter().any(|(_, whose)| matches!(whose, Whose::Ours(_))) {
        return Ok(all);
    }
    // A sender who overreaches is worse news than a device nobody knows.
    let refusals = all.into_iter().filter_map(|(_, whose)| match whose {
        Whose::Not(reason, why) => Some((reason, why)),
        Whose::Ours(_) => None,
    });
    let worst = refusals.reduce(|a, b| if a.0 != Poison::TenantMismatch && b.0 == Poison::TenantMismatch { b } else { a });
    let (reason, why) = worst.unwrap_or_else(|| (Poison::NoDevice, "the event names no device".to_owned()));
    Err(Refused::new(reason, why))
}

fn may_speak(received: &ReceivedAlert<'_>, device: &Device) -> Result<(), String> {
    if let Some(only) = received.speaks_for.filter(|only| **only != device.id) {
        return Err(format!("{only} speaks for itself only, not for {}", device.id));
    }
    match received.tenant {
        Some(only) if device.tenant.as_deref() != Some(only) => {
            let owner = device.tenant.as_ref().map_or_else(|| "no tenant".to_owned(), |tenant| format!("tenant {tenant}"));
            Err(format!("its source speaks for tenant {only} only; {} is of {owner}", device.id))
        }
        _ => Ok(()),
    }
}

/// A time by the clock of whoever says it as ours: a device may say itself that its clock is wrong.
fn in_our_time(received: &ReceivedAlert<'_>, device: Option<&Device>, at: OffsetDateTime) -> OffsetDateTime {
    if received.via != AlertVia::Mqtt || received.alert.time_inferred {
        return at;
    }
    let skew = device.and_then(|device| device.clock_skew_ms).map(Duration::milliseconds);
    skew.filter(|skew| skew.abs() > CLOCK_TOLERANCE).map_or(at, |skew| at.saturating_sub(skew))
}

fn case_of(received: &ReceivedAlert<'_>, device: Device, id: AlertId, policy: &Policy) -> Case {
    let indicator = bounded(&received.alert.indicator, MAX_INDICATOR_CHARS).into_owned();
    let key = indicator_key(&indicator);
    Case {
        id,
        fired_at: in_our_time(received, Some(&device), received.alert.fired_at),
        device,
        indicator: policy.indicator(&key).map_or(indicator, |known| known.name.clone()),
        key,
        resolved_at: None,
        origin: received.alert.origin_alert_id.as_deref().map(|origin| bounded(origin, MAX_ALERT_TEXT_CHARS).into_owned()),
        again: false,
        has_place: false,
        storm: None,
    }
}

/// The devices of all events, as the registry has them.
async fn devices_of(tx: &mut Tx, alerts: &[ReceivedAlert<'_>]) -> Result<HashMap<String, Device>, StoreError> {
    let refs: Vec<&str> = alerts.iter().flat_map(|received| received.alert.devices.iter().map(String::as_str)).collect();
    resolve(tx, &refs).await
}

async fn take_in(tx: &mut Tx, alerts: &[ReceivedAlert<'_>], limits: &AlertLimits, now: OffsetDateTime) -> Result<Vec<Taken>, StoreError> {
    let version = take_gate(tx).await?;
    let policy = Policy::read(tx, version).await?;
    let devices = devices_of(tx, alerts).await?;
    let owners: Vec<_> = alerts.iter().map(|received| whose(received, &devices)).collect();
    let digest_of = |received: &ReceivedAlert<'_>, said: &str| digest(&received.alert.source, &received.alert.id, said);
    let digests: Vec<Uuid> = alerts
        .iter()
        .zip(&owners)
        .filter_map(|(received, owners)| Some((received, owners.as_ref().ok()?)))
        .flat_map(|(received, owners)| owners.iter().map(move |(said, _)| digest_of(received, said)))
        .collect();
    let mut known = known_digests(tx, &digests).await?;
    let (mut entries, mut cases, mut ends) = (Vec::with_capacity(digests.len()), Vec::new(), Vec::new());
    for (of, (received, owners)) in alerts.iter().zip(&owners).enumerate() {
        for (said, whose) in owners.iter().flatten() {
            let digest = digest_of(received, said);
            if !known.insert(digest) {
                continue;
            }
            let id = AlertId::from_uuid(ordered_id(now, entries.len()));
            entries.push(entry(received, (of, id, digest), said, whose, &policy, &mut cases, &mut ends));
        }
    }
    let (mut verdicts, ledger) = consider(tx, &policy, &cases, limits, now).await?;
    let notes = resolve_ends(tx, &ends, &cases, &mut verdicts, now).await?;
    let names = |key: &str| policy.indicator(key).map_or_else(|| key.to_owned(), |known| known.name.clone());
    write_storms(tx, &ledger, names, now).await?;
    let rows: Vec<AlertRow<'_>> = entries.iter().map(|entry| row(&alerts[entry.of], entry, &cases, &verdicts, &ends, &notes)).collect();
    write_alerts(tx, &rows, version, now).await?;
    write_ledger(tx, &ledger, &cases, &verdicts, limits, now).await?;
    let mut taken: Vec<Taken> = owners.into_iter().map(|owners| owners.map_or_else(Taken::Refused, |_| Taken::Duplicate)).collect();
    for (entry, row) in entries.iter().zip(rows) {
        let answer = AnsweredAlert { id: row.id, device: row.device, outcome: row.outcome, why: row.why, collection: row.collection };
        match &mut taken[entry.of] {
            Taken::Decided(answers) => answers.push(answer),
            other => *other = Taken::Decided(vec![answer]),
        }
    }
    let duplicates = taken.iter().filter(|taken| **taken == Taken::Duplicate).count() as u64;
    if duplicates > 0 {
        count_uses(tx, [(DUPLICATES, duplicates)].into_iter(), muster_domain::alert::day(now)).await?;
    }
    Ok(taken)
}

fn entry(
    received: &ReceivedAlert<'_>,
    (of, id, digest): (usize, AlertId, Uuid),
    said: &str,
    whose: &Whose,
    policy: &Policy,
    cases: &mut Vec<Case>,
    ends: &mut Vec<Ended>,
) -> Entry {
    let alert = received.alert;
    let (case, kind) = match whose {
        Whose::Not(reason, why) => {
            let outcome = if *reason == Poison::UnknownDevice { AlertOutcome::UnknownDevice } else { AlertOutcome::TenantMismatch };
            (None, Kind::Not(outcome, why.clone()))
        }
        Whose::Ours(device) => {
            let case = case_of(received, (**device).clone(), id, policy);
            let kind = match alert.condition {
                AlertCondition::Fired => Kind::Fired(cases.len()),
                AlertCondition::Resolved => Kind::Ended(ends.len()),
            };
            (Some(case), kind)
        }
    };
    let indicator = bounded(&alert.indicator, MAX_INDICATOR_CHARS);
    let entry = Entry {
        of,
        id,
        digest,
        said: said.to_owned(),
        indicator: case.as_ref().map_or_else(|| indicator.clone().into_owned(), |case| case.indicator.clone()),
        key: indicator_key(&indicator),
        fired_at: case.as_ref().map_or(alert.fired_at, |case| case.fired_at),
        kind,
    };
    match (&entry.kind, case) {
        (Kind::Fired(_), Some(case)) => cases.push(case),
        (Kind::Ended(_), Some(case)) => {
            let at = alert.resolved_at.map_or(received.received_at, |at| in_our_time(received, Some(&case.device), at));
            ends.push(Ended { case, at, cases_before: cases.len() });
        }
        _ => {}
    }
    entry
}

/// The row of one device of one event.
fn row<'a>(
    received: &'a ReceivedAlert<'a>,
    entry: &Entry,
    cases: &[Case],
    verdicts: &[Verdict],
    ends: &[Ended],
    notes: &[Noted],
) -> AlertRow<'a> {
    let device = match entry.kind {
        Kind::Not(..) => None,
        Kind::Ended(place) => Some(&ends[place].case.device),
        Kind::Fired(place) => Some(&cases[place].device),
    };
    let row = AlertRow {
        id: entry.id,
        digest: entry.digest,
        received,
        device: device.map_or_else(|| bounded(&entry.said, MAX_DEVICE_CHARS).into_owned(), |device| device.id.to_string()),
        indicator: entry.indicator.clone(),
        key: entry.key.clone(),
        tenant: device.and_then(|device| device.tenant.clone()),
        site: device.and_then(|device| device.site.clone()),
        model: device.and_then(|device| device.model.clone()),
        version: device.and_then(|device| device.version.clone()),
        fired_at: entry.fired_at,
        resolved_at: None,
        outcome: AlertOutcome::Noted,
        why: String::new(),
        due: None,
        rule: None,
        consent: None,
        collection: None,
        storm: None,
        in_sample: false,
        shadow: Vec::new(),
    };
    match &entry.kind {
        Kind::Not(outcome, why) => AlertRow { outcome: *outcome, why: why.clone(), ..row },
        Kind::Ended(place) => {
            let note = &notes[*place];
            AlertRow { resolved_at: Some(ends[*place].at), why: note.why.clone(), collection: note.collection, ..row }
        }
        Kind::Fired(place) => {
            let verdict = &verdicts[*place];
            AlertRow {
                resolved_at: verdict.resolved_at,
                outcome: verdict.outcome,
                why: verdict.why.clone(),
                due: verdict.due,
                rule: verdict.rule.clone(),
                consent: verdict.consent,
                collection: verdict.collection,
                storm: verdict.storm,
                in_sample: verdict.in_sample,
                shadow: verdict.shadow.clone(),
                ..row
            }
        }
    }
}

async fn test_in(
    tx: &mut Tx,
    received: &ReceivedAlert<'_>,
    limits: &AlertLimits,
    now: OffsetDateTime,
) -> Result<Result<RuleTest, Refused>, StoreError> {
    let version = catalogue_version(tx).await?;
    let policy = Policy::read(tx, version).await?;
    let devices = devices_of(tx, std::slice::from_ref(received)).await?;
    let owners = match whose(received, &devices) {
        Ok(owners) => owners,
        Err(refused) => return Ok(Err(refused)),
    };
    let id = |place| AlertId::from_uuid(ordered_id(now, place));
    let ours = owners.iter().filter_map(|(_, whose)| match whose {
        Whose::Ours(device) => Some((**device).clone()),
        Whose::Not(..) => None,
    });
    let cases: Vec<Case> = ours.enumerate().map(|(place, device)| case_of(received, device, id(place), &policy)).collect();
    let fired = received.alert.condition == AlertCondition::Fired;
    let (verdicts, _) = consider(tx, &policy, if fired { &cases } else { &[] }, limits, now).await?;
    let mut decided = cases.iter().zip(verdicts);
    let tested = owners.into_iter().map(|(said, whose)| match whose {
        Whose::Not(reason, why) => {
            let outcome = if reason == Poison::UnknownDevice { AlertOutcome::UnknownDevice } else { AlertOutcome::TenantMismatch };
            TestedDevice { device: said, outcome, why, rule: None, request: None }
        }
        Whose::Ours(device) => match decided.next() {
            Some((_, verdict)) => TestedDevice {
                device: device.id.to_string(),
                outcome: verdict.outcome,
                why: verdict.why,
                rule: verdict.rule,
                request: verdict.request.map(|(request, _)| request),
            },
            None => TestedDevice {
                device: device.id.to_string(),
                outcome: AlertOutcome::Noted,
                why: "it says that something ended, and nothing follows from that".to_owned(),
                rule: None,
                request: None,
            },
        },
    });
    Ok(Ok(RuleTest { devices: tested.collect() }))
}
