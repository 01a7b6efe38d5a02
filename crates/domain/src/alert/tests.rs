//! Each test of a decision, alone and in its order.

use muster_wire::ConsentId;
use muster_wire::http::{AlertOutcome, CollectionRequest, NewIndicator, NewRule, Priority, RuleMode, StormPolicy, Window};
use proptest::prelude::*;
use serde_json::json;
use time::macros::datetime;
use time::{Duration, OffsetDateTime};

use super::*;

const NOW: OffsetDateTime = datetime!(2026-11-28 12:00:00 UTC);

fn indicator() -> NewIndicator {
    serde_json::from_value(json!({
        "name": "Down", "description": "It does not run.", "lookback_seconds": 7200, "cooldown_seconds": 3600,
        "collect": { "kind": "upload_logs", "items": [{ "id": "edgeAgent" }] }
    }))
    .expect("an indicator")
}

fn rule(more: serde_json::Value) -> NewRule {
    let mut rule = json!({ "name": "r", "indicator": "Down" });
    rule.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    serde_json::from_value(rule).expect("a rule")
}

fn plan(more: serde_json::Value) -> Plan {
    Plan::new(&indicator(), Some(&rule(more)), StormPolicy::default()).expect("a plan")
}

fn limits() -> Limits {
    Limits { max_age: Duration::hours(24), per_day: 10, per_tenant_per_day: 5 }
}

fn facts(plan: &Plan) -> Facts<'_> {
    Facts {
        now: NOW,
        fired_at: NOW - Duration::MINUTE,
        resolved_at: None,
        again: false,
        has_place: false,
        plan: Ok(plan),
        consent: Ok(ConsentId::new()),
        job: None,
        used: Used::default(),
        storm: StormNow::None { devices: 1 },
    }
}

#[test]
fn the_first_test_that_applies_decides() {
    let ignores = plan(json!({ "ignore": true }));
    let mut facts = facts(&ignores);
    facts.fired_at = NOW - Duration::hours(25);
    facts.consent = Err("nobody agreed");
    facts.job = Some(Job { ended_at: None });
    facts.storm = StormNow::Open { sampled: 50, of_stratum: 0 };
    facts.used.fleet = 10;
    facts.plan = Err("not in the catalogue");
    let quiet = plan(json!({ "quiet": { "cron": "0 11 * * *", "length_seconds": 7200 }, "lookahead_seconds": 600 }));
    let mut seen = Vec::new();
    let mut see = |facts: &Facts<'_>| {
        let decision = decide(facts, &limits());
        seen.push((decision.outcome, decision.why, decision.due.map(|(_, cause)| cause)));
    };
    see(&facts);
    facts.fired_at = NOW - Duration::hours(24);
    see(&facts);
    facts.plan = Ok(&ignores);
    see(&facts);
    facts.plan = Ok(&quiet);
    see(&facts);
    facts.consent = Ok(ConsentId::new());
    see(&facts);
    facts.job = Some(Job { ended_at: Some(NOW - Duration::minutes(59)) });
    see(&facts);
    facts.job = Some(Job { ended_at: Some(NOW - Duration::HOUR) });
    see(&facts);
    facts.storm = StormNow::Open { sampled: 49, of_stratum: 2 };
    see(&facts);
    facts.storm = StormNow::Open { sampled: 49, of_stratum: 1 };
    facts.fired_at = NOW - Duration::MINUTE;
    see(&facts);
    facts.resolved_at = Some(NOW - Duration::SECOND);
    see(&facts);
    let plain = plan(json!({}));
    facts.plan = Ok(&plain);
    see(&facts);
    facts.used.fleet = 9;
    see(&facts);
    use AlertOutcome as O;
    let outcomes: Vec<_> = seen.iter().map(|(outcome, _, cause)| (*outcome, *cause)).collect();
    assert_eq!(
        outcomes,
        [
            (O::Stale, None),
            (O::UnknownIndicator, None),
            (O::Noted, None),
            (O::NoConsent, None),
            (O::Coalesced, None),
            (O::Coalesced, None),
            (O::OnDemand, None),
            (O::OnDemand, None),
            (O::Deferred, Some(DeferredFor::Lookahead)),
            (O::Deferred, Some(DeferredFor::Quiet)),
            (O::Deferred, Some(DeferredFor::Budget)),
            (O::Collected, None),
        ]
    );
    let whys: Vec<&str> = seen.iter().map(|(_, why, _)| why.as_str()).collect();
    assert_eq!(whys[0], "25h old when it came; at most 24h");
    assert_eq!(whys[2], "rule r ignores it");
    assert_eq!(whys[5], "its collection ended 59m ago; the cooldown is 60m");
    assert_eq!(whys[6], "a storm, of which 50 devices are collected; at most 50");
    assert_eq!(whys[7], "a storm, of whose devices of this version, site and model 2 are collected; at most 2");
    assert_eq!(whys[8], "its logs go on for 10m after it; due at 2026-11-28T12:09:00Z");
    assert_eq!(whys[9], "quiet hours of rule r until 2026-11-28 13:00 UTC; due at 2026-11-28T13:00:00Z");
    assert_eq!(whys[10], "10 of 10 collections of alerts were made today; due at 2026-11-29T00:00:00Z");
    assert!(whys[11].starts_with("by rule r, in the sample of a storm, under consent cns_"), "{}", whys[11]);
}

