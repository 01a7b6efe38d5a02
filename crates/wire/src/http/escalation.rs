//! Steps of a collection: ask a little first, and more only where the answer gives reason to.

use serde::{Deserialize, Serialize};

use super::CollectionRequest;

/// Most steps after the first.
pub const MAX_STEPS: usize = 5;

/// A deeper step, for the devices whose answer to the step before gave reason to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EscalationStep {
    /// What is asked in this step.
    pub request: CollectionRequest,
    /// Only devices with a line in the answer of the step before that matches this .NET pattern; every device that was verified in the step
    /// before when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when_matches: Option<String>,
}
