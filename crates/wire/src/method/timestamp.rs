//! Instants of log lines, at the resolution edgeAgent has: 100 nanoseconds.

use time::{Date, Month};

/// 100-nanosecond ticks in a second.
pub const TICKS_PER_SECOND: i64 = 10_000_000;
/// How the JSON content type prints "no timestamp".
pub const NO_TIMESTAMP: &str = "0001-01-01T00:00:00";
/// Largest zone offset a stamp may carry, in minutes.
pub const MAX_OFFSET_MINUTES: i64 = 14 * 60;
/// Length of the stamp a container runtime puts before a line, without the blank after it.
pub const RUNTIME_STAMP_BYTES: usize = 30;

const UNIX_EPOCH_JULIAN_DAY: i64 = 2_440_588;
const MIN_TICKS: i64 = -62_135_596_800 * TICKS_PER_SECOND;
const MAX_TICKS: i64 = 253_402_300_800 * TICKS_PER_SECOND - 1;

/// An instant between the years 1 and 9999, in 100-nanosecond ticks since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// Date and time of day as they stand in a stamp, before anybody has looked whether they exist.
#[derive(Debug, Clone, Copy)]
pub(super) struct Civil {
    pub(super) year: u32,
    pub(super) month: u32,
    pub(super) day: u32,
    pub(super) hour: u32,
    pub(super) minute: u32,
    pub(super) second: u32,
}

impl Civil {
    /// Unix seconds if there is such a second; 60 is none.
    pub(super) fn unix_seconds(self) -> Option<i64> {
        if self.hour > 23 || self.minute > 59 || self.second > 59 {
            return None;
        }
        let month = Month::try_from(u8::try_from(self.month).ok()?).ok()?;
        let date = Date::from_calendar_date(i32::try_from(self.year).ok()?, month, u8::try_from(self.day).ok()?).ok()?;
        let days = i64::from(date.to_julian_day()) - UNIX_EPOCH_JULIAN_DAY;
        Some(days * 86_400 + i64::from(self.hour) * 3600 + i64::from(self.minute) * 60 + i64::from(self.second))
    }
}

impl Timestamp {
    /// From ticks since the epoch; `None` outside the years 1 to 9999.
    pub fn from_unix_ticks(ticks: i64) -> Option<Self> {
        (MIN_TICKS..=MAX_TICKS).contains(&ticks).then_some(Self(ticks))
    }

    /// From nanoseconds since the epoch, rounded as [`Self::from_unix_ticks`] would have read the nine-digit stamp.
    pub fn from_unix_nanos(nanos: i64) -> Self {
        let mut digits = [b'0'; 9];
        write_digits(&mut digits, nanos.rem_euclid(1_000_000_000));
        // i64 nanoseconds end in 2262, well inside the years 1 to 9999.
        Self(nanos.div_euclid(1_000_000_000) * TICKS_PER_SECOND + fraction_ticks(&digits))
    }

    pub(super) fn from_civil(civil: Civil, fraction_digits: &[u8], offset_minutes: i64) -> Option<Self> {
        if offset_minutes.abs() > MAX_OFFSET_MINUTES {
            return None;
        }
        Self::from_unix_ticks((civil.unix_seconds()? - offset_minutes * 60) * TICKS_PER_SECOND + fraction_ticks(fraction_digits))
    }

    /// Ticks since the epoch.
    pub fn unix_ticks(self) -> i64 {
        self.0
    }

    /// Appends the JSON form: at most seven fraction digits, trailing zeros dropped, offset `+00:00`.
    pub fn write_json(self, out: &mut Vec<u8>) {
        let seconds = self.0.div_euclid(TICKS_PER_SECOND);
        let mut fraction = [b'0'; 7];
        write_digits(&mut fraction, self.0.rem_euclid(TICKS_PER_SECOND));
        write_seconds(seconds, out);
        let used = fraction.iter().rposition(|&digit| digit != b'0').map_or(0, |last| last + 1);
        if used > 0 {
            out.push(b'.');
            out.extend_from_slice(&fraction[..used]);
        }
        out.extend_from_slice(b"+00:00");
    }

    /// The JSON form as text.
    pub fn to_json_text(self) -> String {
        let mut out = Vec::with_capacity(33);
        self.write_json(&mut out);
        String::from_utf8(out).expect("digits and punctuation")
    }
}

