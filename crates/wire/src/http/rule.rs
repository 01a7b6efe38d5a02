//! Rules: what is collected when an indicator is raised, where the catalogue alone does not say enough.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{AlertOutcome, CollectionRequest, Priority, Window};
use crate::words::words;

/// Most rules.
pub const MAX_RULES: usize = 1_000;
/// Longest name of a rule, in characters.
pub const MAX_RULE_NAME_CHARS: usize = 64;
/// Longest time a preview looks back, in seconds.
pub const MAX_PREVIEW_SECONDS: u64 = 31 * 24 * 3600;

words! {
    /// Whether a rule acts.
    RuleMode {
        /// It decides.
        Active = "active",
        /// It writes down what it would have done.
        Shadow = "shadow",
        /// It is not asked.
        Off = "off",
    }
}

/// A rule. Of the active rules that fit an alert the first by `order`, then by name, decides; where none fits, the catalogue does.
/// What a rule leaves out comes from the catalogue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRule {
    /// Its name: letters, digits, `-`, `_` and `.`; unique.
    #[schema(example = "agent-down-in-oslo")]
    pub name: String,
    /// The indicator it is about, of the catalogue.
    #[schema(example = "IOTEdgeAgentNotRunningCondition")]
    pub indicator: String,
    /// Whether it acts.
    #[serde(default = "active")]
    pub mode: RuleMode,
    /// The smaller, the earlier it is asked.
    #[serde(default = "hundred")]
    pub order: u32,
    /// Only devices that meet this condition of the target language.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "tags.site = 'oslo'")]
    pub devices: Option<String>,
    /// Collects nothing: alerts that fit are counted and visible, and that is all.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ignore: bool,
    /// Which logs for this issue, without times; those come from the alert.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collect: Option<CollectionRequest>,
    /// How far before the alert the logs begin, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lookback_seconds: Option<u64>,
    /// How far behind the alert they end, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lookahead_seconds: Option<u64>,
    /// So long after a collection ended the same device is not asked again, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cooldown_seconds: Option<u64>,
    /// Who goes first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// In these hours nothing is asked: alerts wait for their end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quiet: Option<Window>,
    /// Most collections of this rule per UTC day, of one device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_device_per_day: Option<u32>,
    /// Of one site.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_site_per_day: Option<u32>,
    /// In all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_day: Option<u32>,
    /// When it is a storm, and how large its sample is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storm: Option<StormPolicy>,
}

fn active() -> RuleMode {
    RuleMode::Active
}
fn hundred() -> u32 {
    100
}

/// When many alerts of one indicator are a storm, and what is then collected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StormPolicy {
    /// So many devices of one tenant with the same indicator …
    pub devices: u32,
    /// … within so many seconds are a storm; it ends when none has come for as long.
    pub within_seconds: u64,
    /// Devices collected per stratum (version × site × model).
    pub per_stratum: u32,
    /// Devices collected of one storm in all, those before it was one included.
    pub at_most: u32,
    /// A healthy device of the same stratum is collected beside the first of each, where one exists and has consented.
    pub control_twin: bool,
}

impl Default for StormPolicy {
    fn default() -> Self {
        Self { devices: 20, within_seconds: 600, per_stratum: 2, at_most: 50, control_twin: true }
    }
}

/// A rule as it stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RuleView {
    /// Its definition.
    #[serde(flatten)]
    pub definition: NewRule,
    /// Raised by every change, from 1.
    pub version: u32,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub created_at: OffsetDateTime,
    /// When it was last changed.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub changed_at: OffsetDateTime,
    /// By whom.
    pub changed_by: String,
}

/// What would happen to one alert now. Nothing is written and no device is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RuleTest {
    /// One for each device of the event.
    pub devices: Vec<TestedDevice>,
}

/// What would happen for one device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TestedDevice {
    /// The device.
    pub device: String,
    /// What would be decided.
    pub outcome: AlertOutcome,
    /// Why.
    pub why: String,
    /// The rule that would decide.
    #[serde(default)]
    pub rule: Option<String>,
    /// The request that the device would get, if it would get one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<CollectionRequest>,
}

/// What a rule would have done with the alerts of the past.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RulePreview {
    /// From when.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub since: OffsetDateTime,
    /// Alerts of its indicator in that time.
    pub alerts: u64,
    /// Of those, of devices that meet its condition now.
    pub fitting: u64,
    /// By what it would have decided.
    pub outcomes: std::collections::BTreeMap<String, u64>,
    /// By what was decided.
    pub decided: std::collections::BTreeMap<String, u64>,
    /// Most collections it would have made on one day, and the day.
    pub busiest_day: Option<BusiestDay>,
    /// What the preview cannot know, one sentence each.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// A day of a preview.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct BusiestDay {
    /// The day, `2026-11-28`, in UTC.
    pub day: String,
    /// Collections.
    pub collections: u64,
}
