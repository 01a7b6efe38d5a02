//! Gzip objects: one member or many (devices append one per hundred lines), each with its checksum, and nothing after the last.

use std::io::{self, BufRead, BufReader, Read, Seek};

use flate2::bufread::GzDecoder;

use super::source::Source;
use super::{Condition, Depth, Fault, HEAD_BYTES, InspectLimits, json};

const MAGIC: [u8; 2] = [0x1f, 0x8b];
const BUFFER_BYTES: usize = 64 << 10;

/// Reads a gzip object; with `holds_json` its content must be JSON.
pub(super) fn read<R: Read + Seek>(
    source: &mut Source<R>,
    head: &[u8],
    holds_json: bool,
    limits: &InspectLimits,
) -> Result<Condition, Fault> {
    if !MAGIC.starts_with(&head[..head.len().min(2)]) {
        return Err(json::error_document(head, source.size())
            .unwrap_or_else(|| Fault::damaged("the name says gzip and the content is something else")));
    }
    let size = source.size();
    let most = match limits.depth {
        Depth::Full => limits.expanded_from(size),
        // Enough to see that it is gzip, and of what.
        Depth::Structure => HEAD_BYTES as u64,
    };
    let members = Members::new(BufReader::with_capacity(BUFFER_BYTES, source.range(0, size)?));
    let mut expanded = Expanded { members, head: Vec::new(), count: 0, most, end: None };
    let parsed = if holds_json && limits.depth == Depth::Full {
        let mut nesting = json::Nesting::new(&mut expanded);
        let parsed = json::parse(BufReader::with_capacity(BUFFER_BYTES, &mut nesting));
        if nesting.too_deep { Err(json::too_deep()) } else { parsed }
    } else {
        io::copy(&mut expanded, &mut io::sink()).map(|_| ()).map_err(|error| Fault::damaged(error.to_string()))
    };
    let Expanded { head, count, end, .. } = expanded;
    match end {
        Some(End::Limit) if limits.depth == Depth::Structure => Ok(Condition::Good),
        Some(End::Limit) => Err(Fault::hostile(format!("{size} bytes of gzip expand to more than {most}"))),
        Some(End::Broken(fault)) => Err(fault),
        None if count == 0 => Ok(Condition::Empty),
        None => {
            parsed?;
            if !holds_json {
                return Ok(Condition::Good);
            }
            json::lone_message(&head, count).map_or_else(|| Ok(json::condition(&head, count)), Err)
        }
    }
}

/// Why expanding stopped before the end.
enum End {
    Limit,
    Broken(Fault),
}

/// The expanded bytes: counted, bounded, the first of them kept.
struct Expanded<R: BufRead> {
    members: Members<R>,
    head: Vec<u8>,
    count: u64,
    most: u64,
    end: Option<End>,
}

impl<R: BufRead> Read for Expanded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = match self.members.read(buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) => {
                self.end = Some(End::Broken(match error.kind() {
                    io::ErrorKind::UnexpectedEof => {
                        Fault::truncated(format!("the gzip ends too early, after {} bytes of content", self.count))
                    }
                    _ => Fault::damaged(format!("the gzip is damaged after {} bytes of content: {error}", self.count)),
                }));
                return Err(error);
            }
        };
        self.head.extend(buffer[..count].iter().take(HEAD_BYTES - self.head.len()));
        self.count += count as u64;
        if self.count > self.most {
            self.end = Some(End::Limit);
            return Err(io::Error::other("expands beyond the limit"));
        }
        Ok(count)
    }
}

/// All members as one stream. Unlike the library's own, it refuses bytes after the last member.
struct Members<R: BufRead> {
    current: Option<GzDecoder<R>>,
}

impl<R: BufRead> Members<R> {
    fn new(reader: R) -> Self {
        Self { current: Some(GzDecoder::new(reader)) }
    }
}

impl<R: BufRead> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.current {
            let count = member.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            let Some(mut reader) = self.current.take().map(GzDecoder::into_inner) else { break };
            match reader.fill_buf()? {
                [] => {}
                rest if MAGIC.starts_with(&rest[..rest.len().min(2)]) => self.current = Some(GzDecoder::new(reader)),
                _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "something else follows the last member")),
            }
        }
        Ok(0)
    }
}
