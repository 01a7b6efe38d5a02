//! What made a collection.

use serde::{Deserialize, Serialize};

use crate::{AlertId, StormId};

/// What made a collection.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Origin {
    /// Somebody asked for it.
    #[default]
    Manual,
    /// A schedule.
    Schedule,
    /// An alert.
    Alert {
        /// Which.
        alert: AlertId,
        /// What it was about.
        indicator: String,
    },
    /// A storm: a healthy device beside those that raised alerts, or the rest of them.
    Storm {
        /// Which.
        storm: StormId,
        /// What it was about.
        indicator: String,
        /// `twin` or `rest`.
        role: StormRole,
    },
}

/// What a collection is to its storm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StormRole {
    /// A healthy device for comparison.
    Twin,
    /// What was not in the sample.
    Rest,
}

impl Origin {
    /// The word.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Manual => "manual",
            Self::Schedule => "schedule",
            Self::Alert { .. } => "alert",
            Self::Storm { .. } => "storm",
        }
    }
}
