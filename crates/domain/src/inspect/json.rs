//! JSON objects, parsed as a stream: well-formed to the last byte, without building a value.

use std::io::{self, BufReader, Read, Seek};

use muster_wire::Reason;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::source::Source;
use super::{Condition, Depth, Fault, HEAD_BYTES, InspectLimits, MAX_JSON_DEPTH, shown};

const BUFFER_BYTES: usize = 64 << 10;

/// Reads a JSON object.
pub(super) fn read<R: Read + Seek>(source: &mut Source<R>, head: &[u8], limits: &InspectLimits) -> Result<Condition, Fault> {
    if let Some(fault) = lone_message(head, source.size()) {
        return Err(fault);
    }
    if limits.depth == Depth::Full {
        let size = source.size();
        let mut nesting = Nesting::new(source.range(0, size)?);
        let parsed = parse(BufReader::with_capacity(BUFFER_BYTES, &mut nesting));
        if nesting.too_deep {
            return Err(too_deep());
        }
        parsed?;
    }
    Ok(condition(head, source.size()))
}

/// Whether a stream is one JSON value and nothing else.
pub(super) fn parse(reader: impl Read) -> Result<(), Fault> {
    serde_json::from_reader::<_, IgnoredAny>(reader).map(|_| ()).map_err(|error| {
        if error.is_eof() {
            Fault::truncated(format!("the JSON ends too early, at line {} column {}", error.line(), error.column()))
        } else {
            Fault::damaged(format!("not JSON, at line {} column {}", error.line(), error.column()))
        }
    })
}

/// What well-formed JSON is worth, from its first bytes and its whole length.
pub(super) fn condition(head: &[u8], size: u64) -> Condition {
    let nothing = [&b"[]"[..], b"{}", b"null", b"\"\""];
    let compact: Vec<u8> = head.iter().copied().filter(|c| !c.is_ascii_whitespace()).take(5).collect();
    let whole = size <= HEAD_BYTES as u64;
    if whole && nothing.contains(&compact.as_slice()) { Condition::Empty } else { Condition::Good }
}

/// The same as [`error_document`] where JSON is what was asked for: only a message and nothing beside it is an error.
pub(super) fn lone_message(head: &[u8], size: u64) -> Option<Fault> {
    let members: Map<String, Value> = serde_json::from_slice(head).ok()?;
    if members.len() == 1 { error_document(head, size) } else { None }
}

/// Recognises an error text that was stored under another kind's name: `{"message":"…"}` of a device, `<Error>…` of a storage.
pub(super) fn error_document(head: &[u8], size: u64) -> Option<Fault> {
    if size > HEAD_BYTES as u64 {
        return None;
    }
    let text = head.trim_ascii();
    if text.starts_with(b"<?xml") || text.starts_with(b"<Error>") {
        return Some(Fault::new(Reason::UploadErrorDocument, "an XML document is stored in place of the upload"));
    }
    let members: Map<String, Value> = serde_json::from_slice(text).ok()?;
    let message = ["message", "Message", "error"].iter().find_map(|name| members.get(*name)?.as_str())?;
    Some(Fault::new(Reason::UploadErrorDocument, format!("an error is stored in place of the upload: {}", shown(message))))
}

pub(super) fn too_deep() -> Fault {
    Fault::hostile(format!("the JSON is nested deeper than {MAX_JSON_DEPTH}"))
}

/// Watches the nesting of JSON on its way to the parser, which would keep a byte per level for as many levels as there are.
pub(super) struct Nesting<R> {
    inner: R,
    depth: usize,
    in_string: bool,
    escaped: bool,
    /// The bound was passed; the parser was told that reading failed.
    pub(super) too_deep: bool,
}

impl<R: Read> Nesting<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, depth: 0, in_string: false, escaped: false, too_deep: false }
    }

    fn see(&mut self, byte: u8) {
        match byte {
            _ if self.escaped => self.escaped = false,
            b'\\' if self.in_string => self.escaped = true,
            b'"' => self.in_string = !self.in_string,
            b'[' | b'{' if !self.in_string => self.depth += 1,
            b']' | b'}' if !self.in_string => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        self.too_deep |= self.depth > MAX_JSON_DEPTH;
    }
}

impl<R: Read> Read for Nesting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        for &byte in &buffer[..count] {
            self.see(byte);
            if self.too_deep {
                return Err(io::Error::other("nested too deep"));
            }
        }
        Ok(count)
    }
}
