//! The transition table of a task, as data. Nothing else in the product decides which move is legal.

use muster_wire::{Reason, TaskState};

use TaskState::{Accepted, Cancelled, Dispatched, Expired, Failed, Queued, Refused, Skipped, Uploaded, Verified};

/// One legal move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    /// Where the task is.
    pub from: TaskState,
    /// Where it goes.
    pub to: TaskState,
    /// What makes it go there.
    pub because: &'static str,
}

const fn row(from: TaskState, to: TaskState, because: &'static str) -> Transition {
    Transition { from, to, because }
}

const CLAIMED: &str = "claimed for one attempt: owner, lease and attempt number are set in the same statement";
const NEVER_SENT: &str = "never to be sent: consent missing, method not supported, or device gone";
const ANSWERED: &str = "the device answered with a correlationId";
const LANDED: &str = "the device said so, or the objects were found in the inbox";
const JUDGED: &str = "the cloud read the objects and judged them";
const CAME_LATE: &str = "what the last attempt left or answered came after it was given up, and before the next one was sent";
const TRY_AGAIN: &str = "the attempt failed or ran out of time, the reason is retryable, and attempts remain";
const GAVE_UP: &str = "the attempt failed, and no attempt remains or the reason is not retryable";
const SAID_NO: &str = "the device said no in a way that a retry cannot change";
const TOO_LATE: &str = "the deadline of the task passed";
const CALLED_OFF: &str = "an engineer cancelled, the collection was aborted, or consent was withdrawn";

/// Every legal move.
pub const TRANSITIONS: &[Transition] = &[
    row(Queued, Dispatched, CLAIMED),
    row(Queued, Skipped, NEVER_SENT),
    row(Queued, Uploaded, CAME_LATE),
    row(Queued, Verified, CAME_LATE),
    row(Dispatched, Accepted, ANSWERED),
    row(Dispatched, Uploaded, LANDED),
    row(Accepted, Uploaded, LANDED),
    row(Uploaded, Verified, JUDGED),
    row(Dispatched, Verified, JUDGED),
    row(Dispatched, Queued, TRY_AGAIN),
    row(Accepted, Queued, TRY_AGAIN),
    row(Uploaded, Queued, TRY_AGAIN),
    row(Dispatched, Failed, GAVE_UP),
    row(Accepted, Failed, GAVE_UP),
    row(Uploaded, Failed, GAVE_UP),
    row(Dispatched, Refused, SAID_NO),
    row(Queued, Expired, TOO_LATE),
    row(Dispatched, Expired, TOO_LATE),
    row(Accepted, Expired, TOO_LATE),
    row(Queued, Cancelled, CALLED_OFF),
    row(Dispatched, Cancelled, CALLED_OFF),
    row(Accepted, Cancelled, CALLED_OFF),
    row(Uploaded, Cancelled, CALLED_OFF),
];

const STATES: usize = TaskState::ALL.len();

/// For each state, the states it may come from, padded, with the number that counts. Computed from [`TRANSITIONS`] when compiling.
const SOURCES: [([TaskState; STATES], usize); STATES] = {
    let mut table = [([Queued; STATES], 0); STATES];
    let mut i = 0;
    while i < TRANSITIONS.len() {
        let entry = &mut table[TRANSITIONS[i].to as usize];
        entry.0[entry.1] = TRANSITIONS[i].from;
        entry.1 += 1;
        i += 1;
    }
    table
};

/// The states a task may be in when it becomes `to`. A guarded update names exactly these.
pub fn sources(to: TaskState) -> &'static [TaskState] {
    let (states, count) = &SOURCES[to as usize];
    &states[..*count]
}

/// Whether the move is legal. No state may become itself.
pub fn may(from: TaskState, to: TaskState) -> bool {
    sources(to).contains(&from)
}

