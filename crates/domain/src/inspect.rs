//! Reads one uploaded object and says what it is worth. Not a byte of it is trusted, nothing in it is followed, no entry is written
//! anywhere, and memory stays bounded whatever the object claims.
//!
//! The zip reader is our own: a library allocates for what the end record claims before it can be asked, keeps only the last of
//! two entries of one name, and cannot tell a cut archive from a wrong one. Inflating and checksums are a library's (`flate2`).

mod entry_name;
mod gzip;
mod json;
mod source;
mod zip;

#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod tests;

use std::io::{Read, Seek};

use muster_wire::Reason;
pub use muster_wire::http::{Depth, Missing, ObjectKind};

use source::Source;

/// Largest object that is looked into at all.
pub const MAX_OBJECT_BYTES: u64 = 8 << 30;
/// Most entries of a zip.
pub const MAX_ENTRIES: u64 = 100_000;
/// Largest central directory of a zip; it is held in memory while it is read.
pub const MAX_DIRECTORY_BYTES: u64 = 32 << 20;
/// Most bytes an archive may expand to, all entries together.
pub const MAX_EXPANDED_BYTES: u64 = 20 << 30;
/// Most bytes that may come of one stored byte, over the whole object.
pub const MAX_EXPANSION_RATIO: u64 = 200;
/// Below this much the ratio is not looked at: a small log of one repeated line is no bomb.
pub const RATIO_FREE_BYTES: u64 = 64 << 20;
/// Most entries listed in a finding.
pub const MAX_LISTED_ENTRIES: usize = 10_000;
/// Largest `manifest.json` of an agent that is read.
pub const MAX_AGENT_MANIFEST_BYTES: u64 = 256 << 10;
/// Most missing things told of one object.
pub const MAX_MISSING: usize = 1000;
/// Longest text taken from a device into a finding, in characters.
pub const MAX_TEXT_CHARS: usize = 300;
/// Deepest nesting of JSON.
pub const MAX_JSON_DEPTH: usize = 128;
/// First bytes of an object, looked at to recognise an error document or an empty value.
const HEAD_BYTES: usize = 16 << 10;

/// How far to look and where to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InspectLimits {
    /// [`Depth::Full`] expands everything and computes every checksum; [`Depth::Structure`] reads headers and directories only.
    pub depth: Depth,
    /// See [`MAX_OBJECT_BYTES`].
    pub object_bytes: u64,
    /// See [`MAX_ENTRIES`].
    pub entries: u64,
    /// See [`MAX_DIRECTORY_BYTES`].
    pub directory_bytes: u64,
    /// See [`MAX_EXPANDED_BYTES`].
    pub expanded_bytes: u64,
    /// See [`MAX_EXPANSION_RATIO`].
    pub expansion_ratio: u64,
    /// See [`RATIO_FREE_BYTES`].
    pub ratio_free_bytes: u64,
    /// See [`MAX_LISTED_ENTRIES`].
    pub listed_entries: usize,
}

impl Default for InspectLimits {
    fn default() -> Self {
        Self {
            depth: Depth::Full,
            object_bytes: MAX_OBJECT_BYTES,
            entries: MAX_ENTRIES,
            directory_bytes: MAX_DIRECTORY_BYTES,
            expanded_bytes: MAX_EXPANDED_BYTES,
            expansion_ratio: MAX_EXPANSION_RATIO,
            ratio_free_bytes: RATIO_FREE_BYTES,
            listed_entries: MAX_LISTED_ENTRIES,
        }
    }
}

impl InspectLimits {
    /// Most bytes an object of this size may expand to.
    fn expanded_from(&self, size: u64) -> u64 {
        size.saturating_mul(self.expansion_ratio).max(self.ratio_free_bytes).min(self.expanded_bytes)
    }
}

/// What one object turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectFinding {
    /// Its name, as the device gave it.
    pub name: String,
    /// Its size.
    pub size_bytes: u64,
    /// What it is, or claims to be by its name.
    pub kind: ObjectKind,
    /// How deep it was read.
    pub depth: Depth,
    /// Whether it is any good.
    pub condition: Condition,
    /// What a zip that could be read holds.
    pub zip: Option<ZipContents>,
}

impl ObjectFinding {
    /// Number of files inside, for a zip; the form of the manifest.
    pub fn entries(&self) -> Option<u32> {
        self.zip.as_ref().map(|zip| zip.files)
    }
}

/// Whether an object is any good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// Sound, as deep as it was read.
    Good,
    /// Sound, and holds nothing.
    Empty,
    /// Not sound.
    Bad(Fault),
}

/// What is wrong with an object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Fault {
    /// The reason code. [`Reason::LandingUnavailable`] says that we could not read, not that the object is wrong.
    pub reason: Reason,
    /// For a person: what and where.
    pub detail: String,
}

