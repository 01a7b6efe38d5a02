//! Steering, pausing, resuming: what is decided, what is written down, and that nobody sends afterwards.

use std::collections::BTreeSet;

use muster_domain::rollout::steering::Turn;
use muster_store::{Birth, Cancel, Cancelled, NewCollection, Paused, Reran, Rerun, RerunLimits, Resumed, STEER_EVERY, Store};
use muster_wire::http::{AbortAction, AbortRule, Amount, CollectionState, Rollout, Stage};
use muster_wire::presence::Presence;
use muster_wire::{CollectionId, Reason, TaskState};
use time::OffsetDateTime;

use crate::harness::*;

async fn made(db: &Database, count: usize, rollout: Rollout) -> CollectionId {
    let new = NewCollection { rollout, ..new_collection(&devices(count)) };
    db.store.create_collection(&new).await.expect("a collection");
    new.id
}

async fn steer(store: &Store, id: CollectionId, now: OffsetDateTime) -> Turn {
    let row = store.collection(id).await.expect("read").expect("there");
    store.steer(&row, now).await.expect("steered")
}

async fn events(store: &Store, id: CollectionId) -> Vec<(String, String)> {
    store.collection_events(id).await.expect("events").into_iter().map(|event| (event.who, event.what)).collect()
}

/// Ends tasks from one place up to another.
async fn end(db: &Database, id: CollectionId, places: std::ops::Range<u32>, to: TaskState) {
    for place in places {
        db.force(id.task(place), to).await;
    }
}

fn abort_at(percent: f64, action: AbortAction) -> Rollout {
    Rollout { abort: vec![AbortRule { reasons: Vec::new(), percent, minimum_done: 4, action }], ..Rollout::default() }
}

