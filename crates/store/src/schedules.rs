//! Schedules, and the record of their runs. A due run is taken by one update that names the time it was due, so of several controllers one
//! begins it; what that one does not finish, because it died, another finishes.

use std::collections::HashMap;
use std::time::Duration;

use muster_wire::CollectionId;
use muster_wire::http::{
    MAX_PAGE, MAX_RUNS_KEPT, MAX_SCHEDULES, MissedPolicy, NewCollection, NewSchedule, Overlap, RunOutcome, ScheduleRun,
};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::collections::{collection_id, parse};
use crate::connect::Store;
use crate::dialect::{Batch, Row, Tx, Value};
use crate::error::{StoreError, run};
use crate::instant::{from_ms, maybe_from_ms, to_ms};
use crate::text::{MAX_DETAIL_CHARS, bounded};

/// A run that was begun and not finished for so long is taken over: making a collection takes seconds.
pub const RUN_LEASE: Duration = Duration::from_secs(60);

/// A schedule.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// Its id; part of the key under which its collections are made.
    pub id: Uuid,
    /// What was asked for.
    pub new: NewSchedule,
    /// Who made it.
    pub created_by: String,
    /// When.
    pub created_at: OffsetDateTime,
    /// Since when it is paused.
    pub paused_at: Option<OffsetDateTime>,
    /// Who paused it.
    pub paused_by: Option<String>,
    /// When it is due next.
    pub next_due: Option<OffsetDateTime>,
}

/// What becomes of a schedule that was due.
#[derive(Debug, Clone)]
pub struct Take<'a> {
    /// Which.
    pub schedule: Uuid,
    /// When it was due; with another time somebody else was faster.
    pub due: OffsetDateTime,
    /// When it is due next.
    pub next: Option<OffsetDateTime>,
    /// The runs to be put on record.
    pub runs: &'a [ScheduleRun],
    /// The time.
    pub now: OffsetDateTime,
}

/// What came of making a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScheduleMade {
    /// It was made.
    New,
    /// There is one with this name.
    NameTaken,
    /// There are [`MAX_SCHEDULES`] already.
    TooMany,
}

const COLUMNS: &str = "id, name, cron, time_zone, template, missed, overlap, created_by, created_at, paused_at, paused_by, next_due";
const RUN_COLUMNS: &str = "due, at, outcome, collection_id, detail";

fn missed(word: &str) -> Result<MissedPolicy, StoreError> {
    let known = [MissedPolicy::RunLatest, MissedPolicy::Skip].into_iter().find(|policy| policy.as_str() == word);
    known.ok_or_else(|| StoreError::Inconsistent(format!("a policy for missed runs {word:?}")))
}

fn overlap(word: &str) -> Result<Overlap, StoreError> {
    let known = [Overlap::Skip, Overlap::Allow].into_iter().find(|overlap| overlap.as_str() == word);
    known.ok_or_else(|| StoreError::Inconsistent(format!("an overlap {word:?}")))
}

fn schedule(row: &Row) -> Result<Schedule, StoreError> {
    Ok(Schedule {
        id: row.get(0)?,
        new: NewSchedule {
            name: row.get(1)?,
            cron: row.get(2)?,
            time_zone: row.get(3)?,
            collection: parse::<NewCollection>("the collection of a schedule", &row.get::<String>(4)?)?,
            missed: missed(&row.get::<String>(5)?)?,
            overlap: overlap(&row.get::<String>(6)?)?,
        },
        created_by: row.get(7)?,
        created_at: from_ms(row.get(8)?)?,
        paused_at: maybe_from_ms(row.get(9)?)?,
        paused_by: row.get(10)?,
        next_due: maybe_from_ms(row.get(11)?)?,
    })
}

fn schedule_run(row: &Row) -> Result<ScheduleRun, StoreError> {
    let word: String = row.get(2)?;
    let outcome = RunOutcome::ALL.into_iter().find(|outcome| outcome.as_str() == word);
    Ok(ScheduleRun {
        due: from_ms(row.get(0)?)?,
        at: from_ms(row.get(1)?)?,
        outcome: outcome.ok_or_else(|| StoreError::Inconsistent(format!("the outcome of a run {word:?}")))?,
        collection: row.get::<Option<Uuid>>(3)?.map(collection_id).transpose()?,
        detail: row.get(4)?,
    })
}

