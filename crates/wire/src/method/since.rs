//! `since` and `until`: the time grammar of the management API behind edgeAgent.
//!
//! Three forms are tried in this order: RFC 3339 with a zone, signed 32-bit epoch seconds, and a sum of durations counted
//! back from now. The result must fit a signed 32-bit integer.
//!
//! The durations are read here and not by the `humantime` crate, which the real device uses: it does not say which of two
//! dialects a text needs, and a crafted sum of seconds makes it panic. The tests hold the two together.

use super::timestamp::Civil;

/// Longest text that is looked at, in bytes.
pub const MAX_TIME_BYTES: usize = 256;

/// Why a text is not a point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SinceError {
    /// Neither RFC 3339 nor epoch seconds nor a duration.
    #[error("not a time: expected RFC 3339 with a zone (2026-01-02T03:04:05Z), epoch seconds, or a duration such as 2h30m")]
    NoGrammar,
    /// A duration of more than 292 years.
    #[error("the duration is longer than 292 years")]
    DurationOverflow,
    /// Before 1901-12-13T20:45:52Z or after 2038-01-19T03:14:07Z.
    #[error("the time is outside 1901-12-13T20:45:52Z to 2038-01-19T03:14:07Z")]
    OutOfRange,
    /// Longer than [`MAX_TIME_BYTES`].
    #[error("the time is longer than {MAX_TIME_BYTES} bytes")]
    TooLong,
}

/// Which of the three forms a text has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grammar {
    /// RFC 3339.
    Rfc3339,
    /// Epoch seconds.
    Epoch,
    /// A duration before now.
    Duration,
}

/// A text that was understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instant {
    /// Unix seconds; fits a signed 32-bit integer.
    pub unix: i64,
    /// Its form.
    pub grammar: Grammar,
    /// Whether devices before 1.6 refuse it: decimals, `wk`, `yr`, `µs`, and a blank instead of the `T`.
    pub needs_1_6: bool,
}

/// Unix seconds of a `since` or `until`, as a device of today understands it.
pub fn parse(text: &str, now_unix_seconds: i64) -> Result<i64, SinceError> {
    read(text, now_unix_seconds).map(|instant| instant.unix)
}

/// As [`parse`], with the form and whether older devices take it.
pub fn read(text: &str, now_unix_seconds: i64) -> Result<Instant, SinceError> {
    if text.len() > MAX_TIME_BYTES {
        return Err(SinceError::TooLong);
    }
    if let Some((unix, blank)) = rfc3339(text) {
        return fit(i128::from(unix), Grammar::Rfc3339, blank);
    }
    if let Ok(unix) = text.parse::<i32>() {
        return fit(i128::from(unix), Grammar::Epoch, false);
    }
    let (nanos, needs_1_6) = duration(text)?;
    let nanos = i64::try_from(nanos).map_err(|_| SinceError::DurationOverflow)?;
    let instant = i128::from(now_unix_seconds) * 1_000_000_000 - i128::from(nanos);
    fit(instant.div_euclid(1_000_000_000), Grammar::Duration, needs_1_6)
}

/// Whether every version of IoT Edge reads the text alike, whatever the device's clock says: absolute, UTC, `T` and `Z`, whole seconds.
/// This is the only form a controller should send.
pub fn is_portable(text: &str) -> bool {
    text.len() == 20
        && text.as_bytes()[10] == b'T'
        && text.ends_with('Z')
        && rfc3339(text).is_some_and(|(unix, _)| i32::try_from(unix).is_ok())
}

/// The portable text of an instant; `None` if no device could read it back.
pub fn portable(unix_seconds: i64) -> Option<String> {
    i32::try_from(unix_seconds).ok()?;
    let mut out = Vec::new();
    super::timestamp::write_runtime_stamp(unix_seconds * 1_000_000_000, &mut out);
    out.truncate(19);
    out.push(b'Z');
    Some(String::from_utf8(out).expect("digits and punctuation"))
}

