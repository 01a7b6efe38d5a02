//! Who joins: devices that meet the target of a standing collection later, and devices whose answer gave reason for the next step.
//!
//! Both are read from the database in bounded batches at every scan, by every controller. Adding is guarded there, so what two controllers
//! do at the same time, or one does twice, changes nothing.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use muster_store::{MAX_APPEND, Store, StoreError};
use muster_wire::http::TargetView;
use muster_wire::{CollectionId, DeviceId};
use time::OffsetDateTime;

use crate::work::OpenWork;

/// Devices of the registry compared with a standing collection at one scan.
const STANDING_BATCH: u32 = 5_000;

pub(crate) struct Growth {
    store: Store,
    /// How far the registry has been compared with each standing collection. Lost with the process: it begins anew.
    cursors: Mutex<HashMap<CollectionId, DeviceId>>,
}

impl Growth {
    pub(crate) fn new(store: Store) -> Self {
        Self { store, cursors: Mutex::default() }
    }

    /// One round over all open collections.
    pub(crate) async fn grow(&self, works: &[Arc<OpenWork>], now: OffsetDateTime) -> Result<(), StoreError> {
        self.cursors().retain(|id, _| works.iter().any(|work| work.id == *id));
        for work in works.iter().filter(|work| work.expires_at > now) {
            if let Some(target) = &work.standing {
                let joining = self.joining(work.id, target).await?;
                self.note(work.id, self.store.append_tasks(work.id, &joining, now).await?);
            }
        }
        let escalations: BTreeSet<CollectionId> = works.iter().filter_map(|work| work.first_step).collect();
        for first in escalations {
            let steps = self.store.steps_of(first).await?;
            for pair in steps.windows(2) {
                // Between two that are closed nothing moves any more.
                if pair.iter().any(|step| step.closed_at.is_none()) {
                    self.note(pair[1].id, self.store.feed_step(pair[0].id, pair[1].id, MAX_APPEND, now).await?);
                }
            }
        }
        Ok(())
    }

    /// The next devices that meet a target; the registry is gone through again and again.
    async fn joining(&self, id: CollectionId, target: &TargetView) -> Result<Vec<DeviceId>, StoreError> {
        let after = self.cursors().get(&id).cloned();
        let devices = match target {
            TargetView::All => self.store.all_device_ids(after.as_ref(), STANDING_BATCH).await?,
            TargetView::Condition(text) => match text.parse() {
                Ok(condition) => self.store.matching_devices(&condition, after.as_ref(), STANDING_BATCH).await?,
                Err(error) => {
                    tracing::error!(collection = %id, %error, "the condition of a standing collection cannot be read; nobody joins");
                    Vec::new()
                }
            },
            // A list of devices never grows.
            TargetView::Devices => Vec::new(),
        };
        match devices.last().filter(|_| devices.len() == STANDING_BATCH as usize) {
            Some(last) => drop(self.cursors().insert(id, last.clone())),
            None => drop(self.cursors().remove(&id)),
        }
        Ok(devices)
    }

    fn note(&self, collection: CollectionId, joined: u64) {
        if joined > 0 {
            tracing::info!(%collection, devices = joined, "devices joined a collection");
            metrics::counter!("muster_devices_joined_total").increment(joined);
        }
    }

    fn cursors(&self) -> std::sync::MutexGuard<'_, HashMap<CollectionId, DeviceId>> {
        self.cursors.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use muster_store::{DeviceEntry, StoreOptions};

    use super::*;

    /// The registry is longer than one batch: the next scan goes on behind it, and after the end it begins anew.
    #[tokio::test]
    async fn a_long_registry_is_gone_through_batch_by_batch() {
        let directory = tempfile::tempdir().expect("a private directory");
        let options = StoreOptions::new(format!("sqlite://{}", directory.path().join("muster.db").display()));
        let store = Store::connect(&options).await.expect("made");
        store.migrate().await.expect("migrated");
        let device = |n: u32| format!("press-{n:05}").parse::<DeviceId>().expect("an id");
        let tags = serde_json::json!({ "site": "oslo" });
        let entry = |n| DeviceEntry { device: device(n), tags: Some(tags.clone()), parent: None };
        let entries: Vec<DeviceEntry> = (0..STANDING_BATCH + 2).map(entry).collect();
        store.enter_devices(&entries, "ada", OffsetDateTime::now_utc()).await.expect("entered");

        let growth = Growth::new(store.clone());
        let one = TargetView::Condition("tags.site = 'oslo'".to_owned());
        // Two collections, each with its own place.
        for (id, target) in [(CollectionId::new(), TargetView::All), (CollectionId::new(), one)] {
            let next = async || {
                let joining = growth.joining(id, &target).await.expect("read");
                (joining.len(), joining.first().cloned())
            };
            for _ in 0..2 {
                assert_eq!(next().await, (STANDING_BATCH as usize, Some(device(0))));
                assert_eq!(next().await, (2, Some(device(STANDING_BATCH))));
            }
        }
        // Who comes in behind the place is met at this round, not at the next.
        let id = CollectionId::new();
        assert_eq!(growth.joining(id, &TargetView::All).await.expect("read").len(), STANDING_BATCH as usize);
        store.enter_devices(&[entry(STANDING_BATCH + 7)], "ada", OffsetDateTime::now_utc()).await.expect("entered");
        let rest = growth.joining(id, &TargetView::All).await.expect("read");
        assert_eq!(rest.last(), Some(&device(STANDING_BATCH + 7)));
        // A collection that is no longer open leaves no place behind.
        growth.joining(id, &TargetView::All).await.expect("read");
        assert_eq!(growth.cursors().len(), 1);
        growth.grow(&[], OffsetDateTime::now_utc()).await.expect("grown");
        assert_eq!(growth.cursors().len(), 0);
        store.close().await;
    }
}
