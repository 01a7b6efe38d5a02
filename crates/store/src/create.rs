//! A collection and all its tasks, in one transaction.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

use muster_wire::http::{
    CollectionRequest, ConsentKind, EscalationStep, MAX_TEXT_CHARS, Origin, Paused, Priority, Retry, Rollout, StepOf, TargetView, Window,
};
use muster_wire::{CollectionId, ConsentId, DeviceId, Reason, TaskId, TaskState};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::collections::record_event;
use crate::connect::Store;
use crate::consent::effective_in;
use crate::dialect::{Batch, ID_BYTES, Tx, VALUE_BYTES, Value, parcels};
use crate::error::{StoreError, run};
use crate::instant::to_ms;
use crate::pace::insert_pace;
use crate::presence::OFFLINE;
use crate::text::bounded;

/// Most tasks of one collection.
pub const MAX_COLLECTION_TASKS: usize = 1_000_000;

/// A collection to be made.
#[derive(Debug, Clone)]
pub struct NewCollection {
    /// Its id.
    pub id: CollectionId,
    /// What is asked of each device.
    pub request: CollectionRequest,
    /// How the devices were chosen.
    pub target: TargetView,
    /// Why, in words.
    pub reason: Option<String>,
    /// Support case.
    pub case: Option<String>,
    /// Who asks.
    pub created_by: String,
    /// What makes it.
    pub origin: Origin,
    /// The consent without which no device of it may be asked: those that have none are skipped.
    pub needs_consent: Option<ConsentKind>,
    /// When.
    pub created_at: OffsetDateTime,
    /// After this, what is not done expires.
    pub expires_at: OffsetDateTime,
    /// Time for one attempt.
    pub attempt_timeout: Duration,
    /// Attempts per task.
    pub max_attempts: u8,
    /// Most devices asked at the same time over all controllers; each controller's own window when absent.
    pub in_flight: Option<u32>,
    /// Who goes first.
    pub priority: Priority,
    /// How it is paced.
    pub rollout: Rollout,
    /// When a failed attempt is repeated, where that was asked for.
    pub retry: Option<Retry>,
    /// When devices may be asked.
    pub window: Option<Window>,
    /// Also takes devices that meet the target later.
    pub standing: bool,
    /// Deeper steps.
    pub steps: Vec<EscalationStep>,
    /// Which step of which collection this is; absent for one that was asked for by itself.
    pub step_of: Option<StepOf>,
    /// Pattern over the answers that decides who gets the next step.
    pub when_matches: Option<String>,
    /// Made paused.
    pub paused: Option<Paused>,
    /// Makes a repeated request find the collection it made before.
    pub idempotency: Option<Idempotency>,
    /// The devices, each once; the place in this list is the ordinal of the task, unless there are stages: then the order is random.
    pub tasks: Vec<NewTask>,
}

/// One device of a new collection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTask {
    /// The device.
    pub device: DeviceId,
    /// Why it is skipped at once, if it is.
    pub skip: Option<Reason>,
}

/// A key that a client gave its request, and a digest of the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// The key; unique per creator.
    pub key: String,
    /// Digest of the body.
    pub body_sha256: String,
}

/// What became of a new collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// It was made.
    New,
    /// The same request came before and made this one.
    Repeated(CollectionId),
    /// The key was used before with another body, for this one.
    KeyReused(CollectionId),
}

impl Store {
    /// Makes a collection with all its tasks, or nothing.
    ///
    /// # Errors
    /// [`StoreError::Misuse`] for a device named twice or more than [`MAX_COLLECTION_TASKS`]; otherwise the database's.
    pub async fn create_collection(&self, new: &NewCollection) -> Result<Created, StoreError> {
        // Boxed: what it needs for the steps would lie in every caller.
        Box::pin(self.create_escalation(new, &[])).await
    }

