//! Paused, resumed, stopped by itself: over the API, with real devices.

use serde_json::{Value, json};

use crate::collections::known;
use crate::device::Device;
use crate::harness::{Served, until};

const JSON: [(&str, &str); 1] = [("content-type", "application/json")];

async fn made(served: &Served, body: &Value) -> String {
    let answer = served.api.send("POST", "/api/v1/collections", &JSON, body.to_string().as_bytes()).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    answer.json::<Value>()["id"].as_str().expect("an id").to_owned()
}

fn ping(rollout: &Value) -> Value {
    json!({ "request": { "kind": "ping" }, "target": { "kind": "all" }, "rollout": rollout })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_made_paused_begins_when_it_is_resumed() {
    let served = Served::start(&[]).await.ready().await;
    let _device = Device::connect(&served.controller.mqtt_url(), "press-1", &["ping"]).await;
    known(&served, 1).await;
    let id = made(&served, &ping(&json!({ "start_paused": true }))).await;
    let path = format!("/api/v1/collections/{id}");
    let view: Value = served.api.get_json(&path).await;
    assert_eq!((view["state"].as_str(), view["paused"]["by"].as_str()), (Some("running"), Some("local")), "{view}");
    // What comes after it is done; it still has not begun.
    let later = made(&served, &ping(&json!({}))).await;
    served.finished(&later).await;
    assert_eq!(served.api.get_json::<Value>(&path).await["counters"]["queued"], 1);
    let again = served.api.send("POST", &format!("{path}/pause"), &JSON, br#"{"why":"me too"}"#).await;
    assert_eq!(again.status, 200);
    assert_ne!(again.json::<Value>()["paused"]["why"], "me too", "who paused it first stands there");
    let resumed = served.api.send("POST", &format!("{path}/resume"), &[], b"").await;
    assert_eq!((resumed.status, resumed.json::<Value>()["paused"].is_null()), (200, true));
    assert_eq!(served.finished(&id).await["counters"]["verified"], 1);
    for verb in ["pause", "resume"] {
        let refused = served.api.send("POST", &format!("{path}/{verb}"), &[], b"").await;
        assert_eq!((refused.status, refused.code().as_str()), (409, "collection_ended"), "{verb}");
    }
    let long = json!({ "why": "x".repeat(501) }).to_string();
    let refused = served.api.send("POST", &format!("{path}/pause"), &JSON, long.as_bytes()).await;
    assert_eq!((refused.status, refused.code().as_str()), (422, "invalid_pause"));
    let nobody = served.api.send("POST", "/api/v1/collections/col_01jd8k2m3n4p5q6r7s/pause", &[], b"").await;
    assert_eq!((nobody.status, nobody.code().as_str()), (404, "collection_not_found"));
    served.controller.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_fails_holds_the_others_back() {
    let served = Served::start(&[("dispatch.attempts", "1"), ("dispatch.answer_timeout", "2s")]).await.ready().await;
    let url = served.controller.mqtt_url();
    let mut devices = Vec::new();
    for n in 1..=4 {
        // None of them can do it, and none says so.
        devices.push(Device::connect(&url, &format!("press-{n}"), &[]).await);
    }
    known(&served, 4).await;
    let stages = json!({ "stages": [{ "devices": { "count": 1 } }] });
    let body = json!({ "request": { "kind": "bundle", "since": "1h" }, "target": { "kind": "all" }, "rollout": stages,
        "options": { "max_attempts": 1, "attempt_timeout_seconds": 2, "expires_in_seconds": 600 } });
    let id = made(&served, &body).await;
    let path = format!("/api/v1/collections/{id}");
    until("the gate to hold", || async { !served.api.get_json::<Value>(&path).await["paused"].is_null() }).await;
    let view: Value = served.api.get_json(&path).await;
    let why = view["paused"]["why"].as_str().unwrap_or_default();
    assert!(why.starts_with("stage 1 of 1: 0 of 1 asked devices (0.0 %) are verified; the stage needs 100 %"), "{why}");
    assert_eq!((view["paused"]["by"].as_str(), view["pace"]["stage"].as_u64()), (Some("rollout"), Some(1)));
    assert_eq!(view["counters"]["queued"], 3, "the others were not asked: {view}");
    let cancelled = served.api.send("POST", &format!("{path}/cancel"), &JSON, br#"{"queued_only":true}"#).await;
    assert_eq!(cancelled.json::<Value>()["tasks"], 3);
    assert_eq!(served.finished(&id).await["state"], "cancelled");
    served.controller.stop().await;
}
