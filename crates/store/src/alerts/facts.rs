//! What has to be known before alerts are decided: their devices, whether they came before, what was collected for them, and what is used
//! up. A few statements for a batch, however long it is.

use std::collections::{HashMap, HashSet};

use muster_domain::alert::Job;
use muster_wire::{AlertId, CollectionId, DeviceId, StormId, TaskId};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::apply::{device_id, task_state};
use crate::collections::number;
use crate::devices::{MODEL_OF, TENANT_OF};
use crate::dialect::{Batch, ID_BYTES, Tx, VALUE_BYTES, Value, parcels};
use crate::error::StoreError;
use crate::instant::{maybe_from_ms, to_ms};

/// A device as the registry has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) id: DeviceId,
    pub(super) tenant: Option<String>,
    pub(super) site: Option<String>,
    pub(super) model: Option<String>,
    pub(super) version: Option<String>,
    /// How far its clock is ahead of ours.
    pub(super) clock_skew_ms: Option<i64>,
}

/// One alert of one device that says that something began, on its way to a decision.
#[derive(Debug, Clone)]
pub(super) struct Case {
    pub(super) id: AlertId,
    pub(super) device: Device,
    /// In the spelling of the catalogue where it is there.
    pub(super) indicator: String,
    pub(super) key: String,
    pub(super) fired_at: OffsetDateTime,
    pub(super) resolved_at: Option<OffsetDateTime>,
    /// What it will be ended by.
    pub(super) origin: Option<String>,
    /// It was deferred before.
    pub(super) again: bool,
    /// It has a place in the sample of a storm, or came before it was one.
    pub(super) has_place: bool,
    /// The storm it is part of already.
    pub(super) storm: Option<StormId>,
}

impl Case {
    /// Tenant and indicator, by which storms are told from each other.
    pub(super) fn pair(&self) -> Pair {
        Pair { key: self.key.clone(), tenant: self.device.tenant.clone().unwrap_or_default() }
    }

    pub(super) fn stratum(&self) -> Stratum {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        Stratum { version: text(&self.device.version), site: text(&self.device.site), model: text(&self.device.model) }
    }
}

/// An indicator among the devices of a tenant; the tenant is empty for devices without one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Pair {
    pub(super) key: String,
    pub(super) tenant: String,
}

/// Devices that are alike; what is not known of them is empty.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Stratum {
    pub(super) version: String,
    pub(super) site: String,
    pub(super) model: String,
}

/// Site and version of `device AS d`, by which strata are told apart: consent of a site asks the tag alone.
pub(super) const SITE: &str = "CAST(COALESCE(d.tags->>'site', d.reported->>'site') AS text)";
pub(super) const VERSION: &str =
    "CAST(COALESCE(d.tags->>'version', d.reported->>'version', d.reported->>'firmware', d.agent_version) AS text)";

/// The devices by what an event calls them, compared without regard to case; of two that differ in nothing else the exact spelling is meant,
/// and otherwise the first by id.
pub(super) async fn resolve(tx: &mut Tx, refs: &[&str]) -> Result<HashMap<String, Device>, StoreError> {
    let sql = format!(
        "SELECT v.ref, d.id, {TENANT_OF}, {SITE}, {MODEL_OF}, {VERSION}, d.clock_skew_ms FROM [[v]] JOIN device d ON lower(d.id) = v.lower ORDER BY d.id"
    );
    // What is no device id cannot be in the registry, and may hold what a database does not take.
    let mut asked: Vec<&str> = refs.iter().copied().filter(|text| text.parse::<DeviceId>().is_ok()).collect();
    asked.sort_unstable();
    asked.dedup();
    let mut found: HashMap<String, Device> = HashMap::with_capacity(asked.len());
    for parcel in parcels(&asked, |text| 2 * (VALUE_BYTES + text.len())) {
        let lower: Vec<String> = parcel.iter().map(|text| text.to_ascii_lowercase()).collect();
        let batch = Batch::default()
            .texts("ref", parcel.iter().map(|text| Some(*text)))
            .texts("lower", lower.iter().map(|text| Some(text.as_str())));
        for row in tx.fetch(&sql, &[], Some(&batch)).await? {
            let said: String = row.get(0)?;
            let word = |place| Ok::<_, StoreError>(row.get::<Option<String>>(place)?.filter(|word| !word.is_empty()));
            let device = Device {
                id: device_id(row.get(1)?)?,
                tenant: word(2)?,
                site: word(3)?,
                model: word(4)?,
                version: word(5)?,
                clock_skew_ms: row.get(6)?,
            };
            if device.id.as_str() == said || !found.contains_key(&said) {
                found.insert(said, device);
            }
        }
    }
    Ok(found)
}

