//! The honest sum over a collection's tasks. The type crosses the wire ([`Counters`]); which state counts where is said here.

use muster_wire::TaskState;
pub use muster_wire::http::Counters;

/// Counts rows of (state, device known to be offline, number of tasks). `targeted` is what was targeted when the collection was
/// created, from its own column, so that [`adds_up`] can find a task that got lost.
pub fn tally(targeted: u64, rows: impl IntoIterator<Item = (TaskState, bool, u64)>) -> Counters {
    let mut counters = Counters { targeted, ..Counters::default() };
    for (state, offline, tasks) in rows {
        let counter = match state {
            TaskState::Queued if offline => &mut counters.waiting,
            TaskState::Queued => &mut counters.queued,
            TaskState::Dispatched => &mut counters.dispatched,
            TaskState::Accepted => &mut counters.accepted,
            TaskState::Uploaded => &mut counters.uploaded,
            TaskState::Verified => &mut counters.verified,
            TaskState::Refused => &mut counters.refused,
            TaskState::Failed => &mut counters.failed,
            TaskState::Expired => &mut counters.expired,
            TaskState::Cancelled => &mut counters.cancelled,
            TaskState::Skipped => &mut counters.skipped,
        };
        *counter += tasks;
    }
    counters
}

/// Whether every targeted task is counted exactly once.
pub fn adds_up(counters: &Counters) -> bool {
    counters.sum() == counters.targeted
}

/// Whether every task is in a final state.
pub fn finished(counters: &Counters) -> bool {
    counters.done() == counters.targeted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_is_counted_once_and_apart() {
        for (i, state) in TaskState::ALL.into_iter().enumerate() {
            for offline in [false, true] {
                let tasks = i as u64 + 1;
                let counters = tally(tasks, [(state, offline, tasks)]);
                assert!(adds_up(&counters), "{state}");
                assert_eq!(finished(&counters), state.is_final(), "{state}");
                assert_eq!(counters.waiting > 0, offline && state == TaskState::Queued, "{state}");
            }
        }
        let all = tally(20, TaskState::ALL.into_iter().flat_map(|state| [(state, false, 1), (state, true, 1)]));
        assert!(adds_up(&all));
        assert_eq!((all.waiting, all.queued, all.verified), (1, 1, 2));
    }

    #[test]
    fn a_lost_or_doubled_task_is_noticed() {
        assert!(!adds_up(&tally(3, [(TaskState::Queued, false, 2)])));
        assert!(!adds_up(&tally(3, [(TaskState::Queued, false, 2), (TaskState::Verified, false, 2)])));
        assert!(adds_up(&tally(0, [])));
    }
}
