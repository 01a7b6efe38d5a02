//! Claiming: queued tasks become dispatched, each for one attempt, before their requests leave.

use std::collections::{HashMap, HashSet};

use muster_wire::http::ConsentKind;
use muster_wire::{AttemptId, CollectionId, ConsentId, DeviceId, TaskId, TaskState};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::apply::{attempt_number, device_id, task_id};
use crate::connect::Store;
use crate::consent::admit;
use crate::create::name_consents;
use crate::dialect::{Batch, ID_BYTES, STATEMENT_BYTES, Tx, VALUE_BYTES, Value, parcels};
use crate::error::{StoreError, run};
use crate::instant::{maybe_from_ms, to_ms};
use crate::presence::OFFLINE;

/// Most tasks in one claim.
pub const MAX_CLAIM: u32 = 5_000;
/// Most collections in one claim: their ranges are one statement of a bounded size.
pub const MAX_CLAIM_COLLECTIONS: usize = STATEMENT_BYTES / (3 * ID_BYTES);
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
    /// Everything up to here was looked at; `None` when the end of the collection, of several the end of the last one, was reached.
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
        self.claim_each(std::slice::from_ref(request), request.limit).await
    }

    /// The same for several collections at once, of one owner and at one time, the oldest first; at most `limit` tasks of all of them together.
    ///
    /// # Errors
    /// [`StoreError::Misuse`] for more than [`MAX_CLAIM_COLLECTIONS`]; otherwise the database's, and then nothing was claimed.
    pub async fn claim_each(&self, requests: &[ClaimRequest<'_>], limit: u32) -> Result<ClaimBatch, StoreError> {
        if requests.len() > MAX_CLAIM_COLLECTIONS {
            let count = requests.len();
            return Err(StoreError::Misuse(format!("a claim is from at most {MAX_CLAIM_COLLECTIONS} collections, this one from {count}")));
        }
        if requests.is_empty() {
            return Ok(ClaimBatch::default());
        }
        run("claiming tasks", || async {
            let mut tx = self.begin().await?;
            let batch = claim_in(&mut tx, requests, limit, None).await?;
            tx.commit().await?;
            Ok(batch)
        })
        .await
    }
}

