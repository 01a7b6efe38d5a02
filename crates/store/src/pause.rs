//! Pausing and resuming by people.

use muster_domain::rollout::stage::{ends, places};
use muster_domain::rollout::steering::is_steered;
use muster_wire::CollectionId;
use muster_wire::http::MAX_TEXT_CHARS;
use serde_json::json;
use time::OffsetDateTime;

use crate::Collection;
use crate::collections::record_event;
use crate::connect::Store;
use crate::counters::{states_in, tally_in};
use crate::dialect::{Tx, Value};
use crate::error::{StoreError, run};
use crate::pace::hold;
use crate::steer::{ended, mark_paused};
use crate::text::bounded;

/// What pausing did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paused {
    /// It asks nobody from now on; what is out may end.
    Done,
    /// It was paused before.
    Already,
    /// It has ended or was cancelled; there is nothing to pause.
    Ended,
    /// There is no such collection.
    Unknown,
}

/// What resuming did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resumed {
    /// It goes on. Abort rules and the byte budget count from here.
    Done {
        /// The stage it goes on with, from 1, where there are stages.
        stage: Option<u32>,
    },
    /// It was not paused.
    Already,
    /// It has ended or was cancelled; there is nothing to resume.
    Ended,
    /// There is no such collection.
    Unknown,
}

impl Store {
    /// Pauses a collection: no claim that begins after this gives out a task of it, whoever asks.
    ///
    /// # Errors
    /// The database's.
    pub async fn pause(&self, collection: CollectionId, who: &str, why: &str, now: OffsetDateTime) -> Result<Paused, StoreError> {
        let Some(row) = self.collection(collection).await? else { return Ok(Paused::Unknown) };
        let (who, why) = (bounded(who, MAX_TEXT_CHARS), bounded(why, MAX_TEXT_CHARS));
        run("pausing a collection", || async {
            let mut tx = self.begin().await?;
            if !mark_paused(&mut tx, collection, &who, &why, now).await? {
                return Ok(if is_over(&row) { Paused::Ended } else { Paused::Already });
            }
            record_event(&mut tx, collection, now, &who, "paused", &json!({ "why": why })).await?;
            tx.commit().await?;
            Ok(Paused::Done)
        })
        .await
    }

    /// Lets a paused collection go on. A stage whose devices are all done is passed, whatever its gate said: that is what somebody resumes
    /// it for. Abort rules and the byte budget measure what comes from now on.
    ///
    /// # Errors
    /// The database's.
    pub async fn resume(&self, collection: CollectionId, who: &str, now: OffsetDateTime) -> Result<Resumed, StoreError> {
        let Some(row) = self.collection(collection).await? else { return Ok(Resumed::Unknown) };
        run("resuming a collection", || async {
            let mut tx = self.begin().await?;
            // The row of the pace before that of the collection, as everybody takes them.
            let stage = if is_steered(&row.rollout) { Some(begin_anew(&mut tx, &row).await?) } else { None };
            let sql = "UPDATE collection SET paused_at = NULL, paused_by = NULL, paused_why = NULL \
                 WHERE id = $1 AND paused_at IS NOT NULL AND cancelled_at IS NULL AND closed_at IS NULL";
            if tx.execute(sql, &[Value::Id(collection.uuid())], None).await? == 0 {
                return Ok(if is_over(&row) { Resumed::Ended } else { Resumed::Already });
            }
            let stage = stage.filter(|_| !row.rollout.stages.is_empty()).map(|stage| u32::try_from(stage + 1).unwrap_or(u32::MAX));
            record_event(&mut tx, collection, now, who, "resumed", &json!({ "stage": stage })).await?;
            tx.commit().await?;
            Ok(Resumed::Done { stage })
        })
        .await
    }
}

fn is_over(row: &Collection) -> bool {
    row.closed_at.is_some() || row.cancelled_at.is_some()
}

/// Counts from here, and passes the gate the collection stands at. The stage it is in then.
pub(crate) async fn begin_anew(tx: &mut Tx, row: &Collection) -> Result<usize, StoreError> {
    let pace = hold(tx, row.id).await?;
    let tally = tally_in(tx, row.id, i64::try_from(row.targeted).unwrap_or(i64::MAX)).await?;
    let stage = match places(&ends(&row.rollout.stages, row.targeted), pace.stage) {
        Some((from, to)) => {
            let own = states_in(tx, row.id, from, to).await?;
            if own.done() == own.sum() { pace.stage + 1 } else { pace.stage }
        }
        None => pace.stage,
    };
    let from =
        serde_json::to_string(&ended(&tally)).map_err(|error| StoreError::Inconsistent(format!("counters of {}: {error}", row.id)))?;
    let values = [Value::Text(&from), Value::Number(i64::try_from(stage).unwrap_or(i64::MAX)), Value::Id(row.id.uuid())];
    let sql = "UPDATE pace SET counted_from = $1, stage = CAST($2 AS smallint), passed_at = NULL WHERE collection_id = $3";
    tx.execute(sql, &values, None).await?;
    Ok(stage)
}
