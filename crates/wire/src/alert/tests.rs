//! Every row of the contract, with what keeps it and what breaks it.

use proptest::prelude::*;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::macros::datetime;

use super::*;

const NOW: OffsetDateTime = datetime!(2026-11-18 09:15:00 UTC);
const ARM: &str = "/subscriptions/1c7e2a54-0000-4000-8000-0000000000a1/resourceGroups/rg-plant/providers/Microsoft.DataBoxEdge/dataBoxEdgeDevices/ase-plant-07";
const STRUCTURED: &str = "application/cloudevents+json; charset=utf-8";

fn data() -> Value {
    json!({
        "schemaId": "azureMonitorCommonAlertSchema",
        "data": {
            "essentials": {
                "alertId": "/subscriptions/1c7e2a54-0000-4000-8000-0000000000a1/providers/Microsoft.AlertsManagement/alerts/7f0c2a1e",
                "alertRule": "edge-device-alerts",
                "severity": "Sev2",
                "monitorCondition": "Fired",
                "alertTargetIDs": [ARM.to_lowercase()],
                "configurationItems": ["ase-plant-07"],
                "originAlertId": "83eccd0b-134b-40b0-ad62-b5f124d03790",
                "firedDateTime": "2026-11-18T09:14:20.0000000Z",
                "description": "IoT Edge agent is not running.",
            },
            "alertContext": {"properties": {"alertType": "IOTEdgeAgentNotRunningCondition", "severity": "Warning", "occurrences": "1"}},
            "customProperties": {"site": "plant-7"}
        }
    })
}

fn event() -> Value {
    json!({
        "specversion": "1.0",
        "id": "5b6d0f0e",
        "source": ARM,
        "type": ALERT_TYPE,
        "subject": "IOTEdgeAgentNotRunningCondition",
        "time": "2026-11-18T09:14:22.418Z",
        "datacontenttype": "application/json",
        "data": data()
    })
}

fn with(mut document: Value, pointer: &str, value: Value) -> Value {
    let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
    let members = document.pointer_mut(parent).and_then(Value::as_object_mut).expect("an object");
    members.insert(name.to_owned(), value);
    document
}

fn without(mut document: Value, pointer: &str) -> Value {
    let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
    document.pointer_mut(parent).and_then(Value::as_object_mut).expect("an object").remove(name);
    document
}

fn bare_rules() -> SourceRules {
    SourceRules { bare: Some("azure-monitor".to_owned()), ..SourceRules::default() }
}

fn structured(document: &Value) -> Result<Alert, Refused> {
    parse(
        &RawAlert { content_type: Some(STRUCTURED), attributes: &[], body: document.to_string().as_bytes() },
        &SourceRules::default(),
        NOW,
    )
}

fn attributes(prefix: &str) -> Vec<(String, AttributeValue)> {
    let text = |name: &str, value: &str| (format!("{prefix}{name}"), AttributeValue::Text(value.to_owned()));
    vec![
        text("specversion", "1.0"),
        text("id", "5b6d0f0e"),
        text("source", ARM),
        text("type", ALERT_TYPE),
        text("subject", "IOTEdgeAgentNotRunningCondition"),
        text("time", "2026-11-18T09:14:22.418Z"),
    ]
}

fn binary(attributes: &[(String, AttributeValue)]) -> Result<Alert, Refused> {
    binary_of(attributes, Some("application/json; charset=utf-8"), data().to_string().as_bytes())
}

fn binary_of(attributes: &[(String, AttributeValue)], content_type: Option<&str>, body: &[u8]) -> Result<Alert, Refused> {
    parse(&RawAlert { content_type, attributes, body }, &SourceRules::default(), NOW)
}

fn bare(document: &Value) -> Result<Alert, Refused> {
    let body = document.to_string();
    parse(&RawAlert { content_type: Some("application/json"), attributes: &[], body: body.as_bytes() }, &bare_rules(), NOW)
}

