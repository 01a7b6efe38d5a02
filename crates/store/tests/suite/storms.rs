//! Many devices with one indicator: a sample is collected, a healthy device beside it, and the rest when somebody asks.

use std::collections::BTreeMap;

use muster_domain::consent::What;
use muster_store::{AlertFilter, AlertLimits, Taken};
use muster_wire::http::{AlertOutcome, CollectionRequest, ConsentScope, Origin, StormCollected, StormPolicy, StormRole, StormView};
use muster_wire::{Reason, TaskState};

use crate::alerts::{DOWN, HOUR, consent, fired, fleet, limits, only, outcomes, take_at, view};
use crate::harness::{Database, MINUTE, NOW, device};

/// Three devices are no storm; of one, two of each stratum and six in all.
fn stormy() -> AlertLimits {
    let storm = StormPolicy { devices: 3, within_seconds: 600, per_stratum: 2, at_most: 6, control_twin: true };
    AlertLimits { storm, ..limits() }
}

async fn storms(db: &Database) -> Vec<StormView> {
    db.store.storms(false, None, 100).await.expect("read")
}

async fn fire(db: &Database, devices: std::ops::Range<usize>, at: time::OffsetDateTime) -> Vec<Taken> {
    let alerts: Vec<_> = devices.map(|n| fired(&format!("{n}-{}", at.unix_timestamp()), n, DOWN)).collect();
    take_at(db, &alerts, &stormy(), at).await
}

