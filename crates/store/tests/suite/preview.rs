//! What is known before a collection is made, on both databases.

use std::time::Duration;

use muster_domain::estimate::{Past, Reach};
use muster_store::{ClaimRequest, DeviceEntry, Step};
use muster_wire::TaskState;
use muster_wire::http::{CollectionRequest, Verdict};

use serde_json::json;

use crate::harness::*;
use crate::seal::seal;

on_both! {
    /// Busy is who holds a slot now: not who never had one, whose time is over, or who is done.
    async fn busy_is_who_works_on_a_bundle(db) {
        let collection = db.collection(3).await;
        let request = ClaimRequest { device_until: Some(NOW + MINUTE), ..claim_request(collection, 2) };
        let claimed = db.store.claim(&request).await.expect("a claim").tasks;
        let busy = async |now| {
            let mut busy = db.store.busy_devices(&devices(4), now).await.expect("asked");
            busy.sort_unstable();
            busy
        };
        assert_eq!(busy(NOW).await, devices(2));
        assert_eq!(busy(NOW + MINUTE).await, [], "given up");
        db.store.apply(&[Step { releases_slot: true, ..step(claimed[0].attempt, TaskState::Failed) }]).await.expect("applied");
        assert_eq!(busy(NOW).await, [device(1)]);
        assert_eq!(db.store.busy_devices(&[], NOW).await.expect("asked"), []);
        assert_eq!(db.store.busy_devices(&[device(0)], NOW).await.expect("asked"), [], "of those asked for");
    }

    /// Bundles of the same kind of request count, by model and by how far back they reach, and no others.
    async fn past_bundles_are_of_the_same_kind(db) {
        assert_eq!(db.store.past_bundles("ping").await.expect("asked"), []);
        for (number, model) in [(0, "m1"), (1, "m2")] {
            let entry = DeviceEntry { device: device(number), tags: Some(json!({ "model": model })), parent: None };
            db.store.enter_devices(&[entry], "somebody", NOW).await.expect("entered");
        }
        let other = muster_store::NewCollection {
            request: CollectionRequest::Bundle { since: Some("2026-11-21T10:00:00Z".to_owned()), edge_runtime_only: false },
            created_at: time::macros::datetime!(2026-11-21 12:00 UTC),
            ..new_collection(&devices(1))
        };
        db.store.create_collection(&other).await.expect("a collection");
        let same = db.collection(3).await;
        for (collection, took) in [(same, 2), (other.id, 50)] {
            let seals: Vec<_> = db.claim(collection, 3).await.iter().zip(1..).map(|(task, n)| {
                let mut seal = seal(task.attempt, task.device.clone(), Verdict::Complete);
                seal.manifest.sealed_at = NOW + Duration::from_secs(took * n);
                seal
            }).collect();
            db.store.seal(&seals).await.expect("sealed");
        }
        let size = 3_000_001_000;
        let past = |model: Option<&str>, seconds, ms| {
            let reach = Reach { seconds: Some(seconds), lines: None };
            Past { model: model.map(str::to_owned), reach, count: 1, bytes: size, ms }
        };
        let mut pings = db.store.past_bundles("ping").await.expect("asked");
        pings.sort_by_key(|past| past.ms);
        assert_eq!(pings, [past(Some("m1"), 0, 2_000), past(Some("m2"), 0, 4_000), past(None, 0, 6_000)]);
        assert_eq!(db.store.past_bundles("bundle").await.expect("asked"), [past(Some("m1"), 7_200, 50_000)]);
        assert_eq!(db.store.past_bundles("logs").await.expect("asked"), []);

        let all = devices(4);
        let mut models = db.store.models_of(&all.iter().collect::<Vec<_>>()).await.expect("asked");
        models.sort();
        assert_eq!(models, [(None, 2), (Some("m1".to_owned()), 1), (Some("m2".to_owned()), 1)]);
    }
}
