//! Moving tasks: many steps in one guarded update.

use std::borrow::Cow;
use std::collections::HashMap;

use muster_wire::{AttemptId, DeviceId, Reason, TaskId, TaskState};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::connect::Store;
use crate::dialect::{Batch, ID_BYTES, Tx, VALUE_BYTES, parcels};
use crate::error::{StoreError, run};
use crate::fold::{self, Fold};
use crate::instant::to_ms;
use crate::text::{MAX_CORRELATION_ID_CHARS, MAX_DETAIL_CHARS, bounded};

/// Most steps in one call.
pub const MAX_STEPS: usize = 10_000;

/// One move of one task, in the name of one attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Which attempt says so; a step for an attempt that is not the current one does not apply.
    pub attempt: AttemptId,
    /// Who says so, as the broker vouches for it; `None` when it is our own judgement.
    pub device: Option<DeviceId>,
    /// Where the task goes. Not `dispatched`: that is [`Store::claim`].
    pub to: TaskState,
    /// Why; required for a final state and for `queued`.
    pub reason: Option<Reason>,
    /// More about the reason, for a person; cut at [`MAX_DETAIL_CHARS`].
    pub detail: Option<String>,
    /// The id the device gave its upload.
    pub correlation_id: Option<String>,
    /// With `queued`: not to be sent again before this.
    pub not_before: Option<OffsetDateTime>,
    /// With `accepted`: when to look at it next; as it was when absent. With `uploaded`: until when its owner judges it; free for
    /// [`Store::take_uploaded`] when absent.
    pub lease_until: Option<OffsetDateTime>,
    /// With `verified`: whether the answer gives reason for the next step of an escalation; `None` when there is none.
    pub matched: Option<bool>,
    /// The device is done with this attempt, whatever became of the task: it may be asked for another bundle. Means nothing with
    /// `accepted`: then the device has just begun.
    pub releases_slot: bool,
    /// When it happened.
    pub at: OffsetDateTime,
}

impl Step {
    /// A step with nothing but its aim.
    pub fn new(attempt: AttemptId, to: TaskState, at: OffsetDateTime) -> Self {
        Self {
            attempt,
            device: None,
            to,
            reason: None,
            detail: None,
            correlation_id: None,
            not_before: None,
            lease_until: None,
            matched: None,
            releases_slot: false,
            at,
        }
    }

    /// With a reason.
    pub fn because(mut self, reason: Reason) -> Self {
        self.reason = Some(reason);
        self
    }

    /// Said by this device.
    pub fn by(mut self, device: DeviceId) -> Self {
        self.device = Some(device);
        self
    }
}

/// What became of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepOutcome {
    /// The task moved.
    Applied,
    /// The task was already there by the same attempt.
    Repeated,
    /// The task is elsewhere, or at another attempt.
    Superseded {
        /// Its state.
        state: TaskState,
        /// Its attempt.
        attempt: u8,
    },
    /// The task belongs to another device.
    WrongDevice,
    /// There is no such task.
    UnknownTask,
    /// Its bundle needs a consent that is not there now; only of [`Store::seal`].
    NotAllowed,
}

impl Store {
    /// Applies the steps in one transaction, in their order for each task, and says what became of each. A step that does not apply
    /// changes nothing and does not hinder the others.
    ///
    /// # Errors
    /// [`StoreError::Misuse`] for a step to `dispatched`, a final step without a reason, or more than [`MAX_STEPS`]; otherwise the
    /// database's, and then nothing was applied.
    pub async fn apply(&self, steps: &[Step]) -> Result<Vec<StepOutcome>, StoreError> {
        check(steps)?;
        if steps.is_empty() {
            return Ok(Vec::new());
        }
        run("applying steps", || async {
            let mut tx = self.begin().await?;
            let outcomes = apply_in(&mut tx, steps).await?;
            tx.commit().await?;
            Ok(outcomes)
        })
        .await
    }
}

pub(crate) fn check(steps: &[Step]) -> Result<(), StoreError> {
    if steps.len() > MAX_STEPS {
        return Err(StoreError::Misuse(format!("one call applies at most {MAX_STEPS} steps, this one has {}", steps.len())));
    }
    for step in steps {
        if step.to == TaskState::Dispatched {
            return Err(StoreError::Misuse(format!("{} cannot be dispatched by a step: claim it", step.attempt)));
        }
        if settles(step.to) && step.reason.is_none() {
            return Err(StoreError::Misuse(format!("{} cannot become {} without a reason", step.attempt, step.to)));
        }
    }
    Ok(())
}

/// Ends the attempt: the reason is about it.
fn settles(state: TaskState) -> bool {
    state.is_final() || state == TaskState::Queued
}