    /// The same with the deeper steps behind it, which begin without a task ([`Store::feed_step`] brings them).
    ///
    /// # Errors
    /// As [`Store::create_collection`].
    pub async fn create_escalation(&self, new: &NewCollection, later: &[NewCollection]) -> Result<Created, StoreError> {
        if let Some(step) = later.iter().find(|step| !step.tasks.is_empty() || step.idempotency.is_some() || step.step_of.is_none()) {
            return Err(StoreError::Misuse(format!("{} is no deeper step: it has tasks or a key of its own, or no first step", step.id)));
        }
        if new.tasks.len() > MAX_COLLECTION_TASKS {
            return Err(StoreError::Misuse(format!(
                "a collection has at most {MAX_COLLECTION_TASKS} tasks, this one has {}",
                new.tasks.len()
            )));
        }
        let mut seen = HashSet::with_capacity(new.tasks.len());
        if let Some(task) = new.tasks.iter().find(|task| !seen.insert(&task.device)) {
            return Err(StoreError::Misuse(format!("device {} is named twice in one collection", task.device)));
        }
        drop(seen);
        run("creating a collection", || async {
            let mut tx = self.begin().await?;
            let created = create_in(&mut tx, new, later).await?;
            if created == Created::New {
                tx.commit().await?;
            }
            Ok(created)
        })
        .await
    }
}

/// Makes a collection within a transaction; with anything but [`Created::New`] there is nothing to commit.
pub(crate) async fn create_in(tx: &mut Tx, new: &NewCollection, later: &[NewCollection]) -> Result<Created, StoreError> {
    let created = insert_collection(tx, new).await?;
    if created != Created::New {
        return Ok(created);
    }
    insert_pace(tx, new).await?;
    let (allowed, consents) = match new.needs_consent {
        None => (Cow::Borrowed(&new.tasks), HashMap::new()),
        Some(kind) => {
            let (tasks, consents) = with_consent(tx, kind, &new.tasks, new.created_at).await?;
            (Cow::Owned(tasks), consents)
        }
    };
    let order = if new.rollout.stages.is_empty() { allowed } else { Cow::Owned(in_stages(tx, &allowed).await?) };
    let mut first = 0;
    for tasks in parcels(&order, |task| ID_BYTES + 2 * VALUE_BYTES + 2 + task.device.as_str().len()) {
        insert_tasks(tx, new.id, first, tasks, new.created_at).await?;
        first += tasks.len();
    }
    if !consents.is_empty() {
        let of = |(place, task): (usize, &NewTask)| Some((u32::try_from(place).ok()?, *consents.get(&task.device)?));
        name_consents(tx, &order.iter().enumerate().filter_map(of).map(|(n, id)| (new.id.task(n), id)).collect::<Vec<_>>()).await?;
    }
    for step in later {
        insert_collection(tx, step).await?;
    }
    let skipped = order.iter().filter(|task| task.skip.is_some()).count();
    let detail = serde_json::json!({ "targeted": new.tasks.len(), "skipped": skipped });
    record_event(tx, new.id, new.created_at, &new.created_by, "created", &detail).await?;
    Ok(created)
}

/// The tasks with those skipped that have no consent now, and the consent of the others.
pub(crate) async fn with_consent(
    tx: &mut Tx,
    kind: ConsentKind,
    tasks: &[NewTask],
    now: OffsetDateTime,
) -> Result<(Vec<NewTask>, HashMap<DeviceId, ConsentId>), StoreError> {
    let devices: Vec<&DeviceId> = tasks.iter().filter(|task| task.skip.is_none()).map(|task| &task.device).collect();
    let held = effective_in(tx, kind, &devices, now).await?;
    let consents: HashMap<DeviceId, ConsentId> =
        held.into_iter().filter_map(|(device, effective)| Some((device, effective.consent?))).collect();
    let skip = |task: &NewTask| task.skip.or((!consents.contains_key(&task.device)).then_some(Reason::ConsentMissing));
    Ok((tasks.iter().map(|task| NewTask { skip: skip(task), ..task.clone() }).collect(), consents))
}

/// Writes on tasks under which decision they were made.
pub(crate) async fn name_consents(tx: &mut Tx, tasks: &[(TaskId, ConsentId)]) -> Result<(), StoreError> {
    for parcel in parcels(tasks, |_| 2 * ID_BYTES) {
        let batch = Batch::default()
            .ids("id", parcel.iter().map(|(task, _)| task.uuid()))
            .ids("consent", parcel.iter().map(|(_, consent)| consent.uuid()));
        tx.execute("UPDATE task SET consent_id = v.consent FROM [[v]] WHERE task.id = v.id", &[], Some(&batch)).await?;
    }
    Ok(())
}

