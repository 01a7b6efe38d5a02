//! Alerts as people at the API see them: what was taken in, what waits because it was no alert, the catalogue, the rules and the storms.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use http::StatusCode;
use http::header::{self, HeaderMap};
use muster_domain::alert::{Fault, check_indicator, check_rule};
use muster_intake::Incoming;
use muster_store::{AlertLimits, Changed, Taken};
use muster_wire::alert::{AlertVia, AttributeValue, Poison, Refused};
use muster_wire::http::{
    AlertAnswer, AlertView, IndicatorView, MAX_INDICATORS, MAX_PREVIEW_SECONDS, MAX_RULES, NewIndicator, NewRule, ParkedState, ParkedView,
    Replay, RulePreview, RuleTest, RuleView, StormCollected,
};
use muster_wire::{AlertId, DeviceId, ParkedId, StormId};
use time::OffsetDateTime;

use crate::api::Api;
use crate::api::guard::Caller;
use crate::api::problem::{ApiError, ApiResult};
use crate::settings::Settings;

/// What the settings say about decisions.
pub(crate) fn limits(api: &Api) -> AlertLimits {
    api.settings.alert_limits()
}

/// What was posted. The attributes of an event in binary form stand in its headers.
pub(crate) fn posted(settings: &Settings, caller: &Caller, headers: &HeaderMap, body: Bytes) -> Incoming {
    Incoming {
        via: AlertVia::Http,
        from: caller.0.clone(),
        content_type: content_type(headers),
        attributes: attributes(headers),
        body,
        rules: Arc::new(settings.posted_rules()),
        tenant: None,
        speaks_for: None,
        received_at: OffsetDateTime::now_utc(),
        unreadable: None,
    }
}

/// What was parked, mended or as it was, as if it came now. Who may speak for whom stays as it was when the message came: mending it gives
/// nobody a say.
fn put_in_again(settings: &Settings, parked: &ParkedView, replay: Replay, now: OffsetDateTime) -> Result<Incoming, Refused> {
    use base64::Engine as _;
    let device = || parked.from.parse::<DeviceId>().map_err(|error| Refused::new(Poison::NoDevice, error.to_string()));
    let (speaks_for, tenant, rules) = match parked.via {
        AlertVia::Mqtt => {
            let device = device()?;
            let rules = settings.device_rules(&device);
            (Some(device), None, rules)
        }
        AlertVia::Amqp => (None, settings.queue_tenant(), settings.queue_rules()),
        AlertVia::Http => (None, None, settings.posted_rules()),
    };
    let kept = || match (&parked.body, &parked.body_base64) {
        (Some(text), _) => Ok(text.clone().into_bytes()),
        (None, Some(coded)) => base64::engine::general_purpose::STANDARD
            .decode(coded)
            .map_err(|_| Refused::new(Poison::NotJson, "what was kept of the body cannot be read")),
        (None, None) => Ok(Vec::new()),
    };
    Ok(Incoming {
        via: parked.via,
        from: parked.from.as_str().into(),
        content_type: replay.content_type.or_else(|| parked.content_type.clone()),
        attributes: parked.attributes.iter().map(|(name, value)| (name.clone(), AttributeValue::Text(value.clone()))).collect(),
        body: replay.body.map_or_else(kept, |text| Ok(text.into_bytes()))?.into(),
        rules: Arc::new(rules),
        tenant: tenant.map(Arc::from),
        speaks_for,
        received_at: now,
        unreadable: None,
    })
}

/// What headers of an event begin with.
const ATTRIBUTE: &str = "ce-";

/// Content type of a request, where it has one.
fn content_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?;
    Some(String::from_utf8_lossy(value.as_bytes()).into_owned()).filter(|text| !text.is_empty())
}

/// Those headers that belong to the event; the others (a token among them) are not looked at and not kept.
fn attributes(headers: &HeaderMap) -> Vec<(String, AttributeValue)> {
    let ours = headers.iter().filter(|(name, _)| name.as_str().starts_with(ATTRIBUTE));
    ours.map(|(name, value)| {
        let value = match std::str::from_utf8(value.as_bytes()) {
            Ok(text) => AttributeValue::Text(text.to_owned()),
            Err(_) => AttributeValue::Bytes(value.as_bytes().to_vec()),
        };
        (name.as_str().to_owned(), value)
    })
    .collect()
}

/// Takes one message in, as if it came now.
async fn take_one(api: &Api, message: &Incoming, first_came_at: OffsetDateTime, now: OffsetDateTime) -> ApiResult<Taken> {
    let mut alert = match message.read() {
        Ok(alert) => alert,
        Err(refused) => return Ok(Taken::Refused(refused)),
    };
    if alert.time_inferred {
        // Nobody said when it was, so it was when it first came; not when somebody mended it.
        alert.fired_at = first_came_at;
    }
    let taken = api.store.take_alerts(&[message.received(&alert)], &limits(api), now).await?;
    Ok(taken.into_iter().next().expect("one result for each alert"))
}

