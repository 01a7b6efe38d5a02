//! Alerts that are posted, and those a device raises on its own topic.

use muster_wire::alert::{ALERT_TYPE, COMMON_ALERT_SCHEMA, MAX_ALERT_BYTES};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::collections::known;
use crate::device::{Device, publish};
use crate::harness::{Served, until};

const ALERTS: &str = "/api/v1/alerts";
const STRUCTURED: (&str, &str) = ("content-type", "application/cloudevents+json");
const JSON: (&str, &str) = ("content-type", "application/json; charset=utf-8");

fn data(device: &str) -> Value {
    let now = OffsetDateTime::now_utc().format(&Rfc3339).unwrap();
    json!({"schemaId": COMMON_ALERT_SCHEMA, "data": {
        "essentials": {"alertId": "a-1", "monitorCondition": "Fired", "configurationItems": [device], "firedDateTime": now},
        "alertContext": {"properties": {"alertType": "IOTEdgeAgentNotRunningCondition"}},
    }})
}

fn event(id: &str, device: &str) -> Value {
    json!({"specversion": "1.0", "id": id, "source": "urn:test", "type": ALERT_TYPE, "data": data(device)})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_posted_event_is_decided_once_and_what_is_none_is_named() {
    let served = Served::start(&[]).await.ready().await;
    let _device = Device::connect(&served.controller.mqtt_url(), "press-1", &["ping"]).await;
    known(&served, 1).await;
    let post = async |headers: &[(&str, &str)], body: &Value| served.api.send("POST", ALERTS, headers, body.to_string().as_bytes()).await;

    let first = post(&[STRUCTURED], &event("e-1", "PRESS-1")).await;
    assert_eq!(first.status, 202, "{}", first.text());
    let answer: Value = first.json();
    assert_eq!(answer["duplicate"], false);
    assert_eq!((&answer["alerts"][0]["device"], &answer["alerts"][0]["outcome"]), (&json!("press-1"), &json!("no_consent")), "{answer}");
    let again: Value = post(&[STRUCTURED], &event("e-1", "press-1")).await.json();
    assert_eq!(again, json!({"alerts": [], "duplicate": true}));

    let binary =
        [("ce-specversion", "1.0"), ("ce-id", "e-2"), ("ce-source", "urn:test"), ("ce-type", ALERT_TYPE), ("ce-subject", "x%20y"), JSON];
    let answer = post(&binary, &data("press-1")).await;
    assert_eq!(answer.status, 202, "{}", answer.text());

    for (headers, body, code) in [
        (&[STRUCTURED][..], event("e-3", "nobody"), "unknown_device"),
        (&[STRUCTURED], json!({}), "malformed"),
        (&[STRUCTURED], json!({"specversion": "0.3"}), "unsupported_specversion"),
        (&[JSON], data("press-1"), "unsupported_schema"),
        (&[JSON], event("e-4", "press-1"), "unsupported_format"),
        (&[("content-type", "application/cloudevents-batch+json")], json!([]), "unsupported_format"),
        (&[("content-type", "text/plain")], json!("hello"), "unsupported_content"),
        (&binary[1..], data("press-1"), "malformed"),
    ] {
        let refused = post(headers, &body).await;
        assert_eq!((refused.status, refused.code().as_str()), (400, code), "{body}");
        assert!(refused.problem()["next_step"].as_str().unwrap().contains("is kept as "), "{}", refused.text());
    }
    let large = vec![b' '; MAX_ALERT_BYTES + 1];
    let refused = served.api.send("POST", ALERTS, &[STRUCTURED], &large).await;
    assert_eq!((refused.status, refused.code().as_str()), (413, "too_large"));
    served.controller.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_taken_where_its_source_has_a_name_and_a_token_is_needed() {
    let served = Served::start(&[("intake.bare", "azure-monitor"), ("auth.tokens", "hook=0123456789abcdef")]).await;
    let body = data("press-1").to_string();
    let refused = served.api.send("POST", ALERTS, &[JSON], body.as_bytes()).await;
    assert_eq!((refused.status, refused.code().as_str()), (401, "token_missing"));
    let answer = served.api.send("POST", ALERTS, &[JSON, ("authorization", "Bearer 0123456789abcdef")], body.as_bytes()).await;
    assert_eq!((answer.status, answer.code().as_str()), (400, "unknown_device"), "read, and of a device that is not here");
    // What such a sender asks first.
    let origin = ("webhook-request-origin", "eventgrid.azure.net");
    let asked = served.api.send("OPTIONS", ALERTS, &[origin], b"").await;
    assert_eq!(asked.status, 401);
    let asked = served.api.send("OPTIONS", ALERTS, &[origin, ("authorization", "Bearer 0123456789abcdef")], b"").await;
    assert_eq!((asked.status, asked.headers.get("webhook-allowed-origin").map(String::as_str)), (200, Some("eventgrid.azure.net")));
    served.controller.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_speaks_for_itself_and_for_nobody_else() {
    let served = Served::start(&[]).await.ready().await;
    let url = served.controller.mqtt_url();
    let (one, _other) = (Device::connect(&url, "press-1", &["ping"]).await, Device::connect(&url, "press-2", &["ping"]).await);
    known(&served, 2).await;
    for payload in [event("e-1", "press-1"), data("press-1"), event("e-2", "press-2"), json!("nonsense")] {
        publish(&one.client, "muster/v1/d/press-1/alert", &payload, false, None).await;
    }
    let counted = async |line: &str| served.api.get("/metrics").await.text().lines().any(|found| found == line);
    for line in [
        r#"muster_alerts_total{via="mqtt",outcome="no_consent"} 2"#,
        r#"muster_alerts_parked_total{via="mqtt",reason="tenant_mismatch"} 1"#,
        r#"muster_alerts_parked_total{via="mqtt",reason="unsupported_schema"} 1"#,
    ] {
        until(line, || counted(line)).await;
    }
    served.controller.stop().await;
}
