//! A bundle on its whole way, and everything that can be asked about it.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::device::{Device, support_bundle};
use crate::harness::{Served, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_lands_and_can_be_looked_into_downloaded_and_checked() {
    let served = Served::start(&[]).await.ready().await;
    let api = &served.api;
    let _device = Device::connect(&served.controller.mqtt_url(), "press-1", &["ping", "UploadSupportBundle"]).await;
    until("the device to be known", || async { api.get("/api/v1/devices/press-1").await.status == 200 }).await;
    let request = json!({ "request": { "kind": "bundle", "since": "1h" }, "target": { "kind": "all" }, "case": "48213" });
    let made: Value = api.post("/api/v1/collections", &request).await.json();
    let id = made["id"].as_str().unwrap();
    let ended = served.finished(id).await;
    assert_eq!(ended["counters"]["verified"].as_u64(), Some(1), "{ended}");
    let whole = support_bundle();
    assert_eq!(ended["bundle_bytes"].as_u64(), Some(whole.len() as u64));

    let listed: Value = api.get_json(&format!("/api/v1/bundles?collection={id}&device=press-1")).await;
    let task = listed["items"][0]["task"].as_str().unwrap().to_owned();
    let bundle = format!("/api/v1/bundles/{task}");
    let manifest: Value = api.get_json(&bundle).await;
    assert_eq!(
        (manifest["case"].as_str(), manifest["verdict"].as_str(), manifest["device"].as_str()),
        (Some("48213"), Some("complete"), Some("press-1"))
    );
    let name = manifest["objects"][0]["name"].as_str().unwrap();
    let sha256: String = Sha256::digest(&whole).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!((name, manifest["objects"][0]["sha256"].as_str()), ("support bundle/b.zip", Some(sha256.as_str())));

    let files: Value = api.get_json(&format!("{bundle}/files")).await;
    let paths: Vec<_> = files.as_array().unwrap().iter().map(|file| file["path"].as_str().unwrap()).collect();
    assert_eq!(
        paths,
        [
            name,
            "support bundle/b.zip!logs/edgeAgent_log.txt",
            "support bundle/b.zip!logs/edgeHub_log.txt",
            "support bundle/b.zip!check.json"
        ]
    );
    let printed = api.get(&format!("{bundle}/cat?path=support%20bundle/b.zip!logs/edgeAgent_log.txt")).await;
    assert_eq!((printed.status, printed.text().as_str()), (200, "the agent said this\n"));
    assert_eq!(api.get(&format!("{bundle}/cat?path=support%20bundle/b.zip")).await.body, whole);
    assert_eq!(api.get(&format!("{bundle}/cat?path=support%20bundle/b.zip!nothing")).await.code(), "file_not_found");
    assert_eq!(api.get(&format!("{bundle}/cat?path=../../../etc/passwd")).await.code(), "file_not_found");

    // Downloads: whole, in parts, unchanged, and never as something a browser would run.
    let object = format!("{bundle}/objects/support%20bundle%2Fb.zip");
    let download = api.get(&object).await;
    assert_eq!((download.status, &download.body), (200, &whole));
    assert_eq!(download.headers["content-disposition"], "attachment; filename=\"press-1-b.zip\"; filename*=UTF-8''press-1-b.zip");
    assert!(download.headers["repr-digest"].starts_with("sha-256=:") && download.headers["content-security-policy"].contains("sandbox"));
    assert_eq!(download.headers["etag"], format!("\"{sha256}\""));
    assert_eq!(api.get(&format!("{bundle}/objects/support%20bundle/b.zip")).await.body, whole, "a slash is a slash");
    let part = |range: &'static str| {
        let object = object.clone();
        async move { api.send("GET", &object, &[("range", range)], b"").await }
    };
    let middle = part("bytes=2-9").await;
    assert_eq!(
        (middle.status, &middle.body[..], middle.headers["content-range"].as_str()),
        (206, &whole[2..10], format!("bytes 2-9/{}", whole.len()).as_str())
    );
    assert_eq!(part("bytes=-4").await.body, whole[whole.len() - 4..]);
    assert_eq!(part("bytes=99999999-").await.status, 416);
    assert_eq!(part("bytes=5-1").await.status, 200);
    let unchanged = api.send("GET", &object, &[("if-none-match", &format!("\"{sha256}\""))], b"").await;
    assert_eq!((unchanged.status, unchanged.body.len()), (304, 0));
    let resumed = api.send("GET", &object, &[("range", "bytes=2-9"), ("if-range", "\"another\"")], b"").await;
    assert_eq!((resumed.status, &resumed.body), (200, &whole), "a part of another version would not fit");
    let sealed: Value = api.get(&format!("{bundle}/objects/manifest.json")).await.json();
    assert_eq!(sealed, manifest);
    for outside in ["nothing", "..%2F..%2Fmuster.db", "%2Fetc%2Fpasswd"] {
        assert_eq!(api.get(&format!("{bundle}/objects/{outside}")).await.code(), "object_not_found", "{outside}");
    }

    let checked: Value = api.post(&format!("{bundle}/verify"), &json!({})).await.json();
    assert_eq!((checked["intact"].as_bool(), checked["objects"].as_array().map(Vec::len)), (Some(true), Some(2)), "{checked}");
    let on_disk = find(&served.dir.path().join("data/landing/sealed"), "b.zip").expect("sealed");
    let mut bytes = std::fs::read(&on_disk).unwrap();
    bytes[10] ^= 1;
    // Sealed files may be read-only: replaced as an intruder would.
    std::fs::remove_file(&on_disk).unwrap();
    std::fs::write(&on_disk, bytes).unwrap();
    let checked: Value = api.post(&format!("{bundle}/verify"), &json!({})).await.json();
    assert_eq!(checked["intact"].as_bool(), Some(false));
    assert_eq!(checked["objects"][0]["problem"], "its bytes are not those that were sealed");
    std::fs::remove_file(&on_disk).unwrap();
    let checked: Value = api.post(&format!("{bundle}/verify"), &json!({})).await.json();
    assert_eq!(checked["objects"][0]["problem"], "it is gone");

    let metrics = api.get("/metrics").await.text();
    assert!(metrics.contains("muster_landing_requests_total"), "{metrics}");
    served.controller.stop().await;
}

fn find(below: &std::path::Path, name: &str) -> Option<std::path::PathBuf> {
    for entry in std::fs::read_dir(below).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if let Some(found) = find(&path, name) {
                return Some(found);
            }
        } else if path.file_name().is_some_and(|file| file == name) {
            return Some(path);
        }
    }
    None
}
