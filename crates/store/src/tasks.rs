//! Reading tasks.

use std::collections::{HashMap, HashSet};

use muster_wire::http::{AttemptView, BundleManifest, MAX_PAGE, TaskBundle, TaskDetail, TaskView, Verdict};
use muster_wire::{AttemptId, CollectionId, DeviceId, Reason, TaskId, TaskState};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use uuid::Uuid;

use crate::apply::{attempt_number, device_id, reason, task_id, task_state};
use crate::bundles::verdict;
use crate::collections::{number, parse};
use crate::connect::Store;
use crate::entity::{attempt, bundle, device, task};
use crate::error::{StoreError, run};
use crate::instant::{from_ms, maybe_from_ms};
use crate::presence::OFFLINE;

/// Which tasks of a collection.
#[derive(Debug, Clone, Default)]
pub struct TaskFilter {
    /// Behind this one.
    pub after: Option<TaskId>,
    /// At most so many; cut at [`MAX_PAGE`].
    pub limit: u32,
    /// Only in these states; all when empty.
    pub states: Vec<TaskState>,
    /// Only with these reasons; all when empty.
    pub reasons: Vec<Reason>,
    /// Only of this device.
    pub device: Option<DeviceId>,
}

impl Store {
    /// A page of the tasks of a collection, in their order.
    ///
    /// # Errors
    /// The database's.
    pub async fn tasks(&self, collection: CollectionId, filter: &TaskFilter) -> Result<Vec<TaskView>, StoreError> {
        use task::Column;
        run("listing tasks", || async {
            let (first, last) = collection.task_range();
            let mut query = task::Entity::find().filter(Column::Id.lte(last));
            query = match filter.after {
                Some(after) => query.filter(Column::Id.gt(after.uuid())),
                None => query.filter(Column::Id.gte(first)),
            };
            if !filter.states.is_empty() {
                query = query.filter(Column::State.is_in(filter.states.iter().map(|state| state.code())));
            }
            if !filter.reasons.is_empty() {
                query = query.filter(Column::Reason.is_in(filter.reasons.iter().map(|reason| reason.code())));
            }
            if let Some(device) = &filter.device {
                query = query.filter(Column::DeviceId.eq(device.as_str()));
            }
            let rows = query.order_by_asc(Column::Id).limit(u64::from(filter.limit.min(MAX_PAGE))).all(self.entities()).await?;
            self.task_views(rows).await
        })
        .await
    }

    /// The tasks of a device over all collections, newest first.
    ///
    /// # Errors
    /// The database's.
    pub async fn device_tasks(&self, device: &DeviceId, limit: u32) -> Result<Vec<TaskView>, StoreError> {
        run("listing the tasks of a device", || async {
            let rows = task::Entity::find()
                .filter(task::Column::DeviceId.eq(device.as_str()))
                .order_by_desc(task::Column::Id)
                .limit(u64::from(limit.min(MAX_PAGE)))
                .all(self.entities())
                .await?;
            self.task_views(rows).await
        })
        .await
    }

    /// A task with its earlier attempts; `None` when there is none with this id.
    ///
    /// # Errors
    /// The database's.
    pub async fn task(&self, id: TaskId) -> Result<Option<TaskDetail>, StoreError> {
        run("reading a task", || async {
            let Some(row) = task::Entity::find_by_id(id.uuid()).one(self.entities()).await? else {
                return Ok(None);
            };
            let last = id.attempt(muster_wire::ids::MAX_ATTEMPTS).uuid();
            let ended = attempt::Entity::find()
                .filter(attempt::Column::Id.between(id.uuid(), last))
                .order_by_asc(attempt::Column::Id)
                .all(self.entities())
                .await?;
            let attempts = ended.into_iter().map(attempt_view).collect::<Result<_, _>>()?;
            let task = self.task_views(vec![row]).await?.pop().ok_or_else(|| StoreError::Inconsistent(format!("{id} vanished")))?;
            Ok(Some(TaskDetail { task, attempts }))
        })
        .await
    }

    async fn task_views(&self, rows: Vec<task::Model>) -> Result<Vec<TaskView>, StoreError> {
        let queued = rows.iter().filter(|row| row.state == TaskState::Queued.code()).map(|row| row.device_id.clone());
        let offline: HashSet<String> = device::Entity::find()
            .select_only()
            .column(device::Column::Id)
            .filter(device::Column::Id.is_in(queued))
            .filter(device::Column::Presence.eq(OFFLINE))
            .into_tuple::<String>()
            .all(self.entities())
            .await?
            .into_iter()
            .collect();
        let verified = rows.iter().filter(|row| row.state == TaskState::Verified.code()).map(|row| row.id);
        let bundles = bundle::Entity::find().filter(bundle::Column::TaskId.is_in(verified)).all(self.entities()).await?;
        let mut bundles: HashMap<Uuid, bundle::Model> = bundles.into_iter().map(|row| (row.task_id, row)).collect();
        rows.into_iter()
            .map(|row| {
                let bundle = bundles.remove(&row.id).map(task_bundle).transpose()?;
                task_view(row, &offline, bundle)
            })
            .collect()
    }
}

fn task_view(row: task::Model, offline: &HashSet<String>, bundle: Option<TaskBundle>) -> Result<TaskView, StoreError> {
    let id = task_id(row.id)?;
    let state = task_state(row.state)?;
    Ok(TaskView {
        consent: row.consent_id.map(muster_wire::ConsentId::from_uuid),
        id,
        collection: id.collection(),
        waiting: state == TaskState::Queued && offline.contains(&row.device_id),
        device: device_id(row.device_id)?,
        state,
        reason: row.reason.map(reason).transpose()?,
        detail: row.detail,
        attempt: attempt_number(row.attempt)?,
        correlation_id: row.correlation_id,
        dispatched_at: maybe_from_ms(row.dispatched_at)?,
        accepted_at: maybe_from_ms(row.accepted_at)?,
        uploaded_at: maybe_from_ms(row.uploaded_at)?,
        finished_at: maybe_from_ms(row.finished_at)?,
        not_before: maybe_from_ms((row.not_before > 0).then_some(row.not_before))?,
        bundle,
    })
}

fn task_bundle(row: bundle::Model) -> Result<TaskBundle, StoreError> {
    let verdict = verdict(&row.verdict)?;
    let missing = match verdict {
        Verdict::Partial => parse::<BundleManifest>("a manifest", &row.manifest)?.missing,
        _ => Vec::new(),
    };
    Ok(TaskBundle {
        verdict,
        size_bytes: number("a bundle's size", row.size_bytes)?,
        objects: number("a number of objects", row.objects)?,
        missing,
    })
}

fn attempt_view(row: attempt::Model) -> Result<AttemptView, StoreError> {
    Ok(AttemptView {
        id: AttemptId::from_uuid(row.id).ok_or_else(|| StoreError::Inconsistent(format!("attempt id {}", row.id)))?,
        state: task_state(row.state)?,
        reason: row.reason.map(reason).transpose()?,
        detail: row.detail,
        correlation_id: row.correlation_id,
        dispatched_at: maybe_from_ms(row.dispatched_at)?,
        ended_at: from_ms(row.ended_at)?,
    })
}