/// One row of the update: the sum of the steps of a fold.
struct Write<'a> {
    fold: Fold,
    attempt: AttemptId,
    device: Option<&'a str>,
    settled_by: Option<&'a Step>,
    detail: Option<Cow<'a, str>>,
    correlation_id: Option<Cow<'a, str>>,
    not_before: Option<i64>,
    lease_until: Option<i64>,
    accepted_at: Option<i64>,
    uploaded_at: Option<i64>,
    matched: Option<i16>,
    at: i64,
}

impl<'a> Write<'a> {
    fn new(steps: &'a [Step], device: Option<&'a str>, fold: Fold) -> Self {
        let applied = || fold.applied.iter().map(|&place| &steps[place]);
        let last = applied().next_back().expect("a fold applies at least one step");
        let settled_by = applied().rfind(|step| settles(step.to));
        let moment = |state| applied().find(|step| step.to == state).map(|step| to_ms(step.at));
        Self {
            attempt: last.attempt,
            device,
            settled_by,
            detail: settled_by.and_then(|step| step.detail.as_deref()).map(|text| bounded(text, MAX_DETAIL_CHARS)),
            correlation_id: applied()
                .rev()
                .find_map(|step| step.correlation_id.as_deref())
                .map(|text| bounded(text, MAX_CORRELATION_ID_CHARS)),
            not_before: applied().rev().find_map(|step| step.not_before).map(to_ms),
            lease_until: if settles(last.to) { None } else { last.lease_until.map(to_ms) },
            accepted_at: moment(TaskState::Accepted),
            uploaded_at: moment(TaskState::Uploaded),
            matched: applied().rev().find_map(|step| step.matched).map(i16::from),
            at: to_ms(last.at),
            fold,
        }
    }

    /// On the wire: an id, thirteen other values, and their texts.
    fn bytes(&self) -> usize {
        let texts = [self.device, self.detail.as_deref(), self.correlation_id.as_deref()];
        ID_BYTES + 13 * VALUE_BYTES + 5 * 2 + 5 * 8 + texts.iter().flatten().map(|text| text.len()).sum::<usize>()
    }
}

// A task never leaves `queued` for `queued`, so the lease of `accepted` (2) is the only one a step may leave as it is.
const UPDATE: &str = "UPDATE task SET \
    state = v.state, \
    reason = CASE WHEN v.state >= 4 OR v.state = 0 THEN v.reason ELSE task.reason END, \
    detail = CASE WHEN v.state >= 4 OR v.state = 0 THEN v.detail ELSE task.detail END, \
    correlation_id = COALESCE(v.correlation_id, task.correlation_id), \
    not_before = COALESCE(v.not_before, task.not_before), \
    owner = CASE WHEN v.state IN (1, 2) OR v.lease_until IS NOT NULL THEN task.owner ELSE NULL END, \
    lease_until = CASE WHEN v.lease_until IS NOT NULL THEN v.lease_until WHEN v.state = 2 THEN task.lease_until ELSE NULL END, \
    accepted_at = COALESCE(v.accepted_at, task.accepted_at), \
    uploaded_at = COALESCE(v.uploaded_at, task.uploaded_at), \
    matched = COALESCE(v.matched, task.matched), \
    finished_at = CASE WHEN v.state >= 4 THEN v.at ELSE NULL END \
    FROM [[v]] \
    WHERE task.id = v.id AND task.attempt = v.attempt AND ((v.sources >> task.state) & 1) = 1 \
    AND (v.device IS NULL OR v.device = task.device_id) \
    RETURNING task.id, task.attempt, task.state";

fn batch_of<'a>(writes: &'a [Write<'a>]) -> Batch<'a> {
    Batch::default()
        .ids("id", writes.iter().map(|w| w.attempt.task().uuid()))
        .smalls("attempt", writes.iter().map(|w| Some(i16::from(w.attempt.number()))))
        .smalls("state", writes.iter().map(|w| Some(w.fold.to.code())))
        .smalls("sources", writes.iter().map(|w| Some(w.fold.from)))
        .texts("device", writes.iter().map(|w| w.device))
        .smalls("reason", writes.iter().map(|w| w.settled_by.and_then(|step| step.reason).map(Reason::code)))
        .texts("detail", writes.iter().map(|w| w.detail.as_deref()))
        .texts("correlation_id", writes.iter().map(|w| w.correlation_id.as_deref()))
        .numbers("not_before", writes.iter().map(|w| w.not_before))
        .numbers("lease_until", writes.iter().map(|w| w.lease_until))
        .numbers("accepted_at", writes.iter().map(|w| w.accepted_at))
        .numbers("uploaded_at", writes.iter().map(|w| w.uploaded_at))
        .smalls("matched", writes.iter().map(|w| w.matched))
        .numbers("at", writes.iter().map(|w| Some(w.at)))
}

/// The steps of one attempt, as said by one device.
struct Group<'a> {
    attempt: AttemptId,
    device: Option<&'a str>,
    places: Vec<usize>,
}

