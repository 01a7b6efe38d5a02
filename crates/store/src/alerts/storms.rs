//! Storms: how they stand, and collecting the rest of one.

use std::collections::{BTreeMap, HashMap};

use muster_domain::alert::Collect;
use muster_wire::DeviceId;
use muster_wire::http::{AlertOutcome, ConsentKind, MAX_PAGE, Origin, StormCollected, StormRole, StormView, StratumView};
use muster_wire::{CollectionId, StormId, TaskId};
use time::OffsetDateTime;
use uuid::Uuid;

use super::AlertLimits;
use super::due::update_asked;
use super::facts::{LastJob, Of};
use super::policy::take_gate;
use super::write::{insert_jobs, of_devices};
use crate::apply::device_id;
use crate::collections::{collection_id, number, parse};
use crate::connect::Store;
use crate::create::{MAX_COLLECTION_TASKS, NewCollection, create_in, with_consent};
use crate::dialect::{Batch, ID_BYTES, Reader, Row, Tx, Value, parcels};
use crate::error::{StoreError, run};
use crate::instant::{from_ms, maybe_from_ms};

const COLUMNS: &str = "s.id, s.indicator, s.tenant, s.opened_at, s.last_at, s.closed_at, s.why, s.rest_collection";

fn view(row: &Row) -> Result<StormView, StoreError> {
    Ok(StormView {
        id: StormId::from_uuid(row.get(0)?),
        indicator: row.get(1)?,
        tenant: Some(row.get::<String>(2)?).filter(|tenant| !tenant.is_empty()),
        opened_at: from_ms(row.get(3)?)?,
        last_at: from_ms(row.get(4)?)?,
        closed_at: maybe_from_ms(row.get(5)?)?,
        devices: 0,
        collected: 0,
        on_demand: 0,
        twins: 0,
        why: row.get(6)?,
        rest: row.get::<Option<Uuid>>(7)?.map(collection_id).transpose()?,
        strata: Vec::new(),
    })
}

/// Counted each time it is asked for: so it is what the alerts say, whatever was collected meanwhile.
async fn count(reader: &mut Reader, storms: &mut [StormView]) -> Result<(), StoreError> {
    let alerts = format!(
        "SELECT a.storm_id, count(DISTINCT a.device_id), count(DISTINCT CASE WHEN a.outcome = '{}' THEN a.device_id END), \
         count(DISTINCT CASE WHEN a.outcome = '{}' THEN a.device_id END) FROM [[v]] JOIN alert a ON a.storm_id = v.id GROUP BY a.storm_id",
        AlertOutcome::Collected,
        AlertOutcome::OnDemand
    );
    let twins =
        "SELECT t.storm_id, count(*) FROM [[v]] JOIN alert_stratum t ON t.storm_id = v.id WHERE t.twin IS NOT NULL GROUP BY t.storm_id";
    let ids: Vec<Uuid> = storms.iter().map(|storm| storm.id.uuid()).collect();
    let mut counts: HashMap<Uuid, (u64, u64, u64)> = HashMap::new();
    let mut healthy: HashMap<Uuid, u64> = HashMap::new();
    let devices = |row: &Row, place: usize| number("a number of devices", row.get::<i64>(place)?);
    for parcel in parcels(&ids, |_| ID_BYTES) {
        let batch = Batch::default().ids("id", parcel.iter().copied());
        for row in reader.fetch(&alerts, &[], Some(&batch)).await? {
            counts.insert(row.get(0)?, (devices(&row, 1)?, devices(&row, 2)?, devices(&row, 3)?));
        }
        for row in reader.fetch(twins, &[], Some(&batch)).await? {
            healthy.insert(row.get(0)?, devices(&row, 1)?);
        }
    }
    for storm in storms {
        (storm.devices, storm.collected, storm.on_demand) = counts.get(&storm.id.uuid()).copied().unwrap_or_default();
        storm.twins = healthy.get(&storm.id.uuid()).copied().unwrap_or_default();
    }
    Ok(())
}

