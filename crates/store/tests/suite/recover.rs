//! Taking up what somebody else began.

use std::time::Duration;

use muster_store::{Looking, TakeRequest};
use muster_wire::TaskState;

use crate::harness::*;

const LOOKING: Looking = Looking { first: Duration::from_secs(30), max: Duration::from_secs(300), grace: Duration::from_secs(940) };

fn take(now: time::OffsetDateTime) -> TakeRequest<'static> {
    TakeRequest { after: None, limit: 100, owner: "controller-b", now, lease_until: now + MINUTE }
}

on_both! {
    /// Attempts nobody heard of fall to one looker each, and all of them at once when their controller died.
    async fn silent_attempts_fall_to_one_looker(db) {
        let collection = db.collection(40).await;
        let claimed = db.claim(collection, 30).await;
        let mut accepted = step(claimed[1].attempt, TaskState::Accepted);
        accepted.correlation_id = Some("c".to_owned());
        db.store.apply(&[accepted, step(claimed[2].attempt, TaskState::Uploaded), step(claimed[3].attempt, TaskState::Verified)]).await.expect("applied");
        assert!(db.store.take_silent(&take(NOW), &LOOKING).await.expect("taken").tasks.is_empty(), "their time is not up");
        let lookers: Vec<_> = (0..3)
            .map(|_| {
                let store = db.store.clone();
                tokio::spawn(async move { store.take_silent(&take(NOW + MINUTE), &LOOKING).await.expect("taken").tasks })
            })
            .collect();
        let mut taken = Vec::new();
        for looker in lookers {
            taken.extend(looker.await.expect("no panic"));
        }
        taken.sort_by_key(|task| task.attempt);
        assert_eq!(taken.len(), 28, "dispatched and accepted ones, each once");
        let accepted = taken.iter().find(|task| task.attempt == claimed[1].attempt).expect("taken");
        assert_eq!((accepted.state, accepted.correlation_id.as_deref(), accepted.accepted_at), (TaskState::Accepted, Some("c"), Some(NOW)));

        assert_eq!(db.store.release_leases("controller-a").await.expect("released"), 0, "they are another's now");
        assert!(db.store.take_silent(&take(NOW + MINUTE), &LOOKING).await.expect("taken").tasks.is_empty());
        assert_eq!(db.store.release_leases("controller-b").await.expect("released"), 28);
        assert_eq!(db.store.take_silent(&take(NOW + MINUTE), &LOOKING).await.expect("taken").tasks.len(), 28);
    }

    /// Page by page over all open collections, each attempt by the time its own collection gives it.
    async fn silent_attempts_of_many_collections_are_taken_page_by_page(db) {
        let mut patient = new_collection(&[device(0)]);
        patient.attempt_timeout = MINUTE * 10;
        db.store.create_collection(&patient).await.expect("a collection");
        let mut ids = vec![patient.id];
        for n in 0..6 {
            ids.push(db.collection(1 + n % 3).await);
        }
        for id in &ids {
            db.claim(*id, 3).await;
        }
        let looking = Looking { first: MINUTE, max: MINUTE * 60, grace: Duration::from_secs(5) };
        let mut request = TakeRequest { limit: 5, ..take(NOW + MINUTE) };
        let mut taken = Vec::new();
        for left in [13_usize, 8, 3] {
            let page = db.store.take_silent(&request, &looking).await.expect("taken");
            assert_eq!((page.tasks.len(), page.scanned_to.is_some()), (left.min(5), left > 5));
            request.after = page.scanned_to;
            taken.extend(page.tasks);
        }
        assert!(taken.windows(2).all(|pair| pair[0].attempt < pair[1].attempt), "in order, each once");
        for task in taken {
            let due = if task.attempt.task().collection() == patient.id { NOW + MINUTE * 2 } else { NOW + MINUTE + Duration::from_secs(5) };
            assert_eq!(task.lease_until, Some(due));
        }
    }

    /// Looks become rarer with age, within bounds, and one falls on the moment the attempt is given up.
    async fn looks_become_rarer_and_do_not_miss_the_end(db) {
        let collection = db.collection(1).await;
        db.claim(collection, 1).await;
        let seconds = |n: u64| std::time::Duration::from_secs(n);
        // Sent at 0; looked at after so many seconds; the next look is due then.
        for (now, due) in [(60, 120), (120, 240), (240, 480), (480, 780), (780, 1000), (1000, 1300), (1300, 1600)] {
            let taken = db.store.take_silent(&take(NOW + seconds(now)), &LOOKING).await.expect("taken").tasks;
            assert_eq!(taken.first().and_then(|task| task.lease_until), Some(NOW + seconds(due)), "at {now} s");
            let early = NOW + seconds(due) - std::time::Duration::from_millis(1);
            assert!(db.store.take_silent(&take(early), &LOOKING).await.expect("taken").tasks.is_empty(), "at {now} s");
        }
    }

    /// A task under way is found by its id, and only while it is under way.
    async fn a_task_under_way_is_found(db) {
        let collection = db.collection(2).await;
        assert_eq!(db.store.open_task(collection.task(0)).await.expect("a read"), None);
        let claimed = db.claim(collection, 1).await;
        let open = db.store.open_task(collection.task(0)).await.expect("a read").expect("under way");
        assert_eq!((open.attempt, open.state, open.lease_until), (claimed[0].attempt, TaskState::Dispatched, Some(NOW + MINUTE)));
        db.store.apply(&[step(claimed[0].attempt, TaskState::Verified)]).await.expect("applied");
        assert_eq!(db.store.open_task(collection.task(0)).await.expect("a read"), None);
    }

    /// Uploads wait for a judge; a judge that dies is replaced.
    async fn uploads_are_judged_by_one(db) {
        let collection = db.collection(3).await;
        let claimed = db.claim(collection, 3).await;
        let mut kept = step(claimed[1].attempt, TaskState::Uploaded);
        kept.lease_until = Some(NOW + MINUTE);
        db.store.apply(&[step(claimed[0].attempt, TaskState::Uploaded), kept]).await.expect("applied");
        let taken = |batch: muster_store::OpenTasks| batch.tasks.iter().map(|task| task.attempt.task().ordinal()).collect::<Vec<_>>();
        assert_eq!(taken(db.store.take_uploaded(&take(NOW)).await.expect("taken")), [0]);
        assert!(db.store.take_uploaded(&take(NOW)).await.expect("taken").tasks.is_empty());
        assert_eq!(taken(db.store.take_uploaded(&take(NOW + MINUTE)).await.expect("taken")), [0, 1]);
    }

    /// What is under way can be counted, for one controller and for all.
    async fn what_is_under_way_is_known_after_a_restart(db) {
        let collection = db.collection(25).await;
        db.collection(2).await;
        let claimed = db.claim(collection, 20).await;
        let steps: Vec<_> = claimed[..15].iter().map(|task| step(task.attempt, TaskState::Accepted)).collect();
        db.store.apply(&steps).await.expect("applied");
        assert_eq!(db.store.in_flight(None).await.expect("counted"), [(collection, 20)]);
        assert_eq!(db.store.in_flight(Some("controller-a")).await.expect("counted"), [(collection, 20)]);
        assert!(db.store.in_flight(Some("nobody")).await.expect("counted").is_empty());
    }
}
