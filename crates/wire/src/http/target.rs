//! Which devices a collection is for.

use serde::{Deserialize, Serialize};

use crate::DeviceId;

/// Most devices named one by one in a target, and most devices excluded.
pub const MAX_TARGET_DEVICES: usize = 100_000;
/// Longest condition, in bytes: ten thousand ids in a list fit.
pub const MAX_CONDITION_BYTES: usize = 512 * 1024;

/// Which devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Target {
    /// These.
    Devices {
        /// Ids; duplicates are merged, unknown ids refused.
        devices: Vec<DeviceId>,
    },
    /// Every device of the registry at this moment.
    All {},
    /// Every device that meets a condition over the registry.
    Condition {
        /// `tags.site = 'oslo' AND reported.firmware IN ['1.4.2','1.4.3']`; the language is IoT Hub's.
        condition: String,
        /// Only among these, when given.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        devices: Vec<DeviceId>,
    },
}

/// Which of the targeted devices are taken.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Choice {
    /// Never these. Ids that are not targeted are ignored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<DeviceId>,
    /// A random share of the devices, in percent: above 0, at most 100. At least one device where any is targeted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample_percent: Option<f64>,
    /// At most so many, after sampling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// How the devices were chosen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TargetView {
    /// Named one by one.
    Devices,
    /// The whole registry.
    All,
    /// By a condition.
    Condition(String),
}
