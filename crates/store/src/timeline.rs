//! Everything about one device on one line of time, newest first: what it raised, what was asked of it, each moment of each attempt, what was
//! sealed, what people did to it, and what the registry knows of it.
//!
//! Nothing is written for this: the moments stand where they are kept anyway. A page reads the tasks of this one device, along the index
//! on the device, and of those that fall onto the page the rest.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use muster_wire::http::{MAX_PAGE, TimelineEntry, TimelineWhat};
use muster_wire::{AlertId, CollectionId, DeviceId, Reason, TaskId, TaskState};
use sea_orm::EntityTrait;
use uuid::Uuid;

use crate::apply::{attempt_number, reason, task_id, task_state};
use crate::collections::collection_id;
use crate::connect::Store;
use crate::dialect::{Batch, Dialect, Reader, Row, Value};
use crate::entity::device;
use crate::error::{StoreError, run};
use crate::instant::from_ms;
use crate::presence::{OFFLINE, ONLINE};

// What happened in the same millisecond stands in the order in which such things follow each other.
const ALERT: i32 = -1;
const ASKED: i32 = 0;
const SENT: i32 = 1;
const ANSWERED: i32 = 2;
const UPLOADED: i32 = 3;
const SEALED: i32 = 4;
const ATTEMPT_ENDED: i32 = 5;
const ENDED: i32 = 6;
const DONE_TO_IT: i32 = 7;
const FIRST_SEEN: i32 = 8;
const AGENT_STARTED: i32 = 9;
const PRESENCE: i32 = 10;

/// Alerts of a device, as places on its line: taken in when they came, by our clock.
const ALERT_PLACES: &str = "SELECT -1, l.id, l.received_at, NULL, NULL, NULL FROM alert l WHERE l.device_id = $1";
/// What those alerts were.
const ALERT_SUBJECTS: &str =
    "SELECT l.id, l.indicator, l.condition, l.outcome, l.why, l.collection_id FROM [[v]] JOIN alert l ON l.id = v.id";

/// Where an entry stands on the line; no two stand at the same place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinePlace {
    at: i64,
    kind: i32,
    id: Uuid,
}

impl fmt::Display for LinePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.at, self.kind, self.id.simple())
    }
}

/// Not the place of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a place on a line of time")]
pub struct NoLinePlace;

impl FromStr for LinePlace {
    type Err = NoLinePlace;

    fn from_str(text: &str) -> Result<Self, NoLinePlace> {
        let mut parts = text.splitn(3, '.');
        let mut part = || parts.next().ok_or(NoLinePlace);
        let (at, kind, id) = (part()?, part()?, part()?);
        Ok(Self {
            at: at.parse().map_err(|_| NoLinePlace)?,
            kind: kind.parse().map_err(|_| NoLinePlace)?,
            id: id.parse().map_err(|_| NoLinePlace)?,
        })
    }
}

/// Behind everything that can stand on a line.
const NOW: LinePlace = LinePlace { at: i64::MAX, kind: i32::MAX, id: Uuid::max() };

/// An attempt as task or history have it.
struct Try {
    number: u8,
    state: TaskState,
    reason: Option<Reason>,
    detail: Option<String>,
    sent: Option<i64>,
    answered: Option<i64>,
    uploaded: Option<i64>,
    ended: Option<i64>,
}

impl Try {
    /// From the columns behind the id.
    fn read(row: &Row, number: u8) -> Result<Self, StoreError> {
        Ok(Self {
            number,
            state: task_state(row.get(1)?)?,
            reason: row.get::<Option<i16>>(2)?.map(reason).transpose()?,
            detail: row.get(3)?,
            sent: row.get(4)?,
            answered: row.get(5)?,
            uploaded: row.get(6)?,
            ended: row.get(7)?,
        })
    }

    fn moment(&self, kind: i32) -> Option<i64> {
        match kind {
            SENT => self.sent,
            ANSWERED => self.answered,
            UPLOADED => self.uploaded,
            ENDED | ATTEMPT_ENDED => self.ended,
            _ => None,
        }
    }
}

/// Who asked for a collection, for what, and why.
struct Asked {
    kind: String,
    by: String,
    why: Option<String>,
    case: Option<String>,
}

impl Asked {
    fn detail(&self) -> String {
        let why = self.why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        let case = self.case.as_ref().map(|case| format!(" (case {case})")).unwrap_or_default();
        format!("{}{why}{case}", self.kind)
    }
}

/// What an alert said, and what was made of it.
struct Raised {
    indicator: String,
    condition: String,
    outcome: String,
    why: String,
    collection: Option<CollectionId>,
}