/// Puts a parked message in again, as it was or mended.
pub(crate) async fn replay(api: &Api, caller: &str, id: ParkedId, replay: Replay) -> ApiResult<AlertAnswer> {
    let now = OffsetDateTime::now_utc();
    let parked = parked(api, id).await?;
    if parked.state != ParkedState::Parked {
        return Err(not_parked(id, parked.state));
    }
    if parked.cut && replay.body.is_none() {
        return Err(ApiError::new(
            StatusCode::CONFLICT,
            "parked_body_cut",
            "Only a part of it was kept",
            format!("{id} had {} bytes, and what is kept of them is no message", parked.bytes),
        )
        .next_step("give the body anew, or drop it"));
    }
    let taken = match put_in_again(&api.settings, &parked, replay, now) {
        Ok(message) => take_one(api, &message, parked.received_at, now).await?,
        Err(refused) => Taken::Refused(refused),
    };
    let answer = match taken {
        Taken::Decided(alerts) => AlertAnswer { alerts, duplicate: false },
        Taken::Duplicate => AlertAnswer { alerts: Vec::new(), duplicate: true },
        Taken::Refused(refused) => return Err(no_alert(&refused, StatusCode::UNPROCESSABLE_ENTITY)),
    };
    api.dispatch.poke(answer.alerts.iter().filter_map(|alert| alert.collection));
    // Behind the alerts: whoever dies in between replays it again, and that is a repetition.
    api.store.mark_parked(id, ParkedState::Replayed, caller, now).await?;
    tracing::info!(parked = %id, alerts = answer.alerts.len(), duplicate = answer.duplicate, by = caller, "a parked message was replayed");
    Ok(answer)
}

/// The problem that a message is no alert, under the word of the reason.
pub(crate) fn no_alert(refused: &Refused, status: StatusCode) -> ApiError {
    ApiError::new(status, refused.reason.as_str(), "Not an alert", refused.detail.clone())
        .next_step("docs/ALERTS.md shows the three forms of an event, and what each word means")
}

fn not_parked(id: ParkedId, state: ParkedState) -> ApiError {
    ApiError::new(StatusCode::CONFLICT, "not_parked", "It does not wait any more", format!("{id} was {state} before"))
        .next_step("muster alerts parked list shows what waits")
}

/// One parked message with its body.
pub(crate) async fn parked(api: &Api, id: ParkedId) -> ApiResult<ParkedView> {
    let found = api.store.parked_message(id).await?;
    found.ok_or_else(|| ApiError::not_found("parked_not_found", "No such message", format!("there is no parked message {id}")))
}

/// Says that a parked message is not wanted.
pub(crate) async fn drop_parked(api: &Api, caller: &str, id: ParkedId) -> ApiResult<ParkedView> {
    if !api.store.mark_parked(id, ParkedState::Dropped, caller, OffsetDateTime::now_utc()).await? {
        let there = parked(api, id).await?;
        return Err(not_parked(id, there.state));
    }
    tracing::info!(parked = %id, by = caller, "a parked message was dropped");
    parked(api, id).await
}

/// One alert with its data.
pub(crate) async fn alert(api: &Api, id: AlertId) -> ApiResult<AlertView> {
    let found = api.store.alert(id).await?;
    found.ok_or_else(|| alert_not_found(id))
}

fn alert_not_found(id: AlertId) -> ApiError {
    ApiError::not_found("alert_not_found", "No such alert", format!("there is no alert {id}"))
}

/// Makes the collection of an alert that made none, because a person asks.
pub(crate) async fn collect(api: &Api, caller: &str, id: AlertId) -> ApiResult<AlertView> {
    let made = api.store.collect_alert(id, caller, &limits(api), OffsetDateTime::now_utc()).await?;
    let collection = made.ok_or_else(|| alert_not_found(id))?.map_err(|why| {
        ApiError::new(StatusCode::CONFLICT, "alert_not_collectable", "Nothing was collected", why)
            .next_step(format!("muster alerts show {id} says what was decided and why"))
    })?;
    api.dispatch.poke([collection]);
    tracing::info!(alert = %id, collection.id = %collection, by = caller, "an alert was collected on demand");
    alert(api, id).await
}

/// Makes one collection of all that a storm left out.
pub(crate) async fn collect_storm(api: &Api, caller: &str, id: StormId) -> ApiResult<StormCollected> {
    let made = api.store.collect_storm(id, caller, &limits(api), OffsetDateTime::now_utc()).await?;
    let made = made.ok_or_else(|| storm_not_found(id))?;
    api.dispatch.poke(made.collection);
    tracing::info!(storm = %id, devices = made.devices, by = caller, "the rest of a storm was asked for");
    Ok(made)
}

