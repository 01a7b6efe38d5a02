//! Names of the methods.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A direct method that a device of ours offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
pub enum Method {
    /// Answers at once with nothing.
    #[serde(rename = "ping")]
    Ping,
    /// Logs in the answer itself.
    GetModuleLogs,
    /// Logs to a container.
    UploadModuleLogs,
    /// A zip of everything to a container.
    UploadSupportBundle,
    /// What became of an upload.
    GetTaskStatus,
}

/// Methods edgeAgent has and we do not offer. Nothing in the product asks a device to restart anything.
pub const NOT_OFFERED: &[&str] = &["RestartModule"];

impl Method {
    /// Every method.
    pub const ALL: &[Self] = &[Self::Ping, Self::GetModuleLogs, Self::UploadModuleLogs, Self::UploadSupportBundle, Self::GetTaskStatus];

    /// The canonical spelling: what we send.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::GetModuleLogs => "GetModuleLogs",
            Self::UploadModuleLogs => "UploadModuleLogs",
            Self::UploadSupportBundle => "UploadSupportBundle",
            Self::GetTaskStatus => "GetTaskStatus",
        }
    }

    /// The method of this name, in any letter case; blanks count.
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|method| method.as_str().eq_ignore_ascii_case(name))
    }

    /// Whether the method answers at once and works on in the background.
    pub fn is_upload(self) -> bool {
        matches!(self, Self::UploadModuleLogs | Self::UploadSupportBundle)
    }
}

/// Whether this is a method of edgeAgent that we leave out on purpose, so that the answer can say so.
pub fn is_not_offered(name: &str) -> bool {
    NOT_OFFERED.iter().any(|known| known.eq_ignore_ascii_case(name))
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl std::str::FromStr for Method {
    type Err = String;
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::find(name).ok_or_else(|| {
            format!("{name:?} is not a method; known are {}", Self::ALL.iter().map(|m| m.as_str()).collect::<Vec<_>>().join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_in_any_case_and_nothing_else() {
        for &method in Method::ALL {
            assert_eq!(Method::find(method.as_str()), Some(method));
            assert_eq!(Method::find(&method.as_str().to_uppercase()), Some(method));
            assert_eq!(serde_json::to_value(method).expect("a word"), method.as_str());
        }
        for unknown in ["", "GetLogs", "CancelTask", "UploadModuleLogs ", " ping", "RestartModule"] {
            assert_eq!(Method::find(unknown), None, "{unknown:?}");
        }
        assert!(is_not_offered("restartmodule") && !is_not_offered("CancelTask"));
    }
}
