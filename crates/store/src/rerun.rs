//! Running tasks again inside their collection: their end becomes history, and they are queued once more.

use std::time::Duration;

use muster_domain::rollout::steering::is_steered;
use muster_wire::{CollectionId, Reason, TaskState};
use time::OffsetDateTime;

use crate::collections::record_event;
use crate::connect::Store;
use crate::dialect::{Batch, ID_BYTES, Tx, VALUE_BYTES, Value, parcels};
use crate::error::{StoreError, run};
use crate::instant::to_ms;
use crate::pace::hold;
use crate::pause::begin_anew;

/// What is run again when no reasons are named. Cancelled and skipped tasks ended on purpose: they are run again only by naming why they
/// ended.
pub const RERUN_BY_DEFAULT: [TaskState; 3] = [TaskState::Failed, TaskState::Refused, TaskState::Expired];

/// Which tasks to run again.
#[derive(Debug, Clone)]
pub struct Rerun<'a> {
    /// Of this collection.
    pub collection: CollectionId,
    /// Who asks.
    pub who: &'a str,
    /// Only tasks that ended for one of these; [`RERUN_BY_DEFAULT`] when empty.
    pub reasons: &'a [Reason],
    /// New end of the collection; it never moves to an earlier time.
    pub expires_at: OffsetDateTime,
    /// Limits that hold from now on.
    pub limits: RerunLimits,
    /// The time.
    pub now: OffsetDateTime,
}

/// Limits of a collection that a rerun may change; each stays as it was when absent. The request itself is immutable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RerunLimits {
    /// Time for one attempt.
    pub attempt_timeout: Option<Duration>,
    /// Attempts per task, for each time it is run.
    pub max_attempts: Option<u8>,
    /// Most devices asked at the same time.
    pub in_flight: Option<u32>,
}

/// What a rerun did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reran {
    /// So many tasks are queued again; with 0 nothing was changed.
    Done {
        /// Tasks.
        tasks: u64,
    },
    /// There is no such collection.
    Unknown,
}

impl Store {
    /// Queues ended tasks again. The collection is open again, no longer cancelled, and allows its attempts anew.
    ///
    /// # Errors
    /// The database's.
    pub async fn rerun(&self, rerun: &Rerun<'_>) -> Result<Reran, StoreError> {
        let Some(row) = self.collection(rerun.collection).await? else { return Ok(Reran::Unknown) };
        run("running tasks again", || async {
            let mut tx = self.begin().await?;
            let steered = is_steered(&row.rollout);
            if steered {
                // The row of the pace before that of the collection, as everybody takes them.
                hold(&mut tx, row.id).await?;
            }
            let outcome = rerun_in(&mut tx, rerun).await?;
            if matches!(outcome, Reran::Done { tasks } if tasks > 0) {
                if steered {
                    begin_anew(&mut tx, &row).await?;
                }
                tx.commit().await?;
            }
            Ok(outcome)
        })
        .await
    }
}

fn list(codes: impl Iterator<Item = i16>) -> String {
    codes.map(|code| code.to_string()).collect::<Vec<_>>().join(", ")
}

