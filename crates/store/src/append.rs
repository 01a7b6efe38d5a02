//! Collections that grow: standing ones take devices that meet the target later, deeper steps take those whose answer gave reason to.
//!
//! The tasks, the number of them and the id of the last one are written in one transaction that holds the collection's row, so counters add
//! up at every instant, and a device that is there already gets no second task, whoever asks.

use std::collections::{HashMap, HashSet};

use muster_wire::http::StepView;
use muster_wire::{CollectionId, DeviceId};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder};
use time::OffsetDateTime;

use crate::apply::device_id;
use crate::collections::{Collection, number};
use crate::connect::Store;
use crate::consent::kind_of;
use crate::create::{MAX_COLLECTION_TASKS, NewTask, insert_tasks, name_consents, with_consent};
use crate::dialect::{Batch, ID_BYTES, Tx, VALUE_BYTES, Value, parcels};
use crate::entity::collection;
use crate::error::{StoreError, run};
use crate::instant::to_ms;

/// Most devices in one call of [`Store::append_tasks`] and [`Store::feed_step`].
pub const MAX_APPEND: usize = 5_000;

impl Store {
    /// Adds devices to a standing collection or to a deeper step; returns how many were not in it before. One that is cancelled or expired
    /// takes nobody; a step that was closed is open again.
    ///
    /// # Errors
    /// [`StoreError::Misuse`] for more than [`MAX_APPEND`] devices or a collection past [`MAX_COLLECTION_TASKS`]; otherwise the database's,
    /// and then nobody was added.
    pub async fn append_tasks(&self, collection: CollectionId, devices: &[DeviceId], now: OffsetDateTime) -> Result<u64, StoreError> {
        if devices.len() > MAX_APPEND {
            return Err(StoreError::Misuse(format!("one call adds at most {MAX_APPEND} devices, this one has {}", devices.len())));
        }
        run("adding devices to a collection", || async {
            // Looked for without a lock first: most of the time there is nobody new, and then nothing is written.
            let mut reader = self.reader().await?;
            let mut strangers = Vec::new();
            for parcel in parcels(devices, device_bytes) {
                let batch = Batch::default().texts("device", parcel.iter().map(|device| Some(device.as_str())));
                let (first, last) = collection.task_range();
                for row in reader.fetch(STRANGERS, &[Value::Id(first), Value::Id(last)], Some(&batch)).await? {
                    strangers.push(device_id(row.get(0)?)?);
                }
            }
            drop(reader);
            self.append(collection, strangers, now).await
        })
        .await
    }

    /// Gives the devices of one step whose answer gave reason to a task in the next one; returns how many, at most `limit`. Doing it twice
    /// changes nothing.
    ///
    /// # Errors
    /// As [`Store::append_tasks`].
    pub async fn feed_step(&self, from: CollectionId, to: CollectionId, limit: usize, now: OffsetDateTime) -> Result<u64, StoreError> {
        const SQL: &str = "SELECT m.device_id FROM task m WHERE m.id >= $1 AND m.id <= $2 AND m.matched = 1 AND NOT EXISTS \
            (SELECT 1 FROM task f WHERE f.device_id = m.device_id AND f.id >= $3 AND f.id <= $4) ORDER BY m.id LIMIT $5";
        run("feeding a step", || async {
            let ((first, last), (to_first, to_last)) = (from.task_range(), to.task_range());
            let limit = i64::try_from(limit.min(MAX_APPEND)).unwrap_or(i64::MAX);
            let values = [Value::Id(first), Value::Id(last), Value::Id(to_first), Value::Id(to_last), Value::Number(limit)];
            let rows = self.reader().await?.fetch(SQL, &values, None).await?;
            let devices = rows.iter().map(|row| device_id(row.get(0)?)).collect::<Result<Vec<_>, _>>()?;
            self.append(to, devices, now).await
        })
        .await
    }

    async fn append(&self, collection: CollectionId, devices: Vec<DeviceId>, now: OffsetDateTime) -> Result<u64, StoreError> {
        if devices.is_empty() {
            return Ok(0);
        }
        let mut tx = self.begin().await?;
        let added = append_in(&mut tx, collection, devices, now).await?;
        if added > 0 {
            tx.commit().await?;
        }
        Ok(added)
    }

