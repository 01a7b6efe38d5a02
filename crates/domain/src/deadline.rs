//! When an attempt ends, when the controller gives it up, and when to ask how it goes.
//!
//! ```text
//! now ──────────────────────────► until ─────── GRACE ──────► give_up_at          task deadline
//!  │ request expiry, grant, device's time │ last bytes in flight │ next attempt may begin │
//! ```
//!
//! The request's expiry and the grant end together at `until`. The controller gives up [`GRACE`] later, so no second attempt begins
//! while the first one's grant still works.

use std::time::Duration;

use time::OffsetDateTime;

use crate::backoff::{self, Schedule};

/// Between the end of a grant and giving the attempt up: differing clocks, and bytes on their way.
pub const GRACE: Duration = Duration::from_secs(15);
/// An attempt that would have less time than this is not begun.
pub const MIN_ATTEMPT: Duration = Duration::from_secs(2);

/// The time of one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttemptWindow {
    /// End of the request's life and of the grant; what the device is told.
    pub until: OffsetDateTime,
    /// From here on the attempt has failed if nothing is there.
    pub give_up_at: OffsetDateTime,
    /// The task's deadline came before the attempt's own time was over.
    pub cut_by_deadline: bool,
}

/// The window of an attempt that begins now; `None` when the deadline of the task leaves less than [`MIN_ATTEMPT`].
pub fn attempt_window(now: OffsetDateTime, attempt_timeout: Duration, task_deadline: OffsetDateTime) -> Option<AttemptWindow> {
    let own_end = later(now, attempt_timeout.max(MIN_ATTEMPT));
    let until = own_end.min(task_deadline);
    if until < later(now, MIN_ATTEMPT) {
        return None;
    }
    Some(AttemptWindow { until, give_up_at: later(until, GRACE), cut_by_deadline: task_deadline < own_end })
}

/// Seconds for the request's message expiry: rounded down, so that a broker never delivers past `until`, and at least 1, because 0 would
/// mean "no expiry" to some.
pub fn message_expiry_seconds(now: OffsetDateTime, window: &AttemptWindow) -> u32 {
    u32::try_from((window.until - now).whole_seconds().max(1)).unwrap_or(u32::MAX)
}

/// When to ask with `GetTaskStatus` for the next time, after `asked` questions; `None` when the attempt is given up before that.
pub fn next_poll(schedule: &Schedule, asked: u32, now: OffsetDateTime, window: &AttemptWindow, random: f64) -> Option<OffsetDateTime> {
    let at = later(now, backoff::delay(schedule, asked.saturating_add(1), random));
    (at < window.give_up_at).then_some(at)
}

/// Time left until the deadline of the task; zero when it has passed.
pub fn time_left(now: OffsetDateTime, task_deadline: OffsetDateTime) -> Duration {
    Duration::try_from(task_deadline - now).unwrap_or(Duration::ZERO)
}

/// Saturating: a deadline from outside may lie at the end of the calendar.
fn later(at: OffsetDateTime, by: Duration) -> OffsetDateTime {
    time::Duration::try_from(by).map_or(END_OF_TIME, |by| at.checked_add(by).unwrap_or(END_OF_TIME))
}

const END_OF_TIME: OffsetDateTime = time::macros::datetime!(9999-12-31 23:59:59 UTC);

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    const NOW: OffsetDateTime = datetime!(2026-11-21 12:00:00 UTC);
    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn the_grant_ends_with_the_attempt_and_the_controller_gives_up_later() {
        let window = attempt_window(NOW, 10 * MINUTE, NOW + 60 * MINUTE).expect("there is time");
        assert_eq!(window.until, NOW + 10 * MINUTE);
        assert_eq!(window.give_up_at, NOW + 10 * MINUTE + GRACE);
        assert!(!window.cut_by_deadline);
        assert_eq!(message_expiry_seconds(NOW, &window), 600);
        assert_eq!(message_expiry_seconds(NOW + Duration::from_millis(500), &window), 599);
        assert_eq!(message_expiry_seconds(NOW + 11 * MINUTE, &window), 1);
    }

    #[test]
    fn the_deadline_of_the_task_cuts_an_attempt_short_or_prevents_it() {
        let window = attempt_window(NOW, 10 * MINUTE, NOW + 3 * MINUTE).expect("there is time");
        assert_eq!((window.until, window.cut_by_deadline), (NOW + 3 * MINUTE, true));
        assert!(attempt_window(NOW, 10 * MINUTE, NOW + MIN_ATTEMPT).is_some());
        assert!(attempt_window(NOW, 10 * MINUTE, NOW + MIN_ATTEMPT - Duration::from_millis(1)).is_none());
        assert!(attempt_window(NOW, 10 * MINUTE, NOW - MINUTE).is_none());
        let shortest = attempt_window(NOW, Duration::ZERO, NOW + MINUTE).expect("there is time");
        assert_eq!(shortest.until, NOW + MIN_ATTEMPT);
    }

    #[test]
    fn the_end_of_the_calendar_is_no_panic() {
        let window = attempt_window(NOW, Duration::MAX, END_OF_TIME).expect("there is time");
        assert_eq!(window.give_up_at, END_OF_TIME);
        assert_eq!(message_expiry_seconds(NOW, &window), u32::MAX);
        assert_eq!(time_left(END_OF_TIME, NOW), Duration::ZERO);
        assert_eq!(time_left(NOW, NOW + MINUTE), MINUTE);
    }

    #[test]
    fn questions_become_rarer_and_end_with_the_attempt() {
        let schedule = Schedule { first: Duration::from_secs(5), factor: 2.0, max: MINUTE, jitter_share: 0.2 };
        let window = attempt_window(NOW, 10 * MINUTE, NOW + 60 * MINUTE).expect("there is time");
        let (mut now, mut asked, mut before) = (NOW, 0, time::Duration::ZERO);
        while let Some(at) = next_poll(&schedule, asked, now, &window, 0.5) {
            assert!(at - now >= before, "a wait shrank");
            before = at - now;
            (now, asked) = (at, asked + 1);
            assert!(asked < 100, "the questions have no end");
        }
        assert!(now < window.give_up_at && window.give_up_at - now <= schedule.max);
        assert_eq!(asked, 12, "5 10 20 40 and then every minute");
    }
}
