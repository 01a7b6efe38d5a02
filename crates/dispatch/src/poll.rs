//! Which attempt a `GetTaskStatus` poll was about. Lost with the process, which costs one poll: the next look asks again.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use muster_wire::{AttemptId, DeviceId};
use uuid::Uuid;

/// Most polls without an answer that are remembered.
pub(crate) const MAX_OPEN_POLLS: usize = 50_000;
/// How long an answer is waited for.
const LIFE: Duration = Duration::from_secs(120);

/// Polls without an answer.
#[derive(Debug, Default)]
pub(crate) struct Polls(Mutex<HashMap<Uuid, (AttemptId, DeviceId, Instant)>>);

impl Polls {
    /// Remembers a poll and gives it its id; `None` when too many are open.
    pub(crate) fn open(&self, attempt: AttemptId, device: &DeviceId, now: Instant) -> Option<Uuid> {
        let mut open = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if open.len() >= MAX_OPEN_POLLS {
            open.retain(|_, (_, _, since)| now - *since < LIFE);
            if open.len() >= MAX_OPEN_POLLS {
                return None;
            }
        }
        let id = Uuid::new_v4();
        open.insert(id, (attempt, device.clone(), now));
        Some(id)
    }

    /// The attempt a poll was about, if this device was asked.
    pub(crate) fn close(&self, poll: Uuid, device: &DeviceId) -> Option<AttemptId> {
        let mut open = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match open.get(&poll) {
            Some((attempt, asked, _)) if asked == device => {
                let attempt = *attempt;
                open.remove(&poll);
                Some(attempt)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_wire::CollectionId;

    #[test]
    fn an_answer_counts_once_from_the_device_that_was_asked_and_the_table_is_bounded() {
        let (polls, now) = (Polls::default(), Instant::now());
        let attempt = CollectionId::new().task(0).attempt(1);
        let (asked, other): (DeviceId, DeviceId) = ("a".parse().expect("id"), "b".parse().expect("id"));
        let poll = polls.open(attempt, &asked, now).expect("room");
        assert_eq!(polls.close(poll, &other), None);
        assert_eq!(polls.close(poll, &asked), Some(attempt));
        assert_eq!(polls.close(poll, &asked), None);
        for _ in 0..MAX_OPEN_POLLS {
            assert!(polls.open(attempt, &asked, now).is_some());
        }
        assert_eq!(polls.open(attempt, &asked, now), None);
        assert!(polls.open(attempt, &asked, now + LIFE).is_some(), "old ones make room");
    }
}