/// Groups the steps by attempt. Steps that name another device than the first one of their attempt are left for another round: which of
/// the devices is the right one, only the database knows.
fn group<'a>(steps: &'a [Step], places: impl Iterator<Item = usize>) -> (Vec<Group<'a>>, Vec<usize>) {
    let mut by_attempt: HashMap<AttemptId, usize> = HashMap::new();
    let mut groups: Vec<Group<'a>> = Vec::new();
    let mut left = Vec::new();
    for place in places {
        let step = &steps[place];
        let device = step.device.as_ref().map(DeviceId::as_str);
        let index = *by_attempt.entry(step.attempt).or_insert(groups.len());
        match groups.get_mut(index) {
            None => groups.push(Group { attempt: step.attempt, device, places: vec![place] }),
            Some(group) if group.device == device => group.places.push(place),
            Some(_) => left.push(place),
        }
    }
    // Neighbours in the table are written together, and two batches lock their rows in the same order.
    groups.sort_unstable_by_key(|group| group.attempt);
    (groups, left)
}

pub(crate) async fn apply_in(tx: &mut Tx, steps: &[Step]) -> Result<Vec<StepOutcome>, StoreError> {
    let mut outcomes = vec![StepOutcome::UnknownTask; steps.len()];
    let mut places: Vec<usize> = (0..steps.len()).collect();
    while !places.is_empty() {
        let (groups, left) = group(steps, places.into_iter());
        apply_groups(tx, steps, &groups, &mut outcomes).await?;
        places = left;
    }
    free_slots(tx, steps, &outcomes).await?;
    Ok(outcomes)
}