/// Claims within a transaction; with `before`, only tasks whose place in the collection is smaller.
pub(crate) async fn claim_in(
    tx: &mut Tx,
    requests: &[ClaimRequest<'_>],
    limit: u32,
    before: Option<u32>,
) -> Result<ClaimBatch, StoreError> {
    let of: HashMap<CollectionId, &ClaimRequest<'_>> = requests.iter().map(|request| (request.collection, request)).collect();
    let (mut tasks, scanned_to) = candidates(tx, &of, limit.min(MAX_CLAIM), before).await?;
    let consents = with_consent(tx, &mut tasks).await?;
    let found = tasks.len();
    if tasks.iter().any(|(request, _)| request.device_until.is_some()) {
        let won = take_slots(tx, &tasks).await?;
        tasks.retain(|(request, task)| request.device_until.is_none() || won.contains(&task.attempt.task().uuid()));
    }
    let busy = u32::try_from(found - tasks.len()).unwrap_or(u32::MAX);
    if !tasks.is_empty() {
        dispatch(tx, &tasks).await?;
        let named: Vec<_> =
            tasks.iter().map(|(_, task)| task.attempt.task()).filter_map(|task| Some((task, *consents.get(&task)?))).collect();
        name_consents(tx, &named).await?;
    }
    Ok(ClaimBatch { tasks: tasks.into_iter().map(|(_, task)| task).collect(), busy, scanned_to })
}

/// A task that may be claimed, with the request it is claimed by.
type Candidate<'a> = (&'a ClaimRequest<'a>, ClaimedTask);

/// Leaves out tasks whose collection needs a consent that is not there; under which decision the others go. Nothing where none is needed.
async fn with_consent(tx: &mut Tx, tasks: &mut Vec<Candidate<'_>>) -> Result<HashMap<TaskId, ConsentId>, StoreError> {
    let mut admitted = HashMap::new();
    for &kind in ConsentKind::ALL {
        let asked: Vec<&Candidate<'_>> = tasks.iter().filter(|(request, _)| request.consent == Some(kind)).collect();
        if let Some((request, _)) = asked.first() {
            let now = request.now;
            admitted.extend(admit(tx, kind, &asked.into_iter().map(|(_, task)| task).collect::<Vec<_>>(), now).await?);
        }
    }
    tasks.retain(|(request, task)| request.consent.is_none() || admitted.contains_key(&task.attempt.task()));
    Ok(admitted)
}

async fn candidates<'a>(
    tx: &mut Tx,
    of: &HashMap<CollectionId, &'a ClaimRequest<'a>>,
    limit: u32,
    before: Option<u32>,
) -> Result<(Vec<Candidate<'a>>, Option<TaskId>), StoreError> {
    if before == Some(0) {
        return Ok((Vec::new(), None));
    }
    let Some(now) = of.values().next().map(|request| to_ms(request.now)) else { return Ok((Vec::new(), None)) };
    // Both ends are included; the first task of a collection has the collection's own id.
    let ranges = of.values().map(|request| {
        let (first, last) = request.collection.task_range();
        let low = request.after.map_or(first, |after| Uuid::from_u128(after.uuid().as_u128() + 1));
        let high = before.map_or(last, |before| request.collection.task(before - 1).uuid());
        (first, low, high)
    });
    let mut ranges: Vec<(Uuid, Uuid, Uuid)> = ranges.collect();
    ranges.sort_unstable();
    let batch = Batch::default()
        .ids("id", ranges.iter().map(|(id, _, _)| *id))
        .ids("low", ranges.iter().map(|(_, low, _)| *low))
        .ids("high", ranges.iter().map(|(_, _, high)| *high));
    // Paused or cancelled is asked in the statement itself: what this controller still believes does not matter.
    let sql = tx.dialect().tasks_of_each(
        "(SELECT v.low, v.high FROM [[v]] WHERE (SELECT c.id FROM collection c WHERE c.id = v.id AND c.paused_at IS NULL \
         AND c.cancelled_at IS NULL) IS NOT NULL ORDER BY v.low) r",
        "task t LEFT JOIN device d ON d.id = t.device_id",
        "t.id, t.attempt, t.device_id, d.proto, d.methods, d.started_at, d.clock_skew_ms",
        &format!(
            "t.id >= r.low AND t.id <= r.high AND t.state = {} AND t.not_before <= $1 AND t.attempt < {LAST_ATTEMPT} \
             AND (d.presence IS NULL OR d.presence <> {OFFLINE})",
            TaskState::Queued.code(),
        ),
        "$2",
    );
    let rows = tx.fetch(&sql, &[Value::Number(now), Value::Number(i64::from(limit))], Some(&batch)).await?;
    let mut tasks = Vec::with_capacity(rows.len());
    for row in &rows {
        let task = task_id(row.get(0)?)?;
        let request = *of.get(&task.collection()).ok_or_else(|| StoreError::Inconsistent(format!("{task} was not asked for")))?;
        let number = attempt_number(row.get(1)?)?.checked_add(1).expect("the statement asks for attempts below the last");
        let proto: Option<String> = row.get(3)?;
        let methods: Option<String> = row.get(4)?;
        let claimed = ClaimedTask {
            attempt: task.attempt(number),
            device: device_id(row.get(2)?)?,
            wants_311: proto.is_some_and(|proto| proto.starts_with(&format!("[\"{}\"", muster_wire::presence::PROTO_311))),
            method_listed: methods.map(|methods| methods.contains(&format!("\"{}\"", request.method))),
            agent_started: maybe_from_ms(row.get(5)?)?,
            clock_skew_ms: row.get(6)?,
        };
        tasks.push((request, claimed));
    }
    tasks.sort_unstable_by_key(|(_, task)| task.attempt);
    let full = tasks.len() == limit as usize;
    let scanned_to = tasks.last().filter(|_| full).map(|(_, task)| task.attempt.task());
    Ok((tasks, scanned_to))
}

