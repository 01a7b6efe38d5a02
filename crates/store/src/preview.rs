//! What is known before a collection is made: who is busy, and how large and how slow such bundles were.

use std::collections::{HashMap, HashSet};

use muster_domain::estimate::{Past, Reach};
use muster_wire::DeviceId;
use muster_wire::http::CollectionRequest;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::apply::{device_id, task_id};
use crate::collections::{number, parse};
use crate::connect::Store;
use crate::devices::MODEL_OF;
use crate::dialect::{Batch, Row, VALUE_BYTES, Value, parcels};
use crate::error::{StoreError, run};
use crate::instant::to_ms;

/// Newest bundles that an estimate is made from.
const MAX_PAST: i64 = 1000;

impl Store {
    /// Those of the devices that are at work on a bundle, in no order.
    ///
    /// # Errors
    /// The database's.
    pub async fn busy_devices(&self, devices: &[DeviceId], now: OffsetDateTime) -> Result<Vec<DeviceId>, StoreError> {
        const SQL: &str = "SELECT s.device_id FROM [[v]] JOIN device_slot s ON s.device_id = v.id WHERE s.until > $1";
        run("looking for busy devices", || async {
            let mut reader = self.reader().await?;
            let mut busy = Vec::new();
            for chunk in parcels(devices, |device| VALUE_BYTES + device.as_str().len()) {
                let batch = Batch::default().texts("id", chunk.iter().map(|device| Some(device.as_str())));
                for row in reader.fetch(SQL, &[Value::Number(to_ms(now))], Some(&batch)).await? {
                    busy.push(device_id(row.get(0)?)?);
                }
            }
            Ok(busy)
        })
        .await
    }

    /// How many of the devices are of which model (`tags.model`, else `reported.model`); those that are not in the registry are of none.
    ///
    /// # Errors
    /// The database's.
    pub async fn models_of(&self, devices: &[&DeviceId]) -> Result<Vec<(Option<String>, u64)>, StoreError> {
        let sql = format!("SELECT {MODEL_OF}, count(*) FROM [[v]] LEFT JOIN device d ON d.id = v.id GROUP BY 1");
        run("counting models", || async {
            let mut reader = self.reader().await?;
            let mut models: HashMap<Option<String>, u64> = HashMap::new();
            for chunk in parcels(devices, |device| VALUE_BYTES + device.as_str().len()) {
                let batch = Batch::default().texts("id", chunk.iter().map(|device| Some(device.as_str())));
                for row in reader.fetch(&sql, &[], Some(&batch)).await? {
                    *models.entry(row.get(0)?).or_default() += number::<u64>("a number of devices", row.get::<i64>(1)?)?;
                }
            }
            Ok(models.into_iter().collect())
        })
        .await
    }

    /// Of the newest thousand bundles, those of collections of this kind, by collection and model.
    ///
    /// # Errors
    /// The database's.
    pub async fn past_bundles(&self, kind: &str) -> Result<Vec<Past>, StoreError> {
        const KINDS: &str = "SELECT c.id, c.request, c.created_at FROM [[v]] JOIN collection c ON c.id = v.id WHERE c.kind = $1";
        let newest = format!(
            "SELECT b.task_id, b.size_bytes, b.sealed_at - t.dispatched_at, {MODEL_OF} \
             FROM (SELECT task_id, size_bytes, sealed_at FROM bundle ORDER BY task_id DESC LIMIT $1) b JOIN task t ON t.id = b.task_id \
             LEFT JOIN device d ON d.id = t.device_id"
        );
        run("looking at past bundles", || async {
            let mut reader = self.reader().await?;
            let bundles = reader.fetch(&newest, &[Value::Number(MAX_PAST)], None).await?;
            let of = |row: &Row| Ok::<Uuid, StoreError>(task_id(row.get(0)?)?.collection().uuid());
            let collections = bundles.iter().map(of).collect::<Result<HashSet<Uuid>, _>>()?;
            let batch = Batch::default().ids("id", collections);
            let mut reach: HashMap<Uuid, Reach> = HashMap::new();
            for row in reader.fetch(KINDS, &[Value::Text(kind)], Some(&batch)).await? {
                let request: CollectionRequest = parse("the request of a collection", &row.get::<String>(1)?)?;
                reach.insert(row.get(0)?, Reach::of(&request, row.get::<i64>(2)?.div_euclid(1000)));
            }
            let mut past: HashMap<(Uuid, Option<String>), Past> = HashMap::new();
            for row in &bundles {
                let (id, model): (Uuid, Option<String>) = (of(row)?, row.get(3)?);
                let Some(&reach) = reach.get(&id) else { continue };
                let entry = past.entry((id, model.clone())).or_insert(Past { model, reach, count: 0, bytes: 0, ms: 0 });
                entry.count += 1;
                entry.bytes += u64::try_from(row.get::<i64>(1)?).unwrap_or_default();
                entry.ms += row.get::<Option<i64>>(2)?.and_then(|ms| u64::try_from(ms).ok()).unwrap_or_default();
            }
            Ok(past.into_values().collect())
        })
        .await
    }
}