/// No such storm.
pub(crate) fn storm_not_found(id: StormId) -> ApiError {
    ApiError::not_found("storm_not_found", "No such storm", format!("there is no storm {id}"))
}

fn unusable(code: &str, title: &str) -> ApiError {
    ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, code, title, "a value cannot be used")
        .next_step("docs/RULES.md shows examples, and the bounds of each member")
}

fn unusable_indicator() -> ApiError {
    unusable("invalid_indicator", "The indicator cannot be used like this")
}

fn unusable_rule() -> ApiError {
    unusable("invalid_rule", "The rule cannot be used like this")
}

/// The problem with every fault in it, if there is one.
fn sound(faults: Vec<Fault>, problem: fn() -> ApiError) -> ApiResult<()> {
    if faults.is_empty() {
        return Ok(());
    }
    Err(faults.into_iter().fold(problem(), |error, fault| error.field(fault.field, fault.message)))
}

/// No such entry of the catalogue.
pub(crate) fn indicator_not_found(name: &str) -> ApiError {
    let name: String = name.chars().take(200).collect();
    ApiError::not_found("indicator_not_found", "No such indicator", format!("{name:?} is not in the catalogue"))
        .next_step("muster indicators list shows the catalogue")
}

/// Adds an indicator to the catalogue, or changes the one of its name.
pub(crate) async fn put_indicator(api: &Api, caller: &str, new: &NewIndicator, change: bool) -> ApiResult<IndicatorView> {
    sound(check_indicator(new), unusable_indicator)?;
    let now = OffsetDateTime::now_utc();
    let changed =
        if change { api.store.change_indicator(new, caller, now).await? } else { api.store.add_indicator(new, caller, now).await? };
    match changed {
        Changed::Done(view) => {
            tracing::info!(
                indicator = view.definition.name,
                catalogue_version = view.changed_in_catalogue_version,
                by = caller,
                "the catalogue was changed"
            );
            Ok(view)
        }
        Changed::NotThere => Err(indicator_not_found(&new.name)),
        Changed::Taken => Err(ApiError::new(
            StatusCode::CONFLICT,
            "indicator_exists",
            "There is one of this name",
            format!("{:?} is in the catalogue, in this spelling or another", new.name),
        )
        .next_step("muster indicators change changes it")),
        Changed::TooMany => Err(too_many("indicators", MAX_INDICATORS)),
        Changed::InUse(what) => Err(in_use(&new.name, &what)),
    }
}

fn too_many(what: &str, most: usize) -> ApiError {
    ApiError::new(StatusCode::CONFLICT, "too_many", "Too many", format!("there are {most} {what} already"))
}

fn in_use(name: &str, what: &str) -> ApiError {
    ApiError::new(StatusCode::CONFLICT, "in_use", "Something speaks of it", format!("{name}: {what}"))
}

/// No such rule.
pub(crate) fn rule_not_found(name: &str) -> ApiError {
    let name: String = name.chars().take(200).collect();
    ApiError::not_found("rule_not_found", "No such rule", format!("there is no rule {name:?}"))
        .next_step("muster rules list shows what there is")
}

/// One rule. There are few, and all of them are read for each batch of alerts anyway.
pub(crate) async fn rule(api: &Api, name: &str) -> ApiResult<RuleView> {
    let rules = api.store.rules().await?;
    rules.into_iter().find(|rule| rule.definition.name == name).ok_or_else(|| rule_not_found(name))
}

/// Makes a rule, or changes the one of its name.
pub(crate) async fn put_rule(api: &Api, caller: &str, new: &NewRule, change: bool) -> ApiResult<RuleView> {
    sound(check_rule(new), unusable_rule)?;
    if change {
        // What the store calls "not there" is then the indicator.
        rule(api, &new.name).await?;
    }
    match api.store.put_rule(new, change, caller, OffsetDateTime::now_utc()).await? {
        Changed::Done(view) => {
            tracing::info!(rule = view.definition.name, mode = %view.definition.mode, version = view.version, by = caller, "a rule was set");
            Ok(view)
        }
        Changed::NotThere => {
            let name: String = new.indicator.chars().take(200).collect();
            Err(unusable_rule().field("indicator", format!("is {name:?}, which is not in the catalogue")))
        }
        Changed::Taken => {
            Err(ApiError::new(StatusCode::CONFLICT, "rule_exists", "There is one of this name", format!("there is a rule {:?}", new.name))
                .next_step("muster rules edit changes it"))
        }
        Changed::TooMany => Err(too_many("rules", MAX_RULES)),
        Changed::InUse(what) => Err(in_use(&new.name, &what)),
    }
}

