//! Reading bundles.

use muster_wire::http::{BundleManifest, BundleView, MAX_PAGE, Verdict};
use muster_wire::{CollectionId, DeviceId, TaskId};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use crate::apply::{device_id, task_id};
use crate::collections::{number, parse};
use crate::connect::Store;
use crate::entity::bundle;
use crate::error::{StoreError, run};
use crate::instant::from_ms;

/// Which bundles, newest collection first.
#[derive(Debug, Clone, Default)]
pub struct BundleFilter {
    /// Before this task in that order.
    pub before: Option<TaskId>,
    /// At most so many; cut at [`MAX_PAGE`].
    pub limit: u32,
    /// Only of this collection.
    pub collection: Option<CollectionId>,
    /// Only of this device.
    pub device: Option<DeviceId>,
}

/// A bundle with its manifest.
#[derive(Debug, Clone)]
pub struct BundleRecord {
    /// In short.
    pub view: BundleView,
    /// In full.
    pub manifest: BundleManifest,
}

pub(crate) fn verdict(word: &str) -> Result<Verdict, StoreError> {
    [Verdict::Complete, Verdict::Partial, Verdict::Empty, Verdict::Damaged]
        .into_iter()
        .find(|verdict| verdict.as_str() == word)
        .ok_or_else(|| StoreError::Inconsistent(format!("verdict {word:?}")))
}

fn view(row: &bundle::Model) -> Result<BundleView, StoreError> {
    let task = task_id(row.task_id)?;
    Ok(BundleView {
        task,
        collection: task.collection(),
        device: device_id(row.device_id.clone())?,
        verdict: verdict(&row.verdict)?,
        size_bytes: number("a bundle's size", row.size_bytes)?,
        objects: number("a number of objects", row.objects)?,
        manifest_sha256: row.manifest_sha256.clone(),
        sealed_at: from_ms(row.sealed_at)?,
        location: row.location.clone(),
    })
}

impl Store {
    /// A page of bundles.
    ///
    /// # Errors
    /// The database's.
    pub async fn bundles(&self, filter: &BundleFilter) -> Result<Vec<BundleView>, StoreError> {
        use bundle::Column;
        run("listing bundles", || async {
            let mut query = bundle::Entity::find();
            if let Some(collection) = filter.collection {
                let (first, last) = collection.task_range();
                query = query.filter(Column::TaskId.between(first, last));
            }
            if let Some(device) = &filter.device {
                query = query.filter(Column::DeviceId.eq(device.as_str()));
            }
            if let Some(before) = filter.before {
                query = query.filter(Column::TaskId.lt(before.uuid()));
            }
            let rows = query.order_by_desc(Column::TaskId).limit(u64::from(filter.limit.min(MAX_PAGE))).all(self.entities()).await?;
            rows.iter().map(view).collect()
        })
        .await
    }

    /// The bundle of a task; `None` when there is none.
    ///
    /// # Errors
    /// The database's.
    pub async fn bundle(&self, task: TaskId) -> Result<Option<BundleRecord>, StoreError> {
        run("reading a bundle", || async {
            let Some(row) = bundle::Entity::find_by_id(task.uuid()).one(self.entities()).await? else {
                return Ok(None);
            };
            Ok(Some(BundleRecord { view: view(&row)?, manifest: parse("a manifest", &row.manifest)? }))
        })
        .await
    }
}
