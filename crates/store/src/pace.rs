//! Claims of a collection that has limits of its own. They hold over all controllers, without a leader: such a claim takes the row of its
//! collection in `pace` first, so claims of one collection go one after the other, and what the row says is what all of them did.
//!
//! How many are with a device is in the row as an upper bound: what was counted last, and what was claimed since. It is never below the
//! truth, because nothing but a claim brings a task to a device. Where the bound leaves too little room and is old enough, the tasks
//! themselves are counted.

use std::time::Duration;

use muster_domain::rollout::Limits;
use muster_domain::rollout::rate::{due_after, per_minute, room};
use muster_domain::rollout::stage::limit;
use muster_domain::rollout::steering::{Ended, is_steered};
use muster_wire::http::PaceView;
use muster_wire::{CollectionId, TaskState};
use time::OffsetDateTime;

use crate::claim::{ClaimBatch, ClaimRequest, claim_in};
use crate::collections::{Collection, number, parse};
use crate::connect::Store;
use crate::create::NewCollection;
use crate::dialect::{Tx, Value};
use crate::error::{StoreError, run};
use crate::instant::{maybe_from_ms, to_ms};

/// Shortest time between two counts of what is in flight, over all controllers.
pub const RECOUNT_EVERY: Duration = Duration::from_millis(100);
/// For each so many tasks, the time between two counts is longer by itself once more.
const TASKS_PER_COUNT: u64 = 50_000;

/// What was claimed under limits.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PacedClaim {
    /// The tasks.
    pub batch: ClaimBatch,
    /// How long until there may be room again, when a limit left less room than was asked for.
    pub wait: Option<Duration>,
}

/// The row of a collection.
#[derive(Debug, Clone)]
pub(crate) struct Pace {
    /// When the next device is due under the rate, in microseconds.
    due_us: i64,
    /// Upper bound of the tasks with a device.
    in_flight: u32,
    counted_at: i64,
    /// Verified tasks as the ramp counts them.
    verified: u64,
    pub(crate) stage: usize,
    pub(crate) passed_at: Option<OffsetDateTime>,
    pub(crate) steered_at: i64,
    pub(crate) counted_from: Ended,
}

impl Store {
    /// Claims as [`Store::claim`] does, and no more than the limits of the collection allow over all controllers.
    ///
    /// # Errors
    /// The database's; then nothing was claimed.
    pub async fn claim_paced(&self, request: &ClaimRequest<'_>, limits: &Limits, targeted: u64) -> Result<PacedClaim, StoreError> {
        run("claiming tasks under limits", || async {
            let mut tx = self.begin().await?;
            let claim = claim_paced_in(&mut tx, request, limits, targeted).await?;
            tx.commit().await?;
            Ok(claim)
        })
        .await
    }
}

impl Store {
    /// How far and how fast an open collection with limits of its own is now.
    pub(crate) async fn pace_of(&self, row: &Collection) -> Result<Option<PaceView>, StoreError> {
        let Some(limits) = Limits::of(&row.rollout, row.in_flight, row.targeted).filter(|_| row.closed_at.is_none()) else {
            return Ok(None);
        };
        run("reading a pace", || async {
            let sql = "SELECT verified, stage FROM pace WHERE collection_id = $1";
            let rows = self.reader().await?.fetch(sql, &[Value::Id(row.id.uuid())], None).await?;
            let (verified, stage) = rows.first().map_or(Ok((0, 0)), |row| Ok::<_, StoreError>((row.get::<i64>(0)?, row.get::<i16>(1)?)))?;
            let verified = number("a number of verified tasks", verified)?;
            Ok(Some(PaceView {
                per_minute: limits.rate.map(|rate| per_minute(&rate, verified)),
                in_flight: limits.in_flight,
                stage: if limits.stage_ends.is_empty() { None } else { Some(number("the number of a stage", i64::from(stage) + 1)?) },
            }))
        })
        .await
    }
}

