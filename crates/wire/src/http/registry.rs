//! Writing the registry.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::DeviceId;

/// Most bytes of one import.
pub const MAX_IMPORT_BYTES: u64 = 512 * 1024 * 1024;
/// Most rows of one import.
pub const MAX_IMPORT_ROWS: u64 = 1_000_000;
/// Most bytes of an import that is entered whole or not at all: it is kept in memory and written in one transaction.
pub const MAX_WHOLE_IMPORT_BYTES: u64 = 16 * 1024 * 1024;
/// Longest row, in bytes.
pub const MAX_IMPORT_ROW_BYTES: usize = 64 * 1024;
/// Most columns of a CSV.
pub const MAX_IMPORT_COLUMNS: usize = 100;
/// Refused rows and devices that an answer lists; the others are counted.
pub const MAX_REFUSED_LISTED: usize = 100;
/// Content type of an import in CSV.
pub const CSV: &str = "text/csv";
/// Content type of an import with one JSON object per line.
pub const NDJSON: &str = "application/x-ndjson";

/// A change of what we say of a device: a JSON merge patch (RFC 7396) over its tags and its gateway.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DevicePatch {
    /// Members named are set, `null` removes one, what is not named stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub tags: Option<Value>,
    /// The gateway it is behind; `null` takes it out from behind one.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "said")]
    #[schema(value_type = Option<String>)]
    pub parent: Option<Option<DeviceId>>,
}

/// `null` is something said; only what is absent is not.
fn said<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<DeviceId>>, D::Error> {
    Option::<DeviceId>::deserialize(deserializer).map(Some)
}

/// The same change to many devices.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DevicesPatch {
    /// To these.
    pub devices: Vec<DeviceId>,
    /// What is changed.
    pub patch: DevicePatch,
}

/// What a change did to many devices.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DevicesPatched {
    /// Devices that are otherwise now.
    pub changed: u64,
    /// Devices where all was so before.
    pub unchanged: u64,
    /// Devices that were left as they were.
    pub refused: u64,
    /// The first of them, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refusals: Vec<Refusal>,
}

impl DevicesPatched {
    /// Counts a device that was left as it was, and lists it while there is room.
    pub fn refuse(&mut self, refusal: Refusal) {
        self.refused += 1;
        if self.refusals.len() < MAX_REFUSED_LISTED {
            self.refusals.push(refusal);
        }
    }
}

/// A row of an import: what NDJSON holds per line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportRow {
    /// Which device; it enters the registry when it is not there.
    pub id: DeviceId,
    /// What is changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub tags: Option<Value>,
    /// The gateway it is behind.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "said")]
    #[schema(value_type = Option<String>)]
    pub parent: Option<Option<DeviceId>>,
}

/// What an import did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Imported {
    /// Rows read.
    pub rows: u64,
    /// Devices that entered the registry.
    pub new: u64,
    /// Devices that are otherwise now.
    pub changed: u64,
    /// Devices where all was so before.
    pub unchanged: u64,
    /// Rows that could not be used.
    pub refused: u64,
    /// The first of them, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refusals: Vec<Refusal>,
    /// Whether anything was written: not in a dry run, and not when all rows or none were wanted and one was refused.
    pub written: bool,
}

/// Something that could not be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Refusal {
    /// Line of the file on which the row begins, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// Which column or member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// Which device, when that much is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceId>,
    /// Why.
    pub reason: String,
    /// What to do about it.
    pub next_step: String,
}
