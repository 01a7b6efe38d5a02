//! Schedules: collections that are made again and again.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::NewCollection;
use super::calendar::utc;
use crate::CollectionId;

/// Longest name of a schedule, in characters.
pub const MAX_SCHEDULE_NAME_CHARS: usize = 64;
/// Most schedules.
pub const MAX_SCHEDULES: u64 = 1_000;
/// Most runs kept per schedule; older ones are forgotten.
pub const MAX_RUNS_KEPT: u32 = 1_000;

/// A collection to be made again and again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewSchedule {
    /// Its name: letters, digits, `-`, `_` and `.`; unique.
    #[schema(example = "nightly-logs")]
    pub name: String,
    /// When: a cron expression of five fields, or six with seconds; `@daily` and its kind.
    #[schema(example = "0 1 * * *")]
    pub cron: String,
    /// IANA name of the time zone the expression is read in.
    #[serde(default = "utc")]
    #[schema(example = "Europe/Oslo")]
    pub time_zone: String,
    /// What is made. Times like `24h` count back from each run.
    pub collection: NewCollection,
    /// What becomes of runs that nobody began in time.
    #[serde(default)]
    pub missed: MissedPolicy,
    /// What becomes of a run while the collection of the one before is still open.
    #[serde(default)]
    pub overlap: Overlap,
}

/// What becomes of runs that nobody began in time, because no controller ran.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MissedPolicy {
    /// The latest is begun late; those before are on record as missed.
    #[default]
    RunLatest,
    /// All are on record as missed.
    Skip,
}

impl MissedPolicy {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RunLatest => "run_latest",
            Self::Skip => "skip",
        }
    }
}

/// What becomes of a run while the collection of the one before is still open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// It is left out, and on record.
    #[default]
    Skip,
    /// It is begun all the same.
    Allow,
}

impl Overlap {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::Allow => "allow",
        }
    }
}

/// A schedule as it stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ScheduleView {
    /// Its name.
    pub name: String,
    /// When it runs.
    pub cron: String,
    /// Time zone the expression is read in.
    pub time_zone: String,
    /// What is made.
    pub collection: NewCollection,
    /// What becomes of runs that nobody began in time.
    pub missed: MissedPolicy,
    /// What becomes of a run while the one before is still open.
    pub overlap: Overlap,
    /// Who made it.
    pub created_by: String,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub created_at: OffsetDateTime,
    /// Since when it is paused; runs that come due meanwhile are on record as missed.
    #[serde(default, with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub paused_at: Option<OffsetDateTime>,
    /// Who paused it.
    #[serde(default)]
    pub paused_by: Option<String>,
    /// When it is due next.
    #[serde(default, with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub next_due: Option<OffsetDateTime>,
    /// The next runs, as the clock on the wall shows them there.
    #[serde(default)]
    pub coming: String,
    /// The last run.
    #[serde(default)]
    pub last_run: Option<ScheduleRun>,
}

/// Answer to a new schedule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ScheduleCreated {
    /// It.
    #[serde(flatten)]
    pub schedule: ScheduleView,
    /// What is legal in its collection and does something else than one might think.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// What became of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RunOutcome {
    /// A controller has taken it and is making the collection.
    Begun,
    /// The collection was made.
    Made,
    /// The collection was refused; the detail says why.
    Refused,
    /// Nobody began it in time: no controller ran.
    Missed,
    /// The schedule was paused.
    Paused,
    /// The collection of the run before was still open.
    Overlapped,
}

impl RunOutcome {
    /// Every outcome.
    pub const ALL: [Self; 6] = [Self::Begun, Self::Made, Self::Refused, Self::Missed, Self::Paused, Self::Overlapped];

    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Begun => "begun",
            Self::Made => "made",
            Self::Refused => "refused",
            Self::Missed => "missed",
            Self::Paused => "paused",
            Self::Overlapped => "overlapped",
        }
    }
}

/// One run of a schedule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ScheduleRun {
    /// The time it was due; of a run that somebody asked for, that moment.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub due: OffsetDateTime,
    /// When this was written.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub at: OffsetDateTime,
    /// What became of it.
    pub outcome: RunOutcome,
    /// Its collection.
    #[serde(default)]
    pub collection: Option<CollectionId>,
    /// More, for a person.
    #[serde(default)]
    pub detail: Option<String>,
}