on_both! {
    /// One storm, whether its alerts come in one batch or one by one; sampled by stratum.
    async fn a_sample_is_collected(db) {
        use AlertOutcome::{Collected, OnDemand};
        fleet(&db, 20).await;
        let mut taken = fire(&db, 0..2, NOW).await;
        taken.extend(fire(&db, 2..3, NOW + MINUTE).await);
        assert!(storms(&db).await.is_empty());
        // The fourth makes it one. Sites alternate: before it there were two of site-0 and one of site-1.
        taken.extend(fire(&db, 3..6, NOW + 2 * MINUTE).await);
        taken.extend(fire(&db, 6..10, NOW + 3 * MINUTE).await);
        assert_eq!(outcomes(&taken), [Collected, Collected, Collected, Collected, OnDemand, OnDemand, OnDemand, OnDemand, OnDemand, OnDemand]);
        assert!(only(&taken[3]).why.starts_with("by the catalogue, in the sample of a storm"), "{}", only(&taken[3]).why);
        assert_eq!(only(&taken[4]).why, "a storm, of whose devices of this version, site and model 2 are collected; at most 2");
        let all = storms(&db).await;
        assert_eq!(all.len(), 1);
        let storm = db.store.storm(all[0].id).await.expect("read").expect("there");
        assert_eq!((storm.devices, storm.collected, storm.on_demand, storm.twins), (10, 4, 6, 0));
        assert_eq!((storm.indicator.as_str(), storm.tenant.as_deref()), (DOWN, Some("contoso")));
        assert_eq!(storm.why, "4 devices in 10m, of 3");
        assert_eq!((storm.opened_at, storm.last_at, storm.closed_at), (NOW + 2 * MINUTE, NOW + 3 * MINUTE, None));
        let strata: BTreeMap<_, _> = storm.strata.iter().map(|s| (s.site.clone().expect("a site"), (s.devices, s.collected))).collect();
        assert_eq!(strata, [("site-0".to_owned(), (5, 2)), ("site-1".to_owned(), (5, 2))].into());
        for taken in &taken {
            assert_eq!(view(&db, only(taken)).await.storm, Some(storm.id), "those before it are part of it");
        }
        let filter = AlertFilter { storm: Some(storm.id), outcome: Some(OnDemand), limit: 100, ..AlertFilter::default() };
        assert_eq!(db.store.alerts(&filter).await.expect("read").len(), 6);
        // It is over when none came for ten minutes.
        assert_eq!(db.store.decide_due(&stormy(), NOW + 13 * MINUTE).await.expect("decided").len(), 2, "two twins");
        assert_eq!(storms(&db).await[0].closed_at, None);
        db.store.decide_due(&stormy(), NOW + 13 * MINUTE + MINUTE).await.expect("decided");
        assert_eq!(storms(&db).await[0].closed_at, Some(NOW + 13 * MINUTE));
        assert!(db.store.storms(true, None, 100).await.expect("read").is_empty());
        // The next one is another.
        fire(&db, 10..14, NOW + 3 * HOUR).await;
        assert_eq!(storms(&db).await.len(), 2);
    }

    /// In one batch it is the same, and a storm nobody closed is over all the same.
    async fn a_storm_in_one_batch(db) {
        fleet(&db, 12).await;
        let taken = fire(&db, 0..12, NOW).await;
        let collected = outcomes(&taken).iter().filter(|outcome| **outcome == AlertOutcome::Collected).count();
        assert_eq!(collected, 4);
        fire(&db, 0..12, NOW + MINUTE).await;
        let storm = &storms(&db).await[0];
        assert_eq!((storm.devices, storm.collected, storm.on_demand), (12, 4, 8), "each device counts once");
        fire(&db, 5..6, NOW + 12 * MINUTE).await;
        let all = storms(&db).await;
        assert_eq!((all.len(), all[0].closed_at), (1, Some(NOW + 11 * MINUTE)));
    }

    /// A healthy device is collected beside the first of each stratum, and it is told where there is none.
    async fn a_healthy_device_beside_the_others(db) {
        fleet(&db, 9).await;
        // The last of site-0 has not consented, so that one of site-1 is taken; then none is left.
        consent(&db.store, ConsentScope::Device { id: device(8) }, What::Disable).await;
        fire(&db, 0..7, NOW).await;
        assert_eq!(db.store.decide_due(&stormy(), NOW + std::time::Duration::from_secs(4)).await.expect("decided"), []);
        let at = NOW + std::time::Duration::from_secs(5);
        let made = db.store.decide_due(&stormy(), at).await.expect("decided");
        assert_eq!(made.len(), 1);
        let storm = db.store.storm(storms(&db).await[0].id).await.expect("read").expect("there");
        assert_eq!(storm.twins, 1);
        let (with, without): (Vec<_>, Vec<_>) = storm.strata.iter().partition(|stratum| stratum.twin.is_some());
        assert_eq!((with[0].twin.clone(), with[0].twin_collection), (Some(device(7)), Some(made[0])));
        assert_eq!(without[0].no_twin.as_deref(), Some("no online device of this version and model has consented and raised nothing"));
        let collection = db.store.collection(made[0]).await.expect("read").expect("there");
        assert_eq!(collection.origin, Origin::Storm { storm: storm.id, indicator: DOWN.to_owned(), role: StormRole::Twin });
        let CollectionRequest::UploadLogs { items, .. } = &collection.request else { panic!("{:?}", collection.request) };
        assert_eq!(items[0].filter.since.as_deref(), Some("2026-11-21T10:00:00Z"));
        assert_eq!(db.store.decide_due(&stormy(), at).await.expect("decided"), [], "once");
    }

    /// The rest of a storm is one collection; who withdrew meanwhile is skipped.
    async fn the_rest_is_asked_for(db) {
        fleet(&db, 12).await;
        let taken = fire(&db, 0..12, NOW).await;
        let storm = storms(&db).await[0].id;
        consent(&db.store, ConsentScope::Device { id: device(11) }, What::Disable).await;
        let collected = db.store.collect_storm(storm, "ada", &stormy(), NOW + MINUTE).await.expect("asked").expect("a storm");
        assert_eq!((collected.devices, collected.skipped), (8, 1));
        let id = collected.collection.expect("one");
        let collection = db.store.collection(id).await.expect("read").expect("there");
        assert_eq!(collection.origin, Origin::Storm { storm, indicator: DOWN.to_owned(), role: StormRole::Rest });
        assert_eq!(collection.created_by, "ada");
        let task = db.store.task(id.task(7)).await.expect("read").expect("there").task;
        assert_eq!((task.device, task.state, task.reason), (device(11), TaskState::Skipped, Some(Reason::ConsentMissing)));
        let alert = view(&db, only(&taken[5])).await;
        assert_eq!((alert.outcome, alert.why.as_str(), alert.collection), (AlertOutcome::Collected, "asked for by ada", Some(id)));
        assert_eq!(view(&db, only(&taken[11])).await.outcome, AlertOutcome::OnDemand);
        let view = &storms(&db).await[0];
        assert_eq!((view.collected, view.on_demand, view.rest), (11, 1, Some(id)));
        // Nobody is left who agrees.
        let again = db.store.collect_storm(storm, "ada", &stormy(), NOW + MINUTE).await.expect("asked").expect("a storm");
        assert_eq!(again, StormCollected { collection: None, devices: 1, skipped: 1 });
        // What was asked for counts as a collection of the device.
        let again = take_at(&db, &[fired("again", 5, DOWN)], &stormy(), NOW + MINUTE).await;
        assert_eq!((only(&again[0]).outcome, only(&again[0]).collection), (AlertOutcome::Coalesced, Some(id)));
        assert!(db.store.collect_storm(muster_wire::StormId::new(), "ada", &stormy(), NOW).await.expect("asked").is_none());
    }

    /// Another tenant, or another indicator, is another storm; at most so many of one.
    async fn storms_are_of_one_tenant_and_indicator(db) {
        fleet(&db, 40).await;
        for n in 20..40 {
            let tags = serde_json::json!({"tenant": "contoso", "site": format!("site-{n}")});
            let entry = muster_store::DeviceEntry { device: device(n), tags: Some(tags), parent: None };
            db.store.change_devices(&[entry], "ada", NOW).await.expect("tagged");
        }
        let taken = fire(&db, 20..40, NOW).await;
        let collected = outcomes(&taken).iter().filter(|outcome| **outcome == AlertOutcome::Collected).count();
        assert_eq!(collected, 6, "each is a stratum of its own, and six are enough");
        assert_eq!(only(&taken[19]).why, "a storm, of which 6 devices are collected; at most 6");
        take_at(&db, &[fired("other", 0, crate::alerts::ACS)], &stormy(), NOW).await;
        assert_eq!(storms(&db).await.len(), 1);
    }
}
