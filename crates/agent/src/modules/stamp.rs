//! The time a line of a file claims for itself. Files carry no time of receipt, so the line's own is the best there is.

use time::{Date, Month, OffsetDateTime, PrimitiveDateTime, Time, UtcOffset};

/// How far into a line a time is looked for.
const SEARCH_BYTES: usize = 80;

/// Nanoseconds since 1970 of the first time in the line, if there is one: `2026-11-21T01:20:00[.fff][Z|±hh:mm]`, the same with
/// a blank, or syslog's `Nov 21 01:20:00`, whose year is the last in which that day was not in the future. No zone means UTC.
pub(crate) fn of_line(line: &[u8], now: OffsetDateTime) -> Option<i64> {
    let head = &line[..line.len().min(SEARCH_BYTES)];
    let moment = iso(head).or_else(|| syslog(head, now))?;
    i64::try_from(moment.unix_timestamp_nanos()).ok()
}

fn number(bytes: &[u8]) -> Option<u32> {
    if bytes.is_empty() || !bytes.iter().all(u8::is_ascii_digit) {
        return None;
    }
    bytes.iter().try_fold(0_u32, |sum, digit| sum.checked_mul(10)?.checked_add(u32::from(digit - b'0')))
}

fn clock(bytes: &[u8]) -> Option<Time> {
    let part = |at: usize| number(bytes.get(at..at + 2)?).and_then(|n| u8::try_from(n).ok());
    (bytes.get(2) == Some(&b':') && bytes.get(5) == Some(&b':')).then_some(())?;
    Time::from_hms(part(0)?, part(3)?, part(6)?).ok()
}

fn iso(head: &[u8]) -> Option<OffsetDateTime> {
    for start in 0..head.len().saturating_sub(18) {
        let text = &head[start..];
        if start > 0 && head[start - 1].is_ascii_digit()
            || !text[0].is_ascii_digit()
            || text[4] != b'-'
            || text[7] != b'-'
            || !matches!(text[10], b'T' | b' ')
        {
            continue;
        }
        let read = || {
            let year = i32::try_from(number(&text[..4])?).ok()?;
            let month = Month::try_from(u8::try_from(number(&text[5..7])?).ok()?).ok()?;
            let date = Date::from_calendar_date(year, month, u8::try_from(number(&text[8..10])?).ok()?).ok()?;
            Some(PrimitiveDateTime::new(date, clock(&text[11..19])?))
        };
        if let Some(moment) = read() {
            let rest = &text[19..];
            let (nanos, rest) = fraction(rest);
            return Some((moment + time::Duration::nanoseconds(nanos)).assume_offset(zone(rest)));
        }
    }
    None
}

fn fraction(rest: &[u8]) -> (i64, &[u8]) {
    if !matches!(rest.first(), Some(b'.' | b',')) {
        return (0, rest);
    }
    let digits = rest[1..].iter().take_while(|c| c.is_ascii_digit()).count();
    let mut nanos = 0;
    for place in 0..9 {
        nanos = nanos * 10 + i64::from(rest.get(1 + place).filter(|_| place < digits).map_or(0, |digit| digit - b'0'));
    }
    (nanos, &rest[1 + digits..])
}

fn zone(rest: &[u8]) -> UtcOffset {
    let read = || {
        let rest = rest.strip_prefix(b" ").unwrap_or(rest);
        let sign = match rest.first()? {
            b'+' => 1,
            b'-' => -1,
            _ => return None,
        };
        let hours = i8::try_from(number(rest.get(1..3)?)?).ok()?;
        let minutes =
            rest.get(3..6).filter(|m| m[0] == b':').and_then(|m| number(&m[1..])).or_else(|| number(rest.get(3..5)?)).unwrap_or(0);
        UtcOffset::from_hms(sign * hours, sign * i8::try_from(minutes).ok()?, 0).ok()
    };
    read().unwrap_or(UtcOffset::UTC)
}

fn syslog(head: &[u8], now: OffsetDateTime) -> Option<OffsetDateTime> {
    const MONTHS: [&[u8]; 12] = [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];
    let month = MONTHS.iter().position(|name| head.starts_with(name))?;
    let month = Month::try_from(u8::try_from(month + 1).ok()?).ok()?;
    (head.get(3) == Some(&b' ') && head.get(6) == Some(&b' ')).then_some(())?;
    let day = u8::try_from(number(head.get(4..6)?.trim_ascii_start())?).ok()?;
    let at = clock(head.get(7..15)?)?;
    let in_year = |year| Some(PrimitiveDateTime::new(Date::from_calendar_date(year, month, day).ok()?, at).assume_utc());
    in_year(now.year()).filter(|moment| *moment <= now + time::Duration::DAY).or_else(|| in_year(now.year() - 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    fn of(line: &str) -> Option<OffsetDateTime> {
        of_line(line.as_bytes(), datetime!(2026-01-10 00:00 UTC))
            .map(|n| OffsetDateTime::from_unix_timestamp_nanos(n.into()).expect("in range"))
    }

    #[test]
    fn times_are_found_where_logs_put_them() {
        for (line, expected) in [
            ("2025-06-24 19:25:01 startup archives unpack", datetime!(2025-06-24 19:25:01 UTC)),
            ("2025-06-24T19:25:01.123456+02:00 host x", datetime!(2025-06-24 17:25:01.123456 UTC)),
            ("2025-06-24 19:25:01.5 UTC [12] LOG:  x", datetime!(2025-06-24 19:25:01.5 UTC)),
            ("2025-06-24 19:25:01,250 -0130 x", datetime!(2025-06-24 20:55:01.25 UTC)),
            ("update-alternatives 2025-06-24 19:25:01: run with", datetime!(2025-06-24 19:25:01 UTC)),
            ("<6> 2025-06-24 19:25:01.678 +00:00 [INF]", datetime!(2025-06-24 19:25:01.678 UTC)),
            ("Jan  9 01:02:03 host sshd[1]: x", datetime!(2026-01-09 01:02:03 UTC)),
            ("Dec 24 01:02:03 host sshd[1]: x", datetime!(2025-12-24 01:02:03 UTC)),
        ] {
            assert_eq!(of(line), Some(expected), "{line}");
        }
    }

    #[test]
    fn what_is_no_time_is_none_and_nothing_panics() {
        for line in [
            "",
            "x",
            "2025-13-24 19:25:01 x",
            "2025-06-24 25:25:01",
            "12025-06-24 19:25:01",
            "Jan 99 01:02:03",
            "Feb 30 01:02:03 x",
            "2025-06-24",
            "é2025-06-2",
        ] {
            assert_eq!(of(line), None, "{line}");
        }
        for length in 0..40 {
            of(&"2025-06-24T19:25:01.1234567891+02:30 more"[..length]);
            of(&"Jan  9 01:02:03"[..length.min(15)]);
        }
    }
}
