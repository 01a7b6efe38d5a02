//! History that is old enough is deleted: by itself, a little each minute, and when somebody asks for it.
//!
//! Every controller does so. What two of them delete at the same time is deleted once.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use muster_store::Store;
use muster_wire::CollectionId;
use muster_wire::http::{MAX_RETENTION_SECONDS, Prune, Pruned};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use crate::api::problem::{ApiError, ApiResult, Chain};
use crate::api::{Api, collection_not_found};

/// How often the controller looks for history that is old enough.
const PRUNE_EVERY: Duration = Duration::from_secs(60);
/// Statements of one such look: work of devices never stands behind it for long.
const BATCHES_PER_LOOK: u32 = 5;
/// Statements of one request.
const BATCHES_PER_REQUEST: u32 = 100;

/// Deletes what is older than the setting says, until the controller stops.
pub(crate) async fn keep(api: Arc<Api>, stop: CancellationToken) {
    let keep = api.settings.retention.attempts.0;
    if keep.is_zero() {
        return;
    }
    let mut look = tokio::time::interval(PRUNE_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = look.tick() => {}
            () = stop.cancelled() => return,
        }
        match in_batches(&api.store, OffsetDateTime::now_utc() - keep, None, BATCHES_PER_LOOK).await {
            Ok(Pruned { attempts: 0, device_events: 0, .. }) => {}
            Ok(Pruned { attempts, device_events, .. }) => tracing::info!(attempts, device_events, "old history was deleted"),
            Err(error) => tracing::warn!(error = %Chain(&error), "old history could not be deleted"),
        }
    }
}

/// Deletes what somebody wants deleted.
pub(crate) async fn prune(api: &Api, who: &str, prune: &Prune) -> ApiResult<Pruned> {
    if prune.older_than_seconds > MAX_RETENTION_SECONDS {
        let why = format!("is {}; it is at most {MAX_RETENTION_SECONDS} (ten years)", prune.older_than_seconds);
        return Err(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_prune", "Nothing can be that old", "a value cannot be used")
            .next_step("name a shorter time")
            .field("older_than_seconds", why));
    }
    if let Some(id) = prune.collection {
        api.store.collection(id).await?.ok_or_else(|| collection_not_found(id))?;
    }
    let before = OffsetDateTime::now_utc() - Duration::from_secs(prune.older_than_seconds);
    let pruned = in_batches(&api.store, before, prune.collection, BATCHES_PER_REQUEST).await?;
    tracing::info!(attempts = pruned.attempts, device_events = pruned.device_events, by = who, "old history was deleted");
    Ok(pruned)
}

async fn in_batches(
    store: &Store,
    before: OffsetDateTime,
    collection: Option<CollectionId>,
    batches: u32,
) -> Result<Pruned, muster_store::StoreError> {
    let mut sum = Pruned::default();
    for _ in 0..batches {
        let batch = store.prune_history(before, collection).await?;
        sum.attempts += batch.attempts;
        sum.device_events += batch.device_events;
        sum.more = batch.is_full();
        if !sum.more {
            break;
        }
    }
    Ok(sum)
}
