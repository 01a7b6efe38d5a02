//! The end of collections: expiry, cancellation, closing.

use std::collections::HashSet;

use muster_wire::http::Rollout;
use muster_wire::{AttemptId, CollectionId, Reason, TaskState};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::apply::{attempt_number, source_list, task_id};
use crate::collections::{collection_id, parse, record_event};
use crate::connect::Store;
use crate::counters::final_tallies;
use crate::dialect::{Batch, ID_BYTES, Tx, VALUE_BYTES, Value, parcels};
use crate::error::{StoreError, run};
use crate::instant::to_ms;
use crate::presence::OFFLINE;

/// Which tasks a cancellation ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancel {
    /// All that are not final.
    All,
    /// Those that are queued; what is with a device may end, and is not tried again.
    Queued,
}

/// What a cancellation did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancelled {
    /// So many tasks were cancelled; the others were already final.
    Done {
        /// Tasks.
        tasks: u64,
    },
    /// It was cancelled before.
    Already,
    /// All its tasks were final; nothing was left to cancel.
    Finished,
    /// There is no such collection.
    Unknown,
}

impl Store {
    /// Expires what has not been uploaded of these collections, because their time is over. A task still queued whose device is known to be
    /// offline says so. Returns how many tasks expired; uploads that wait for judgement are left to be judged.
    ///
    /// # Errors
    /// The database's.
    pub async fn expire(&self, collections: &[CollectionId], now: OffsetDateTime) -> Result<u64, StoreError> {
        let sql = format!(
            "UPDATE task SET state = {}, owner = NULL, lease_until = NULL, finished_at = $1, detail = NULL, reason = \
             CASE WHEN task.state = {} AND COALESCE((SELECT d.presence FROM device d WHERE d.id = task.device_id), 0) = {OFFLINE} THEN {} ELSE {} END \
             FROM (SELECT t.id FROM {}) r WHERE task.id = r.id AND task.state IN ({})",
            TaskState::Expired.code(),
            TaskState::Queued.code(),
            Reason::DeviceOffline.code(),
            Reason::DeadlinePassed.code(),
            self.dialect().in_ranges("task", "id"),
            source_list(TaskState::Expired),
        );
        run("expiring tasks", || async {
            let mut expired = 0;
            for parcel in parcels(collections, |_| RANGE_BYTES) {
                let mut tx = self.begin().await?;
                expired += tx.execute(&sql, &[Value::Number(to_ms(now))], Some(&ranges(parcel))).await?;
                tx.commit().await?;
            }
            Ok(expired)
        })
        .await
    }

    /// Cancels tasks that are not final, in one transaction: all of them, and afterwards none of this collection can be claimed or sealed; or
    /// those that are queued, and what is with a device may end.
    ///
    /// # Errors
    /// The database's.
    pub async fn cancel_collection(
        &self,
        collection: CollectionId,
        which: Cancel,
        who: &str,
        now: OffsetDateTime,
    ) -> Result<Cancelled, StoreError> {
        let (first, _) = collection.task_range();
        run("cancelling a collection", || async {
            let mut tx = self.begin().await?;
            let marked = tx
                .execute(
                    "UPDATE collection SET cancelled_at = $1 WHERE id = $2 AND cancelled_at IS NULL AND closed_at IS NULL",
                    &[Value::Number(to_ms(now)), Value::Id(first)],
                    None,
                )
                .await?;
            let tasks = cancel_tasks(&mut tx, &[collection], which, Reason::CancelledByUser, now).await?;
            if marked == 0 && tasks == 0 {
                let rows = tx.fetch("SELECT cancelled_at FROM collection WHERE id = $1", &[Value::Id(first)], None).await?;
                return Ok(match rows.first().map(|row| row.get::<Option<i64>>(0)).transpose()? {
                    None => Cancelled::Unknown,
                    Some(None) => Cancelled::Finished,
                    Some(Some(_)) => Cancelled::Already,
                });
            }
            let queued_only = which == Cancel::Queued;
            record_event(&mut tx, collection, now, who, "cancelled", &serde_json::json!({ "tasks": tasks, "queued_only": queued_only }))
                .await?;
            tx.commit().await?;
            Ok(Cancelled::Done { tasks })
        })
        .await
    }

