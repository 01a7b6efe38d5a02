//! Folding: several steps of one attempt that came in the same batch become rows of one update, so that each task is written once.
//!
//! The state of the task is not known here. So the steps are walked through once for every state the task may be in, by the same table
//! that guards the database. Starts that end alike share a row; a row names the starts it is for. The starts of two rows of one task never
//! overlap, so at most one of them matches, and the result is exactly what one update per step would have written.

use muster_domain::task;
use muster_wire::TaskState;

use crate::apply::{Step, StepOutcome};

/// A row of the update.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Fold {
    /// States the task may be in, as bits.
    pub(crate) from: i16,
    /// Places of the steps that count, in the batch, in order.
    pub(crate) applied: Vec<usize>,
    /// Where the task ends.
    pub(crate) to: TaskState,
}

fn bit(state: TaskState) -> i16 {
    1 << state.code()
}

/// Walks the steps at `places` of the batch from every state. Empty when none of them can apply from anywhere.
pub(crate) fn fold(steps: &[Step], places: &[usize]) -> Vec<Fold> {
    if let [only] = places {
        let from = task::sources(steps[*only].to).iter().map(|&state| bit(state)).sum();
        return vec![Fold { from, applied: vec![*only], to: steps[*only].to }];
    }
    let mut folds: Vec<Fold> = Vec::new();
    // Queued last: what comes late of an attempt is rare, and of rows that end alike the first tells what became of the steps.
    for start in [TaskState::Dispatched, TaskState::Accepted, TaskState::Uploaded, TaskState::Queued] {
        let mut at = start;
        let mut applied = Vec::new();
        for &place in places {
            if task::may(at, steps[place].to) {
                at = steps[place].to;
                applied.push(place);
            }
        }
        if applied.is_empty() {
            continue;
        }
        match folds.iter_mut().find(|fold| fold.applied == applied) {
            Some(fold) => fold.from |= bit(start),
            None => folds.push(Fold { from: bit(start), applied, to: at }),
        }
    }
    folds
}

/// What became of each step at `places`, given that this fold was written.
pub(crate) fn outcomes(steps: &[Step], places: &[usize], written: &Fold) -> Vec<StepOutcome> {
    let mut at = None;
    places
        .iter()
        .map(|place| {
            let step = &steps[*place];
            if written.applied.contains(place) {
                at = Some(step.to);
                return StepOutcome::Applied;
            }
            match at {
                Some(state) if state == step.to => StepOutcome::Repeated,
                Some(state) => StepOutcome::Superseded { state, attempt: step.attempt.number() },
                // It came before the first that applied, so the task was already past it.
                None => StepOutcome::Repeated,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_wire::CollectionId;
    use proptest::prelude::*;
    use time::OffsetDateTime;

    fn step(to: TaskState) -> Step {
        Step::new(CollectionId::new().task(0).attempt(1), to, OffsetDateTime::UNIX_EPOCH)
    }

    /// What one update per step would do.
    fn one_by_one(start: TaskState, steps: &[Step]) -> (TaskState, Vec<usize>) {
        let mut at = start;
        let mut applied = Vec::new();
        for (place, step) in steps.iter().enumerate() {
            if task::sources(step.to).contains(&at) {
                at = step.to;
                applied.push(place);
            }
        }
        (at, applied)
    }

    proptest! {
        #[test]
        fn a_fold_does_what_one_update_per_step_does(codes in proptest::collection::vec(0_i16..10, 1..6)) {
            let steps: Vec<Step> = codes.iter().filter_map(|&code| TaskState::from_code(code)).filter(|&s| s != TaskState::Dispatched).map(step).collect();
            let places: Vec<usize> = (0..steps.len()).collect();
            prop_assume!(!places.is_empty());
            let folds = fold(&steps, &places);
            for start in TaskState::ALL {
                let (end, applied) = one_by_one(start, &steps);
                let matching: Vec<&Fold> = folds.iter().filter(|fold| fold.from & bit(start) != 0).collect();
                if applied.is_empty() {
                    prop_assert!(matching.is_empty(), "{start}: {matching:?}");
                } else {
                    prop_assert_eq!(matching.len(), 1, "{}", start);
                    prop_assert_eq!((matching[0].to, &matching[0].applied), (end, &applied));
                }
            }
        }
    }

    #[test]
    fn an_accepted_and_an_uploaded_in_one_batch_are_one_write() {
        let steps = [step(TaskState::Accepted), step(TaskState::Uploaded)];
        let folds = fold(&steps, &[0, 1]);
        assert_eq!(
            folds,
            [
                Fold { from: bit(TaskState::Dispatched), applied: vec![0, 1], to: TaskState::Uploaded },
                Fold { from: bit(TaskState::Accepted) | bit(TaskState::Queued), applied: vec![1], to: TaskState::Uploaded },
            ]
        );
        assert_eq!(outcomes(&steps, &[0, 1], &folds[1]), [StepOutcome::Repeated, StepOutcome::Applied]);
    }
}