impl Raised {
    fn detail(&self) -> String {
        let Self { indicator, condition, outcome, why, .. } = self;
        let outcome = outcome.replace('_', " ");
        format!("{indicator} {condition}: {outcome}, {why}")
    }
}

/// What the entries of a page are about.
#[derive(Default)]
struct Subjects {
    raised: HashMap<Uuid, Raised>,
    tries: HashMap<TaskId, Vec<Try>>,
    asked: HashMap<CollectionId, Asked>,
    sealed: HashMap<TaskId, (u8, String)>,
}

impl Store {
    /// A page of the line of a device, newest first, behind `before`; at most [`MAX_PAGE`] entries. A device that was forgotten, or never
    /// there, still has what was done with it.
    ///
    /// # Errors
    /// The database's.
    pub async fn timeline(
        &self,
        device: &DeviceId,
        before: Option<LinePlace>,
        limit: u32,
    ) -> Result<Vec<(LinePlace, TimelineEntry)>, StoreError> {
        run("reading the line of a device", || async {
            let before = before.unwrap_or(NOW);
            let limit = limit.min(MAX_PAGE);
            let mut reader = self.reader().await?;
            let values = [
                Value::Text(device.as_str()),
                Value::Number(before.at),
                Value::Number(i64::from(before.kind)),
                Value::Id(before.id),
                Value::Number(i64::from(limit)),
            ];
            let mut line = Vec::new();
            let mut places = Vec::new();
            for row in reader.fetch(&moments(self.dialect()), &values, None).await? {
                let place = LinePlace { at: row.get(2)?, kind: row.get(0)?, id: row.get(1)? };
                match row.get::<Option<String>>(3)? {
                    Some(word) => line.push((place, done_to_it(place, &word, &row)?)),
                    None => places.push(place),
                }
            }
            let subjects = subjects(&mut reader, self.dialect(), &places).await?;
            drop(reader);
            for place in places {
                line.push((place, subjects.entry(place)?));
            }
            if let Some(row) = device::Entity::find_by_id(device.as_str()).one(self.entities()).await? {
                line.extend(known(&row)?.into_iter().filter(|(place, _)| *place < before));
            }
            line.sort_unstable_by(|(a, _), (b, _)| b.cmp(a));
            line.truncate(limit as usize);
            Ok(line)
        })
        .await
    }
}

/// The places of a page. The last attempt of a task and its history may tell the same moment: `UNION` keeps it once.
fn moments(dialect: Dialect) -> String {
    let of_task = |kind: i32, column: &str| format!("SELECT {kind}, t.id, t.{column}, NULL, NULL, NULL FROM task t WHERE t.device_id = $1");
    let of_attempt = |kind: &str, column: &str| {
        let last = dialect.last_attempt("t.id");
        format!(
            "SELECT {kind}, t.id, a.{column}, NULL, NULL, NULL FROM task t JOIN attempt a ON a.id > t.id AND a.id <= {last} WHERE t.device_id = $1"
        )
    };
    // Collections lie apart: the one of a task is the last that begins before it.
    let asked = "(SELECT c.created_at FROM collection c WHERE c.id <= t.id ORDER BY c.id DESC LIMIT 1)";
    // A rerun makes history of an end that was the last word until then. States from 4 on are final; a test beside the steps holds that.
    let ended = format!("CASE WHEN a.state >= 4 THEN {ENDED} ELSE {ATTEMPT_ENDED} END");
    let all = [
        format!(
            "SELECT {ASKED} AS kind, t.id AS id, {asked} AS at, CAST(NULL AS text) AS what, CAST(NULL AS text) AS who, \
             CAST(NULL AS text) AS detail FROM task t WHERE t.device_id = $1"
        ),
        of_task(SENT, "dispatched_at"),
        of_task(ANSWERED, "accepted_at"),
        of_task(UPLOADED, "uploaded_at"),
        of_task(ENDED, "finished_at"),
        of_attempt(&SENT.to_string(), "dispatched_at"),
        of_attempt(&ANSWERED.to_string(), "accepted_at"),
        of_attempt(&UPLOADED.to_string(), "uploaded_at"),
        of_attempt(&ended, "ended_at"),
        format!("SELECT {SEALED}, b.task_id, b.sealed_at, NULL, NULL, NULL FROM bundle b WHERE b.device_id = $1"),
        ALERT_PLACES.to_owned(),
        format!("SELECT {DONE_TO_IT}, e.id, e.at, e.what, e.who, e.detail FROM device_event e WHERE e.device_id = $1"),
    ];
    format!(
        "SELECT m.kind, m.id, m.at, m.what, m.who, m.detail FROM ({}) AS m WHERE m.at < $2 OR (m.at = $2 AND (m.kind < $3 OR (m.kind = $3 AND m.id < $4))) \
         ORDER BY m.at DESC, m.kind DESC, m.id DESC LIMIT $5",
        all.join(" UNION ")
    )
}

