//! The device contract, point by point.

use std::time::Duration;

use muster_agent::recent::RecentLog;
use muster_agent::{Agent, Settings};
use muster_wire::method::answer::TaskStatus;

use crate::broker::Mosquitto;
use crate::caller::{Ask, Caller, bundle_request};
use crate::storage::{Storage, Trouble};

pub(crate) const DEVICE: &str = "press-0042";

/// Settings of a device with one file module.
pub(crate) fn settings(broker: &Mosquitto, state: &std::path::Path) -> Settings {
    let file = state.join("settings.toml");
    let log = state.join("app.log");
    std::fs::write(&log, "<6> 2026-01-01 00:00:00.000 +00:00 [INF] - one\n<3> 2026-01-01 00:00:01.000 +00:00 [ERR] - two\n\nthree\n")
        .expect("written");
    let text = format!(
        "[device]\nid = \"{DEVICE}\"\nstate_dir = \"{0}\"\n[device.reported]\nsite = \"oslo\"\napi_token = \"hunter2\"\n[mqtt]\nurl = \"{1}\"\nwill_delay = \"0s\"\n[sources]\ndocker = \"off\"\n[modules.app]\nfiles = [\"{2}\"]\n",
        state.display(),
        broker.url(),
        log.display()
    );
    std::fs::write(&file, text).expect("written");
    Settings::load(Some(&file)).and_then(Settings::finish).expect("settings")
}

struct Scene {
    broker: Mosquitto,
    state: tempfile::TempDir,
    agent: Agent,
    caller: Caller,
}

