//! Honest counters: one statement over the tasks, so that they add up at every instant.

use std::collections::BTreeMap;

use muster_domain::counters::{adds_up, tally};
use muster_wire::http::Counters;
use muster_wire::{CollectionId, Reason, TaskState};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::apply::{reason, task_state};
use crate::collections::{collection_id, number};
use crate::connect::Store;
use crate::dialect::{Batch, ID_BYTES, Row, Tx, Value, parcels};
use crate::error::{StoreError, run};
use crate::presence::OFFLINE;

/// What there is to count of a collection.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Tasks per state.
    pub counters: Counters,
    /// Final tasks per reason.
    pub reasons: BTreeMap<Reason, u64>,
    /// Bytes of all bundles.
    pub bundle_bytes: u64,
}

fn counting() -> String {
    format!(
        "SELECT t.state, CASE WHEN d.id IS NULL THEN 0 ELSE 1 END, CASE WHEN t.state >= {} THEN t.reason ELSE NULL END, count(*), \
         (SELECT c.targeted FROM collection c WHERE c.id = $1) \
         FROM task t LEFT JOIN device d ON t.state = {} AND d.id = t.device_id AND d.presence = {OFFLINE} \
         WHERE t.id >= $1 AND t.id <= $2 GROUP BY 1, 2, 3",
        TaskState::Verified.code(),
        TaskState::Queued.code(),
    )
}

const BYTES: &str = "SELECT CAST(COALESCE(sum(size_bytes), 0) AS bigint) FROM bundle WHERE task_id >= $1 AND task_id <= $2";

fn range(collection: CollectionId) -> [Value<'static>; 2] {
    let (first, last): (Uuid, Uuid) = collection.task_range();
    [Value::Id(first), Value::Id(last)]
}

fn read(collection: CollectionId, targeted: i64, groups: &[Row], bytes: &[Row]) -> Result<Tally, StoreError> {
    let unsigned = |number: i64| u64::try_from(number).map_err(|_| StoreError::Inconsistent(format!("{collection} counts {number}")));
    let mut states = Vec::with_capacity(groups.len());
    let mut reasons = BTreeMap::new();
    // A collection that grows may have grown since its row was read; what is counted against comes from the statement that counted.
    let targeted = groups.first().map_or(Ok(targeted), |row| row.get(4))?;
    for row in groups {
        let tasks = unsigned(row.get(3)?)?;
        states.push((task_state(row.get(0)?)?, row.get::<i32>(1)? == 1, tasks));
        if let Some(code) = row.get::<Option<i16>>(2)? {
            *reasons.entry(reason(code)?).or_default() += tasks;
        }
    }
    let counters = tally(unsigned(targeted)?, states);
    if !adds_up(&counters) {
        return Err(StoreError::Inconsistent(format!("{collection} targeted {targeted} devices and has {} tasks", counters.sum())));
    }
    let bundle_bytes = unsigned(bytes.first().map_or(Ok(0), |row| row.get(0))?)?;
    Ok(Tally { counters, reasons, bundle_bytes })
}

pub(crate) async fn tally_in(tx: &mut Tx, collection: CollectionId, targeted: i64) -> Result<Tally, StoreError> {
    tx.join_in_bulk().await?;
    let groups = tx.fetch(&counting(), &range(collection), None).await?;
    let bytes = tx.fetch(BYTES, &range(collection), None).await?;
    read(collection, targeted, &groups, &bytes)
}

