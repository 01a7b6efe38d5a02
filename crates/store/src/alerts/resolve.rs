//! What an event that says that something ended does: it is written on the alert that said it began. What waited for the end is due now;
//! what waited for anything else has nothing to wait for any more.

use std::collections::HashMap;

use muster_domain::alert::{DeferredFor, instant};
use muster_wire::http::{AlertOutcome, MAX_COOLDOWN_SECONDS};
use muster_wire::{AlertId, CollectionId};
use time::OffsetDateTime;
use uuid::Uuid;

use super::consider::Verdict;
use super::facts::Case;
use super::write::MAX_WHY_CHARS;
use crate::device_events::lowest_id;
use crate::dialect::{Batch, ID_BYTES, Tx, VALUE_BYTES, Value, parcels};
use crate::error::StoreError;
use crate::instant::{maybe_from_ms, to_ms};
use crate::text::bounded;

/// An event that says that something ended.
pub(super) struct Ended {
    /// Whose, and of what.
    pub(super) case: Case,
    /// When it ended.
    pub(super) at: OffsetDateTime,
    /// Cases of the batch that came before it.
    pub(super) cases_before: usize,
}

/// What is written down about it.
#[derive(Debug, Clone)]
pub(super) struct Noted {
    pub(super) why: String,
    pub(super) collection: Option<CollectionId>,
}

/// The part of an alert that its end changes.
#[derive(Debug, Clone)]
struct Began {
    id: AlertId,
    outcome: AlertOutcome,
    why: String,
    due: Option<(OffsetDateTime, DeferredFor)>,
    resolved_at: Option<OffsetDateTime>,
    collection: Option<CollectionId>,
}

impl Began {
    fn end(&mut self, at: OffsetDateTime, now: OffsetDateTime) {
        if self.resolved_at.is_some() {
            return;
        }
        self.resolved_at = Some(at);
        match (self.outcome, self.due) {
            (AlertOutcome::Deferred, Some((_, DeferredFor::Lookahead))) => self.due = Some((now, DeferredFor::Lookahead)),
            (AlertOutcome::Deferred, Some(_)) => {
                self.due = None;
                self.why = format!("{}; it was resolved at {} and nothing was collected", self.why, instant(at));
            }
            (AlertOutcome::OnDemand, _) => self.why = format!("{}; it was resolved at {}", self.why, instant(at)),
            _ => {}
        }
    }
}

/// Ends what began, in this batch or before it; what is to be said of each of them.
pub(super) async fn resolve_ends(
    tx: &mut Tx,
    ends: &[Ended],
    cases: &[Case],
    verdicts: &mut [Verdict],
    now: OffsetDateTime,
) -> Result<Vec<Noted>, StoreError> {
    if ends.is_empty() {
        return Ok(Vec::new());
    }
    let found = began(tx, ends, now).await?;
    let mut stored: HashMap<AlertId, Began> = HashMap::new();
    let mut notes = Vec::with_capacity(ends.len());
    for (place, ended) in ends.iter().enumerate() {
        let same = |case: &Case| case.device.id == ended.case.device.id && case.key == ended.case.key;
        let earlier = cases[..ended.cases_before].iter().enumerate().rev().filter(|(_, case)| same(case));
        let by_origin = |origin: &Option<String>| origin.is_some() && *origin == ended.case.origin;
        let in_batch = earlier.clone().find(|(_, case)| by_origin(&case.origin));
        let before = found.get(&place);
        // What has the same origin is meant; otherwise the latest of the device.
        let in_batch = match (in_batch, before) {
            (Some(found), _) => Some(found),
            (None, Some((_, true))) => None,
            (None, _) => earlier.clone().next(),
        };
        let note = |id: AlertId, fired_at: OffsetDateTime| format!("ended {id} of {}", instant(fired_at));
        if let Some((of, case)) = in_batch {
            let verdict = &mut verdicts[of];
            let mut began = Began {
                id: case.id,
                outcome: verdict.outcome,
                why: std::mem::take(&mut verdict.why),
                due: verdict.due,
                resolved_at: verdict.resolved_at,
                collection: verdict.collection,
            };
            began.end(ended.at, now);
            notes.push(Noted { why: note(case.id, case.fired_at), collection: began.collection });
            (verdict.why, verdict.due, verdict.resolved_at) = (began.why, began.due, began.resolved_at);
        } else if let Some(((fired_at, began), _)) = before {
            let began = stored.entry(began.id).or_insert_with(|| began.clone());
            began.end(ended.at, now);
            notes.push(Noted { why: note(began.id, *fired_at), collection: began.collection });
        } else {
            notes.push(Noted {
                why: format!("nothing is known that it ended: no {} of this device", ended.case.indicator),
                collection: None,
            });
        }
    }
    update(tx, stored.into_values().collect()).await?;
    Ok(notes)
}

