//! Every way to ask wrongly, and the document that says so.

use serde_json::{Value, json};

use crate::harness::Served;

fn ping(target: Value) -> Value {
    json!({ "request": { "kind": "ping" }, "target": target })
}

const JSON: (&str, &str) = ("content-type", "application/json");

#[tokio::test(flavor = "multi_thread")]
async fn every_wrong_request_has_a_document_that_says_what_to_do() {
    let served = Served::start(&[]).await;
    let api = &served.api;
    let collections = "/api/v1/collections";
    let devices = |ids: &[&str]| json!({ "kind": "devices", "devices": ids });
    let mut seen = Vec::new();
    let mut note = |name: &'static str, answer: crate::client::Answer| seen.push((name, answer.problem()));

    note("malformed_json", api.send("POST", collections, &[JSON], b"{\"request\": {").await);
    note("trailing_text", api.send("POST", collections, &[JSON], b"{} x").await);
    note("wrong_type", api.post(collections, &json!({ "request": { "kind": "ping" }, "target": { "kind": "all" }, "reason": 7 })).await);
    note(
        "unknown_member",
        api.post(collections, &json!({ "request": { "kind": "ping" }, "target": { "kind": "all" }, "options": { "in_fligth": 5 } })).await,
    );
    note("unknown_kind", api.post(collections, &json!({ "request": { "kind": "reboot" }, "target": { "kind": "all" } })).await);
    note(
        "until_of_a_bundle",
        api.post(collections, &json!({ "request": { "kind": "bundle", "until": "1h" }, "target": { "kind": "all" } })).await,
    );
    note("bad_device_id", api.post(collections, &ping(devices(&["good", "bad/one"]))).await);
    let items = json!([{ "id": "edge" }, { "id": "edge", "filter": { "tail": "ten" } }]);
    note("bad_item", api.post(collections, &json!({ "request": { "kind": "logs", "items": items }, "target": { "kind": "all" } })).await);
    note("missing_member", api.post(collections, &json!({ "target": { "kind": "all" } })).await);
    note("empty_target", api.post(collections, &ping(json!({ "kind": "all" }))).await);
    note("no_devices", api.post(collections, &ping(devices(&[]))).await);
    note("unknown_devices", api.post(collections, &ping(devices(&["press-1", "press-2", "press-1"]))).await);
    let pattern = json!({ "request": { "kind": "logs", "items": [{ "id": "edge", "filter": { "tail": -1, "regex": "(a+)+$" } }] }, "target": { "kind": "all" } });
    note("bad_pattern", api.post(collections, &pattern).await);
    let key = "k".repeat(201);
    note(
        "bad_key",
        api.send("POST", collections, &[JSON, ("idempotency-key", &key)], ping(json!({ "kind": "all" })).to_string().as_bytes()).await,
    );
    note("not_json", api.send("POST", collections, &[("content-type", "text/plain")], b"{}").await);
    note("body_too_large", api.send("POST", collections, &[JSON], &vec![b' '; 8 * 1024 * 1024 + 1]).await);
    note("bad_cursor", api.get("/api/v1/collections?after=nonsense").await);
    note("bad_limit", api.get("/api/v1/devices?limit=1001").await);
    note("unknown_parameter", api.get("/api/v1/devices?presense=online").await);
    note("bad_number", api.get("/api/v1/devices?limit=many").await);
    note("bad_state", api.get("/api/v1/collections/col_01jd8k2m3n4p5q6r7s/tasks?state=failed,broken").await);
    note("bad_id", api.get("/api/v1/collections/nonsense").await);
    note("bad_utf8_in_path", api.get("/api/v1/devices/%ff").await);
    note("collection_not_found", api.get("/api/v1/collections/col_01jd8k2m3n4p5q6r7s").await);
    note("tasks_of_no_collection", api.get("/api/v1/collections/col_01jd8k2m3n4p5q6r7s/tasks").await);
    note("cancel_of_no_collection", api.post("/api/v1/collections/col_01jd8k2m3n4p5q6r7s/cancel", &json!({})).await);
    note("rerun_of_no_collection", api.send("POST", "/api/v1/collections/col_01jd8k2m3n4p5q6r7s/rerun", &[], b"").await);
    note("rerun_with_nonsense", api.post("/api/v1/collections/col_01jd8k2m3n4p5q6r7s/rerun", &json!({ "reasons": ["tired"] })).await);
    note("events_of_no_collection", api.get("/api/v1/collections/col_01jd8k2m3n4p5q6r7s/events").await);
    note("task_not_found", api.get("/api/v1/tasks/tsk_01jd8k2m3n4p5q6r7s-17").await);
    note("device_not_found", api.get("/api/v1/devices/press-1").await);
    note("bundle_of_no_task", api.get("/api/v1/bundles/tsk_01jd8k2m3n4p5q6r7s-17").await);
    note("no_route", api.get("/api/v2/collections").await);
    note("method_not_allowed", api.send("DELETE", collections, &[], b"").await);
    note("foreign_host", api.send("GET", collections, &[("host", "evil.example")], b"").await);
    note("foreign_origin", api.send("GET", collections, &[("origin", "https://evil.example")], b"").await);

    let all: serde_json::Map<String, Value> = seen.into_iter().map(|(name, problem)| (name.to_owned(), problem)).collect();
    insta::assert_json_snapshot!("problems", all);
    served.controller.stop().await;
}
