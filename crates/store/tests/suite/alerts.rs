//! Alerts: what is decided about each, and what follows.

use std::time::Duration;

use muster_domain::consent::{By, What};
use muster_store::{AlertLimits, Deciding, DeviceEntry, MAX_ALERTS, ReceivedAlert, Store, StoreError, Taken};
use muster_wire::alert::{Alert, AlertCondition, AlertVia, Poison};
use muster_wire::http::{
    Actor, AlertOutcome, AlertView, AnsweredAlert, Channel, CollectionRequest, ConsentKind, ConsentScope, Origin, Role, StormPolicy,
};
use muster_wire::{CollectionId, TaskState};
use serde_json::json;
use time::OffsetDateTime;
use time::macros::datetime;

use crate::harness::{Database, MINUTE, NOW, birth, device, devices};

pub(crate) const DOWN: &str = "IOTEdgeAgentNotRunningCondition";
pub(crate) const ACS: &str = "AcsUnhealthyCondition";
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn limits() -> AlertLimits {
    AlertLimits {
        max_age: 24 * HOUR,
        expires_after: 24 * HOUR,
        attempt_timeout: MINUTE,
        max_attempts: 3,
        per_day: 1_000,
        per_tenant_per_day: 1_000,
        storm: StormPolicy::default(),
    }
}

/// Devices of a tenant and two sites, online, whose owner agreed.
pub(crate) async fn fleet(db: &Database, count: usize) {
    fleet_without_consent(db, count).await;
    consent(&db.store, ConsentScope::Tenant { id: "contoso".to_owned() }, What::Enable).await;
    db.sql("UPDATE device SET consent = 'enabled'").await;
}

pub(crate) async fn fleet_without_consent(db: &Database, count: usize) {
    let born = |device| muster_store::Birth { device, presence: birth(), at: NOW, retained: false };
    db.store.record_births(&devices(count).into_iter().map(born).collect::<Vec<_>>()).await.expect("born");
    let entry = |n: usize| DeviceEntry {
        device: device(n),
        tags: Some(json!({"tenant": "contoso", "site": format!("site-{}", n % 2), "model": "press"})),
        parent: None,
    };
    db.store.change_devices(&(0..count).map(entry).collect::<Vec<_>>(), "ada", NOW).await.expect("tagged");
}

pub(crate) async fn consent(store: &Store, scope: ConsentScope, what: What) {
    let deciding = Deciding {
        kind: ConsentKind::Proactive,
        scope,
        what,
        by: By::Customer,
        actor: Actor { id: "ada@contoso.example".to_owned(), role: Role::TenantOwner, auth: None },
        channel: Channel::Portal,
        recorded_by: "ops".to_owned(),
        tenant: None,
        terms_version: None,
        locale: None,
        expires_at: None,
        reason: None,
        case: None,
        expect_version: None,
    };
    let decided = store.decide_consent(&deciding, NOW).await.expect("asked");
    assert!(matches!(decided, muster_store::Decided::Recorded { .. }), "{decided:?}");
}

pub(crate) fn fired(id: &str, n: usize, indicator: &str) -> Alert {
    Alert::fired("/test", id, device(n).as_str(), indicator, NOW)
}

pub(crate) fn received(alert: &Alert) -> ReceivedAlert<'_> {
    ReceivedAlert { alert, via: AlertVia::Http, tenant: None, speaks_for: None, received_at: NOW }
}

pub(crate) async fn take_at(db: &Database, alerts: &[Alert], limits: &AlertLimits, now: OffsetDateTime) -> Vec<Taken> {
    let all: Vec<_> = alerts.iter().map(|alert| ReceivedAlert { received_at: now, ..received(alert) }).collect();
    db.store.take_alerts(&all, limits, now).await.expect("taken")
}

pub(crate) async fn take(db: &Database, alerts: &[Alert]) -> Vec<Taken> {
    take_at(db, alerts, &limits(), NOW).await
}

/// What was decided about an event of one device.
pub(crate) fn only(taken: &Taken) -> &AnsweredAlert {
    match taken {
        Taken::Decided(answers) if answers.len() == 1 => &answers[0],
        other => panic!("not one decision: {other:?}"),
    }
}

pub(crate) fn outcomes(taken: &[Taken]) -> Vec<AlertOutcome> {
    taken.iter().map(|taken| only(taken).outcome).collect()
}

