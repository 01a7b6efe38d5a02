//! The states of a task (DESIGN §1). One definition for database, API and CLI; which move is legal is `domain::task`'s matter.

use serde::{Deserialize, Serialize};

/// Where a task is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
#[repr(i16)]
pub enum TaskState {
    /// Not yet sent, or to be sent again.
    Queued = 0,
    /// Claimed for one attempt; the request is leaving or has left.
    Dispatched = 1,
    /// The device answered with a correlationId.
    Accepted = 2,
    /// The device said so, or objects were found in the inbox.
    Uploaded = 3,
    /// The cloud read the objects and judged them. Final.
    Verified = 4,
    /// The device said no in a way a retry cannot change. Final.
    Refused = 5,
    /// No attempt succeeded. Final.
    Failed = 6,
    /// The deadline passed. Final.
    Expired = 7,
    /// An engineer cancelled. Final.
    Cancelled = 8,
    /// Never to be sent. Final.
    Skipped = 9,
}

impl TaskState {
    /// Every state, in the order of a life.
    pub const ALL: [Self; 10] = [
        Self::Queued,
        Self::Dispatched,
        Self::Accepted,
        Self::Uploaded,
        Self::Verified,
        Self::Refused,
        Self::Failed,
        Self::Expired,
        Self::Cancelled,
        Self::Skipped,
    ];

    /// Nothing leads out of a final state.
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Queued | Self::Dispatched | Self::Accepted | Self::Uploaded)
    }

    /// The number in the database.
    pub fn code(self) -> i16 {
        self as i16
    }

    /// From the number in the database.
    pub fn from_code(code: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.code() == code)
    }

    /// The word in the API and the CLI.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Dispatched => "dispatched",
            Self::Accepted => "accepted",
            Self::Uploaded => "uploaded",
            Self::Verified => "verified",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
            Self::Skipped => "skipped",
        }
    }
}

impl std::fmt::Display for TaskState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_and_word_are_unique_and_come_back() {
        for state in TaskState::ALL {
            assert_eq!(TaskState::from_code(state.code()), Some(state));
            assert_eq!(serde_json::to_value(state).expect("a word"), state.as_str());
        }
        assert_eq!(TaskState::from_code(10), None);
    }
}
