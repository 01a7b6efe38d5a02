//! The catalogue: what a device may raise, and what is collected for it.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{CollectionRequest, Priority};

/// Longest name of an indicator, in characters.
pub const MAX_INDICATOR_CHARS: usize = 128;
/// Longest description of an indicator, in characters.
pub const MAX_DESCRIPTION_CHARS: usize = 2_000;
/// Most indicators.
pub const MAX_INDICATORS: usize = 1_000;
/// Longest lookback and lookahead, in seconds.
pub const MAX_LOOKBACK_SECONDS: u64 = 7 * 24 * 3600;
/// Longest cooldown, in seconds.
pub const MAX_COOLDOWN_SECONDS: u64 = 30 * 24 * 3600;

/// One indicator, as somebody defines it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewIndicator {
    /// Its name; compared without regard to case, kept in this spelling.
    #[schema(example = "IOTEdgeAgentNotRunningCondition")]
    pub name: String,
    /// What it means, for the public page.
    pub description: String,
    /// Alerts of it are acted on.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// What is collected: a bundle or logs, without times; those come from the alert. No rule and no indicator can ask for dumps.
    pub collect: CollectionRequest,
    /// How far before the alert the logs begin, in seconds.
    pub lookback_seconds: u64,
    /// How far behind the alert they end, in seconds: the request waits so long. Zero asks at once and for all up to then.
    #[serde(default)]
    pub lookahead_seconds: u64,
    /// So long after a collection ended the same device is not asked again for the same indicator, in seconds.
    pub cooldown_seconds: u64,
    /// Who goes first.
    #[serde(default)]
    pub priority: Priority,
    /// No further collection for it once its bundles of the day hold so many bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
}

fn yes() -> bool {
    true
}

/// One indicator of the catalogue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct IndicatorView {
    /// Its definition.
    #[serde(flatten)]
    pub definition: NewIndicator,
    /// The version of the catalogue that brought it.
    pub since_catalogue_version: u32,
    /// The version that last changed it.
    pub changed_in_catalogue_version: u32,
    /// When it was added.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub added_at: OffsetDateTime,
    /// When it was last changed.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub changed_at: OffsetDateTime,
    /// By whom.
    pub changed_by: String,
}

/// The catalogue as it is published.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CatalogueView {
    /// Raised by every change.
    pub catalogue_version: u32,
    /// When it last changed.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub changed_at: OffsetDateTime,
    /// By name.
    pub indicators: Vec<IndicatorView>,
}