fn fit(unix: i128, grammar: Grammar, needs_1_6: bool) -> Result<Instant, SinceError> {
    let unix = i32::try_from(unix).map_err(|_| SinceError::OutOfRange)?;
    Ok(Instant { unix: i64::from(unix), grammar, needs_1_6 })
}

/// Unix seconds and whether a blank stood for the `T`.
fn rfc3339(text: &str) -> Option<(i64, bool)> {
    let bytes = text.as_bytes();
    let number = |from: usize, to: usize| -> Option<u32> {
        let digits = bytes.get(from..to)?;
        digits.iter().try_fold(0, |sum, digit| digit.is_ascii_digit().then(|| sum * 10 + u32::from(digit - b'0')))
    };
    let is = |at: usize, expected: u8| bytes.get(at) == Some(&expected);
    if !(is(4, b'-') && is(7, b'-') && is(13, b':') && is(16, b':')) {
        return None;
    }
    let separator = *bytes.get(10)?;
    if !matches!(separator, b'T' | b't' | b' ') {
        return None;
    }
    let second = number(17, 19)?;
    let civil = Civil {
        year: number(0, 4)?,
        month: number(5, 7)?,
        day: number(8, 10)?,
        hour: number(11, 13)?,
        minute: number(14, 16)?,
        // A leap second is the second before it.
        second: if second == 60 { 59 } else { second },
    };
    let mut rest = &text[19..];
    if let Some(fraction) = rest.strip_prefix('.') {
        let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 {
            return None;
        }
        rest = &fraction[digits..];
    }
    Some((civil.unix_seconds()? - zone_seconds(rest)?, separator == b' '))
}

fn zone_seconds(zone: &str) -> Option<i64> {
    if zone.eq_ignore_ascii_case("z") {
        return Some(0);
    }
    // U+2212 is the minus sign that RFC 3339's parent, ISO 8601, prefers; the device takes both.
    let (sign, digits) = match zone.strip_prefix('+') {
        Some(digits) => (1, digits),
        None => (-1, zone.strip_prefix('-').or_else(|| zone.strip_prefix('\u{2212}'))?),
    };
    let &[h1, h2, b':', m1, m2] = digits.as_bytes() else { return None };
    if ![h1, h2, m1, m2].iter().all(u8::is_ascii_digit) {
        return None;
    }
    let two = |tens: u8, ones: u8| i64::from(tens - b'0') * 10 + i64::from(ones - b'0');
    let (hours, minutes) = (two(h1, h2), two(m1, m2));
    (hours < 24 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60))
}

struct Unit {
    nanos: u64,
    /// Fractions are exact to a nanosecond below the hour, and to a second from the hour on.
    fraction_nanos: u64,
    needs_1_6: bool,
}

fn unit(word: &str) -> Option<Unit> {
    const SECOND: u64 = 1_000_000_000;
    let (nanos, new) = match word {
        "ns" | "nsec" | "nanos" => (1, false),
        "us" | "usec" => (1_000, false),
        "µs" => (1_000, true),
        "ms" | "msec" | "millis" => (1_000_000, false),
        "s" | "sec" | "secs" | "second" | "seconds" => (SECOND, false),
        "m" | "min" | "mins" | "minute" | "minutes" => (60 * SECOND, false),
        "h" | "hr" | "hrs" | "hour" | "hours" => (3_600 * SECOND, false),
        "d" | "day" | "days" => (86_400 * SECOND, false),
        "w" | "week" | "weeks" => (7 * 86_400 * SECOND, false),
        "wk" | "wks" => (7 * 86_400 * SECOND, true),
        "M" | "month" | "months" => (2_630_016 * SECOND, false),
        "y" | "year" | "years" => (31_557_600 * SECOND, false),
        "yr" | "yrs" => (31_557_600 * SECOND, true),
        _ => return None,
    };
    Some(Unit { nanos, fraction_nanos: if nanos >= 3_600 * SECOND { SECOND } else { 1 }, needs_1_6: new })
}

