//! Steps: every state × every aim, stale and foreign ones, repeats, folding, history.

use muster_store::{Step, StepOutcome};
use muster_wire::{CollectionId, Reason, TaskState};

use crate::harness::*;

on_both! {
    /// The database agrees with the table of the domain, for every pair.
    async fn every_state_and_every_aim(db) {
        let pairs: Vec<(TaskState, TaskState)> =
            TaskState::ALL.into_iter().flat_map(|from| TaskState::ALL.into_iter().filter(|&to| to != TaskState::Dispatched).map(move |to| (from, to))).collect();
        let collection = db.collection(pairs.len()).await;
        let mut steps = Vec::new();
        for (n, &(from, to)) in pairs.iter().enumerate() {
            let task = collection.task(n as u32);
            db.force(task, from).await;
            steps.push(step(task.attempt(1), to).by(device(n)));
        }
        let outcomes = db.store.apply(&steps).await.expect("applied");
        for (n, (&(from, to), outcome)) in pairs.iter().zip(&outcomes).enumerate() {
            let expected = if muster_domain::task::may(from, to) {
                StepOutcome::Applied
            } else if from == to {
                StepOutcome::Repeated
            } else {
                StepOutcome::Superseded { state: from, attempt: 1 }
            };
            assert_eq!(*outcome, expected, "{from} -> {to}");
            let view = db.store.task(collection.task(n as u32)).await.expect("a read").expect("the task");
            let moved = *outcome == StepOutcome::Applied;
            assert_eq!(view.task.state, if moved { to } else { from }, "{from} -> {to}");
            if moved {
                assert_eq!(view.task.finished_at.is_some(), to.is_final(), "{from} -> {to}");
                assert_eq!(view.task.reason, steps[n].reason, "{from} -> {to}");
                assert_eq!(view.attempts.len(), usize::from(to == TaskState::Queued), "only a requeue leaves an attempt behind");
                if to == TaskState::Queued {
                    assert_eq!(view.attempts[0].state, from, "the state the attempt ended in");
                    assert_eq!((view.attempts[0].id, view.attempts[0].reason), (collection.task(n as u32).attempt(1), Some(Reason::NoAnswer)));
                }
            }
        }
        let counters = db.store.counters(collection).await.expect("counted").expect("there");
        assert_eq!(counters.sum(), pairs.len() as u64);
    }

    /// An answer to an attempt that is over, or from somebody else, changes nothing and hinders nobody.
    async fn stale_foreign_and_unknown_steps_are_answers(db) {
        let collection = db.collection(4).await;
        let claimed = db.claim(collection, 4).await;
        let requeued = step(claimed[0].attempt, TaskState::Queued);
        assert_eq!(db.store.apply(std::slice::from_ref(&requeued)).await.expect("applied"), [StepOutcome::Applied]);
        assert_eq!(db.claim(collection, 4).await[0].attempt.number(), 2);

        let steps = [
            step(claimed[0].attempt, TaskState::Verified).by(device(0)),
            step(claimed[1].attempt, TaskState::Verified).by(device(2)),
            step(CollectionId::new().task(0).attempt(1), TaskState::Verified),
            step(collection.task(3).attempt(9), TaskState::Verified),
            step(claimed[2].attempt, TaskState::Verified).by(device(2)),
        ];
        let outcomes = db.store.apply(&steps).await.expect("applied");
        assert_eq!(
            outcomes,
            [
                StepOutcome::Superseded { state: TaskState::Dispatched, attempt: 2 },
                StepOutcome::WrongDevice,
                StepOutcome::UnknownTask,
                StepOutcome::Superseded { state: TaskState::Dispatched, attempt: 1 },
                StepOutcome::Applied,
            ]
        );
        assert_eq!(db.store.apply(&steps[4..]).await.expect("applied"), [StepOutcome::Repeated]);
        // The requeue of the first attempt again, now that the second is under way.
        assert_eq!(db.store.apply(&[requeued]).await.expect("applied"), [StepOutcome::Superseded { state: TaskState::Dispatched, attempt: 2 }]);
    }

    /// What one batch says about one task is one write with all its facts.
    async fn steps_of_one_task_are_folded(db) {
        let collection = db.collection(3).await;
        let claimed = db.claim(collection, 3).await;
        let mut accepted = step(claimed[0].attempt, TaskState::Accepted).by(device(0));
        accepted.correlation_id = Some("b1f1".to_owned());
        let mut uploaded = step(claimed[0].attempt, TaskState::Uploaded).by(device(0));
        uploaded.at = NOW + MINUTE;
        // Out of order for the second, twice for the third.
        let steps = [
            accepted,
            step(claimed[1].attempt, TaskState::Uploaded).by(device(1)),
            uploaded,
            step(claimed[1].attempt, TaskState::Accepted).by(device(1)),
            step(claimed[2].attempt, TaskState::Verified).by(device(2)),
            step(claimed[2].attempt, TaskState::Verified).by(device(2)),
        ];
        let outcomes = db.store.apply(&steps).await.expect("applied");
        assert_eq!(
            outcomes,
            [
                StepOutcome::Applied,
                StepOutcome::Applied,
                StepOutcome::Applied,
                StepOutcome::Superseded { state: TaskState::Uploaded, attempt: 1 },
                StepOutcome::Applied,
                StepOutcome::Repeated,
            ]
        );
        let view = db.store.task(collection.task(0)).await.expect("a read").expect("the task").task;
        assert_eq!((view.state, view.correlation_id.as_deref()), (TaskState::Uploaded, Some("b1f1")));
        assert_eq!((view.accepted_at, view.uploaded_at), (Some(NOW), Some(NOW + MINUTE)));
        let view = db.store.task(collection.task(1)).await.expect("a read").expect("the task").task;
        assert_eq!((view.state, view.accepted_at), (TaskState::Uploaded, None));
    }

    /// A liar who names another's attempt in the same batch neither wins nor spoils it.
    async fn a_foreign_step_in_the_same_batch_does_not_spoil_the_right_one(db) {
        let collection = db.collection(2).await;
        let claimed = db.claim(collection, 2).await;
        let steps = [
            step(claimed[0].attempt, TaskState::Failed).by(device(1)),
            step(claimed[0].attempt, TaskState::Verified).by(device(0)),
            step(collection.task(1).attempt(200), TaskState::Failed).by(device(1)),
            step(claimed[1].attempt, TaskState::Failed).by(device(1)),
        ];
        let outcomes = db.store.apply(&steps).await.expect("applied");
        assert_eq!(outcomes[..2], [StepOutcome::WrongDevice, StepOutcome::Applied]);
        assert_eq!(outcomes[3], StepOutcome::Applied);
        assert!(matches!(outcomes[2], StepOutcome::Superseded { attempt: 1, .. }));
    }

    /// A requeue keeps what the attempt was in the history, and the next attempt starts clean.
    async fn a_requeue_keeps_history_and_waits(db) {
        let collection = db.collection(1).await;
        let attempt = db.claim(collection, 1).await[0].attempt;
        let mut accepted = step(attempt, TaskState::Accepted);
        accepted.correlation_id = Some("one".to_owned());
        db.store.apply(&[accepted]).await.expect("applied");
        let mut requeue = step(attempt, TaskState::Queued).because(Reason::UploadTruncated);
        requeue.detail = Some("ends after 12 bytes".to_owned());
        requeue.not_before = Some(NOW + MINUTE);
        requeue.at = NOW + MINUTE / 2;
        db.store.apply(&[requeue]).await.expect("applied");

        let view = db.store.task(collection.task(0)).await.expect("a read").expect("the task");
        assert_eq!((view.task.state, view.task.attempt, view.task.reason), (TaskState::Queued, 1, Some(Reason::UploadTruncated)));
        assert_eq!(view.task.not_before, Some(NOW + MINUTE));
        let [ended] = view.attempts.as_slice() else { panic!("{:?}", view.attempts) };
        assert_eq!((ended.id, ended.state, ended.reason), (attempt, TaskState::Accepted, Some(Reason::UploadTruncated)));
        assert_eq!((ended.detail.as_deref(), ended.correlation_id.as_deref()), (Some("ends after 12 bytes"), Some("one")));
        assert_eq!((ended.dispatched_at, ended.ended_at), (Some(NOW), NOW + MINUTE / 2));

        assert!(db.claim(collection, 1).await.is_empty(), "its time has not come");
        let mut request = claim_request(collection, 1);
        request.now = NOW + MINUTE;
        let again = db.store.claim(&request).await.expect("a claim").tasks;
        assert_eq!(again[0].attempt, collection.task(0).attempt(2));
        let view = db.store.task(collection.task(0)).await.expect("a read").expect("the task");
        assert_eq!((view.task.correlation_id, view.task.accepted_at, view.attempts.len()), (None, None, 1));
    }

    /// A caller that breaks a rule hears it before anything is written.
    async fn misuse_is_refused(db) {
        let collection = db.collection(1).await;
        let attempt = db.claim(collection, 1).await[0].attempt;
        for wrong in [Step::new(attempt, TaskState::Dispatched, NOW), Step::new(attempt, TaskState::Failed, NOW), Step::new(attempt, TaskState::Queued, NOW)] {
            let error = db.store.apply(&[step(attempt, TaskState::Accepted), wrong]).await.expect_err("refused");
            assert!(matches!(error, muster_store::StoreError::Misuse(_)) && !error.is_transient(), "{error}");
        }
        let many = vec![step(attempt, TaskState::Accepted); muster_store::MAX_STEPS + 1];
        assert!(db.store.apply(&many).await.is_err());
        assert_eq!(db.state(attempt.task()).await, TaskState::Dispatched);
        assert_eq!(db.store.apply(&[]).await.expect("nothing to do"), []);
    }
}
