//! The registry over HTTP: lists, tags, forgetting, and what a ping leaves behind.

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::device::Device;
use crate::harness::{Postgres, Served, until};

const CSV: [(&str, &str); 1] = [("content-type", "text/csv")];

async fn import(served: &Served, query: &str, kind: &str, list: &str) -> Value {
    let answer = served.api.send("POST", &format!("/api/v1/devices/import{query}"), &[("content-type", kind)], list.as_bytes()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

fn counts(imported: &Value) -> [u64; 5] {
    ["rows", "new", "changed", "unchanged", "refused"].map(|name| imported[name].as_u64().expect("a number"))
}

async fn written(flags: &[(&str, &str)]) {
    let served = Served::start(flags).await.ready().await;
    let list = "id,parent,tags.site,tags.line:number\npress-1,gateway-7,oslo,4\npress-2,,bergen,\nbad id,,x,\npress-1,,twice,\n";
    let dry = import(&served, "?dry_run=true", "text/csv", list).await;
    assert_eq!((counts(&dry), dry["written"].as_bool()), ([4, 2, 0, 0, 2], Some(false)), "{dry}");
    let whole = import(&served, "?all_or_nothing=true", "text/csv", list).await;
    assert_eq!((counts(&whole), whole["written"].as_bool()), ([4, 0, 0, 0, 2], Some(false)), "{whole}");
    assert_eq!(served.api.get("/api/v1/devices/press-1").await.code(), "device_not_found", "nothing was written so far");
    let done = import(&served, "", "text/csv; charset=utf-8", list).await;
    assert_eq!((counts(&done), done["written"].as_bool()), ([4, 2, 0, 0, 2], Some(true)), "{done}");
    assert_eq!((done["refusals"][0]["line"].as_u64(), done["refusals"][0]["column"].as_str()), (Some(4), Some("id")));
    assert_eq!(done["refusals"][1]["reason"], "press-1 stands in an earlier row");
    let again = import(
        &served,
        "?all_or_nothing=true",
        "application/x-ndjson",
        "{\"id\":\"press-1\",\"tags\":{\"lab\":true}}\n{\"id\":\"press-2\"}\n",
    )
    .await;
    assert_eq!(counts(&again), [2, 0, 1, 1, 0], "{again}");
    let device: Value = served.api.get_json("/api/v1/devices/press-1").await;
    assert_eq!((&device["tags"], device["parent"].as_str()), (&json!({"site": "oslo", "line": 4, "lab": true}), Some("gateway-7")));

    // Many rows over several batches.
    let many: String = (0..2_500).map(|n| format!("{{\"id\":\"bulk-{n}\",\"parent\":\"press-1\"}}\n")).collect();
    assert_eq!(counts(&import(&served, "", "application/x-ndjson", &many).await), [2_500, 2_500, 0, 0, 0]);
    let gateway: Value = served.api.get_json("/api/v1/devices/press-1").await;
    assert_eq!(gateway["children"].as_array().map(Vec::len), Some(100), "the first hundred");

    for (headers, list, status, code) in [
        (&[("content-type", "application/json")][..], "{}", 415, "unsupported_media_type"),
        (&CSV[..], "", 422, "invalid_import"),
        (&CSV[..], "id,site\nx,y\n", 422, "invalid_import"),
    ] {
        let answer = served.api.send("POST", "/api/v1/devices/import", headers, list.as_bytes()).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{list:?}");
    }

    // One device, and many.
    let json_body = [("content-type", "application/merge-patch+json")];
    let patch = json!({ "tags": { "lab": null, "line": { "no": 5 } }, "parent": null });
    let patched = served.api.send("PATCH", "/api/v1/devices/press-1", &json_body, patch.to_string().as_bytes()).await;
    let device: Value = patched.json();
    assert_eq!((patched.status, &device["tags"], &device["parent"]), (200, &json!({"site": "oslo", "line": {"no": 5}}), &Value::Null));
    for (path, body, status, code) in [
        ("nobody", json!({ "tags": { "a": 1 } }), 404, "device_not_found"),
        ("press-1", json!({ "tags": { "a.b": 1 } }), 422, "invalid_patch"),
        ("press-1", json!({ "tags": "x" }), 422, "invalid_patch"),
        ("press-1", json!({ "parent": "press-1" }), 422, "invalid_patch"),
        ("press-1", json!({ "parent": "a b" }), 422, "invalid_body"),
        ("press-1", json!({ "id": "other" }), 422, "invalid_body"),
        ("press-1", json!({ "tags": { "a": "x".repeat(8 * 1024) } }), 422, "invalid_patch"),
    ] {
        let answer = served.api.send("PATCH", &format!("/api/v1/devices/{path}"), &json_body, body.to_string().as_bytes()).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{body}");
    }
    let both = json!({ "devices": ["press-1", "press-2", "press-1"], "patch": { "tags": { "site": "oslo" } } });
    let patched: Value = served.api.post("/api/v1/devices/tags", &both).await.json();
    assert_eq!((patched["changed"].as_u64(), patched["unchanged"].as_u64()), (Some(1), Some(1)), "{patched}");
    let unknown = json!({ "devices": ["press-2", "nobody"], "patch": { "tags": { "site": "x" } } });
    assert_eq!(served.api.post("/api/v1/devices/tags", &unknown).await.code(), "unknown_devices");
    assert_eq!(served.api.get_json::<Value>("/api/v1/devices/press-2").await["tags"]["site"], "oslo", "none was changed");

    // A ping is measured, and a device with work to do is not forgotten.
    let _device = Device::connect(&served.controller.mqtt_url(), "press-1", &["ping"]).await;
    until("the device to be there", || async { served.api.get_json::<Value>("/api/v1/devices/press-1").await["presence"] == "online" })
        .await;
    let ping = json!({ "request": { "kind": "ping" }, "target": { "kind": "devices", "devices": ["press-1"] } });
    let pinged: Value = served.api.post("/api/v1/collections", &ping).await.json();
    served.finished(pinged["id"].as_str().expect("an id")).await;
    until("the ping to be noted", || async {
        served.api.get_json::<Value>("/api/v1/devices/press-1").await["ping"]["round_trip_ms"].is_u64()
    })
    .await;
    let waits = json!({ "request": { "kind": "ping" }, "target": { "kind": "devices", "devices": ["press-2"] } });
    let made: Value = served.api.post("/api/v1/collections", &waits).await.json();
    let busy = served.api.send("DELETE", "/api/v1/devices/press-2", &[], b"").await;
    assert_eq!((busy.status, busy.code().as_str()), (409, "device_busy"));
    served.api.post(&format!("/api/v1/collections/{}/cancel", made["id"].as_str().expect("an id")), &json!({})).await;
    // All of that is on one line of time, in pages as in one.
    let line: Value = served.api.get_json("/api/v1/devices/press-1/timeline?limit=1000").await;
    let (all, next) = (line["items"].as_array().expect("a list").clone(), &line["next"]);
    assert!(next.is_null(), "{line}");
    let words: Vec<&str> = all.iter().filter_map(|entry| entry["what"].as_str()).collect();
    for what in ["asked", "sent", "ended", "online", "tagged", "moved", "imported", "first_seen"] {
        assert!(words.contains(&what), "{what}: {words:?}");
    }
    // As times: as texts, .02Z comes after .024Z.
    let times: Vec<OffsetDateTime> =
        all.iter().map(|entry| OffsetDateTime::parse(entry["at"].as_str().expect("a text"), &Rfc3339).expect("a time")).collect();
    assert!(times.is_sorted_by(|a, b| a >= b), "newest first: {line}");
    let asked = all.iter().find(|entry| entry["what"] == "asked").expect("asked");
    assert_eq!((asked["detail"].as_str(), asked["who"].is_string(), &asked["collection"]), (Some("ping"), true, &pinged["id"]), "{asked}");
    let (mut paged, mut after) = (Vec::new(), String::new());
    loop {
        let page: Value = served.api.get_json(&format!("/api/v1/devices/press-1/timeline?limit=3{after}")).await;
        paged.extend(page["items"].as_array().expect("a list").clone());
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!(paged, all);
    for (path, status, code) in [
        ("nobody/timeline", 404, "device_not_found"),
        ("press-1/timeline?after=x", 400, "invalid_cursor"),
        ("press-1/timeline?limit=1001", 400, "invalid_query"),
        ("press-1/timeline?before=x", 400, "invalid_query"),
    ] {
        let answer = served.api.get(&format!("/api/v1/devices/{path}")).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{path}");
    }

    let gone = served.api.send("DELETE", "/api/v1/devices/press-2", &[], b"").await;
    assert_eq!((gone.status, gone.json::<Value>()["tags"]["site"].as_str()), (200, Some("oslo")), "as it was");
    assert_eq!(served.api.send("DELETE", "/api/v1/devices/press-2", &[], b"").await.code(), "device_not_found");
    let line: Value = served.api.get_json("/api/v1/devices/press-2/timeline?limit=1").await;
    assert_eq!(line["items"][0]["what"], "forgotten", "who is gone still has a line");

    // Young history stays, and what was done long enough ago goes.
    let prune = async |body: Value| served.api.post("/api/v1/collections/prune", &body).await;
    let kept: Value = prune(json!({ "older_than_seconds": 3600 })).await.json();
    assert_eq!(kept, json!({ "attempts": 0, "device_events": 0, "more": false }));
    let pruned: Value = prune(json!({ "older_than_seconds": 0 })).await.json();
    assert!(pruned["device_events"].as_u64().is_some_and(|count| count > 2_500) && pruned["more"] == false, "{pruned}");
    assert_eq!(
        served.api.get("/api/v1/devices/press-2/timeline?limit=1").await.json::<Value>()["items"][0]["what"],
        "ended",
        "its task stays"
    );
    for (body, status, code) in [
        (json!({}), 422, "invalid_body"),
        (json!({ "older_than_seconds": 315_360_001 }), 422, "invalid_prune"),
        (json!({ "older_than_seconds": 315_360_000 }), 200, ""),
        (json!({ "older_than_seconds": 1, "collection": "col_01jd8k2m3n4p5q6r7s" }), 404, "collection_not_found"),
        (json!({ "older_than_seconds": 1, "tasks": true }), 422, "invalid_body"),
    ] {
        let answer = prune(body.clone()).await;
        assert_eq!(answer.status, status, "{body}");
        assert!(status == 200 || answer.code() == code, "{body}: {}", answer.text());
    }
    served.controller.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_registry_is_written_on_sqlite() {
    written(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_registry_is_written_on_postgres() {
    let database = Postgres::create();
    written(&[("database.url", &database.url)]).await;
}

/// Four lists at a time: the fifth is refused, and welcome as soon as one of them has ended.
#[tokio::test(flavor = "multi_thread")]
async fn imports_at_the_same_time_are_bounded() {
    let served = Served::start(&[]).await.ready().await;
    let begin = async || {
        let mut stream = TcpStream::connect(&served.api.authority).await.expect("the server listens");
        let head = format!(
            "POST /api/v1/devices/import HTTP/1.1\r\nhost: {}\r\ncontent-type: text/csv\r\ncontent-length: 1000\r\n\r\nid\nslow\n",
            served.api.authority
        );
        stream.write_all(head.as_bytes()).await.expect("sent");
        stream
    };
    let list = async || served.api.send("POST", "/api/v1/devices/import", &CSV, b"id\npress-1\n").await;
    let slow = tokio::sync::Mutex::new(Vec::new());
    until("four lists to be under way", || async {
        let mut slow = slow.lock().await;
        // One that met the list we ask with was refused in its place, and comes again.
        slow.retain(|stream: &TcpStream| stream.try_read(&mut [0]).is_err());
        while slow.len() < 4 {
            slow.push(begin().await);
        }
        let answer = list().await;
        answer.status == 429 && answer.code() == "too_many_imports"
    })
    .await;
    drop(slow.lock().await.pop());
    until("one of them to have ended", || async { list().await.status == 200 }).await;
    served.controller.stop().await;
}

/// The last row a list may have is read, and the one behind it is not. Rows that are refused count.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_ends_with_its_millionth_row() {
    let served = Served::start(&[]).await.ready().await;
    let mut list = "x\n".repeat(999_999);
    list.push_str("{\"id\":\"last\"}\n");
    let whole = import(&served, "", "application/x-ndjson", &list).await;
    assert_eq!(counts(&whole), [1_000_000, 1, 0, 0, 999_999]);
    assert_eq!(whole["refusals"].as_array().map(Vec::len), Some(100), "the first hundred are listed");
    list.push_str("{\"id\":\"over\"}\n");
    let cut = import(&served, "", "application/x-ndjson", &list).await;
    assert_eq!(counts(&cut), [1_000_000, 0, 0, 1, 1_000_000], "one more is refused: what follows was not read");
    assert_eq!(served.api.get("/api/v1/devices/over").await.code(), "device_not_found");
    served.controller.stop().await;
}
