//! Rules, the catalogue, what a person asks for, previews, and messages that were no alert.

use std::collections::BTreeMap;

use muster_domain::consent::What;
use muster_store::{AlertFilter, AlertLimits, Changed, NewParked, ParkedFilter, StoreError};
use muster_wire::alert::{Alert, AlertCondition, AlertVia, Poison, Refused};
use muster_wire::http::{
    AlertOutcome, CollectionRequest, ConsentScope, MAX_PARKED_BYTES, NewIndicator, NewRule, Origin, ParkedState, Priority, ShadowView,
};
use muster_wire::{AlertId, ParkedId};
use serde_json::json;

use crate::alerts::{
    ACS, DOWN, HOUR, consent, count, end, fired, fleet, fleet_without_consent, limits, only, outcomes, received, take, take_at, view,
};
use crate::harness::{Database, MINUTE, NOW, device};

fn rule(name: &str, more: serde_json::Value) -> NewRule {
    let mut rule = json!({ "name": name, "indicator": DOWN });
    rule.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    serde_json::from_value(rule).expect("a rule")
}

async fn put(db: &Database, rule: &NewRule) {
    let done = db.store.put_rule(rule, false, "ada", NOW).await.expect("written");
    assert!(matches!(done, Changed::Done(_)), "{done:?}");
}

fn indicator(name: &str) -> NewIndicator {
    serde_json::from_value(json!({
        "name": name, "description": "It hums.", "lookback_seconds": 60, "cooldown_seconds": 60, "collect": { "kind": "bundle" }
    }))
    .expect("an indicator")
}