/// What would be decided about a message now.
pub(crate) async fn test(api: &Api, message: &Incoming) -> ApiResult<RuleTest> {
    let now = OffsetDateTime::now_utc();
    let bad = |refused: &Refused| no_alert(refused, StatusCode::BAD_REQUEST);
    let alert = message.read().map_err(|refused| bad(&refused))?;
    api.store.test_alert(&message.received(&alert), &limits(api), now).await?.map_err(|refused| bad(&refused))
}

/// What a rule would have done with the alerts of the last `seconds`.
pub(crate) async fn preview(api: &Api, rule: &NewRule, seconds: u64) -> ApiResult<RulePreview> {
    sound(check_rule(rule), unusable_rule)?;
    if !(1..=MAX_PREVIEW_SECONDS).contains(&seconds) {
        return Err(ApiError::new(StatusCode::BAD_REQUEST, "invalid_query", "Query cannot be used", "a parameter is outside its bounds")
            .field("since_seconds", format!("is {seconds}; it lies between 1 and {MAX_PREVIEW_SECONDS}")));
    }
    let now = OffsetDateTime::now_utc();
    Ok(api.store.preview_rule(rule, now - Duration::from_secs(seconds), &limits(api), now).await?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use muster_wire::alert::MAX_ALERT_BYTES;

    use super::*;

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    fn settings() -> Settings {
        Settings::load_from(None, std::iter::empty(), &[]).expect("the defaults")
    }

    fn parked(via: AlertVia, from: &str) -> ParkedView {
        ParkedView {
            id: ParkedId::new(),
            received_at: OffsetDateTime::UNIX_EPOCH,
            via,
            from: from.to_owned(),
            reason: Poison::NotJson,
            detail: "at line 1".to_owned(),
            state: ParkedState::Parked,
            changed_by: None,
            changed_at: None,
            bytes: 2,
            body: Some("{]".to_owned()),
            body_base64: None,
            cut: false,
            content_type: Some("application/json".to_owned()),
            attributes: BTreeMap::from([("ce-id".to_owned(), "7".to_owned())]),
        }
    }

    #[test]
    fn who_mends_a_message_speaks_for_nobody_else() {
        let mended = Replay { body: Some("{}".to_owned()), content_type: Some("application/cloudevents+json".to_owned()) };
        let message = put_in_again(&settings(), &parked(AlertVia::Mqtt, "press-1"), mended, NOW).expect("it can be read");
        assert_eq!((message.speaks_for, message.body), ("press-1".parse().ok(), "{}".into()));
        assert_eq!(message.content_type.as_deref(), Some("application/cloudevents+json"));
        assert_eq!(message.attributes.len(), 1, "what stood beside the body stays");
        let unknown = put_in_again(&settings(), &parked(AlertVia::Mqtt, "a/b"), Replay::default(), NOW);
        assert_eq!(unknown.err().map(|refused| refused.reason), Some(Poison::NoDevice), "a sender that cannot be named is not let through");
    }

    #[test]
    fn what_is_not_mended_is_as_it_came() {
        let message = put_in_again(&settings(), &parked(AlertVia::Http, "127.0.0.1"), Replay::default(), NOW).expect("it can be read");
        assert_eq!((message.speaks_for, message.body), (None, "{]".into()));
        assert_eq!(message.content_type.as_deref(), Some("application/json"));
        let bytes = ParkedView { body: None, body_base64: Some("//4=".to_owned()), ..parked(AlertVia::Amqp, "alerts") };
        assert_eq!(
            put_in_again(&settings(), &bytes, Replay::default(), NOW).map(|message| message.body).ok(),
            Some(vec![0xff, 0xfe].into())
        );
        let broken = ParkedView { body: None, body_base64: Some("?".to_owned()), ..parked(AlertVia::Amqp, "alerts") };
        assert!(put_in_again(&settings(), &broken, Replay::default(), NOW).is_err());
    }

    #[test]
    fn attributes_of_an_event_are_the_headers_that_say_so() {
        let mut headers = HeaderMap::new();
        for (name, value) in
            [("ce-id", "7"), ("ce-source", "s"), ("cookie", "x"), ("authorization", "Bearer t"), ("content-type", "application/json")]
        {
            headers.insert(header::HeaderName::from_static(name), value.parse().expect("a value"));
        }
        let attributes = attributes(&headers);
        assert_eq!(attributes.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["ce-id", "ce-source"], "no credential is kept");
        assert_eq!(content_type(&headers).as_deref(), Some("application/json"));
        let body = vec![b' '; MAX_ALERT_BYTES + 1].into();
        let large = posted(&settings(), &Caller("somebody".into()), &headers, body);
        assert_eq!(large.read().expect_err("too large").reason, Poison::TooLarge);
    }
}
