//! Claims: never twice, never two bundles on one device, each task looked at once.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use muster_store::{Birth, Cancel, ClaimBatch, ClaimRequest, MAX_CLAIM_COLLECTIONS};
use muster_wire::presence::Presence;
use muster_wire::{CollectionId, Reason, TaskState};

use crate::harness::*;

on_both! {
    /// Four claimers over one collection share it out without a rest and without a double.
    async fn concurrent_claimers_never_get_the_same_task(db) {
        const TASKS: usize = 2_000;
        let collection = db.collection(TASKS).await;
        let claimers: Vec<_> = (0..4)
            .map(|n| {
                let store = db.store.clone();
                tokio::spawn(async move {
                    let owner = format!("controller-{n}");
                    let mut mine = Vec::new();
                    let mut empty = 0;
                    // Rows another claimer has in hand are passed over, so one empty look is not the end.
                    while empty < 3 {
                        let mut after = None;
                        loop {
                            let request = ClaimRequest { owner: &owner, after, ..claim_request(collection, 37) };
                            let batch = store.claim(&request).await.expect("a claim");
                            empty = if batch.tasks.is_empty() { empty + 1 } else { 0 };
                            mine.extend(batch.tasks);
                            after = batch.scanned_to;
                            if after.is_none() {
                                break;
                            }
                        }
                    }
                    mine
                })
            })
            .collect();
        let mut all = Vec::new();
        for claimer in claimers {
            all.extend(claimer.await.expect("no panic").into_iter().map(|task| task.attempt));
        }
        assert_eq!(all.len(), TASKS);
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), TASKS);
        assert!(all.iter().all(|attempt| attempt.number() == 1));
    }

    /// Two collections over the same devices, several claimers: at most one bundle per device at a time.
    async fn one_bundle_per_device(db) {
        const DEVICES: usize = 300;
        let collections = [db.collection(DEVICES).await, db.collection(DEVICES).await, db.collection(DEVICES).await];
        let claimers: Vec<_> = (0..6)
            .map(|n| {
                let store = db.store.clone();
                tokio::spawn(async move {
                    let request = ClaimRequest { device_until: Some(NOW + MINUTE), ..claim_request(collections[n % 3], 40) };
                    let mut mine = Vec::new();
                    for _ in 0..20 {
                        mine.extend(store.claim(&request).await.expect("a claim").tasks);
                    }
                    mine
                })
            })
            .collect();
        let mut per_device: BTreeMap<_, u32> = BTreeMap::new();
        for claimer in claimers {
            for task in claimer.await.expect("no panic") {
                *per_device.entry(task.device).or_default() += 1;
            }
        }
        assert!(per_device.values().all(|&bundles| bundles == 1), "{per_device:?}");
        assert!(!per_device.is_empty());
    }

    /// A device is free again when it is done, when its attempt was given up, and not before.
    async fn a_device_is_freed_by_its_end_or_by_time(db) {
        let first = db.collection(1).await;
        let second = db.collection(1).await;
        let ask = |collection, now| ClaimRequest { device_until: Some(now + MINUTE), now, lease_until: now + MINUTE / 2, ..claim_request(collection, 10) };
        let claimed = db.store.claim(&ask(first, NOW)).await.expect("a claim").tasks;
        let refused = db.store.claim(&ask(second, NOW)).await.expect("a claim");
        assert_eq!((refused.tasks.len(), refused.busy), (0, 1));
        assert_eq!(db.state(second.task(0)).await, TaskState::Queued, "left as it was");

        // The device has begun: that frees nothing, whatever the step says, and nor does a new lease move the end.
        let mut accepted = step(claimed[0].attempt, TaskState::Accepted);
        (accepted.lease_until, accepted.releases_slot) = (Some(NOW + MINUTE / 3), true);
        db.store.apply(&[accepted]).await.expect("applied");
        assert_eq!(db.store.claim(&ask(second, NOW + MINUTE / 2)).await.expect("a claim").busy, 1);

        // The task is over, but the device was not heard: it may still be at work.
        db.store.apply(&[step(claimed[0].attempt, TaskState::Cancelled)]).await.expect("applied");
        assert_eq!(db.store.claim(&ask(second, NOW + MINUTE / 2)).await.expect("a claim").busy, 1);
        // It says it is done: that frees it, although the step comes too late for the task.
        let mut done = step(claimed[0].attempt, TaskState::Uploaded).by(device(0));
        done.releases_slot = true;
        let mut foreign = done.clone();
        foreign.device = Some(device(7));
        db.store.apply(&[foreign]).await.expect("applied");
        assert_eq!(db.store.claim(&ask(second, NOW + MINUTE / 2)).await.expect("a claim").busy, 1, "not by somebody else's word");
        db.store.apply(&[done]).await.expect("applied");
        let claimed = db.store.claim(&ask(second, NOW + MINUTE / 2)).await.expect("a claim").tasks;
        assert_eq!(claimed.len(), 1);

        // And time frees it without a word.
        let third = db.collection(1).await;
        assert_eq!(db.store.claim(&ask(third, NOW + MINUTE / 2 + MINUTE - Duration::from_millis(1))).await.expect("a claim").busy, 1);
        assert_eq!(db.store.claim(&ask(third, NOW + MINUTE / 2 + MINUTE)).await.expect("a claim").tasks.len(), 1);
    }

    /// With the cursor, no call looks at what an earlier one has seen.
    async fn the_cursor_walks_a_collection_once(db) {
        let collection = db.collection(250).await;
        let mut after = None;
        let mut seen = Vec::new();
        let mut calls = 0;
        loop {
            let batch = db.store.claim(&ClaimRequest { after, ..claim_request(collection, 100) }).await.expect("a claim");
            calls += 1;
            assert!(batch.tasks.windows(2).all(|pair| pair[0].attempt < pair[1].attempt), "in order");
            assert!(batch.tasks.iter().all(|task| after.is_none_or(|after| task.attempt.task() > after)));
            seen.extend(batch.tasks);
            after = batch.scanned_to;
            // Queued again behind the cursor: not for this walk.
            if let Some(first) = seen.first().filter(|_| calls == 1) {
                db.store.apply(&[step(first.attempt, TaskState::Queued)]).await.expect("applied");
            }
            if after.is_none() {
                break;
            }
        }
        assert_eq!((calls, seen.len()), (3, 250));
        assert_eq!(db.claim(collection, 100).await.len(), 1, "the next walk finds it");
    }

    /// From many collections in one claim: each task by the terms of its own collection, and none of one that is paused or cancelled.
    async fn many_collections_are_claimed_from_at_once(db) {
        let mut ids = Vec::new();
        for n in 0..30 {
            let new = new_collection(&[device(n), device(100 + n)][..1 + n % 2]);
            db.store.create_collection(&new).await.expect("a collection");
            ids.push(new.id);
        }
        // Bundles of the first three, of which two are for one device: the older gets it.
        let rival = new_collection(&[device(0)]);
        db.store.create_collection(&rival).await.expect("a collection");
        db.store.pause(ids[3], "ada", "wait", NOW).await.expect("paused");
        db.store.cancel_collection(ids[4], Cancel::All, "ada", NOW).await.expect("cancelled");
        let other = db.collection(1).await;
        let request = |n: usize, collection| ClaimRequest {
            lease_until: NOW + MINUTE * u32::try_from(n + 1).expect("small"),
            device_until: (n < 3 || n == 30).then_some(NOW + MINUTE),
            method: if n == 5 { "UploadSupportBundle" } else { "GetModuleLogs" },
            ..claim_request(collection, 1)
        };
        db.store.record_births(&[Birth { device: device(5), presence: birth(), at: NOW, retained: false }, Birth { device: device(6), presence: birth(), at: NOW, retained: false }]).await.expect("recorded");
        let requests: Vec<_> = ids.iter().copied().chain([rival.id]).enumerate().map(|(n, id)| request(n, id)).collect();
        let batch = db.store.claim_each(&requests, 100).await.expect("a claim");
        assert_eq!((batch.tasks.len(), batch.busy, batch.scanned_to), (45 - 2 - 1, 1, None));
        assert!(batch.tasks.windows(2).all(|pair| pair[0].attempt < pair[1].attempt), "in order, each once");
        for (n, id) in ids.iter().enumerate().filter(|(n, _)| ![3, 4].contains(n)) {
            let own: Vec<_> = batch.tasks.iter().filter(|task| task.attempt.task().collection() == *id).collect();
            assert_eq!((own.len(), own[0].device.clone()), (1 + n % 2, device(n)));
            assert_eq!(own[0].method_listed, match n { 5 => Some(true), 6 => Some(false), _ => None });
            let open = db.store.open_task(id.task(0)).await.expect("a read").expect("under way");
            assert_eq!(open.lease_until, Some(NOW + MINUTE * u32::try_from(n + 1).expect("small")), "{n}");
        }
        for left in [ids[3], rival.id, other] {
            assert_eq!(db.state(left.task(0)).await, TaskState::Queued);
        }
        assert_eq!(db.store.in_flight(None).await.expect("counted").len(), 28, "counted for each");
        assert_eq!(db.store.claim_each(&requests, 100).await.expect("a claim").tasks, []);
        assert_eq!(db.store.claim_each(&[], 100).await.expect("nothing"), ClaimBatch::default());
    }

    /// Where the limit cuts, it says so, and asking again gives the rest.
    async fn a_claim_from_many_collections_keeps_to_its_limit(db) {
        let mut requests = Vec::new();
        for _ in 0..10 {
            requests.push(claim_request(db.collection(3).await, 3));
        }
        let mut seen = HashSet::new();
        for left in [30_usize, 22, 14, 6] {
            let batch = db.store.claim_each(&requests, 8).await.expect("a claim");
            assert_eq!((batch.tasks.len(), batch.scanned_to.is_some()), (left.min(8), left > 8));
            seen.extend(batch.tasks.into_iter().map(|task| task.attempt));
        }
        assert_eq!(seen.len(), 30);
        let many = vec![requests[0].clone(); MAX_CLAIM_COLLECTIONS + 1];
        let error = db.store.claim_each(&many, 8).await.expect_err("too many").to_string();
        assert!(error.contains("1000 collections"), "{error}");
        db.store.claim_each(&many[1..], 8).await.expect("as many as may be");
    }

    /// Offline devices wait; unknown ones are tried; what the birth said comes with the claim.
    async fn presence_decides_who_is_asked(db) {
        let collection = db.collection(4).await;
        let old = Presence::parse(br#"{"online":true,"proto":["1.0-311"],"methods":["pingpong"],"started":"2026-11-21T11:59:00Z"}"#).expect("a birth");
        db.store
            .record_births(&[
                Birth { device: device(0), presence: birth(), at: NOW, retained: false },
                Birth { device: device(1), presence: old, at: NOW, retained: false },
            ])
            .await
            .expect("recorded");
        db.store.record_offline(&[(device(2), NOW)]).await.expect("recorded");
        let claimed = db.claim(collection, 10).await;
        assert_eq!(claimed.iter().map(|task| task.attempt.task().ordinal()).collect::<Vec<_>>(), [0, 1, 3]);
        assert_eq!((claimed[0].wants_311, claimed[0].method_listed), (false, Some(true)));
        assert_eq!((claimed[1].wants_311, claimed[1].method_listed), (true, Some(false)), "pingpong is not ping");
        assert_eq!(claimed[1].agent_started, Some(NOW - MINUTE));
        assert_eq!((claimed[2].wants_311, claimed[2].method_listed), (false, None));
        let counters = db.store.counters(collection).await.expect("counted").expect("there");
        assert_eq!((counters.waiting, counters.queued, counters.dispatched), (1, 0, 3));

        db.store.record_seen(&[(device(2), NOW + MINUTE)]).await.expect("recorded");
        assert_eq!(db.claim(collection, 10).await.len(), 1, "a sign of life ends the waiting");
    }

    /// Skipped, finished and foreign tasks are never claimed; attempts have an end.
    async fn only_what_is_queued_is_claimed(db) {
        let mut new = new_collection(&devices(3));
        new.tasks[1].skip = Some(Reason::MethodUnsupported);
        db.store.create_collection(&new).await.expect("a collection");
        let other = db.collection(3).await;
        assert_eq!(db.claim(new.id, 10).await.len(), 2);
        assert!(db.claim(new.id, 10).await.is_empty());
        db.sql("UPDATE task SET attempt = 255").await;
        assert!(db.claim(other, 10).await.is_empty(), "no number is left for another attempt");
        db.sql("UPDATE task SET attempt = 254").await;
        assert_eq!(db.claim(other, 10).await[0].attempt.number(), 255);
    }
}

