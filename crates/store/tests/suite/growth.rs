//! Collections that grow: standing ones, and the steps of an escalation.

use std::collections::HashSet;

use muster_store::{Cancel, Cancelled, Created, MAX_APPEND, NewCollection, RerunLimits, Step, StepOutcome, StoreError};
use muster_wire::http::{CollectionRequest, CollectionState, EscalationStep, StepOf, TargetView};
use muster_wire::{CollectionId, Reason, TaskState};

use crate::harness::*;

fn standing(count: usize) -> NewCollection {
    NewCollection { standing: true, target: TargetView::All, ..new_collection(&devices(count)) }
}

/// A first step over so many devices with two deeper ones behind it.
fn escalation(count: usize) -> (NewCollection, Vec<NewCollection>) {
    let step = || EscalationStep { request: CollectionRequest::Ping {}, when_matches: Some("ERR".to_owned()) };
    let first = NewCollection { steps: vec![step(), step()], when_matches: Some("ERR".to_owned()), ..new_collection(&devices(count)) };
    let later = |number: u8| NewCollection {
        id: CollectionId::new(),
        steps: if number == 2 { vec![step()] } else { Vec::new() },
        step_of: Some(StepOf { collection: first.id, step: number }),
        when_matches: (number == 2).then(|| "ERR".to_owned()),
        ..new_collection(&[])
    };
    let later = vec![later(2), later(3)];
    (first, later)
}

impl Database {
    async fn escalation(&self, count: usize) -> [CollectionId; 3] {
        let (first, later) = escalation(count);
        assert_eq!(self.store.create_escalation(&first, &later).await.expect("made"), Created::New);
        [first.id, later[0].id, later[1].id]
    }

    /// Verifies every task that can be claimed; those of these places with a match.
    async fn verify(&self, collection: CollectionId, matching: &[usize]) -> usize {
        let claimed = self.claim(collection, 100).await;
        let steps: Vec<Step> = claimed
            .iter()
            .enumerate()
            .map(|(place, task)| Step { matched: Some(matching.contains(&place)), ..step(task.attempt, TaskState::Verified) })
            .collect();
        let outcomes = self.store.apply(&steps).await.expect("applied");
        assert!(outcomes.iter().all(|outcome| *outcome == StepOutcome::Applied), "{outcomes:?}");
        claimed.len()
    }

    async fn closed(&self, collection: CollectionId) -> bool {
        self.store.collection(collection).await.expect("a read").expect("there").closed_at.is_some()
    }
}

