//! The uploader against a storage that breaks.

#[path = "../../tests/it/storage.rs"]
mod storage;

use std::time::Instant;

use muster_wire::method::object_name::{BUNDLE_PROPERTIES, log_properties};
use muster_wire::method::{ContentType, Encoding};

use super::*;
use storage::{Storage, Trouble};

fn uploader() -> Uploader {
    let options = UploadOptions {
        tries: 4,
        first_wait: Duration::from_millis(5),
        longest_wait: Duration::from_millis(50),
        call_timeout: Duration::from_millis(500),
        ..UploadOptions::default()
    };
    Uploader::new(options, Vec::new()).expect("an uploader")
}

async fn put(storage: &Storage, properties: ObjectProperties, bytes: &[u8]) -> Result<ReportedObject, UploadError> {
    let grant = Grant::parse(&storage.grant("box")).expect("a grant");
    let content = Content::Memory(Bytes::copy_from_slice(bytes));
    uploader().put(&grant, &Object { name: "hub/dev/x.zip", properties }, &content).await
}

fn noise(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

#[tokio::test]
async fn a_small_object_is_one_call_with_its_properties() {
    let storage = Storage::start().await;
    let written = put(&storage, log_properties(ContentType::Json, Encoding::Gzip), b"hello").await.expect("written");
    assert_eq!((written.name.as_str(), written.size), ("hub/dev/x.zip", 5));
    assert_eq!(written.sha256.as_deref(), Some("2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"));
    let calls = storage.calls();
    assert_eq!(calls.len(), 1);
    let header = |name: &str| calls[0].headers.get(name).cloned().unwrap_or_default();
    assert_eq!((header("x-ms-blob-type").as_str(), header("x-ms-blob-content-type").as_str()), ("BlockBlob", "application/json"));
    assert_eq!((header("x-ms-blob-content-encoding").as_str(), header("x-ms-version").as_str()), ("gzip", STORAGE_VERSION));
    assert_eq!(storage.objects("box")["hub/dev/x.zip"], b"hello");
}

#[tokio::test]
async fn a_large_object_is_staged_in_bounded_parallel_and_committed_once() {
    let storage = Storage::start().await;
    storage.delay(Duration::from_millis(30));
    storage.next([Trouble::Status(500, "InternalError"), Trouble::LoseAnswer, Trouble::Status(429, "TooManyRequests")]);
    let bytes = noise(5 * BLOCK_BYTES + 17);
    let written = put(&storage, BUNDLE_PROPERTIES, &bytes).await.expect("written in spite of it");
    assert_eq!(written.size, bytes.len() as u64);
    assert!(storage.objects("box")["hub/dev/x.zip"] == bytes, "every byte in its place");
    let parallel = UploadOptions::default().parallel_blocks;
    assert!(storage.most_at_once() <= parallel && storage.most_at_once() > 1, "{} at once", storage.most_at_once());
    assert_eq!(storage.calls().iter().filter(|call| call.query.ends_with("comp=blocklist")).count(), 1);
}

#[tokio::test]
async fn the_limit_between_one_call_and_blocks_is_where_it_is_said_to_be() {
    let storage = Storage::start().await;
    put(&storage, BUNDLE_PROPERTIES, &noise(usize::try_from(SINGLE_PUT_BYTES).expect("fits"))).await.expect("written");
    assert_eq!(storage.calls().len(), 1);
    put(&storage, BUNDLE_PROPERTIES, &noise(usize::try_from(SINGLE_PUT_BYTES).expect("fits") + 1)).await.expect("written");
    assert_eq!(storage.calls().len(), 1 + 3);
}

#[tokio::test]
async fn an_append_whose_answer_was_lost_is_not_doubled() {
    let storage = Storage::start().await;
    storage.next([Trouble::LoseAnswer, Trouble::LoseAnswer, Trouble::Status(503, "ServerBusy")]);
    let bytes = noise(BLOCK_BYTES + 9);
    put(&storage, log_properties(ContentType::Text, Encoding::None), &bytes).await.expect("written");
    assert!(storage.objects("box")["hub/dev/x.zip"] == bytes);
    put(&storage, log_properties(ContentType::Text, Encoding::None), b"").await.expect("an empty log is an empty object");
    assert!(storage.objects("box")["hub/dev/x.zip"].is_empty(), "written anew, not appended to what was there");
}

#[tokio::test]
async fn a_dead_grant_fails_at_once_and_is_never_quoted() {
    let storage = Storage::start().await;
    storage.always(Some(Trouble::Status(403, "AuthenticationFailed")));
    let error = put(&storage, BUNDLE_PROPERTIES, b"x").await.expect_err("refused");
    assert!(matches!(error, UploadError::Forbidden { .. }));
    assert!(error.to_string().contains("expired") && error.to_string().contains("AuthenticationFailed"), "{error}");
    assert_eq!(storage.calls().len(), 1, "no second try");
    storage.always(Some(Trouble::Status(404, "ContainerNotFound")));
    let error = put(&storage, BUNDLE_PROPERTIES, b"x").await.expect_err("refused").to_string();
    assert!(error.contains("404 ContainerNotFound") && !error.contains("sig"), "{error}");
    assert_eq!(storage.calls().len(), 2);
}

#[tokio::test]
async fn trouble_is_tried_again_a_bounded_number_of_times() {
    let storage = Storage::start().await;
    storage.always(Some(Trouble::Status(503, "ServerBusy")));
    let error = put(&storage, BUNDLE_PROPERTIES, b"x").await.expect_err("gave up").to_string();
    assert_eq!(error, "Put Blob failed 4 times, last: 503 ServerBusy");
    assert_eq!(storage.calls().len(), 4);

    storage.always(Some(Trouble::Hang));
    let began = Instant::now();
    let error = put(&storage, BUNDLE_PROPERTIES, b"x").await.expect_err("silence").to_string();
    assert!(error.contains("timed out") && !error.contains("127.0.0.1") && !error.contains("sig="), "{error}");
    assert!(began.elapsed() < Duration::from_secs(6));

    storage.always(None);
    storage.next([Trouble::RetryAfter(3600)]);
    put(&storage, BUNDLE_PROPERTIES, b"x").await.expect("an absurd wait is cut to the longest allowed");

    let nobody = Grant::parse("http://127.0.0.1:9/acct/box?sig=secret").expect("a grant");
    let object = Object { name: "x", properties: BUNDLE_PROPERTIES };
    let error = uploader().put(&nobody, &object, &Content::Memory(Bytes::new())).await.expect_err("nobody there").to_string();
    assert!(error.contains("4 times") && !error.contains("secret"), "{error}");
}

#[tokio::test]
async fn connections_are_bounded_over_all_uploads() {
    let storage = Storage::start().await;
    storage.delay(Duration::from_millis(20));
    let options = UploadOptions { connections: 3, ..UploadOptions::default() };
    let uploader = Uploader::new(options, Vec::new()).expect("an uploader");
    let grant = Grant::parse(&storage.grant("box")).expect("a grant");
    let names: Vec<String> = (0..20).map(|n| format!("o{n}")).collect();
    let content = Content::Memory(Bytes::from_static(b"x"));
    let puts = names.iter().map(|name| async {
        let name = name.as_str();
        uploader.put(&grant, &Object { name, properties: BUNDLE_PROPERTIES }, &content).await.map(|_| ())
    });
    futures_util::future::join_all(puts).await.into_iter().collect::<Result<(), _>>().expect("all written");
    assert_eq!(storage.objects("box").len(), 20);
    assert!(storage.most_at_once() <= 3, "{}", storage.most_at_once());
}

#[tokio::test]
async fn a_part_is_staged_and_nothing_is_committed() {
    let storage = Storage::start().await;
    let grant = Grant::parse(&storage.grant("box")).expect("a grant");
    let object = Object { name: "x", properties: BUNDLE_PROPERTIES };
    let content = Content::Memory(noise(1000).into());
    uploader().put_part(&grant, &object, &content, StopAfter { blocks: 2, block_bytes: 300 }).await.expect("staged");
    assert_eq!((storage.staged("box"), storage.objects("box").len()), (2, 0));
    assert_eq!(StopAfter { blocks: 2, block_bytes: 300 }.blocks, 2);
}
