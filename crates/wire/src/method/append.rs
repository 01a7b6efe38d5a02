//! How a text upload is cut into the writes of an append blob, as pure planning.
//!
//! edgeAgent makes one write per line, or one gzip member per 100 lines, so a long log hits the limit of writes, and a blank
//! line becomes a write of nothing, which the blob service refuses. Our own style writes chunks and keeps blank lines; a reader
//! sees the same log.

use super::gzip;
use super::render::blank_to_nothing;
use super::request::Encoding;

/// Most writes an append blob takes.
pub const MAX_APPENDS: usize = 50_000;
/// Most bytes in one write.
pub const MAX_APPEND_BYTES: usize = 4 * 1024 * 1024;
/// Lines in one gzip member of edgeAgent.
pub const GROUP_LINES: usize = 100;
/// Longest time edgeAgent lets a gzip member wait for its lines, in seconds.
pub const GROUP_SECONDS: u64 = 10;
/// Text in one write of our own style, in bytes before packing.
pub const CHUNK_BYTES: usize = 1024 * 1024;

/// How writes are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppendStyle {
    /// As edgeAgent does, to the quirk.
    LikeIotEdge,
    /// Chunks of [`CHUNK_BYTES`], blank lines kept.
    Chunks,
}

/// Why the upload cannot go on. What was written stays in the blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// A write of nothing, which the blob service refuses.
    #[error("a blank line makes an empty append, which the blob service refuses; use encoding gzip")]
    Empty,
    /// Over [`MAX_APPENDS`].
    #[error("the log takes more than {MAX_APPENDS} appends; use encoding gzip or contentType json")]
    TooMany,
}

/// Cuts lines into writes. The blob itself is created first, even if nothing follows.
#[derive(Debug)]
pub struct AppendPlan {
    encoding: Encoding,
    style: AppendStyle,
    pending: Vec<u8>,
    pending_lines: usize,
    appends: usize,
}

impl AppendPlan {
    /// Nothing written yet.
    pub fn new(encoding: Encoding, style: AppendStyle) -> Self {
        Self { encoding, style, pending: Vec::new(), pending_lines: 0, appends: 0 }
    }

    /// How many writes have been handed out.
    pub fn appends(&self) -> usize {
        self.appends
    }

    /// Takes a line with its newline; gives the writes that are due now, none of them over [`MAX_APPEND_BYTES`].
    pub fn push(&mut self, payload: &str) -> Result<Vec<Vec<u8>>, AppendError> {
        match (self.style, self.encoding) {
            (AppendStyle::LikeIotEdge, Encoding::None) => {
                let line = blank_to_nothing(payload);
                if line.is_empty() {
                    return Err(AppendError::Empty);
                }
                line.as_bytes().chunks(MAX_APPEND_BYTES).map(|piece| self.write(piece.to_vec())).collect()
            }
            (AppendStyle::LikeIotEdge, Encoding::Gzip) => {
                self.pending.extend_from_slice(blank_to_nothing(payload).as_bytes());
                self.pending_lines += 1;
                if self.pending_lines >= GROUP_LINES { self.flush() } else { Ok(Vec::new()) }
            }
            (AppendStyle::Chunks, _) => {
                self.pending.extend_from_slice(payload.as_bytes());
                self.pending_lines += 1;
                if self.pending.len() >= CHUNK_BYTES { self.flush() } else { Ok(Vec::new()) }
            }
        }
    }

    /// What waits is due now: the log has ended, or [`GROUP_SECONDS`] have passed.
    pub fn flush(&mut self) -> Result<Vec<Vec<u8>>, AppendError> {
        if self.pending_lines == 0 {
            return Ok(Vec::new());
        }
        self.pending_lines = 0;
        let pending = std::mem::take(&mut self.pending);
        match self.encoding {
            Encoding::None => pending.chunks(MAX_APPEND_BYTES).map(|piece| self.write(piece.to_vec())).collect(),
            Encoding::Gzip => gzip::compress(&pending).chunks(MAX_APPEND_BYTES).map(|piece| self.write(piece.to_vec())).collect(),
        }
    }

    fn write(&mut self, bytes: Vec<u8>) -> Result<Vec<u8>, AppendError> {
        if self.appends >= MAX_APPENDS {
            return Err(AppendError::TooMany);
        }
        self.appends += 1;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(encoding: Encoding, style: AppendStyle, lines: impl IntoIterator<Item = String>) -> Result<Vec<Vec<u8>>, AppendError> {
        let mut plan = AppendPlan::new(encoding, style);
        let mut writes = Vec::new();
        for line in lines {
            writes.extend(plan.push(&line)?);
        }
        writes.extend(plan.flush()?);
        assert_eq!(plan.appends(), writes.len());
        Ok(writes)
    }

    #[test]
    fn chunks_keep_blank_lines_and_need_few_writes() {
        let lines = || (0..50_001).map(|n| if n % 2 == 0 { "\n".to_owned() } else { "0123456789".repeat(10) + "\n" });
        let expected: String = lines().collect();
        let plain = all(Encoding::None, AppendStyle::Chunks, lines()).expect("few writes");
        assert_eq!(plain.concat(), expected.as_bytes());
        assert_eq!(plain.len(), expected.len().div_ceil(CHUNK_BYTES));
        let packed = all(Encoding::Gzip, AppendStyle::Chunks, lines()).expect("few writes");
        assert_eq!(gzip::decompress(&packed.concat(), expected.len()).expect("gzip"), expected.as_bytes());
    }

    #[test]
    fn no_write_is_larger_than_the_service_takes() {
        for style in [AppendStyle::LikeIotEdge, AppendStyle::Chunks] {
            let writes = all(Encoding::None, style, ["x".repeat(2 * MAX_APPEND_BYTES + 1)]).expect("three writes");
            assert_eq!(writes.iter().map(Vec::len).collect::<Vec<_>>(), [MAX_APPEND_BYTES, MAX_APPEND_BYTES, 1]);
        }
    }

    #[test]
    fn only_the_quirk_stumbles_over_blank_lines() {
        let lines = || ["a\n".to_owned(), " \n".to_owned()];
        assert_eq!(all(Encoding::None, AppendStyle::LikeIotEdge, lines()), Err(AppendError::Empty));
        assert_eq!(all(Encoding::None, AppendStyle::Chunks, lines()), Ok(vec![b"a\n \n".to_vec()]));
    }
}
