//! Leases of tasks that are with a device: when somebody must look at them next.
//!
//! A lease is not the end of an attempt. It ends early, so that a request that died with a connection is sent again soon, and each time
//! somebody looked it is renewed for as long as the attempt is old: looks become rarer and never stop before the attempt is given up.

use std::time::Duration;

use muster_wire::{AttemptId, TaskId, TaskState};

use crate::connect::Store;
use crate::dialect::Value;
use crate::error::{StoreError, run};
use crate::recover::{COLUMNS, OpenTask, OpenTasks, TakeRequest, open_task};

/// How often tasks are looked at.
#[derive(Debug, Clone, Copy)]
pub struct Looking {
    /// Shortest time between two looks.
    pub first: Duration,
    /// Longest time between two looks.
    pub max: Duration,
    /// An attempt is given up so long after the time its collection gives it; a look falls on that moment.
    pub grace: Duration,
}

/// `$3` is the time, `$5` the shortest and `$6` the longest wait, `$7` what an attempt has beside its own time. The wait is as long as the
/// attempt is old, within its bounds, and does not step over the moment at which the attempt is given up.
const NEXT_LOOK: &str = "CASE \
    WHEN $3 < task.dispatched_at + taken.attempt_timeout_ms + $7 AND $3 + (CASE WHEN $3 - task.dispatched_at > $6 THEN $6 \
    WHEN $3 - task.dispatched_at < $5 THEN $5 ELSE $3 - task.dispatched_at END) > task.dispatched_at + taken.attempt_timeout_ms + $7 \
    THEN task.dispatched_at + taken.attempt_timeout_ms + $7 \
    ELSE $3 + (CASE WHEN $3 - task.dispatched_at > $6 THEN $6 WHEN $3 - task.dispatched_at < $5 THEN $5 \
    ELSE $3 - task.dispatched_at END) END";

impl Store {
    /// Takes tasks with a device (dispatched or accepted) whose lease has passed, and leases them to the caller until the next look
    /// (`request.lease_until` is not used: each task gets its own).
    ///
    /// # Errors
    /// The database's.
    pub async fn take_silent(&self, request: &TakeRequest<'_>, looking: &Looking) -> Result<OpenTasks, StoreError> {
        let lease = [looking.first, looking.max.max(looking.first), looking.grace].map(|wait| Value::Number(millis(wait)));
        let silent = format!("t.state IN ({}, {}) AND t.lease_until <= $3", TaskState::Dispatched.code(), TaskState::Accepted.code());
        run("taking silent attempts", || self.take(request, &silent, NEXT_LOOK, &lease)).await
    }

    /// A task that is under way; `None` when it is queued or final.
    ///
    /// # Errors
    /// The database's.
    pub async fn open_task(&self, task: TaskId) -> Result<Option<OpenTask>, StoreError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM task WHERE id = $1 AND state IN ({}, {}, {})",
            TaskState::Dispatched.code(),
            TaskState::Accepted.code(),
            TaskState::Uploaded.code()
        );
        run("reading a task", || async {
            let rows = self.reader().await?.fetch(&sql, &[Value::Id(task.uuid())], None).await?;
            rows.first().map(open_task).transpose()
        })
        .await
    }

    /// A task that is queued again after this attempt, and not sent again yet: what comes late of the attempt still counts.
    ///
    /// # Errors
    /// The database's.
    pub async fn waiting_task(&self, attempt: AttemptId) -> Result<Option<OpenTask>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM task WHERE id = $1 AND attempt = $2 AND state = {}", TaskState::Queued.code());
        run("reading a task", || async {
            let values = [Value::Id(attempt.task().uuid()), Value::Number(i64::from(attempt.number()))];
            let rows = self.reader().await?.fetch(&sql, &values, None).await?;
            rows.first().map(open_task).transpose()
        })
        .await
    }

    /// Ends all leases of this owner: it has just started, so whoever held them under its name is dead. An upload that came late has no owner,
    /// and whoever judged it may be the one who died: judging it twice gives the same.
    ///
    /// # Errors
    /// The database's.
    pub async fn release_leases(&self, owner: &str) -> Result<u64, StoreError> {
        let sql = format!(
            "UPDATE task SET lease_until = 0 FROM collection c WHERE c.closed_at IS NULL AND task.id >= c.id AND task.id <= c.last_task \
             AND task.lease_until > 0 AND (task.owner = $1 AND task.state IN ({}, {}, {uploaded}) OR task.owner IS NULL AND task.state = {uploaded})",
            TaskState::Dispatched.code(),
            TaskState::Accepted.code(),
            uploaded = TaskState::Uploaded.code()
        );
        run("releasing leases", || async {
            let mut tx = self.begin().await?;
            let released = tx.execute(&sql, &[Value::Text(owner)], None).await?;
            tx.commit().await?;
            Ok(released)
        })
        .await
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4)
}