impl Store {
    /// Makes a schedule.
    ///
    /// # Errors
    /// The database's.
    pub async fn create_schedule(&self, made: &Schedule) -> Result<ScheduleMade, StoreError> {
        let template = serde_json::to_string(&made.new.collection)
            .map_err(|error| StoreError::Misuse(format!("the collection of a schedule could not be written as JSON: {error}")))?;
        run("making a schedule", || async {
            let mut tx = self.begin().await?;
            let rows = tx.fetch("SELECT count(*) FROM schedule", &[], None).await?;
            if rows.first().map_or(Ok(0), |row| row.get::<i64>(0))? >= i64::try_from(MAX_SCHEDULES).unwrap_or(i64::MAX) {
                return Ok(ScheduleMade::TooMany);
            }
            let sql = format!("INSERT INTO schedule ({COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, NULL, NULL, $10) ON CONFLICT (name) DO NOTHING");
            let values = [
                Value::Id(made.id),
                Value::Text(&made.new.name),
                Value::Text(&made.new.cron),
                Value::Text(&made.new.time_zone),
                Value::Text(&template),
                Value::Text(made.new.missed.as_str()),
                Value::Text(made.new.overlap.as_str()),
                Value::Text(&made.created_by),
                Value::Number(to_ms(made.created_at)),
                Value::MaybeNumber(made.next_due.map(to_ms)),
            ];
            if tx.execute(&sql, &values, None).await? == 0 {
                return Ok(ScheduleMade::NameTaken);
            }
            tx.commit().await?;
            Ok(ScheduleMade::New)
        })
        .await
    }

    /// All schedules, sorted by name.
    ///
    /// # Errors
    /// The database's.
    pub async fn schedules(&self) -> Result<Vec<Schedule>, StoreError> {
        run("reading schedules", || async {
            let sql = format!("SELECT {COLUMNS} FROM schedule ORDER BY name");
            self.reader().await?.fetch(&sql, &[], None).await?.iter().map(schedule).collect()
        })
        .await
    }

    /// A schedule; `None` when there is none with this name.
    ///
    /// # Errors
    /// The database's.
    pub async fn schedule(&self, name: &str) -> Result<Option<Schedule>, StoreError> {
        run("reading a schedule", || async {
            let sql = format!("SELECT {COLUMNS} FROM schedule WHERE name = $1");
            self.reader().await?.fetch(&sql, &[Value::Text(name)], None).await?.first().map(schedule).transpose()
        })
        .await
    }

    /// Pauses a schedule, or goes on with `None`; false when it was so before, or is not there.
    ///
    /// # Errors
    /// The database's.
    pub async fn pause_schedule(&self, id: Uuid, paused: Option<(OffsetDateTime, &str)>) -> Result<bool, StoreError> {
        run("pausing a schedule", || async {
            let mut tx = self.begin().await?;
            let is = if paused.is_some() { "IS NULL" } else { "IS NOT NULL" };
            let sql = format!("UPDATE schedule SET paused_at = $1, paused_by = $2 WHERE id = $3 AND paused_at {is}");
            let values = [Value::MaybeNumber(paused.map(|(at, _)| to_ms(at))), Value::MaybeText(paused.map(|(_, who)| who)), Value::Id(id)];
            let changed = tx.execute(&sql, &values, None).await?;
            tx.commit().await?;
            Ok(changed > 0)
        })
        .await
    }

    /// Removes a schedule and the record of its runs; the collections it made stay.
    ///
    /// # Errors
    /// The database's.
    pub async fn delete_schedule(&self, id: Uuid) -> Result<bool, StoreError> {
        run("removing a schedule", || async {
            let mut tx = self.begin().await?;
            let removed = tx.execute("DELETE FROM schedule WHERE id = $1", &[Value::Id(id)], None).await?;
            tx.execute("DELETE FROM schedule_run WHERE schedule_id = $1", &[Value::Id(id)], None).await?;
            tx.commit().await?;
            Ok(removed > 0)
        })
        .await
    }

