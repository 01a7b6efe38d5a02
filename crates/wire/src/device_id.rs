//! The id of a device: 1 to 128 of `A-Za-z0-9-:._`, so that it can never add a topic level, a wildcard or a path segment.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest device id, in bytes (device contract).
pub const MAX_DEVICE_ID_BYTES: usize = 128;

/// A device id that has passed the contract's rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, example = "press-0042")]
pub struct DeviceId(String);

/// Why a text is not a device id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDeviceId {
    /// Nothing, or more than [`MAX_DEVICE_ID_BYTES`].
    #[error("a device id has 1 to {MAX_DEVICE_ID_BYTES} characters, this one has {0}")]
    Length(usize),
    /// A character outside the allowed set.
    #[error("a device id is made of A-Z a-z 0-9 - : . _ only; {0:?} is not one of them")]
    Character(char),
    /// `.` and `..` would be read as a path.
    #[error("a device id cannot be {0:?}: it would be read as a path")]
    Path(String),
}

impl DeviceId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DeviceId {
    type Err = InvalidDeviceId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() || text.len() > MAX_DEVICE_ID_BYTES {
            return Err(InvalidDeviceId::Length(text.chars().count()));
        }
        if let Some(bad) = text.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '-' | ':' | '.' | '_'))) {
            return Err(InvalidDeviceId::Character(bad));
        }
        if text == "." || text == ".." {
            return Err(InvalidDeviceId::Path(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for DeviceId {
    type Error = InvalidDeviceId;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<DeviceId> for String {
    fn from(id: DeviceId) -> Self {
        id.0
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_holds_at_its_edges() {
        for good in ["a", "A-Z_0.9:x", &"d".repeat(128)] {
            assert_eq!(good.parse::<DeviceId>().map(String::from), Ok(good.to_owned()));
        }
        assert_eq!("".parse::<DeviceId>(), Err(InvalidDeviceId::Length(0)));
        assert_eq!("d".repeat(129).parse::<DeviceId>(), Err(InvalidDeviceId::Length(129)));
        for bad in ["a/b", "a+b", "#", "a b", "ä", "a\0", "a%2f"] {
            assert!(matches!(bad.parse::<DeviceId>(), Err(InvalidDeviceId::Character(_))), "{bad:?}");
        }
        for path in [".", ".."] {
            assert!(matches!(path.parse::<DeviceId>(), Err(InvalidDeviceId::Path(_))));
        }
    }
}
