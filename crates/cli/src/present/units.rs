//! Sizes, durations, counts and instants as people read them.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// `0 B`, `999 B`, `1.2 kB`, `34 MB`: decimal units, two digits below ten.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if count < 1000 {
        return format!("{count} B");
    }
    let mut value = count as f64;
    let mut unit = "B";
    for name in UNITS {
        value /= 1000.0;
        unit = name;
        // 999.5 would be shown as 1000.
        if value < 999.5 {
            break;
        }
    }
    if value < 9.95 { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") }
}

/// `12345` as `12,345`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 device`, `2 devices`.
pub(crate) fn counted(number: u64, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{} {noun}s", count(number)) }
}

/// `0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`, `4 d 3 h`.
pub(crate) fn duration(seconds: f64) -> String {
    let seconds = seconds.max(0.0);
    if seconds < 9.95 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    let two = |a: u64, ua: &str, b: u64, ub: &str| if b == 0 { format!("{a} {ua}") } else { format!("{a} {ua} {b} {ub}") };
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => two(whole / 60, "min", whole % 60, "s"),
        3600..86_400 => two(whole / 3600, "h", whole % 3600 / 60, "min"),
        _ => two(whole / 86_400, "d", whole % 86_400 / 3600, "h"),
    }
}

/// How long ago, or in how long.
pub(crate) fn relative(instant: OffsetDateTime, now: OffsetDateTime) -> String {
    let seconds = (now - instant).as_seconds_f64();
    if seconds.abs() < 1.0 {
        "now".to_owned()
    } else if seconds > 0.0 {
        format!("{} ago", duration(seconds.floor().max(1.0)).replace(".0 s", " s"))
    } else {
        format!("in {}", duration(-seconds).replace(".0 s", " s"))
    }
}

/// RFC 3339 in UTC, whole seconds: the only form every device version understands.
pub(crate) fn rfc3339_seconds(instant: OffsetDateTime) -> String {
    let utc = instant.to_offset(time::UtcOffset::UTC);
    let whole = utc.replace_nanosecond(0).expect("zero nanoseconds exist in every second");
    whole.format(&Rfc3339).expect("years of a log window have four digits")
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn sizes() {
        let shown: Vec<String> =
            [0, 999, 1000, 1234, 9_949, 9_960, 999_499, 999_500, 12_345_678, u64::MAX].into_iter().map(bytes).collect();
        assert_eq!(shown, ["0 B", "999 B", "1.0 kB", "1.2 kB", "9.9 kB", "10 kB", "999 kB", "1.0 MB", "12 MB", "18 EB"]);
    }

    #[test]
    fn counts() {
        assert_eq!([0, 12, 123, 1234, 1_234_567].map(count), ["0", "12", "123", "1,234", "1,234,567"]);
        assert_eq!([1, 2, 0].map(|n| counted(n, "device")), ["1 device", "2 devices", "0 devices"]);
    }

    #[test]
    fn durations() {
        let shown = [0.04, 1.26, 9.96, 59.4, 60.0, 200.0, 3600.0, 7500.0, 90_000.0, -3.0].map(duration);
        assert_eq!(shown, ["0.0 s", "1.3 s", "10 s", "59 s", "1 min", "3 min 20 s", "1 h", "2 h 5 min", "1 d 1 h", "0.0 s"]);
    }

    #[test]
    fn instants() {
        let now = datetime!(2026-01-01 12:00:00 UTC);
        assert_eq!(relative(datetime!(2026-01-01 11:58:00 UTC), now), "2 min ago");
        assert_eq!(relative(datetime!(2026-01-01 11:59:57 UTC), now), "3 s ago");
        assert_eq!(relative(now, now), "now");
        assert_eq!(relative(datetime!(2026-01-02 12:00:00 UTC), now), "in 1 d");
        assert_eq!(rfc3339_seconds(datetime!(2026-01-01 13:00:00.999 +01:00)), "2026-01-01T12:00:00Z");
    }
}
