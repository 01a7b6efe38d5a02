//! Writing the registry: what people say of devices (tags, the gateway), what pings measured, and forgetting.
//!
//! A change is laid over what is there by [`muster_domain::tags::merge`], in the transaction that holds the rows: Postgres has no merge patch
//! of its own, and how large the tags become has to be known before they are written.

use std::collections::HashMap;

use muster_domain::tags::{self, BadTags};
use muster_wire::{DeviceId, TaskId, TaskState};
use serde_json::Value as Json;
use time::OffsetDateTime;

use crate::apply::device_id;
use crate::collections::parse;
use crate::connect::Store;
use crate::consent::owners_changed;
use crate::device_events::{DeviceDeed, DeviceEvent, record_device_events};
use crate::dialect::{Batch, ID_BYTES, Tx, VALUE_BYTES, Value, parcels};
use crate::error::{StoreError, run};
use crate::instant::to_ms;
use crate::presence::UNKNOWN;

/// Most entries written in one transaction, unless all or none are wanted.
pub const MAX_ENTRIES: usize = 1_000;
/// Of successful pings of a device that had been reached before, how often one is noted: a batch of pings must not cost a row each.
const PING_NOTED_EVERY_MS: i64 = 10_000;
/// Failed pings counted; beyond it "many" is all there is to say.
const MAX_PING_FAILED: i16 = i16::MAX;

/// What somebody says of a device.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceEntry {
    /// Of this one; named once in a call.
    pub device: DeviceId,
    /// A merge patch over its tags, checked by [`tags::check`].
    pub tags: Option<Json>,
    /// The gateway it is behind, or none; as it was when absent.
    pub parent: Option<Option<DeviceId>>,
}

/// What became of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entered {
    /// The device was not in the registry, and now is.
    New,
    /// Its tags or its gateway are others now.
    Changed,
    /// All was so before.
    Unchanged,
    /// There is no such device, and none was to be made.
    Unknown,
    /// With what was there its tags would be too large.
    Refused(BadTags),
}

/// How entries are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writing {
    /// Unknown devices enter the registry.
    Entering,
    /// Unknown devices are told.
    Changing,
}

/// What became of a device that was to be forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forgotten {
    /// It is no longer in the registry.
    Done,
    /// It was not there.
    Unknown,
    /// A task for it is open.
    Busy(TaskId),
}

struct Known {
    tags: Json,
    parent: Option<String>,
}

impl Store {
    /// Enters devices and what is said of them, in one transaction: at most [`MAX_ENTRIES`] at a time keep it short.
    ///
    /// # Errors
    /// The database's; then nothing is entered.
    pub async fn enter_devices(&self, entries: &[DeviceEntry], who: &str, at: OffsetDateTime) -> Result<Vec<Entered>, StoreError> {
        run("entering devices", || self.write_entries(entries, who, at, Writing::Entering, false)).await
    }

    /// Enters all devices, or none when one of them is refused: then the answer says which, and nothing was written.
    ///
    /// # Errors
    /// The database's; then nothing is entered.
    pub async fn enter_all_devices(&self, entries: &[DeviceEntry], who: &str, at: OffsetDateTime) -> Result<Vec<Entered>, StoreError> {
        run("entering devices", || self.write_entries(entries, who, at, Writing::Entering, true)).await
    }

    /// Changes what is said of devices that are in the registry, in one transaction.
    ///
    /// # Errors
    /// The database's; then nothing is changed.
    pub async fn change_devices(&self, entries: &[DeviceEntry], who: &str, at: OffsetDateTime) -> Result<Vec<Entered>, StoreError> {
        run("changing devices", || self.write_entries(entries, who, at, Writing::Changing, false)).await
    }

    /// What [`Store::enter_devices`] would answer. Writes nothing.
    ///
    /// # Errors
    /// The database's.
    pub async fn preview_devices(&self, entries: &[DeviceEntry]) -> Result<Vec<Entered>, StoreError> {
        run("looking at devices", || async {
            let mut tx = self.begin_read().await?;
            let known = read_known(&mut tx, entries, "").await?;
            Ok(entries.iter().map(|entry| judge(entry, known.get(entry.device.as_str()), Writing::Entering).0).collect())
        })
        .await
    }

