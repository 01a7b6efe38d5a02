use std::time::{Duration, Instant};

use muster_wire::http::{MAX_CRON_BYTES, MissedPolicy, Window};
use time::OffsetDateTime;
use time::macros::datetime;

use super::*;

const OSLO: &str = "Europe/Oslo";

fn calendar(cron: &str, zone: &str) -> Calendar {
    Calendar::parse(cron, zone).unwrap_or_else(|error| panic!("{cron}: {error}"))
}

fn window(cron: &str, hours: u64, zone: &str) -> OpenTimes {
    OpenTimes::parse(&Window { cron: cron.to_owned(), length_seconds: hours * 3600, time_zone: zone.to_owned() }).expect("a window")
}

#[test]
fn it_follows_the_clock_on_the_wall_through_the_year() {
    let nightly = calendar("0 1 * * *", OSLO);
    assert_eq!(nightly.next_after(datetime!(2026-11-25 12:00 UTC)), Some(datetime!(2026-11-26 00:00 UTC)), "winter: one hour ahead of UTC");
    assert_eq!(nightly.next_after(datetime!(2026-07-01 12:00 UTC)), Some(datetime!(2026-07-01 23:00 UTC)), "summer: two");
    assert_eq!(nightly.last_until(datetime!(2026-11-26 00:00 UTC)), Some(datetime!(2026-11-26 00:00 UTC)), "this instant included");
    assert_eq!(nightly.words(datetime!(2026-11-26 00:00 UTC)), "2026-11-26 01:00 Europe/Oslo");
    assert_eq!(nightly.coming_words(datetime!(2026-11-25 12:00 UTC)), "2026-11-26 01:00, 2026-11-27 01:00, 2026-11-28 01:00 Europe/Oslo");
}

/// 29 March 2026: at 02:00 the clock in Oslo shows 03:00.
#[test]
fn an_hour_that_does_not_exist_comes_right_after_the_gap() {
    let at_half_past_two = calendar("30 2 * * *", OSLO);
    let times = at_half_past_two.coming(datetime!(2026-03-27 12:00 UTC), 3);
    assert_eq!(times, [datetime!(2026-03-28 01:30 UTC), datetime!(2026-03-29 01:00 UTC), datetime!(2026-03-30 00:30 UTC)]);
    let quarters = calendar("*/15 * * * *", OSLO);
    let times = quarters.coming(datetime!(2026-03-29 00:40 UTC), 3);
    assert_eq!(times, [datetime!(2026-03-29 00:45 UTC), datetime!(2026-03-29 01:00 UTC), datetime!(2026-03-29 01:15 UTC)]);
}

/// 25 October 2026: at 03:00 the clock in Oslo shows 02:00 once more.
#[test]
fn an_hour_that_comes_twice_counts_once() {
    let at_half_past_two = calendar("30 2 * * *", OSLO);
    let times = at_half_past_two.coming(datetime!(2026-10-24 12:00 UTC), 2);
    assert_eq!(times, [datetime!(2026-10-25 00:30 UTC), datetime!(2026-10-26 01:30 UTC)]);
    let hourly = calendar("0 * * * *", OSLO);
    let times = hourly.coming(datetime!(2026-10-24 23:30 UTC), 3);
    assert_eq!(times, [datetime!(2026-10-25 00:00 UTC), datetime!(2026-10-25 01:00 UTC), datetime!(2026-10-25 02:00 UTC)], "real hours");
}

#[test]
fn a_window_is_open_for_so_many_real_hours() {
    let nightly = window("0 1 * * *", 3, OSLO);
    let opening = |now| nightly.opening(now).expect("always one more");
    let closed = opening(datetime!(2026-11-25 12:00 UTC));
    assert_eq!(closed, Opening { from: datetime!(2026-11-26 00:00 UTC), until: datetime!(2026-11-26 03:00 UTC) });
    assert!(!closed.contains(datetime!(2026-11-25 12:00 UTC)));
    assert!(opening(datetime!(2026-11-26 00:00 UTC)).contains(datetime!(2026-11-26 00:00 UTC)), "open from the first instant");
    assert_eq!(opening(datetime!(2026-11-26 02:59:59 UTC)), closed);
    assert_eq!(opening(datetime!(2026-11-26 03:00 UTC)).from, datetime!(2026-11-27 00:00 UTC), "closed at the last");
    assert_eq!(nightly.words(datetime!(2026-11-25 12:00 UTC)), "opens 2026-11-26 01:00 Europe/Oslo");
    assert_eq!(nightly.words(datetime!(2026-11-26 01:00 UTC)), "open until 2026-11-26 04:00 Europe/Oslo");
    // The night of the leap has 01:00, 03:00, 04:00, and the night of the repeat 01:00, 02:00, 02:00, 03:00.
    assert_eq!(nightly.words(datetime!(2026-03-29 00:30 UTC)), "open until 2026-03-29 05:00 Europe/Oslo");
    assert_eq!(nightly.words(datetime!(2026-10-25 00:30 UTC)), "open until 2026-10-25 03:00 Europe/Oslo");
}

