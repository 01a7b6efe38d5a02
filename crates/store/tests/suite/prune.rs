//! What is deleted when it is old, and what never is, on both databases.

use muster_domain::rollout::Limits;
use muster_store::{MAX_ENTRIES, MAX_PRUNED, Pruned, Rerun, RerunLimits};
use muster_wire::http::{Amount, Rollout, Stage};
use muster_wire::{CollectionId, TaskState};
use time::OffsetDateTime;

use crate::harness::*;

/// A collection of so many devices, each with an attempt that ended at this moment and is history.
async fn ended(db: &Database, count: usize, at: OffsetDateTime) -> CollectionId {
    let collection = db.collection(count).await;
    let claimed = db.claim(collection, u32::try_from(count).expect("a small number")).await;
    let steps: Vec<_> = claimed.iter().map(|task| muster_store::Step { at, ..step(task.attempt, TaskState::Queued) }).collect();
    db.store.apply(&steps).await.expect("applied");
    collection
}

async fn history(db: &Database, collection: CollectionId) -> usize {
    db.store.task(collection.task(0)).await.expect("a read").expect("the task stays").attempts.len()
}

on_both! {
    /// Old attempts go, of one collection or of all; young ones, tasks and what the task itself says stay. Twice is as once.
    async fn only_old_history_is_deleted(db) {
        // The ids of collections carry the real time.
        let now = OffsetDateTime::now_utc();
        let (old, other, young) = (ended(&db, 3, now - 60 * MINUTE).await, ended(&db, 2, now - 60 * MINUTE).await, ended(&db, 2, now + MINUTE).await);
        db.store.enter_devices(&[muster_store::DeviceEntry { device: device(9), tags: None, parent: None }], "ada", now - 60 * MINUTE).await.expect("entered");
        let before = now + MINUTE / 2;
        let prune = async |collection| db.store.prune_history(before, collection).await.expect("pruned");
        assert_eq!(db.store.prune_history(now - 61 * MINUTE, None).await.expect("pruned"), Pruned::default());
        assert_eq!(prune(Some(young)).await, Pruned::default());
        assert_eq!(prune(Some(old)).await, Pruned { attempts: 3, device_events: 0 });
        assert_eq!((history(&db, old).await, history(&db, other).await, history(&db, young).await), (0, 1, 1));
        assert_eq!(prune(None).await, Pruned { attempts: 2, device_events: 1 });
        assert_eq!(prune(None).await, Pruned::default());
        assert_eq!((history(&db, other).await, history(&db, young).await), (0, 1));
        let task = db.store.task(old.task(0)).await.expect("a read").expect("there").task;
        assert_eq!((task.state, task.attempt), (TaskState::Queued, 1), "the number of attempts is not forgotten");
    }

    /// One call is bounded and says that more is there; two at once delete each row once.
    async fn a_call_is_bounded(db) {
        let now = OffsetDateTime::now_utc();
        let entries: Vec<_> = devices(MAX_PRUNED as usize + 5).into_iter().map(|device| muster_store::DeviceEntry { device, tags: None, parent: None }).collect();
        for chunk in entries.chunks(MAX_ENTRIES) {
            db.store.enter_devices(chunk, "ada", now - MINUTE).await.expect("entered");
        }
        let first = db.store.prune_history(now, None).await.expect("pruned");
        assert_eq!((first.device_events, first.is_full()), (u64::from(MAX_PRUNED), true));
        let (a, b) = tokio::join!(db.store.prune_history(now, None), db.store.prune_history(now, None));
        let (a, b) = (a.expect("pruned"), b.expect("pruned"));
        assert_eq!((a.device_events + b.device_events, a.is_full() || b.is_full()), (5, false));
    }

    /// The row of the pace goes with the end of its collection; a rerun gets a new one and is paced by it. Stages keep theirs: a rerun goes on
    /// where they stand.
    async fn the_pace_of_a_closed_collection_goes(db) {
        let stages = vec![Stage { devices: Amount::Count(1), verified_percent: 0.0, wait_seconds: 0, manual: false }];
        let paced = muster_store::NewCollection { in_flight: Some(1), ..new_collection(&devices(3)) };
        let staged = muster_store::NewCollection { rollout: Rollout { stages, ..Rollout::default() }, ..new_collection(&devices(1)) };
        for new in [&paced, &staged] {
            db.store.create_collection(new).await.expect("a collection");
            db.store.expire(&[new.id], NOW + 60 * MINUTE).await.expect("expired");
        }
        // Nothing but the row is touched: so many there are.
        let paces = async || db.sql("UPDATE pace SET passed_at = passed_at").await;
        assert_eq!(paces().await, 2);
        assert_eq!(db.store.close_finished(NOW + 60 * MINUTE).await.expect("closed").len(), 2);
        assert_eq!(paces().await, 1);
        let rerun = Rerun { collection: paced.id, who: "ada", reasons: &[], expires_at: NOW + 180 * MINUTE, limits: RerunLimits::default(), now: NOW + 61 * MINUTE };
        db.store.rerun(&rerun).await.expect("rerun");
        let limits = Limits::of(&paced.rollout, paced.in_flight, 3).expect("it has limits");
        let request = muster_store::ClaimRequest { now: NOW + 62 * MINUTE, ..claim_request(paced.id, 3) };
        let claim = db.store.claim_paced(&request, &limits, 3).await.expect("a claim");
        assert_eq!((claim.batch.tasks.len(), paces().await), (1, 2), "the limit holds");
    }
}
