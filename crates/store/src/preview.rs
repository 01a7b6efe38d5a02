//! What is known before a collection is made: who is busy, and how large and how slow such bundles were.

use std::collections::{HashMap, HashSet};

use muster_wire::DeviceId;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::apply::{device_id, task_id};
use crate::connect::Store;
use crate::dialect::{Batch, VALUE_BYTES, Value, parcels};
use crate::error::{StoreError, run};
use crate::instant::to_ms;

/// Newest bundles that an estimate is made from.
const MAX_PAST: i64 = 1000;

/// Past bundles of one kind of request.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PastBundles {
    /// How many.
    pub count: u64,
    /// Bytes of all of them.
    pub bytes: u64,
    /// From dispatch to the sealed bundle, summed over all of them, in milliseconds.
    pub ms: u64,
}

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

    /// Of the newest thousand bundles, those of collections of this kind.
    ///
    /// # Errors
    /// The database's.
    pub async fn past_bundles(&self, kind: &str) -> Result<PastBundles, StoreError> {
        const NEWEST: &str = "SELECT b.task_id, b.size_bytes, b.sealed_at - t.dispatched_at \
            FROM (SELECT task_id, size_bytes, sealed_at FROM bundle ORDER BY task_id DESC LIMIT $1) b JOIN task t ON t.id = b.task_id";
        const KINDS: &str = "SELECT c.id FROM [[v]] JOIN collection c ON c.id = v.id WHERE c.kind = $1";
        run("looking at past bundles", || async {
            let mut reader = self.reader().await?;
            let mut by_collection: HashMap<Uuid, PastBundles> = HashMap::new();
            for row in reader.fetch(NEWEST, &[Value::Number(MAX_PAST)], None).await? {
                let past = by_collection.entry(task_id(row.get(0)?)?.collection().uuid()).or_default();
                past.count += 1;
                past.bytes += u64::try_from(row.get::<i64>(1)?).unwrap_or_default();
                past.ms += row.get::<Option<i64>>(2)?.and_then(|ms| u64::try_from(ms).ok()).unwrap_or_default();
            }
            let batch = Batch::default().ids("id", by_collection.keys().copied());
            let rows = reader.fetch(KINDS, &[Value::Text(kind)], Some(&batch)).await?;
            let same = rows.iter().map(|row| row.get::<Uuid>(0)).collect::<Result<HashSet<Uuid>, _>>()?;
            let sum = |all: PastBundles, past: &PastBundles| PastBundles {
                count: all.count + past.count,
                bytes: all.bytes + past.bytes,
                ms: all.ms + past.ms,
            };
            Ok(by_collection.iter().filter(|(id, _)| same.contains(*id)).map(|(_, past)| past).fold(PastBundles::default(), sum))
        })
        .await
    }
}
