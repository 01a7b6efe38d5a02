//! When a collection repeats a failed attempt: by its own schedule where it has one, by the controller's back-off otherwise.

use std::time::Duration;

use muster_wire::Reason;
use muster_wire::http::Retry;

use crate::backoff::{self, Schedule};
use crate::task;

/// A set of reasons, small enough to copy: the numbers of all reasons are below 128.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reasons(u128);

impl Reasons {
    /// Every reason.
    pub const EVERY: Self = Self(u128::MAX);

    /// These.
    pub fn of(reasons: &[Reason]) -> Self {
        Self(reasons.iter().fold(0, |set, reason| set | bit(*reason)))
    }

    /// Whether it is among them.
    pub fn contains(self, reason: Reason) -> bool {
        self.0 & bit(reason) != 0
    }
}

fn bit(reason: Reason) -> u128 {
    u32::try_from(reason.code()).ok().and_then(|code| 1u128.checked_shl(code)).unwrap_or(0)
}

/// The reasons for which attempts of a collection are repeated: those it names, or every one that a repeat can change.
pub fn reasons(retry: Option<&Retry>) -> Reasons {
    match retry {
        Some(retry) if !retry.reasons.is_empty() => Reasons::of(&retry.reasons),
        _ => Reasons::EVERY,
    }
}

/// The wait after attempt number `attempt` (from 1). The waits of a collection are kept to the second: whoever names them means them.
pub fn wait(retry: Option<&Retry>, schedule: &Schedule, attempt: u8, random: f64) -> Duration {
    let waits = retry.map_or(&[][..], |retry| &retry.waits_seconds);
    let named = waits.get(usize::from(attempt.saturating_sub(1))).or_else(|| waits.last());
    named.map_or_else(|| backoff::delay(schedule, u32::from(attempt), random), |seconds| Duration::from_secs(*seconds))
}

/// Whether a repeat can change how an attempt ends that ended like this.
pub fn can_help(reason: Reason) -> bool {
    task::retryable(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_place_in_the_set() {
        for &reason in Reason::ALL {
            assert!(Reasons::EVERY.contains(reason) && Reasons::of(&[reason]).contains(reason), "{reason}");
            assert!(!Reasons::of(&[]).contains(reason), "{reason}");
            let others: Vec<Reason> = Reason::ALL.iter().copied().filter(|other| *other != reason).collect();
            assert!(!Reasons::of(&others).contains(reason), "{reason}");
        }
    }

    #[test]
    fn named_waits_hold_and_the_last_repeats() {
        let retry = Retry { reasons: vec![Reason::NoAnswer], waits_seconds: vec![60, 300, 1800] };
        let waits: Vec<u64> = (1..=5).map(|attempt| wait(Some(&retry), &Schedule::default(), attempt, 0.9).as_secs()).collect();
        assert_eq!(waits, [60, 300, 1800, 1800, 1800]);
        assert!(reasons(Some(&retry)).contains(Reason::NoAnswer) && !reasons(Some(&retry)).contains(Reason::DeviceError));
    }

    #[test]
    fn without_waits_the_back_off_decides() {
        let plain = Schedule { jitter_share: 0.0, ..Schedule::default() };
        let only_reasons = Retry { reasons: vec![Reason::NoAnswer], waits_seconds: Vec::new() };
        for retry in [None, Some(&only_reasons)] {
            assert_eq!(wait(retry, &plain, 2, 0.5), backoff::delay(&plain, 2, 0.5));
        }
        assert_eq!(reasons(None), Reasons::EVERY);
        assert_eq!(reasons(Some(&Retry::default())), Reasons::EVERY);
    }
}
