//! Values that must not print, and the files they may come from.

use std::fmt;
use std::io::Read as _;
use std::path::Path;

use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Largest file a secret is read from.
pub const MAX_SECRET_FILE_BYTES: u64 = 64 * 1024;

/// What stands in place of a secret wherever settings are shown.
pub(crate) const MASK: &str = "********";

/// A text that prints as a mask. Empty means "not set".
#[derive(Clone, Default)]
pub struct Secret(SecretString);

impl Secret {
    /// From a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(SecretString::from(text.into()))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.expose().is_empty()
    }

    /// The text itself. Never log it.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// The text, or `None` when not set.
    pub fn to_option(&self) -> Option<String> {
        (!self.is_empty()).then(|| self.expose().to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_empty() { "\"\"" } else { MASK })
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

/// Masked: there is no way to write a secret out by accident.
impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(if self.is_empty() { "" } else { MASK })
    }
}

/// Reads a secret from a file, without the line end most editors leave there.
///
/// # Errors
/// A sentence naming the file, and what is wrong with it.
pub(crate) fn read_file(path: &Path) -> Result<Secret, String> {
    let shown = path.display();
    let file = std::fs::File::open(path).map_err(|error| format!("cannot read {shown}: {error}"))?;
    let mut text = String::new();
    let read = file.take(MAX_SECRET_FILE_BYTES + 1).read_to_string(&mut text).map_err(|error| format!("cannot read {shown}: {error}"))?;
    if read as u64 > MAX_SECRET_FILE_BYTES {
        return Err(format!("{shown} is larger than {MAX_SECRET_FILE_BYTES} bytes, too large for a secret"));
    }
    let text = text.trim_end_matches(['\r', '\n']);
    if text.is_empty() {
        return Err(format!("{shown} is empty"));
    }
    Ok(Secret::new(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_never_prints() {
        let secret = Secret::new("hunter2hunter2");
        assert_eq!(format!("{secret:?}"), MASK);
        assert_eq!(serde_json::to_value(&secret).expect("a text"), MASK);
        assert_eq!(secret.expose(), "hunter2hunter2");
        assert!(Secret::default().is_empty());
    }

    #[test]
    fn files_are_bounded_and_lose_their_line_end() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("secret");
        std::fs::write(&path, "s3cret\r\n").expect("written");
        assert_eq!(read_file(&path).expect("a secret").expose(), "s3cret");
        std::fs::write(&path, "x".repeat(MAX_SECRET_FILE_BYTES as usize)).expect("written");
        assert!(read_file(&path).is_ok());
        std::fs::write(&path, "x".repeat(MAX_SECRET_FILE_BYTES as usize + 1)).expect("written");
        assert!(read_file(&path).expect_err("too large").contains("larger than 65536 bytes"));
        std::fs::write(&path, "\n").expect("written");
        assert!(read_file(&path).expect_err("empty").contains("is empty"));
        assert!(read_file(&dir.path().join("none")).expect_err("missing").contains("none"));
    }
}
