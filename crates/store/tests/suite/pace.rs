//! Limits of one collection over several claimers: what all of them together do never passes them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use muster_domain::rollout::Limits;
use muster_domain::rollout::rate::burst;
use muster_store::{ClaimRequest, RECOUNT_EVERY};
use muster_wire::http::{Amount, Rate, Rollout, Stage};
use muster_wire::{CollectionId, TaskState};
use time::OffsetDateTime;

use crate::harness::*;

/// A collection with this rollout, and its limits.
async fn paced(db: &Database, devices_count: usize, in_flight: Option<u32>, rollout: Rollout) -> (CollectionId, Limits) {
    let limits = Limits::of(&rollout, in_flight, devices_count as u64).expect("it has limits");
    let new = muster_store::NewCollection { in_flight, rollout, ..new_collection(&devices(devices_count)) };
    db.store.create_collection(&new).await.expect("a collection");
    (new.id, limits)
}

on_both! {
    /// Three claimers, each with tasks that end while the others claim: the database never holds more in flight than the limit.
    async fn three_claimers_stay_within_one_window(db) {
        const TASKS: usize = 150;
        const LIMIT: u32 = 12;
        let (collection, limits) = paced(&db, TASKS, Some(LIMIT), Rollout::default()).await;
        let most = Arc::new(AtomicU64::new(0));
        let claimers: Vec<_> = (0..3)
            .map(|n| {
                let (store, limits, most) = (db.store.clone(), limits.clone(), most.clone());
                tokio::spawn(async move {
                    let owner = format!("controller-{n}");
                    let (mut mine, deadline) = (0, Instant::now() + MINUTE);
                    loop {
                        let now = OffsetDateTime::now_utc();
                        let request = ClaimRequest { owner: &owner, now, lease_until: now + MINUTE, ..claim_request(collection, 7) };
                        let claim = store.claim_paced(&request, &limits, TASKS as u64).await.expect("a claim");
                        let out = store.in_flight(None).await.expect("a count").iter().map(|(_, count)| count).sum();
                        most.fetch_max(out, Ordering::Relaxed);
                        mine += claim.batch.tasks.len();
                        let steps: Vec<_> = claim.batch.tasks.iter().map(|task| step(task.attempt, TaskState::Verified)).collect();
                        store.apply(&steps).await.expect("ended");
                        if steps.is_empty() && store.counters(collection).await.expect("counted").expect("there").queued == 0 {
                            return mine;
                        }
                        assert!(Instant::now() < deadline, "the collection does not come to an end");
                        tokio::time::sleep(claim.wait.unwrap_or_default().min(RECOUNT_EVERY)).await;
                    }
                })
            })
            .collect();
        let mut claimed = 0;
        for claimer in claimers {
            claimed += claimer.await.expect("no panic");
        }
        assert_eq!(claimed, TASKS, "each task once");
        let most = most.load(Ordering::Relaxed);
        assert!((1..=u64::from(LIMIT)).contains(&most), "{most} in flight at once, {LIMIT} allowed");
    }

    /// A window that is full stays full until something ends, however often and by whomever it is asked.
    async fn a_full_window_gives_nothing(db) {
        let (collection, limits) = paced(&db, 50, Some(10), Rollout::default()).await;
        let claim = async |owner, now| {
            let request = ClaimRequest { owner, now, ..claim_request(collection, 50) };
            db.store.claim_paced(&request, &limits, 50).await.expect("a claim")
        };
        let first = claim("a", NOW).await;
        assert_eq!((first.batch.tasks.len(), first.wait.is_some()), (10, true));
        let later = NOW + RECOUNT_EVERY * 2;
        assert_eq!(claim("b", later).await.batch.tasks.len(), 0);
        let ended: Vec<_> = first.batch.tasks[..3].iter().map(|task| step(task.attempt, TaskState::Verified)).collect();
        db.store.apply(&ended).await.expect("ended");
        assert_eq!(claim("b", later).await.batch.tasks.len(), 0, "counted a moment ago");
        assert_eq!(claim("b", later + RECOUNT_EVERY * 2).await.batch.tasks.len(), 3, "counted anew");
    }

    /// A rate holds over three claimers that ask at the same instants.
    async fn a_rate_holds_over_all_claimers(db) {
        let rate = Rate { per_minute: 600.0, ramp: None };
        let (collection, limits) = paced(&db, 3_000, None, Rollout { rate: Some(rate), ..Rollout::default() }).await;
        let mut went: Vec<(Duration, usize)> = Vec::new();
        for tick in 0..300_u32 {
            let passed = Duration::from_millis(250) * tick;
            let now = NOW + passed;
            let claims = ["a", "b", "c"].map(|owner| {
                let (store, limits) = (db.store.clone(), limits.clone());
                tokio::spawn(async move {
                    let request = ClaimRequest { owner, now, ..claim_request(collection, 100) };
                    store.claim_paced(&request, &limits, 3_000).await.expect("a claim").batch.tasks.len()
                })
            });
            for claim in claims {
                went.push((passed, claim.await.expect("no panic")));
            }
        }
        let within = |from: Duration| went.iter().filter(|(at, _)| (from..from + MINUTE).contains(at)).map(|(_, count)| count).sum::<usize>();
        for (from, _) in &went {
            assert!(within(*from) <= 600 + burst(600.0) as usize, "{} within a minute from {from:?}", within(*from));
        }
        assert!(within(Duration::ZERO) >= 590, "and it is used: {}", within(Duration::ZERO));
    }

    /// A stage bounds how far a claim reaches, whatever room there is.
    async fn a_claim_stays_within_its_stage(db) {
        let stages = vec![Stage { devices: Amount::Count(5), verified_percent: 100.0, wait_seconds: 0, manual: false }];
        let (collection, limits) = paced(&db, 40, None, Rollout { stages, ..Rollout::default() }).await;
        let claim = db.store.claim_paced(&claim_request(collection, 100), &limits, 40).await.expect("a claim");
        let places: Vec<u32> = claim.batch.tasks.iter().map(|task| task.attempt.task().ordinal()).collect();
        assert_eq!(places, [0, 1, 2, 3, 4]);
        assert_eq!(claim.batch.scanned_to, None, "the stage has an end");
    }

    /// A collection from before there were limits of its own has no row; it is counted before anything goes.
    async fn a_collection_without_a_row_is_counted_first(db) {
        let collection = db.collection(20).await;
        assert_eq!(db.claim(collection, 8).await.len(), 8);
        let limits = Limits { rate: None, in_flight: Some(10), stage_ends: Vec::new() };
        let claim = db.store.claim_paced(&claim_request(collection, 20), &limits, 20).await.expect("a claim");
        assert_eq!(claim.batch.tasks.len(), 2);
    }
}
