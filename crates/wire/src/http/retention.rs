//! Deleting old history.

use serde::{Deserialize, Serialize};

use crate::CollectionId;

/// Longest age of history that can be named, in seconds: ten years.
pub const MAX_RETENTION_SECONDS: u64 = 10 * 365 * 24 * 3600;

/// Which history to delete.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Prune {
    /// What ended longer ago than this.
    pub older_than_seconds: u64,
    /// Only attempts of this collection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collection: Option<CollectionId>,
}

/// What was deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Pruned {
    /// Attempts that were followed by another.
    pub attempts: u64,
    /// Events of devices.
    pub device_events: u64,
    /// There is more that is as old: ask again.
    pub more: bool,
}
