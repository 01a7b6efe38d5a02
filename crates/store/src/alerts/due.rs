//! Decides again what was deferred and is due, and ends what is over.

use std::collections::HashMap;

use muster_domain::alert::DeferredFor;
use muster_wire::http::AlertOutcome;
use muster_wire::{AlertId, CollectionId, ConsentId, DeviceId, StormId};
use time::OffsetDateTime;
use uuid::Uuid;

use super::consider::{Verdict, consider};
use super::facts::{Case, Device, resolve};
use super::policy::{Policy, take_gate};
use super::twin::find_twins;
use super::write::{MAX_WHY_CHARS, write_ledger};
use super::{AlertLimits, MAX_ALERTS};
use crate::apply::device_id;
use crate::connect::Store;
use crate::dialect::{Batch, ID_BYTES, Row, Tx, VALUE_BYTES, Value, parcels};
use crate::error::{StoreError, run};
use crate::instant::{from_ms, maybe_from_ms, to_ms};
use crate::text::bounded;

/// Most batches of one call; what is left is due at the next.
const MAX_ROUNDS: usize = 20;

/// The columns of a case, of `alert AS a`.
pub(super) const CASE: &str = "a.id, a.device_id, a.indicator, a.indicator_key, a.tenant, a.site, a.model, a.version, a.fired_at, a.resolved_at, a.storm_id, a.in_sample";

/// A case as it was written down; its device as the registry has it now, or as it was where it is not there any more.
pub(super) async fn stored_cases(tx: &mut Tx, rows: &[Row]) -> Result<Vec<Case>, StoreError> {
    let mut cases = Vec::with_capacity(rows.len());
    for row in rows {
        let device = Device {
            id: device_id(row.get(1)?)?,
            tenant: row.get(4)?,
            site: row.get(5)?,
            model: row.get(6)?,
            version: row.get(7)?,
            clock_skew_ms: None,
        };
        cases.push(Case {
            id: AlertId::from_uuid(row.get(0)?),
            device,
            indicator: row.get(2)?,
            key: row.get(3)?,
            fired_at: from_ms(row.get(8)?)?,
            resolved_at: maybe_from_ms(row.get(9)?)?,
            origin: None,
            again: true,
            has_place: row.get::<i16>(11)? == 1,
            storm: row.get::<Option<Uuid>>(10)?.map(StormId::from_uuid),
        });
    }
    let ids: Vec<&str> = cases.iter().map(|case| case.device.id.as_str()).collect();
    let mut now: HashMap<String, Device> = resolve(tx, &ids).await?;
    for case in &mut cases {
        // Another device that differs in case alone is another device.
        if let Some(device) = now.remove(case.device.id.as_str()).filter(|device| device.id == case.device.id) {
            now.insert(device.id.to_string(), device.clone());
            case.device = device;
        }
    }
    Ok(cases)
}

impl Store {
    /// Decides again what was deferred and is due, looks for the healthy devices that are to be collected beside those of storms, and closes
    /// storms that are over. Returns the collections made.
    ///
    /// # Errors
    /// The database's; what was decided before is kept.
    pub async fn decide_due(&self, limits: &AlertLimits, now: OffsetDateTime) -> Result<Vec<CollectionId>, StoreError> {
        let mut made = Vec::new();
        for _ in 0..MAX_ROUNDS {
            let (collections, full) = run("deciding what is due", || async {
                if !self.any("SELECT 1 FROM alert WHERE due_at <= $1 LIMIT 1", now).await? {
                    return Ok((Vec::new(), false));
                }
                let mut tx = self.begin().await?;
                let round = Box::pin(due_in(&mut tx, limits, now)).await?;
                tx.commit().await?;
                Ok(round)
            })
            .await?;
            made.extend(collections);
            if !full {
                break;
            }
        }
        let twins = run("looking for healthy devices", || async {
            if !self.any("SELECT 1 FROM alert_stratum WHERE twin_from <= $1 LIMIT 1", now).await? {
                return Ok(Vec::new());
            }
            let mut tx = self.begin().await?;
            take_gate(&mut tx).await?;
            let made = Box::pin(find_twins(&mut tx, limits, now)).await?;
            tx.commit().await?;
            Ok(made)
        })
        .await?;
        made.extend(twins);
        run("closing storms", || async {
            if !self.any("SELECT 1 FROM alert_storm WHERE closed_at IS NULL AND ends_at < $1 LIMIT 1", now).await? {
                return Ok(());
            }
            let mut tx = self.begin().await?;
            take_gate(&mut tx).await?;
            let sql = "UPDATE alert_storm SET closed_at = ends_at WHERE closed_at IS NULL AND ends_at < $1";
            tx.execute(sql, &[Value::Number(to_ms(now))], None).await?;
            tx.commit().await
        })
        .await?;
        Ok(made)
    }