/// By which a repetition is known: the first half of the SHA-256 of source, id and device.
pub(super) fn digest(source: &str, id: &str, device: &str) -> Uuid {
    let mut sha = Sha256::new();
    for part in [source, id] {
        sha.update((part.len() as u64).to_be_bytes());
        sha.update(part);
    }
    sha.update(device.to_ascii_lowercase());
    let sum = sha.finalize();
    Uuid::from_bytes(*sum.first_chunk().expect("a SHA-256 has 32 bytes"))
}

/// Those that are on record.
pub(super) async fn known_digests(tx: &mut Tx, digests: &[Uuid]) -> Result<HashSet<Uuid>, StoreError> {
    let mut known = HashSet::new();
    for parcel in parcels(digests, |_| ID_BYTES) {
        let batch = Batch::default().ids("digest", parcel.iter().copied());
        for row in tx.fetch("SELECT a.digest FROM [[v]] JOIN alert a ON a.digest = v.digest", &[], Some(&batch)).await? {
            known.insert(row.get(0)?);
        }
    }
    Ok(known)
}

/// The last collection of a device for an indicator.
#[derive(Debug, Clone, Copy)]
pub(super) struct LastJob {
    pub(super) task: TaskId,
    pub(super) job: Job,
}

impl LastJob {
    pub(super) fn collection(&self) -> CollectionId {
        self.task.collection()
    }
}

/// A device and an indicator.
pub(super) type Of = (DeviceId, String);

/// The last collection of each; those that have none are not in it. One whose task was deleted ended long ago.
pub(super) async fn last_jobs(tx: &mut Tx, of: &[&Of]) -> Result<HashMap<Of, LastJob>, StoreError> {
    const SQL: &str = "SELECT v.device, v.key, j.task_id, t.state, t.finished_at FROM [[v]] \
        JOIN alert_job j ON j.device_id = v.device AND j.indicator_key = v.key AND j.task_id = \
        (SELECT y.task_id FROM alert_job y WHERE y.device_id = v.device AND y.indicator_key = v.key ORDER BY y.task_id DESC LIMIT 1) \
        JOIN task t ON t.id = j.task_id";
    let mut jobs = HashMap::new();
    for parcel in parcels(of, |(device, key)| 2 * VALUE_BYTES + device.as_str().len() + key.len()) {
        let batch = Batch::default()
            .texts("device", parcel.iter().map(|(device, _)| Some(device.as_str())))
            .texts("key", parcel.iter().map(|(_, key)| Some(key.as_str())));
        for row in tx.fetch(SQL, &[], Some(&batch)).await? {
            let id: Uuid = row.get(2)?;
            let task = TaskId::from_uuid(id).ok_or_else(|| StoreError::Inconsistent(format!("task id {id} in alert_job")))?;
            let ended = maybe_from_ms(row.get(4)?)?;
            let ended_at = if task_state(row.get(3)?)?.is_final() { Some(ended.unwrap_or(OffsetDateTime::UNIX_EPOCH)) } else { None };
            jobs.insert((device_id(row.get(0)?)?, row.get(1)?), LastJob { task, job: Job { ended_at } });
        }
    }
    Ok(jobs)
}

