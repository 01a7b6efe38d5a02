//! What selected lines look like in an answer or an object.

use std::borrow::Cow;

use super::filter::Kept;
use super::line::{self, Line};
use super::request::ContentType;
use super::timestamp::NO_TIMESTAMP;

/// Whose log it is; stands in every line of the JSON form.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// Full host name of the hub.
    pub iothub: &'a str,
    /// The device.
    pub device: &'a str,
    /// The module.
    pub module: &'a str,
}

/// Most blanks that are held back, in bytes; a log that begins with more of them keeps them, whatever follows.
pub const MAX_HELD_BLANK_BYTES: usize = 4 * 1024 * 1024;

/// Renders lines one by one into a buffer that the caller may empty between calls.
#[derive(Debug)]
pub struct Renderer {
    form: Form,
}

#[derive(Debug)]
enum Form {
    /// Blanks are held back until something else comes: a text of nothing but blanks is empty.
    Text {
        pending: Vec<u8>,
        begun: bool,
    },
    Json {
        prefix: Vec<u8>,
        lines: u64,
    },
}

impl Renderer {
    /// A renderer at the beginning of a module's log.
    pub fn new(content_type: ContentType, origin: Origin<'_>) -> Self {
        let form = match content_type {
            ContentType::Text => Form::Text { pending: Vec::new(), begun: false },
            ContentType::Json => {
                let mut prefix = Vec::new();
                for (name, value) in [("{\"iothub\":", origin.iothub), (",\"device\":", origin.device), (",\"id\":", origin.module)] {
                    prefix.extend_from_slice(name.as_bytes());
                    write_string(value, &mut prefix);
                }
                prefix.extend_from_slice(b",\"stream\":\"");
                Form::Json { prefix, lines: 0 }
            }
        };
        Self { form }
    }

    /// Appends a line.
    pub fn push(&mut self, kept: &Kept<'_>, out: &mut Vec<u8>) {
        match &mut self.form {
            Form::Text { pending, begun } => {
                let payload = kept.record.payload.as_ref();
                if !*begun && is_blank(payload) && pending.len() + payload.len() <= MAX_HELD_BLANK_BYTES {
                    pending.extend_from_slice(payload.as_bytes());
                    return;
                }
                *begun = true;
                out.append(pending);
                out.extend_from_slice(payload.as_bytes());
            }
            Form::Json { prefix, lines } => {
                out.push(if *lines == 0 { b'[' } else { b',' });
                *lines += 1;
                out.extend_from_slice(prefix);
                out.extend_from_slice(kept.record.stream.as_str().as_bytes());
                out.extend_from_slice(b"\",");
                match &kept.line {
                    Some(line) => write_line(line, out),
                    None => write_line(&line::parse_received(&kept.record.payload, kept.record.received_unix_nanos), out),
                }
            }
        }
    }

    /// Appends what belongs after the last line.
    pub fn finish(self, out: &mut Vec<u8>) {
        if let Form::Json { lines, .. } = self.form {
            out.extend_from_slice(if lines == 0 { b"[]" } else { b"]" });
        }
    }
}

fn write_line(line: &Line<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"\"loglevel\":");
    out.push(b'0' + line.level.min(9));
    out.extend_from_slice(b",\"text\":");
    write_string(&line.text, out);
    out.extend_from_slice(b",\"timestamp\":\"");
    match line.timestamp {
        Some(timestamp) => timestamp.write_json(out),
        None => out.extend_from_slice(NO_TIMESTAMP.as_bytes()),
    }
    out.extend_from_slice(b"\"}");
}

/// White space only. edgeAgent makes zero bytes of such a text, as a whole and, in text uploads, line by line.
pub fn is_blank(text: &str) -> bool {
    text.trim_start().is_empty()
}

/// The text of a payload that edgeAgent would write in a text upload.
pub(super) fn blank_to_nothing(text: &str) -> Cow<'_, str> {
    Cow::Borrowed(if is_blank(text) { "" } else { text })
}