fn reason(result: Result<Alert, Refused>) -> Poison {
    result.expect_err("refused").reason
}

#[test]
fn each_shape_gives_the_same_alert() {
    let expected = Alert {
        source: ARM.to_owned(),
        id: "5b6d0f0e".to_owned(),
        shape: AlertShape::Structured,
        devices: vec!["ase-plant-07".to_owned()],
        indicator: "IOTEdgeAgentNotRunningCondition".to_owned(),
        condition: AlertCondition::Fired,
        severity: Some(Severity::Sev2),
        fired_at: datetime!(2026-11-18 09:14:20 UTC),
        time_inferred: false,
        resolved_at: None,
        origin_alert_id: Some("83eccd0b-134b-40b0-ad62-b5f124d03790".to_owned()),
        description: Some("IoT Edge agent is not running.".to_owned()),
        traceparent: None,
        extensions: BTreeMap::new(),
        data: data().to_string(),
    };
    assert_eq!(structured(&event()), Ok(expected.clone()));
    for prefix in ["cloudEvents_", "cloudEvents:", "ce-"] {
        assert_eq!(binary(&attributes(prefix)), Ok(Alert { shape: AlertShape::Binary, ..expected.clone() }), "{prefix}");
    }
    let bare = bare(&data()).expect("an alert");
    assert_eq!(bare.id.len(), 64);
    assert_eq!(bare, Alert { shape: AlertShape::Bare, id: bare.id.clone(), source: "azure-monitor".to_owned(), ..expected });
}

#[test]
fn a_structured_event_is_known_by_its_content_type() {
    let body = event().to_string();
    for content_type in ["application/cloudevents+json", "APPLICATION/CloudEvents+JSON ; charset=UTF-8"] {
        let message = RawAlert { content_type: Some(content_type), attributes: &[], body: body.as_bytes() };
        assert!(parse(&message, &SourceRules::default(), NOW).is_ok(), "{content_type}");
    }
    let message = RawAlert { content_type: None, attributes: &[], body: body.as_bytes() };
    assert!(parse(&message, &SourceRules::default(), NOW).is_ok(), "without one by its own words");
    for content_type in ["application/cloudevents-batch+json", "application/cloudevents+xml", "application/cloudevents", "application/json"]
    {
        let message = RawAlert { content_type: Some(content_type), attributes: &[], body: body.as_bytes() };
        assert_eq!(reason(parse(&message, &bare_rules(), NOW)), Poison::UnsupportedFormat, "{content_type}");
    }
}