on_both! {
    /// Too much goes wrong: the collection pauses, says which number crossed which limit, and gives out no task until it is resumed.
    async fn an_abort_rule_pauses(db) {
        let id = made(&db, 20, abort_at(25.0, AbortAction::Pause)).await;
        end(&db, id, 0..3, TaskState::Verified).await;
        assert_eq!(steer(&db.store, id, NOW).await, Turn::Go);
        end(&db, id, 3..4, TaskState::Failed).await;
        assert_eq!(steer(&db.store, id, NOW).await, Turn::Go, "another controller looked at this instant");
        let later = NOW + STEER_EVERY * 2;
        assert!(matches!(steer(&db.store, id, later).await, Turn::Pause(_)));
        let paused = db.store.collection_view(id).await.expect("read").expect("there").paused.expect("paused");
        assert_eq!((paused.at, paused.by.as_str()), (later, "rollout"));
        assert_eq!(paused.why, "1 of 4 done devices (25.0 %) ended without success; the limit is 25 %, from 4 on");
        assert!(db.claim(id, 10).await.is_empty(), "nobody sends after the commit");
        assert_eq!(db.store.resume(id, "ada", later).await.expect("resumed"), Resumed::Done { stage: None });
        assert_eq!(steer(&db.store, id, later + STEER_EVERY * 2).await, Turn::Go, "it counts from the resume on");
        assert_eq!(db.claim(id, 10).await.len(), 10);
        let told = events(&db.store, id).await;
        let told: Vec<(&str, &str)> = told.iter().map(|(who, what)| (who.as_str(), what.as_str())).collect();
        assert_eq!(told, [("ada", "created"), ("rollout", "paused"), ("ada", "resumed")]);
    }

    /// A rule that cancels ends everything that is not final, with a reason of its own.
    async fn an_abort_rule_cancels(db) {
        let id = made(&db, 10, abort_at(50.0, AbortAction::Cancel)).await;
        end(&db, id, 0..4, TaskState::Failed).await;
        db.force(id.task(4), TaskState::Accepted).await;
        assert!(matches!(steer(&db.store, id, NOW).await, Turn::Abort(_)));
        let view = db.store.collection_view(id).await.expect("read").expect("there");
        assert_eq!((view.state, view.counters.cancelled, view.counters.failed), (CollectionState::Cancelled, 6, 4));
        assert_eq!(view.reasons.get(&Reason::Aborted), Some(&6));
        assert!(view.paused.expect("says why").why.contains("4 of 4 done devices"));
        assert_eq!(db.store.resume(id, "ada", NOW).await.expect("answered"), Resumed::Ended);
        assert_eq!(events(&db.store, id).await.last().expect("events").1, "aborted");
    }

    /// What an abort rule cancelled can be run again, and counts from there: it is not stopped again for the same endings.
    async fn aborted_tasks_can_be_run_again(db) {
        let id = made(&db, 10, abort_at(50.0, AbortAction::Cancel)).await;
        end(&db, id, 0..4, TaskState::Failed).await;
        assert!(matches!(steer(&db.store, id, NOW).await, Turn::Abort(_)));
        assert_eq!(db.store.close_finished(NOW).await.expect("closed"), [id]);
        let rerun = Rerun { collection: id, who: "ada", reasons: &[Reason::Aborted], expires_at: NOW + 60 * MINUTE, limits: RerunLimits::default(), now: NOW };
        assert_eq!(db.store.rerun(&rerun).await.expect("queued"), Reran::Done { tasks: 6 });
        assert_eq!(steer(&db.store, id, NOW + STEER_EVERY * 2).await, Turn::Go);
        assert_eq!(db.claim(id, 10).await.len(), 6, "no longer paused");
        end(&db, id, 4..8, TaskState::Failed).await;
        assert!(matches!(steer(&db.store, id, NOW + STEER_EVERY * 4).await, Turn::Abort(_)), "what comes after counts");
    }

    /// A stage that passes lets the next begin; one that fails pauses, and resuming passes it.
    async fn stages_pass_and_fail(db) {
        let stage = |count| Stage { devices: Amount::Count(count), verified_percent: 75.0, wait_seconds: 0, manual: false };
        let id = made(&db, 20, Rollout { stages: vec![stage(4), stage(4)], ..Rollout::default() }).await;
        let at = |n: u32| NOW + STEER_EVERY * 2 * n;
        assert_eq!(steer(&db.store, id, at(1)).await, Turn::Go);
        end(&db, id, 0..3, TaskState::Verified).await;
        end(&db, id, 3..4, TaskState::Failed).await;
        assert!(matches!(steer(&db.store, id, at(2)).await, Turn::Next(_)));
        end(&db, id, 4..8, TaskState::Failed).await;
        let Turn::Pause(why) = steer(&db.store, id, at(3)).await else { panic!("it must pause") };
        assert_eq!(why, "stage 2 of 2: 0 of 4 asked devices (0.0 %) are verified; the stage needs 75 %");
        assert_eq!(db.store.resume(id, "ada", at(4)).await.expect("resumed"), Resumed::Done { stage: Some(3) });
        assert_eq!(steer(&db.store, id, at(5)).await, Turn::Go, "the rest has no gate");
    }

    /// With stages the order is random; the offline come after the others, the skipped last.
    async fn stages_take_devices_in_random_order(db) {
        const COUNT: usize = 200;
        let stages = vec![Stage { devices: Amount::Count(10), verified_percent: 100.0, wait_seconds: 0, manual: false }];
        let away = Presence::parse(br#"{"online":false}"#).expect("a will");
        let offline: Vec<Birth> =
            (0..20).map(|n| Birth { device: device(n), presence: away.clone(), retained: false, at: NOW }).collect();
        db.store.record_births(&offline).await.expect("recorded");
        let mut new = NewCollection { rollout: Rollout { stages, ..Rollout::default() }, ..new_collection(&devices(COUNT)) };
        new.tasks[COUNT - 1].skip = Some(Reason::MethodUnsupported);
        db.store.create_collection(&new).await.expect("a collection");
        let filter = muster_store::TaskFilter { limit: 1000, ..muster_store::TaskFilter::default() };
        let order: Vec<_> = db.store.tasks(new.id, &filter).await.expect("tasks").into_iter().map(|task| task.device).collect();
        assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), COUNT, "each once");
        assert!(order[..179].windows(2).any(|pair| pair[0] > pair[1]), "not in the order they were named");
        assert!(order[179..199].iter().all(|id| *id < device(20)), "the offline come after the others");
        assert_eq!(order[199], device(COUNT - 1), "the skipped is last");
    }

    async fn pausing_answers_what_it_found(db) {
        let id = db.collection(3).await;
        assert_eq!(db.store.pause(id, "ada", "wait for the night", NOW).await.expect("paused"), Paused::Done);
        assert_eq!(db.store.pause(id, "bob", "me too", NOW).await.expect("answered"), Paused::Already);
        assert!(db.claim(id, 3).await.is_empty());
        assert_eq!(db.store.resume(id, "ada", NOW).await.expect("resumed"), Resumed::Done { stage: None });
        assert_eq!(db.store.resume(id, "ada", NOW).await.expect("answered"), Resumed::Already);
        assert_eq!(db.claim(id, 3).await.len(), 3);
        let nobody = CollectionId::new();
        assert_eq!(db.store.pause(nobody, "ada", "", NOW).await.expect("answered"), Paused::Unknown);
        assert_eq!(db.store.resume(nobody, "ada", NOW).await.expect("answered"), Resumed::Unknown);
    }

    /// Cancelling what is queued leaves what is with a device, and what comes back from there is not tried again.
    async fn cancel_queued_only(db) {
        let id = db.collection(5).await;
        let claimed = db.claim(id, 2).await;
        let cancel = async |which| db.store.cancel_collection(id, which, "ada", NOW).await.expect("answered");
        assert_eq!(cancel(Cancel::Queued).await, Cancelled::Done { tasks: 3 });
        db.store.apply(&[step(claimed[0].attempt, TaskState::Verified), step(claimed[1].attempt, TaskState::Queued)]).await.expect("applied");
        assert!(db.claim(id, 5).await.is_empty(), "nothing is tried again");
        assert_eq!(db.store.cancel_requeued(&[id], NOW).await.expect("cancelled"), 1);
        assert_eq!(db.store.close_finished(NOW).await.expect("closed"), [id]);
        assert_eq!(cancel(Cancel::All).await, Cancelled::Already);
    }

    /// Who cancelled the queued ones may still cancel the rest.
    async fn cancel_the_rest_later(db) {
        let id = db.collection(5).await;
        assert_eq!(db.claim(id, 2).await.len(), 2);
        let cancel = async |which| db.store.cancel_collection(id, which, "ada", NOW).await.expect("answered");
        assert_eq!(cancel(Cancel::Queued).await, Cancelled::Done { tasks: 3 });
        assert_eq!(cancel(Cancel::All).await, Cancelled::Done { tasks: 2 });
        assert_eq!(cancel(Cancel::All).await, Cancelled::Already);
    }
}