pub(crate) async fn view(db: &Database, answer: &AnsweredAlert) -> AlertView {
    db.store.alert(answer.id).await.expect("read").expect("an alert")
}

/// How many collections there are.
pub(crate) async fn count(db: &Database) -> usize {
    let filter = muster_store::CollectionFilter { limit: 500, ..Default::default() };
    db.store.collections(&filter).await.expect("read").len()
}

/// Ends the only task of a collection.
pub(crate) async fn end(db: &Database, collection: CollectionId, at: OffsetDateTime) {
    db.force(collection.task(0), TaskState::Verified).await;
    let ms = at.unix_timestamp() * 1000;
    let id = match db.store.dialect() {
        muster_store::Dialect::Postgres => format!("'{}'", collection.task(0).uuid()),
        muster_store::Dialect::Sqlite => format!("x'{}'", collection.task(0).uuid().simple()),
    };
    assert_eq!(db.sql(&format!("UPDATE task SET finished_at = {ms} WHERE id = {id}")).await, 1);
}

on_both! {
    /// The first alert of a device makes a collection with its window, its consent and its origin.
    async fn an_alert_is_collected(db) {
        fleet(&db, 2).await;
        let taken = take(&db, &[fired("1", 0, "iotedgeagentnotrunningcondition")]).await;
        let answer = only(&taken[0]);
        assert_eq!(answer.outcome, AlertOutcome::Collected);
        assert!(answer.why.starts_with("by the catalogue, under consent cns_"), "{}", answer.why);
        let alert = view(&db, answer).await;
        assert_eq!((alert.indicator.as_str(), alert.device.as_str(), alert.occurrences), (DOWN, device(0).as_str(), 1));
        assert_eq!((alert.tenant.as_deref(), alert.site.as_deref()), (Some("contoso"), Some("site-0")));
        assert_eq!((alert.model.as_deref(), alert.version.as_deref()), (Some("press"), Some("1.2")));
        assert_eq!(alert.data, Some(json!({})));
        assert_eq!(alert.catalogue_version, 1);
        let collection = db.store.collection(alert.collection.expect("one")).await.expect("read").expect("there");
        assert_eq!(collection.created_by, "alerts");
        assert_eq!(collection.reason.as_deref(), Some("IOTEdgeAgentNotRunningCondition at 2026-11-21T12:00:00Z"));
        assert_eq!(collection.origin, Origin::Alert { alert: alert.id, indicator: DOWN.to_owned() });
        assert_eq!(collection.needs_consent, Some(ConsentKind::Proactive));
        assert_eq!(collection.expires_at, NOW + 24 * HOUR);
        let CollectionRequest::UploadLogs { items, .. } = &collection.request else { panic!("{:?}", collection.request) };
        assert!(items.iter().all(|item| item.filter.since.as_deref() == Some("2026-11-21T10:00:00Z") && item.filter.until.is_none()), "{items:?}");
        let claimed = db.claim(collection.id, 10).await;
        assert_eq!(claimed.iter().map(|task| task.device.clone()).collect::<Vec<_>>(), [device(0)]);
        let events = db.store.collection_events(collection.id).await.expect("read");
        assert_eq!((events.len(), events[0].what.as_str()), (1, "created"));
    }

    /// The same event again does nothing, in the same batch and in another.
    async fn a_repetition_is_known(db) {
        fleet(&db, 2).await;
        let (one, mut other) = (fired("1", 0, DOWN), fired("1", 0, DOWN));
        other.source = "/other".to_owned();
        let taken = take(&db, &[one.clone(), one.clone(), other.clone()]).await;
        assert_eq!(only(&taken[0]).outcome, AlertOutcome::Collected);
        assert_eq!(taken[1], Taken::Duplicate);
        assert_eq!(only(&taken[2]).outcome, AlertOutcome::Coalesced);
        assert_eq!(take(&db, &[other, one]).await, [Taken::Duplicate, Taken::Duplicate]);
        assert_eq!(count(&db).await, 1);
        let counts = db.store.alert_counts(NOW - 24 * HOUR).await.expect("counted");
        assert_eq!(counts.duplicates, 3);
        assert_eq!(counts.outcomes, [("coalesced".to_owned(), 1), ("collected".to_owned(), 1)].into());
        assert_eq!(counts.indicators, [(DOWN.to_owned(), 2)].into());
    }

    /// An event is refused when none of its devices may be acted on, and told apart where some may.
    async fn devices_are_asked_of_the_registry(db) {
        fleet(&db, 3).await;
        db.register(&["PRESS-00001".parse().expect("an id")]).await;
        let named = |id: &str, devices: &[&str]| Alert { devices: devices.iter().map(|d| (*d).to_owned()).collect(), ..fired(id, 0, DOWN) };
        let taken = take(&db, &[named("1", &["nobody", "no device\0at all"]), named("2", &["PRESS-00000", "nobody"]), named("3", &["Press-00001"])]).await;
        let Taken::Refused(refused) = &taken[0] else { panic!("{taken:?}") };
        assert_eq!(refused.reason, Poison::UnknownDevice);
        assert!(refused.detail.contains("nobody"), "{refused}");
        let Taken::Decided(answers) = &taken[1] else { panic!("{taken:?}") };
        assert_eq!(answers.iter().map(|a| (a.device.as_str(), a.outcome)).collect::<Vec<_>>(), [
            ("press-00000", AlertOutcome::Collected), ("nobody", AlertOutcome::UnknownDevice)
        ]);
        // Of two that differ in case alone neither is spelt so: the first by id.
        assert_eq!(only(&taken[2]).device, "PRESS-00001");
        assert_eq!(only(&take(&db, &[named("4", &["press-00001"])]).await[0]).device, "press-00001");

        let (theirs, mine) = (fired("5", 2, DOWN), device(2));
        let bound = |tenant| ReceivedAlert { tenant, ..received(&theirs) };
        for (sender, why) in [
            (bound(Some("fabrikam")), "its source speaks for tenant fabrikam only; press-00002 is of tenant contoso"),
            (ReceivedAlert { speaks_for: Some(&device(0)), ..received(&theirs) }, "press-00000 speaks for itself only, not for press-00002"),
        ] {
            let taken = db.store.take_alerts(&[sender], &limits(), NOW).await.expect("taken");
            let Taken::Refused(refused) = &taken[0] else { panic!("{taken:?}") };
            assert_eq!((refused.reason, refused.detail.as_str()), (Poison::TenantMismatch, why));
        }
        let mixed = named("6", &["press-00002", "press-00000"]);
        let sender = ReceivedAlert { speaks_for: Some(&mine), tenant: Some("contoso"), ..received(&mixed) };
        let taken = db.store.take_alerts(&[sender], &limits(), NOW).await.expect("taken");
        let Taken::Decided(answers) = &taken[0] else { panic!("{taken:?}") };
        assert_eq!(answers.iter().map(|a| a.outcome).collect::<Vec<_>>(), [AlertOutcome::Collected, AlertOutcome::TenantMismatch]);
    }

    /// What is too old, unknown or without consent is written down, and no device is asked.
    async fn what_is_not_acted_on_is_kept(db) {
        fleet(&db, 2).await;
        consent(&db.store, ConsentScope::Device { id: device(1) }, What::Disable).await;
        let old = Alert { fired_at: NOW - 25 * HOUR, ..fired("1", 0, DOWN) };
        let taken = take(&db, &[old, fired("2", 0, "SomethingElse"), fired("3", 1, DOWN)]).await;
        assert_eq!(outcomes(&taken), [AlertOutcome::Stale, AlertOutcome::UnknownIndicator, AlertOutcome::NoConsent]);
        assert_eq!(only(&taken[0]).why, "25h old when it came; at most 24h");
        assert_eq!(only(&taken[1]).why, "SomethingElse is not in the catalogue, version 1");
        assert_eq!(only(&taken[2]).why, "consent of the device was refused");
        assert_eq!(count(&db).await, 0);
        assert_eq!(view(&db, only(&taken[1])).await.indicator, "SomethingElse");
    }

    /// While its collection is open, and for the cooldown behind it, a device is not asked again for the same.
    async fn alerts_of_one_collection_are_counted(db) {
        fleet(&db, 2).await;
        let first = take(&db, &[fired("1", 0, DOWN), fired("2", 0, DOWN), fired("3", 0, ACS)]).await;
        assert_eq!(outcomes(&first), [AlertOutcome::Collected, AlertOutcome::Coalesced, AlertOutcome::Collected]);
        let collection = only(&first[0]).collection.expect("one");
        assert_eq!(only(&first[1]).collection, Some(collection));
        let again = take(&db, &[fired("4", 0, DOWN), fired("5", 0, DOWN)]).await;
        assert_eq!(only(&again[0]).why, "its collection is open");
        assert_eq!(view(&db, only(&again[1])).await.occurrences, 4);
        end(&db, collection, NOW).await;
        let at = NOW + 59 * MINUTE;
        let again = take_at(&db, &[fired("6", 0, DOWN)], &limits(), at).await;
        assert_eq!(only(&again[0]).why, "its collection ended 59m ago; the cooldown is 60m");
        let later = take_at(&db, &[fired("7", 0, DOWN)], &limits(), NOW + HOUR).await;
        assert_eq!(only(&later[0]).outcome, AlertOutcome::Collected);
        assert_ne!(only(&later[0]).collection, Some(collection));
        assert_eq!(view(&db, only(&first[0])).await.occurrences, 5);
        assert_eq!(view(&db, only(&later[0])).await.occurrences, 1);
    }

    /// An alert from a device whose clock is wrong is read by our clock.
    async fn the_clock_of_a_device_is_corrected(db) {
        fleet(&db, 1).await;
        db.sql("UPDATE device SET clock_skew_ms = 10800000").await;
        let alert = Alert { fired_at: NOW + 3 * HOUR, ..fired("1", 0, DOWN) };
        let mine = device(0);
        let from = |via| ReceivedAlert { via, speaks_for: Some(&mine), ..received(&alert) };
        let taken = db.store.take_alerts(&[from(AlertVia::Mqtt)], &limits(), NOW).await.expect("taken");
        assert_eq!(view(&db, only(&taken[0])).await.fired_at, NOW);
        let tested = db.store.test_alert(&from(AlertVia::Http), &limits(), NOW).await.expect("asked").expect("ours");
        assert_eq!(tested.devices[0].outcome, AlertOutcome::Coalesced);
    }

    /// What is used up is due tomorrow, and then collected.
    async fn a_budget_defers(db) {
        fleet(&db, 4).await;
        let few = AlertLimits { per_tenant_per_day: 2, ..limits() };
        let taken = take_at(&db, &(0..4).map(|n| fired(&n.to_string(), n, DOWN)).collect::<Vec<_>>(), &few, NOW).await;
        assert_eq!(outcomes(&taken), [AlertOutcome::Collected, AlertOutcome::Collected, AlertOutcome::Deferred, AlertOutcome::Deferred]);
        assert_eq!(only(&taken[3]).why, "2 of 2 collections of its tenant were made today; due at 2026-11-22T00:00:00Z");
        assert_eq!(db.store.decide_due(&few, NOW + HOUR).await.expect("decided"), []);
        let one = AlertLimits { per_day: 1, ..limits() };
        let midnight = datetime!(2026-11-22 00:00:00 UTC);
        let made = db.store.decide_due(&one, midnight).await.expect("decided");
        assert_eq!(made.len(), 1);
        let alert = view(&db, only(&taken[2])).await;
        assert_eq!((alert.outcome, alert.collection, alert.due_at), (AlertOutcome::Collected, Some(made[0]), None));
        let waits = view(&db, only(&taken[3])).await;
        assert_eq!((waits.outcome, waits.due_at), (AlertOutcome::Deferred, Some(midnight + 24 * HOUR)));
        let CollectionRequest::UploadLogs { items, .. } = &db.store.collection(made[0]).await.expect("read").expect("there").request.clone() else { panic!() };
        assert_eq!(items[0].filter.since.as_deref(), Some("2026-11-21T10:00:00Z"), "the time of the alert, not of today");
        consent(&db.store, ConsentScope::Device { id: device(3) }, What::Disable).await;
        assert_eq!(db.store.decide_due(&one, midnight + 24 * HOUR).await.expect("decided"), []);
        assert_eq!(view(&db, only(&taken[3])).await.outcome, AlertOutcome::NoConsent);
    }

    /// Two controllers are given the same events: each is decided once.
    async fn two_controllers_decide_once(db) {
        fleet(&db, 40).await;
        let other = Store::connect(&muster_store::StoreOptions::new(&db.url)).await.expect("opened");
        let alerts: Vec<Alert> = (0..200).map(|n| fired(&n.to_string(), n % 40, DOWN)).collect();
        let calm = AlertLimits { storm: StormPolicy { devices: 1_000, ..StormPolicy::default() }, ..limits() };
        let (mut decided, mut repeated) = (0, 0);
        for chunk in alerts.chunks(50) {
            let all: Vec<_> = chunk.iter().map(received).collect();
            let (a, b) = tokio::join!(db.store.take_alerts(&all, &calm, NOW), other.take_alerts(&all, &calm, NOW));
            for taken in a.expect("taken").into_iter().chain(b.expect("taken")) {
                match taken {
                    Taken::Decided(_) => decided += 1,
                    Taken::Duplicate => repeated += 1,
                    Taken::Refused(refused) => panic!("{refused}"),
                }
            }
        }
        assert_eq!((decided, repeated), (200, 200));
        assert_eq!(count(&db).await, 40);
        other.close().await;
    }

    /// What ended is written on what began.
    async fn an_end_is_noted(db) {
        fleet(&db, 3).await;
        let with = |id: &str, n, origin: &str| Alert { origin_alert_id: Some(origin.to_owned()), ..fired(id, n, DOWN) };
        let ends = |alert: Alert, at| Alert { condition: AlertCondition::Resolved, resolved_at: Some(at), ..alert };
        let taken = take(&db, &[with("1", 0, "a"), with("2", 0, "b"), ends(with("3", 0, "a"), NOW + MINUTE)]).await;
        assert_eq!(outcomes(&taken), [AlertOutcome::Collected, AlertOutcome::Coalesced, AlertOutcome::Noted]);
        assert_eq!(view(&db, only(&taken[0])).await.resolved_at, Some(NOW + MINUTE));
        assert_eq!(view(&db, only(&taken[1])).await.resolved_at, None);
        assert_eq!(only(&taken[2]).collection, only(&taken[0]).collection);
        assert!(only(&taken[2]).why.contains(&only(&taken[0]).id.to_string()));
        // Another batch: by its origin, then without one: the latest.
        let later = take(&db, &[ends(with("4", 0, "b"), NOW + 2 * MINUTE), ends(fired("5", 1, DOWN), NOW)]).await;
        assert_eq!(view(&db, only(&taken[1])).await.resolved_at, Some(NOW + 2 * MINUTE));
        assert_eq!(only(&later[1]).why, format!("nothing is known that it ended: no {DOWN} of this device"));
        assert_eq!(count(&db).await, 1);
        // Deferred for a budget: nothing is left to wait for.
        let none = AlertLimits { per_day: 0, ..limits() };
        let waits = take_at(&db, &[fired("6", 2, DOWN)], &none, NOW).await;
        take(&db, &[ends(fired("7", 2, DOWN), NOW + MINUTE)]).await;
        let closed = view(&db, only(&waits[0])).await;
        assert_eq!((closed.outcome, closed.due_at), (AlertOutcome::Deferred, None));
        assert!(closed.why.ends_with("it was resolved at 2026-11-21T12:01:00Z and nothing was collected"), "{}", closed.why);
        assert_eq!(db.store.decide_due(&limits(), NOW + 48 * HOUR).await.expect("decided"), []);
    }

    /// Hostile texts harm nobody, and a call takes so many.
    async fn texts_are_bounded(db) {
        fleet(&db, 2).await;
        let hostile = Alert {
            source: "s\0".to_owned(),
            description: Some("d\0".repeat(5_000)),
            origin_alert_id: Some("o\0".to_owned()),
            extensions: [("x\0".to_owned(), "y\0".to_owned())].into(),
            data: "{\"a\":\"\\u0000\"}".to_owned(),
            ..fired("i\0", 0, "Some\0thing")
        };
        let taken = take(&db, &[hostile.clone(), fired("2", 1, DOWN)]).await;
        assert_eq!(outcomes(&taken), [AlertOutcome::UnknownIndicator, AlertOutcome::Collected]);
        assert_eq!(view(&db, only(&taken[0])).await.source, "s\u{fffd}");
        assert_eq!(take(&db, std::slice::from_ref(&hostile)).await, [Taken::Duplicate]);
        let one = received(&hostile);
        let error = db.store.take_alerts(&vec![one; MAX_ALERTS + 1], &limits(), NOW).await.expect_err("too many");
        assert!(matches!(error, StoreError::Misuse(_)), "{error}");
        assert!(db.store.take_alerts(&[], &limits(), NOW).await.expect("nothing").is_empty());
    }
}