/// Takes the devices that are free, or whose last attempt was given up, for the tasks that need them; returns the tasks that got theirs.
async fn take_slots(tx: &mut Tx, tasks: &[Candidate<'_>]) -> Result<HashSet<Uuid>, StoreError> {
    // In one order of devices for all collections, so that two claims wait for each other in a line and not in a ring. Of two tasks of one
    // device the older gets it.
    let mut sorted: Vec<(&ClaimRequest<'_>, &ClaimedTask)> =
        tasks.iter().filter(|(request, _)| request.device_until.is_some()).map(|(request, task)| (*request, task)).collect();
    sorted.sort_unstable_by(|(_, a), (_, b)| (&a.device, a.attempt).cmp(&(&b.device, b.attempt)));
    sorted.dedup_by(|(_, a), (_, b)| a.device == b.device);
    let sql = "INSERT INTO device_slot (device_id, task_id, attempt, until) SELECT v.device, v.task_id, v.attempt, v.until FROM [[v]] WHERE true \
         ON CONFLICT (device_id) DO UPDATE SET task_id = excluded.task_id, attempt = excluded.attempt, until = excluded.until \
         WHERE device_slot.until <= $1 RETURNING task_id";
    let mut won = HashSet::with_capacity(sorted.len());
    for parcel in parcels(&sorted, |(_, task)| ID_BYTES + 3 * VALUE_BYTES + 2 + 8 + task.device.as_str().len()) {
        let Some((first, _)) = parcel.first() else { continue };
        let batch = Batch::default()
            .texts("device", parcel.iter().map(|(_, task)| Some(task.device.as_str())))
            .ids("task_id", parcel.iter().map(|(_, task)| task.attempt.task().uuid()))
            .smalls("attempt", parcel.iter().map(|(_, task)| Some(i16::from(task.attempt.number()))))
            .numbers("until", parcel.iter().map(|(request, _)| request.device_until.map(to_ms)));
        for row in tx.fetch(sql, &[Value::Number(to_ms(first.now))], Some(&batch)).await? {
            won.insert(row.get(0)?);
        }
    }
    Ok(won)
}

async fn dispatch(tx: &mut Tx, tasks: &[Candidate<'_>]) -> Result<(), StoreError> {
    let sql = format!(
        "UPDATE task SET state = {}, attempt = task.attempt + 1, owner = $1, dispatched_at = $2, lease_until = v.lease_until, \
         accepted_at = NULL, uploaded_at = NULL, correlation_id = NULL FROM [[v]] WHERE task.id = v.id AND task.state IN ({})",
        TaskState::Dispatched.code(),
        crate::apply::source_list(TaskState::Dispatched),
    );
    let mut written = 0;
    for parcel in parcels(tasks, |_| ID_BYTES + VALUE_BYTES + 8) {
        let Some((first, _)) = parcel.first() else { continue };
        let batch = Batch::default()
            .ids("id", parcel.iter().map(|(_, task)| task.attempt.task().uuid()))
            .numbers("lease_until", parcel.iter().map(|(request, _)| Some(to_ms(request.lease_until))));
        written += tx.execute(&sql, &[Value::Text(first.owner), Value::Number(to_ms(first.now))], Some(&batch)).await?;
    }
    // The rows are locked (or SQLite is): nobody can have moved them since they were read.
    if written == tasks.len() as u64 {
        Ok(())
    } else {
        Err(StoreError::Inconsistent(format!("{written} of {} tasks were claimed", tasks.len())))
    }
}