#[test]
fn every_budget_defers_and_says_which() {
    let plan = plan(json!({ "per_day": 4, "per_site_per_day": 3, "per_device_per_day": 2 }));
    let mut limited = plan.clone();
    limited.max_bytes = Some(100);
    let cases = [
        (Used { fleet: 10, ..Used::default() }, "10 of 10 collections of alerts were"),
        (Used { tenant: 5, ..Used::default() }, "5 of 5 collections of its tenant were"),
        (Used { rule: 4, ..Used::default() }, "4 of 4 collections of the rule were"),
        (Used { rule_site: 3, ..Used::default() }, "3 of 3 collections of the rule at its site were"),
        (Used { rule_device: 2, ..Used::default() }, "2 of 2 collections of the rule for this device were"),
        (Used { bytes: 100, ..Used::default() }, "today's bundles of the indicator hold 100 bytes, of 100"),
    ];
    for (used, why) in cases {
        let facts = Facts { used, ..facts(&limited) };
        let decision = decide(&facts, &limits());
        assert!(decision.why.starts_with(why), "{}", decision.why);
        assert_eq!(decision.due, Some((datetime!(2026-11-29 00:00:00 UTC), DeferredFor::Budget)));
    }
    let all_but = Used { fleet: 9, tenant: 4, rule: 3, rule_site: 2, rule_device: 1, bytes: 99 };
    assert_eq!(decide(&Facts { used: all_but, ..facts(&limited) }, &limits()).outcome, AlertOutcome::Collected);
}

#[test]
fn a_storm_begins_with_the_device_past_the_number() {
    let plan = plan(json!({ "storm": { "devices": 3 } }));
    let place = |devices| decide(&Facts { storm: StormNow::None { devices }, ..facts(&plan) }, &limits()).place;
    assert_eq!((place(3), place(4)), (Place::Before, Place::Opens));
    let again = Facts { storm: StormNow::Open { sampled: 99, of_stratum: 9 }, has_place: true, again: true, ..facts(&plan) };
    assert_eq!(decide(&again, &limits()).outcome, AlertOutcome::Collected, "it has its place already");
}

#[test]
fn what_was_deferred_is_not_stale() {
    let plan = plan(json!({}));
    let old = Facts { fired_at: NOW - Duration::days(3), again: true, ..facts(&plan) };
    assert_eq!(decide(&old, &limits()).outcome, AlertOutcome::Collected);
}

