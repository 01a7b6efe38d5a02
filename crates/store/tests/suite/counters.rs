//! Counters add up at every instant, also while everything moves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use muster_store::{ClaimRequest, StoreError};
use muster_wire::TaskState;

use crate::harness::*;

on_both! {
    /// Claimers, finishers, failers and an offline storm, with somebody counting all the time.
    async fn they_add_up_while_everything_moves(db) {
        const TASKS: usize = 600;
        let collection = db.collection(TASKS).await;
        db.register(&devices(TASKS)).await;
        let stop = Arc::new(AtomicBool::new(false));
        let counter = {
            let (store, stop) = (db.store.clone(), stop.clone());
            tokio::spawn(async move {
                let mut counted = 0;
                while !stop.load(Ordering::Relaxed) {
                    let counters = store.counters(collection).await.expect("they add up").expect("there");
                    assert_eq!(counters.sum(), TASKS as u64);
                    counted += 1;
                }
                counted
            })
        };
        let weather = {
            let (store, stop) = (db.store.clone(), stop.clone());
            tokio::spawn(async move {
                let mut at = NOW;
                while !stop.load(Ordering::Relaxed) {
                    at += MINUTE;
                    let some: Vec<_> = devices(100).into_iter().map(|device| (device, at)).collect();
                    store.record_offline(&some).await.expect("recorded");
                    let some: Vec<_> = some.into_iter().map(|(device, at)| (device, at + MINUTE / 2)).collect();
                    store.record_seen(&some).await.expect("recorded");
                }
            })
        };
        let movers: Vec<_> = (0..3)
            .map(|n| {
                let store = db.store.clone();
                tokio::spawn(async move {
                    let owner = format!("controller-{n}");
                    for round in 0..40_usize {
                        let batch = store.claim(&ClaimRequest { owner: &owner, ..claim_request(collection, 30) }).await.expect("a claim");
                        let steps: Vec<_> = batch
                            .tasks
                            .iter()
                            .enumerate()
                            .map(|(i, task)| match (round + i) % 4 {
                                0 => step(task.attempt, TaskState::Queued),
                                1 => step(task.attempt, TaskState::Uploaded),
                                2 => step(task.attempt, TaskState::Failed),
                                _ => step(task.attempt, TaskState::Verified),
                            })
                            .collect();
                        store.apply(&steps).await.expect("applied");
                    }
                })
            })
            .collect();
        for mover in movers {
            mover.await.expect("no panic");
        }
        stop.store(true, Ordering::Relaxed);
        weather.await.expect("no panic");
        assert!(counter.await.expect("always added up") > 0);
    }

    /// A lost row is an error and not a smaller number.
    async fn a_lost_task_is_noticed(db) {
        let collection = db.collection(3).await;
        db.sql("DELETE FROM task WHERE device_id = 'press-00001'").await;
        let error = db.store.counters(collection).await.expect_err("it does not add up");
        assert!(matches!(error, StoreError::Inconsistent(_)) && !error.is_transient(), "{error}");
    }
}