/// What a claim costs does not grow with the collection, also when the server planned it while the table was empty. Before the planner was
/// told how to walk, this read the whole collection for every hundred tasks.
#[tokio::test]
async fn claiming_reads_each_task_a_fixed_number_of_times() {
    const TASKS: i64 = 10_000;
    on_postgres(|db| async move {
        let nobody = db.collection(0).await;
        for _ in 0..10 {
            db.claim(nobody, 100).await;
        }
        let collection = db.collection(usize::try_from(TASKS).expect("small")).await;
        let mut after = None;
        loop {
            let batch = db.store.claim(&ClaimRequest { after, ..claim_request(collection, 100) }).await.expect("a claim");
            let steps: Vec<_> = batch.tasks.iter().map(|task| step(task.attempt, TaskState::Verified)).collect();
            db.store.apply(&steps).await.expect("applied");
            after = batch.scanned_to;
            if after.is_none() {
                break;
            }
        }
        let read = db.statistic("SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'task'").await;
        // Once to find it, once to dispatch it, once to finish it; and some that were looked at to find the end of a batch.
        assert!((3 * TASKS..4 * TASKS).contains(&read), "{read} rows were read for {TASKS} tasks");
    })
    .await;
}

/// Nor with the number of open collections beside those it claims from, of which each is one look at one task.
#[tokio::test]
async fn claiming_from_many_collections_reads_their_tasks_alone() {
    const COLLECTIONS: usize = 300;
    on_postgres(|db| async move {
        for _ in 0..10 {
            db.claim(CollectionId::new(), 100).await;
        }
        let mut requests = Vec::new();
        for n in 0..2 * COLLECTIONS {
            let new = new_collection(&[device(n)]);
            db.store.create_collection(&new).await.expect("a collection");
            requests.push(claim_request(new.id, 1));
        }
        for some in requests.chunks(100).take(3) {
            let batch = db.store.claim_each(some, 100).await.expect("a claim");
            assert_eq!(batch.tasks.len(), some.len());
        }
        let read = db.statistic("SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'task'").await;
        let read = usize::try_from(read).expect("a count");
        // Once to find it, once to dispatch it.
        assert!((2 * COLLECTIONS..3 * COLLECTIONS).contains(&read), "{read} rows were read for {COLLECTIONS} tasks");
    })
    .await;
}

/// Row writes per task that answers at once: one insert and two updates, however the answers come (P8).
#[tokio::test]
async fn a_task_is_written_three_times() {
    const TASKS: i64 = 2_000;
    on_postgres(|db| async move {
        let collection = db.collection(usize::try_from(TASKS).expect("small")).await;
        loop {
            let claimed = db.claim(collection, 200).await;
            if claimed.is_empty() {
                break;
            }
            let steps: Vec<_> = claimed
                .iter()
                .flat_map(|task| {
                    [TaskState::Accepted, TaskState::Uploaded, TaskState::Verified, TaskState::Verified].map(|to| step(task.attempt, to))
                })
                .collect();
            db.store.apply(&steps).await.expect("applied");
        }
        let written = db.statistic("SELECT n_tup_ins + n_tup_upd FROM pg_stat_user_tables WHERE relname = 'task'").await;
        assert_eq!(written, 3 * TASKS);
    })
    .await;
}