on_both! {
    /// The first active rule that fits decides; those in shadow are written down; where none fits, the catalogue decides.
    async fn the_first_rule_that_fits_decides(db) {
        fleet(&db, 4).await;
        put(&db, &rule("b-oslo", json!({ "order": 5, "devices": "tags.site = 'site-0'", "collect": { "kind": "bundle" }, "lookback_seconds": 60, "priority": "high" }))).await;
        put(&db, &rule("a-last", json!({ "order": 6, "ignore": true, "devices": "tags.site = 'site-0'" }))).await;
        put(&db, &rule("off", json!({ "order": 1, "mode": "off", "ignore": true }))).await;
        put(&db, &rule("shadow", json!({ "order": 1, "mode": "shadow", "ignore": true }))).await;
        put(&db, &rule("shadow-2", json!({ "order": 2, "mode": "shadow", "per_day": 1 }))).await;
        let taken = take(&db, &[fired("1", 0, DOWN), fired("2", 1, DOWN), fired("3", 2, ACS)]).await;
        assert_eq!(outcomes(&taken), [AlertOutcome::Collected; 3]);
        let (first, second) = (view(&db, only(&taken[0])).await, view(&db, only(&taken[1])).await);
        assert_eq!((first.rule.as_deref(), second.rule.as_deref()), (Some("b-oslo"), None));
        let collection = db.store.collection(first.collection.expect("one")).await.expect("read").expect("there");
        assert_eq!(collection.request, CollectionRequest::Bundle { since: Some("2026-11-21T11:59:00Z".to_owned()), edge_runtime_only: false });
        assert_eq!(collection.priority, Priority::High);
        let shadow = |alert: &muster_wire::http::AlertView| alert.shadow.iter().map(|s| (s.rule.clone(), s.outcome)).collect::<Vec<_>>();
        assert_eq!(shadow(&first), [("shadow".to_owned(), AlertOutcome::Noted), ("shadow-2".to_owned(), AlertOutcome::Collected)]);
        let ShadowView { outcome, why, .. } = &second.shadow[1];
        assert_eq!((*outcome, why.as_str()), (AlertOutcome::Deferred, "1 of 1 collections of the rule were made today; due at 2026-11-22T00:00:00Z"));
        assert_eq!(shadow(&view(&db, only(&taken[2])).await), []);
        // An ignoring rule that is asked first.
        let first = NewRule { order: 1, ..rule("a-last", json!({ "ignore": true })) };
        assert!(matches!(db.store.put_rule(&first, true, "eve", NOW).await.expect("written"), Changed::Done(view) if view.version == 2));
        let ignored = take(&db, &[fired("4", 2, DOWN)]).await;
        assert_eq!((only(&ignored[0]).outcome, only(&ignored[0]).why.as_str()), (AlertOutcome::Noted, "rule a-last ignores it"));
        assert!(db.store.delete_rule("a-last", "eve", NOW).await.expect("deleted"));
        assert!(!db.store.delete_rule("a-last", "eve", NOW).await.expect("deleted"));
        assert_eq!(only(&take(&db, &[fired("5", 2, DOWN)]).await[0]).outcome, AlertOutcome::Collected);
        let names: Vec<String> = db.store.rules().await.expect("read").into_iter().map(|rule| rule.definition.name).collect();
        assert_eq!(names, ["off", "shadow", "shadow-2", "b-oslo"]);
    }

    /// Budgets of a rule: of all, of a site, of a device.
    async fn a_rule_has_budgets(db) {
        fleet(&db, 6).await;
        put(&db, &rule("r", json!({ "per_site_per_day": 1, "per_day": 2, "per_device_per_day": 1, "cooldown_seconds": 0 }))).await;
        let taken = take(&db, &[fired("1", 0, DOWN), fired("2", 2, DOWN), fired("3", 1, DOWN), fired("4", 3, DOWN)]).await;
        assert_eq!(outcomes(&taken), [AlertOutcome::Collected, AlertOutcome::Deferred, AlertOutcome::Collected, AlertOutcome::Deferred]);
        assert!(only(&taken[1]).why.starts_with("1 of 1 collections of the rule at its site"), "{}", only(&taken[1]).why);
        assert!(only(&taken[3]).why.starts_with("2 of 2 collections of the rule were"), "{}", only(&taken[3]).why);
        end(&db, only(&taken[0]).collection.expect("one"), NOW).await;
        let more = rule("r", json!({ "per_device_per_day": 1, "cooldown_seconds": 0 }));
        db.store.put_rule(&more, true, "ada", NOW).await.expect("written");
        let again = take_at(&db, &[fired("5", 0, DOWN)], &limits(), NOW + MINUTE).await;
        assert!(only(&again[0]).why.starts_with("1 of 1 collections of the rule for this device"), "{}", only(&again[0]).why);
    }

    /// Bytes of today's bundles are a budget too.
    async fn bytes_are_a_budget(db) {
        fleet(&db, 3).await;
        let NewIndicator { collect, .. } = indicator(DOWN);
        let small = NewIndicator { max_bytes: Some(1_000), collect, ..indicator(DOWN) };
        assert!(matches!(db.store.change_indicator(&small, "ada", NOW).await.expect("written"), Changed::Done(_)));
        let taken = take(&db, &[fired("1", 0, DOWN)]).await;
        let task = only(&taken[0]).collection.expect("one").task(0);
        let id = match db.store.dialect() {
            muster_store::Dialect::Postgres => format!("'{}'", task.uuid()),
            muster_store::Dialect::Sqlite => format!("x'{}'", task.uuid().simple()),
        };
        let ms = NOW.unix_timestamp() * 1000;
        db.sql(&format!("INSERT INTO bundle VALUES ({id}, 1, 'press-00000', 'complete', 1000, 1, '', '{{}}', '', {ms})")).await;
        let taken = take(&db, &[fired("2", 1, DOWN), fired("3", 1, ACS)]).await;
        assert_eq!(outcomes(&taken), [AlertOutcome::Deferred, AlertOutcome::Collected]);
        assert!(only(&taken[0]).why.starts_with("today's bundles of the indicator hold 1000 bytes, of 1000"));
    }

    /// In quiet hours nothing is asked; behind them it is.
    async fn quiet_hours_are_waited_for(db) {
        fleet(&db, 2).await;
        put(&db, &rule("r", json!({ "quiet": { "cron": "0 12 * * *", "length_seconds": 3600 } }))).await;
        let taken = take(&db, &[fired("1", 0, DOWN)]).await;
        assert_eq!(only(&taken[0]).why, "quiet hours of rule r until 2026-11-21 13:00 UTC; due at 2026-11-21T13:00:00Z");
        assert_eq!(db.store.decide_due(&limits(), NOW + 59 * MINUTE).await.expect("decided"), []);
        assert_eq!(db.store.decide_due(&limits(), NOW + HOUR).await.expect("decided").len(), 1);
        assert_eq!(view(&db, only(&taken[0])).await.outcome, AlertOutcome::Collected);
    }

    /// What is to be collected is waited for until it is written, or until it ended.
    async fn logs_behind_an_alert_are_waited_for(db) {
        fleet(&db, 3).await;
        put(&db, &rule("r", json!({ "lookahead_seconds": 600 }))).await;
        let taken = take(&db, &[fired("1", 0, DOWN), fired("2", 1, DOWN), fired("3", 0, DOWN)]).await;
        assert_eq!(outcomes(&taken), [AlertOutcome::Deferred; 3]);
        let ended = Alert { condition: AlertCondition::Resolved, resolved_at: Some(NOW + MINUTE), ..fired("4", 1, DOWN) };
        take_at(&db, &[ended], &limits(), NOW + 2 * MINUTE).await;
        let made = db.store.decide_due(&limits(), NOW + 2 * MINUTE).await.expect("decided");
        assert_eq!(made.len(), 1);
        let window = |request: &CollectionRequest| match request {
            CollectionRequest::UploadLogs { items, .. } => (items[0].filter.since.clone(), items[0].filter.until.clone()),
            other => panic!("{other:?}"),
        };
        let request = db.store.collection(made[0]).await.expect("read").expect("there").request;
        assert_eq!(window(&request), (Some("2026-11-21T10:00:00Z".to_owned()), Some("2026-11-21T12:01:00Z".to_owned())));
        let made = db.store.decide_due(&limits(), NOW + 10 * MINUTE).await.expect("decided");
        assert_eq!(made.len(), 1, "the second of the same device is counted with the first");
        let request = db.store.collection(made[0]).await.expect("read").expect("there").request;
        assert_eq!(window(&request).1.as_deref(), Some("2026-11-21T12:10:00Z"));
        assert_eq!(view(&db, only(&taken[2])).await.outcome, AlertOutcome::Coalesced);
        assert_eq!(view(&db, only(&taken[0])).await.occurrences, 2);
        let logs = NewRule { collect: Some(serde_json::from_value(json!({ "kind": "logs", "items": [{ "id": "all" }] })).expect("a request")), ..rule("r", json!({ "lookahead_seconds": 600 })) };
        db.store.put_rule(&logs, true, "ada", NOW).await.expect("written");
        let tested = db.store.test_alert(&received(&fired("5", 2, DOWN)), &limits(), NOW + 20 * MINUTE).await.expect("asked").expect("ours");
        assert_eq!((tested.devices[0].outcome, tested.devices[0].rule.as_deref()), (AlertOutcome::Collected, Some("r")));
        let Some(CollectionRequest::Logs { items, .. }) = &tested.devices[0].request else { panic!("{tested:?}") };
        assert_eq!(items[0].filter.until.as_deref(), Some("2026-11-21T12:10:00Z"));
        assert_eq!(count(&db).await, 2, "a test makes nothing");
    }

    /// The catalogue: what came with it, what is added, changed and switched off; each raises its version.
    async fn the_catalogue_changes(db) {
        fleet(&db, 3).await;
        let catalogue = db.store.catalogue().await.expect("read");
        let names: Vec<&str> = catalogue.indicators.iter().map(|view| view.definition.name.as_str()).collect();
        assert_eq!((catalogue.catalogue_version, names), (1, vec![ACS, DOWN, "UpdateInstallFailedEvent"]));
        for view in &catalogue.indicators {
            assert_eq!(muster_domain::alert::check_indicator(&view.definition), [], "{}", view.definition.name);
        }
        let hours: Vec<(u64, u64)> =
            catalogue.indicators.iter().map(|view| (view.definition.lookback_seconds / 3600, view.definition.cooldown_seconds / 3600)).collect();
        assert_eq!(hours, [(4, 1), (2, 1), (24, 6)]);
        assert_eq!(only(&take(&db, &[fired("1", 0, "Hums")]).await[0]).outcome, AlertOutcome::UnknownIndicator);
        // A5: added at run time, for a device whose owner agreed before.
        let Changed::Done(view) = db.store.add_indicator(&indicator("Hums"), "ada", NOW).await.expect("written") else { panic!() };
        assert_eq!((view.since_catalogue_version, view.changed_in_catalogue_version, view.changed_by.as_str()), (2, 2, "ada"));
        let taken = take(&db, &[fired("2", 0, "hums")]).await;
        assert_eq!(view_version(&db, &taken[0]).await, (AlertOutcome::Collected, 2));
        assert_eq!(db.store.add_indicator(&indicator("HUMS"), "ada", NOW).await.expect("asked"), Changed::Taken);
        assert_eq!(db.store.change_indicator(&indicator("Other"), "ada", NOW).await.expect("asked"), Changed::NotThere);
        let off = NewIndicator { enabled: false, ..indicator("Hums") };
        let Changed::Done(view) = db.store.change_indicator(&off, "eve", NOW).await.expect("written") else { panic!() };
        assert_eq!((view.since_catalogue_version, view.changed_in_catalogue_version), (2, 3));
        let taken = take(&db, &[fired("3", 1, "Hums")]).await;
        assert_eq!(only(&taken[0]).why, "Hums is switched off in the catalogue, version 3");
        let ping = NewIndicator { collect: CollectionRequest::Ping {}, ..indicator("Pings") };
        assert!(matches!(db.store.add_indicator(&ping, "ada", NOW).await, Err(StoreError::Misuse(why)) if why.starts_with("collect.kind is ping")));
        assert_eq!(db.store.catalogue().await.expect("read").catalogue_version, 3);
        // Rules are about what is in it, each name once.
        let about = |name: &str, indicator: &str| NewRule { indicator: indicator.to_owned(), ..rule(name, json!({})) };
        let Changed::Done(view) = db.store.put_rule(&about("r", "HUMS"), false, "ada", NOW).await.expect("written") else { panic!() };
        assert_eq!((view.definition.indicator.as_str(), view.version), ("Hums", 1));
        assert_eq!(db.store.put_rule(&about("r", "Hums"), false, "ada", NOW).await.expect("asked"), Changed::Taken);
        assert_eq!(db.store.put_rule(&about("s", "Hums"), true, "ada", NOW).await.expect("asked"), Changed::NotThere);
        assert_eq!(db.store.put_rule(&about("s", "Nothing"), false, "ada", NOW).await.expect("asked"), Changed::NotThere);
        assert!(matches!(db.store.put_rule(&about("a/b", "Hums"), false, "ada", NOW).await, Err(StoreError::Misuse(_))));
        // A decision about consent says which catalogue it was made under.
        consent(&db.store, ConsentScope::Device { id: device(2) }, What::Disable).await;
        let history = db.store.consent(muster_wire::http::ConsentKind::Proactive, &ConsentScope::Device { id: device(2) }, NOW).await.expect("read");
        assert_eq!(history.expect("a device").history[0].catalogue_version_at_decision, Some(3));
    }

    /// A person asks for what was left; consent is asked all the same.
    async fn an_alert_is_asked_for(db) {
        fleet_without_consent(&db, 3).await;
        consent(&db.store, ConsentScope::Tenant { id: "contoso".to_owned() }, What::Enable).await;
        db.sql("UPDATE device SET consent = 'enabled'").await;
        let old = |id: &str, n| Alert { fired_at: NOW - 30 * HOUR, ..fired(id, n, DOWN) };
        let taken = take(&db, &[old("1", 0), old("2", 1), fired("3", 2, DOWN), fired("4", 2, DOWN)]).await;
        let ask = async |n: usize| db.store.collect_alert(only(&taken[n]).id, "ada", &limits(), NOW).await.expect("asked").expect("there");
        let collection = ask(0).await.expect("made");
        let alert = view(&db, only(&taken[0])).await;
        assert_eq!((alert.outcome, alert.why.as_str(), alert.collection), (AlertOutcome::Collected, "asked for by ada", Some(collection)));
        let made = db.store.collection(collection).await.expect("read").expect("there");
        assert_eq!((made.created_by.as_str(), made.origin), ("ada", Origin::Alert { alert: alert.id, indicator: DOWN.to_owned() }));
        assert_eq!(ask(0).await.expect_err("again"), "it is collected; only what is on_demand, deferred, coalesced, stale can be asked for");
        let open = only(&taken[2]).collection.expect("one");
        assert_eq!(ask(3).await.expect_err("open"), format!("its collection {open} is open"));
        end(&db, open, NOW).await;
        assert!(ask(3).await.is_ok(), "a cooldown does not bind a person");
        consent(&db.store, ConsentScope::Device { id: device(1) }, What::Disable).await;
        assert_eq!(ask(1).await.expect_err("no consent"), "consent of the device was refused");
        assert!(db.store.collect_alert(AlertId::new(), "ada", &limits(), NOW).await.expect("asked").is_none());
    }

    /// What a rule would have done with what came.
    async fn a_rule_is_previewed(db) {
        fleet(&db, 6).await;
        consent(&db.store, ConsentScope::Device { id: device(4) }, What::Disable).await;
        for (day, hours) in [(0_u32, [0_u32, 1, 2]), (1, [0, 1, 2])] {
            for hour in hours {
                let at = NOW + day * 24 * HOUR + hour * HOUR;
                let alerts: Vec<_> = (0..6).map(|n| Alert { fired_at: at, ..fired(&format!("{n}-{day}-{hour}"), n, DOWN) }).collect();
                take_at(&db, &alerts, &limits(), at).await;
            }
        }
        let now = NOW + 30 * HOUR;
        let of_site = rule("r", json!({ "devices": "tags.site = 'site-0'", "per_device_per_day": 2, "cooldown_seconds": 1800 }));
        let preview = db.store.preview_rule(&of_site, NOW - HOUR, &limits(), now).await.expect("previewed");
        assert_eq!((preview.alerts, preview.fitting), (36, 18));
        let of = |words: &[(&str, u64)]| words.iter().map(|(word, count)| ((*word).to_owned(), *count)).collect::<BTreeMap<_, _>>();
        assert_eq!(preview.outcomes, of(&[("collected", 8), ("deferred", 4), ("no_consent", 6)]));
        assert_eq!(preview.decided, of(&[("collected", 2), ("coalesced", 10), ("no_consent", 6)]));
        let busiest = preview.busiest_day.expect("one");
        assert_eq!((busiest.day.as_str(), busiest.collections), ("2026-11-21", 4));
        assert_eq!(preview.warnings.len(), 4);
        let later = db.store.preview_rule(&of_site, NOW + 24 * HOUR, &limits(), now).await.expect("previewed");
        assert_eq!((later.alerts, later.outcomes.get("collected")), (18, Some(&4)));
        let calm = AlertLimits { storm: muster_wire::http::StormPolicy { devices: 2, per_stratum: 1, ..limits().storm }, ..limits() };
        let stormy = db.store.preview_rule(&rule("r", json!({ "lookahead_seconds": 60 })), NOW + 26 * HOUR, &calm, now).await.expect("previewed");
        assert_eq!(stormy.outcomes, of(&[("collected", 2), ("no_consent", 1), ("on_demand", 3)]));
        let unknown = NewRule { indicator: "Nothing".to_owned(), ..rule("r", json!({})) };
        let preview = db.store.preview_rule(&unknown, NOW, &limits(), now).await.expect("previewed");
        assert_eq!((preview.alerts, preview.warnings.as_slice()), (0, &["Nothing is not in the catalogue, version 1".to_owned()][..]));
    }

    /// Alerts are listed newest first, by what is asked for.
    async fn alerts_are_listed(db) {
        fleet(&db, 4).await;
        let first = take(&db, &(0..4).map(|n| fired(&n.to_string(), n, if n < 2 { DOWN } else { ACS })).collect::<Vec<_>>()).await;
        take_at(&db, &[fired("9", 0, "Else")], &limits(), NOW + MINUTE).await;
        let list = async |filter: AlertFilter| {
            let alerts = db.store.alerts(&AlertFilter { limit: 100, ..filter }).await.expect("read");
            alerts.into_iter().map(|alert| alert.event_id).collect::<Vec<_>>().join(" ")
        };
        let any = AlertFilter::default;
        assert_eq!(list(any()).await, "9 3 2 1 0");
        assert_eq!(list(AlertFilter { before: Some(only(&first[2]).id), ..any() }).await, "1 0");
        assert_eq!(list(AlertFilter { device: Some(device(0)), ..any() }).await, "9 0");
        assert_eq!(list(AlertFilter { indicator: Some("ACSunhealthycondition".to_owned()), ..any() }).await, "3 2");
        assert_eq!(list(AlertFilter { outcome: Some(AlertOutcome::UnknownIndicator), ..any() }).await, "9");
        assert_eq!(list(AlertFilter { collection: only(&first[1]).collection, ..any() }).await, "1");
        assert_eq!(list(AlertFilter { tenant: Some("fabrikam".to_owned()), ..any() }).await, "");
        assert_eq!(list(AlertFilter { since: Some(NOW + MINUTE), tenant: Some("contoso".to_owned()), ..any() }).await, "9");
        assert_eq!(db.store.alerts(&AlertFilter { limit: 2, ..any() }).await.expect("read").len(), 2);
    }

    /// Messages that were no alert are parked once, shown, and settled.
    async fn messages_are_parked(db) {
        let parked = |digest: &str, body: &[u8]| NewParked {
            id: ParkedId::new(),
            received_at: NOW,
            via: AlertVia::Amqp,
            from: "alerts\0".to_owned(),
            refused: Refused::new(Poison::NotJson, "the body is no JSON"),
            content_type: Some("text/plain".to_owned()),
            attributes: [("id".to_owned(), "7".to_owned())].into(),
            body: body.to_vec(),
            digest: digest.to_owned(),
        };
        let cut = "ä".repeat(MAX_PARKED_BYTES);
        let all = [parked("a", b"hello"), parked("b", &[0xff, 0xfe]), parked("c", b"nul\0"), parked("a", b"hello"), parked("d", &cut.as_bytes()[1..]), parked("e", cut.as_bytes())];
        let ids = db.store.park(&all).await.expect("parked");
        assert_eq!((ids[0], ids[3]), (all[0].id, all[0].id), "the same twice is one");
        assert_eq!(db.store.park(&all[..2]).await.expect("parked"), ids[..2]);
        let body = async |n: usize| {
            let view = db.store.parked_message(ids[n]).await.expect("read").expect("there");
            (view.body, view.body_base64, view.bytes, view.cut)
        };
        assert_eq!(body(0).await, (Some("hello".to_owned()), None, 5, false));
        assert_eq!(body(1).await, (None, Some("//4=".to_owned()), 2, false));
        assert_eq!(body(2).await, (None, Some("bnVsAA==".to_owned()), 4, false));
        let (text, base64, bytes, was_cut) = body(4).await;
        assert_eq!((text, base64.is_some(), bytes, was_cut), (None, true, 2 * MAX_PARKED_BYTES as u64 - 1, true));
        assert_eq!(body(5).await.0.map(|text| text.len()), Some(MAX_PARKED_BYTES));
        let view = db.store.parked_message(ids[0]).await.expect("read").expect("there");
        assert_eq!((view.from.as_str(), view.reason, view.state), ("alerts\u{fffd}", Poison::NotJson, ParkedState::Parked));
        assert_eq!(view.attributes, [("id".to_owned(), "7".to_owned())].into());
        assert_eq!(db.store.alert_counts(NOW).await.expect("counted").parked, 5);
        assert!(db.store.mark_parked(ids[0], ParkedState::Dropped, "ada", NOW + MINUTE).await.expect("marked"));
        assert!(!db.store.mark_parked(ids[0], ParkedState::Replayed, "ada", NOW + MINUTE).await.expect("marked"));
        let dropped = ParkedFilter { state: Some(ParkedState::Dropped), limit: 10, ..ParkedFilter::default() };
        let dropped = db.store.parked(&dropped).await.expect("read");
        assert_eq!((dropped.len(), dropped[0].changed_by.as_deref(), dropped[0].changed_at), (1, Some("ada"), Some(NOW + MINUTE)));
        assert_eq!(db.store.alert_counts(NOW).await.expect("counted").parked, 4);
        let again = parked("a", b"hello");
        assert_eq!(db.store.park(std::slice::from_ref(&again)).await.expect("parked"), [again.id], "what was settled may come again");
        let none = ParkedFilter { reason: Some(Poison::TooDeep), limit: 10, ..ParkedFilter::default() };
        assert!(db.store.parked(&none).await.expect("read").is_empty());
        assert!(db.store.parked_message(ParkedId::new()).await.expect("read").is_none());
    }
}

async fn view_version(db: &Database, taken: &muster_store::Taken) -> (AlertOutcome, u32) {
    let alert = view(db, only(taken)).await;
    (alert.outcome, alert.catalogue_version)
}
