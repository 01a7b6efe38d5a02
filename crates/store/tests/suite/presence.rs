//! Births, wills, signs of life.

use std::time::Duration;

use muster_store::{Birth, DeviceFilter};
use muster_wire::http::PresenceState;
use muster_wire::presence::Presence;

use crate::harness::*;

fn born(n: usize, at: time::OffsetDateTime) -> Birth {
    Birth { device: device(n), presence: birth(), at, retained: false }
}

on_both! {
    /// Everything a birth says is kept.
    async fn a_birth_fills_the_registry(db) {
        let presence = Presence::parse(
            br#"{"online":true,"proto":["1.0"],"methods":["ping"],"agent":{"name":"edge","version":"2"},"started":"2026-11-21T11:00:00Z","clock":"2026-11-21T12:00:03Z","reported":{"firmware":"1.4"},"proactiveConsent":"enabled"}"#,
        )
        .expect("a birth");
        db.store.record_births(&[Birth { device: device(1), presence: presence.clone(), at: NOW, retained: false }]).await.expect("recorded");
        let view = db.store.device(&device(1)).await.expect("a read").expect("there");
        assert_eq!((view.presence, view.last_seen, view.first_seen), (PresenceState::Online, Some(NOW), NOW));
        assert_eq!((view.methods, view.started, view.clock_skew_ms), (vec!["ping".to_owned()], Some(NOW - 60 * MINUTE), Some(3000)));
        assert_eq!((view.agent, view.reported), (presence.agent.clone(), presence.reported.clone()));
        assert_eq!(view.tags, serde_json::json!({}));
        // Kept by the broker and heard again later: its clock is old news.
        db.store.record_births(&[Birth { device: device(1), presence, at: NOW + MINUTE, retained: true }]).await.expect("recorded");
        let view = db.store.device(&device(1)).await.expect("a read").expect("there");
        assert_eq!((view.clock_skew_ms, view.last_seen, view.first_seen), (Some(3000), Some(NOW + MINUTE), NOW));
        assert!(db.store.device(&device(9)).await.expect("a read").is_none());
    }

    /// The last message received wins, in whatever order they are written.
    async fn the_last_received_wins(db) {
        let state = async |n: usize| db.store.device(&device(n)).await.expect("a read").expect("there").presence;
        db.store.record_births(&[born(0, NOW)]).await.expect("recorded");
        db.store.record_offline(&[(device(0), NOW + MINUTE)]).await.expect("recorded");
        assert_eq!(state(0).await, PresenceState::Offline);
        db.store.record_births(&[born(0, NOW + MINUTE / 2)]).await.expect("recorded");
        assert_eq!(state(0).await, PresenceState::Offline, "a late writer changes nothing");
        db.store.record_seen(&[(device(0), NOW + MINUTE / 2)]).await.expect("recorded");
        assert_eq!(state(0).await, PresenceState::Offline);
        // Both in one batch, the will first in it and last in time.
        let will = Birth { device: device(1), presence: Presence::will(), at: NOW + MINUTE, retained: false };
        db.store.record_births(&[will, born(1, NOW), born(0, NOW + 2 * MINUTE)]).await.expect("recorded");
        assert_eq!((state(0).await, state(1).await), (PresenceState::Online, PresenceState::Offline));
        db.store.record_seen(&[(device(1), NOW + 2 * MINUTE), (device(2), NOW)]).await.expect("recorded");
        assert_eq!((state(1).await, state(2).await), (PresenceState::Online, PresenceState::Online));
    }

    /// What was seen earlier and is told later changes nothing.
    async fn signs_of_life_do_not_go_back(db) {
        db.store.record_births(&[born(0, NOW)]).await.expect("recorded");
        let seen = async || db.store.device(&device(0)).await.expect("a read").expect("there").last_seen;
        db.store.record_seen(&[(device(0), NOW + Duration::from_secs(30))]).await.expect("recorded");
        assert_eq!(seen().await, Some(NOW + Duration::from_secs(30)));
        db.store.record_seen(&[(device(0), NOW + Duration::from_secs(29))]).await.expect("recorded");
        assert_eq!(seen().await, Some(NOW + Duration::from_secs(30)));
    }

    /// A whole fleet returns at once, heard by two controllers.
    async fn a_storm_of_births(db) {
        const FLEET: usize = 3_000;
        let controllers: Vec<_> = (0..2)
            .map(|n| {
                let store = db.store.clone();
                tokio::spawn(async move {
                    let births: Vec<Birth> = (0..FLEET).map(|i| born(if n == 0 { i } else { FLEET - 1 - i }, NOW + MINUTE * n)).collect();
                    store.record_births(&births).await.expect("recorded");
                })
            })
            .collect();
        for controller in controllers {
            controller.await.expect("no panic");
        }
        let mut ids = Vec::new();
        while let Ok(page) = db.store.all_device_ids(ids.last(), 1_000).await {
            if page.is_empty() {
                break;
            }
            ids.extend(page);
        }
        assert_eq!(ids, devices(FLEET));
        let known = db.store.known_devices(&[device(5), device(FLEET), device(6)]).await.expect("looked up");
        assert_eq!(known.len(), 2);
        assert!(known.iter().all(|known| known.presence == PresenceState::Online && known.proto == ["1.0"]));
        assert_eq!(known[0].methods.as_deref(), Some(&["ping".to_owned(), "UploadSupportBundle".to_owned()][..]));
    }

    /// Registered, listed, filtered, paged.
    async fn the_registry_is_listed(db) {
        db.register(&devices(12)).await;
        db.register(&devices(13)).await;
        db.store.record_births(&[born(3, NOW)]).await.expect("recorded");
        db.store.record_offline(&[(device(4), NOW)]).await.expect("recorded");
        let list = async |filter: DeviceFilter| { db.store.devices(&filter).await.expect("a read").into_iter().map(|view| view.id).collect::<Vec<_>>() };
        let all = DeviceFilter { limit: 100, ..DeviceFilter::default() };
        assert_eq!(list(all.clone()).await, devices(13));
        assert_eq!(list(DeviceFilter { after: Some(device(9)), limit: 2, ..all.clone() }).await, [device(10), device(11)]);
        assert_eq!(list(DeviceFilter { presence: Some(PresenceState::Online), ..all.clone() }).await, [device(3)]);
        assert_eq!(list(DeviceFilter { presence: Some(PresenceState::Offline), ..all.clone() }).await, [device(4)]);
        assert_eq!(list(DeviceFilter { prefix: Some("press-0001".to_owned()), ..all.clone() }).await, [device(10), device(11), device(12)]);
        for nothing in ["press%", "x", "\0", "a b"] {
            assert!(list(DeviceFilter { prefix: Some(nothing.to_owned()), ..all.clone() }).await.is_empty(), "{nothing:?}");
        }
        let known = db.store.known_devices(&[device(0)]).await.expect("looked up");
        assert_eq!((known[0].presence, known[0].methods.clone()), (PresenceState::Unknown, None), "never born");
    }
}