#[test]
fn the_envelope_keeps_its_rules() {
    for (name, document, expected) in [
        ("an old version", with(event(), "/specversion", json!("0.3")), Poison::UnsupportedSpecversion),
        ("a new version", with(event(), "/specversion", json!("1.1")), Poison::UnsupportedSpecversion),
        ("a number for a version", with(event(), "/specversion", json!(1.0)), Poison::Malformed),
        ("no version", without(event(), "/specversion"), Poison::Malformed),
        ("no id", without(event(), "/id"), Poison::Malformed),
        ("a null for an id", with(event(), "/id", Value::Null), Poison::Malformed),
        ("an empty id", with(event(), "/id", json!("")), Poison::Malformed),
        ("a number for an id", with(event(), "/id", json!(5)), Poison::Malformed),
        ("a long id", with(event(), "/id", json!("x".repeat(MAX_ALERT_TEXT_BYTES + 1))), Poison::Malformed),
        ("a line in an id", with(event(), "/id", json!("a\nb")), Poison::Malformed),
        ("a NUL", with(event(), "/id", json!("a\0b")), Poison::Malformed),
        ("no source", without(event(), "/source"), Poison::Malformed),
        ("a source with a space", with(event(), "/source", json!("a b")), Poison::Malformed),
        ("no type", without(event(), "/type"), Poison::Malformed),
        ("a later type", with(event(), "/type", json!("com.microsoft.edge.alert.v2")), Poison::UnsupportedType),
        ("a type in another case", with(event(), "/type", json!(ALERT_TYPE.to_uppercase())), Poison::UnsupportedType),
        ("a boolean subject", with(event(), "/subject", json!(true)), Poison::Malformed),
        ("a time that is none", with(event(), "/time", json!("yesterday")), Poison::Malformed),
        ("a time without a zone", with(event(), "/time", json!("2026-11-18T09:14:22")), Poison::Malformed),
        ("a number for a time", with(event(), "/time", json!(1_763_457_262)), Poison::Malformed),
        ("a time before our era", with(event(), "/time", json!("0001-01-01T00:00:00Z")), Poison::Malformed),
        ("a time past all", with(event(), "/time", json!("9999-12-31T23:59:59-23:59")), Poison::Malformed),
        ("data in XML", with(event(), "/datacontenttype", json!("application/xml")), Poison::UnsupportedContent),
        ("data in a text", with(event(), "/datacontenttype", json!("json")), Poison::UnsupportedContent),
        ("no data", without(event(), "/data"), Poison::Malformed),
        ("data twice", with(event(), "/data_base64", json!("e30=")), Poison::Malformed),
        ("data that is no base64", with(without(event(), "/data"), "/data_base64", json!("%")), Poison::Malformed),
        ("data that is no JSON", with(without(event(), "/data"), "/data_base64", json!("AAAA")), Poison::NotJson),
        ("a list", json!([event()]), Poison::Malformed),
        ("a text", json!("event"), Poison::Malformed),
    ] {
        assert_eq!(reason(structured(&document)), expected, "{name}");
    }
    let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, data().to_string());
    for (name, document) in [
        ("an id as long as may be", with(event(), "/id", json!("x".repeat(MAX_ALERT_TEXT_BYTES)))),
        ("data in base64", with(without(event(), "/data"), "/data_base64", json!(encoded))),
        ("no content type", without(event(), "/datacontenttype")),
        ("another JSON", with(event(), "/datacontenttype", json!("text/json; charset=utf-8"))),
        ("a JSON by its ending", with(event(), "/datacontenttype", json!("application/vnd.alert+json"))),
        ("an empty subject", with(event(), "/subject", json!(""))),
        ("an unknown member", with(event(), "/whatever", json!({"a": [1, 2]}))),
    ] {
        assert!(structured(&document).is_ok(), "{name}: {:?}", structured(&document));
    }
}