/// Largest number of whole seconds, or of units below a second, in one sum (64 bits on the device).
const MAX_COUNT: u128 = u64::MAX as u128;

/// Nanoseconds of a sum of `<number><unit>` terms and whether it needs 1.6.
fn duration(text: &str) -> Result<(u128, bool), SinceError> {
    const NONE: SinceError = SinceError::NoGrammar;
    let mut chars = text.chars().peekable();
    let (mut total, mut needs_1_6, mut terms) = (0_u128, false, 0_u32);
    let is_unit_char = |c: char| c.is_ascii_alphabetic() || c == 'µ';
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.peek().is_none() {
            break;
        }
        let mut whole: Option<u64> = None;
        while let Some(c) = chars.next_if(|c| c.is_ascii_digit() || (whole.is_some() && c.is_whitespace())) {
            if let Some(digit) = c.to_digit(10) {
                whole = Some(whole.unwrap_or(0).checked_mul(10).and_then(|n| n.checked_add(u64::from(digit))).ok_or(NONE)?);
            }
        }
        let whole = whole.ok_or(NONE)?;
        let mut fraction: Option<(u64, u64)> = None;
        if chars.next_if_eq(&'.').is_some() {
            let (mut numerator, mut denominator) = (0_u64, 1_u64);
            while let Some(c) = chars.next_if(|c| c.is_ascii_digit() || c.is_whitespace()) {
                if let Some(digit) = c.to_digit(10) {
                    denominator = denominator.checked_mul(10).ok_or(NONE)?;
                    numerator = numerator.checked_mul(10).and_then(|n| n.checked_add(u64::from(digit))).ok_or(NONE)?;
                }
            }
            if denominator == 1 {
                return Err(NONE);
            }
            fraction = Some((numerator, denominator));
            needs_1_6 = true;
        }
        let mut word = String::new();
        while let Some(c) = chars.next_if(|&c| is_unit_char(c)) {
            word.push(c);
        }
        let unit = unit(&word).ok_or(NONE)?;
        needs_1_6 |= unit.needs_1_6;
        let term = u128::from(whole) * u128::from(unit.nanos);
        // The device counts in 64 bits: seconds from the second on, nanoseconds below it.
        let counted = if unit.nanos >= 1_000_000_000 { term / 1_000_000_000 } else { term };
        if counted > MAX_COUNT {
            return Err(NONE);
        }
        total += term;
        if let Some((numerator, denominator)) = fraction {
            if unit.nanos == 1 {
                return Err(NONE);
            }
            let scaled = numerator.checked_mul(unit.nanos / unit.fraction_nanos).ok_or(NONE)?;
            if scaled % denominator != 0 {
                return Err(NONE);
            }
            total += u128::from(scaled / denominator) * u128::from(unit.fraction_nanos);
        }
        if total / 1_000_000_000 > MAX_COUNT {
            return Err(NONE);
        }
        terms += 1;
    }
    if terms == 0 { Err(NONE) } else { Ok((total, needs_1_6)) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: i64 = 1_767_225_600;

    #[test]
    fn a_year_does_not_make_sixty_four_bits_overflow() {
        // 31 557 600 s in nanoseconds still fits u64 as a unit; the product is taken in 128 bits.
        assert_eq!(parse("292y", NOW), Err(SinceError::OutOfRange));
        assert_eq!(parse("293y", NOW), Err(SinceError::DurationOverflow));
        assert_eq!(parse("18446744073709551615s", NOW), Err(SinceError::DurationOverflow));
        assert_eq!(parse("18446744073709551615s 1000ms", NOW), Err(SinceError::NoGrammar));
        assert_eq!(parse("18446744073709551616s", NOW), Err(SinceError::NoGrammar));
    }

    #[test]
    fn blanks_are_allowed_anywhere_but_inside_a_unit() {
        for text in ["1 0 s", " 10s", "10s\n", "1\u{2003}0 s", "10 s ", "5s 5 s"] {
            assert_eq!(parse(text, NOW), Ok(NOW - 10), "{text:?}");
        }
        assert_eq!(parse("1 . 5 h", NOW), Ok(NOW - 5400));
        for text in ["10 mi n", "1 d ay", "", " ", ".5h", "1.h", "1.5.5h", "1h.", "1 2", "µs"] {
            assert_eq!(parse(text, NOW), Err(SinceError::NoGrammar), "{text:?}");
        }
    }

    #[test]
    fn fractions_must_come_out_even() {
        assert_eq!(parse("0.5m", NOW), Ok(NOW - 30));
        assert_eq!(parse("1.3333h", NOW), Err(SinceError::NoGrammar));
        assert_eq!(parse("0.5ns", NOW), Err(SinceError::NoGrammar));
        assert_eq!(parse("0.5us", NOW), Ok(NOW - 1));
    }

    #[test]
    fn only_whole_utc_seconds_are_portable() {
        assert!(is_portable("2019-09-27T16:00:00Z"));
        for text in [
            "2019-09-27t16:00:00Z",
            "2019-09-27T16:00:00z",
            "2019-09-27T16:00:00.0Z",
            "2019-09-27 16:00:00Z",
            "1569600000",
            "2h",
            "2040-01-01T00:00:00Z",
            "",
        ] {
            assert!(!is_portable(text), "{text:?}");
        }
        assert_eq!(portable(1_569_600_000).as_deref(), Some("2019-09-27T16:00:00Z"));
        assert_eq!(portable(i64::from(i32::MAX) + 1), None);
        assert!(is_portable(&portable(i64::from(i32::MIN)).expect("the first second")));
    }

    #[test]
    fn zones() {
        for (text, unix) in [
            ("1970-01-01T00:00:00+23:59", -86_340),
            ("1970-01-01T00:00:00-23:59", 86_340),
            ("1970-01-01T01:00:00\u{2212}01:00", 7_200),
            ("1970-01-01T00:00:60Z", 59),
        ] {
            assert_eq!(parse(text, NOW), Ok(unix), "{text}");
        }
        for text in [
            "1970-01-01T00:00:00+24:00",
            "1970-01-01T00:00:00+01:60",
            "1970-01-01T00:00:00+1:00",
            "1970-01-01T00:00:00.Z",
            "1970-01-01T00:00:61Z",
            "+970-01-01T00:00:00Z",
        ] {
            assert_eq!(parse(text, NOW), Err(SinceError::NoGrammar), "{text}");
        }
        assert_eq!(parse(&"1s".repeat(MAX_TIME_BYTES), NOW), Err(SinceError::TooLong));
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,40}", now in any::<i64>()) {
            let _ = read(&text, now);
            is_portable(&text);
        }

        #[test]
        fn never_panics_near_the_grammar(text in "[0-9 .:+TZtz\\-dhmsMywkrnµu]{0,40}", now in any::<i64>()) {
            let _ = read(&text, now);
        }

        /// The crate the device uses is the oracle, away from the sums that make it panic.
        #[test]
        fn durations_agree_with_the_devices_crate(text in "([0-9]{1,9}(\\.[0-9]{1,3})?[ ]{0,2}(ns|nsec|nanos|us|usec|µs|ms|msec|millis|s|sec|secs|second|seconds|m|min|mins|minute|minutes|h|hr|hrs|hour|hours|d|day|days|w|week|weeks|wk|wks|M|month|months|y|year|years|yr|yrs|D|x|)[ ]{0,2}){0,4}") {
            let ours = duration(&text).ok().map(|(nanos, _)| nanos);
            let theirs = humantime::parse_duration(&text).ok().map(|d| d.as_nanos());
            prop_assert!(ours == theirs || text == "0", "{text:?}: {ours:?} against {theirs:?}");
        }
    }
}
