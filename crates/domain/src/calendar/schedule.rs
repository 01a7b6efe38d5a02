//! Runs of a schedule: which are due, and which were missed.

use std::time::Duration;

use muster_wire::http::MissedPolicy;
use time::OffsetDateTime;

use super::Calendar;

/// A run that begins no later than this after its time is on time.
pub const RUN_GRACE: Duration = Duration::from_secs(300);
/// Most missed runs that are put on record one by one when a schedule comes back; the ones before are counted.
pub const MAX_MISSED_LISTED: usize = 100;
/// Most missed runs that are counted at all: two weeks of a schedule that runs every minute.
const MAX_MISSED_COUNTED: usize = 20_160;

/// What is due of a schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// The run to begin now, if any: the time it was due.
    pub run: Option<OffsetDateTime>,
    /// Runs that nobody began in time, oldest first; at most [`MAX_MISSED_LISTED`].
    pub missed: Vec<OffsetDateTime>,
    /// Missed runs before those.
    pub missed_before: u64,
    /// When the schedule is due next.
    pub next: Option<OffsetDateTime>,
}

/// What follows when a schedule that was due at `due_at` is looked at `now`; `None` when it is not due yet.
pub fn due(calendar: &Calendar, due_at: OffsetDateTime, now: OffsetDateTime, policy: MissedPolicy) -> Option<Due> {
    if due_at > now {
        return None;
    }
    let mut times: Vec<OffsetDateTime> = std::iter::successors(Some(due_at), |last| calendar.next_after(*last))
        .take_while(|at| *at <= now)
        .take(MAX_MISSED_COUNTED)
        .collect();
    // Of more than can be counted only the last matters.
    if times.len() == MAX_MISSED_COUNTED
        && let (Some(latest), Some(last)) = (calendar.last_until(now), times.last_mut())
    {
        *last = latest;
    }
    let latest = times.last().copied()?;
    let on_time = now - latest <= RUN_GRACE;
    let run = (on_time || policy == MissedPolicy::RunLatest).then_some(latest);
    if run.is_some() {
        times.pop();
    }
    let before = times.len().saturating_sub(MAX_MISSED_LISTED);
    Some(Due { run, missed: times.split_off(before), missed_before: before as u64, next: calendar.next_after(now) })
}
