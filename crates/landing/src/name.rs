//! Names of objects: one set of rules for what a device may call its upload, wherever it lands.
//!
//! A name comes from a device, so it is hostile: it may try to leave its inbox, to look like two different paths to two
//! different programs, or to stand where our own manifest belongs. A name that passed here is safe to join to a
//! directory and to put into a blob path, and two different names never mean the same object.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

/// Longest name in bytes. Azure allows 1,024 characters and the place of a sealed object takes up to 40 of them.
pub const MAX_OBJECT_NAME_BYTES: usize = 984;
/// Longest part between two slashes, in bytes: what Linux file systems allow.
pub const MAX_SEGMENT_BYTES: usize = 255;
/// Most parts between slashes.
pub const MAX_SEGMENTS: usize = 16;
/// The name of the manifest beside the sealed objects of an attempt. No device may use it.
pub const MANIFEST_NAME: &str = "manifest.json";
/// First parts of names that only we write.
const RESERVED_FIRST_SEGMENTS: [&str; 2] = [MANIFEST_NAME, ".muster"];
const SHOWN_CHARS: usize = 80;

/// The name of one object, relative to its inbox or bundle; `/` separates its parts.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectName(Arc<str>);

/// Why a text is not an object's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("object name {shown} is refused: {reason}")]
pub struct InvalidName {
    /// The text, escaped and cut to a length that may be printed.
    pub shown: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl ObjectName {
    /// The manifest of an attempt's bundle.
    pub fn manifest() -> Self {
        Self(MANIFEST_NAME.into())
    }

    /// A name we chose ourselves, or read back from our own records.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        match fault(text) {
            Some(reason) => Err(invalid(text, reason)),
            None => Ok(Self(text.into())),
        }
    }

    /// A name a device chose: the same rules, and none of the names that are ours.
    pub fn from_device(text: &str) -> Result<Self, InvalidName> {
        let name = Self::parse(text)?;
        let first = name.segments().next().unwrap_or_default();
        if RESERVED_FIRST_SEGMENTS.contains(&first) {
            return Err(invalid(text, "this name is reserved for the service"));
        }
        Ok(name)
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The parts between the slashes, at least one.
    pub fn segments(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/')
    }

    /// The last part: what a person would call the file.
    pub fn file_name(&self) -> &str {
        self.segments().next_back().unwrap_or_default()
    }

    /// Where the object is below a directory. Safe because no part is empty, `.` or `..`.
    pub(crate) fn below(&self, directory: &Path) -> PathBuf {
        directory.join(self.as_str())
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for ObjectName {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl AsRef<str> for ObjectName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

pub(crate) fn invalid(text: &str, reason: &'static str) -> InvalidName {
    let mut shown: String = text.chars().take(SHOWN_CHARS).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    InvalidName { shown: format!("{shown:?}"), reason }
}

fn fault(text: &str) -> Option<&'static str> {
    if text.is_empty() {
        return Some("it is empty");
    }
    if text.len() > MAX_OBJECT_NAME_BYTES {
        return Some("it is longer than 984 bytes");
    }
    if text.contains('\\') {
        return Some("it contains a backslash");
    }
    if text.chars().any(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{fffe}' | '\u{ffff}')) {
        return Some("it contains a control character");
    }
    if has_encoded_structure(text.as_bytes()) {
        return Some("it contains an encoded dot, slash, backslash, percent sign or control character");
    }
    let mut count = 0;
    for segment in text.split('/') {
        count += 1;
        match segment {
            "" => return Some("it has an empty part (a slash at the start, at the end, or two in a row)"),
            "." | ".." => return Some("it has a part that is \".\" or \"..\""),
            _ if segment.len() > MAX_SEGMENT_BYTES => return Some("a part of it is longer than 255 bytes"),
            _ => {}
        }
    }
    (count > MAX_SEGMENTS).then_some("it has more than 16 parts")
}

/// Whether a second round of percent-decoding, done by some program down the line, would change the structure of the name.
fn has_encoded_structure(text: &[u8]) -> bool {
    text.windows(3).any(|w| match w {
        [b'%', high, low] => match (hex(*high), hex(*low)) {
            (Some(high), Some(low)) => matches!(high * 16 + low, 0..=0x1f | 0x7f | b'.' | b'/' | b'\\' | b'%'),
            _ => false,
        },
        _ => false,
    })
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_names_pass() {
        for good in [
            "a",
            "bundle.zip",
            "hub/device/2026-11-21/edgeAgent.log",
            "…/ünï cødé",
            "a..b/.hidden",
            "100%.txt",
            "100%zz",
            "a+b=c&d?e#f",
            "-",
        ] {
            assert_eq!(ObjectName::from_device(good).map(|n| n.to_string()), Ok(good.to_owned()));
        }
    }

    #[test]
    fn every_escape_is_refused() {
        for bad in [
            "",
            "/",
            "/etc/passwd",
            "a/",
            "a//b",
            ".",
            "..",
            "../x",
            "a/../b",
            "a/./b",
            "a/..",
            "..\\x",
            "a\\b",
            "C:\\x",
            "a\0b",
            "a\nb",
            "a\u{7f}b",
            "a\u{85}b",
            "%2e%2e/x",
            "a/%2E%2e/b",
            "a%2fb",
            "a%5Cb",
            "%252e",
            "a%00",
            "a%0a",
        ] {
            assert!(ObjectName::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn reserved_names_are_only_ours() {
        for ours in ["manifest.json", "manifest.json/x", ".muster", ".muster/x"] {
            assert!(ObjectName::parse(ours).is_ok(), "{ours}");
            assert!(ObjectName::from_device(ours).is_err(), "{ours}");
        }
        assert!(ObjectName::from_device("logs/manifest.json").is_ok());
        assert_eq!(ObjectName::manifest(), ObjectName::parse(MANIFEST_NAME).unwrap());
    }

    #[test]
    fn limits_are_exact() {
        let segment = "s".repeat(MAX_SEGMENT_BYTES);
        assert!(ObjectName::parse(&segment).is_ok());
        assert!(ObjectName::parse(&format!("{segment}s")).is_err());
        assert!(ObjectName::parse(&vec!["a"; MAX_SEGMENTS].join("/")).is_ok());
        assert!(ObjectName::parse(&vec!["a"; MAX_SEGMENTS + 1].join("/")).is_err());
        let long = format!("{segment}/{segment}/{segment}/{}", "t".repeat(MAX_OBJECT_NAME_BYTES - 3 * 256));
        assert_eq!(long.len(), MAX_OBJECT_NAME_BYTES);
        assert!(ObjectName::parse(&long).is_ok());
        assert!(ObjectName::parse(&format!("{long}t")).is_err());
    }

    #[test]
    fn an_error_shows_a_bounded_escaped_text() {
        let error = ObjectName::parse(&format!("\n{}", "x".repeat(5000))).unwrap_err();
        assert!(error.to_string().len() < 300 && !error.to_string().contains('\n'), "{error}");
    }
}