async fn apply_groups(tx: &mut Tx, steps: &[Step], groups: &[Group<'_>], outcomes: &mut [StepOutcome]) -> Result<(), StoreError> {
    let writes: Vec<Write<'_>> = groups
        .iter()
        .flat_map(|group| fold::fold(steps, &group.places).into_iter().map(|fold| Write::new(steps, group.device, fold)))
        .collect();
    let mut moved: HashMap<AttemptId, i16> = HashMap::with_capacity(writes.len());
    for parcel in parcels(&writes, Write::bytes) {
        for row in tx.fetch(UPDATE, &[], Some(&batch_of(parcel))).await? {
            moved.insert(task_id(row.get(0)?)?.attempt(attempt_number(row.get(1)?)?), row.get(2)?);
        }
    }

    let mut missed: Vec<&Group<'_>> = Vec::new();
    let mut written: Vec<&Write<'_>> = Vec::new();
    let mut later = writes.iter().peekable();
    for group in groups {
        let mut mine: Vec<&Write<'_>> = Vec::new();
        while let Some(write) = later.next_if(|write| write.attempt == group.attempt) {
            mine.push(write);
        }
        let state = moved.get(&group.attempt);
        match mine.into_iter().find(|write| Some(&write.fold.to.code()) == state) {
            Some(write) => {
                for (place, outcome) in group.places.iter().zip(fold::outcomes(steps, &group.places, &write.fold)) {
                    outcomes[*place] = outcome;
                }
                written.push(write);
            }
            None => missed.push(group),
        }
    }
    keep_history(tx, steps, &written).await?;
    explain(tx, steps, &missed, outcomes).await
}

/// Records the attempts that ended and will be followed by another. Their facts are still on the task until it is claimed again.
async fn keep_history(tx: &mut Tx, steps: &[Step], written: &[&Write<'_>]) -> Result<(), StoreError> {
    let ended: Vec<&Step> = written
        .iter()
        .filter_map(|write| write.fold.applied.iter().map(|&place| &steps[place]).find(|step| step.to == TaskState::Queued))
        .collect();
    if ended.is_empty() {
        return Ok(());
    }
    let details: Vec<_> = ended.iter().map(|step| step.detail.as_deref().map(|text| bounded(text, MAX_DETAIL_CHARS))).collect();
    let batch = Batch::default()
        .ids("id", ended.iter().map(|step| step.attempt.uuid()))
        .ids("task_id", ended.iter().map(|step| step.attempt.task().uuid()))
        .smalls("reason", ended.iter().map(|step| step.reason.map(Reason::code)))
        .texts("detail", details.iter().map(|text| text.as_deref()))
        .numbers("at", ended.iter().map(|step| Some(to_ms(step.at))));
    let sql = format!(
        "INSERT INTO attempt (id, state, reason, detail, correlation_id, dispatched_at, accepted_at, uploaded_at, ended_at) \
         SELECT v.id, CASE WHEN t.uploaded_at IS NOT NULL THEN {} WHEN t.accepted_at IS NOT NULL THEN {} ELSE {} END, v.reason, v.detail, \
         t.correlation_id, t.dispatched_at, t.accepted_at, t.uploaded_at, v.at FROM [[v]] JOIN task t ON t.id = v.task_id WHERE true \
         ON CONFLICT (id) DO NOTHING",
        TaskState::Uploaded.code(),
        TaskState::Accepted.code(),
        TaskState::Dispatched.code(),
    );
    tx.execute(&sql, &[], Some(&batch)).await.map(|_| ())
}

/// Says for each step that did not apply where its task stands. Only asked when something missed.
async fn explain(tx: &mut Tx, steps: &[Step], missed: &[&Group<'_>], outcomes: &mut [StepOutcome]) -> Result<(), StoreError> {
    if missed.is_empty() {
        return Ok(());
    }
    let batch = Batch::default().ids("id", missed.iter().map(|group| group.attempt.task().uuid()));
    let mut found: HashMap<TaskId, (TaskState, u8, String)> = HashMap::with_capacity(missed.len());
    for row in tx.fetch("SELECT t.id, t.state, t.attempt, t.device_id FROM [[v]] JOIN task t ON t.id = v.id", &[], Some(&batch)).await? {
        let id = task_id(row.get(0)?)?;
        found.insert(id, (task_state(row.get(1)?)?, attempt_number(row.get(2)?)?, row.get(3)?));
    }
    for group in missed {
        let stands = found.get(&group.attempt.task());
        for &place in &group.places {
            outcomes[place] = match stands {
                None => StepOutcome::UnknownTask,
                Some((_, _, device)) if group.device.is_some_and(|named| named != device) => StepOutcome::WrongDevice,
                Some((state, attempt, _)) if *attempt == group.attempt.number() && *state == steps[place].to => StepOutcome::Repeated,
                Some((state, attempt, _)) => StepOutcome::Superseded { state: *state, attempt: *attempt },
            };
        }
    }
    Ok(())
}

/// Frees the devices that are done.
async fn free_slots(tx: &mut Tx, steps: &[Step], outcomes: &[StepOutcome]) -> Result<(), StoreError> {
    let spoken =
        || steps.iter().zip(outcomes).filter(|(_, outcome)| !matches!(outcome, StepOutcome::WrongDevice | StepOutcome::UnknownTask));
    let done: Vec<AttemptId> =
        spoken().filter(|(step, _)| step.releases_slot && step.to != TaskState::Accepted).map(|(step, _)| step.attempt).collect();
    if !done.is_empty() {
        let batch = Batch::default()
            .ids("task_id", done.iter().map(|attempt| attempt.task().uuid()))
            .smalls("attempt", done.iter().map(|attempt| Some(i16::from(attempt.number()))));
        let sql = "DELETE FROM device_slot WHERE (device_id, task_id, attempt) IN \
             (SELECT t.device_id, v.task_id, v.attempt FROM [[v]] JOIN task t ON t.id = v.task_id)";
        tx.execute(sql, &[], Some(&batch)).await?;
    }
    Ok(())
}

pub(crate) fn task_id(uuid: Uuid) -> Result<TaskId, StoreError> {
    TaskId::from_uuid(uuid).ok_or_else(|| StoreError::Inconsistent(format!("task id {uuid}")))
}

pub(crate) fn task_state(code: i16) -> Result<TaskState, StoreError> {
    TaskState::from_code(code).ok_or_else(|| StoreError::Inconsistent(format!("task state {code}")))
}

pub(crate) fn reason(code: i16) -> Result<Reason, StoreError> {
    Reason::from_code(code).ok_or_else(|| StoreError::Inconsistent(format!("reason {code}")))
}

pub(crate) fn attempt_number(number: i16) -> Result<u8, StoreError> {
    u8::try_from(number).map_err(|_| StoreError::Inconsistent(format!("attempt number {number}")))
}

pub(crate) fn device_id(text: String) -> Result<DeviceId, StoreError> {
    text.try_into().map_err(|error| StoreError::Inconsistent(format!("device id: {error}")))
}

/// `0, 1, 2`: the states a task may become `to` from, for a statement.
pub(crate) fn source_list(to: TaskState) -> String {
    muster_domain::task::sources(to).iter().map(|state| state.code().to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_in_the_statement_are_the_states() {
        assert_eq!((TaskState::Queued.code(), TaskState::Dispatched.code(), TaskState::Accepted.code()), (0, 1, 2));
        for state in TaskState::ALL {
            assert_eq!(state.is_final(), state.code() >= 4, "{state}");
        }
        assert_eq!(source_list(TaskState::Expired), "0, 1, 2");
        assert!(!muster_domain::task::may(TaskState::Queued, TaskState::Queued));
    }
}
