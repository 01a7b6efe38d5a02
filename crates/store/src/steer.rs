//! Steering a collection: counts, lets the rules decide, writes what follows and what was done into one transaction. Any controller does
//! it, and the row in `pace` says when one did last.

use std::time::Duration;

use muster_domain::rollout::stage::{ends, places};
use muster_domain::rollout::steering::{Ended, Facts, Turn, is_steered, steer};
use muster_wire::{CollectionId, Reason};
use serde_json::json;
use time::OffsetDateTime;

use crate::collections::record_event;
use crate::connect::Store;
use crate::counters::{Tally, states_in, tally_in};
use crate::dialect::{Tx, Value};
use crate::error::{StoreError, run};
use crate::instant::to_ms;
use crate::lifecycle::{Cancel, cancel_tasks};
use crate::pace::{hold, spread};
use crate::{Cancelled, Collection};

/// Who pauses and aborts when it is the rollout itself.
pub(crate) const ROLLOUT: &str = muster_wire::http::PAUSED_BY_ROLLOUT;
/// Shortest time between two countings of one collection, over all controllers.
pub const STEER_EVERY: Duration = Duration::from_millis(400);

impl Store {
    /// What follows for a collection from how it stands, done. [`Turn::Go`] also when another controller just looked.
    ///
    /// # Errors
    /// The database's; then nothing was done.
    pub async fn steer(&self, collection: &Collection, now: OffsetDateTime) -> Result<Turn, StoreError> {
        if !is_steered(&collection.rollout) || collection.paused.is_some() || collection.cancelled_at.is_some() {
            return Ok(Turn::Go);
        }
        run("steering a collection", || async {
            let mut tx = self.begin().await?;
            let turn = steer_in(&mut tx, collection, now).await?;
            tx.commit().await?;
            Ok(turn)
        })
        .await
    }
}

async fn steer_in(tx: &mut Tx, collection: &Collection, now: OffsetDateTime) -> Result<Turn, StoreError> {
    let id = collection.id;
    let pace = hold(tx, id).await?;
    let every = i64::try_from(spread(STEER_EVERY, collection.targeted).as_millis()).unwrap_or(i64::MAX);
    if to_ms(now).saturating_sub(pace.steered_at) < every {
        return Ok(Turn::Go);
    }
    // Read anew with the row in our hand: it may have been paused, resumed or cancelled meanwhile.
    let rows = tx
        .fetch(
            "SELECT targeted FROM collection WHERE id = $1 AND paused_at IS NULL AND cancelled_at IS NULL AND closed_at IS NULL",
            &[Value::Id(id.uuid())],
            None,
        )
        .await?;
    let Some(row) = rows.first() else { return Ok(Turn::Go) };
    let targeted: i64 = row.get(0)?;
    let tally = tally_in(tx, id, targeted).await?;
    let stage_ends = ends(&collection.rollout.stages, tally.counters.targeted);
    let of_stage = match places(&stage_ends, pace.stage) {
        // Behind the last device there is nobody to hold back.
        Some((from, to)) if u64::from(to) < tally.counters.targeted => Some(states_in(tx, id, from, to).await?),
        _ => None,
    };
    let facts = Facts {
        rollout: &collection.rollout,
        ended: ended(&tally),
        counted_from: &pace.counted_from,
        stage: pace.stage,
        of_stage,
        passed_at: pace.passed_at,
        now,
    };
    let turn = steer(&facts);
    let (stage, passed_at) = match &turn {
        Turn::Next(_) => (pace.stage + 1, None),
        Turn::Passed(_) => (pace.stage, Some(to_ms(now))),
        _ => (pace.stage, pace.passed_at.map(to_ms)),
    };
    let larger = tx.dialect().larger("verified", "$1");
    let values = [
        Value::Number(i64::try_from(tally.counters.verified).unwrap_or(i64::MAX)),
        Value::Number(i64::try_from(stage).unwrap_or(i64::MAX)),
        Value::MaybeNumber(passed_at),
        Value::Number(to_ms(now)),
        Value::Id(id.uuid()),
    ];
    let sql = format!(
        "UPDATE pace SET verified = {larger}, stage = CAST($2 AS smallint), passed_at = $3, steered_at = $4 WHERE collection_id = $5"
    );
    tx.execute(&sql, &values, None).await?;
    match &turn {
        Turn::Go | Turn::Passed(_) => {}
        Turn::Next(stands) => {
            record_event(tx, id, now, ROLLOUT, "stage_passed", &json!({ "stage": pace.stage + 1, "why": stands })).await?;
        }
        Turn::Pause(why) => {
            mark_paused(tx, id, ROLLOUT, why, now).await?;
            record_event(tx, id, now, ROLLOUT, "paused", &json!({ "why": why })).await?;
        }
        Turn::Abort(why) => {
            mark_paused(tx, id, ROLLOUT, why, now).await?;
            let Cancelled::Done { tasks } = abort(tx, id, now).await? else { return Ok(Turn::Go) };
            record_event(tx, id, now, ROLLOUT, "aborted", &json!({ "why": why, "tasks": tasks })).await?;
        }
    }
    Ok(turn)
}

pub(crate) fn ended(tally: &Tally) -> Ended {
    Ended::of(&tally.counters, &tally.reasons, tally.bundle_bytes)
}

/// True when it was not paused and is open.
pub(crate) async fn mark_paused(tx: &mut Tx, id: CollectionId, who: &str, why: &str, now: OffsetDateTime) -> Result<bool, StoreError> {
    let values = [Value::Number(to_ms(now)), Value::Text(who), Value::Text(why), Value::Id(id.uuid())];
    let sql = "UPDATE collection SET paused_at = $1, paused_by = $2, paused_why = $3 \
         WHERE id = $4 AND paused_at IS NULL AND cancelled_at IS NULL AND closed_at IS NULL";
    Ok(tx.execute(sql, &values, None).await? > 0)
}

async fn abort(tx: &mut Tx, id: CollectionId, now: OffsetDateTime) -> Result<Cancelled, StoreError> {
    let values = [Value::Number(to_ms(now)), Value::Id(id.uuid())];
    let sql = "UPDATE collection SET cancelled_at = $1 WHERE id = $2 AND cancelled_at IS NULL AND closed_at IS NULL";
    if tx.execute(sql, &values, None).await? == 0 {
        return Ok(Cancelled::Already);
    }
    Ok(Cancelled::Done { tasks: cancel_tasks(tx, &[id], Cancel::All, Reason::Aborted, now).await? })
}