    async fn write_entries(
        &self,
        entries: &[DeviceEntry],
        who: &str,
        at: OffsetDateTime,
        writing: Writing,
        all_or_none: bool,
    ) -> Result<Vec<Entered>, StoreError> {
        let mut order: Vec<&DeviceEntry> = entries.iter().collect();
        // Always in the same order, so that two of us cannot wait for each other.
        order.sort_unstable_by(|a, b| a.device.cmp(&b.device));
        let mut tx = self.begin().await?;
        let mut new = std::collections::HashSet::new();
        if writing == Writing::Entering {
            let sql = format!(
                "INSERT INTO device (id, presence, first_seen) SELECT v.id, {UNKNOWN}, $1 FROM [[v]] WHERE true ON CONFLICT (id) DO NOTHING \
                 RETURNING id"
            );
            for parcel in parcels(&order, |entry| VALUE_BYTES + entry.device.as_str().len()) {
                let batch = Batch::default().texts("id", parcel.iter().map(|entry| Some(entry.device.as_str())));
                for row in tx.fetch(&sql, &[Value::Number(to_ms(at))], Some(&batch)).await? {
                    new.insert(row.get::<String>(0)?);
                }
            }
        }
        let hold = tx.dialect().hold("d");
        let known = read_known(&mut tx, entries, &hold).await?;
        let mut outcomes = Vec::with_capacity(entries.len());
        let mut rows: Vec<(&DeviceId, String, Option<&str>)> = Vec::new();
        for entry in entries {
            let (outcome, merged) = judge(entry, known.get(entry.device.as_str()), writing);
            let outcome =
                if new.contains(entry.device.as_str()) && !matches!(outcome, Entered::Refused(_)) { Entered::New } else { outcome };
            if let Some((tags, parent)) = merged {
                rows.push((&entry.device, tags.to_string(), parent));
            }
            outcomes.push(outcome);
        }
        if all_or_none && outcomes.iter().any(|outcome| matches!(outcome, Entered::Refused(_))) {
            return Ok(outcomes);
        }
        rows.sort_unstable_by(|a, b| a.0.cmp(b.0));
        let sql = format!("UPDATE device SET tags = {}, parent = v.parent FROM [[v]] WHERE device.id = v.id", tx.dialect().json("v.tags"));
        let bytes = |(device, tags, parent): &(&DeviceId, String, Option<&str>)| {
            3 * VALUE_BYTES + device.as_str().len() + tags.len() + parent.map_or(0, str::len)
        };
        for parcel in parcels(&rows, bytes) {
            let batch = Batch::default()
                .texts("id", parcel.iter().map(|row| Some(row.0.as_str())))
                .texts("tags", parcel.iter().map(|row| Some(row.1.as_str())))
                .texts("parent", parcel.iter().map(|row| row.2));
            tx.execute(&sql, &[], Some(&batch)).await?;
        }
        owners_changed(&mut tx, &moved(entries, &outcomes, &known), who, at).await?;
        record_device_events(&mut tx, &deeds(entries, &outcomes, &known, writing), who, at).await?;
        tx.commit().await?;
        Ok(outcomes)
    }

    /// Notes what pings measured that ended just now: each one that failed, and the first that did not; of those after it, one in ten seconds.
    ///
    /// # Errors
    /// The database's; then nothing is noted.
    pub async fn record_pings(&self, ended: &[TaskId]) -> Result<(), StoreError> {
        if ended.is_empty() {
            return Ok(());
        }
        let sql = format!(
            "UPDATE device SET pinged_at = t.finished_at, \
             ping_ms = CASE WHEN t.state = {verified} THEN t.finished_at - t.dispatched_at END, \
             ping_failed = CASE WHEN t.state = {verified} THEN 0 WHEN device.ping_failed >= {MAX_PING_FAILED} THEN {MAX_PING_FAILED} \
             ELSE COALESCE(device.ping_failed, 0) + 1 END \
             FROM [[v]] JOIN task t ON t.id = v.id \
             WHERE device.id = t.device_id AND t.finished_at IS NOT NULL AND (COALESCE(device.pinged_at, 0) + {every} <= t.finished_at \
             OR COALESCE(device.pinged_at, 0) <= t.finished_at AND (t.state <> {verified} OR COALESCE(device.ping_failed, 0) > 0))",
            verified = TaskState::Verified.code(),
            every = PING_NOTED_EVERY_MS,
        );
        run("recording pings", || async {
            let mut tx = self.begin().await?;
            for parcel in parcels(ended, |_| ID_BYTES) {
                let batch = Batch::default().ids("id", parcel.iter().map(|task| task.uuid()));
                tx.execute(&sql, &[], Some(&batch)).await?;
            }
            tx.commit().await
        })
        .await
    }

    /// Takes a device out of the registry, unless a task for it is open. Its tasks and bundles stay; a device that speaks again enters anew.
    ///
    /// # Errors
    /// The database's.
    pub async fn forget_device(&self, device: &DeviceId, who: &str, at: OffsetDateTime) -> Result<Forgotten, StoreError> {
        // States from 4 on are final; a test beside the steps holds that.
        const OPEN: &str = "SELECT id FROM task WHERE device_id = $1 AND state < 4 ORDER BY id LIMIT 1";
        run("forgetting a device", || async {
            let mut tx = self.begin().await?;
            let id = [Value::Text(device.as_str())];
            if let Some(row) = tx.fetch(OPEN, &id, None).await?.first() {
                return Ok(Forgotten::Busy(crate::apply::task_id(row.get(0)?)?));
            }
            if tx.execute("DELETE FROM device WHERE id = $1", &id, None).await? == 0 {
                return Ok(Forgotten::Unknown);
            }
            record_device_events(&mut tx, &[DeviceEvent::new(device, DeviceDeed::Forgotten, None)], who, at).await?;
            tx.commit().await?;
            Ok(Forgotten::Done)
        })
        .await
    }