    /// Whether there is anything to do, asked without keeping anybody waiting.
    async fn any(&self, sql: &str, now: OffsetDateTime) -> Result<bool, StoreError> {
        Ok(!self.reader().await?.fetch(sql, &[Value::Number(to_ms(now))], None).await?.is_empty())
    }
}

async fn due_in(tx: &mut Tx, limits: &AlertLimits, now: OffsetDateTime) -> Result<(Vec<CollectionId>, bool), StoreError> {
    let version = take_gate(tx).await?;
    let policy = Policy::read(tx, version).await?;
    let sql = format!("SELECT {CASE} FROM alert a WHERE a.due_at <= $1 ORDER BY a.due_at, a.id LIMIT {MAX_ALERTS}");
    let rows = tx.fetch(&sql, &[Value::Number(to_ms(now))], None).await?;
    let full = rows.len() == MAX_ALERTS;
    let cases = stored_cases(tx, &rows).await?;
    let (verdicts, ledger) = consider(tx, &policy, &cases, limits, now).await?;
    update_decided(tx, &cases, &verdicts, version, now).await?;
    let made = write_ledger(tx, &ledger, &cases, &verdicts, limits, now).await?;
    Ok((made, full))
}

/// Writes a second decision over the first.
pub(super) async fn update_decided(
    tx: &mut Tx,
    cases: &[Case],
    verdicts: &[Verdict],
    version: u32,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    const SQL: &str = "UPDATE alert SET outcome = v.outcome, why = v.why, decided_at = $1, due_at = v.due_at, deferred_for = v.deferred_for, \
        rule = v.rule, catalogue_version = $2, consent_id = v.consent, collection_id = v.collection, in_sample = v.in_sample \
        FROM [[v]] WHERE alert.id = v.id";
    let all: Vec<(&Case, &Verdict)> = cases.iter().zip(verdicts).collect();
    let bytes = |(_, verdict): &(&Case, &Verdict)| {
        3 * ID_BYTES + 6 * VALUE_BYTES + 32 + verdict.why.len() + verdict.rule.as_ref().map_or(0, String::len)
    };
    for parcel in parcels(&all, bytes) {
        let whys: Vec<_> = parcel.iter().map(|(_, verdict)| bounded(&verdict.why, MAX_WHY_CHARS)).collect();
        let verdicts = || parcel.iter().map(|(_, verdict)| *verdict);
        let batch = Batch::default()
            .ids("id", parcel.iter().map(|(case, _)| case.id.uuid()))
            .texts("outcome", verdicts().map(|verdict| Some(verdict.outcome.as_str())))
            .texts("why", whys.iter().map(|why| Some(&**why)))
            .numbers("due_at", verdicts().map(|verdict| verdict.due.map(|(at, _)| to_ms(at))))
            .texts("deferred_for", verdicts().map(|verdict| verdict.due.map(|(_, cause)| DeferredFor::as_str(cause))))
            .texts("rule", verdicts().map(|verdict| verdict.rule.as_deref()))
            .maybe_ids("consent", verdicts().map(|verdict| verdict.consent.map(ConsentId::uuid)))
            .maybe_ids("collection", verdicts().map(|verdict| verdict.collection.map(CollectionId::uuid)))
            .smalls("in_sample", verdicts().map(|verdict| Some(i16::from(verdict.in_sample))));
        tx.execute(SQL, &[Value::Number(to_ms(now)), Value::Number(i64::from(version))], Some(&batch)).await?;
    }
    Ok(())
}

/// Writes on alerts that somebody asked for what they left.
pub(super) async fn update_asked(
    tx: &mut Tx,
    storm: StormId,
    devices: &[&DeviceId],
    collection: CollectionId,
    why: &str,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    let sql = format!(
        "UPDATE alert SET outcome = '{}', why = $1, decided_at = $2, collection_id = $3 FROM [[v]] \
         WHERE alert.storm_id = $4 AND alert.outcome = '{}' AND alert.device_id = v.device",
        AlertOutcome::Collected,
        AlertOutcome::OnDemand
    );
    let why = bounded(why, MAX_WHY_CHARS);
    let values = [Value::Text(&why), Value::Number(to_ms(now)), Value::Id(collection.uuid()), Value::Id(storm.uuid())];
    for parcel in parcels(devices, |device| VALUE_BYTES + device.as_str().len()) {
        let batch = Batch::default().texts("device", parcel.iter().map(|device| Some(device.as_str())));
        tx.execute(&sql, &values, Some(&batch)).await?;
    }
    Ok(())
}