async fn scene() -> Scene {
    let broker = Mosquitto::start("").await;
    let state = tempfile::tempdir().expect("a directory");
    let caller = Caller::connect(broker.port).await;
    let agent = Agent::start(&settings(&broker, state.path()), RecentLog::default()).await.expect("an agent");
    caller.presence(DEVICE, true).await;
    Scene { broker, state, agent, caller }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn birth_says_everything_and_a_soft_stop_says_goodbye() {
    let scene = scene().await;
    let birth = scene.caller.presence(DEVICE, true).await;
    assert_eq!(birth.proto, ["1.0"]);
    assert_eq!(birth.methods, ["ping", "GetModuleLogs", "UploadModuleLogs", "UploadSupportBundle", "GetTaskStatus"]);
    assert_eq!(birth.agent.expect("an agent").name, "muster-agent");
    assert!(birth.started.is_some() && birth.clock.is_some());
    assert_eq!(birth.reported["site"], "oslo");
    assert!(birth.reported["kernel"].is_string());
    // Retained: a caller that comes later learns it too.
    Caller::connect(scene.broker.port).await.presence(DEVICE, true).await;
    scene.agent.stop().await;
    scene.caller.presence(DEVICE, false).await;
    Caller::connect(scene.broker.port).await.presence(DEVICE, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_answered_with_the_statuses_of_iot_edge() {
    let scene = scene().await;
    let caller = &scene.caller;
    let ping = caller.ask(&Ask::new(DEVICE, "ping", "anything")).await;
    assert_eq!((ping.status, ping.payload.as_slice()), (200, &b"null"[..]));
    assert!(ping.properties.iter().any(|(name, value)| name == "__protVer" && value == "1.0"));
    for (method, payload, status) in [
        ("PING", "", 200),
        ("getmodulelogs", r#"{"schemaVersion":"1.0","items":[{"id":"app"}]}"#, 200),
        ("GetLogs", "{}", 400),
        ("RestartModule", r#"{"schemaVersion":"1.0","id":"x"}"#, 400),
        ("GetModuleLogs", "", 400),
        ("GetModuleLogs", "[]", 400),
        ("GetModuleLogs", "not json", 400),
        ("GetModuleLogs", r#"{"schemaVersion":"2.0","items":[]}"#, 500),
        ("GetModuleLogs", r#"{"schemaVersion":"1.0","items":[{"id":"["}]}"#, 400),
        ("GetModuleLogs", r#"{"schemaVersion":"1.0","items":[{"id":"app","filter":{"since":"1D"}}]}"#, 400),
        ("UploadModuleLogs", r#"{"schemaVersion":"1.0","items":[{"id":"app"}]}"#, 400),
        ("UploadModuleLogs", r#"{"schemaVersion":"1.0","sasUrl":"https://$upstream:8000/c","items":[]}"#, 400),
        ("UploadSupportBundle", r#"{"schemaVersion":"1.0"}"#, 400),
        ("GetTaskStatus", r#"{"schemaVersion":"1.0"}"#, 400),
        ("GetTaskStatus", r#"{"schemaVersion":"1.0","correlationId":"never issued"}"#, 200),
    ] {
        let answer = caller.ask(&Ask::new(DEVICE, method, payload)).await;
        assert_eq!(answer.status, status, "{method} {payload}: {}", String::from_utf8_lossy(&answer.payload));
        if status != 200 {
            assert!(answer.json()["message"].is_string(), "{method} {payload}");
            assert!(answer.properties.iter().any(|(name, _)| name == "__stMsg"), "{method} {payload}");
        }
    }
    // Correlation data that is known has its answer, whatever is asked under it now.
    let unknown = Ask::new(DEVICE, "GetTaskStatus", r#"{"schemaVersion":"1.0","correlationId":"x"}"#);
    let first = caller.ask(&unknown).await;
    caller.send(&Ask { attempt: unknown.attempt, ..Ask::new(DEVICE, "ping", "") }).await;
    assert_eq!(caller.answer(unknown.attempt, 1).await.payload, first.payload);
    let logs = caller
        .ask(&Ask::new(DEVICE, "GetModuleLogs", r#"{"schemaVersion":"1.0","items":[{"id":"app","filter":{"loglevel":3}}]}"#))
        .await
        .json();
    let lines: serde_json::Value = serde_json::from_str(logs[0]["payload"].as_str().expect("text")).expect("JSON in JSON, the default");
    assert_eq!((lines[0]["text"].as_str(), lines[0]["device"].as_str()), (Some("[ERR] - two"), Some(DEVICE)));
    assert_eq!(lines.as_array().map(Vec::len), Some(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_breaks_the_contract_is_refused_or_ignored() {
    let scene = scene().await;
    let caller = &scene.caller;
    let no_expiry = caller.ask(&Ask { expiry: None, ..Ask::new(DEVICE, "ping", "{}") }).await;
    assert_eq!(no_expiry.status, 400);
    let version = caller.ask(&Ask { version: "2.1", ..Ask::new(DEVICE, "ping", "{}") }).await;
    assert_eq!(version.status, 505);
    assert!(version.properties.iter().any(|(name, value)| name == "__supProtMajVer" && value == "1"));
    let text = r#"{"schemaVersion":"1.0","contentType":"text","items":[{"id":"app"}]}"#;
    let small = caller.ask(&Ask { max_response: Some(50), ..Ask::new(DEVICE, "GetModuleLogs", text) }).await;
    assert_eq!(small.status, 400);

    let foreign = Ask { response_topic: Some("muster/v1/d/other/rsp/test".to_owned()), ..Ask::new(DEVICE, "ping", "{}") };
    caller.send(&foreign).await;
    caller.send(&Ask { response_topic: Some(format!("muster/v1/d/{DEVICE}/state")), ..Ask::new(DEVICE, "ping", "{}") }).await;
    caller.raw(&format!("muster/v1/d/{DEVICE}/cmd/ping"), b"{}").await;
    caller.raw(&format!("muster/v1/d/{DEVICE}/cmd/ping/deeper"), b"{}").await;
    let huge = caller.ask(&Ask::new(DEVICE, "GetModuleLogs", vec![b' '; 200 * 1024])).await;
    assert_eq!(huge.status, 400);
    // Larger than the device takes at all: the broker drops it, and the session goes on.
    caller.send(&Ask::new(DEVICE, "GetModuleLogs", vec![b' '; 300 * 1024])).await;
    assert_eq!(caller.ask(&Ask::new(DEVICE, "ping", "{}")).await.status, 200);
    assert!(caller.answers(foreign.attempt).is_empty());
    assert_eq!(scene.agent.stats().ignored, 4);
    assert_eq!(scene.agent.stats().connects, 1, "none of it cost the connection");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_request_is_one_upload_also_after_a_restart() {
    let scene = scene().await;
    let storage = Storage::start().await;
    let ask = Ask::new(DEVICE, "UploadSupportBundle", bundle_request(&storage.grant("box")));
    let first = scene.caller.ask(&ask).await;
    assert_eq!((first.status, first.json()["status"].as_str()), (200, Some("Running")));
    scene.caller.send(&ask).await;
    assert_eq!(scene.caller.answer(ask.attempt, 1).await.payload, first.payload, "the same answer");
    let ended = scene.caller.ended(ask.attempt).await;
    assert_eq!((ended.status, ended.message.as_str()), (TaskStatus::Completed, ""));
    scene.agent.stop().await;

    let agent = Agent::start(&settings(&scene.broker, scene.state.path()), RecentLog::default()).await.expect("an agent");
    scene.caller.send(&ask).await;
    assert_eq!(scene.caller.answer(ask.attempt, 2).await.payload, first.payload, "and again after a restart");
    assert_eq!(scene.caller.task_status(DEVICE, &ended.correlation_id).await, "Completed");
    assert_eq!(agent.stats().uploads_started, 0);
    let objects = storage.objects("box");
    assert_eq!(objects.len(), 1);
    let (name, bytes) = objects.iter().next().expect("one");
    assert!(name.starts_with(&format!("muster/{DEVICE}/support-bundle-")) && name.ends_with(".zip"), "{name}");
    assert_eq!(
        (ended.objects[0].name.as_str(), ended.objects[0].size, ended.bytes),
        (name.as_str(), bytes.len() as u64, bytes.len() as u64)
    );
    assert_eq!(ended.objects[0].sha256.as_deref(), Some(sha256(bytes).as_str()));
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_own_bundle_holds_what_it_promises_and_no_secret() {
    let scene = scene().await;
    let storage = Storage::start().await;
    let ask =
        Ask::new(DEVICE, "UploadSupportBundle", serde_json::json!({ "schemaVersion": "1.0", "sasUrl": storage.grant("box") }).to_string());
    scene.caller.ask(&ask).await;
    assert_eq!(scene.caller.ended(ask.attempt).await.status, TaskStatus::Completed);
    let bytes = storage.objects("box").into_values().next().expect("a bundle");
    let mut zip = zip::ZipArchive::new(std::io::Cursor::new(bytes)).expect("a zip");
    let mut text = |name: &str| std::io::read_to_string(zip.by_name(name).unwrap_or_else(|e| panic!("{name}: {e}"))).expect("text");
    let manifest: serde_json::Value = serde_json::from_str(&text("manifest.json")).expect("JSON");
    assert_eq!((manifest["version"].as_str(), manifest["device"].as_str()), (Some("1.0"), Some(DEVICE)));
    let check: serde_json::Value = serde_json::from_str(&text("check.json")).expect("JSON");
    assert!(
        check["checks"].as_array().is_some_and(|checks| checks.iter().any(|c| c["id"] == "broker-connected" && c["result"] == "ok")),
        "{check}"
    );
    assert!(text("logs/app_log.txt").contains("[ERR] - two\n\nthree\n"), "blank lines are kept");
    assert!(text("system/os-release.txt").contains("NAME="));
    assert!(text("agent/settings.toml").contains("oslo") && !text("agent/settings.toml").contains("hunter2"));
    for entry in manifest["entries"].as_array().expect("a list") {
        let name = entry["name"].as_str().expect("a name");
        assert_eq!(zip.by_name(name).expect("listed and there").size(), entry["size"].as_u64().expect("a size"), "{name}");
    }
    assert!(zip.len() > 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_nobody_can_read_fails_the_task_and_uploads_nothing() {
    let scene = scene().await;
    let storage = Storage::start().await;
    for (method, request) in [
        ("UploadSupportBundle", serde_json::json!({ "schemaVersion": "1.0", "sasUrl": storage.grant("box"), "since": "1D" })),
        (
            "UploadModuleLogs",
            serde_json::json!({ "schemaVersion": "1.0", "sasUrl": storage.grant("box"), "items": [{ "id": "app", "filter": { "since": "1D" } }] }),
        ),
        ("UploadModuleLogs", serde_json::json!({ "schemaVersion": "1.0", "sasUrl": "not a url", "items": [{ "id": "app" }] })),
        ("UploadSupportBundle", serde_json::json!({ "schemaVersion": "abc", "sasUrl": "" })),
    ] {
        let ask = Ask::new(DEVICE, method, request.to_string());
        assert_eq!(scene.caller.ask(&ask).await.json()["status"], "Running", "{request}");
        let ended = scene.caller.ended(ask.attempt).await;
        assert_eq!(ended.status, TaskStatus::Failed, "{request}");
        assert!(ended.message.starts_with("Task upload "), "{}", ended.message);
    }
    assert!(storage.objects("box").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_ends_at_its_deadline_and_bundles_take_turns() {
    let scene = scene().await;
    let storage = Storage::start().await;
    storage.next([Trouble::Hang]);
    let hangs = Ask { expiry: Some(2), ..Ask::new(DEVICE, "UploadSupportBundle", bundle_request(&storage.grant("one"))) };
    let waits = Ask { expiry: Some(30), ..Ask::new(DEVICE, "UploadSupportBundle", bundle_request(&storage.grant("two"))) };
    scene.caller.ask(&hangs).await;
    let second = scene.caller.ask(&waits).await;
    assert_eq!(second.json()["status"], "Running", "a second bundle waits for its turn");
    tokio::time::sleep(Duration::from_millis(1000)).await;
    assert_eq!(storage.calls().len(), 1, "and does not begin while the first one runs");
    let ended = scene.caller.ended(hangs.attempt).await;
    assert_eq!(ended.status, TaskStatus::Failed);
    assert!(ended.message.contains("deadline"), "{}", ended.message);
    let ended = scene.caller.ended(waits.attempt).await;
    assert_eq!(ended.status, TaskStatus::Completed, "{}", ended.message);
    assert_eq!(storage.objects("two").len(), 1);
    let stats = scene.agent.stats();
    assert_eq!((stats.max_bundles_at_once, stats.max_bundle_uploads_at_once), (2, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_are_uploaded_in_every_form() {
    let scene = scene().await;
    let storage = Storage::start().await;
    for (content_type, encoding, extension) in
        [("text", "none", ".log"), ("text", "gzip", ".log.gz"), ("json", "none", ".json"), ("json", "gzip", ".json.gz")]
    {
        let container = format!("{content_type}-{encoding}");
        let request = serde_json::json!({ "schemaVersion": "1.0", "sasUrl": storage.grant(&container), "items": [{ "id": "all" }], "contentType": content_type, "encoding": encoding });
        let ask = Ask::new(DEVICE, "UploadModuleLogs", request.to_string());
        scene.caller.ask(&ask).await;
        let ended = scene.caller.ended(ask.attempt).await;
        assert_eq!(ended.status, TaskStatus::Completed, "{container}: {}", ended.message);
        let objects = storage.objects(&container);
        let (name, bytes) = objects.iter().next().expect("an object");
        assert!(name.starts_with(&format!("muster/{DEVICE}/app-")) && name.ends_with(extension), "{name}");
        let plain = if encoding == "gzip" { muster_wire::method::gzip::decompress(bytes, 1 << 20).expect("gzip") } else { bytes.clone() };
        if content_type == "text" {
            assert_eq!(plain, std::fs::read(scene.state.path().join("app.log")).expect("the file"), "{container}");
        } else {
            let lines: Vec<serde_json::Value> = serde_json::from_slice(&plain).expect("JSON");
            assert_eq!(lines.iter().filter_map(|l| l["text"].as_str()).next_back(), Some("three"));
        }
    }
    let nothing = serde_json::json!({ "schemaVersion": "1.0", "sasUrl": storage.grant("nothing"), "items": [{ "id": "^nomatch$" }] });
    let ask = Ask::new(DEVICE, "UploadModuleLogs", nothing.to_string());
    scene.caller.ask(&ask).await;
    assert_eq!(scene.caller.ended(ask.attempt).await.status, TaskStatus::Completed);
    assert!(storage.objects("nothing").is_empty());
}