/// Appends the stamp of a container runtime: `2026-01-02T03:04:05.123456789Z`.
pub fn write_runtime_stamp(unix_nanos: i64, out: &mut Vec<u8>) {
    write_seconds(unix_nanos.div_euclid(1_000_000_000), out);
    let mut fraction = [b'0'; 9];
    write_digits(&mut fraction, unix_nanos.rem_euclid(1_000_000_000));
    out.push(b'.');
    out.extend_from_slice(&fraction);
    out.push(b'Z');
}

/// `yyyy-MM-ddTHH:mm:ss` of an instant that is known to lie between the years 1 and 9999.
fn write_seconds(unix_seconds: i64, out: &mut Vec<u8>) {
    let day = i32::try_from(unix_seconds.div_euclid(86_400) + UNIX_EPOCH_JULIAN_DAY).expect("a day between the years 1 and 9999");
    let (year, month, day) = Date::from_julian_day(day).expect("a day between the years 1 and 9999").to_calendar_date();
    let of_day = unix_seconds.rem_euclid(86_400);
    let mut text = *b"0000-00-00T00:00:00";
    write_digits(&mut text[0..4], i64::from(year));
    write_digits(&mut text[5..7], i64::from(u8::from(month)));
    write_digits(&mut text[8..10], i64::from(day));
    write_digits(&mut text[11..13], of_day / 3600);
    write_digits(&mut text[14..16], of_day / 60 % 60);
    write_digits(&mut text[17..19], of_day % 60);
    out.extend_from_slice(&text);
}

fn write_digits(place: &mut [u8], mut value: i64) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + u8::try_from(value % 10).expect("a digit of a positive number");
        value /= 10;
    }
}

/// Digits after the point to ticks, in the same floating point steps as the date reader of edgeAgent, so that halves round alike.
fn fraction_ticks(digits: &[u8]) -> i64 {
    let (mut sum, mut weight) = (0.0_f64, 0.1_f64);
    for &digit in digits {
        sum += f64::from(digit - b'0') * weight;
        weight *= 0.1;
    }
    (sum * 1e7).round_ties_even() as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_at_the_seventh_digit_and_carries() {
        let text = |nanos| Timestamp::from_unix_nanos(nanos).to_json_text();
        assert_eq!(text(0), "1970-01-01T00:00:00+00:00");
        assert_eq!(text(999_999_999), "1970-01-01T00:00:01+00:00");
        assert_eq!(text(123_456_789), "1970-01-01T00:00:00.1234568+00:00");
        assert_eq!(text(100_000_000), "1970-01-01T00:00:00.1+00:00");
        assert_eq!(text(-1), "1970-01-01T00:00:00+00:00");
        text(i64::MIN);
        text(i64::MAX);
    }

    #[test]
    fn dates_that_do_not_exist_are_no_timestamps() {
        let civil = Civil { year: 2026, month: 1, day: 2, hour: 3, minute: 4, second: 5 };
        assert!(Timestamp::from_civil(civil, b"678", 0).is_some());
        assert!(Timestamp::from_civil(civil, b"678", 14 * 60).is_some());
        assert!(Timestamp::from_civil(civil, b"678", 14 * 60 + 1).is_none());
        for wrong in [
            Civil { month: 13, ..civil },
            Civil { month: 0, ..civil },
            Civil { day: 32, ..civil },
            Civil { month: 2, day: 29, ..civil },
            Civil { hour: 24, ..civil },
            Civil { minute: 60, ..civil },
            Civil { second: 60, ..civil },
            Civil { year: 0, ..civil },
        ] {
            assert!(Timestamp::from_civil(wrong, b"678", 0).is_none(), "{wrong:?}");
        }
        let last = Civil { year: 9999, month: 12, day: 31, hour: 23, minute: 59, second: 59 };
        assert!(Timestamp::from_civil(last, b"999999999", 0).is_none(), "rounds into the year 10000");
    }

    #[test]
    fn runtime_stamp_has_nine_digits() {
        let mut out = Vec::new();
        write_runtime_stamp(1_767_225_620_500_000_000, &mut out);
        assert_eq!(out, b"2026-01-01T00:00:20.500000000Z");
        assert_eq!(out.len(), RUNTIME_STAMP_BYTES);
    }
}
