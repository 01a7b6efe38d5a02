//! Collections, from the request to their end.

use serde_json::{Value, json};

use crate::device::Device;
use crate::harness::{Postgres, Served, until};

fn of(devices: &[&str]) -> Value {
    json!({ "request": { "kind": "ping" }, "target": { "kind": "devices", "devices": devices }, "case": "48213" })
}

pub(crate) async fn known(served: &Served, count: usize) {
    let listed = || async { served.api.get_json::<Value>("/api/v1/devices").await["items"].as_array().unwrap().len() == count };
    until("the devices to be known", listed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_makes_one_collection() {
    let served = Served::start(&[]).await.ready().await;
    let _device = Device::connect(&served.controller.mqtt_url(), "press-1", &["ping"]).await;
    known(&served, 1).await;
    let key = [("content-type", "application/json"), ("idempotency-key", "a key")];
    let body = of(&["press-1", "press-1"]);
    let first = served.api.send("POST", "/api/v1/collections", &key, body.to_string().as_bytes()).await;
    assert_eq!(first.status, 201, "{}", first.text());
    let made: Value = first.json();
    assert_eq!((made["targeted"].as_u64(), made["repeated"].as_bool()), (Some(1), Some(false)));
    assert_eq!(first.headers["location"], format!("/api/v1/collections/{}", made["id"].as_str().unwrap()));
    let again = served.api.send("POST", "/api/v1/collections", &key, serde_json::to_string_pretty(&body).unwrap().as_bytes()).await;
    assert_eq!(again.status, 200);
    let repeated: Value = again.json();
    assert_eq!((&repeated["id"], repeated["repeated"].as_bool()), (&made["id"], Some(true)));
    let mut other = body.clone();
    other["case"] = json!("2");
    let reused = served.api.send("POST", "/api/v1/collections", &key, other.to_string().as_bytes()).await;
    assert_eq!((reused.status, reused.code().as_str()), (409, "idempotency_key_reused"));
    let ended = served.finished(made["id"].as_str().unwrap()).await;
    assert_eq!((ended["counters"]["verified"].as_u64(), ended["created_by"].as_str()), (Some(1), Some("local")), "{ended}");
    served.controller.stop().await;
}

async fn a_whole_life(flags: &[(&str, &str)]) {
    let served = Served::start(flags).await.ready().await;
    let url = served.controller.mqtt_url();
    let mut devices = Vec::new();
    for n in 1..=5 {
        devices.push(Device::connect(&url, &format!("press-{n}"), &["ping"]).await);
    }
    let _deaf = Device::connect(&url, "deaf", &["UploadSupportBundle"]).await;
    known(&served, 6).await;

    // Pages of devices: sorted, complete, and only those that were asked for.
    let first: Value = served.api.get_json("/api/v1/devices?limit=2&prefix=press-&presence=online").await;
    let second: Value =
        served.api.get_json(&format!("/api/v1/devices?limit=2&prefix=press-&after={}", first["next"].as_str().unwrap())).await;
    let ids: Vec<_> =
        [&first, &second].iter().flat_map(|page| page["items"].as_array().unwrap()).map(|device| device["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["press-1", "press-2", "press-3", "press-4"]);

    // A device that says it cannot is not asked.
    let made: Value = served
        .api
        .post("/api/v1/collections", &json!({ "request": { "kind": "ping" }, "target": { "kind": "all" }, "reason": "a look" }))
        .await
        .json();
    let id = made["id"].as_str().unwrap();
    let ended = served.finished(id).await;
    assert_eq!((ended["counters"]["verified"].as_u64(), ended["counters"]["skipped"].as_u64()), (Some(5), Some(1)), "{ended}");
    assert_eq!(ended["reasons"], json!({ "answered": 5, "method_unsupported": 1 }));
    let skipped: Value =
        served.api.get_json(&format!("/api/v1/collections/{id}/tasks?state=skipped,failed&reason=method_unsupported")).await;
    assert_eq!(skipped["items"].as_array().unwrap().len(), 1);
    let page: Value = served.api.get_json(&format!("/api/v1/collections/{id}/tasks?limit=4")).await;
    let rest: Value =
        served.api.get_json(&format!("/api/v1/collections/{id}/tasks?limit=4&after={}", page["next"].as_str().unwrap())).await;
    assert_eq!(page["items"].as_array().unwrap().len() + rest["items"].as_array().unwrap().len(), 6);
    assert!(rest.get("next").is_none());
    let task = page["items"][0]["id"].as_str().unwrap();
    let detail: Value = served.api.get_json(&format!("/api/v1/tasks/{task}")).await;
    assert_eq!((detail["id"].as_str(), detail["attempts"].as_array().map(Vec::len)), (Some(task), Some(0)));
    let device: Value = served.api.get_json("/api/v1/devices/press-1").await;
    assert_eq!((device["presence"].as_str(), device["tasks"].as_array().map(Vec::len)), (Some("online"), Some(1)));
    let mut other =
        served.api.get(&format!("/api/v1/collections/col_01jd8k2m3n4p5q6r7s/tasks?after={}", page["next"].as_str().unwrap())).await;
    assert_eq!(other.code(), "invalid_cursor", "a cursor of another collection");

    // The stream tells the whole story of a collection that is over, and ends.
    let told = served.api.get(&format!("/api/v1/collections/{id}/events")).await;
    assert_eq!(told.headers["content-type"], "text/event-stream");
    let text = told.text();
    assert_eq!(text.matches("event: task\n").count(), 6, "{text}");
    assert!(text.contains("event: counters\n") && text.trim_end().contains("event: finished\n"), "{text}");
    assert!(text.contains("\"reason\":\"method_unsupported\""), "{text}");
    let last = text.lines().filter_map(|line| line.strip_prefix("id: ")).next_back().unwrap();
    let later = last.parse::<i64>().unwrap() + 60_000;
    other = served.api.send("GET", &format!("/api/v1/collections/{id}/events"), &[("last-event-id", &later.to_string())], b"").await;
    assert_eq!(other.text().matches("event: task\n").count(), 0, "nothing is told twice: {}", other.text());
    other = served.api.send("GET", &format!("/api/v1/collections/{id}/events"), &[("last-event-id", last)], b"").await;
    assert!(other.text().contains("event: finished\n"));

    // Who is away is waited for, until somebody cancels; a second cancel touches nothing, and then it can be run again.
    devices.remove(0).client.disconnect_abnormally().await.unwrap();
    let offline = || async { served.api.get_json::<Value>("/api/v1/devices/press-1").await["presence"] == "offline" };
    until("the device to be away", offline).await;
    let made: Value = served.api.post("/api/v1/collections", &of(&["press-1"])).await.json();
    let away = made["id"].as_str().unwrap().to_owned();
    let view: Value = served.api.get_json(&format!("/api/v1/collections/{away}")).await;
    assert_eq!((view["counters"]["waiting"].as_u64(), view["state"].as_str()), (Some(1), Some("running")), "{view}");
    for touched in [1, 0] {
        let answer: Value = served.api.post(&format!("/api/v1/collections/{away}/cancel"), &json!({})).await.json();
        assert_eq!(answer, json!({ "tasks": touched }));
    }
    let view = served.finished(&away).await;
    assert_eq!((view["counters"]["cancelled"].as_u64(), view["state"].as_str()), (Some(1), Some("cancelled")), "{view}");
    let rerun = served.api.post(&format!("/api/v1/collections/{away}/rerun"), &json!({ "reasons": ["cancelled_by_user"] })).await;
    assert_eq!(rerun.json::<Value>(), json!({ "tasks": 1 }));
    devices.push(Device::connect(&url, "press-1", &["ping"]).await);
    let view = served.finished(&away).await;
    assert_eq!(view["counters"]["verified"].as_u64(), Some(1), "{view}");

    // A device that cannot make bundles is skipped, and what is over cannot be cancelled.
    let made: Value = served
        .api
        .post(
            "/api/v1/collections",
            &json!({ "request": { "kind": "bundle", "since": "1h" }, "target": { "kind": "devices", "devices": ["press-3"] } }),
        )
        .await
        .json();
    let skipped = served.finished(made["id"].as_str().unwrap()).await;
    assert_eq!(skipped["counters"]["skipped"].as_u64(), Some(1), "{skipped}");
    let touched: Value = served.api.post(&format!("/api/v1/collections/{}/cancel", made["id"].as_str().unwrap()), &json!({})).await.json();
    assert_eq!(touched, json!({ "tasks": 0 }), "what is over cannot be cancelled, and that is no error");
    let rerun = served.api.send("POST", &format!("/api/v1/collections/{id}/rerun"), &[], b"").await;
    assert_eq!(rerun.json::<Value>(), json!({ "tasks": 0 }), "nothing failed");
    let rerun = served
        .api
        .post(&format!("/api/v1/collections/{id}/rerun"), &json!({ "reasons": ["method_unsupported"], "expires_in_seconds": 60 }))
        .await;
    assert_eq!(rerun.json::<Value>(), json!({ "tasks": 1 }));
    // Queued again, and cancelled, unless the sender was faster: the device still cannot.
    served.api.post(&format!("/api/v1/collections/{id}/cancel"), &json!({})).await;
    let ended = served.finished(id).await;
    let counted = |name: &str| ended["counters"][name].as_u64().unwrap_or_default();
    assert_eq!((counted("targeted"), counted("verified"), counted("cancelled") + counted("refused")), (6, 5, 1), "{ended}");

    // Each limit of a rerun has its bounds.
    for (field, least, most) in
        [("expires_in_seconds", 2, 7_776_000), ("attempt_timeout_seconds", 2, 86_400), ("max_attempts", 1, 50), ("in_flight", 1, 200_000)]
    {
        for (value, good) in [(least - 1, false), (least, true), (most, true), (most + 1, false)] {
            // Nothing ended for this reason: what is allowed changes nothing.
            let body = json!({ "reasons": ["landing_unavailable"], field: value });
            let answer = served.api.post(&format!("/api/v1/collections/{id}/rerun"), &body).await;
            if good {
                assert_eq!(answer.json::<Value>(), json!({ "tasks": 0 }), "{body}");
            } else {
                let problem = answer.problem();
                assert_eq!(
                    (answer.status, problem["code"].as_str(), problem["errors"][0]["field"].as_str()),
                    (422, Some("invalid_rerun"), Some(field)),
                    "{body}"
                );
                let bounds = format!("is {value}; it lies between {least} and {most}");
                assert_eq!(problem["errors"][0]["message"].as_str(), Some(bounds.as_str()));
            }
        }
    }

    // Collections are listed newest first and by what they are.
    let listed: Value = served.api.get_json("/api/v1/collections?kind=bundle").await;
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
    let listed: Value = served.api.get_json("/api/v1/collections?limit=1").await;
    assert_eq!(listed["items"][0]["id"], made["id"]);
    let listed: Value = served.api.get_json(&format!("/api/v1/collections?limit=1&after={}", listed["next"].as_str().unwrap())).await;
    assert_eq!(listed["items"][0]["id"].as_str(), Some(away.as_str()));
    served.controller.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_life_on_sqlite() {
    a_whole_life(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_life_on_postgres() {
    let database = Postgres::create();
    a_whole_life(&[("database.url", &database.url)]).await;
}

/// One language for the list and for the launch; what cannot be read is refused with its column, and nobody met is no collection.
#[tokio::test(flavor = "multi_thread")]
async fn devices_are_chosen_by_condition() {
    let served = Served::start(&[]).await.ready().await;
    let url = served.controller.mqtt_url();
    let mut devices = Vec::new();
    for id in ["press-1", "press-2", "press-3", "saw-1"] {
        devices.push(Device::connect(&url, id, &["ping"]).await);
    }
    known(&served, 4).await;
    let ids =
        |page: &Value| page["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    let listed: Value =
        served.api.get_json("/api/v1/devices?condition=STARTSWITH(deviceId,'press-')%20AND%20presence='online'&limit=2").await;
    assert_eq!(ids(&listed), ["press-1", "press-2"]);
    let rest: Value = served
        .api
        .get_json(&format!("/api/v1/devices?condition=STARTSWITH(deviceId,'press-')&limit=2&after={}", listed["next"].as_str().unwrap()))
        .await;
    assert_eq!(ids(&rest), ["press-3"]);
    let unreadable = served.api.get("/api/v1/devices?condition=deviceId").await;
    assert_eq!((unreadable.status, unreadable.code().as_str()), (422, "invalid_condition"));

    let post = async |target: Value, choice: Value| {
        let body = json!({ "request": { "kind": "ping" }, "target": target, "choice": choice });
        served.api.send("POST", "/api/v1/collections", &[("content-type", "application/json")], body.to_string().as_bytes()).await
    };
    let by = |condition: &str| json!({ "kind": "condition", "condition": condition });
    let made = post(by("STARTSWITH(deviceId, 'press-')"), json!({ "exclude": ["press-2"] })).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let id = made.json::<Value>()["id"].as_str().unwrap().to_owned();
    let ended = served.finished(&id).await;
    assert_eq!((ended["counters"]["targeted"].as_u64(), ended["counters"]["verified"].as_u64()), (Some(2), Some(2)), "{ended}");
    assert_eq!(ended["target"], json!({ "condition": "STARTSWITH(deviceId, 'press-')" }));

    let targeted = |made: Value| made["targeted"].as_u64();
    let among = json!({ "kind": "condition", "condition": "NOT deviceId = 'press-1'", "devices": ["press-1", "saw-1", "saw-1"] });
    let made: Value = post(among, json!({})).await.json();
    assert_eq!(targeted(made.clone()), Some(1));
    assert!(made["warnings"][0].as_str().unwrap().contains("1 of the names"), "{made}");
    assert_eq!(targeted(post(json!({ "kind": "all" }), json!({ "sample_percent": 50.0 })).await.json()), Some(2));
    assert_eq!(targeted(post(json!({ "kind": "all" }), json!({ "limit": 3 })).await.json()), Some(3));

    // A preview finds the same devices and makes nothing.
    let before = served.api.get_json::<Value>("/api/v1/collections").await["items"].as_array().unwrap().len();
    let body = json!({ "request": { "kind": "bundle", "since": "2026-11-25T00:00:00Z" }, "target": { "kind": "all" } });
    let bundle =
        served.api.send("POST", "/api/v1/collections/preview", &[("content-type", "application/json")], body.to_string().as_bytes()).await;
    let bundle: Value = bundle.json();
    assert_eq!((bundle["targeted"].as_u64(), bundle["skipped"].as_u64(), &bundle["example"]), (Some(4), Some(4), &Value::Null), "{bundle}");
    devices.remove(0).client.disconnect_abnormally().await.unwrap();
    let offline = || async { served.api.get_json::<Value>("/api/v1/devices/press-1").await["presence"] == "offline" };
    until("the device to be offline", offline).await;
    let body = json!({ "request": { "kind": "ping" }, "target": by("STARTSWITH(deviceId, 'press-')") });
    let ping =
        served.api.send("POST", "/api/v1/collections/preview", &[("content-type", "application/json")], body.to_string().as_bytes()).await;
    let ping: Value = ping.json();
    assert_eq!((ping["targeted"].as_u64(), ping["skipped"].as_u64(), ping["offline"].as_u64()), (Some(3), Some(0), Some(1)), "{ping}");
    assert_eq!(ping["example"], json!({ "device": "press-1", "method": "ping", "payload": {} }));
    assert_eq!(served.api.get_json::<Value>("/api/v1/collections").await["items"].as_array().unwrap().len(), before);

    let refused = post(by("deviceId == 'press-1'"), json!({ "sample_percent": 0.0, "limit": 0 })).await;
    let problem: Value = refused.json();
    let fields: Vec<_> = problem["errors"].as_array().unwrap().iter().map(|error| error["field"].as_str().unwrap()).collect();
    assert_eq!(fields, ["target.condition", "choice.sample_percent", "choice.limit"], "{problem}");
    assert!(problem["errors"][0]["message"].as_str().unwrap().starts_with("column 11: found `=`"), "{problem}");
    let nobody = post(by("tags.site = 'nowhere'"), json!({})).await;
    assert_eq!((nobody.status, nobody.code().as_str()), (422, "empty_target"));
    let nobody = post(by("deviceId = 'saw-1'"), json!({ "exclude": ["saw-1"] })).await;
    assert_eq!((nobody.status, nobody.code().as_str()), (422, "empty_target"));
    served.controller.stop().await;
}