#[test]
fn extensions_are_kept_and_a_trace_is_continued() {
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let mut document = event();
    for (name, value) in [
        ("traceparent", json!(trace)),
        ("dataschema", json!("https://schemas.example/alert")),
        ("count", json!(5)),
        ("big", json!(18_446_744_073_709_551_615_u64)),
        ("flag", json!(true)),
        ("nested", json!({"a": 1})),
        ("absent", Value::Null),
    ] {
        document = with(document, &format!("/{name}"), value);
    }
    let alert = structured(&document).expect("an alert");
    assert_eq!(alert.traceparent.as_deref(), Some(trace));
    let kept: Vec<_> = alert.extensions.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let expected = [
        ("big", "18446744073709551615"),
        ("count", "5"),
        ("dataschema", "https://schemas.example/alert"),
        ("flag", "true"),
        ("nested", r#"{"a":1}"#),
        ("traceparent", trace),
    ];
    assert_eq!(kept, expected);
    for bad in ["", "00-x", "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", &format!("{trace}-01")] {
        let alert = structured(&with(event(), "/traceparent", json!(bad))).expect("an alert");
        assert_eq!((alert.traceparent, alert.extensions["traceparent"].as_str()), (None, bad), "kept, and not continued");
    }
}

#[test]
fn attributes_beside_the_message_keep_the_same_rules() {
    let put = |name: &str, value: AttributeValue| {
        let mut all = attributes("cloudEvents_");
        all.retain(|(known, _)| known != name);
        all.push((name.to_owned(), value));
        all
    };
    let text = |value: &str| AttributeValue::Text(value.to_owned());
    for (name, all, expected) in [
        ("mixed separators", put("cloudEvents:foo", text("x")), Poison::Malformed),
        ("HTTP's beside AMQP's", put("ce-foo", text("x")), Poison::Malformed),
        ("a number for an id", put("cloudEvents_id", AttributeValue::Integer(5)), Poison::Malformed),
        ("a boolean for a subject", put("cloudEvents_subject", AttributeValue::Bool(true)), Poison::Malformed),
        ("bytes for a source", put("cloudEvents_source", AttributeValue::Bytes(vec![1])), Poison::Malformed),
        ("a foreign value for a type", put("cloudEvents_type", AttributeValue::Foreign("a list")), Poison::Malformed),
        ("a number for a version", put("cloudEvents_specversion", AttributeValue::Integer(1)), Poison::Malformed),
        ("another version", put("cloudEvents_specversion", text("1")), Poison::UnsupportedSpecversion),
        ("a number for a time", put("cloudEvents_time", AttributeValue::Integer(5)), Poison::Malformed),
        ("a time before our era", put("cloudEvents_time", AttributeValue::Timestamp(datetime!(1969-01-01 0:00 UTC))), Poison::Malformed),
        ("a NUL", put("cloudEvents_subject", text("a\0")), Poison::Malformed),
        ("no name", put("cloudEvents_", text("x")), Poison::Malformed),
    ] {
        assert_eq!(reason(binary(&all)), expected, "{name}");
    }
    let mut twice = attributes("ce-");
    twice.push(("ce-id".to_owned(), text("other")));
    assert_eq!(reason(binary(&twice)), Poison::Malformed);
    for required in ["specversion", "id", "source", "type"] {
        let mut all = attributes("ce-");
        all.retain(|(name, _)| name != &format!("ce-{required}"));
        let refused = binary(&all).expect_err("refused");
        assert_eq!(refused.reason, Poison::Malformed);
        assert!(refused.detail.contains(required), "{refused}");
    }
    // A native timestamp is the same as its text; a text that looks like another type stays a text.
    let native = binary(&put("cloudEvents_time", AttributeValue::Timestamp(datetime!(2026-11-18 09:14:22.418 UTC))));
    assert_eq!(native, binary(&attributes("cloudEvents_")));
    assert_eq!(binary(&put("cloudEvents_id", text("5"))).expect("an alert").id, "5");
    assert_eq!(binary(&put("cloudEvents_id", text("true"))).expect("an alert").id, "true");
    // Extensions in every type of the transport.
    let mut all = attributes("cloudEvents_");
    for (name, value) in [
        ("flag", AttributeValue::Bool(false)),
        ("count", AttributeValue::Integer(-7)),
        ("at", AttributeValue::Timestamp(datetime!(2026-01-02 03:04:05 UTC))),
        ("raw", AttributeValue::Bytes(b"ab".to_vec())),
        ("odd", AttributeValue::Foreign("a table")),
    ] {
        all.push((format!("cloudEvents_{name}"), value));
    }
    all.push(("x-death".to_owned(), AttributeValue::Foreign("a list")));
    let kept = binary(&all).expect("an alert").extensions;
    let expected = [("at", "2026-01-02T03:04:05Z"), ("count", "-7"), ("flag", "false"), ("raw", "YWI=")];
    assert_eq!(kept, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
}

#[test]
fn the_data_of_attributes_beside_it_is_json() {
    let body = data().to_string();
    let all = attributes("ce-");
    for good in [None, Some("application/json"), Some("application/vnd.x+json; a=b"), Some("TEXT/JSON")] {
        assert!(binary_of(&all, good, body.as_bytes()).is_ok(), "{good:?}");
    }
    for bad in ["text/plain", "application/octet-stream", "json", "application/xml"] {
        assert_eq!(reason(binary_of(&all, Some(bad), body.as_bytes())), Poison::UnsupportedContent, "{bad}");
    }
    assert_eq!(reason(binary_of(&all, None, b"")), Poison::NotJson);
    assert_eq!(reason(binary_of(&all, None, b"\xff\xfe")), Poison::NotJson);
    assert_eq!(reason(binary_of(&all, None, b"{}")), Poison::UnsupportedSchema);
    assert_eq!(reason(binary_of(&all, None, br#"{"schemaId":1,"schemaId":2}"#)), Poison::DuplicateKey);
}

#[test]
fn headers_of_http_are_percent_decoded() {
    let mut all = attributes("ce-");
    all.retain(|(name, _)| name != "ce-subject");
    for (value, expected) in
        [("Tank%20voll%C3%A4", Some("Tank vollä")), ("100%", Some("100%")), ("%zz%2", Some("%zz%2")), ("%ff", None), ("%00", None)]
    {
        let mut all = all.clone();
        all.push(("ce-subject".to_owned(), AttributeValue::Text(value.to_owned())));
        let body = without(data(), "/data/alertContext").to_string();
        let indicator = binary_of(&all, None, body.as_bytes()).map(|alert| alert.indicator).ok();
        assert_eq!(indicator.as_deref(), expected, "{value}");
    }
}

#[test]
fn a_bare_alert_is_taken_where_it_is_allowed() {
    let body = data().to_string();
    let message = |content_type| RawAlert { content_type, attributes: &[], body: body.as_bytes() };
    assert_eq!(reason(parse(&message(Some("application/json")), &SourceRules::default(), NOW)), Poison::UnsupportedSchema);
    assert!(parse(&message(None), &bare_rules(), NOW).is_ok());
    assert_eq!(reason(parse(&message(Some("text/plain")), &bare_rules(), NOW)), Poison::UnsupportedContent);
    assert_eq!(reason(bare(&json!({"schemaId": "other"}))), Poison::UnsupportedSchema);
    assert_eq!(reason(bare(&json!({"schemaId": 1}))), Poison::UnsupportedSchema);
    assert_eq!(reason(bare(&json!([]))), Poison::UnsupportedSchema);
    assert_eq!(reason(bare(&without(data(), "/data/essentials/alertId"))), Poison::Malformed);
    // What makes two of them the same event.
    let id = |document: Value| bare(&document).expect("an alert").id;
    assert_eq!(id(data()), id(with(data(), "/data/customProperties/site", json!("elsewhere"))));
    assert_ne!(id(data()), id(with(data(), "/data/essentials/monitorCondition", json!("Resolved"))));
    assert_ne!(id(data()), id(with(data(), "/data/essentials/firedDateTime", json!("2026-11-18T09:14:21Z"))));
    assert_ne!(id(data()), id(with(data(), "/data/essentials/alertId", json!("other"))));
    let known = with(data(), "/data/essentials/alertId", json!("a"));
    // printf 'a|Fired|2026-11-18T09:14:20.0000000Z' | sha256sum
    assert_eq!(id(known), "2b0f1f3af43773a160961d3f00a9b906c5cda297ed3c65edbb527d4ec973e1fe");
}

#[test]
fn the_payload_is_mapped_by_the_first_that_exists() {
    let essentials = "/data/data/essentials";
    let indicator = |document: &Value| structured(document).map(|alert| alert.indicator);
    let document = with(event(), "/data/data/customProperties/alertType", json!("Custom"));
    assert_eq!(indicator(&document).as_deref(), Ok("IOTEdgeAgentNotRunningCondition"));
    let document = with(document, "/data/data/alertContext", Value::Null);
    assert_eq!(indicator(&document).as_deref(), Ok("Custom"));
    let document = with(document, "/data/data/customProperties/alertType", json!(" "));
    let document = with(document, "/subject", json!("Subject"));
    assert_eq!(indicator(&document).as_deref(), Ok("Subject"));
    let document = without(document, "/subject");
    assert_eq!(indicator(&document).as_deref(), Ok("edge-device-alerts"));
    let document = without(document, &format!("{essentials}/alertRule"));
    assert_eq!(reason(structured(&document)), Poison::NoIndicator);

    let devices = |document: &Value| structured(document).map(|alert| alert.devices.join(","));
    let targets = |ids: Value| with(event(), &format!("{essentials}/alertTargetIDs"), ids);
    let other = ARM.replace("ase-plant-07", "ase-plant-08");
    assert_eq!(devices(&targets(json!([ARM, other, ARM.to_uppercase()]))).as_deref(), Ok("ase-plant-07,ase-plant-08"));
    assert_eq!(devices(&targets(json!(["not a device", format!("{other}/")]))).as_deref(), Ok("ase-plant-08"));
    let none = with(targets(json!(["not a device"])), &format!("{essentials}/configurationItems"), json!(["press-0042", "x"]));
    assert_eq!(devices(&none).as_deref(), Ok("press-0042"));
    let none = without(none, &format!("{essentials}/configurationItems"));
    assert_eq!(devices(&none).as_deref(), Ok("ase-plant-07"), "the source");
    assert_eq!(devices(&with(none.clone(), "/source", json!("urn:device:press-1"))).as_deref(), Ok("press-1"));
    assert_eq!(reason(structured(&with(none, "/source", json!("monitor")))), Poison::NoDevice);
    let many = |count: usize| targets(json!((0..count).map(|n| ARM.replace("07", &format!("{n:03}"))).collect::<Vec<_>>()));
    assert_eq!(structured(&many(MAX_ALERT_DEVICES)).expect("an alert").devices.len(), MAX_ALERT_DEVICES);
    assert_eq!(reason(structured(&many(MAX_ALERT_DEVICES + 1))), Poison::Malformed);

    let severity = |word: Value| structured(&with(event(), &format!("{essentials}/severity"), word)).expect("an alert").severity;
    assert_eq!(severity(json!("sEV0")), Some(Severity::Sev0));
    assert_eq!(severity(json!("Critical")), Some(Severity::Sev1));
    assert_eq!(severity(json!("Informational")), Some(Severity::Sev3));
    assert_eq!(severity(json!("dire")), Some(Severity::Sev2), "the word of the device itself");
    assert_eq!(severity(json!(7)), Some(Severity::Sev2), "it never refuses");
}

#[test]
fn conditions_and_times_say_what_they_are() {
    let essentials = "/data/data/essentials";
    let put = |name: &str, value: Value| with(event(), &format!("{essentials}/{name}"), value);
    let resolved = put("monitorCondition", json!("rESOLVED"));
    assert_eq!(structured(&resolved).expect("an alert").condition, AlertCondition::Resolved);
    for (name, value, expected) in [
        ("monitorCondition", json!("Acknowledged"), Poison::UnknownCondition),
        ("monitorCondition", Value::Null, Poison::UnknownCondition),
        ("monitorCondition", json!(1), Poison::Malformed),
        ("firedDateTime", json!("soon"), Poison::Malformed),
        ("firedDateTime", json!(1), Poison::Malformed),
        ("firedDateTime", json!("2026-11-18T09:25:01Z"), Poison::FutureTime),
        ("resolvedDateTime", json!("2026-11-18T09:25:01Z"), Poison::FutureTime),
        ("alertTargetIDs", json!("x"), Poison::Malformed),
        ("alertTargetIDs", json!([1]), Poison::Malformed),
        ("configurationItems", json!({}), Poison::Malformed),
        ("alertId", json!({}), Poison::Malformed),
        ("originAlertId", json!("x".repeat(MAX_ALERT_TEXT_BYTES + 1)), Poison::Malformed),
    ] {
        // The list that is asked second is looked at only where the first names none.
        let document = put(name, value.clone());
        let document = if name == "configurationItems" { without(document, &format!("{essentials}/alertTargetIDs")) } else { document };
        assert_eq!(reason(structured(&document)), expected, "{name}: {value}");
    }
    for (name, value) in [("data", json!([])), ("data", Value::Null)] {
        assert_eq!(reason(structured(&with(event(), &format!("/data/{name}"), value))), Poison::Malformed);
    }
    assert_eq!(reason(structured(&without(event(), essentials))), Poison::Malformed);
    for context in [json!([]), json!({"properties": 5})] {
        assert_eq!(reason(structured(&with(event(), "/data/data/alertContext", context))), Poison::Malformed);
    }
    let fired = |document: &Value| structured(document).map(|alert| (alert.fired_at, alert.time_inferred)).expect("an alert");
    assert_eq!(fired(&put("firedDateTime", json!("2026-11-18T10:25:00+01:00"))).0, datetime!(2026-11-18 09:25 UTC), "the edge");
    assert_eq!(fired(&put("firedDateTime", json!("2026-11-18T09:14:20.1234567"))).0, datetime!(2026-11-18 09:14:20.1234567 UTC));
    let silent = without(event(), &format!("{essentials}/firedDateTime"));
    assert_eq!(fired(&silent), (datetime!(2026-11-18 09:14:22.418 UTC), false));
    assert_eq!(fired(&without(silent, "/time")), (NOW, true));
    let origin = without(event(), &format!("{essentials}/originAlertId"));
    assert!(structured(&origin).expect("an alert").origin_alert_id.expect("the id of the alert").ends_with("7f0c2a1e"));
    let long = structured(&put("description", json!(format!("a\u{1b}[31m\n{}", "ä".repeat(MAX_ALERT_TEXT_BYTES))))).expect("an alert");
    let long = long.description.expect("a description");
    assert!(long.len() <= MAX_ALERT_TEXT_BYTES && long.starts_with("a [31m ä") && long.ends_with('…'));
}

#[test]
fn a_message_has_a_largest_size() {
    let fits = with(event(), "/data/data/customProperties/pad", json!("x".repeat(MAX_ALERT_BYTES - 4096)));
    assert!(structured(&fits).is_ok());
    let body = vec![b' '; MAX_ALERT_BYTES + 1];
    assert_eq!(reason(binary_of(&[], None, &body)), Poison::TooLarge);
    let body = vec![b' '; MAX_ALERT_BYTES];
    assert_eq!(reason(binary_of(&[], None, &body)), Poison::NotJson, "the edge");
    let attributes = [("ce-x".to_owned(), AttributeValue::Text("y".repeat(MAX_ALERT_BYTES)))];
    assert_eq!(reason(binary_of(&attributes, None, b"{}")), Poison::TooLarge, "attributes included");
}

#[test]
fn every_reason_a_message_alone_can_give_has_a_message() {
    let needs_more = [Poison::UnknownDevice, Poison::TenantMismatch, Poison::DeliveryLimit];
    let deep = format!("{}{}", "[".repeat(70), "]".repeat(70));
    let all = [
        reason(binary_of(&[], None, &vec![0; MAX_ALERT_BYTES + 1])),
        reason(binary_of(&[], None, b"x")),
        reason(binary_of(&[], None, deep.as_bytes())),
        reason(structured(&json!([]))),
        reason(binary_of(&[], None, br#"{"a":1,"a":2}"#)),
        reason(binary_of(&[], Some("application/cloudevents-batch+json"), b"[]")),
        reason(structured(&with(event(), "/specversion", json!("2.0")))),
        reason(structured(&with(event(), "/type", json!("other")))),
        reason(structured(&with(event(), "/datacontenttype", json!("text/plain")))),
        reason(structured(&with(event(), "/data", json!({})))),
        reason(structured(&with(with(event(), "/data/data/essentials", json!({"monitorCondition": "Fired"})), "/source", json!("x")))),
        reason(structured(&without(
            without(with(event(), "/data/data/alertContext", json!({})), "/subject"),
            "/data/data/essentials/alertRule",
        ))),
        reason(structured(&with(event(), "/data/data/essentials/monitorCondition", json!("?")))),
        reason(structured(&with(event(), "/data/data/essentials/firedDateTime", json!("2036-01-01T00:00:00Z")))),
    ];
    let missing: Vec<_> = Poison::ALL.iter().filter(|reason| !all.contains(reason) && !needs_more.contains(reason)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn a_refusal_cannot_move_a_terminal() {
    let refused = structured(&with(event(), "/type", json!(format!("\u{7f}{}", "x".repeat(500))))).expect_err("refused");
    assert!(refused.detail.len() < 300 && !refused.detail.contains('\u{7f}'), "{refused}");
}

fn value() -> impl Strategy<Value = AttributeValue> {
    prop_oneof![
        ".{0,40}".prop_map(AttributeValue::Text),
        any::<bool>().prop_map(AttributeValue::Bool),
        any::<i64>().prop_map(AttributeValue::Integer),
        (-377_705_116_800_i64..=253_402_300_799)
            .prop_map(|at| AttributeValue::Timestamp(OffsetDateTime::from_unix_timestamp(at).expect("in range"))),
        prop::collection::vec(any::<u8>(), 0..20).prop_map(AttributeValue::Bytes),
        Just(AttributeValue::Foreign("a table")),
    ]
}

fn name() -> impl Strategy<Value = String> {
    let names = prop::sample::select(vec!["specversion", "id", "source", "type", "subject", "time", "datacontenttype", "x", ""]);
    let prefixes = prop::sample::select(vec!["ce-", "cloudEvents_", "cloudEvents:", ""]);
    prop_oneof![(prefixes, names).prop_map(|(prefix, name)| format!("{prefix}{name}")), ".{0,20}"]
}

proptest! {
    #[test]
    fn nothing_that_comes_can_make_it_panic(
        body in prop::collection::vec(any::<u8>(), 0..400),
        content_type in prop::option::of(prop_oneof![Just(STRUCTURED.to_owned()), Just("application/json".to_owned()), ".{0,30}"]),
        attributes in prop::collection::vec((name(), value()), 0..10),
    ) {
        let message = RawAlert { content_type: content_type.as_deref(), attributes: &attributes, body: &body };
        let _any = parse(&message, &bare_rules(), NOW);
    }

    #[test]
    fn nor_can_a_good_event_with_bytes_changed(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12)) {
        let mut body = event().to_string().into_bytes();
        for (at, byte) in changes {
            let at = at.index(body.len());
            body[at] = byte;
        }
        for content_type in [Some(STRUCTURED), Some("application/json"), None] {
            let message = RawAlert { content_type, attributes: &[], body: &body };
            if let Ok(alert) = parse(&message, &bare_rules(), NOW) {
                prop_assert!(!alert.devices.is_empty() && !alert.indicator.is_empty());
                prop_assert!(serde_json::from_str::<Value>(&alert.data).is_ok());
            }
        }
    }

    #[test]
    fn nor_can_values_of_other_types(pointer in prop::sample::select(vec![
        "/specversion", "/id", "/source", "/type", "/subject", "/time", "/datacontenttype", "/data", "/data_base64", "/data/schemaId", "/data/data",
        "/data/data/essentials", "/data/data/alertContext", "/data/data/customProperties", "/data/data/essentials/alertTargetIDs",
        "/data/data/essentials/configurationItems", "/data/data/essentials/monitorCondition", "/data/data/essentials/severity",
        "/data/data/essentials/firedDateTime", "/data/data/essentials/resolvedDateTime", "/data/data/alertContext/properties",
    ]), value in prop_oneof![
        Just(Value::Null), any::<bool>().prop_map(Value::from), any::<i64>().prop_map(Value::from), ".{0,40}".prop_map(Value::from),
        Just(json!([])), Just(json!([1, null, "x"])), Just(json!({})), Just(json!({"": {"": []}})),
    ]) {
        let _any = structured(&with(event(), pointer, value));
    }
}
