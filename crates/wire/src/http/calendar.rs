//! When a collection may ask devices, and when it is made.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

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

/// Where a window stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct WindowNow {
    /// Devices may be asked now.
    pub open: bool,
    /// When it opens; when it closes, if it is open. Absent when it never opens again.
    #[serde(default, with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub changes_at: Option<OffsetDateTime>,
    /// The same as the clock on the wall shows it there: `opens 2026-11-26 01:00 Europe/Oslo`.
    pub words: String,
}

pub(crate) fn utc() -> String {
    "UTC".to_owned()
}