/// The reasons a task in this state may carry; empty for a state that is not final. A task that was queued again keeps the
/// reason of its last attempt, so this says nothing about those.
pub fn reasons(state: TaskState) -> &'static [Reason] {
    match state {
        Queued | Dispatched | Accepted | Uploaded => &[],
        Verified => &[Reason::Collected, Reason::CollectedPartial, Reason::Answered],
        Refused => &[Reason::RequestRefused, Reason::MethodUnsupported, Reason::ProtocolUnsupported],
        Failed => &[
            Reason::NoAnswer,
            Reason::DeviceError,
            Reason::AnswerMalformed,
            Reason::TaskLost,
            Reason::UploadFailed,
            Reason::UploadCancelled,
            Reason::UploadMissing,
            Reason::UploadUnfinished,
            Reason::UploadEmpty,
            Reason::UploadNotAZip,
            Reason::UploadTruncated,
            Reason::UploadDamaged,
            Reason::UploadErrorDocument,
            Reason::UploadTooLarge,
            Reason::UploadUnsafe,
            Reason::SasExpired,
            Reason::LandingUnavailable,
        ],
        Expired => &[Reason::DeadlinePassed, Reason::DeviceOffline],
        Cancelled => &[Reason::CancelledByUser, Reason::ConsentMissing, Reason::Aborted],
        Skipped => &[Reason::ConsentMissing, Reason::MethodUnsupported, Reason::ProtocolUnsupported, Reason::DeviceUnknown],
    }
}

/// Whether another attempt can end differently. An archive that is too large or unsafe is made by the device's present state:
/// asking again moves the same bytes once more.
pub fn retryable(reason: Reason) -> bool {
    reasons(Failed).contains(&reason) && !matches!(reason, Reason::UploadTooLarge | Reason::UploadUnsafe)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn the_table_is_the_one_of_the_design() {
        let expected: &[(TaskState, &[TaskState])] = &[
            (Queued, &[Dispatched, Accepted, Uploaded]),
            (Dispatched, &[Queued]),
            (Accepted, &[Dispatched]),
            (Uploaded, &[Queued, Dispatched, Accepted]),
            (Verified, &[Queued, Uploaded, Dispatched]),
            (Refused, &[Dispatched]),
            (Failed, &[Dispatched, Accepted, Uploaded]),
            (Expired, &[Queued, Dispatched, Accepted]),
            (Cancelled, &[Queued, Dispatched, Accepted, Uploaded]),
            (Skipped, &[Queued]),
        ];
        assert_eq!(expected.len(), STATES);
        for (to, from) in expected {
            assert_eq!(sources(*to), *from, "{to}");
        }
    }

    #[test]
    fn nothing_leaves_a_final_state_and_nothing_stands_still() {
        for from in TaskState::ALL {
            let leaves = TaskState::ALL.iter().any(|&to| may(from, to));
            assert_eq!(leaves, !from.is_final(), "{from}");
            assert!(!may(from, from), "{from}");
        }
    }

    #[test]
    fn no_row_twice_and_every_state_reached_from_queued() {
        let rows: HashSet<_> = TRANSITIONS.iter().map(|t| (t.from, t.to)).collect();
        assert_eq!(rows.len(), TRANSITIONS.len());
        for t in TRANSITIONS {
            assert!(may(t.from, t.to) && !t.because.is_empty());
        }
        let mut reached = HashSet::from([Queued]);
        for _ in 0..STATES {
            let next: Vec<_> = TRANSITIONS.iter().filter(|t| reached.contains(&t.from)).map(|t| t.to).collect();
            reached.extend(next);
        }
        assert_eq!(reached.len(), STATES);
    }

    #[test]
    fn every_final_state_has_reasons_and_every_reason_a_final_state() {
        for state in TaskState::ALL {
            assert_eq!(reasons(state).is_empty(), !state.is_final(), "{state}");
        }
        for &reason in Reason::ALL {
            assert!(TaskState::ALL.iter().any(|&state| reasons(state).contains(&reason)), "{reason} ends nothing");
        }
        assert!(retryable(Reason::UploadTruncated) && retryable(Reason::DeviceError));
        for reason in [Reason::UploadTooLarge, Reason::UploadUnsafe, Reason::Collected, Reason::CancelledByUser, Reason::MethodUnsupported]
        {
            assert!(!retryable(reason), "{reason}");
        }
    }
}