async fn strata(reader: &mut Reader, storm: StormId) -> Result<Vec<StratumView>, StoreError> {
    type Key = (String, String, String);
    let key = |row: &Row| Ok::<Key, StoreError>((row.get(0)?, row.get(1)?, row.get(2)?));
    let word = |text: String| Some(text).filter(|text| !text.is_empty());
    let sql = format!(
        "SELECT COALESCE(a.version, ''), COALESCE(a.site, ''), COALESCE(a.model, ''), count(DISTINCT a.device_id), \
         count(DISTINCT CASE WHEN a.outcome = '{}' THEN a.device_id END) FROM alert a WHERE a.storm_id = $1 GROUP BY 1, 2, 3",
        AlertOutcome::Collected
    );
    let mut all: BTreeMap<Key, StratumView> = BTreeMap::new();
    for row in reader.fetch(&sql, &[Value::Id(storm.uuid())], None).await? {
        let (version, site, model) = key(&row)?;
        let view = StratumView {
            version: word(version.clone()),
            site: word(site.clone()),
            model: word(model.clone()),
            devices: number("a number of devices", row.get::<i64>(3)?)?,
            collected: number("a number of devices", row.get::<i64>(4)?)?,
            twin: None,
            twin_collection: None,
            no_twin: None,
        };
        all.insert((version, site, model), view);
    }
    let sql = "SELECT t.version, t.site, t.model, t.twin, t.twin_collection, t.no_twin FROM alert_stratum t WHERE t.storm_id = $1";
    for row in reader.fetch(sql, &[Value::Id(storm.uuid())], None).await? {
        let Some(view) = all.get_mut(&key(&row)?) else { continue };
        view.twin = row.get::<Option<String>>(3)?.map(device_id).transpose()?;
        view.twin_collection = row.get::<Option<Uuid>>(4)?.map(collection_id).transpose()?;
        view.no_twin = row.get(5)?;
    }
    // Those with most devices first: that is where to look.
    let mut all: Vec<StratumView> = all.into_values().collect();
    all.sort_by_key(|stratum| std::cmp::Reverse(stratum.devices));
    Ok(all)
}

impl Store {
    /// Storms, newest first.
    ///
    /// # Errors
    /// The database's.
    pub async fn storms(&self, open_only: bool, before: Option<StormId>, limit: u32) -> Result<Vec<StormView>, StoreError> {
        run("reading storms", || async {
            let mut reader = self.reader().await?;
            let open = if open_only { "s.closed_at IS NULL" } else { "TRUE" };
            let sql = format!("SELECT {COLUMNS} FROM alert_storm s WHERE {open} AND s.id < $2 ORDER BY s.id DESC LIMIT $1");
            let values = [Value::Number(i64::from(limit.min(MAX_PAGE))), Value::Id(before.map_or(Uuid::max(), StormId::uuid))];
            let mut storms = reader.fetch(&sql, &values, None).await?.iter().map(view).collect::<Result<Vec<_>, _>>()?;
            count(&mut reader, &mut storms).await?;
            Ok(storms)
        })
        .await
    }

    /// One storm with its strata.
    ///
    /// # Errors
    /// The database's.
    pub async fn storm(&self, id: StormId) -> Result<Option<StormView>, StoreError> {
        run("reading a storm", || async {
            let mut reader = self.reader().await?;
            let sql = format!("SELECT {COLUMNS} FROM alert_storm s WHERE s.id = $1");
            let rows = reader.fetch(&sql, &[Value::Id(id.uuid())], None).await?;
            let Some(row) = rows.first() else { return Ok(None) };
            let mut storms = [view(row)?];
            count(&mut reader, &mut storms).await?;
            let [mut storm] = storms;
            storm.strata = strata(&mut reader, id).await?;
            Ok(Some(storm))
        })
        .await
    }