    /// Cancels what was queued again in collections that are cancelled: attempts that were allowed to end, and failed.
    ///
    /// # Errors
    /// The database's.
    pub async fn cancel_requeued(&self, collections: &[CollectionId], now: OffsetDateTime) -> Result<u64, StoreError> {
        run("cancelling tasks", || async {
            let mut tasks = 0;
            for parcel in parcels(collections, |_| RANGE_BYTES) {
                let mut tx = self.begin().await?;
                tasks += cancel_tasks(&mut tx, parcel, Cancel::Queued, Reason::CancelledByUser, now).await?;
                tx.commit().await?;
            }
            Ok(tasks)
        })
        .await
    }

    /// Closes the open collections whose tasks are all final and keeps their final counters, so that lists of old collections cost nothing.
    ///
    /// # Errors
    /// The database's; what was closed before it stays closed.
    pub async fn close_finished(&self, now: OffsetDateTime) -> Result<Vec<CollectionId>, StoreError> {
        // Looked for without a lock first: most of the time there is none, and then nothing is written.
        let candidates = run("looking for collections to close", || async {
            let done =
                format!("SELECT c.id FROM collection c WHERE c.closed_at IS NULL AND {ALL_FINAL} AND {} ORDER BY c.id", grows_no_more());
            let rows = self.reader().await?.fetch(&done, &[Value::Number(to_ms(now))], None).await?;
            rows.iter().map(|row| row.get(0)).collect::<Result<Vec<Uuid>, _>>()
        })
        .await?;
        let mut closed = Vec::with_capacity(candidates.len());
        for some in candidates.chunks(MAX_CLOSED) {
            let ids = run("closing collections", || async {
                let mut tx = self.begin().await?;
                let closed = close_in(&mut tx, some, now).await?;
                tx.commit().await?;
                Ok(closed)
            });
            closed.extend(ids.await?);
        }
        Ok(closed)
    }

    /// The last attempts of tasks of these collections that ended without a word from the device: cancelled, expired or failed. Their
    /// inboxes may still be open.
    ///
    /// # Errors
    /// The database's.
    pub async fn abandoned_attempts(&self, collections: &[CollectionId]) -> Result<Vec<AttemptId>, StoreError> {
        let sql = format!(
            "SELECT t.id, t.attempt FROM {} WHERE t.attempt > 0 AND t.state IN ({}, {}, {}) AND (t.reason IS NULL OR t.reason <> {})",
            self.dialect().in_ranges("task", "id"),
            TaskState::Cancelled.code(),
            TaskState::Expired.code(),
            TaskState::Failed.code(),
            Reason::ConsentMissing.code(),
        );
        run("listing abandoned attempts", || async {
            let mut attempts = Vec::new();
            for parcel in parcels(collections, |_| RANGE_BYTES) {
                for row in self.reader().await?.fetch(&sql, &[], Some(&ranges(parcel))).await? {
                    attempts.push(task_id(row.get(0)?)?.attempt(attempt_number(row.get(1)?)?));
                }
            }
            Ok(attempts)
        })
        .await
    }
}

/// Bytes of one range of [`ranges`].
const RANGE_BYTES: usize = 2 * ID_BYTES;
/// Most collections closed in one transaction.
const MAX_CLOSED: usize = 500;

/// The ids that the tasks of these collections can have, from `low` to `high`, both included.
fn ranges(collections: &[CollectionId]) -> Batch<'static> {
    let ends: Vec<(Uuid, Uuid)> = collections.iter().map(|collection| collection.task_range()).collect();
    Batch::default().ids("low", ends.iter().map(|(low, _)| *low)).ids("high", ends.iter().map(|(_, high)| *high))
}

/// Cancels the tasks of these collections that are not final, or only those that are queued. One statement: no more collections than go into
/// one parcel.
pub(crate) async fn cancel_tasks(
    tx: &mut Tx,
    collections: &[CollectionId],
    which: Cancel,
    reason: Reason,
    now: OffsetDateTime,
) -> Result<u64, StoreError> {
    let from = match which {
        Cancel::All => source_list(TaskState::Cancelled),
        Cancel::Queued => TaskState::Queued.code().to_string(),
    };
    let sql = format!(
        "UPDATE task SET state = {}, reason = {}, detail = NULL, owner = NULL, lease_until = NULL, finished_at = $1 \
         FROM (SELECT t.id FROM {}) r WHERE task.id = r.id AND task.state IN ({from})",
        TaskState::Cancelled.code(),
        reason.code(),
        tx.dialect().in_ranges("task", "id"),
    );
    tx.execute(&sql, &[Value::Number(to_ms(now))], Some(&ranges(collections))).await
}

// States from 4 on are final; a test beside the steps holds that.
const ALL_FINAL: &str =
    "(SELECT t.id FROM task t WHERE t.id >= c.id AND t.id <= c.last_task AND t.state < 4 ORDER BY t.id LIMIT 1) IS NULL";

