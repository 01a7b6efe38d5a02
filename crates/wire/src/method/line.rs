//! One log line: level, time and text, found the way edgeAgent finds them.
//!
//! In this order, each part optional, blanks in between skipped: the stamp of the container runtime at the very first byte, a
//! level `<d>`, the line's own stamp, and the rest of that line as text. If nothing is left, the text is the whole payload.

use std::borrow::Cow;

use super::timestamp::{Civil, RUNTIME_STAMP_BYTES, Timestamp, write_runtime_stamp};

/// Level of a line that names none.
pub const DEFAULT_LEVEL: u8 = 6;

/// Where the time of a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StampSource {
    /// The container runtime: when the line was received.
    Runtime,
    /// The line itself.
    Line,
    /// Nowhere.
    None,
}

/// A parsed line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line<'a> {
    /// 0 to 9; [`DEFAULT_LEVEL`] if the line names none.
    pub level: u8,
    /// What filters look at.
    pub text: Cow<'a, str>,
    /// When, if known.
    pub timestamp: Option<Timestamp>,
    /// Where `timestamp` came from.
    pub timestamp_from: StampSource,
}

/// Parses the payload of one frame, a runtime stamp at its beginning included.
pub fn parse(payload: &str) -> Line<'_> {
    let (runtime, start) = match runtime_stamp(payload) {
        Some(stamp) => (stamp, RUNTIME_STAMP_BYTES),
        None => (None, 0),
    };
    let mut line = parse_rest(&payload[start..], runtime);
    if line.text.is_empty() {
        line.text = Cow::Borrowed(payload);
    }
    line
}

/// Parses a payload as if the container runtime had put its stamp before it; `received_unix_nanos` is what the stamp would say.
/// The same as [`parse`] of stamp, blank and payload, without making that string for every line.
pub fn parse_received(payload: &str, received_unix_nanos: i64) -> Line<'_> {
    let mut line = parse_rest(payload, Some(Timestamp::from_unix_nanos(received_unix_nanos)));
    if line.text.is_empty() {
        let mut whole = Vec::with_capacity(RUNTIME_STAMP_BYTES + 1 + payload.len());
        write_runtime_stamp(received_unix_nanos, &mut whole);
        whole.push(b' ');
        whole.extend_from_slice(payload.as_bytes());
        line.text = Cow::Owned(String::from_utf8(whole).expect("a stamp and a string"));
    }
    line
}

fn parse_rest(payload: &str, runtime: Option<Timestamp>) -> Line<'_> {
    let mut rest = payload.trim_start();
    let mut level = DEFAULT_LEVEL;
    if let &[b'<', digit @ b'0'..=b'9', b'>', ..] = rest.as_bytes() {
        level = digit - b'0';
        rest = rest[3..].trim_start();
    }
    let mut own = None;
    if let Some((stamp, after)) = line_stamp(rest) {
        own = stamp;
        rest = after.trim_start();
    }
    let (timestamp, timestamp_from) = match (runtime, own) {
        (Some(stamp), _) => (Some(stamp), StampSource::Runtime),
        (None, Some(stamp)) => (Some(stamp), StampSource::Line),
        (None, None) => (None, StampSource::None),
    };
    let text = rest.split('\n').next().unwrap_or_default();
    Line { level, text: Cow::Borrowed(text), timestamp, timestamp_from }
}

/// `yyyy-MM-ddTHH:mm:ss.fffffffffZ` at the first byte: `None` if the shape is not there, `Some(None)` if it is no date.
fn runtime_stamp(payload: &str) -> Option<Option<Timestamp>> {
    let stamp = payload.as_bytes().first_chunk::<RUNTIME_STAMP_BYTES>()?;
    if stamp[10] != b'T' || stamp[19] != b'.' || stamp[29] != b'Z' {
        return None;
    }
    let mut cursor = Cursor(&payload[..RUNTIME_STAMP_BYTES]);
    let civil = cursor.civil(|c| c == 'T')?;
    cursor.one(|c| c == '.')?;
    let fraction = &stamp[20..29];
    fraction.iter().all(u8::is_ascii_digit).then(|| Timestamp::from_civil(civil, fraction, 0))
}