#[test]
fn a_rule_says_only_what_differs() {
    let of = plan(json!({ "lookback_seconds": 60, "priority": "high", "storm": { "at_most": 7 } }));
    assert_eq!((of.collect.lookback_seconds, of.collect.lookahead_seconds, of.cooldown), (60, 0, Duration::HOUR));
    assert_eq!((of.collect.priority, of.storm.at_most, of.storm.devices), (Priority::High, 7, 20));
    let alone = Plan::new(&indicator(), None, StormPolicy { devices: 9, ..StormPolicy::default() }).expect("a plan");
    assert_eq!((alone.rule, alone.storm.devices, alone.collect.request), (None, 9, indicator().collect));
}

#[test]
fn times_come_from_the_alert() {
    let mut plan = plan(json!({ "lookahead_seconds": 600 }));
    let fired = datetime!(2026-11-28 10:00:00 UTC);
    let times = |request: CollectionRequest| match request {
        CollectionRequest::UploadLogs { items, .. } => (items[0].filter.since.clone().unwrap_or_default(), items[0].filter.until.clone()),
        CollectionRequest::Bundle { since, .. } => (since.unwrap_or_default(), None),
        other => panic!("{other:?}"),
    };
    let until = |resolved| plan.collect.until(fired, resolved);
    assert_eq!(until(None), Some(fired + Duration::minutes(10)));
    assert_eq!(until(Some(fired + Duration::MINUTE)), Some(fired + Duration::MINUTE));
    assert_eq!(until(Some(fired + Duration::HOUR)), Some(fired + Duration::minutes(10)));
    assert_eq!(until(Some(fired - Duration::HOUR)), Some(fired + Duration::minutes(10)), "an end before the beginning is none");
    let (since, end) = times(plan.collect.request(fired, until(None)));
    assert_eq!((since.as_str(), end.as_deref()), ("2026-11-28T08:00:00Z", Some("2026-11-28T10:10:00Z")));
    let (_, end) = times(plan.collect.request(fired, Some(fired + Duration::milliseconds(1))));
    assert_eq!(end.as_deref(), Some("2026-11-28T10:00:01Z"), "the second that was begun is wanted too");
    plan.collect.request = serde_json::from_value(json!({ "kind": "bundle" })).expect("a request");
    assert_eq!(times(plan.collect.request(fired, Some(fired))), ("2026-11-28T08:00:00Z".to_owned(), None), "a bundle takes no until");
    assert_eq!(times(plan.collect.request(OffsetDateTime::UNIX_EPOCH, None)).0, "", "before 1970 is no bound");
}