/// Nothing more can join, at `$1`: a standing collection ends at its expiry, a deeper step when the step before is closed and every device
/// in it whose answer gave reason to has its task here.
fn grows_no_more() -> String {
    let step_before_is_done = |before: &str| {
        format!(
            "NOT EXISTS (SELECT 1 FROM collection p WHERE {before} AND (p.closed_at IS NULL OR EXISTS \
             (SELECT 1 FROM task m WHERE m.id >= p.id AND m.id <= p.last_task AND m.matched = 1 AND NOT EXISTS \
             (SELECT 1 FROM task f WHERE f.device_id = m.device_id AND f.id >= c.id AND f.id <= c.last_task))))"
        )
    };
    format!(
        "(c.cancelled_at IS NOT NULL OR c.expires_at <= $1 OR (c.standing = 0 AND (c.step_of IS NULL OR ({} AND {}))))",
        step_before_is_done("c.step = 2 AND p.id = c.step_of"),
        step_before_is_done("p.step_of = c.step_of AND p.step = c.step - 1"),
    )
}

async fn close_in(tx: &mut Tx, candidates: &[Uuid], now: OffsetDateTime) -> Result<Vec<CollectionId>, StoreError> {
    // The rows of the pace before those of the collections, as everybody takes them.
    let batch = Batch::default().ids("id", candidates.iter().copied());
    let paces = "SELECT p.collection_id FROM [[v]] JOIN pace p ON p.collection_id = v.id ORDER BY p.collection_id [[hold p]]";
    tx.fetch(paces, &[], Some(&batch)).await?;
    // A rerun takes the row of its collection before it touches tasks. With the row in our hand the tasks stay final, but they may have
    // been requeued just before: so look again.
    let batch = Batch::default().ids("id", candidates.iter().copied());
    let locked = "SELECT c.id, c.closed_at FROM collection c JOIN [[v]] ON v.id = c.id ORDER BY c.id [[lock c]]";
    let mut ids = Vec::with_capacity(candidates.len());
    for row in tx.fetch(locked, &[], Some(&batch)).await? {
        // Asked here and not there: a condition on an index of few rows makes the planner begin with all of them.
        if row.get::<Option<i64>>(1)?.is_none() {
            ids.push(row.get(0)?);
        }
    }
    let batch = Batch::default().ids("id", ids);
    let still = format!(
        "SELECT c.id, c.targeted, c.rollout FROM collection c JOIN [[v]] ON v.id = c.id WHERE {ALL_FINAL} AND {} ORDER BY c.id",
        grows_no_more()
    );
    let (mut targeted, mut stages_passed) = (Vec::new(), HashSet::new());
    for row in tx.fetch(&still, &[Value::Number(to_ms(now))], Some(&batch)).await? {
        let collection = collection_id(row.get(0)?)?;
        targeted.push((collection, row.get(1)?));
        let rollout = row.get::<Option<String>>(2)?.map(|text| parse::<Rollout>("a rollout", &text)).transpose()?;
        if rollout.is_some_and(|rollout| !rollout.stages.is_empty()) {
            stages_passed.insert(collection);
        }
    }
    let mut closed = Vec::with_capacity(targeted.len());
    for (collection, tally) in final_tallies(tx, &targeted).await? {
        let outcome =
            serde_json::to_string(&tally).map_err(|error| StoreError::Inconsistent(format!("counters of {collection}: {error}")))?;
        closed.push((collection, outcome));
    }
    let close = "UPDATE collection SET closed_at = $1, outcome = v.outcome FROM [[v]] WHERE collection.id = v.id";
    for parcel in parcels(&closed, |(_, outcome)| ID_BYTES + VALUE_BYTES + outcome.len()) {
        let batch = Batch::default()
            .ids("id", parcel.iter().map(|(collection, _)| collection.uuid()))
            .texts("outcome", parcel.iter().map(|(_, outcome)| Some(outcome.as_str())));
        tx.execute(close, &[Value::Number(to_ms(now))], Some(&batch)).await?;
    }
    // A rerun gets a new row, unless it has to know which stages were passed.
    let closed: Vec<CollectionId> = closed.into_iter().map(|(collection, _)| collection).collect();
    let batch = Batch::default().ids("id", closed.iter().filter(|id| !stages_passed.contains(id)).map(|id| id.uuid()));
    tx.execute("DELETE FROM pace WHERE collection_id IN (SELECT v.id FROM [[v]])", &[], Some(&batch)).await?;
    Ok(closed)
}
