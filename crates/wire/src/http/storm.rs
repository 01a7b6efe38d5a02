//! Storms: one indicator on many devices, of which a sample is collected.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::{CollectionId, DeviceId, StormId};

/// A storm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct StormView {
    /// Its id.
    pub id: StormId,
    /// The indicator.
    pub indicator: String,
    /// The tenant; absent for devices without one.
    #[serde(default)]
    pub tenant: Option<String>,
    /// When its first alert came.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub opened_at: OffsetDateTime,
    /// When its latest alert came.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub last_at: OffsetDateTime,
    /// When it was over.
    #[serde(default, with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub closed_at: Option<OffsetDateTime>,
    /// Devices with the indicator that have consented.
    pub devices: u64,
    /// Of those, collected.
    pub collected: u64,
    /// Of those, not collected and to be had on demand.
    pub on_demand: u64,
    /// Healthy devices that were collected beside them.
    pub twins: u64,
    /// Why it is one, in words: `21 devices in 10m, of 20`.
    pub why: String,
    /// The collection of the rest, once somebody asked for it.
    #[serde(default)]
    pub rest: Option<CollectionId>,
    /// Version × site × model; only of a storm that is shown by itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub strata: Vec<StratumView>,
}

/// Devices of a storm that are alike.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct StratumView {
    /// Their version.
    #[serde(default)]
    pub version: Option<String>,
    /// Their site.
    #[serde(default)]
    pub site: Option<String>,
    /// Their model.
    #[serde(default)]
    pub model: Option<String>,
    /// Devices with the indicator.
    pub devices: u64,
    /// Of those, collected.
    pub collected: u64,
    /// The healthy device that was collected beside them.
    #[serde(default)]
    pub twin: Option<DeviceId>,
    /// Its collection.
    #[serde(default)]
    pub twin_collection: Option<CollectionId>,
    /// Why there is no twin.
    #[serde(default)]
    pub no_twin: Option<String>,
}

/// What came of asking for the rest of a storm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct StormCollected {
    /// The collection; absent when nobody was left.
    #[serde(default)]
    pub collection: Option<CollectionId>,
    /// Devices it asks.
    pub devices: u64,
    /// Of those, skipped because their consent ended meanwhile.
    pub skipped: u64,
}
