//! The clean-up after a consent has ended: attempts whose inbox has to be closed and whose objects have to go. It is on record from the
//! transaction that ended the task until the last look at it, so a controller that dies in between loses none of it.

use std::time::Duration;

use muster_wire::http::ConsentKind;
use muster_wire::{AttemptId, DeviceId};
use time::OffsetDateTime;
use uuid::Uuid;

use super::audit::{self, AuditLine};
use super::kind_of;
use crate::apply::device_id;
use crate::connect::Store;
use crate::dialect::Value;
use crate::error::{StoreError, run};
use crate::instant::{from_ms, to_ms};

/// Most attempts in one call of [`Store::take_cleanups`].
pub const MAX_CLEANUPS: u32 = 200;
/// How long until the next look at an attempt.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(120);
/// The last look at an attempt is this long after its consent ended: by then nobody is left who could still open its inbox.
pub const LAST_LOOK_AFTER: Duration = Duration::from_secs(10 * 60);

/// An attempt to be cleaned up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cleanup {
    /// Which.
    pub attempt: AttemptId,
    /// Whose.
    pub device: DeviceId,
    /// Which consent it lacks.
    pub kind: ConsentKind,
    /// Since when.
    pub since: OffsetDateTime,
}

impl Store {
    /// Takes attempts that are to be cleaned up now, until `lease_until`.
    ///
    /// # Errors
    /// The database's.
    pub async fn take_cleanups(&self, now: OffsetDateTime, lease_until: OffsetDateTime) -> Result<Vec<Cleanup>, StoreError> {
        run("taking what is to be cleaned up", || async {
            let due = "SELECT attempt_id FROM consent_cleanup WHERE next_at <= $1 LIMIT 1";
            if self.reader().await?.fetch(due, &[Value::Number(to_ms(now))], None).await?.is_empty() {
                return Ok(Vec::new());
            }
            let sql = "WITH due AS MATERIALIZED (SELECT t.attempt_id FROM consent_cleanup t WHERE t.next_at <= $1 ORDER BY t.attempt_id LIMIT $2 [[lock t]]) \
                 UPDATE consent_cleanup SET next_at = $3 FROM due WHERE consent_cleanup.attempt_id = due.attempt_id \
                 RETURNING consent_cleanup.attempt_id, consent_cleanup.device_id, consent_cleanup.kind, consent_cleanup.since";
            let values = [Value::Number(to_ms(now)), Value::Number(i64::from(MAX_CLEANUPS)), Value::Number(to_ms(lease_until))];
            let mut tx = self.begin().await?;
            let rows = tx.fetch(sql, &values, None).await?;
            tx.commit().await?;
            let all = rows.iter().map(|row| {
                let attempt: Uuid = row.get(0)?;
                Ok(Cleanup {
                    attempt: AttemptId::from_uuid(attempt).ok_or_else(|| StoreError::Inconsistent(format!("attempt id {attempt}")))?,
                    device: device_id(row.get(1)?)?,
                    kind: kind_of(&row.get::<String>(2)?)?,
                    since: from_ms(row.get(3)?)?,
                })
            });
            all.collect()
        })
        .await
    }

    /// Puts lines on record; before what they say is done.
    ///
    /// # Errors
    /// The database's; then it must not be done.
    pub async fn record_audit(&self, lines: &[AuditLine]) -> Result<(), StoreError> {
        if lines.is_empty() {
            return Ok(());
        }
        run("recording what is removed", || async {
            let mut tx = self.begin().await?;
            audit::write(&mut tx, lines).await?;
            tx.commit().await
        })
        .await
    }

    /// Says that an attempt was cleaned up: looked at again until [`LAST_LOOK_AFTER`], and forgotten after that. A request that was on its way
    /// while the task ended may open the inbox once more.
    ///
    /// # Errors
    /// The database's.
    pub async fn cleaned_up(&self, done: &Cleanup, now: OffsetDateTime) -> Result<(), StoreError> {
        let last = done.since + LAST_LOOK_AFTER;
        run("recording a clean-up", || async {
            let mut tx = self.begin().await?;
            let id = Value::Id(done.attempt.uuid());
            if now >= last {
                tx.execute("DELETE FROM consent_cleanup WHERE attempt_id = $1", &[id], None).await?;
            } else {
                let sql = "UPDATE consent_cleanup SET next_at = $1, looks = looks + 1 WHERE attempt_id = $2";
                tx.execute(sql, &[Value::Number(to_ms(last.min(now + LOOK_AGAIN_AFTER))), id], None).await?;
            }
            tx.commit().await
        })
        .await
    }

    /// How many attempts wait to be cleaned up for the first time.
    ///
    /// # Errors
    /// The database's.
    pub async fn cleanups_waiting(&self) -> Result<u64, StoreError> {
        run("counting what is to be cleaned up", || async {
            let rows = self.reader().await?.fetch("SELECT count(*) FROM consent_cleanup WHERE looks = 0", &[], None).await?;
            Ok(rows.first().map_or(Ok(0), |row| row.get::<i64>(0))?.unsigned_abs())
        })
        .await
    }
}
