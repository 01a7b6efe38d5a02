//! Making collections: all or nothing, once per key, and large ones.

use muster_store::{Created, Idempotency, StoreError, TaskFilter};
use muster_wire::http::{CollectionRequest, CollectionState};
use muster_wire::{CollectionId, Reason, TaskState};

use crate::harness::*;

on_both! {
    /// What was asked comes back as it was.
    async fn a_collection_comes_back_as_it_was_asked(db) {
        let mut new = new_collection(&devices(3));
        new.request = CollectionRequest::Bundle { since: Some("2026-11-20T00:00:00Z".to_owned()), edge_runtime_only: true };
        new.tasks[2].skip = Some(Reason::ConsentMissing);
        new.in_flight = Some(200);
        assert_eq!(db.store.create_collection(&new).await.expect("made"), Created::New);
        let read = db.store.collection(new.id).await.expect("a read").expect("there");
        assert_eq!((&read.request, read.target, &read.reason, &read.case), (&new.request, new.target, &new.reason, &new.case));
        assert_eq!((read.created_at, read.expires_at, read.attempt_timeout), (new.created_at, new.expires_at, new.attempt_timeout));
        assert_eq!((read.max_attempts, read.attempt_limit, read.in_flight, read.targeted), (3, 3, Some(200), 3));
        let view = db.store.collection_view(new.id).await.expect("a read").expect("there");
        assert_eq!((view.state, view.counters.queued, view.counters.skipped), (CollectionState::Running, 2, 1));
        assert_eq!(view.reasons.into_iter().collect::<Vec<_>>(), [(Reason::ConsentMissing, 1)]);
        let tasks = db.store.tasks(new.id, &TaskFilter { limit: 10, ..TaskFilter::default() }).await.expect("a read");
        assert_eq!(tasks.iter().map(|task| task.device.clone()).collect::<Vec<_>>(), devices(3));
        assert_eq!((tasks[2].state, tasks[2].reason, tasks[2].finished_at), (TaskState::Skipped, Some(Reason::ConsentMissing), Some(NOW)));
        let events = db.store.collection_events(new.id).await.expect("a read");
        assert_eq!((events.len(), events[0].what.as_str(), events[0].who.as_str()), (1, "created", "ada"));
        assert_eq!(db.store.collection(CollectionId::new()).await.expect("a read"), None);
    }

    /// A repeated request finds its collection; a key for another body is told apart; keys are per creator.
    async fn a_key_makes_one_collection(db) {
        let keyed = |key: &str, body: &str| {
            let mut new = new_collection(&devices(2));
            new.idempotency = Some(Idempotency { key: key.to_owned(), body_sha256: body.to_owned() });
            new
        };
        let first = keyed("k", "body");
        assert_eq!(db.store.create_collection(&first).await.expect("made"), Created::New);
        assert_eq!(db.store.create_collection(&keyed("k", "body")).await.expect("answered"), Created::Repeated(first.id));
        assert_eq!(db.store.create_collection(&keyed("k", "another body")).await.expect("answered"), Created::KeyReused(first.id));
        let mut other = keyed("k", "body");
        other.created_by = "bob".to_owned();
        assert_eq!(db.store.create_collection(&other).await.expect("made"), Created::New);

        let racers: Vec<_> = (0..8)
            .map(|_| {
                let (store, new) = (db.store.clone(), keyed("race", "body"));
                tokio::spawn(async move { (new.id, store.create_collection(&new).await.expect("answered")) })
            })
            .collect();
        let mut made = Vec::new();
        let mut found = Vec::new();
        for racer in racers {
            match racer.await.expect("no panic") {
                (id, Created::New) => made.push(id),
                (_, Created::Repeated(id)) => found.push(id),
                (_, other) => panic!("{other:?}"),
            }
        }
        assert_eq!((made.len(), found.len()), (1, 7));
        assert!(found.iter().all(|id| *id == made[0]));
        assert_eq!(db.store.open_collections().await.expect("a read").len(), 3);
    }

    /// More than one chunk, and not a single task lost or out of place.
    async fn a_large_collection_is_whole(db) {
        let collection = db.collection(12_345).await;
        let counters = db.store.counters(collection).await.expect("counted").expect("there");
        assert_eq!((counters.targeted, counters.queued), (12_345, 12_345));
        let last = db.store.task(collection.task(12_344)).await.expect("a read").expect("the last task");
        assert_eq!(last.task.device, device(12_344));
        assert!(db.store.task(collection.task(12_345)).await.expect("a read").is_none());
    }

    /// A device named twice, or nobody at all.
    async fn duplicates_are_refused_and_nobody_is_allowed(db) {
        let error = db.store.create_collection(&new_collection(&[device(1), device(2), device(1)])).await.expect_err("refused");
        assert!(matches!(&error, StoreError::Misuse(text) if text.contains("press-00001")), "{error}");
        assert!(db.store.open_collections().await.expect("a read").is_empty(), "nothing was written");
        let nobody = db.collection(0).await;
        assert_eq!(db.store.close_finished(NOW).await.expect("closed"), [nobody]);
        assert_eq!(db.store.counters(nobody).await.expect("counted").expect("there").targeted, 0);
    }
}
