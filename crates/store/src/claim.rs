//! Claiming: queued tasks become dispatched, each for one attempt, before their requests leave.

use std::collections::{HashMap, HashSet};

use muster_wire::http::ConsentKind;
use muster_wire::{AttemptId, CollectionId, DeviceId, TaskId, TaskState};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::apply::{attempt_number, device_id, task_id};
use crate::connect::Store;
use crate::consent::admit;
use crate::create::name_consents;
use crate::dialect::{Batch, ID_BYTES, Tx, VALUE_BYTES, Value, parcels};
use crate::error::{StoreError, run};
use crate::instant::{maybe_from_ms, to_ms};
use crate::presence::OFFLINE;

/// Most tasks in one claim.
pub const MAX_CLAIM: u32 = 5_000;
/// The number of an attempt is one byte of its id.
const LAST_ATTEMPT: u8 = muster_wire::ids::MAX_ATTEMPTS;

/// What to claim.
#[derive(Debug, Clone)]
pub struct ClaimRequest<'a> {
    /// Of this collection.
    pub collection: CollectionId,
    /// Behind this task; from the beginning when absent. Give [`ClaimBatch::scanned_to`] back to go on.
    pub after: Option<TaskId>,
    /// At most so many; cut at [`MAX_CLAIM`].
    pub limit: u32,
    /// Who claims.
    pub owner: &'a str,
    /// The time.
    pub now: OffsetDateTime,
    /// When somebody looks at it, if nothing was heard.
    pub lease_until: OffsetDateTime,
    /// The method the request will name, to say whether the device offers it.
    pub method: &'a str,
    /// Also take the device until then, the moment this attempt is given up, so that nobody else asks it for a bundle.
    pub device_until: Option<OffsetDateTime>,
    /// The consent the collection needs: asked for each task in the transaction that claims it.
    pub consent: Option<ConsentKind>,
}

/// What was claimed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClaimBatch {
    /// The claimed tasks, in their order.
    pub tasks: Vec<ClaimedTask>,
    /// Tasks left queued because their device is at work on another bundle.
    pub busy: u32,
    /// Everything up to here was looked at; `None` when the end of the collection was reached.
    pub scanned_to: Option<TaskId>,
}

/// A task claimed for one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimedTask {
    /// The attempt; its id is the correlation data of the request.
    pub attempt: AttemptId,
    /// The device to ask.
    pub device: DeviceId,
    /// Whether the device wants the MQTT 3.1.1 form.
    pub wants_311: bool,
    /// Whether its birth lists the method; `None` when it was never born.
    pub method_listed: Option<bool>,
    /// When its agent started, by its own clock.
    pub agent_started: Option<OffsetDateTime>,
    /// Its clock minus ours at its last birth.
    pub clock_skew_ms: Option<i64>,
}

impl Store {
    /// Claims queued tasks whose time has come and whose device is not known to be offline. Two callers never get the same task, nor, with
    /// [`ClaimRequest::device_until`], the same device.
    ///
    /// Walking a collection with the cursor costs each task one look in all, however many calls it takes.
    ///
    /// # Errors
    /// The database's; then nothing was claimed.
    pub async fn claim(&self, request: &ClaimRequest<'_>) -> Result<ClaimBatch, StoreError> {
        run("claiming tasks", || async {
            let mut tx = self.begin().await?;
            let batch = claim_in(&mut tx, request, None).await?;
            tx.commit().await?;
            Ok(batch)
        })
        .await
    }
}

/// Claims within a transaction; with `before`, only tasks whose place in the collection is smaller.
pub(crate) async fn claim_in(tx: &mut Tx, request: &ClaimRequest<'_>, before: Option<u32>) -> Result<ClaimBatch, StoreError> {
    let limit = request.limit.min(MAX_CLAIM);
    let (mut tasks, scanned_to) = candidates(tx, request, limit, before).await?;
    let consents = match request.consent.filter(|_| !tasks.is_empty()) {
        None => HashMap::new(),
        Some(kind) => admit(tx, kind, &mut tasks, request.now).await?,
    };
    let found = tasks.len();
    if let Some(until) = request.device_until.filter(|_| !tasks.is_empty()) {
        let won = take_slots(tx, request, until, &tasks).await?;
        tasks.retain(|task| won.contains(&task.attempt.task().uuid()));
    }
    let busy = u32::try_from(found - tasks.len()).unwrap_or(u32::MAX);
    if !tasks.is_empty() {
        dispatch(tx, request, &tasks).await?;
        let named: Vec<_> = tasks.iter().map(|task| task.attempt.task()).filter_map(|task| Some((task, *consents.get(&task)?))).collect();
        name_consents(tx, &named).await?;
    }
    Ok(ClaimBatch { tasks, busy, scanned_to })
}