    /// Makes one collection for all devices of a storm that were left on demand. Those whose consent ended meanwhile are skipped in it and
    /// stay on demand; where none is left that agrees, there is no collection. `None`: there is no such storm.
    ///
    /// # Errors
    /// The database's; then nothing was done.
    pub async fn collect_storm(
        &self,
        id: StormId,
        who: &str,
        limits: &AlertLimits,
        now: OffsetDateTime,
    ) -> Result<Option<StormCollected>, StoreError> {
        run("collecting a storm", || async {
            let mut tx = self.begin().await?;
            take_gate(&mut tx).await?;
            let collected = Box::pin(collect_in(&mut tx, id, who, limits, now)).await?;
            tx.commit().await?;
            Ok(collected)
        })
        .await
    }
}

async fn collect_in(
    tx: &mut Tx,
    id: StormId,
    who: &str,
    limits: &AlertLimits,
    now: OffsetDateTime,
) -> Result<Option<StormCollected>, StoreError> {
    let rows = tx.fetch("SELECT indicator, indicator_key, plan FROM alert_storm WHERE id = $1", &[Value::Id(id.uuid())], None).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let (indicator, key): (String, String) = (row.get(0)?, row.get(1)?);
    let collect: Collect = parse("what a storm collects", &row.get::<String>(2)?)?;
    let sql = format!(
        "SELECT a.device_id, min(a.fired_at), max(a.fired_at), count(*) FROM alert a WHERE a.storm_id = $1 AND a.outcome = '{}' \
         GROUP BY a.device_id ORDER BY a.device_id LIMIT {MAX_COLLECTION_TASKS}",
        AlertOutcome::OnDemand
    );
    let mut left: Vec<(DeviceId, u64)> = Vec::new();
    let (mut first, mut last) = (i64::MAX, i64::MIN);
    for row in tx.fetch(&sql, &[Value::Id(id.uuid())], None).await? {
        left.push((device_id(row.get(0)?)?, number("a number of alerts", row.get::<i64>(3)?)?));
        (first, last) = (first.min(row.get(1)?), last.max(row.get(2)?));
    }
    if left.is_empty() {
        return Ok(Some(StormCollected { collection: None, devices: 0, skipped: 0 }));
    }
    let collection = CollectionId::new();
    let origin = Origin::Storm { storm: id, indicator: indicator.clone(), role: StormRole::Rest };
    let until = collect.until(from_ms(last)?, None).filter(|until| *until <= now);
    let devices: Vec<DeviceId> = left.iter().map(|(device, _)| device.clone()).collect();
    let reason = format!("the rest of {id}: {indicator}");
    let new = of_devices(collection, collect.request(from_ms(first)?, until), origin, reason, devices, limits, now);
    let new = NewCollection { priority: collect.priority, created_by: who.to_owned(), ..new };
    let (tasks, _) = with_consent(tx, ConsentKind::Proactive, &new.tasks, now).await?;
    let asked: Vec<(u32, &(DeviceId, u64))> =
        (0..).zip(&left).zip(&tasks).filter(|(_, task)| task.skip.is_none()).map(|(of, _)| of).collect();
    let counted = |count: usize| count as u64;
    let skipped = counted(left.len() - asked.len());
    if asked.is_empty() {
        return Ok(Some(StormCollected { collection: None, devices: counted(left.len()), skipped }));
    }
    create_in(tx, &new, &[]).await?;
    let job = |task: TaskId| LastJob { task, job: muster_domain::alert::Job { ended_at: None } };
    let jobs: Vec<(Of, LastJob, u64)> =
        asked.iter().map(|(n, (device, count))| ((device.clone(), key.clone()), job(collection.task(*n)), *count)).collect();
    insert_jobs(tx, &jobs, now).await?;
    let devices: Vec<&DeviceId> = asked.iter().map(|(_, (device, _))| device).collect();
    update_asked(tx, id, &devices, collection, &format!("asked for by {who}"), now).await?;
    let sql = "UPDATE alert_storm SET rest_collection = $1 WHERE id = $2";
    tx.execute(sql, &[Value::Id(collection.uuid()), Value::Id(id.uuid())], None).await?;
    Ok(Some(StormCollected { collection: Some(collection), devices: counted(left.len()), skipped }))
}