    /// The steps of an escalation in their order, the first one included; only itself for a collection that has none.
    ///
    /// # Errors
    /// The database's.
    pub async fn steps_of(&self, first: CollectionId) -> Result<Vec<Collection>, StoreError> {
        use collection::Column;
        run("reading the steps of a collection", || async {
            let rows =
                collection::Entity::find().filter(Column::StepOf.eq(first.uuid())).order_by_asc(Column::Step).all(self.entities()).await?;
            let mut steps = Vec::with_capacity(rows.len() + 1);
            steps.extend(collection::Entity::find_by_id(first.uuid()).one(self.entities()).await?.map(Collection::try_from).transpose()?);
            for row in rows {
                steps.push(Collection::try_from(row)?);
            }
            Ok(steps)
        })
        .await
    }

    /// Where the steps behind a collection stand.
    ///
    /// # Errors
    /// The database's.
    pub async fn later_steps(&self, collection: CollectionId) -> Result<Vec<StepView>, StoreError> {
        let Some(row) = self.collection(collection).await? else { return Ok(Vec::new()) };
        let first = row.step_of.map_or(collection, |of| of.collection);
        let own = row.step_of.map_or(1, |of| of.step);
        let mut later = Vec::new();
        for row in self.steps_of(first).await? {
            let step = row.step_of.map_or(1, |of| of.step);
            if step > own {
                let (state, kind) = (row.state(), row.request.kind().to_owned());
                let tally = self.tally_of(row.id, row.targeted, row.outcome).await?;
                later.push(StepView { id: row.id, step, kind, state, counters: tally.counters });
            }
        }
        Ok(later)
    }
}

/// Devices of `v` that have no task between `$1` and `$2`.
const STRANGERS: &str = "SELECT v.device FROM [[v]] WHERE NOT EXISTS \
    (SELECT 1 FROM task t WHERE t.device_id = v.device AND t.id >= $1 AND t.id <= $2)";

fn device_bytes(device: &DeviceId) -> usize {
    VALUE_BYTES + device.as_str().len()
}

async fn append_in(tx: &mut Tx, collection: CollectionId, devices: Vec<DeviceId>, now: OffsetDateTime) -> Result<u64, StoreError> {
    // First the collection's row, then the tasks: see `close_in`. Whoever else adds or closes waits here.
    const LOCK: &str = "UPDATE collection SET closed_at = NULL, outcome = NULL WHERE id = $1 AND cancelled_at IS NULL AND expires_at > $2 \
        AND (standing = 1 OR step_of IS NOT NULL) RETURNING targeted, consent_kind";
    let (first, last) = collection.task_range();
    let rows = tx.fetch(LOCK, &[Value::Id(first), Value::Number(to_ms(now))], None).await?;
    let Some(row) = rows.first() else { return Ok(0) };
    let targeted: usize = number("a number of tasks", row.get::<i64>(0)?)?;
    let needs_consent = row.get::<Option<String>>(1)?.map(|word| kind_of(&word)).transpose()?;
    let mut seen = HashSet::with_capacity(devices.len());
    let devices: Vec<DeviceId> = devices.into_iter().filter(|device| seen.insert(device.clone())).collect();
    let mut tasks = Vec::with_capacity(devices.len());
    for parcel in parcels(&devices, device_bytes) {
        let batch = Batch::default().texts("device", parcel.iter().map(|device| Some(device.as_str())));
        for row in tx.fetch(STRANGERS, &[Value::Id(first), Value::Id(last)], Some(&batch)).await? {
            tasks.push(NewTask { device: device_id(row.get(0)?)?, skip: None });
        }
    }
    if tasks.is_empty() {
        return Ok(0);
    }
    let all = targeted + tasks.len();
    if all > MAX_COLLECTION_TASKS {
        return Err(StoreError::Misuse(format!("{collection} would have {all} tasks, a collection has at most {MAX_COLLECTION_TASKS}")));
    }
    let mut consents = HashMap::new();
    if let Some(kind) = needs_consent {
        (tasks, consents) = with_consent(tx, kind, &tasks, now).await?;
    }
    let mut place = targeted;
    for parcel in parcels(&tasks, |task| ID_BYTES + 2 * VALUE_BYTES + 2 + task.device.as_str().len()) {
        insert_tasks(tx, collection, place, parcel, now).await?;
        place += parcel.len();
    }
    let named =
        (targeted..).zip(&tasks).filter_map(|(n, task)| Some((collection.task(u32::try_from(n).ok()?), *consents.get(&task.device)?)));
    name_consents(tx, &named.collect::<Vec<_>>()).await?;
    let last = u32::try_from(all - 1).expect("bounded by MAX_COLLECTION_TASKS");
    let values = [Value::Number(i64::try_from(all).unwrap_or(i64::MAX)), Value::Id(collection.task(last).uuid()), Value::Id(first)];
    tx.execute("UPDATE collection SET targeted = $1, last_task = $2 WHERE id = $3", &values, None).await?;
    Ok(tasks.len() as u64)
}