/// A JSON string, escaped as edgeAgent's library does: the must-haves and the three line separators beyond ASCII.
fn write_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut plain_from = 0;
    let mut at = 0;
    while at < bytes.len() {
        let (length, escape): (usize, &[u8]) = match bytes[at] {
            b'"' => (1, b"\\\""),
            b'\\' => (1, b"\\\\"),
            b'\n' => (1, b"\\n"),
            b'\r' => (1, b"\\r"),
            b'\t' => (1, b"\\t"),
            0x08 => (1, b"\\b"),
            0x0c => (1, b"\\f"),
            0..=0x1f => (1, b""),
            0xc2 if bytes.get(at + 1) == Some(&0x85) => (2, b"\\u0085"),
            0xe2 if bytes.get(at + 1..at + 3) == Some(&[0x80, 0xa8]) => (3, b"\\u2028"),
            0xe2 if bytes.get(at + 1..at + 3) == Some(&[0x80, 0xa9]) => (3, b"\\u2029"),
            _ => {
                at += 1;
                continue;
            }
        };
        out.extend_from_slice(&bytes[plain_from..at]);
        if escape.is_empty() {
            const HEX: &[u8; 16] = b"0123456789abcdef";
            let byte = usize::from(bytes[at]);
            out.extend_from_slice(&[b'\\', b'u', b'0', b'0', HEX[byte >> 4], HEX[byte & 15]]);
        } else {
            out.extend_from_slice(escape);
        }
        at += length;
        plain_from = at;
    }
    out.extend_from_slice(&bytes[plain_from..]);
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::filter::Record;
    use super::super::frames::Stream;
    use super::*;

    const ORIGIN: Origin<'static> = Origin { iothub: "hub\"1", device: "dev1", module: "m" };

    fn text_of(payloads: &[&str]) -> String {
        let mut renderer = Renderer::new(ContentType::Text, ORIGIN);
        let mut out = Vec::new();
        for payload in payloads {
            let record = Record::new(Stream::Stdout, 0, payload.as_bytes());
            renderer.push(&Kept { record: &record, line: None }, &mut out);
        }
        renderer.finish(&mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn blanks_count_only_beside_something_else() {
        assert_eq!(text_of(&["\n", " \n"]), "");
        assert_eq!(text_of(&["\n", "a\n", "\n"]), "\na\n\n");
        assert_eq!(text_of(&[]), "");
        assert!(is_blank("\u{85}\u{2003}\r\n") && !is_blank("\0"));
    }

    #[test]
    fn a_log_of_endless_blanks_is_not_held_in_memory() {
        let line = " ".repeat(1023) + "\n";
        let record = Record::new(Stream::Stdout, 0, line.as_bytes());
        let mut renderer = Renderer::new(ContentType::Text, ORIGIN);
        let (mut out, mut written) = (Vec::new(), 0);
        for n in 1..=2 * MAX_HELD_BLANK_BYTES / line.len() {
            renderer.push(&Kept { record: &record, line: None }, &mut out);
            assert_eq!(out.is_empty(), n * line.len() <= MAX_HELD_BLANK_BYTES || written == n * line.len());
            written += out.len();
            out.clear();
        }
        renderer.finish(&mut out);
        assert_eq!(written, 2 * MAX_HELD_BLANK_BYTES);
    }

    #[test]
    fn members_stand_in_their_order() {
        let record = Record::new(Stream::Stderr, 1_000_000_000, b"<3> a\tb\n");
        let mut renderer = Renderer::new(ContentType::Json, ORIGIN);
        let mut out = Vec::new();
        renderer.push(&Kept { record: &record, line: None }, &mut out);
        renderer.finish(&mut out);
        assert_eq!(
            String::from_utf8(out).expect("text"),
            r#"[{"iothub":"hub\"1","device":"dev1","id":"m","stream":"stderr","loglevel":3,"text":"a\tb","timestamp":"1970-01-01T00:00:01+00:00"}]"#
        );
    }

    proptest! {
        #[test]
        fn strings_come_back(text in "(\\PC|[\0-\u{a0}]|\u{2028}|\u{2029}|â){0,40}") {
            let mut out = Vec::new();
            write_string(&text, &mut out);
            prop_assert!(out.is_ascii() || !text.is_ascii());
            prop_assert_eq!(serde_json::from_slice::<String>(&out).expect("JSON"), text);
        }
    }
}