    /// Moves a schedule that was due to its next time and puts its runs on record, in one transaction; false when another controller did, or
    /// somebody removed it. The oldest runs beyond [`MAX_RUNS_KEPT`] are forgotten.
    ///
    /// # Errors
    /// The database's.
    pub async fn take_due(&self, take: &Take<'_>) -> Result<bool, StoreError> {
        run("taking a run of a schedule", || async {
            let mut tx = self.begin().await?;
            let values = [Value::MaybeNumber(take.next.map(to_ms)), Value::Id(take.schedule), Value::Number(to_ms(take.due))];
            if tx.execute("UPDATE schedule SET next_due = $1 WHERE id = $2 AND next_due = $3", &values, None).await? == 0 {
                return Ok(false);
            }
            insert_runs(&mut tx, take.schedule, take.runs).await?;
            forget_runs(&mut tx, take.schedule).await?;
            tx.commit().await?;
            Ok(true)
        })
        .await
    }

    /// Puts one run on record that nobody waited for; false when there is one of this time already, or no such schedule.
    ///
    /// # Errors
    /// The database's.
    pub async fn record_run(&self, schedule: Uuid, new: &ScheduleRun) -> Result<bool, StoreError> {
        run("recording a run of a schedule", || async {
            let mut tx = self.begin().await?;
            if tx.fetch("SELECT 1 FROM schedule WHERE id = $1", &[Value::Id(schedule)], None).await?.is_empty() {
                return Ok(false);
            }
            let written = insert_runs(&mut tx, schedule, std::slice::from_ref(new)).await?;
            forget_runs(&mut tx, schedule).await?;
            tx.commit().await?;
            Ok(written > 0)
        })
        .await
    }

    /// Says what became of a run that was begun. Once it says so, it stays.
    ///
    /// # Errors
    /// The database's.
    pub async fn finish_run(&self, schedule: Uuid, ended: &ScheduleRun) -> Result<bool, StoreError> {
        let detail = ended.detail.as_deref().map(|detail| bounded(detail, MAX_DETAIL_CHARS));
        run("ending a run of a schedule", || async {
            let mut tx = self.begin().await?;
            let sql = format!(
                "UPDATE schedule_run SET outcome = $1, collection_id = $2, detail = $3, at = $4 \
                 WHERE schedule_id = $5 AND due = $6 AND outcome = '{}'",
                RunOutcome::Begun.as_str()
            );
            let values = [
                Value::Text(ended.outcome.as_str()),
                Value::MaybeId(ended.collection.map(CollectionId::uuid)),
                Value::MaybeText(detail.as_deref()),
                Value::Number(to_ms(ended.at)),
                Value::Id(schedule),
                Value::Number(to_ms(ended.due)),
            ];
            let changed = tx.execute(&sql, &values, None).await?;
            tx.commit().await?;
            Ok(changed > 0)
        })
        .await
    }

    /// Takes the runs that were begun and not ended for [`RUN_LEASE`]: whoever began them is dead.
    ///
    /// # Errors
    /// The database's.
    pub async fn take_begun(&self, now: OffsetDateTime) -> Result<Vec<(Schedule, ScheduleRun)>, StoreError> {
        run("taking over runs of schedules", || async {
            let begun = RunOutcome::Begun.as_str();
            // Looked for first: most of the time there is none, and then nothing is written.
            let old = format!("SELECT schedule_id FROM schedule_run WHERE outcome = '{begun}' AND at <= $1 LIMIT 1");
            let before = Value::Number(to_ms(now - RUN_LEASE));
            if self.reader().await?.fetch(&old, &[before], None).await?.is_empty() {
                return Ok(Vec::new());
            }
            let mut tx = self.begin().await?;
            let sql = format!(
                "UPDATE schedule_run SET at = $1 WHERE outcome = '{begun}' AND at <= $2 RETURNING due, at, outcome, collection_id, detail, schedule_id"
            );
            let mut taken = Vec::new();
            for row in tx.fetch(&sql, &[Value::Number(to_ms(now)), before], None).await? {
                let of = format!("SELECT {COLUMNS} FROM schedule WHERE id = $1");
                if let Some(found) = tx.fetch(&of, &[Value::Id(row.get(5)?)], None).await?.first() {
                    taken.push((schedule(found)?, schedule_run(&row)?));
                }
            }
            tx.commit().await?;
            Ok(taken)
        })
        .await
    }

