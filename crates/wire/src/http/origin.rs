//! What made a collection.

use serde::{Deserialize, Serialize};

use crate::AlertId;

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
}

impl Origin {
    /// The word.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Manual => "manual",
            Self::Schedule => "schedule",
            Self::Alert { .. } => "alert",
        }
    }
}