#[test]
fn definitions_are_checked_in_every_member() {
    let faults = |change: &dyn Fn(&mut NewIndicator)| {
        let mut new = indicator();
        change(&mut new);
        check_indicator(&new).iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    };
    assert_eq!(faults(&|_| ()), "");
    let request = |value| serde_json::from_value::<CollectionRequest>(value).expect("a request");
    assert!(faults(&|new| new.collect = request(json!({ "kind": "ping" }))).starts_with("collect.kind is ping, which brings no logs"));
    assert!(
        faults(&|new| new.collect = request(json!({ "kind": "bundle", "since": "1h" }))).starts_with("collect.since cannot stand here")
    );
    let item = |filter| json!({ "kind": "logs", "items": [{ "id": "all", "filter": filter }] });
    assert!(faults(&|new| new.collect = request(item(json!({ "since": "1h" })))).starts_with("collect.items[0].filter.since cannot"));
    assert!(faults(&|new| new.collect = request(item(json!({ "until": "1h" })))).starts_with("collect.items[0].filter.until cannot"));
    assert!(faults(&|new| new.collect = request(item(json!({ "tail": 0 })))).starts_with("collect.items[0].filter.tail is 0"));
    assert!(faults(&|new| new.collect = request(json!({ "kind": "logs", "items": [] }))).starts_with("collect.items has 0 items"));
    assert!(faults(&|new| new.name = " Down".to_owned()).starts_with("name begins or ends with a blank"));
    assert!(faults(&|new| new.name = "x".repeat(129)).starts_with("name has 129 characters; from 1 to 128"));
    assert!(faults(&|new| new.description = " ".to_owned()).starts_with("description is blank"));
    assert!(faults(&|new| new.lookback_seconds = 604_801).starts_with("lookback_seconds is 604801 seconds; at most 604800"));
    assert!(faults(&|new| new.lookahead_seconds = 604_801).starts_with("lookahead_seconds is 604801"));
    assert!(faults(&|new| new.cooldown_seconds = 2_592_001).starts_with("cooldown_seconds is 2592001"));
    assert!(faults(&|new| new.max_bytes = Some(0)).starts_with("max_bytes is 0; switch the indicator off"));

    let faults = |more| check_rule(&rule(more)).iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    assert_eq!(faults(json!({ "devices": "tags.site = 'oslo'", "quiet": { "cron": "@daily", "length_seconds": 60 } })), "");
    assert!(faults(json!({ "name": "a/b" })).starts_with("name has '/'"));
    assert!(faults(json!({ "name": ".." })).starts_with("name would be read as a path"));
    assert!(faults(json!({ "devices": "tags.site =" })).starts_with("devices "));
    assert!(faults(json!({ "ignore": true, "collect": { "kind": "bundle" } })).starts_with("ignore contradicts collect"));
    assert!(faults(json!({ "per_day": 0 })).starts_with("per_day is 0; a rule that collects nothing says ignore: true"));
    assert!(faults(json!({ "quiet": { "cron": "@daily", "length_seconds": 60, "time_zone": "Oslo" } })).starts_with("quiet.time_zone "));
    assert!(faults(json!({ "quiet": { "cron": "never", "length_seconds": 60 } })).starts_with("quiet.cron "));
    assert!(faults(json!({ "quiet": { "cron": "@daily", "length_seconds": 86401 } })).starts_with("quiet.length_seconds is 86401"));
    assert!(faults(json!({ "storm": { "devices": 0 } })).starts_with("storm.devices is 0; from 1 to 10000"));
    assert!(faults(json!({ "storm": { "within_seconds": 9 } })).starts_with("storm.within_seconds is 9; from 10 to 86400"));
    assert_eq!(check_storm_policy(&StormPolicy::default()), []);
}

proptest! {
    /// No definition that passes its check makes a plan that cannot be made, and no alert breaks one.
    #[test]
    fn any_times_are_taken(fired in 0_i64..253_402_300_799, resolved in proptest::option::of(0_i64..253_402_300_799), back: u64, ahead: u64, cooldown: u64) {
        let at = |unix| OffsetDateTime::from_unix_timestamp(unix).expect("in the calendar");
        let mut plan = plan(json!({}));
        (plan.collect.lookback_seconds, plan.collect.lookahead_seconds, plan.cooldown) = (back, ahead, seconds(cooldown));
        let facts = Facts { fired_at: at(fired), resolved_at: resolved.map(at), job: Some(Job { ended_at: Some(at(fired)) }), ..facts(&plan) };
        let _ = decide(&facts, &limits());
        let _ = plan.collect.request(facts.fired_at, plan.collect.until(facts.fired_at, facts.resolved_at));
    }

    #[test]
    fn a_quiet_hour_ends_after_it_began(minute in 0_u32..60, hour in 0_u32..24, length in 1_u64..86_400) {
        let quiet = Window { cron: format!("{minute} {hour} * * *"), length_seconds: length, time_zone: "Europe/Oslo".to_owned() };
        let mut rule = rule(json!({}));
        (rule.quiet, rule.mode) = (Some(quiet), RuleMode::Active);
        prop_assert_eq!(check_rule(&rule), Vec::new());
        let plan = Plan::new(&indicator(), Some(&rule), StormPolicy::default()).expect("a plan");
        let decision = decide(&facts(&plan), &limits());
        match decision.due {
            Some((due, cause)) => { prop_assert_eq!(cause, DeferredFor::Quiet); prop_assert!(due > NOW); }
            None => prop_assert_eq!(decision.outcome, AlertOutcome::Collected),
        }
    }
}
