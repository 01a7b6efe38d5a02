//! Devices.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;

use super::TaskView;
use crate::DeviceId;
use crate::presence::AgentName;

/// Whether a device is connected, as its birth and will messages say. Connected is not reachable: `ping` measures that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PresenceState {
    /// The last message was a birth, or an answer came since.
    Online,
    /// The last message was the will.
    Offline,
    /// In the registry, never heard of.
    Unknown,
}

impl PresenceState {
    /// The word in API and CLI.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Offline => "offline",
            Self::Unknown => "unknown",
        }
    }
}

/// A device of the registry.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DeviceView {
    /// Its id.
    pub id: DeviceId,
    /// Connected or not.
    pub presence: PresenceState,
    /// Last time anything came from it.
    #[serde(default, with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_seen: Option<OffsetDateTime>,
    /// First time anything came from it.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub first_seen: OffsetDateTime,
    /// Direct methods it says it answers.
    pub methods: Vec<String>,
    /// Program it runs.
    #[serde(default)]
    pub agent: Option<AgentName>,
    /// When that program started, by the device's clock.
    #[serde(default, with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub started: Option<OffsetDateTime>,
    /// Device clock minus ours at its last birth, in milliseconds; absent when it gave none.
    #[serde(default)]
    pub clock_skew_ms: Option<i64>,
    /// Gateway it is behind.
    #[serde(default)]
    pub parent: Option<DeviceId>,
    /// The last ping; absent when it was never pinged.
    #[serde(default)]
    pub ping: Option<PingView>,
    /// Reported properties.
    pub reported: Value,
    /// Tags set by us.
    pub tags: Value,
}

/// Whether a device answered when it was last pinged. Measured apart from presence: connected is not reachable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PingView {
    /// When the ping ended.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub at: OffsetDateTime,
    /// From sending to the answer, in milliseconds; absent when there was none.
    #[serde(default)]
    pub round_trip_ms: Option<u64>,
    /// Pings in a row without an answer.
    pub failed_in_a_row: u32,
}

/// A device with its recent tasks, newest first.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DeviceDetail {
    /// The device.
    #[serde(flatten)]
    pub device: DeviceView,
    /// Devices behind it, the first hundred.
    #[serde(default)]
    pub children: Vec<DeviceId>,
    /// Its last tasks.
    pub tasks: Vec<TaskView>,
}