/// When each device last had the indicator, as far as that bears on storms.
pub(super) async fn recent(tx: &mut Tx, of: &[(Pair, DeviceId)]) -> Result<HashMap<(Pair, DeviceId), i64>, StoreError> {
    // By the device, which has a few rows: by indicator and tenant, for which there is another index, each would read those of all devices.
    const SQL: &str = "SELECT v.key, v.tenant, r.device_id, r.last_at FROM [[v]] \
        JOIN alert_recent r ON r.device_id = v.device AND r.indicator_key || '' = v.key AND r.tenant || '' = v.tenant";
    let mut found = HashMap::new();
    for parcel in parcels(of, |(pair, device)| 3 * VALUE_BYTES + pair.key.len() + pair.tenant.len() + device.as_str().len()) {
        let batch = Batch::default()
            .texts("key", parcel.iter().map(|(pair, _)| Some(pair.key.as_str())))
            .texts("tenant", parcel.iter().map(|(pair, _)| Some(pair.tenant.as_str())))
            .texts("device", parcel.iter().map(|(_, device)| Some(device.as_str())));
        for row in tx.fetch(SQL, &[], Some(&batch)).await? {
            found.insert((Pair { key: row.get(0)?, tenant: row.get(1)? }, device_id(row.get(2)?)?), row.get(3)?);
        }
    }
    Ok(found)
}

/// How many devices of each pair had the indicator since then.
pub(super) async fn recent_counts(tx: &mut Tx, of: &[(&Pair, i64)]) -> Result<HashMap<(Pair, i64), u64>, StoreError> {
    const SQL: &str = "SELECT v.key, v.tenant, v.since, \
        (SELECT count(*) FROM alert_recent r WHERE r.indicator_key = v.key AND r.tenant = v.tenant AND r.last_at >= v.since) FROM [[v]]";
    let mut found = HashMap::new();
    for parcel in parcels(of, |(pair, _)| 3 * VALUE_BYTES + 8 + pair.key.len() + pair.tenant.len()) {
        let batch = Batch::default()
            .texts("key", parcel.iter().map(|(pair, _)| Some(pair.key.as_str())))
            .texts("tenant", parcel.iter().map(|(pair, _)| Some(pair.tenant.as_str())))
            .numbers("since", parcel.iter().map(|(_, since)| Some(*since)));
        for row in tx.fetch(SQL, &[], Some(&batch)).await? {
            let pair = Pair { key: row.get(0)?, tenant: row.get(1)? };
            found.insert((pair, row.get(2)?), number("a number of devices", row.get::<i64>(3)?)?);
        }
    }
    Ok(found)
}

/// What is used up of each scope today.
pub(super) async fn used(tx: &mut Tx, scopes: &[&str], day: i64) -> Result<HashMap<String, u64>, StoreError> {
    let sql = "SELECT u.scope, u.used FROM [[v]] JOIN alert_use u ON u.scope = v.scope AND u.day = $1";
    let mut found = HashMap::new();
    for parcel in parcels(scopes, |scope| VALUE_BYTES + scope.len()) {
        let batch = Batch::default().texts("scope", parcel.iter().map(|scope| Some(*scope)));
        for row in tx.fetch(sql, &[Value::Number(day)], Some(&batch)).await? {
            found.insert(row.get(0)?, number("what was used", row.get::<i64>(1)?)?);
        }
    }
    Ok(found)
}

/// Bytes that the bundles of an indicator hold which were sealed since then; of collections that were made since `made_since`.
pub(super) async fn bytes_of(tx: &mut Tx, key: &str, made_since: OffsetDateTime, sealed_since: OffsetDateTime) -> Result<u64, StoreError> {
    let sql = "SELECT CAST(COALESCE(sum(b.size_bytes), 0) AS bigint) FROM alert_job j JOIN bundle b ON b.task_id = j.task_id \
        WHERE j.indicator_key = $1 AND j.made_at >= $2 AND b.sealed_at >= $3";
    let values = [Value::Text(key), Value::Number(to_ms(made_since)), Value::Number(to_ms(sealed_since))];
    let rows = tx.fetch(sql, &values, None).await?;
    rows.first().map_or(Ok(0), |row| number("a number of bytes", row.get::<i64>(0)?))
}
