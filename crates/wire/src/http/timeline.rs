//! One device on one line of time.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::{AlertId, CollectionId, Reason, TaskId};

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TimelineWhat {
    /// It raised an alert, or one about it came.
    Alert,
    /// Somebody asked for a collection that this device is part of.
    Asked,
    /// An attempt was sent.
    Sent,
    /// The device answered it.
    Answered,
    /// Its upload was seen.
    Uploaded,
    /// The bundle was sealed.
    Sealed,
    /// An attempt ended, and it was not the last word.
    AttemptEnded,
    /// The task ended.
    Ended,
    /// Somebody entered or changed it with a list.
    Imported,
    /// Somebody changed its tags.
    Tagged,
    /// Somebody put it behind another gateway.
    Moved,
    /// Somebody took it out of the registry.
    Forgotten,
    /// It entered the registry.
    FirstSeen,
    /// Its program started, by its own clock, set right by what that clock was off at the last birth.
    AgentStarted,
    /// It is there since: its last birth, or an answer after its will.
    Online,
    /// It is away since: its last will.
    Offline,
}

impl TimelineWhat {
    /// Every kind, in the order of the list above.
    pub const ALL: [Self; 16] = [
        Self::Alert,
        Self::Asked,
        Self::Sent,
        Self::Answered,
        Self::Uploaded,
        Self::Sealed,
        Self::AttemptEnded,
        Self::Ended,
        Self::Imported,
        Self::Tagged,
        Self::Moved,
        Self::Forgotten,
        Self::FirstSeen,
        Self::AgentStarted,
        Self::Online,
        Self::Offline,
    ];

    /// The word in API and CLI.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Alert => "alert",
            Self::Asked => "asked",
            Self::Sent => "sent",
            Self::Answered => "answered",
            Self::Uploaded => "uploaded",
            Self::Sealed => "sealed",
            Self::AttemptEnded => "attempt_ended",
            Self::Ended => "ended",
            Self::Imported => "imported",
            Self::Tagged => "tagged",
            Self::Moved => "moved",
            Self::Forgotten => "forgotten",
            Self::FirstSeen => "first_seen",
            Self::AgentStarted => "agent_started",
            Self::Online => "online",
            Self::Offline => "offline",
        }
    }
}

/// Something that happened to a device, or that it did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TimelineEntry {
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub at: OffsetDateTime,
    /// What.
    pub what: TimelineWhat,
    /// In which collection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collection: Option<CollectionId>,
    /// In which task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    /// Which alert.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alert: Option<AlertId>,
    /// At which attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u8>,
    /// Who asked for it or did it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub who: Option<String>,
    /// Why it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// More, for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_is_the_word_of_the_json() {
        for what in TimelineWhat::ALL {
            assert_eq!(serde_json::to_value(what).expect("JSON"), what.as_str());
        }
    }
}
