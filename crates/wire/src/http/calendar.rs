//! When a collection may ask devices, and when it is made.

use serde::{Deserialize, Serialize};

/// Longest window, in seconds: a week.
pub const MAX_WINDOW_SECONDS: u64 = 7 * 24 * 3600;
/// Shortest window, in seconds.
pub const MIN_WINDOW_SECONDS: u64 = 60;
/// Longest cron expression, in bytes.
pub const MAX_CRON_BYTES: usize = 200;

/// Times at which devices may be asked. Requests that were sent inside may end outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// When it opens: a cron expression of five fields, or six with seconds; `@daily` and its kind.
    pub cron: String,
    /// How long it stays open, in seconds.
    pub length_seconds: u64,
    /// IANA name of the time zone the expression is read in.
    #[serde(default = "utc")]
    pub time_zone: String,
}

pub(crate) fn utc() -> String {
    "UTC".to_owned()
}