async fn subjects(reader: &mut Reader, dialect: Dialect, places: &[LinePlace]) -> Result<Subjects, StoreError> {
    let mut subjects = Subjects::default();
    let (alerts, of_tasks): (Vec<&LinePlace>, Vec<&LinePlace>) = places.iter().partition(|place| place.kind == ALERT);
    if !alerts.is_empty() {
        let batch = Batch::default().ids("id", alerts.iter().map(|place| place.id));
        for row in reader.fetch(ALERT_SUBJECTS, &[], Some(&batch)).await? {
            let collection = row.get::<Option<Uuid>>(5)?.map(collection_id).transpose()?;
            let raised = Raised { indicator: row.get(1)?, condition: row.get(2)?, outcome: row.get(3)?, why: row.get(4)?, collection };
            subjects.raised.insert(row.get(0)?, raised);
        }
    }
    let mut tasks = of_tasks.iter().map(|place| task_id(place.id)).collect::<Result<Vec<TaskId>, _>>()?;
    tasks.sort_unstable();
    tasks.dedup();
    let batch = Batch::default().ids("id", tasks.iter().map(|task| task.uuid()));
    let history = format!(
        "SELECT a.id, a.state, a.reason, a.detail, a.dispatched_at, a.accepted_at, a.uploaded_at, a.ended_at \
         FROM [[v]] JOIN attempt a ON a.id > v.id AND a.id <= {}",
        dialect.last_attempt("v.id")
    );
    for row in reader.fetch(&history, &[], Some(&batch)).await? {
        let id = row.get::<Uuid>(0)?;
        let attempt = muster_wire::AttemptId::from_uuid(id).ok_or_else(|| StoreError::Inconsistent(format!("attempt id {id}")))?;
        subjects.tries.entry(attempt.task()).or_default().push(Try::read(&row, attempt.number())?);
    }
    let current = "SELECT t.id, t.state, t.reason, t.detail, t.dispatched_at, t.accepted_at, t.uploaded_at, t.finished_at, t.attempt \
         FROM [[v]] JOIN task t ON t.id = v.id";
    for row in reader.fetch(current, &[], Some(&batch)).await? {
        subjects.tries.entry(task_id(row.get(0)?)?).or_default().push(Try::read(&row, attempt_number(row.get(8)?)?)?);
    }
    let sealed = "SELECT b.task_id, b.attempt, b.verdict, b.size_bytes FROM [[v]] JOIN bundle b ON b.task_id = v.id";
    for row in reader.fetch(sealed, &[], Some(&batch)).await? {
        let detail = format!("{}, {} bytes", row.get::<String>(2)?, row.get::<i64>(3)?);
        subjects.sealed.insert(task_id(row.get(0)?)?, (attempt_number(row.get(1)?)?, detail));
    }
    let mut collections: Vec<Uuid> = tasks.iter().map(|task| task.collection().uuid()).collect();
    collections.dedup();
    let batch = Batch::default().ids("id", collections);
    let asked = "SELECT c.id, c.kind, c.created_by, c.reason, c.case_id FROM [[v]] JOIN collection c ON c.id = v.id";
    for row in reader.fetch(asked, &[], Some(&batch)).await? {
        let asked = Asked { kind: row.get(1)?, by: row.get(2)?, why: row.get(3)?, case: row.get(4)? };
        subjects.asked.insert(collection_id(row.get(0)?)?, asked);
    }
    Ok(subjects)
}

fn bare(at: i64, what: TimelineWhat) -> Result<TimelineEntry, StoreError> {
    let entry = TimelineEntry {
        at: from_ms(at)?,
        what,
        collection: None,
        task: None,
        alert: None,
        attempt: None,
        who: None,
        reason: None,
        detail: None,
    };
    Ok(entry)
}

/// What somebody did to the device: the row says all of it.
fn done_to_it(place: LinePlace, word: &str, row: &Row) -> Result<TimelineEntry, StoreError> {
    let what = TimelineWhat::ALL.into_iter().find(|what| what.as_str() == word);
    let what = what.ok_or_else(|| StoreError::Inconsistent(format!("an event of a device is {word:?}")))?;
    Ok(TimelineEntry { who: row.get(4)?, detail: row.get(5)?, ..bare(place.at, what)? })
}