/// Counts collections whose tasks are all final, with what each of them targeted; in their order.
pub(crate) async fn final_tallies(tx: &mut Tx, targeted: &[(CollectionId, i64)]) -> Result<BTreeMap<CollectionId, Tally>, StoreError> {
    let dialect = tx.dialect();
    let tasks = format!("SELECT v.low, t.state, t.reason, count(*) FROM {} GROUP BY 1, 2, 3", dialect.in_ranges("task", "id"));
    let bytes = format!("SELECT v.low, CAST(sum(t.size_bytes) AS bigint) FROM {} GROUP BY 1", dialect.in_ranges("bundle", "task_id"));
    let mut states: BTreeMap<CollectionId, Vec<(TaskState, bool, u64)>> = BTreeMap::new();
    let mut tallies: BTreeMap<CollectionId, Tally> = targeted.iter().map(|(collection, _)| (*collection, Tally::default())).collect();
    for parcel in parcels(targeted, |_| 2 * ID_BYTES) {
        let ends = || parcel.iter().map(|(collection, _)| collection.task_range());
        let batch = Batch::default().ids("low", ends().map(|(low, _)| low)).ids("high", ends().map(|(_, high)| high));
        for row in tx.fetch(&tasks, &[], Some(&batch)).await? {
            let collection = collection_id(row.get(0)?)?;
            let count: u64 = number("a number of tasks", row.get::<i64>(3)?)?;
            states.entry(collection).or_default().push((task_state(row.get(1)?)?, false, count));
            if let (Some(code), Some(tally)) = (row.get::<Option<i16>>(2)?, tallies.get_mut(&collection)) {
                *tally.reasons.entry(reason(code)?).or_default() += count;
            }
        }
        for row in tx.fetch(&bytes, &[], Some(&batch)).await? {
            if let Some(tally) = tallies.get_mut(&collection_id(row.get(0)?)?) {
                tally.bundle_bytes = number("bytes of bundles", row.get::<i64>(1)?)?;
            }
        }
    }
    for (collection, targeted) in targeted {
        let counters = tally(number("a number of tasks", *targeted)?, states.remove(collection).unwrap_or_default());
        if !adds_up(&counters) {
            return Err(StoreError::Inconsistent(format!("{collection} targeted {targeted} devices and has {} tasks", counters.sum())));
        }
        if let Some(tally) = tallies.get_mut(collection) {
            tally.counters = counters;
        }
    }
    Ok(tallies)
}

/// The states of the tasks from one place of a collection up to another.
pub(crate) async fn states_in(tx: &mut Tx, collection: CollectionId, from: u32, to: u32) -> Result<Counters, StoreError> {
    tx.join_in_bulk().await?;
    let values = [Value::Id(collection.task(from).uuid()), Value::Id(collection.task(to.saturating_sub(1)).uuid())];
    let groups = tx.fetch(&counting(), &values, None).await?;
    let mut states = Vec::with_capacity(groups.len());
    for row in &groups {
        let tasks: i64 = row.get(3)?;
        states.push((task_state(row.get(0)?)?, row.get::<i32>(1)? == 1, u64::try_from(tasks).unwrap_or(0)));
    }
    Ok(tally(u64::from(to - from), states))
}

impl Store {
    /// Counts a collection; `None` when there is none with this id.
    ///
    /// # Errors
    /// [`StoreError::Inconsistent`] when the tasks do not add up to what was targeted; otherwise the database's.
    pub async fn tally(&self, collection: CollectionId) -> Result<Option<Tally>, StoreError> {
        match self.collection(collection).await? {
            None => Ok(None),
            Some(row) => self.tally_of(collection, row.targeted, row.outcome).await.map(Some),
        }
    }

    /// The counters of a collection; `None` when there is none with this id.
    ///
    /// # Errors
    /// As [`Store::tally`].
    pub async fn counters(&self, collection: CollectionId) -> Result<Option<Counters>, StoreError> {
        Ok(self.tally(collection).await?.map(|tally| tally.counters))
    }

    /// A closed collection keeps its counters; an open one is counted.
    pub(crate) async fn tally_of(&self, collection: CollectionId, targeted: u64, outcome: Option<Tally>) -> Result<Tally, StoreError> {
        if let Some(outcome) = outcome {
            return Ok(outcome);
        }
        let targeted = i64::try_from(targeted).unwrap_or(i64::MAX);
        run("counting tasks", || async {
            let mut tx = self.begin_read().await?;
            let tally = tally_in(&mut tx, collection, targeted).await?;
            tx.commit().await?;
            Ok(tally)
        })
        .await
    }
}
