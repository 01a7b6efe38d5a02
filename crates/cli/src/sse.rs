//! Server-sent events, as far as the API uses them: named events with an id and data.

use bytes::{Buf as _, BytesMut};

/// Longest event, in bytes.
pub(crate) const MAX_EVENT_BYTES: usize = 1024 * 1024;

/// One event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Event {
    /// What it is called; `message` when it was not named.
    pub(crate) name: String,
    /// Where the stream stands after it.
    pub(crate) id: Option<String>,
    /// Its data; lines joined by newlines.
    pub(crate) data: String,
}

/// The stream cannot be read on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an event is larger than {MAX_EVENT_BYTES} bytes")]
pub(crate) struct TooLarge;

/// Puts events together from whatever pieces arrive.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    buffer: BytesMut,
    name: Option<String>,
    id: Option<String>,
    data: Option<String>,
    /// Bytes of the event under construction.
    size: usize,
}

impl Reader {
    /// Takes a piece and returns the events that are complete with it.
    pub(crate) fn feed(&mut self, piece: &[u8]) -> Result<Vec<Event>, TooLarge> {
        self.buffer.extend_from_slice(piece);
        let mut events = Vec::new();
        // A line ends with LF or CRLF; a lone CR is legal in the standard and sent by nobody.
        while let Some(end) = self.buffer.iter().position(|&byte| byte == b'\n') {
            let line = self.buffer.split_to(end);
            self.buffer.advance(1);
            self.size += line.len();
            if self.size > MAX_EVENT_BYTES {
                return Err(TooLarge);
            }
            let line = line.strip_suffix(b"\r").unwrap_or(&line);
            events.extend(self.line(&String::from_utf8_lossy(line)));
        }
        if self.buffer.len() > MAX_EVENT_BYTES { Err(TooLarge) } else { Ok(events) }
    }

    fn line(&mut self, line: &str) -> Option<Event> {
        if line.is_empty() {
            self.size = 0;
            let name = self.name.take();
            let data = self.data.take()?;
            return Some(Event { name: name.unwrap_or_else(|| "message".to_owned()), id: self.id.clone(), data });
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => self.name = Some(value.to_owned()),
            "id" => self.id = Some(value.to_owned()),
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            },
            // Comments keep the connection alive; `retry` is ours to decide.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str, id: Option<&str>, data: &str) -> Event {
        Event { name: name.into(), id: id.map(Into::into), data: data.into() }
    }

    #[test]
    fn events_are_the_same_however_they_are_cut() {
        let stream = b": hello\n\nevent: counters\r\nid: 7\r\ndata: {\"a\":1}\r\n\r\ndata: x\ndata:y\n\nid: 9\n\nevent: end\ndata\n\n";
        let expected = [event("counters", Some("7"), "{\"a\":1}"), event("message", Some("7"), "x\ny"), event("end", Some("9"), "")];
        for size in 1..=stream.len() {
            let mut reader = Reader::default();
            let events: Vec<Event> = stream.chunks(size).flat_map(|piece| reader.feed(piece).expect("small")).collect();
            assert_eq!(events, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut reader = Reader::default();
        assert_eq!(reader.feed(&vec![b'x'; MAX_EVENT_BYTES + 1]), Err(TooLarge));
        let mut reader = Reader::default();
        let line = format!("data: {}\n", "x".repeat(1000));
        let refused = (0..=MAX_EVENT_BYTES / 1000).any(|_| reader.feed(line.as_bytes()).is_err());
        assert!(refused);
    }
}
