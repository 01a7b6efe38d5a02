//! Deleting history that is old enough: attempts that were followed by another, and what was done to devices. Tasks and bundles stay.

use muster_wire::CollectionId;
use time::OffsetDateTime;

use crate::connect::Store;
use crate::device_events::lowest_id;
use crate::dialect::{Tx, Value};
use crate::error::{StoreError, run};
use crate::instant::to_ms;

/// Most rows of each table that one call deletes.
pub const MAX_PRUNED: u32 = 1_000;

/// What was deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Attempts.
    pub attempts: u64,
    /// Events of devices.
    pub device_events: u64,
}

impl Pruned {
    /// There may be more that is as old.
    pub fn is_full(self) -> bool {
        self.attempts.max(self.device_events) >= u64::from(MAX_PRUNED)
    }
}

impl Store {
    /// Deletes history that ended before this moment, at most [`MAX_PRUNED`] rows of each table: of one collection its attempts, of none in
    /// particular the events of devices too. Several callers may do so at the same time.
    ///
    /// # Errors
    /// The database's; then nothing was deleted.
    pub async fn prune_history(&self, before: OffsetDateTime, collection: Option<CollectionId>) -> Result<Pruned, StoreError> {
        run("deleting old history", || async {
            let mut tx = self.begin().await?;
            let attempts = prune_attempts(&mut tx, before, collection).await?;
            let device_events = if collection.is_none() { prune_device_events(&mut tx, before).await? } else { 0 };
            tx.commit().await?;
            Ok(Pruned { attempts, device_events })
        })
        .await
    }
}

// No attempt ended before its collection was made, and the id of a collection begins with that moment: what is younger is not even read.
async fn prune_attempts(tx: &mut Tx, before: OffsetDateTime, collection: Option<CollectionId>) -> Result<u64, StoreError> {
    let (first, last) = collection.map_or_else(|| (uuid::Uuid::nil(), lowest_id(before)), CollectionId::task_range);
    let sql = format!(
        "DELETE FROM attempt WHERE id IN (SELECT t.id FROM attempt t WHERE t.id >= $1 AND t.id <= $2 AND t.ended_at < $3 \
         ORDER BY t.id LIMIT {MAX_PRUNED} [[lock t]])"
    );
    tx.execute(&sql, &[Value::Id(first), Value::Id(last), Value::Number(to_ms(before))], None).await
}

async fn prune_device_events(tx: &mut Tx, before: OffsetDateTime) -> Result<u64, StoreError> {
    let sql = format!(
        "DELETE FROM device_event WHERE id IN (SELECT t.id FROM device_event t WHERE t.id < $1 ORDER BY t.id LIMIT {MAX_PRUNED} [[lock t]])"
    );
    tx.execute(&sql, &[Value::Id(lowest_id(before))], None).await
}