/// The line's own stamp and what follows the white space after it; the stamp is `None` if it has the shape and is no date.
fn line_stamp(text: &str) -> Option<(Option<Timestamp>, &str)> {
    if !text.as_bytes().first()?.is_ascii_digit() {
        return None;
    }
    let mut cursor = Cursor(text);
    let civil = cursor.civil(char::is_whitespace)?;
    let point = cursor.one(|c| c != '\n')?;
    let fraction = cursor.0.as_bytes().get(..3)?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    cursor.0 = &cursor.0[3..];
    cursor.one(char::is_whitespace)?;
    let sign = if cursor.one(|c| c == '+' || c == '-')? == '+' { 1 } else { -1 };
    let hours = cursor.number(2)?;
    cursor.one(|c| c == ':')?;
    let minutes = cursor.number(2)?;
    cursor.one(char::is_whitespace)?;
    let stamp =
        (point == '.' && minutes < 60).then(|| Timestamp::from_civil(civil, fraction, sign * i64::from(hours * 60 + minutes))).flatten();
    Some((stamp, cursor.0))
}

struct Cursor<'a>(&'a str);

impl Cursor<'_> {
    fn one(&mut self, accepts: impl Fn(char) -> bool) -> Option<char> {
        let mut chars = self.0.chars();
        let c = chars.next().filter(|&c| accepts(c))?;
        self.0 = chars.as_str();
        Some(c)
    }

    fn number(&mut self, digits: usize) -> Option<u32> {
        let mut value = 0;
        for &digit in self.0.as_bytes().get(..digits)? {
            value = value * 10 + char::from(digit).to_digit(10)?;
        }
        self.0 = &self.0[digits..];
        Some(value)
    }

    fn civil(&mut self, separator: impl Fn(char) -> bool) -> Option<Civil> {
        let year = self.number(4)?;
        self.one(|c| c == '-')?;
        let month = self.number(2)?;
        self.one(|c| c == '-')?;
        let day = self.number(2)?;
        self.one(separator)?;
        let hour = self.number(2)?;
        self.one(|c| c == ':')?;
        let minute = self.number(2)?;
        self.one(|c| c == ':')?;
        let second = self.number(2)?;
        Some(Civil { year, month, day, hour, minute, second })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_stamp_that_is_no_date_is_removed_and_yields_nothing() {
        let line = parse("2026-13-02T03:04:05.123456789Z text\n");
        assert_eq!((line.text.as_ref(), line.timestamp), ("text", None));
        let line = parse("<3> 2026-02-30 03:04:05.678 +00:00 text\n");
        assert_eq!((line.level, line.text.as_ref(), line.timestamp), (3, "text", None));
    }

    #[test]
    fn a_stamp_at_the_very_end_is_text() {
        assert_eq!(parse("2026-01-02 03:04:05.678 +00:00").text, "2026-01-02 03:04:05.678 +00:00");
    }

    #[test]
    fn the_character_before_the_fraction_can_be_anything() {
        for payload in ["2026-01-02 03:04:05:678 +00:00 x\n", "2026-01-02 03:04:05é678 +00:00 x\n", "2026-01-02 03:04:05Z678 +00:00 x\n"] {
            assert_eq!(parse(payload).text, "x", "{payload}");
        }
        assert_ne!(parse("2026-01-02 03:04:05\n678 +00:00 x\n").text, "x");
    }

    proptest! {
        #[test]
        fn never_panics(payload in "\\PC{0,80}") {
            parse(&payload);
        }

        #[test]
        fn the_short_cut_is_the_long_way(payload in "(<[0-9a]>)?[ \n]{0,2}(20[0-9]{2}-[01][0-9]-[0-3][0-9][ T][012][0-9]:[0-5][0-9]:[0-5][0-9][.,][0-9]{3}( [+-][01][0-9]:[0-9]{2}| Z)?)?[ \n\t]?[a-zé<> \r\n]{0,10}", nanos in any::<i64>()) {
            let mut long = Vec::new();
            write_runtime_stamp(nanos, &mut long);
            long.push(b' ');
            long.extend_from_slice(payload.as_bytes());
            let long = String::from_utf8(long).expect("text");
            prop_assert_eq!(parse_received(&payload, nanos), parse(&long));
        }
    }
}
