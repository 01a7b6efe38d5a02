//! Events as other systems write them, and messages that are none.

use std::time::Duration;

use muster_wire::alert::MAX_ALERT_BYTES;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Those that are in the catalogue from the start.
pub const INDICATORS: [&str; 3] = ["AcsUnhealthyCondition", "IOTEdgeAgentNotRunningCondition", "UpdateInstallFailedEvent"];
/// Content type of an event that is one document.
pub const STRUCTURED: &str = "application/cloudevents+json; charset=utf-8";

/// A minute ago, in whole seconds.
pub fn recently() -> String {
    (OffsetDateTime::now_utc() - Duration::from_secs(60)).replace_nanosecond(0).expect("0").format(&Rfc3339).expect("a time")
}

/// The common alert schema, with the device in capitals and a slash behind it: who writes it cares for neither.
pub fn schema(device: &str, indicator: &str, fired: &str) -> Value {
    json!({
        "schemaId": "azureMonitorCommonAlertSchema",
        "data": {
            "essentials": {
                "alertId": format!("/subscriptions/1c7e2a54/providers/Microsoft.AlertsManagement/alerts/{device}-{indicator}"),
                "severity": "Sev2",
                "monitorCondition": "Fired",
                "alertTargetIDs": [format!("/subscriptions/1c7e2a54/resourcegroups/rg/providers/microsoft.databoxedge/databoxedgedevices/{}/", device.to_uppercase())],
                "originAlertId": format!("origin-{device}"),
                "firedDateTime": fired,
                "description": "Something happened.",
            },
            "alertContext": { "properties": { "alertType": indicator, "severity": "Warning" } },
        },
    })
}

/// The same in its envelope, as one document.
pub fn event(id: &str, device: &str, indicator: &str, fired: &str) -> Value {
    json!({
        "specversion": "1.0",
        "id": id,
        "source": format!("urn:device:{device}"),
        "type": "com.microsoft.edge.alert.v1",
        "subject": indicator,
        "time": fired,
        "data": schema(device, indicator, fired),
    })
}

/// Twenty messages that are no alerts, as lines for `publish_pika.py`, and why not. `device` is one that is there.
pub fn poison(device: &str) -> Vec<(Value, &'static str)> {
    let fired = recently();
    let with = |change: &dyn Fn(&mut Value)| {
        let mut event = event("p", device, INDICATORS[0], &fired);
        change(&mut event);
        json!({"body": event.to_string(), "content_type": STRUCTURED})
    };
    let essential = |name: &str, value: Value| with(&|event| event["data"]["data"]["essentials"][name] = value.clone());
    let deep = format!("{}1{}", "[".repeat(70), "]".repeat(70));
    let future = (OffsetDateTime::now_utc() + Duration::from_secs(3600)).format(&Rfc3339).expect("a time");
    vec![
        (json!({"body": "this is not JSON", "content_type": STRUCTURED}), "not_json"),
        (json!({"body": "", "content_type": STRUCTURED}), "not_json"),
        (json!({"body_base64": "/////w==", "content_type": STRUCTURED}), "not_json"),
        (json!({"body": deep, "content_type": STRUCTURED}), "too_deep"),
        (json!({"body": r#"{"specversion":"1.0","specversion":"1.0"}"#, "content_type": STRUCTURED}), "duplicate_key"),
        (json!({"body": "[]", "content_type": "application/cloudevents-batch+json"}), "unsupported_format"),
        (json!({"body": "<event/>", "content_type": "application/cloudevents+xml"}), "unsupported_format"),
        (with(&|event| event["specversion"] = json!("0.3")), "unsupported_specversion"),
        (with(&|event| event["type"] = json!("com.microsoft.edge.alert.v2")), "unsupported_type"),
        (with(&|event| event["datacontenttype"] = json!("text/plain")), "unsupported_content"),
        (with(&|event| event["data"]["schemaId"] = json!("another")), "unsupported_schema"),
        (with(&|event| event["id"] = json!("")), "malformed"),
        (with(&|event| event["source"] = json!(7)), "malformed"),
        (with(&|event| event["time"] = json!("yesterday")), "malformed"),
        (with(&|event| event["id"] = json!("x".repeat(5000))), "malformed"),
        (essential("monitorCondition", json!("Burning")), "unknown_condition"),
        (essential("firedDateTime", json!(future)), "future_time"),
        (json!({"body": event("u", "nobody-knows-it", INDICATORS[0], &fired).to_string(), "content_type": STRUCTURED}), "unknown_device"),
        (json!({"body": "x".repeat(MAX_ALERT_BYTES + 1024), "content_type": STRUCTURED}), "too_large"),
        (
            with(&|event| {
                event["subject"] = Value::Null;
                event["data"]["data"]["alertContext"] = Value::Null;
            }),
            "no_indicator",
        ),
    ]
}
