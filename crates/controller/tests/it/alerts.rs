//! Alerts over HTTP: the published catalogue, rules, what was decided, and messages that were no alert.

use serde_json::{Value, json};

use crate::client::{Answer, Client};
use crate::collections::known;
use crate::device::Device;
use crate::harness::Served;

const TOKEN: &str = "correct-horse-battery-staple";
const INDICATOR: &str = "IOTEdgeAgentNotRunningCondition";
const JSON: (&str, &str) = ("content-type", "application/json");
const EVENT: (&str, &str) = ("content-type", "application/cloudevents+json");

async fn put(api: &Client, path: &str, body: &Value) -> Answer {
    api.send("PUT", path, &[JSON], body.to_string().as_bytes()).await
}

fn indicator(name: &str) -> Value {
    json!({
        "name": name,
        "description": "A <b>door</b> does not close.",
        "collect": { "kind": "upload_logs", "items": [{ "id": "doorControl" }] },
        "lookback_seconds": 7200,
        "cooldown_seconds": 3600,
    })
}

fn rule(name: &str, order: u32) -> Value {
    json!({ "name": name, "indicator": INDICATOR, "order": order, "mode": "shadow" })
}

fn event(id: &str, device: &str) -> Value {
    let now = time::OffsetDateTime::now_utc().format(&time::format_description::well_known::Rfc3339).unwrap();
    json!({
        "specversion": "1.0", "id": id, "source": format!("urn:device:{device}"), "type": "com.microsoft.edge.alert.v1", "time": now,
        "data": { "schemaId": "azureMonitorCommonAlertSchema", "data": {
            "essentials": { "monitorCondition": "Fired", "severity": "Sev2", "configurationItems": [device], "firedDateTime": now },
            "alertContext": { "properties": { "alertType": INDICATOR } },
        } },
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_reads_the_catalogue_and_nobody_else_writes_it() {
    let served = Served::start(&[("auth.tokens", &format!("ops={TOKEN}"))]).await.ready().await;
    let ops = Client { token: Some(TOKEN.to_owned()), ..served.api.clone() };
    let page = served.api.get("/indicators").await;
    assert_eq!(page.status, 200, "{}", page.text());
    assert!(page.headers["content-type"].starts_with("text/html"), "{:?}", page.headers);
    assert_eq!((page.headers["cache-control"].as_str(), page.headers.contains_key("content-security-policy")), ("no-cache", true));
    assert!(page.text().contains(INDICATOR) && !page.text().contains("<script"), "{}", page.text());

    let catalogue: Value = served.api.get_json("/api/v1/indicators").await;
    let version = catalogue["catalogue_version"].as_u64().unwrap();
    assert_eq!(served.api.post("/api/v1/indicators", &indicator("DoorStuck")).await.code(), "token_missing");
    assert_eq!(put(&served.api, "/api/v1/indicators/DoorStuck", &indicator("DoorStuck")).await.code(), "token_missing");

    let made = ops.post("/api/v1/indicators", &indicator("DoorStuck")).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let made: Value = made.json();
    assert_eq!((made["since_catalogue_version"].as_u64(), &made["changed_by"]), (Some(version + 1), &json!("ops")));
    let seen: Value = served.api.get_json("/api/v1/indicators/doorstuck").await;
    assert_eq!((&seen["name"], &seen["changed_by"]), (&json!("DoorStuck"), &json!("")), "a stranger does not learn who");
    let page = served.api.get("/indicators").await.text();
    assert!(page.contains("A &lt;b&gt;door&lt;/b&gt; does not close.") && page.contains("Logs of doorControl"), "{page}");

    let ping = json!({ "kind": "ping" });
    for (answer, status, code) in [
        (ops.post("/api/v1/indicators", &indicator("DOORSTUCK")).await, 409, "indicator_exists"),
        (ops.post("/api/v1/indicators", &indicator("")).await, 422, "invalid_indicator"),
        (
            ops.post("/api/v1/indicators", &{
                let mut new = indicator("x");
                new["collect"] = ping;
                new
            })
            .await,
            422,
            "invalid_indicator",
        ),
        (ops.post("/api/v1/indicators", &json!({ "name": "x" })).await, 422, "invalid_body"),
        (put(&ops, "/api/v1/indicators/DoorStuck", &indicator("Other")).await, 422, "name_differs"),
        (put(&ops, "/api/v1/indicators/Other", &indicator("Other")).await, 404, "indicator_not_found"),
        (ops.get("/api/v1/indicators/Other").await, 404, "indicator_not_found"),
    ] {
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{}", answer.text());
    }
    let changed: Value = put(&ops, "/api/v1/indicators/DOORSTUCK", &indicator("DOORSTUCK")).await.json();
    assert_eq!(
        (&changed["name"], changed["changed_in_catalogue_version"].as_u64()),
        (&json!("DOORSTUCK"), Some(version + 2)),
        "a change may spell it anew"
    );
    served.controller.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_are_made_looked_at_and_removed() {
    let served = Served::start(&[]).await.ready().await;
    let api = &served.api;
    for (name, order) in [("b", 10), ("a", 10), ("z", 1)] {
        let made = api.post("/api/v1/rules", &rule(name, order)).await;
        assert_eq!((made.status, made.headers["location"].as_str()), (201, format!("/api/v1/rules/{name}").as_str()), "{}", made.text());
    }
    // A page at a time, in the order in which they are asked.
    let mut names = Vec::new();
    let mut after = String::new();
    loop {
        let page: Value = api.get_json(&format!("/api/v1/rules?limit=1{after}")).await;
        names.extend(page["items"].as_array().unwrap().iter().map(|rule| rule["name"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    assert_eq!(names, ["z", "a", "b"]);

    let with = |member: &str, value: Value| {
        let mut new = rule("c", 5);
        new[member] = value;
        new
    };
    for (answer, status, code) in [
        (api.post("/api/v1/rules", &rule("a", 1)).await, 409, "rule_exists"),
        (api.post("/api/v1/rules", &with("indicator", json!("Nothing"))).await, 422, "invalid_rule"),
        (api.post("/api/v1/rules", &with("devices", json!("tags.a ="))).await, 422, "invalid_rule"),
        (api.post("/api/v1/rules", &with("name", json!("a/b"))).await, 422, "invalid_rule"),
        (api.post("/api/v1/rules", &with("oder", json!(1))).await, 422, "invalid_body"),
        (put(api, "/api/v1/rules/a", &rule("b", 1)).await, 422, "name_differs"),
        (put(api, "/api/v1/rules/none", &rule("none", 1)).await, 404, "rule_not_found"),
        (api.get("/api/v1/rules/none").await, 404, "rule_not_found"),
        (api.send("DELETE", "/api/v1/rules/none", &[], b"").await, 404, "rule_not_found"),
        (api.get("/api/v1/rules/none/preview").await, 404, "rule_not_found"),
        (api.get("/api/v1/rules/a/preview?since_seconds=0").await, 400, "invalid_query"),
        (api.get("/api/v1/rules/a/preview?since_seconds=2678401").await, 400, "invalid_query"),
        (api.send("POST", "/api/v1/rules/test", &[EVENT], b"{]").await, 400, "not_json"),
    ] {
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{}", answer.text());
    }
    let changed: Value = put(api, "/api/v1/rules/a", &rule("a", 0)).await.json();
    assert_eq!((&changed["version"], &changed["order"]), (&json!(2), &json!(0)));
    let seen: Value = api.get_json("/api/v1/rules/a/preview?since_seconds=2678400").await;
    assert_eq!((&seen["alerts"], &seen["busiest_day"]), (&json!(0), &Value::Null));
    let seen = api.post("/api/v1/rules/preview", &rule("new", 1)).await;
    assert_eq!(seen.status, 200, "{}", seen.text());
    assert_eq!(api.send("DELETE", "/api/v1/rules/a", &[], b"").await.status, 204);
    served.controller.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_says_what_was_decided() {
    let served = Served::start(&[]).await.ready().await;
    let api = &served.api;
    let _device = Device::connect(&served.controller.mqtt_url(), "press-1", &["ping"]).await;
    known(&served, 1).await;
    let body = event("7", "press-1").to_string();
    let tested = api.send("POST", "/api/v1/rules/test", &[EVENT], body.as_bytes()).await;
    assert_eq!(tested.json::<Value>()["devices"][0]["outcome"], "no_consent", "{}", tested.text());
    let none: Value = api.get_json("/api/v1/alerts").await;
    assert_eq!(none["items"], json!([]), "a test writes nothing");

    let answer = api.send("POST", "/api/v1/alerts", &[EVENT], body.as_bytes()).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    let id = answer.json::<Value>()["alerts"][0]["id"].as_str().unwrap().to_owned();
    let shown: Value = api.get_json(&format!("/api/v1/alerts/{id}")).await;
    assert_eq!((&shown["outcome"], &shown["via"], &shown["indicator"]), (&json!("no_consent"), &json!("http"), &json!(INDICATOR)));
    assert!(shown["data"].is_object(), "{shown}");
    for query in ["device=press-1", "indicator=iotedgeagentnotrunningcondition", "outcome=no_consent", "since=2026-01-01T00:00:00Z"] {
        let page: Value = api.get_json(&format!("/api/v1/alerts?{query}")).await;
        assert_eq!(page["items"].as_array().unwrap().len(), 1, "{query}: {page}");
    }
    for query in ["device=press-2", "outcome=stale", "tenant=x", "since=2100-01-01T00:00:00Z", "indicator=x"] {
        let page: Value = api.get_json(&format!("/api/v1/alerts?{query}")).await;
        assert_eq!(page["items"], json!([]), "{query}");
    }
    let counts: Value = api.get_json("/api/v1/alerts/counts").await;
    assert_eq!((&counts["outcomes"], &counts["parked"]), (&json!({ "no_consent": 1 }), &json!(0)));
    let line: Value = api.get_json("/api/v1/devices/press-1/timeline").await;
    let told = line["items"].as_array().unwrap().iter().find(|entry| entry["what"] == "alert").unwrap();
    assert_eq!(told["alert"], json!(id));
    for (answer, status, code) in [
        (api.post(&format!("/api/v1/alerts/{id}/collect"), &json!({})).await, 409, "alert_not_collectable"),
        (api.post("/api/v1/alerts/alt_01jd8k2m3n4p5q6r7s8t9v0w1x/collect", &json!({})).await, 404, "alert_not_found"),
        (api.get("/api/v1/alerts/alt_01jd8k2m3n4p5q6r7s8t9v0w1x").await, 404, "alert_not_found"),
        (api.get("/api/v1/alerts/x").await, 400, "invalid_id"),
        (api.get("/api/v1/alerts?outcome=x").await, 400, "invalid_query"),
        (api.get("/api/v1/alerts?after=x").await, 400, "invalid_cursor"),
        (api.get("/api/v1/storms/stm_01jd8k2m3n4p5q6r7s8t9v0w1x").await, 404, "storm_not_found"),
        (api.post("/api/v1/storms/stm_01jd8k2m3n4p5q6r7s8t9v0w1x/collect", &json!({})).await, 404, "storm_not_found"),
    ] {
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{}", answer.text());
    }
    let storms: Value = api.get_json("/api/v1/storms?open=true").await;
    assert_eq!(storms["items"], json!([]));
    served.controller.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_no_alert_is_mended_or_dropped() {
    let served = Served::start(&[]).await.ready().await;
    let api = &served.api;
    let _device = Device::connect(&served.controller.mqtt_url(), "press-1", &["ping"]).await;
    known(&served, 1).await;
    for body in ["{]", "[}"] {
        let answer = api.send("POST", "/api/v1/alerts", &[EVENT], body.as_bytes()).await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "not_json"), "{}", answer.text());
    }
    let page: Value = api.get_json("/api/v1/alerts/parked?state=parked&reason=not_json").await;
    let ids: Vec<String> = page["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids.len(), 2, "{page}");
    let first = format!("/api/v1/alerts/parked/{}", ids[1]);
    let shown: Value = api.get_json(&first).await;
    assert_eq!((&shown["body"], &shown["via"], &shown["bytes"]), (&json!("{]"), &json!("http"), &json!(2)));

    let replay = format!("{first}/replay");
    let answer = api.send("POST", &replay, &[], b"").await;
    assert_eq!((answer.status, answer.code().as_str()), (422, "not_json"), "as it was it is still none");
    let answer = api.post(&replay, &json!({ "body": event("9", "press-1").to_string() })).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let replayed: Value = answer.json();
    assert_eq!((&replayed["duplicate"], &replayed["alerts"][0]["device"]), (&json!(false), &json!("press-1")));
    assert_eq!(api.get_json::<Value>(&first).await["state"], "replayed");

    let second = format!("/api/v1/alerts/parked/{}", ids[0]);
    let dropped = api.post(&format!("{second}/drop"), &json!({})).await;
    assert_eq!((dropped.status, &dropped.json::<Value>()["state"]), (200, &json!("dropped")));
    for path in [format!("{first}/drop"), replay, format!("{second}/drop"), format!("{second}/replay")] {
        let answer = api.post(&path, &json!({})).await;
        assert_eq!((answer.status, answer.code().as_str()), (409, "not_parked"), "{path}");
    }
    let answer = api.get("/api/v1/alerts/parked/prk_01jd8k2m3n4p5q6r7s8t9v0w1x").await;
    assert_eq!((answer.status, answer.code().as_str()), (404, "parked_not_found"));
    let counts: Value = api.get_json("/api/v1/alerts/counts").await;
    assert_eq!(counts["parked"], 0, "none waits");
    served.controller.stop().await;
}