    /// The devices behind this one, sorted by id, at most `limit`.
    ///
    /// # Errors
    /// The database's.
    pub async fn children(&self, parent: &DeviceId, limit: u32) -> Result<Vec<DeviceId>, StoreError> {
        run("reading the devices behind a gateway", || async {
            let sql = "SELECT id FROM device WHERE parent = $1 ORDER BY id LIMIT $2";
            let values = [Value::Text(parent.as_str()), Value::Number(i64::from(limit))];
            let rows = self.reader().await?.fetch(sql, &values, None).await?;
            rows.iter().map(|row| device_id(row.get(0)?)).collect()
        })
        .await
    }
}

/// What the registry says of these devices; `hold` keeps it so until the transaction ends.
async fn read_known(tx: &mut Tx, entries: &[DeviceEntry], hold: &str) -> Result<HashMap<String, Known>, StoreError> {
    let mut order: Vec<&DeviceId> = entries.iter().map(|entry| &entry.device).collect();
    order.sort_unstable();
    let sql = format!("SELECT d.id, CAST(d.tags AS TEXT), d.parent FROM [[v]] JOIN device d ON d.id = v.id ORDER BY d.id {hold}");
    let mut known = HashMap::with_capacity(entries.len());
    for parcel in parcels(&order, |device| VALUE_BYTES + device.as_str().len()) {
        let batch = Batch::default().texts("id", parcel.iter().map(|device| Some(device.as_str())));
        for row in tx.fetch(&sql, &[], Some(&batch)).await? {
            known.insert(row.get(0)?, Known { tags: parse("tags", &row.get::<String>(1)?)?, parent: row.get(2)? });
        }
    }
    Ok(known)
}

/// What becomes of an entry, and what is to be written when it changes something.
fn judge<'a>(entry: &'a DeviceEntry, known: Option<&'a Known>, writing: Writing) -> (Entered, Option<(Json, Option<&'a str>)>) {
    if known.is_none() && writing == Writing::Changing {
        return (Entered::Unknown, None);
    }
    let before = known.map_or_else(|| Json::Object(serde_json::Map::new()), |known| known.tags.clone());
    let mut after = before.clone();
    if let Some(patch) = &entry.tags {
        tags::merge(&mut after, patch);
        if let Err(refused) = tags::check_size(&after) {
            return (Entered::Refused(refused), None);
        }
    }
    let parent_before = known.and_then(|known| known.parent.as_deref());
    let parent = match &entry.parent {
        None => parent_before,
        Some(parent) => parent.as_ref().map(DeviceId::as_str),
    };
    let same = after == before && parent == parent_before;
    let outcome = match known {
        None => Entered::New,
        Some(_) if same => Entered::Unchanged,
        Some(_) => Entered::Changed,
    };
    (outcome, (!same).then_some((after, parent)))
}

/// Devices whose tenant is another one now, or none, with the one they had.
fn moved<'a>(entries: &'a [DeviceEntry], outcomes: &[Entered], known: &HashMap<String, Known>) -> Vec<(&'a DeviceId, String)> {
    let changed = entries.iter().zip(outcomes).filter(|(_, outcome)| **outcome == Entered::Changed);
    let moved = changed.filter_map(|(entry, _)| {
        let before = &known.get(entry.device.as_str())?.tags;
        let tenant = before.get("tenant")?.as_str()?;
        let mut after = before.clone();
        tags::merge(&mut after, entry.tags.as_ref()?);
        (after.get("tenant").and_then(Json::as_str) != Some(tenant)).then(|| (&entry.device, tenant.to_owned()))
    });
    moved.collect()
}

/// What the entries that changed something did, for the history of their devices.
fn deeds<'a>(entries: &'a [DeviceEntry], outcomes: &[Entered], known: &HashMap<String, Known>, writing: Writing) -> Vec<DeviceEvent<'a>> {
    let mut deeds = Vec::new();
    for (entry, outcome) in entries.iter().zip(outcomes) {
        if !matches!(outcome, Entered::New | Entered::Changed) {
            continue;
        }
        let tags = entry.tags.as_ref().map(Json::to_string);
        match writing {
            Writing::Entering => deeds.push(DeviceEvent::new(&entry.device, DeviceDeed::Imported, tags)),
            Writing::Changing if tags.is_some() => deeds.push(DeviceEvent::new(&entry.device, DeviceDeed::Tagged, tags)),
            Writing::Changing => {}
        }
        let before = known.get(entry.device.as_str()).and_then(|known| known.parent.as_deref());
        if let Some(parent) = entry.parent.as_ref().filter(|parent| parent.as_ref().map(DeviceId::as_str) != before) {
            let behind = parent.as_ref().map_or_else(|| "behind no gateway".to_owned(), |parent| format!("behind {parent}"));
            deeds.push(DeviceEvent::new(&entry.device, DeviceDeed::Moved, Some(behind)));
        }
    }
    deeds
}
