//! What the landing zone says about the bytes it holds.

use std::fmt;
use std::io;
use std::ops::Range;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use time::OffsetDateTime;

use crate::error::LandingError;
use crate::name::ObjectName;

/// A SHA-256 digest; displays as lower-case hexadecimal, as `sha256sum` prints it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An object as listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboxObject {
    /// Its name.
    pub name: ObjectName,
    /// Its size.
    pub size_bytes: u64,
    /// When it was last written, by the storage's clock.
    pub modified_at: OffsetDateTime,
}

/// What is in an inbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboxListing {
    /// Whole objects, by name. What is still being uploaded is not among them.
    pub objects: Vec<InboxObject>,
    /// The inbox holds no object, and something of one: blocks that nobody committed.
    pub begun: bool,
    /// How many more there are whose names nobody may use; they are never read.
    pub refused_names: usize,
}

/// A copy the device cannot write any more, as the cloud saw it while copying.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedObject {
    /// Its name.
    pub name: ObjectName,
    /// Its size, counted.
    pub size_bytes: u64,
    /// Its digest, computed.
    pub sha256: Digest,
}

/// Bytes of a sealed object on their way out.
pub struct Download {
    /// Size of the whole object.
    pub total_bytes: u64,
    /// The bytes that follow, cut to the object's end.
    pub range: Range<u64>,
    /// The bytes.
    pub body: BoxStream<'static, io::Result<Bytes>>,
}

impl fmt::Debug for Download {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Download").field("total_bytes", &self.total_bytes).field("range", &self.range).finish_non_exhaustive()
    }
}

/// What a sweep removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SweepReport {
    /// Files and directories.
    pub removed: u64,
    /// Size of the files among them.
    pub removed_bytes: u64,
}

/// The part of an object that exists: an open end is the object's end, a start behind it is an error.
pub(crate) fn clamp(range: Option<Range<u64>>, size_bytes: u64) -> Result<Range<u64>, LandingError> {
    let Some(range) = range else { return Ok(0..size_bytes) };
    if range.start > range.end || range.start > size_bytes || (range.start == size_bytes && size_bytes > 0) {
        return Err(LandingError::RangeOutside { start: range.start, size_bytes });
    }
    Ok(range.start..range.end.min(size_bytes))
}
