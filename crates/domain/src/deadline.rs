//! When an attempt ends, and when the controller gives it up.
//!
//! ```text
//! sent ─────────────────────────► until ──── grace ────► give_up_at             task deadline
//!  │ request expiry, grant, device's time │ last bytes in flight │ next attempt may begin │
//! ```
//!
//! The request's expiry and the grant end together at `until`. The controller gives up a grace later, for differing clocks and bytes on
//! their way, so no second attempt begins while the first one's grant still works.

use std::time::Duration;

use time::OffsetDateTime;

/// An attempt that would have less time than this is not begun.
pub const MIN_ATTEMPT: Duration = Duration::from_secs(2);

/// The time of one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttemptWindow {
    /// End of the request's life and of the grant; what the device is told.
    pub until: OffsetDateTime,
    /// From here on the attempt has failed if nothing is there.
    pub give_up_at: OffsetDateTime,
}

/// The window of an attempt that was sent at `sent_at`. The deadline of the task cuts it short.
pub fn attempt_window(sent_at: OffsetDateTime, attempt_timeout: Duration, task_deadline: OffsetDateTime, grace: Duration) -> AttemptWindow {
    let until = later(sent_at, attempt_timeout.max(MIN_ATTEMPT)).min(task_deadline);
    AttemptWindow { until, give_up_at: later(until, grace) }
}

/// Seconds for the request's message expiry: rounded down, so that a broker never delivers past `until`, and at least 1, because 0 would
/// mean "no expiry" to some.
pub fn message_expiry_seconds(now: OffsetDateTime, window: &AttemptWindow) -> u32 {
    u32::try_from((window.until - now).whole_seconds().max(1)).unwrap_or(u32::MAX)
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
    const GRACE: Duration = Duration::from_secs(3);

    #[test]
    fn the_grant_ends_with_the_attempt_and_the_controller_gives_up_later() {
        let window = attempt_window(NOW, 10 * MINUTE, NOW + 60 * MINUTE, GRACE);
        assert_eq!(window.until, NOW + 10 * MINUTE);
        assert_eq!(window.give_up_at, NOW + 10 * MINUTE + GRACE);
        assert_eq!(message_expiry_seconds(NOW, &window), 600);
        assert_eq!(message_expiry_seconds(NOW + Duration::from_millis(500), &window), 599);
        assert_eq!(message_expiry_seconds(NOW + 11 * MINUTE, &window), 1);
    }

    #[test]
    fn the_deadline_of_the_task_cuts_an_attempt_short() {
        assert_eq!(attempt_window(NOW, 10 * MINUTE, NOW + 3 * MINUTE, GRACE).until, NOW + 3 * MINUTE);
        assert_eq!(attempt_window(NOW, Duration::ZERO, NOW + MINUTE, GRACE).until, NOW + MIN_ATTEMPT);
    }

    #[test]
    fn the_end_of_the_calendar_is_no_panic() {
        let window = attempt_window(NOW, Duration::MAX, END_OF_TIME, GRACE);
        assert_eq!(window.give_up_at, END_OF_TIME);
        assert_eq!(message_expiry_seconds(NOW, &window), u32::MAX);
        assert_eq!(time_left(END_OF_TIME, NOW), Duration::ZERO);
        assert_eq!(time_left(NOW, NOW + MINUTE), MINUTE);
    }
}