impl Fault {
    fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }

    fn damaged(detail: impl Into<String>) -> Self {
        Self::new(Reason::UploadDamaged, detail)
    }

    fn truncated(detail: impl Into<String>) -> Self {
        Self::new(Reason::UploadTruncated, detail)
    }

    fn hostile(detail: impl Into<String>) -> Self {
        Self::new(Reason::UploadUnsafe, detail)
    }
}

/// What a sound zip holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ZipContents {
    /// Files, directories not counted.
    pub files: u32,
    /// Bytes of all files, expanded.
    pub expanded_bytes: u64,
    /// The first entries; all of them unless [`ZipContents::listing_cut`].
    pub listed: Vec<ZipEntry>,
    /// There are more than are listed.
    pub listing_cut: bool,
    /// `check.json` is there and not empty.
    pub has_check: bool,
    /// Something under `logs/`, `inspect/` or `network/` that is not empty.
    pub has_diagnostics: bool,
    /// What the agent's own `manifest.json` calls missing; `None` when there is no such manifest.
    pub agent_missing: Option<Vec<Missing>>,
    /// What entries such as `inspect/edgeHub_err.json` stand in for.
    pub failed: Vec<Missing>,
}

/// One file in a zip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZipEntry {
    /// Path in the archive. Safe to show; never a path to write to.
    pub name: String,
    /// Bytes, expanded.
    pub size_bytes: u64,
}

/// Reads an object of `size` bytes. Never fails and never panics: what cannot be read is a [`Condition::Bad`] with its reason.
///
/// It blocks for as long as the reader does and the bytes take; call it off the async runtime.
pub fn inspect(name: &str, reader: impl Read + Seek, size: u64, limits: &InspectLimits) -> ObjectFinding {
    let mut source = Source::new(reader, size);
    let mut finding = ObjectFinding {
        name: name.to_owned(),
        size_bytes: size,
        kind: kind_by_name(name).unwrap_or(ObjectKind::Text),
        depth: limits.depth,
        condition: Condition::Good,
        zip: None,
    };
    finding.condition = match look(&mut source, &mut finding, limits) {
        Ok(condition) => condition,
        Err(fault) => Condition::Bad(fault),
    };
    // Decoders turn a failed read into their own errors; the storage's fault must never be blamed on the object.
    if let Some(error) = source.failure() {
        finding.condition = Condition::Bad(Fault::new(Reason::LandingUnavailable, format!("{name} could not be read: {error}")));
        finding.zip = None;
    }
    finding
}

fn look<R: Read + Seek>(source: &mut Source<R>, finding: &mut ObjectFinding, limits: &InspectLimits) -> Result<Condition, Fault> {
    let size = source.size();
    if size == 0 {
        return Ok(Condition::Empty);
    }
    if size > limits.object_bytes {
        let detail = format!("the object has {size} bytes, {} are allowed", limits.object_bytes);
        return Err(Fault::new(Reason::UploadTooLarge, detail));
    }
    let head = source.head(HEAD_BYTES)?;
    if kind_by_name(&finding.name).is_none() && zip::looks_like_one(&head) {
        finding.kind = ObjectKind::Zip;
    }
    match finding.kind {
        ObjectKind::Zip => {
            let contents = zip::read(source, &head, limits)?;
            let hollow = contents.files == 0 || contents.expanded_bytes == 0;
            finding.zip = Some(contents);
            Ok(if hollow { Condition::Empty } else { Condition::Good })
        }
        ObjectKind::Gzip => gzip::read(source, &head, holds_json(&finding.name), limits),
        ObjectKind::Json => json::read(source, &head, limits),
        ObjectKind::Text if size <= HEAD_BYTES as u64 && head.trim_ascii().is_empty() => Ok(Condition::Empty),
        ObjectKind::Text => Ok(Condition::Good),
    }
}

fn extension(name: &str) -> Option<&str> {
    let last = name.rsplit('/').next().unwrap_or(name);
    last.rsplit_once('.').map(|(_, extension)| extension)
}

/// `None` for a name that says nothing.
fn kind_by_name(name: &str) -> Option<ObjectKind> {
    match extension(name)?.to_ascii_lowercase().as_str() {
        "zip" => Some(ObjectKind::Zip),
        "gz" => Some(ObjectKind::Gzip),
        "json" => Some(ObjectKind::Json),
        "log" | "txt" => Some(ObjectKind::Text),
        _ => None,
    }
}

/// `….json.gz`.
fn holds_json(name: &str) -> bool {
    name.rsplit_once('.').and_then(|(inner, _)| extension(inner)).is_some_and(|inner| inner.eq_ignore_ascii_case("json"))
}

/// Text of a device, made fit to be shown: bounded, and without control characters.
fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(MAX_TEXT_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(MAX_TEXT_CHARS).is_some() {
        shown.push('…');
    }
    shown
}