on_both! {
    /// Who is in already gets no second task, and the numbers grow with the tasks.
    async fn devices_join_once(db) {
        let new = standing(3);
        db.store.create_collection(&new).await.expect("made");
        assert_eq!(db.store.append_tasks(new.id, &devices(5), NOW).await.expect("added"), 2);
        assert_eq!(db.store.append_tasks(new.id, &devices(5), NOW).await.expect("nobody new"), 0);
        assert_eq!(db.store.append_tasks(new.id, &[device(7), device(7)], NOW).await.expect("named twice"), 1);
        let view = db.store.collection_view(new.id).await.expect("a read").expect("there");
        assert_eq!((view.counters.targeted, view.counters.queued, view.counters.sum()), (6, 6, 6));
        let claimed = db.claim(new.id, 10).await;
        assert_eq!(claimed.iter().map(|task| task.device.clone()).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 7].map(device));
        assert_eq!(claimed.last().expect("six").attempt.task(), new.id.task(5), "ordinals go on");
        assert_eq!(db.store.in_flight(None).await.expect("counted"), [(new.id, 6)], "the range of tasks grew");
    }

    /// Two controllers compare the registry at the same time.
    async fn joining_at_the_same_time_is_joining_once(db) {
        let new = standing(0);
        db.store.create_collection(&new).await.expect("made");
        let (all, half) = (devices(400), devices(200));
        let (a, b, c) = tokio::join!(
            db.store.append_tasks(new.id, &all, NOW),
            db.store.append_tasks(new.id, &half, NOW),
            db.store.append_tasks(new.id, &all, NOW),
        );
        assert_eq!(a.expect("added") + b.expect("added") + c.expect("added"), 400);
        let counters = db.store.counters(new.id).await.expect("a read").expect("there");
        assert_eq!((counters.targeted, counters.sum()), (400, 400));
    }

    /// The counters add up while devices join.
    async fn counters_add_up_while_it_grows(db) {
        let new = standing(1);
        db.store.create_collection(&new).await.expect("made");
        let growing = async {
            for n in 1..60 {
                db.store.append_tasks(new.id, &[device(n)], NOW).await.expect("added");
            }
        };
        let counting = async {
            loop {
                let counters = db.store.counters(new.id).await.expect("they add up").expect("there");
                if counters.targeted == 60 {
                    break;
                }
            }
        };
        tokio::join!(growing, counting);
    }

    /// A standing collection ends at its expiry, not with its last task; others never take anybody.
    async fn it_stands_until_it_expires(db) {
        let new = standing(1);
        db.store.create_collection(&new).await.expect("made");
        db.verify(new.id, &[]).await;
        assert!(db.store.close_finished(NOW).await.expect("looked").is_empty());
        assert_eq!(db.store.append_tasks(new.id, &devices(2), NOW).await.expect("added"), 1);
        let expiry = NOW + 60 * MINUTE;
        assert_eq!(db.store.append_tasks(new.id, &devices(3), expiry).await.expect("too late"), 0);
        db.store.expire(&[new.id], expiry).await.expect("expired");
        assert_eq!(db.store.close_finished(expiry).await.expect("closed"), [new.id]);
        let view = db.store.collection_view(new.id).await.expect("a read").expect("there");
        assert_eq!((view.counters.verified, view.counters.expired, view.state), (1, 1, CollectionState::Finished));

        let plain = db.collection(1).await;
        assert_eq!(db.store.append_tasks(plain, &devices(2), NOW).await.expect("refused"), 0, "it is as it was asked for");
        let cancelled = standing(1);
        db.store.create_collection(&cancelled).await.expect("made");
        assert_eq!(db.store.cancel_collection(cancelled.id, Cancel::All, "ada", NOW).await.expect("cancelled"), Cancelled::Done { tasks: 1 });
        assert_eq!(db.store.append_tasks(cancelled.id, &devices(2), NOW).await.expect("refused"), 0);
        assert_eq!(db.store.close_finished(NOW).await.expect("closed"), [cancelled.id]);
    }

    async fn one_call_adds_a_bounded_number(db) {
        let new = standing(0);
        db.store.create_collection(&new).await.expect("made");
        let error = db.store.append_tasks(new.id, &devices(MAX_APPEND + 1), NOW).await.expect_err("too many");
        assert!(matches!(error, StoreError::Misuse(_)), "{error}");
        assert_eq!(db.store.append_tasks(new.id, &devices(MAX_APPEND), NOW).await.expect("added"), MAX_APPEND as u64);
    }

    /// Only who gave reason to goes deeper, once, however often the step is fed; each step closes after the one before.
    async fn steps_follow_each_other(db) {
        let [first, second, third] = db.escalation(4).await;
        assert!(db.store.close_finished(NOW).await.expect("looked").is_empty(), "empty steps wait for their devices");
        assert_eq!(db.verify(first, &[1, 3]).await, 4);
        // The step before is over, and its devices are not here yet: nothing may close over them.
        assert_eq!(db.store.close_finished(NOW).await.expect("closed"), [first]);
        assert!(db.store.close_finished(NOW).await.expect("looked").is_empty());
        assert_eq!(db.store.feed_step(first, second, 1, NOW).await.expect("fed"), 1, "bounded");
        assert!(db.store.close_finished(NOW).await.expect("looked").is_empty());
        assert_eq!(db.store.feed_step(first, second, 100, NOW).await.expect("fed"), 1);
        assert_eq!(db.store.feed_step(first, second, 100, NOW).await.expect("fed"), 0, "twice is once");
        let claimed = db.claim(second, 10).await;
        assert_eq!(claimed.iter().map(|task| task.device.clone()).collect::<Vec<_>>(), [device(1), device(3)]);
        db.store
            .apply(&[
                Step { matched: Some(true), ..step(claimed[0].attempt, TaskState::Verified) },
                step(claimed[1].attempt, TaskState::Failed).because(Reason::NoAnswer),
            ])
            .await
            .expect("applied");
        assert_eq!(db.store.close_finished(NOW).await.expect("closed"), [second]);
        assert_eq!(db.store.feed_step(second, third, 100, NOW).await.expect("fed"), 1);
        let later = db.store.later_steps(first).await.expect("a read");
        assert_eq!(later.iter().map(|step| (step.step, step.counters.targeted)).collect::<Vec<_>>(), [(2, 2), (3, 1)]);
        assert_eq!(db.store.later_steps(second).await.expect("a read").len(), 1);
        assert_eq!(db.verify(third, &[]).await, 1);
        assert_eq!(db.store.close_finished(NOW).await.expect("closed"), [third]);
    }

    /// Where nobody gives reason, the deeper steps end empty, and so they do at the expiry and with a cancelled first step.
    async fn steps_nobody_comes_to_end_empty(db) {
        let [first, second, third] = db.escalation(2).await;
        db.verify(first, &[]).await;
        for id in [first, second, third] {
            assert_eq!(db.store.close_finished(NOW).await.expect("closed"), [id]);
        }
        assert_eq!(db.store.counters(third).await.expect("a read").expect("there").targeted, 0);

        let [_, second, third] = db.escalation(1).await;
        let closed = db.store.close_finished(NOW + 60 * MINUTE).await.expect("closed");
        assert_eq!(HashSet::from([second, third]), closed.into_iter().collect(), "expired; the first has its task still");
    }

    /// A device that is tried again and gives reason later opens the step again.
    async fn a_late_device_opens_the_step_again(db) {
        let [first, second, _] = db.escalation(2).await;
        let claimed = db.claim(first, 2).await;
        db.store
            .apply(&[
                Step { matched: Some(false), ..step(claimed[0].attempt, TaskState::Verified) },
                step(claimed[1].attempt, TaskState::Failed).because(Reason::NoAnswer),
            ])
            .await
            .expect("applied");
        db.store.close_finished(NOW).await.expect("closed");
        assert_eq!(db.store.close_finished(NOW).await.expect("closed"), [second]);
        let rerun = muster_store::Rerun { collection: first, who: "bob", reasons: &[], expires_at: NOW + 60 * MINUTE, limits: RerunLimits::default(), now: NOW };
        db.store.rerun(&rerun).await.expect("rerun");
        assert_eq!(db.verify(first, &[0]).await, 1);
        assert_eq!(db.store.feed_step(first, second, 10, NOW).await.expect("fed"), 1);
        assert!(!db.closed(second).await, "open again");
        let view = db.store.collection_view(second).await.expect("a read").expect("there");
        assert_eq!((view.counters.targeted, view.counters.queued), (1, 1));
    }

    /// A deeper step is made whole, or refused.
    async fn a_deeper_step_begins_empty(db) {
        let (first, mut later) = escalation(1);
        later[0].tasks = new_collection(&devices(1)).tasks;
        assert!(matches!(db.store.create_escalation(&first, &later).await, Err(StoreError::Misuse(_))));
        assert!(db.store.collection(first.id).await.expect("a read").is_none(), "nothing was made");
    }

    /// What an attempt that was given up left behind counts until the next one is sent.
    async fn late_arrivals_count_until_the_next_attempt(db) {
        let collection = db.collection(2).await;
        let claimed = db.claim(collection, 2).await;
        let back = |n: usize| step(claimed[n].attempt, TaskState::Queued);
        db.store.apply(&[back(0), back(1)]).await.expect("applied");
        assert_eq!(db.store.open_task(claimed[0].attempt.task()).await.expect("a read"), None);
        let waiting = db.store.waiting_task(claimed[0].attempt).await.expect("a read").expect("it still counts");
        assert_eq!((waiting.attempt, waiting.state), (claimed[0].attempt, TaskState::Queued));
        let late = db.store.apply(&[step(claimed[0].attempt, TaskState::Uploaded)]).await.expect("applied");
        assert_eq!(late, [StepOutcome::Applied]);
        assert_eq!(db.claim(collection, 2).await.len(), 1, "it is not asked again");
        assert_eq!(db.store.waiting_task(claimed[1].attempt).await.expect("a read"), None, "the next attempt is on its way");
        let late = db.store.apply(&[step(claimed[1].attempt, TaskState::Uploaded)]).await.expect("answered");
        assert_eq!(late, [StepOutcome::Superseded { state: TaskState::Dispatched, attempt: 2 }]);
    }
}
