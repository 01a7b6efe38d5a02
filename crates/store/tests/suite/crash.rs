//! Whoever dies in the middle leaves either all of a call behind or nothing of it.

use std::time::Duration;

use muster_store::{Birth, ClaimRequest, Store, StoreOptions};
use muster_wire::TaskState;

use crate::harness::*;

on_both! {
    /// Calls cut off at random moments: nothing half-written, nothing locked for ever.
    async fn a_call_cut_off_anywhere_is_all_or_nothing(db) {
        const TASKS: u64 = 400;
        let collection = db.collection(TASKS as usize).await;
        for micros in (0..40).map(|n| n * 300) {
            let cut = Duration::from_micros(micros);
            let claimed = tokio::time::timeout(cut, db.store.claim(&ClaimRequest { device_until: Some(NOW + MINUTE), ..claim_request(collection, 20) })).await;
            if let Ok(claimed) = claimed {
                let steps: Vec<_> = claimed.expect("a claim").tasks.iter().map(|task| step(task.attempt, TaskState::Verified)).collect();
                tokio::time::timeout(cut, db.store.apply(&steps)).await.ok();
            }
            tokio::time::timeout(cut, db.store.create_collection(&new_collection(&devices(50)))).await.ok();
            let births: Vec<Birth> = devices(30).into_iter().map(|device| Birth { device, presence: birth(), at: NOW, retained: false }).collect();
            tokio::time::timeout(cut, db.store.record_births(&births)).await.ok();
        }
        let counters = db.store.counters(collection).await.expect("it adds up").expect("there");
        assert_eq!((counters.sum(), counters.dispatched % 20, counters.verified % 20), (TASKS, 0, 0), "batches are whole: {counters:?}");
        for open in db.store.open_collections().await.expect("a read") {
            assert_eq!(db.store.counters(open.id).await.expect("it adds up").expect("there").sum(), open.targeted);
        }
    }

    /// A second program on the same database sees everything, and takes up what the first left.
    async fn another_program_goes_on(db) {
        let collection = db.collection(10).await;
        let claimed = db.claim(collection, 4).await;
        let heir = Store::connect(&StoreOptions::new(&db.url)).await.expect("opened");
        heir.migrate().await.expect("nothing to do");
        assert_eq!(heir.in_flight(Some("controller-a")).await.expect("counted"), [(collection, 4)]);
        let late = heir.apply(&[step(claimed[0].attempt, TaskState::Verified)]).await.expect("applied");
        assert_eq!(late, [muster_store::StepOutcome::Applied], "an answer is an answer, whoever hears it");
        let request = ClaimRequest { owner: "controller-b", ..claim_request(collection, 100) };
        assert_eq!(heir.claim(&request).await.expect("a claim").tasks.len(), 6);
        heir.close().await;
    }
}

#[tokio::test]
async fn a_connection_killed_by_the_server_is_transient_and_the_next_one_works() {
    on_postgres(|db| async move {
        let collection = db.collection(5).await;
        let mut failures = 0;
        for _ in 0..10 {
            db.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
                .await;
            match db.store.claim(&claim_request(collection, 1)).await {
                Ok(_) => {}
                Err(error) => {
                    assert!(error.is_transient(), "{error:?}");
                    failures += 1;
                }
            }
        }
        assert!(failures <= 10);
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while let Err(error) = db.store.ping().await {
            assert!(error.is_transient(), "{error:?}");
            assert!(std::time::Instant::now() < deadline, "no connection came back");
        }
        let counters = db.store.counters(collection).await.expect("it adds up").expect("there");
        assert_eq!(counters.sum(), 5);
    })
    .await;
}
