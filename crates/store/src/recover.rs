//! Taking up work that somebody began: attempts that ran out of time, uploads nobody judges, and what stood open when a controller died.

use muster_wire::{AttemptId, CollectionId, DeviceId, TaskId, TaskState};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::apply::{attempt_number, device_id, task_id, task_state};
use crate::claim::MAX_CLAIM;
use crate::connect::Store;
use crate::dialect::{Row, Value};
use crate::error::{StoreError, run};
use crate::instant::{maybe_from_ms, to_ms};

/// Which tasks to take.
#[derive(Debug, Clone)]
pub struct TakeRequest<'a> {
    /// Behind this task; from the oldest open collection when absent.
    pub after: Option<TaskId>,
    /// At most so many; cut at [`MAX_CLAIM`].
    pub limit: u32,
    /// Who takes them.
    pub owner: &'a str,
    /// The time.
    pub now: OffsetDateTime,
    /// Until when they are nobody else's.
    pub lease_until: OffsetDateTime,
}

/// Tasks that are under way.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OpenTasks {
    /// The tasks, in their order.
    pub tasks: Vec<OpenTask>,
    /// Everything up to here was looked at; `None` when the end of the youngest open collection was reached.
    pub scanned_to: Option<TaskId>,
}

/// A task between `dispatched` and its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenTask {
    /// Its current attempt.
    pub attempt: AttemptId,
    /// Its device.
    pub device: DeviceId,
    /// Where it is.
    pub state: TaskState,
    /// The id the device gave its upload.
    pub correlation_id: Option<String>,
    /// When the attempt was claimed.
    pub dispatched_at: Option<OffsetDateTime>,
    /// When the device answered.
    pub accepted_at: Option<OffsetDateTime>,
    /// When its owner gives it up.
    pub lease_until: Option<OffsetDateTime>,
}

pub(crate) const COLUMNS: &str =
    "task.id, task.attempt, task.device_id, task.state, task.correlation_id, task.dispatched_at, task.accepted_at, task.lease_until";

pub(crate) fn open_task(row: &Row) -> Result<OpenTask, StoreError> {
    let task = task_id(row.get(0)?)?;
    let number = attempt_number(row.get(1)?)?;
    if number == 0 {
        return Err(StoreError::Inconsistent(format!("{task} is under way without an attempt")));
    }
    Ok(OpenTask {
        attempt: task.attempt(number),
        device: device_id(row.get(2)?)?,
        state: task_state(row.get(3)?)?,
        correlation_id: row.get(4)?,
        dispatched_at: maybe_from_ms(row.get(5)?)?,
        accepted_at: maybe_from_ms(row.get(6)?)?,
        lease_until: maybe_from_ms(row.get(7)?)?,
    })
}

fn open_tasks(rows: &[Row], limit: u32) -> Result<OpenTasks, StoreError> {
    let mut tasks = rows.iter().map(open_task).collect::<Result<Vec<_>, _>>()?;
    tasks.sort_unstable_by_key(|task| task.attempt);
    let scanned_to = tasks.last().filter(|_| tasks.len() == limit as usize).map(|task| task.attempt.task());
    Ok(OpenTasks { tasks, scanned_to })
}

impl Store {
    /// Takes tasks whose upload was seen and that nobody judges, or whose judge has not come back in time.
    ///
    /// # Errors
    /// The database's.
    pub async fn take_uploaded(&self, request: &TakeRequest<'_>) -> Result<OpenTasks, StoreError> {
        let free = format!("t.state = {} AND (t.lease_until IS NULL OR t.lease_until <= $3)", TaskState::Uploaded.code());
        let lease = [Value::Number(to_ms(request.lease_until))];
        run("taking uploads", || self.take(request, &free, "$5", &lease)).await
    }

    /// Leases the tasks of all open collections that meet the condition (where `$3` is the time) until the moment the expression `lease`
    /// gives for each (where `taken.attempt_timeout_ms` is its collection's, and `$5` and on are `values`).
    pub(crate) async fn take(
        &self,
        request: &TakeRequest<'_>,
        condition: &str,
        lease: &str,
        values: &[Value<'_>],
    ) -> Result<OpenTasks, StoreError> {
        let limit = request.limit.min(MAX_CLAIM);
        let taken = self.dialect().tasks_of_each(
            "(SELECT c.id, c.last_task, c.attempt_timeout_ms FROM collection c WHERE c.closed_at IS NULL AND c.last_task > $2 ORDER BY c.id) c",
            "task t",
            "t.id, c.attempt_timeout_ms",
            &format!("t.id >= c.id AND t.id <= c.last_task AND t.id > $2 AND {condition}"),
            "$4",
        );
        let sql = format!(
            "WITH taken AS MATERIALIZED ({taken}) \
             UPDATE task SET owner = $1, lease_until = {lease} FROM taken WHERE task.id = taken.id RETURNING {COLUMNS}"
        );
        let mut all = vec![
            Value::Text(request.owner),
            Value::Id(request.after.map_or(Uuid::nil(), TaskId::uuid)),
            Value::Number(to_ms(request.now)),
            Value::Number(i64::from(limit)),
        ];
        all.extend_from_slice(values);
        let mut tx = self.begin().await?;
        let rows = tx.fetch(&sql, &all, None).await?;
        tx.commit().await?;
        open_tasks(&rows, limit)
    }

    /// How many tasks are dispatched or accepted, per open collection that has any; of one owner, or of all.
    ///
    /// # Errors
    /// The database's.
    pub async fn in_flight(&self, owner: Option<&str>) -> Result<Vec<(CollectionId, u64)>, StoreError> {
        let sql = format!(
            "SELECT c.id, (SELECT count(*) FROM task t WHERE t.id >= c.id AND t.id <= c.last_task AND t.state IN ({}, {}) \
             AND ($1 IS NULL OR t.owner = $1)) FROM collection c WHERE c.closed_at IS NULL ORDER BY c.id",
            TaskState::Dispatched.code(),
            TaskState::Accepted.code()
        );
        run("counting what is in flight", || async {
            let mut counts = Vec::new();
            for row in self.reader().await?.fetch(&sql, &[Value::MaybeText(owner)], None).await? {
                let count = u64::try_from(row.get::<i64>(1)?).unwrap_or(0);
                if count > 0 {
                    counts.push((crate::collections::collection_id(row.get(0)?)?, count));
                }
            }
            Ok(counts)
        })
        .await
    }
}