async fn insert_collection(tx: &mut Tx, new: &NewCollection) -> Result<Created, StoreError> {
    const SQL: &str = "INSERT INTO collection (id, last_task, kind, request, target, attempt_timeout_ms, max_attempts, attempt_limit, in_flight, \
        targeted, reason, case_id, created_by, created_at, expires_at, idempotency_key, body_sha256, priority, rollout, retry, time_window, \
        standing, steps, step_of, step, when_matches, paused_at, paused_by, paused_why, origin, consent_kind) \
        VALUES ($1, $2, $3, $4, $5, $6, CAST($7 AS smallint), CAST($7 AS smallint), $8, $9, $10, $11, $12, $13, $14, $15, $16, \
        CAST($17 AS smallint), $18, $19, $20, CAST($21 AS smallint), $22, $23, CAST($24 AS smallint), $25, $26, $27, $28, $29, $30) \
        ON CONFLICT (created_by, idempotency_key) DO NOTHING";
    let json = |error: serde_json::Error| StoreError::Misuse(format!("the request could not be written as JSON: {error}"));
    let request = serde_json::to_string(&new.request).map_err(json)?;
    let target = serde_json::to_string(&new.target).map_err(json)?;
    let rollout = (new.rollout != Rollout::default()).then(|| serde_json::to_string(&new.rollout)).transpose().map_err(json)?;
    let retry = new.retry.as_ref().map(serde_json::to_string).transpose().map_err(json)?;
    let window = new.window.as_ref().map(serde_json::to_string).transpose().map_err(json)?;
    let steps = (!new.steps.is_empty()).then(|| serde_json::to_string(&new.steps)).transpose().map_err(json)?;
    let origin = (new.origin != Origin::Manual).then(|| serde_json::to_string(&new.origin)).transpose().map_err(json)?;
    let clean = |text: &'_ Option<String>| text.as_deref().map(|text| bounded(text, MAX_TEXT_CHARS).into_owned());
    let (reason, case) = (clean(&new.reason), clean(&new.case));
    let creator = bounded(&new.created_by, MAX_TEXT_CHARS);
    let key = new.idempotency.as_ref().map(|idempotency| bounded(&idempotency.key, MAX_TEXT_CHARS));
    let targeted = i64::try_from(new.tasks.len()).expect("bounded by MAX_COLLECTION_TASKS");
    let last = u32::try_from(new.tasks.len().saturating_sub(1)).expect("bounded by MAX_COLLECTION_TASKS");
    let written = tx
        .execute(
            SQL,
            &[
                Value::Id(new.id.uuid()),
                Value::Id(new.id.task(last).uuid()),
                Value::Text(new.request.kind()),
                Value::Text(&request),
                Value::Text(&target),
                Value::Number(i64::try_from(new.attempt_timeout.as_millis()).unwrap_or(i64::MAX)),
                Value::Number(i64::from(new.max_attempts)),
                Value::Number(new.in_flight.map_or(0, i64::from)),
                Value::Number(targeted),
                Value::MaybeText(reason.as_deref()),
                Value::MaybeText(case.as_deref()),
                Value::Text(&creator),
                Value::Number(to_ms(new.created_at)),
                Value::Number(to_ms(new.expires_at)),
                Value::MaybeText(key.as_deref()),
                Value::MaybeText(new.idempotency.as_ref().map(|i| i.body_sha256.as_str())),
                Value::Number(i64::from(new.priority.code())),
                Value::MaybeText(rollout.as_deref()),
                Value::MaybeText(retry.as_deref()),
                Value::MaybeText(window.as_deref()),
                Value::Number(i64::from(new.standing)),
                Value::MaybeText(steps.as_deref()),
                Value::MaybeId(new.step_of.map(|of| of.collection.uuid())),
                Value::Number(new.step_of.map_or(1, |of| i64::from(of.step))),
                Value::MaybeText(new.when_matches.as_deref()),
                Value::MaybeNumber(new.paused.as_ref().map(|paused| to_ms(paused.at))),
                Value::MaybeText(new.paused.as_ref().map(|paused| paused.by.as_str())),
                Value::MaybeText(new.paused.as_ref().map(|paused| paused.why.as_str())),
                Value::MaybeText(origin.as_deref()),
                Value::MaybeText(new.needs_consent.map(ConsentKind::as_str)),
            ],
            None,
        )
        .await?;
    let Some(idempotency) = new.idempotency.as_ref().filter(|_| written == 0) else {
        return Ok(Created::New);
    };
    let rows = tx
        .fetch(
            "SELECT id, body_sha256 FROM collection WHERE created_by = $1 AND idempotency_key = $2",
            &[Value::Text(&creator), Value::MaybeText(key.as_deref())],
            None,
        )
        .await?;
    let row = rows.first().ok_or_else(|| StoreError::Inconsistent(format!("key {:?} is taken by no collection", idempotency.key)))?;
    let id: Uuid = row.get(0)?;
    let id = CollectionId::from_uuid(id).ok_or_else(|| StoreError::Inconsistent(format!("collection id {id}")))?;
    let same = row.get::<Option<String>>(1)?.as_deref() == Some(&idempotency.body_sha256);
    Ok(if same { Created::Repeated(id) } else { Created::KeyReused(id) })
}