    /// A page of the runs of a schedule, newest first.
    ///
    /// # Errors
    /// The database's.
    pub async fn schedule_runs(&self, schedule: Uuid, before: Option<OffsetDateTime>, limit: u32) -> Result<Vec<ScheduleRun>, StoreError> {
        run("reading the runs of a schedule", || async {
            let sql = format!("SELECT {RUN_COLUMNS} FROM schedule_run WHERE schedule_id = $1 AND due < $2 ORDER BY due DESC LIMIT $3");
            let values =
                [Value::Id(schedule), Value::Number(before.map_or(i64::MAX, to_ms)), Value::Number(i64::from(limit.min(MAX_PAGE)))];
            self.reader().await?.fetch(&sql, &values, None).await?.iter().map(schedule_run).collect()
        })
        .await
    }

    /// The last run of each schedule that has one.
    ///
    /// # Errors
    /// The database's.
    pub async fn last_runs(&self) -> Result<HashMap<Uuid, ScheduleRun>, StoreError> {
        let sql = format!(
            "SELECT {RUN_COLUMNS}, schedule_id FROM schedule_run WHERE (schedule_id, due) IN \
             (SELECT s.id, (SELECT max(r.due) FROM schedule_run r WHERE r.schedule_id = s.id) FROM schedule s)"
        );
        run("reading the runs of schedules", || async {
            let rows = self.reader().await?.fetch(&sql, &[], None).await?;
            rows.iter().map(|row| Ok((row.get(5)?, schedule_run(row)?))).collect()
        })
        .await
    }

    /// The last collection a schedule made, if it is still open.
    ///
    /// # Errors
    /// The database's.
    pub async fn open_run(&self, schedule: Uuid) -> Result<Option<CollectionId>, StoreError> {
        const SQL: &str = "SELECT r.collection_id FROM schedule_run r JOIN collection c ON c.id = r.collection_id \
            WHERE r.schedule_id = $1 AND c.closed_at IS NULL ORDER BY r.due DESC LIMIT 1";
        run("reading the runs of a schedule", || async {
            let rows = self.reader().await?.fetch(SQL, &[Value::Id(schedule)], None).await?;
            rows.first().map(|row| row.get(0).and_then(collection_id)).transpose()
        })
        .await
    }
}

async fn insert_runs(tx: &mut Tx, schedule: Uuid, runs: &[ScheduleRun]) -> Result<u64, StoreError> {
    if runs.is_empty() {
        return Ok(0);
    }
    let details: Vec<_> = runs.iter().map(|run| run.detail.as_deref().map(|detail| bounded(detail, MAX_DETAIL_CHARS))).collect();
    let batch = Batch::default()
        .numbers("due", runs.iter().map(|run| Some(to_ms(run.due))))
        .numbers("at", runs.iter().map(|run| Some(to_ms(run.at))))
        .texts("outcome", runs.iter().map(|run| Some(run.outcome.as_str())))
        .texts("detail", details.iter().map(|detail| detail.as_deref()));
    let sql = "INSERT INTO schedule_run (schedule_id, due, at, outcome, detail) SELECT $1, v.due, v.at, v.outcome, v.detail FROM [[v]] WHERE true \
         ON CONFLICT (schedule_id, due) DO NOTHING";
    tx.execute(sql, &[Value::Id(schedule)], Some(&batch)).await
}

async fn forget_runs(tx: &mut Tx, schedule: Uuid) -> Result<(), StoreError> {
    let sql = "DELETE FROM schedule_run WHERE schedule_id = $1 AND due < \
         (SELECT due FROM schedule_run WHERE schedule_id = $1 ORDER BY due DESC LIMIT 1 OFFSET $2)";
    // The subquery names the oldest that is kept; with fewer runs it names none.
    let values = [Value::Id(schedule), Value::Number(i64::from(MAX_RUNS_KEPT) - 1)];
    tx.execute(sql, &values, None).await.map(|_| ())
}
