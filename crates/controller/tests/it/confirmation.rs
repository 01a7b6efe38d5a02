//! Collections that are made paused for want of a word, and the schema of those in files.

use serde_json::{Value, json};

use crate::collections::known;
use crate::device::Device;
use crate::harness::Served;

const COLLECTIONS: &str = "/api/v1/collections";

#[tokio::test(flavor = "multi_thread")]
async fn an_unconfirmed_upload_of_many_is_made_paused() {
    let served = Served::start(&[("dispatch.confirm_above", "1")]).await.ready().await;
    let url = served.controller.mqtt_url();
    let _first = Device::connect(&url, "press-1", &["ping"]).await;
    let _second = Device::connect(&url, "press-2", &["ping"]).await;
    known(&served, 2).await;
    let bundle = json!({ "kind": "bundle", "since": "1h" });
    let logs = json!({ "kind": "upload_logs", "items": [{ "id": "all", "filter": {} }] });
    let all = json!({ "kind": "all" });
    let one = json!({ "kind": "devices", "devices": ["press-1"] });
    let paused = json!({ "start_paused": true });
    for (request, target, more, by) in [
        (&bundle, &all, json!({}), Some("confirmation")),
        (&logs, &all, json!({}), Some("confirmation")),
        (&bundle, &all, json!({ "confirmed": true }), None),
        (&bundle, &one, json!({}), None),
        (&json!({ "kind": "ping" }), &all, json!({}), None),
        // Whoever asked for the pause knows of it.
        (&bundle, &all, json!({ "rollout": paused }), Some("local")),
    ] {
        let mut body = json!({ "request": request, "target": target });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let key = [("content-type", "application/json"), ("idempotency-key", &body.to_string())];
        let mut ids = Vec::new();
        // The second time finds the first, and says the same of it.
        for repeated in [false, true] {
            let answer = served.api.send("POST", COLLECTIONS, &key, body.to_string().as_bytes()).await;
            let made: Value = answer.json();
            assert_eq!(made["repeated"], repeated, "{made}");
            assert_eq!(made["paused"].as_bool().unwrap_or_default(), by.is_some(), "{body}: {made}");
            let id = made["id"].as_str().unwrap().to_owned();
            let view: Value = served.api.get_json(&format!("{COLLECTIONS}/{id}")).await;
            assert_eq!(view["paused"]["by"].as_str(), by, "{body}: {view}");
            let why = "targets 2 devices; dispatch.confirm_above is 1; resume it, or ask with confirmed";
            let said = made["warnings"].as_array().is_some_and(|all| {
                all.iter().any(|warning| warning == &json!(format!("it is paused: {why}; muster collections resume {id}")))
            });
            assert_eq!(said, by == Some("confirmation"), "{body}: {made}");
            ids.push(id);
        }
        assert_eq!(ids[0], ids[1]);
    }
    served.controller.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schema_of_a_file_is_served() {
    let served = Served::start(&[]).await;
    let answer = served.api.get("/api/v1/schemas/collection.json").await;
    assert_eq!((answer.status, answer.headers["content-type"].as_str()), (200, "application/schema+json"));
    assert_eq!(answer.text(), muster_controller::collection_schema_json());
    served.controller.stop().await;
}