async fn claim_paced_in(tx: &mut Tx, request: &ClaimRequest<'_>, limits: &Limits, targeted: u64) -> Result<PacedClaim, StoreError> {
    let mut pace = hold(tx, request.collection).await?;
    let (now_ms, now_us) = (to_ms(request.now), to_ms(request.now).saturating_mul(1000));
    let mut wait = None;
    let mut may = request.limit;
    let rate = limits.rate.map(|rate| per_minute(&rate, pace.verified));
    if let Some(rate) = rate {
        may = may.min(room(pace.due_us, rate, now_us).devices);
    }
    let by_rate = may < request.limit;
    let mut recounted = false;
    if let Some(limit) = limits.in_flight.filter(|_| may > 0) {
        let every = spread(RECOUNT_EVERY, targeted);
        let old = now_ms.saturating_sub(pace.counted_at) >= i64::try_from(every.as_millis()).unwrap_or(i64::MAX);
        if limit.saturating_sub(pace.in_flight) < may && old {
            (pace.in_flight, pace.counted_at, recounted) = (in_flight(tx, request.collection).await?, now_ms, true);
        }
        let room = limit.saturating_sub(pace.in_flight);
        if room < may {
            may = room;
            wait = Some(every);
        }
    }
    let mut batch = ClaimBatch { scanned_to: request.after, ..ClaimBatch::default() };
    if may > 0 {
        batch = claim_in(tx, std::slice::from_ref(request), may, limit(&limits.stage_ends, pace.stage)).await?;
    }
    let claimed = u32::try_from(batch.tasks.len()).unwrap_or(u32::MAX);
    if claimed > 0 || recounted {
        if let Some(rate) = rate.filter(|_| claimed > 0) {
            pace.due_us = due_after(pace.due_us, rate, now_us, claimed);
        }
        let values = [
            Value::Number(pace.due_us),
            Value::Number(i64::from(pace.in_flight.saturating_add(claimed))),
            Value::Number(pace.counted_at),
            Value::Id(request.collection.uuid()),
        ];
        tx.execute("UPDATE pace SET due_us = $1, in_flight = $2, counted_at = $3 WHERE collection_id = $4", &values, None).await?;
    }
    if let Some(rate) = rate.filter(|_| by_rate && claimed == may && wait.is_none()) {
        wait = Some(room(pace.due_us, rate, now_us).wait);
    }
    Ok(PacedClaim { batch, wait })
}

/// Counting reads every task of a collection: the more there are, the less often.
pub(crate) fn spread(every: Duration, targeted: u64) -> Duration {
    every.mul_f64(1.0 + targeted as f64 / TASKS_PER_COUNT as f64)
}

/// Takes the row; from here to the end of the transaction it is ours. A collection from before there were such rows gets one.
pub(crate) async fn hold(tx: &mut Tx, collection: CollectionId) -> Result<Pace, StoreError> {
    const ROW: &str = "SELECT p.due_us, p.in_flight, p.counted_at, p.verified, p.stage, p.passed_at, p.steered_at, p.counted_from \
         FROM pace p WHERE p.collection_id = $1 [[hold p]]";
    let id = [Value::Id(collection.uuid())];
    let mut rows = tx.fetch(ROW, &id, None).await?;
    if rows.is_empty() {
        // It does not know what is in flight, so it is as if everything were until it has been counted.
        let sql = format!("INSERT INTO pace (collection_id, in_flight) VALUES ($1, {}) ON CONFLICT (collection_id) DO NOTHING", u32::MAX);
        tx.execute(&sql, &id, None).await?;
        rows = tx.fetch(ROW, &id, None).await?;
    }
    let row = rows.first().ok_or_else(|| StoreError::Inconsistent(format!("{collection} has no pace")))?;
    Ok(Pace {
        due_us: row.get(0)?,
        in_flight: number("a number in flight", row.get::<i64>(1)?)?,
        counted_at: row.get(2)?,
        verified: number("a number of verified tasks", row.get::<i64>(3)?)?,
        stage: number("the number of a stage", row.get::<i16>(4)?)?,
        passed_at: maybe_from_ms(row.get(5)?)?,
        steered_at: row.get(6)?,
        counted_from: row
            .get::<Option<String>>(7)?
            .map(|text| parse("what a collection counts from", &text))
            .transpose()?
            .unwrap_or_default(),
    })
}

/// With the row in our hand nobody claims, so the count can only be too high by the time it is used.
async fn in_flight(tx: &mut Tx, collection: CollectionId) -> Result<u32, StoreError> {
    let (first, last) = collection.task_range();
    let sql = format!(
        "SELECT count(*) FROM task WHERE id >= $1 AND id <= $2 AND state IN ({}, {})",
        TaskState::Dispatched.code(),
        TaskState::Accepted.code()
    );
    let rows = tx.fetch(&sql, &[Value::Id(first), Value::Id(last)], None).await?;
    number("a number in flight", rows.first().map_or(Ok(0), |row| row.get::<i64>(0))?)
}

/// The row of a new collection, if anything about it is paced or steered.
pub(crate) async fn insert_pace(tx: &mut Tx, new: &NewCollection) -> Result<(), StoreError> {
    let targeted = new.tasks.len() as u64;
    if Limits::of(&new.rollout, new.in_flight, targeted).is_some() || is_steered(&new.rollout) {
        tx.execute("INSERT INTO pace (collection_id) VALUES ($1)", &[Value::Id(new.id.uuid())], None).await?;
    }
    Ok(())
}
