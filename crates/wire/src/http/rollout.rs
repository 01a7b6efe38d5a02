//! How a collection is paced: how fast, in which stages, and when it stops by itself.

use serde::{Deserialize, Serialize};

use crate::Reason;

/// Fastest rate a collection may ask for, in devices per minute.
pub const MAX_RATE_PER_MINUTE: f64 = 6_000_000.0;
/// Slowest rate: one device in a hundred minutes.
pub const MIN_RATE_PER_MINUTE: f64 = 0.01;
/// Largest factor by which a ramp grows at each step.
pub const MAX_RAMP_FACTOR: f64 = 10.0;
/// Most stages of a rollout, the last one for the rest included.
pub const MAX_STAGES: usize = 10;
/// Most abort rules.
pub const MAX_ABORT_RULES: usize = 10;
/// Most waits in a schedule of retries.
pub const MAX_RETRY_WAITS: usize = 20;

/// Who pauses a collection when it is its own rollout.
pub const PAUSED_BY_ROLLOUT: &str = "rollout";
/// The name under which a collection is made paused because nobody confirmed so many devices.
pub const PAUSED_FOR_CONFIRMATION: &str = "confirmation";

/// How a collection is paced. All members hold at the same time, over all controllers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rollout {
    /// How many devices are asked per minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// Most devices asked at the same time, as a share of the targeted devices, in percent; at least one. `options.in_flight` is the number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_flight_percent: Option<f64>,
    /// One after the other; what is left after the last is a stage of its own without a gate. Devices come in random order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<Stage>,
    /// When to stop.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub abort: Vec<AbortRule>,
    /// No further device is asked once the sealed bundles hold so many bytes; the collection pauses and says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
    /// Made, and not begun until somebody resumes it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub start_paused: bool,
}

/// Devices per minute.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// At first; for good without a ramp.
    pub per_minute: f64,
    /// How it grows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ramp: Option<Ramp>,
}

/// An exponential ramp, stepped by what was verified, not by what was sent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Ramp {
    /// The rate is multiplied by this at each step; above 1.
    pub factor: f64,
    /// A step for every so many verified devices.
    pub every_verified: u64,
    /// It grows no further than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_per_minute: Option<f64>,
}

/// Some devices that go before the others, and what has to be true before the others go.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// How many: a number, or a share of the targeted devices.
    pub devices: Amount,
    /// The stage is passed when so many percent of its devices that were asked are verified, and all of them are done.
    #[serde(default = "all_percent")]
    pub verified_percent: f64,
    /// How long to wait after it passed.
    #[serde(default)]
    pub wait_seconds: u64,
    /// Somebody has to say that it goes on (`resume`), even when it passed.
    #[serde(default)]
    pub manual: bool,
}

fn all_percent() -> f64 {
    100.0
}

/// A number of devices.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Amount {
    /// So many.
    Count(u64),
    /// Such a share of the targeted devices, in percent; at least one.
    Percent(f64),
}

/// Stops a collection when too much of it goes wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AbortRule {
    /// Endings that count; every ending without success when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<Reason>,
    /// Stop at this share of the devices that are done, in percent.
    pub percent: f64,
    /// Not before so many devices are done.
    #[serde(default = "some_done")]
    pub minimum_done: u64,
    /// What stopping means.
    #[serde(default)]
    pub action: AbortAction,
}

fn some_done() -> u64 {
    10
}

/// What stopping means.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AbortAction {
    /// Nothing more is sent until somebody resumes; what is out may end.
    #[default]
    Pause,
    /// Everything that is not final is cancelled, with the reason `aborted`.
    Cancel,
}

/// Who goes first when there is not room for all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// A batch: takes what the others leave.
    Low,
    /// As usual.
    #[default]
    Normal,
    /// Somebody waits: goes first, and has a share of the window that the others leave free.
    High,
}

impl Priority {
    /// The number in the database; larger goes first.
    pub fn code(self) -> i16 {
        match self {
            Self::Low => -1,
            Self::Normal => 0,
            Self::High => 1,
        }
    }

    /// From the number in the database.
    pub fn from_code(code: i16) -> Option<Self> {
        [Self::Low, Self::Normal, Self::High].into_iter().find(|priority| priority.code() == code)
    }
}

/// When a failed attempt is repeated; in place of the controller's back-off.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    /// Only attempts that ended for one of these; every retryable reason when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<Reason>,
    /// Waits before the second, third … attempt, in seconds; the last one repeats. The controller's back-off when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waits_seconds: Vec<u64>,
}

/// Pauses a collection.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Pause {
    /// Why, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// Cancels a collection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Cancel {
    /// Only what is queued: what is with a device may end, and is not tried again.
    #[serde(default)]
    pub queued_only: bool,
}

/// How far and how fast a paced collection is now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PaceView {
    /// Devices asked per minute, the ramp included.
    #[serde(default)]
    pub per_minute: Option<f64>,
    /// Most devices asked at the same time, over all controllers.
    #[serde(default)]
    pub in_flight: Option<u32>,
    /// The stage it is in, from 1; one more than there are stages for the rest.
    #[serde(default)]
    pub stage: Option<u32>,
}

/// Why a collection asks nobody at present.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Paused {
    /// Since when.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub at: time::OffsetDateTime,
    /// Who paused it; [`PAUSED_BY_ROLLOUT`] when it paused itself, [`PAUSED_FOR_CONFIRMATION`] when it was made so.
    pub by: String,
    /// Why; an automatic stop says which number crossed which limit.
    pub why: String,
}