async fn rerun_in(tx: &mut Tx, rerun: &Rerun<'_>) -> Result<Reran, StoreError> {
    let (first, last) = rerun.collection.task_range();
    let limit = i16::from(muster_wire::ids::MAX_ATTEMPTS);
    let which = if rerun.reasons.is_empty() {
        format!("state IN ({})", list(RERUN_BY_DEFAULT.iter().map(|state| state.code())))
    } else {
        let ended = TaskState::ALL.iter().filter(|state| state.is_final() && **state != TaskState::Verified);
        format!("state IN ({}) AND reason IN ({})", list(ended.map(|state| state.code())), list(rerun.reasons.iter().map(|r| r.code())))
    };
    // First the collection's row, then the tasks: see `close_in`.
    let larger = tx.dialect().larger("expires_at", "$1");
    let values = [Value::Number(to_ms(rerun.expires_at)), Value::Id(first)];
    // One that had ended begins anew; one that is paused while it runs stays so.
    let sql = format!(
        "UPDATE collection SET paused_at = CASE WHEN closed_at IS NULL AND cancelled_at IS NULL THEN paused_at END, \
         closed_at = NULL, cancelled_at = NULL, outcome = NULL, expires_at = {larger} WHERE id = $2"
    );
    if tx.execute(&sql, &values, None).await? == 0 {
        return Ok(Reran::Unknown);
    }
    // The id of the ended attempt is the task's id with the attempt's number in the last byte; only the program can write that down, so the
    // ids travel.
    let rows = tx
        .fetch(
            &format!("SELECT id, attempt FROM task WHERE id >= $1 AND id <= $2 AND {which} AND attempt < {limit} ORDER BY id"),
            &[Value::Id(first), Value::Id(last)],
            None,
        )
        .await?;
    let mut attempts = Vec::with_capacity(rows.len());
    let mut highest = 0;
    for row in &rows {
        let task = crate::apply::task_id(row.get(0)?)?;
        let number = crate::apply::attempt_number(row.get(1)?)?;
        highest = highest.max(number);
        attempts.push((task, number));
    }
    let mut tasks = 0;
    for chunk in parcels(&attempts, |_| 2 * ID_BYTES + VALUE_BYTES + 2) {
        tasks += requeue(tx, rerun, &which, chunk).await?;
    }
    if tasks == 0 {
        return Ok(Reran::Done { tasks });
    }
    // Never lower: other tasks may already be at a higher attempt.
    let most = "$1 + COALESCE($3, max_attempts)";
    let allowed = tx.dialect().larger("attempt_limit", &format!("CASE WHEN {most} > {limit} THEN {limit} ELSE {most} END"));
    let sql = format!(
        "UPDATE collection SET attempt_limit = {allowed}, max_attempts = COALESCE($3, max_attempts), \
         attempt_timeout_ms = COALESCE($4, attempt_timeout_ms), in_flight = COALESCE($5, in_flight) WHERE id = $2"
    );
    let RerunLimits { attempt_timeout, max_attempts, in_flight } = rerun.limits;
    let values = [
        Value::Number(i64::from(highest)),
        Value::Id(first),
        Value::MaybeNumber(max_attempts.map(i64::from)),
        Value::MaybeNumber(attempt_timeout.map(|span| i64::try_from(span.as_millis()).unwrap_or(i64::MAX))),
        Value::MaybeNumber(in_flight.map(i64::from)),
    ];
    tx.execute(&sql, &values, None).await?;
    let reasons: Vec<&str> = rerun.reasons.iter().map(|reason| reason.as_str()).collect();
    let detail = serde_json::json!({
        "tasks": tasks,
        "reasons": reasons,
        "attempt_timeout_seconds": attempt_timeout.map(|span| span.as_secs()),
        "max_attempts": max_attempts,
        "in_flight": in_flight,
    });
    record_event(tx, rerun.collection, rerun.now, rerun.who, "rerun", &detail).await?;
    Ok(Reran::Done { tasks })
}

async fn requeue(tx: &mut Tx, rerun: &Rerun<'_>, which: &str, chunk: &[(muster_wire::TaskId, u8)]) -> Result<u64, StoreError> {
    let batch = Batch::default()
        .ids("id", chunk.iter().map(|(task, _)| task.uuid()))
        .ids("attempt_id", chunk.iter().map(|(task, number)| if *number == 0 { task.uuid() } else { task.attempt(*number).uuid() }))
        .smalls("attempt", chunk.iter().map(|(_, number)| Some(i16::from(*number))));
    // A task that was never sent leaves no attempt behind; one that was requeued and then expired has its last attempt there already.
    let history = "INSERT INTO attempt (id, state, reason, detail, correlation_id, dispatched_at, accepted_at, uploaded_at, ended_at) \
         SELECT v.attempt_id, t.state, t.reason, t.detail, t.correlation_id, t.dispatched_at, t.accepted_at, t.uploaded_at, COALESCE(t.finished_at, $1) \
         FROM [[v]] JOIN task t ON t.id = v.id WHERE v.attempt > 0 ON CONFLICT (id) DO NOTHING";
    tx.execute(history, &[Value::Number(to_ms(rerun.now))], Some(&batch)).await?;
    let update = format!(
        "UPDATE task SET state = {}, not_before = 0, finished_at = NULL, owner = NULL, lease_until = NULL FROM [[v]] \
         WHERE task.id = v.id AND task.attempt = v.attempt AND {which}",
        TaskState::Queued.code()
    );
    tx.execute(&update, &[], Some(&batch)).await
}