#[test]
fn openings_that_overlap_are_one() {
    let hourly = window("0 * * * *", 2, "UTC");
    let now = datetime!(2026-11-25 12:30 UTC);
    assert_eq!(hourly.opening(now), Some(Opening { from: datetime!(2026-11-25 12:00 UTC), until: datetime!(2026-11-25 14:00 UTC) }));
}

#[test]
fn nicknames_and_seconds_are_read() {
    let now = datetime!(2026-11-25 12:00 UTC);
    for (cron, next) in [
        ("@hourly", datetime!(2026-11-25 13:00 UTC)),
        ("@daily", datetime!(2026-11-26 00:00 UTC)),
        ("@weekly", datetime!(2026-11-29 00:00 UTC)),
        ("*/10 * * * * *", datetime!(2026-11-25 12:00:10 UTC)),
        ("0 6 * * MON-FRI", datetime!(2026-11-26 06:00 UTC)),
        ("0 0 29 2 *", datetime!(2028-02-29 00:00 UTC)),
        ("0 0 L * *", datetime!(2026-11-30 00:00 UTC)),
    ] {
        assert_eq!(calendar(cron, "UTC").next_after(now), Some(next), "{cron}");
    }
}

#[test]
fn what_cannot_be_used_is_named_with_the_reason() {
    let refused = |cron: &str, zone: &str| Calendar::parse(cron, zone).expect_err(cron);
    let began = Instant::now();
    assert_eq!(refused("0 0 30 2 *", "UTC"), InvalidCalendar::Never("0 0 30 2 *".to_owned()));
    assert_eq!(refused("0 0 31 4,6,9,11 *", OSLO).to_string(), "\"0 0 31 4,6,9,11 *\" never comes: no year has such a day");
    assert!(began.elapsed() < Duration::from_secs(5), "looking for a day that never comes ends soon: {:?}", began.elapsed());
    for cron in
        ["", "1", "* * * *", "60 * * * *", "* 24 * * *", "0 0 1 1 * 2030 *", "@reboot", "@now", "a b c d e", "0 0 1 13 *", "*/0 * * * *"]
    {
        let error = refused(cron, "UTC");
        assert!(matches!(error, InvalidCalendar::NotCron { .. }), "{cron}: {error:?}");
        assert!(error.to_string().contains("like '0 1 * * *'") && !error.is_time_zone(), "{error}");
    }
    assert!(Calendar::parse(&format!("0 0 * * {}", "1,".repeat(MAX_CRON_BYTES)), "UTC").is_err());
    assert_eq!(refused(&" ".repeat(MAX_CRON_BYTES + 1), "UTC"), InvalidCalendar::TooLong(MAX_CRON_BYTES + 1));
    for zone in ["", "Oslo", "CEST+2", "../etc/passwd", "Europe/Oslo "] {
        assert!(refused("@daily", zone).is_time_zone(), "{zone}");
    }
}

#[test]
fn a_schedule_runs_on_time_and_records_what_it_missed() {
    let nightly = calendar("0 1 * * *", "UTC");
    let at = datetime!(2026-11-26 01:00 UTC);
    let day = time::Duration::days(1);
    assert_eq!(due(&nightly, at, at - Duration::from_secs(1), MissedPolicy::Skip), None, "not yet");
    let on_time = |now: OffsetDateTime| due(&nightly, at, now, MissedPolicy::Skip).expect("due");
    assert_eq!(on_time(at), Due { run: Some(at), missed: Vec::new(), missed_before: 0, next: Some(at + day) });
    assert_eq!(on_time(at + RUN_GRACE).run, Some(at), "at the edge of the grace");
    let late = at + RUN_GRACE + Duration::from_secs(1);
    assert_eq!(on_time(late), Due { run: None, missed: vec![at], missed_before: 0, next: Some(at + day) });
    let caught_up = due(&nightly, at, late, MissedPolicy::RunLatest).expect("due");
    assert_eq!((caught_up.run, caught_up.missed.len()), (Some(at), 0), "late, and run all the same");
    // The controller was down for three days.
    let back = at + 3 * day + time::Duration::hours(5);
    assert_eq!(due(&nightly, at, back, MissedPolicy::RunLatest).expect("due").missed, [at, at + day, at + 2 * day]);
    assert_eq!(due(&nightly, at, back, MissedPolicy::Skip).expect("due").missed, [at, at + day, at + 2 * day, at + 3 * day]);
}

#[test]
fn however_long_it_was_away_the_record_is_bounded() {
    let every_second = calendar("* * * * * *", "UTC");
    let (at, now) = (datetime!(2026-01-01 00:00 UTC), datetime!(2026-12-01 00:00 UTC));
    let due = due(&every_second, at, now, MissedPolicy::RunLatest).expect("due");
    assert_eq!((due.run, due.missed.len()), (Some(now), MAX_MISSED_LISTED), "the latest is run, not one of January");
    assert!(due.missed_before > 20_000);
    assert_eq!(due.next, Some(now + Duration::from_secs(1)));
}