async fn candidates(
    tx: &mut Tx,
    request: &ClaimRequest<'_>,
    limit: u32,
    before: Option<u32>,
) -> Result<(Vec<ClaimedTask>, Option<TaskId>), StoreError> {
    // `after` is exclusive; the first task of a collection has the collection's own id.
    let (first, mut last) = request.collection.task_range();
    if let Some(before) = before {
        let Some(last_before) = before.checked_sub(1) else { return Ok((Vec::new(), None)) };
        last = request.collection.task(last_before).uuid();
    }
    let (compare, from) = request.after.map_or((">=", first), |after| (">", after.uuid()));
    // Paused or cancelled is asked in the statement itself: what this controller still believes does not matter.
    let sql = format!(
        "SELECT t.id, t.attempt, t.device_id, d.proto, d.methods, d.started_at, d.clock_skew_ms \
         FROM task t LEFT JOIN device d ON d.id = t.device_id \
         WHERE (SELECT c.id FROM collection c WHERE c.id = $5 AND c.paused_at IS NULL AND c.cancelled_at IS NULL) IS NOT NULL AND t.id {compare} $1 AND t.id <= $2 AND t.state = {} AND t.not_before <= $3 AND t.attempt < {LAST_ATTEMPT} \
         AND (d.presence IS NULL OR d.presence <> {OFFLINE}) ORDER BY t.id LIMIT $4 [[lock t]]",
        TaskState::Queued.code(),
    );
    let values = [Value::Id(from), Value::Id(last), Value::Number(to_ms(request.now)), Value::Number(i64::from(limit)), Value::Id(first)];
    let rows = tx.fetch(&sql, &values, None).await?;
    let listed = format!("\"{}\"", request.method);
    let mut tasks = Vec::with_capacity(rows.len());
    for row in &rows {
        let number = attempt_number(row.get(1)?)?.checked_add(1).expect("the statement asks for attempts below the last");
        let proto: Option<String> = row.get(3)?;
        let methods: Option<String> = row.get(4)?;
        tasks.push(ClaimedTask {
            attempt: task_id(row.get(0)?)?.attempt(number),
            device: device_id(row.get(2)?)?,
            wants_311: proto.is_some_and(|proto| proto.starts_with(&format!("[\"{}\"", muster_wire::presence::PROTO_311))),
            method_listed: methods.map(|methods| methods.contains(&listed)),
            agent_started: maybe_from_ms(row.get(5)?)?,
            clock_skew_ms: row.get(6)?,
        });
    }
    let full = tasks.len() == limit as usize;
    let scanned_to = tasks.last().filter(|_| full).map(|task| task.attempt.task());
    Ok((tasks, scanned_to))
}

/// Takes the devices that are free, or whose last attempt was given up; returns the tasks that got theirs.
async fn take_slots(
    tx: &mut Tx,
    request: &ClaimRequest<'_>,
    until: OffsetDateTime,
    tasks: &[ClaimedTask],
) -> Result<HashSet<Uuid>, StoreError> {
    // In one order of devices for all collections, so that two claims wait for each other in a line and not in a ring.
    let mut sorted: Vec<&ClaimedTask> = tasks.iter().collect();
    sorted.sort_unstable_by(|a, b| a.device.cmp(&b.device));
    sorted.dedup_by(|a, b| a.device == b.device);
    let sql = "INSERT INTO device_slot (device_id, task_id, attempt, until) SELECT v.device, v.task_id, v.attempt, $1 FROM [[v]] WHERE true \
         ON CONFLICT (device_id) DO UPDATE SET task_id = excluded.task_id, attempt = excluded.attempt, until = excluded.until \
         WHERE device_slot.until <= $2 RETURNING task_id";
    let values = [Value::Number(to_ms(until)), Value::Number(to_ms(request.now))];
    let mut won = HashSet::with_capacity(sorted.len());
    for parcel in parcels(&sorted, |task| ID_BYTES + 2 * VALUE_BYTES + 2 + task.device.as_str().len()) {
        let batch = Batch::default()
            .texts("device", parcel.iter().map(|task| Some(task.device.as_str())))
            .ids("task_id", parcel.iter().map(|task| task.attempt.task().uuid()))
            .smalls("attempt", parcel.iter().map(|task| Some(i16::from(task.attempt.number()))));
        for row in tx.fetch(sql, &values, Some(&batch)).await? {
            won.insert(row.get(0)?);
        }
    }
    Ok(won)
}

async fn dispatch(tx: &mut Tx, request: &ClaimRequest<'_>, tasks: &[ClaimedTask]) -> Result<(), StoreError> {
    let sql = format!(
        "UPDATE task SET state = {}, attempt = task.attempt + 1, owner = $1, dispatched_at = $2, lease_until = $3, \
         accepted_at = NULL, uploaded_at = NULL, correlation_id = NULL FROM [[v]] WHERE task.id = v.id AND task.state IN ({})",
        TaskState::Dispatched.code(),
        crate::apply::source_list(TaskState::Dispatched),
    );
    let values = [Value::Text(request.owner), Value::Number(to_ms(request.now)), Value::Number(to_ms(request.lease_until))];
    let mut written = 0;
    for parcel in parcels(tasks, |_| ID_BYTES) {
        let batch = Batch::default().ids("id", parcel.iter().map(|task| task.attempt.task().uuid()));
        written += tx.execute(&sql, &values, Some(&batch)).await?;
    }
    // The rows are locked (or SQLite is): nobody can have moved them since they were read.
    if written == tasks.len() as u64 {
        Ok(())
    } else {
        Err(StoreError::Inconsistent(format!("{written} of {} tasks were claimed", tasks.len())))
    }
}