/// The order in which stages take devices: random, so that the first are like all; those known to be offline after the others, or a stage
/// would wait for them; those that are skipped last.
async fn in_stages(tx: &mut Tx, tasks: &[NewTask]) -> Result<Vec<NewTask>, StoreError> {
    let sql = format!("SELECT d.id FROM [[v]] JOIN device d ON d.id = v.device WHERE d.presence = {OFFLINE}");
    let mut offline: HashSet<String> = HashSet::new();
    for parcel in parcels(tasks, |task| VALUE_BYTES + task.device.as_str().len()) {
        let batch = Batch::default().texts("device", parcel.iter().map(|task| Some(task.device.as_str())));
        for row in tx.fetch(&sql, &[], Some(&batch)).await? {
            offline.insert(row.get(0)?);
        }
    }
    let mut tasks = tasks.to_vec();
    tasks.sort_by_cached_key(|task| (task.skip.is_some(), offline.contains(task.device.as_str()), Uuid::new_v4()));
    Ok(tasks)
}

pub(crate) async fn insert_tasks(
    tx: &mut Tx,
    collection: CollectionId,
    first: usize,
    tasks: &[NewTask],
    at: OffsetDateTime,
) -> Result<(), StoreError> {
    let first = u32::try_from(first).expect("bounded by MAX_COLLECTION_TASKS");
    let ids = || (first..).zip(tasks);
    let batch = Batch::default()
        .ids("id", ids().map(|(n, _)| collection.task(n).uuid()))
        .texts("device", tasks.iter().map(|t| Some(t.device.as_str())));
    let queued = TaskState::Queued.code();
    let written = if tasks.iter().all(|task| task.skip.is_none()) {
        let sql = format!("INSERT INTO task (id, device_id, state) SELECT v.id, v.device, {queued} FROM [[v]]");
        tx.execute(&sql, &[], Some(&batch)).await?
    } else {
        let skipped = TaskState::Skipped.code();
        let batch = batch.smalls("reason", tasks.iter().map(|task| task.skip.map(Reason::code)));
        let sql = format!(
            "INSERT INTO task (id, device_id, state, reason, finished_at) \
             SELECT v.id, v.device, CASE WHEN v.reason IS NULL THEN {queued} ELSE {skipped} END, v.reason, CASE WHEN v.reason IS NULL THEN NULL ELSE $1 END FROM [[v]]"
        );
        tx.execute(&sql, &[Value::Number(to_ms(at))], Some(&batch)).await?
    };
    if written == tasks.len() as u64 {
        Ok(())
    } else {
        Err(StoreError::Inconsistent(format!("{written} of {} tasks were inserted", tasks.len())))
    }
}
