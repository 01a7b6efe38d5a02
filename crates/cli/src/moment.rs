//! Instants and durations as people type them.
//!
//! "Two hours ago" stays relative up to the controller, which counts it by its own clock and sends every device the same absolute instant: the
//! same request typed again is the same request, and neither the clock on this desk nor the device's matters.

use std::time::Duration;

use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{Date, OffsetDateTime, PrimitiveDateTime, Time};

use crate::present::units::rfc3339_seconds;

/// Farthest a log window may reach back: ten years.
const MAX_BACK: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

/// What `--since` and `--until` accept.
pub(crate) const MOMENT_HELP: &str = "2h, \"90 min ago\", now, today, yesterday, 2026-01-31, \"2026-01-31 14:05\" (UTC) or RFC 3339";

/// A point in time, absolute or counted back from now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// This instant.
    At(OffsetDateTime),
    /// So long before now.
    Ago(Duration),
    /// Midnight UTC, so many days before today.
    Midnight {
        /// 0 is today.
        days_ago: u8,
    },
}

impl Moment {
    /// The instant it is by this machine's clock.
    pub(crate) fn instant(self, now: OffsetDateTime) -> OffsetDateTime {
        match self {
            Self::At(instant) => instant,
            Self::Ago(back) => now - back,
            Self::Midnight { days_ago } => {
                let today = now.to_offset(time::UtcOffset::UTC).replace_time(Time::MIDNIGHT);
                today - Duration::from_secs(u64::from(days_ago) * 24 * 3600)
            }
        }
    }

    /// As it stands in a request.
    pub(crate) fn request(self, now: OffsetDateTime) -> String {
        match self {
            Self::At(instant) => rfc3339_seconds(instant),
            Self::Ago(back) => format!("{}s", back.as_secs()),
            Self::Midnight { .. } => rfc3339_seconds(self.instant(now)),
        }
    }
}

/// Reads `--since` and `--until`.
///
/// # Errors
/// A sentence with the forms that are understood.
pub(crate) fn parse_moment(text: &str) -> Result<Moment, String> {
    let text = text.trim();
    match text.to_ascii_lowercase().as_str() {
        "now" => return Ok(Moment::Ago(Duration::ZERO)),
        "today" => return Ok(Moment::Midnight { days_ago: 0 }),
        "yesterday" => return Ok(Moment::Midnight { days_ago: 1 }),
        _ => {}
    }
    if let Ok(instant) = OffsetDateTime::parse(text, &Rfc3339) {
        return Ok(Moment::At(instant));
    }
    if let Some(instant) = parse_utc(text) {
        return Ok(Moment::At(instant));
    }
    let span = text.strip_suffix("ago").map_or(text, str::trim_end);
    match humantime::parse_duration(span) {
        Ok(back) if back <= MAX_BACK => Ok(Moment::Ago(back)),
        Ok(_) => Err("that is more than ten years ago".to_owned()),
        Err(_) => Err(format!("not a time; try {MOMENT_HELP}")),
    }
}

fn parse_utc(text: &str) -> Option<OffsetDateTime> {
    let minutes = format_description!("[year]-[month]-[day] [hour]:[minute]");
    let seconds = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");
    let day = format_description!("[year]-[month]-[day]");
    let spaced = text.replacen('T', " ", 1);
    PrimitiveDateTime::parse(&spaced, &seconds)
        .or_else(|_| PrimitiveDateTime::parse(&spaced, &minutes))
        .or_else(|_| Date::parse(&spaced, &day).map(|date| date.with_time(Time::MIDNIGHT)))
        .ok()
        .map(PrimitiveDateTime::assume_utc)
}

/// Reads `--timeout` and `--expires`: whole seconds, at least one.
///
/// # Errors
/// A sentence with an example.
pub(crate) fn parse_span(text: &str) -> Result<Duration, String> {
    let span = humantime::parse_duration(text.trim()).map_err(|_| "not a duration; try 30s, 10min, 2h or 1day".to_owned())?;
    let whole = Duration::from_secs(span.as_secs() + u64::from(span.subsec_nanos() > 0));
    if whole.is_zero() { Err("a duration is at least one second".to_owned()) } else { Ok(whole) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    const NOW: OffsetDateTime = datetime!(2026-03-01 12:30:45.5 UTC);

    fn at(text: &str) -> String {
        parse_moment(text).unwrap_or_else(|error| panic!("{text}: {error}")).request(NOW)
    }

    #[test]
    fn what_people_type() {
        let read = [
            ("2h", "7200s"),
            ("2h30m", "9000s"),
            ("90 min ago", "5400s"),
            ("1day", "86400s"),
            ("1500ms", "1s"),
            ("now", "0s"),
            ("Today", "2026-03-01T00:00:00Z"),
            ("yesterday", "2026-02-28T00:00:00Z"),
            ("2026-01-31", "2026-01-31T00:00:00Z"),
            ("2026-01-31 14:05", "2026-01-31T14:05:00Z"),
            ("2026-01-31T14:05:06", "2026-01-31T14:05:06Z"),
            ("2026-01-31T14:05:06.9+02:00", "2026-01-31T12:05:06Z"),
        ];
        for (text, expected) in read {
            assert_eq!(at(text), expected, "{text}");
            // What is sent is what the controller reads.
            assert!(muster_wire::method::since::parse(expected, NOW.unix_timestamp()).is_ok(), "{expected}");
        }
    }

    #[test]
    fn what_nobody_understands_says_what_is_understood() {
        for text in ["", "soon", "2", "-2h", "2026-13-01", "1e9", "PT2H", "99999999999999999999h"] {
            let error = parse_moment(text).expect_err(text);
            assert!(error.contains("2h") || error.contains("ten years"), "{text}: {error}");
        }
        assert!(parse_moment("11years").expect_err("too far").contains("ten years"));
    }

    #[test]
    fn spans() {
        assert_eq!(parse_span("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_span("1500ms"), Ok(Duration::from_secs(2)));
        assert!(parse_span("0s").is_err());
        assert!(parse_span("10").is_err());
    }
}