impl Subjects {
    fn entry(&self, place: LinePlace) -> Result<TimelineEntry, StoreError> {
        if place.kind == ALERT {
            let raised = self.raised.get(&place.id);
            return Ok(TimelineEntry {
                alert: Some(AlertId::from_uuid(place.id)),
                collection: raised.and_then(|raised| raised.collection),
                detail: raised.map(Raised::detail),
                ..bare(place.at, TimelineWhat::Alert)?
            });
        }
        let task = task_id(place.id)?;
        let asked = self.asked.get(&task.collection());
        let what = match place.kind {
            ASKED => TimelineWhat::Asked,
            SENT => TimelineWhat::Sent,
            ANSWERED => TimelineWhat::Answered,
            UPLOADED => TimelineWhat::Uploaded,
            SEALED => TimelineWhat::Sealed,
            ATTEMPT_ENDED => TimelineWhat::AttemptEnded,
            _ => TimelineWhat::Ended,
        };
        let mut entry = TimelineEntry { collection: Some(task.collection()), task: Some(task), ..bare(place.at, what)? };
        let tries = self.tries.get(&task).map(Vec::as_slice).unwrap_or_default();
        let told = tries.iter().find(|told| told.moment(place.kind) == Some(place.at));
        entry.attempt = told.map(|told| told.number).filter(|number| *number > 0);
        match what {
            TimelineWhat::Asked => {
                entry.who = asked.map(|asked| asked.by.clone());
                entry.detail = asked.map(Asked::detail);
            }
            TimelineWhat::Sealed => {
                let sealed = self.sealed.get(&task);
                entry.attempt = sealed.map(|(number, _)| *number);
                entry.detail = sealed.map(|(_, detail)| detail.clone());
            }
            TimelineWhat::AttemptEnded | TimelineWhat::Ended => {
                entry.reason = told.and_then(|told| told.reason);
                let round_trip = told.filter(|told| told.state == TaskState::Verified && asked.is_some_and(|asked| asked.kind == "ping"));
                let round_trip = round_trip.and_then(|told| told.sent).map(|sent| format!("after {} ms", place.at.saturating_sub(sent)));
                entry.detail = round_trip.or_else(|| told.and_then(|told| told.detail.clone()));
            }
            _ => {}
        }
        Ok(entry)
    }
}

/// What the registry knows of a device by itself.
fn known(row: &device::Model) -> Result<Vec<(LinePlace, TimelineEntry)>, StoreError> {
    let place = |at, kind| LinePlace { at, kind, id: Uuid::nil() };
    let mut known = vec![(place(row.first_seen, FIRST_SEEN), bare(row.first_seen, TimelineWhat::FirstSeen)?)];
    if let Some(started) = row.started_at {
        let at = started.saturating_sub(row.clock_skew_ms.unwrap_or_default());
        let version = row.agent_version.as_deref().unwrap_or_default();
        let agent = row.agent_name.as_ref().map(|name| format!("{name} {version}").trim_end().to_owned());
        // A clock far outside of every calendar says nothing about when.
        if let Ok(entry) = bare(at, TimelineWhat::AgentStarted) {
            known.push((place(at, AGENT_STARTED), TimelineEntry { detail: agent, ..entry }));
        }
    }
    let presence = match row.presence {
        ONLINE => Some(TimelineWhat::Online),
        OFFLINE => Some(TimelineWhat::Offline),
        _ => None,
    };
    if let Some(what) = presence {
        known.push((place(row.presence_at, PRESENCE), bare(row.presence_at, what)?));
    }
    Ok(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alerts_stand_before_what_they_led_to() {
        assert!(ALERT < ASKED && ALERT_PLACES.starts_with(&format!("SELECT {ALERT}, ")));
    }

    #[test]
    fn a_place_comes_back_as_text_and_nothing_else_does() {
        let place = LinePlace { at: -5, kind: ENDED, id: Uuid::now_v7() };
        assert_eq!(place.to_string().parse(), Ok(place));
        assert_eq!(NOW.to_string().parse(), Ok(NOW));
        for other in ["", "1", "1.2", "1.2.3", "x.2.00000000000000000000000000000000", "1.2.00000000000000000000000000000000.4"] {
            assert_eq!(other.parse::<LinePlace>(), Err(NoLinePlace), "{other}");
        }
    }
}