/// By the place of the end: what began, when, and whether its origin says so.
type Found = HashMap<usize, ((OffsetDateTime, Began), bool)>;

async fn began(tx: &mut Tx, ends: &[Ended], now: OffsetDateTime) -> Result<Found, StoreError> {
    const OF: &str =
        "SELECT y.id FROM alert y WHERE y.device_id = v.device AND y.indicator_key = v.key AND y.condition = 'fired' AND y.id >= $1";
    let sql = format!(
        "SELECT r.n, a.id, a.outcome, a.why, a.due_at, a.deferred_for, a.resolved_at, a.collection_id, a.fired_at, \
         CASE WHEN a.origin_alert_id = r.origin THEN 1 ELSE 0 END FROM \
         (SELECT v.n AS n, v.origin AS origin, \
         COALESCE(({OF} AND y.origin_alert_id = v.origin ORDER BY y.id DESC LIMIT 1), ({OF} ORDER BY y.id DESC LIMIT 1)) AS id FROM [[v]]) r \
         JOIN alert a ON a.id = r.id"
    );
    // What began longer ago is over for everybody.
    let oldest = lowest_id(now.saturating_sub(muster_domain::alert::seconds(MAX_COOLDOWN_SECONDS)));
    let mut found = HashMap::new();
    let placed: Vec<(usize, &Case)> = ends.iter().map(|ended| &ended.case).enumerate().collect();
    let bytes = |(_, case): &(usize, &Case)| {
        4 * VALUE_BYTES + 8 + case.device.id.as_str().len() + case.key.len() + case.origin.as_ref().map_or(0, String::len)
    };
    for parcel in parcels(&placed, bytes) {
        let batch = Batch::default()
            .numbers("n", parcel.iter().map(|(place, _)| i64::try_from(*place).ok()))
            .texts("device", parcel.iter().map(|(_, case)| Some(case.device.id.as_str())))
            .texts("key", parcel.iter().map(|(_, case)| Some(case.key.as_str())))
            .texts("origin", parcel.iter().map(|(_, case)| case.origin.as_deref()));
        for row in tx.fetch(&sql, &[Value::Id(oldest)], Some(&batch)).await? {
            let place = crate::collections::number("a place", row.get::<i64>(0)?)?;
            let began = Began {
                id: AlertId::from_uuid(row.get(1)?),
                outcome: super::read::outcome(&row.get::<String>(2)?)?,
                why: row.get(3)?,
                due: super::read::due(maybe_from_ms(row.get(4)?)?, row.get(5)?)?,
                resolved_at: maybe_from_ms(row.get(6)?)?,
                collection: row.get::<Option<Uuid>>(7)?.map(crate::collections::collection_id).transpose()?,
            };
            let fired_at = crate::instant::from_ms(row.get(8)?)?;
            found.insert(place, ((fired_at, began), row.get::<i32>(9)? == 1));
        }
    }
    Ok(found)
}

async fn update(tx: &mut Tx, all: Vec<Began>) -> Result<(), StoreError> {
    let sql = "UPDATE alert SET resolved_at = v.resolved_at, due_at = v.due_at, deferred_for = v.deferred_for, why = v.why FROM [[v]] \
        WHERE alert.id = v.id";
    for parcel in parcels(&all, |began| ID_BYTES + 4 * VALUE_BYTES + 32 + began.why.len()) {
        let whys: Vec<_> = parcel.iter().map(|began| bounded(&began.why, MAX_WHY_CHARS)).collect();
        let batch = Batch::default()
            .ids("id", parcel.iter().map(|began| began.id.uuid()))
            .numbers("resolved_at", parcel.iter().map(|began| began.resolved_at.map(to_ms)))
            .numbers("due_at", parcel.iter().map(|began| began.due.map(|(at, _)| to_ms(at))))
            .texts("deferred_for", parcel.iter().map(|began| began.due.map(|(_, cause)| cause.as_str())))
            .texts("why", whys.iter().map(|why| Some(&**why)));
        tx.execute(sql, &[], Some(&batch)).await?;
    }
    Ok(())
}
