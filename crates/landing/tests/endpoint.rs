//! The embedded endpoint on its own: the protocol's corners, every limit, hostile input, and what a restart keeps.

mod rig;

use std::fs;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use md5::{Digest as _, Md5};
use muster_landing::{Landing, LandingError, Limits};
use reqwest::Method;
use rig::{MIB, Rig, created, eventually, name, noise, refused};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// What a chunked body looks like to the endpoint: no length up front.
fn chunked(bytes: Vec<u8>) -> reqwest::Body {
    reqwest::Body::wrap_stream(futures_util::stream::iter(
        bytes.chunks(1000).map(|piece| Ok::<_, std::io::Error>(piece.to_vec())).collect::<Vec<_>>(),
    ))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_a_block_and_an_inbox_have_a_largest_size() {
    let limits = Limits { max_object_bytes: 10_000, max_block_bytes: 4_000, max_inbox_bytes: 16_000, ..Limits::default() };
    let rig = Rig::directory(limits).await;
    let (attempt, grant) = rig.inbox().await;
    let too_large = (413, "RequestBodyTooLarge".to_owned());
    assert_eq!(refused(rig.put(&grant, "a", noise(10_001, 1)).await).await, too_large);
    assert_eq!(refused(rig.put(&grant, "a", chunked(noise(10_001, 1))).await).await, too_large);
    assert_eq!(refused(rig.put_block(&grant, "a", "1", noise(4_001, 1)).await).await, too_large);
    assert_eq!(refused(rig.put_block(&grant, "a", "1", chunked(noise(4_001, 1))).await).await, too_large);
    rig.put_ok(&grant, "a", chunked(noise(10_000, 1))).await;
    created(rig.put_block(&grant, "b", "1", noise(4_000, 1)).await).await;
    // 14,000 of 16,000 are taken, uncommitted blocks included.
    assert_eq!(refused(rig.put(&grant, "c", noise(2_001, 1)).await).await, too_large);
    rig.put_ok(&grant, "c", noise(1_000, 1)).await;
    // A list may name a block often: the sum counts.
    assert_eq!(refused(rig.put_block_list(&grant, "b", &[("Latest", "1"), ("Latest", "1"), ("Latest", "1")]).await).await, too_large);
    assert_eq!(
        refused(rig.put_block_list(&grant, "b", &[("Latest", "1"), ("Latest", "1")]).await).await,
        too_large,
        "8,000 for 4,000 do not fit"
    );
    created(rig.put_block_list(&grant, "b", &[("Latest", "1")]).await).await;
    // What is replaced gives its room back.
    for _ in 0..3 {
        rig.put_ok(&grant, "c", noise(900, 1)).await;
    }
    rig.put_ok(&grant, "a", "small now").await;
    rig.put_ok(&grant, "d", noise(9_000, 1)).await;
    created(rig.create_append(&grant, "log").await).await;
    assert_eq!(refused(rig.append(&grant, "log", noise(2_100, 1), &[]).await).await, too_large);
    created(rig.append(&grant, "log", noise(2_000, 1), &[]).await).await;
    assert_eq!(rig.listed(attempt).await.iter().map(|(_, size)| size).sum::<u64>(), 9 + 4_000 + 900 + 9_000 + 2_000);
    // The same room is counted after a restart.
    let again = rig.restarted(limits).await;
    let grant = again.landing.open_inbox(attempt, rig::in_an_hour()).await.unwrap();
    assert_eq!(refused(again.put(&grant, "e", noise(92, 1)).await).await, too_large);
    again.put_ok(&grant, "e", noise(91, 1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_are_counted() {
    let limits = Limits { max_uncommitted_blocks: 4, max_committed_blocks: 3, ..Limits::default() };
    let rig = Rig::directory(limits).await;
    let (_, grant) = rig.inbox().await;
    for id in ["1", "2", "3"] {
        created(rig.put_block(&grant, "a", id, id).await).await;
    }
    created(rig.put_block(&grant, "b", "1", "x").await).await;
    assert_eq!(refused(rig.put_block(&grant, "a", "4", "x").await).await, (409, "BlockCountExceedsLimit".into()));
    created(rig.put_block(&grant, "a", "3", "replaced").await).await;
    let four = [("Latest", "1"), ("Latest", "2"), ("Latest", "3"), ("Latest", "1")];
    assert_eq!(refused(rig.put_block_list(&grant, "a", &four).await).await, (400, "BlockListTooLong".into()));
    created(rig.put_block_list(&grant, "a", &four[..3]).await).await;
    created(rig.put_block(&grant, "a", "4", "x").await).await;
    created(rig.create_append(&grant, "log").await).await;
    for _ in 0..3 {
        created(rig.append(&grant, "log", "x", &[]).await).await;
    }
    assert_eq!(refused(rig.append(&grant, "log", "x", &[]).await).await, (409, "BlockCountExceedsLimit".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_default_limits_are_azures_where_azure_has_some() {
    let limits = Limits::default();
    assert_eq!((limits.max_uncommitted_blocks, limits.max_committed_blocks), (100_000, 50_000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_may_not_stand_still() {
    let rig = Rig::directory(Limits { body_idle: Duration::from_millis(200), ..Limits::default() }).await;
    let (attempt, grant) = rig.inbox().await;
    let target = rig::request_target(&grant, "a", "");
    let head = format!("PUT {target} HTTP/1.1\r\nHost: x\r\nx-ms-blob-type: BlockBlob\r\nContent-Length: 100\r\n\r\nonly this");
    let answer = rig::raw(&grant, head.as_bytes(), Duration::from_secs(10)).await;
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("OperationTimedOut"), "{answer}");
    // A trickle that never pauses long is found out too.
    let mut stream = rig::connect(&grant).await;
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    for _ in 0..100 {
        let _ = stream.write_all(b".").await;
        let mut piece = [0; 1024];
        if let Ok(Ok(count)) = tokio::time::timeout(Duration::from_millis(50), stream.read(&mut piece)).await {
            answer.extend_from_slice(&piece[..count]);
            break;
        }
    }
    assert!(answer.starts_with(b"HTTP/1.1 408 "), "{}", String::from_utf8_lossy(&answer));
    assert!(rig.listed(attempt).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_block_list_holds_up_nobody_else() {
    let limits = Limits { body_idle: Duration::from_secs(2), upload_queue: Duration::from_millis(100), ..Limits::default() };
    let rig = Rig::directory(limits).await;
    let mut slow = Vec::new();
    for _ in 0..2 * muster_landing::MAX_CONCURRENT_COMMITS {
        let (_, grant) = rig.inbox().await;
        let mut stream = rig::connect(&grant).await;
        let target = rig::request_target(&grant, "a", "comp=blocklist");
        let head = format!("PUT {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n<BlockList>");
        stream.write_all(head.as_bytes()).await.unwrap();
        // One list of an inbox at a time, so the second one says when the first is being read.
        eventually("the list is being read", async || rig.put_block_list(&grant, "b", &[]).await.status() == 503).await;
        slow.push(stream);
    }
    let (attempt, grant) = rig.inbox().await;
    created(rig.put_block(&grant, "a", "1", "x").await).await;
    let commit = tokio::time::timeout(Duration::from_secs(1), rig.put_block_list(&grant, "a", &[("Latest", "1")]));
    created(commit.await.expect("the slow ones hold no turn")).await;
    assert_eq!(rig.listed(attempt).await, [("a".to_owned(), 1)]);
    // A trickle ends: it may pause, and not last.
    let mut trickle = slow.remove(0);
    let mut answer = Vec::new();
    for _ in 0..200 {
        let _ = trickle.write_all(b" ").await;
        let mut piece = [0; 1024];
        if let Ok(Ok(count)) = tokio::time::timeout(Duration::from_millis(50), trickle.read(&mut piece)).await {
            answer.extend_from_slice(&piece[..count]);
            break;
        }
    }
    assert!(answer.starts_with(b"HTTP/1.1 408 "), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_at_the_same_time_are_bounded_and_the_rest_is_told_to_come_back() {
    let limits =
        Limits { max_uploads_per_inbox: 1, max_concurrent_uploads: 2, upload_queue: Duration::from_millis(100), ..Limits::default() };
    let rig = Rig::directory(limits).await;
    let (_, first) = rig.inbox().await;
    let (_, second) = rig.inbox().await;
    let (_, third) = rig.inbox().await;
    let hold = async |grant| {
        let mut stream = rig::connect(grant).await;
        let target = rig::request_target(grant, "held", "");
        let head = format!("PUT {target} HTTP/1.1\r\nHost: x\r\nx-ms-blob-type: BlockBlob\r\nContent-Length: 100\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream
    };
    let held = hold(&first).await;
    eventually("the first inbox is busy", async || rig.put(&first, "a", "x").await.status() == 503).await;
    let busy = rig.put(&first, "a", "x").await;
    assert!(busy.headers().contains_key("retry-after"));
    assert_eq!(refused(busy).await, (503, "ServerBusy".into()));
    rig.put_ok(&second, "a", "x").await;
    let also_held = hold(&second).await;
    eventually("everything is busy", async || rig.put(&third, "a", "x").await.status() == 503).await;
    drop((held, also_held));
    eventually("there is room again", async || rig.put(&third, "a", "x").await.status() == 201).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_that_leads_elsewhere_is_refused_in_every_spelling() {
    let rig = Rig::directory(Limits::default()).await;
    let (attempt, grant) = rig.inbox().await;
    let (other, _) = rig.inbox().await;
    let target = rig::request_target(&grant, "@", "");
    for path in [
        format!("../inbox-{}/f", other.stem()),
        "../../../../etc/passwd".into(),
        "%2e%2e/%2e%2e/f".into(),
        "%2E%2E%2Ff".into(),
        "a/..%2f..%2ff".into(),
        "%252e%252e%252ff".into(),
        "/etc/passwd".into(),
        "%2Fetc%2Fpasswd".into(),
        "a%5c..%5cf".into(),
        "a%00b".into(),
        "a%0d%0ab".into(),
        "%ff%fe".into(),
        "a/./b".into(),
        "a//b".into(),
        "manifest.json".into(),
        ".muster/x".into(),
        "x".repeat(256),
        vec!["x"; 17].join("/"),
        "x/".repeat(491) + "x",
    ] {
        let request = format!(
            "PUT {} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nx-ms-blob-type: BlockBlob\r\nContent-Length: 1\r\n\r\nx",
            target.replace('@', &path)
        );
        let answer = rig::raw(&grant, request.as_bytes(), Duration::from_secs(5)).await;
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("x-ms-error-code: InvalidUri"), "{path}: {answer}");
    }
    assert!(rig.listed(attempt).await.is_empty() && rig.listed(other).await.is_empty());
    // An encoded slash is how some clients write an ordinary one.
    rig.put_ok(&grant, "a%2Fb", "x").await;
    assert_eq!(rig.listed(attempt).await, [("a/b".to_owned(), 1)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_is_an_object_or_a_folder() {
    let rig = Rig::directory(Limits::default()).await;
    let (attempt, grant) = rig.inbox().await;
    rig.put_ok(&grant, "a/b", "x").await;
    let conflict = (409, "ResourceTypeMismatch".to_owned());
    assert_eq!(refused(rig.put(&grant, "a", "x").await).await, conflict);
    assert_eq!(refused(rig.put(&grant, "a/b/c", "x").await).await, conflict);
    created(rig.put_block(&grant, "a", "1", "x").await).await;
    assert_eq!(refused(rig.put_block_list(&grant, "a", &[("Latest", "1")]).await).await, conflict);
    rig.put_ok(&grant, "A/b", "another").await;
    assert_eq!(rig.listed(attempt).await, [("A/b".to_owned(), 7), ("a/b".to_owned(), 1)]);
    rig.landing.seal(attempt, &name("a/b")).await.unwrap();
    let error = rig.landing.put_sealed(attempt, &name("a"), "x".into()).await.unwrap_err();
    assert!(matches!(error, LandingError::NameConflict { .. }) && error.is_permanent(), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_make_no_sense_get_azures_codes() {
    let rig = Rig::directory(Limits::default()).await;
    let (attempt, grant) = rig.inbox().await;
    let put = |query: &str, headers: &[(&str, &str)], body: &'static str| {
        let mut request = rig.request(Method::PUT, &grant, "a", query).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send()
    };
    let block = ("x-ms-blob-type", "BlockBlob");
    for (query, headers, body, status, code) in [
        ("", &[][..], "x", 400, "MissingRequiredHeader"),
        ("", &[("x-ms-blob-type", "PageBlob")], "x", 400, "InvalidHeaderValue"),
        ("", &[("x-ms-blob-type", "AppendBlob")], "x", 400, "InvalidHeaderValue"),
        ("", &[block, ("x-ms-copy-source", "http://127.0.0.1/")], "x", 400, "UnsupportedHeader"),
        ("", &[block, ("x-ms-structured-body", "XSM/1.0; properties=crc64")], "x", 400, "UnsupportedHeader"),
        ("", &[block, ("content-md5", "no")], "x", 400, "InvalidHeaderValue"),
        ("", &[block, ("if-match", "\"0x1\"")], "x", 412, "ConditionNotMet"),
        ("comp=block", &[], "x", 400, "MissingRequiredQueryParameter"),
        ("comp=block&blockid=***", &[], "x", 400, "InvalidBlockId"),
        ("comp=block&blockid=QQ%3D%3D&blockid=Qg%3D%3D", &[], "x", 400, "InvalidQueryParameterValue"),
        ("comp=blocklist", &[], "<nonsense/>", 400, "InvalidXmlDocument"),
        ("comp=blocklist", &[], "<BlockList><Latest>QQ==</Latest></BlockList>", 400, "InvalidBlockList"),
        ("comp=blocklist", &[], "<BlockList><Latest>*</Latest></BlockList>", 400, "InvalidBlockId"),
        ("comp=metadata", &[], "", 400, "UnsupportedQueryParameter"),
        ("restype=container", &[], "", 403, "AuthorizationPermissionMismatch"),
    ] {
        assert_eq!(refused(put(query, headers, body).await.unwrap()).await, (status, code.to_owned()), "{query} {headers:?}");
    }
    assert_eq!(refused(rig.put_block(&grant, "a", "1", "").await).await, (400, "InvalidHeaderValue".into()));
    assert_eq!(refused(rig.put_block(&grant, "a", "1", chunked(Vec::new())).await).await, (400, "InvalidHeaderValue".into()));
    created(rig.put_block(&grant, "a", "1", "x").await).await;
    assert_eq!(refused(rig.put_block(&grant, "a", "longer", "x").await).await, (400, "InvalidBlobOrBlock".into()));
    created(rig.create_append(&grant, "log").await).await;
    assert_eq!(refused(rig.put_block(&grant, "log", "1", "x").await).await, (409, "InvalidBlobType".into()));
    assert_eq!(rig.listed(attempt).await, [("log".to_owned(), 0)]);

    let url = rig::object_url(&grant, "a", "");
    let unsigned = rig.http.put(url.split('?').next().unwrap()).header("x-ms-blob-type", "BlockBlob").body("x").send().await.unwrap();
    assert_eq!(refused(unsigned).await, (401, "NoAuthenticationInformation".into()));
    let answer = rig
        .http
        .put(&url)
        .header("x-ms-blob-type", "BlockBlob")
        .header("x-ms-client-request-id", "my-id")
        .header("x-ms-version", "2026-04-06")
        .body("x");
    let answer = created(answer.send().await.unwrap()).await;
    assert_eq!(
        (&answer.headers()["x-ms-client-request-id"], &answer.headers()["x-ms-version"]),
        (&"my-id".parse().unwrap(), &"2026-04-06".parse().unwrap())
    );
    // The etag of an answer is the condition of the next request.
    let tag = answer.headers()["etag"].clone();
    let replace = || rig.http.put(&url).header("x-ms-blob-type", "BlockBlob").header("if-match", &tag).body("xy").send();
    created(replace().await.unwrap()).await;
    assert_eq!(refused(replace().await.unwrap()).await, (412, "ConditionNotMet".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checksum_that_comes_along_is_checked() {
    let rig = Rig::directory(Limits::default()).await;
    let (attempt, grant) = rig.inbox().await;
    let bytes = noise(3 * MIB, 9);
    let md5 = BASE64.encode(Md5::digest(&bytes));
    let mut broken = bytes.clone();
    broken[2 * MIB] ^= 1;
    let put = |header: &'static str, value: String, body: Vec<u8>| {
        rig.request(Method::PUT, &grant, "a", "").header("x-ms-blob-type", "BlockBlob").header(header, value).body(body).send()
    };
    assert_eq!(refused(put("content-md5", md5.clone(), broken).await.unwrap()).await, (400, "Md5Mismatch".into()));
    assert_eq!(
        refused(put("x-ms-content-crc64", BASE64.encode([0; 8]), bytes.clone()).await.unwrap()).await,
        (400, "Crc64Mismatch".into())
    );
    assert!(rig.listed(attempt).await.is_empty());
    created(put("content-md5", md5, bytes).await.unwrap()).await;
    let crc = BASE64.encode(0xae8b_1486_0a79_9888_u64.to_le_bytes());
    created(put("x-ms-content-crc64", crc, b"123456789".to_vec()).await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_reaches_a_client_that_is_still_sending() {
    let rig = Rig::directory(Limits::default()).await;
    let (_, grant) = rig.inbox().await;
    rig.put_ok(&grant, "a", "x").await;
    // The answer is decided before the body; a client that sends all of it first has to hear it all the same.
    let target = rig::request_target(&grant, "a", "");
    let mut request = format!("PUT {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nx-ms-blob-type: BlockBlob\r\nIf-None-Match: *\r\nContent-Length: {}\r\n\r\n", 20 * MIB).into_bytes();
    request.extend_from_slice(&noise(20 * MIB, 1));
    let answer = rig::raw(&grant, &request, Duration::from_secs(20)).await;
    assert!(answer.starts_with("HTTP/1.1 409 "), "{answer}");
    // One that asks first is not made to send.
    let request = format!(
        "PUT {target} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nx-ms-blob-type: BlockBlob\r\nIf-None-Match: *\r\nContent-Length: {}\r\n\r\n",
        20 * MIB
    );
    let answer = rig::raw(&grant, request.as_bytes(), Duration::from_secs(2)).await;
    assert!(answer.starts_with("HTTP/1.1 409 "), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_says_http_breaks_an_https_grant() {
    let directory = tempfile::tempdir().unwrap();
    let rig = Rig::directory(Limits::default()).await;
    // The same key behind a public https URL; the request goes to the plain listener, as a proxy would send it.
    let options = muster_landing::DirectoryOptions {
        path: directory.path().into(),
        public_url: "https://muster.example.com/behind".parse().unwrap(),
        signing_key: "0123456789abcdef0123456789abcdef".into(),
        fsync: true,
        limits: Limits::default(),
    };
    let public = muster_landing::DirectoryLanding::open(options).await.unwrap();
    let (attempt, plain) = rig.inbox().await;
    let grant = Landing::Directory(public).open_inbox(attempt, rig::in_an_hour()).await.unwrap();
    let url = rig::object_url(&grant, "a", "");
    let here = rig::object_url(&plain, "a", "");
    let moved = format!("{}?{}", here.split_once('?').unwrap().0, url.split_once('?').unwrap().1);
    assert!(url.starts_with("https://muster.example.com/behind/landing/inbox-") && url.contains("spr=https&"), "the public URL is used");
    let put = |proto: &'static str| {
        rig.http.put(&moved).header("x-ms-blob-type", "BlockBlob").header("x-forwarded-proto", proto).body("x").send()
    };
    assert_eq!(refused(put("http").await.unwrap()).await, (403, "AuthorizationProtocolMismatch".into()));
    created(put("https").await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_keeps_what_was_acknowledged() {
    let before = Rig::directory(Limits::default()).await;
    let root = before.root.clone().unwrap();
    let (attempt, grant) = before.inbox().await;
    before.put_ok(&grant, "whole", "x").await;
    for id in ["1", "2"] {
        created(before.put_block(&grant, "blocks", id, id).await).await;
    }
    created(before.create_append(&grant, "log").await).await;
    created(before.append(&grant, "log", "one\n", &[]).await).await;
    // A crash in the middle of an append leaves bytes nobody was told about.
    let on_disk = root.join("inbox").join(attempt.stem()).join("log");
    fs::write(&on_disk, "one\ntorn").unwrap();

    let after = before.restarted(Limits::default()).await;
    assert_eq!(after.listed(attempt).await, [("log".to_owned(), 4), ("whole".to_owned(), 1)]);
    after.landing.seal(attempt, &name("log")).await.unwrap();
    assert_eq!(after.sealed_bytes(attempt, "log").await, b"one\n");
    let grant = after.landing.open_inbox(attempt, rig::in_an_hour()).await.unwrap();
    created(after.append(&grant, "log", "two\n", &[("x-ms-blob-condition-appendpos", "4")]).await).await;
    created(after.put_block_list(&grant, "blocks", &[("Latest", "2"), ("Latest", "1")]).await).await;
    // The answer was lost and the client asks again.
    created(after.put_block_list(&grant, "blocks", &[("Latest", "2"), ("Latest", "1")]).await).await;
    for (object, bytes) in [("log", &b"one\ntwo\n"[..]), ("blocks", b"21"), ("whole", b"x")] {
        after.landing.seal(attempt, &name(object)).await.unwrap();
        assert_eq!(after.sealed_bytes(attempt, object).await, bytes, "{object}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_and_commits_of_one_name_at_the_same_time_never_mix() {
    let rig = Rig::directory(Limits::default()).await;
    let (attempt, grant) = rig.inbox().await;
    let writers = (0..8u8).map(|writer| {
        let (rig, grant) = (&rig, &grant);
        async move {
            for round in 0..6u8 {
                let bytes = vec![writer * 16 + round; 50_000];
                let ids: Vec<String> = (0..4).map(|i| format!("{writer}-{round}-{i}")).collect();
                let staged = futures_util::future::join_all(ids.iter().map(|id| rig.put_block(grant, "same", id, bytes.clone()))).await;
                assert!(staged.iter().all(|answer| answer.status() == 201));
                let list: Vec<(&str, &str)> = ids.iter().map(|id| ("Latest", id.as_str())).collect();
                // Another commit may have dropped our blocks: then the list is refused as a whole.
                let answer = rig.put_block_list(grant, "same", &list).await;
                assert!([201, 400].contains(&answer.status().as_u16()), "{}", answer.status());
            }
        }
    });
    futures_util::future::join_all(writers).await;
    rig.landing.seal(attempt, &name("same")).await.unwrap();
    let bytes = rig.sealed_bytes(attempt, "same").await;
    assert_eq!(bytes.len(), 200_000);
    assert!(bytes.iter().all(|byte| *byte == bytes[0]), "blocks of two writers in one object");
    rig.landing.close_inbox(attempt).await.unwrap();
    assert_eq!(fs::read_dir(rig.root.as_ref().unwrap().join("tmp")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sweep_takes_only_what_is_old() {
    let rig = Rig::directory(Limits::default()).await;
    let root = rig.root.clone().unwrap();
    let (attempt, grant) = rig.inbox().await;
    created(rig.put_block(&grant, "a", "1", "kept: its inbox is open").await).await;
    let old = SystemTime::now() - Duration::from_secs(3600);
    let age = |path: &std::path::Path| fs::File::open(path).unwrap().set_modified(old).unwrap();
    fs::write(root.join("tmp/young"), "x").unwrap();
    fs::write(root.join("tmp/old"), "12345").unwrap();
    age(&root.join("tmp/old"));
    fs::create_dir_all(root.join("tmp/trash-old/x")).unwrap();
    age(&root.join("tmp/trash-old"));
    fs::create_dir_all(root.join("staged/01orphan-0-1/x")).unwrap();
    age(&root.join("staged/01orphan-0-1"));
    age(&root.join("staged").join(attempt.stem()));
    let report = rig.landing.sweep(Duration::from_secs(1800)).await.unwrap();
    assert_eq!((report.removed, report.removed_bytes), (3, 5));
    assert!(root.join("tmp/young").exists() && root.join("staged").join(attempt.stem()).exists());
    // Even asked for everything, what may be an upload in progress stays.
    assert_eq!(rig.landing.sweep(Duration::ZERO).await.unwrap().removed, 0);
    created(rig.put_block_list(&grant, "a", &[("Latest", "1")]).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_cannot_work_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let open = async |url: &str, key: &str| {
        let options = muster_landing::DirectoryOptions {
            path: directory.path().join("landing"),
            public_url: url.parse().unwrap(),
            signing_key: key.to_owned().into(),
            fsync: false,
            limits: Limits::default(),
        };
        muster_landing::DirectoryLanding::open(options).await.map(drop).map_err(|error| error.to_string())
    };
    let key = "k".repeat(32);
    assert_eq!(open("http://x:1/", &key).await, Ok(()));
    assert!(open("http://x:1/", "short").await.unwrap_err().starts_with("landing.signing_key:"));
    assert!(open("ftp://x:1/", &key).await.unwrap_err().starts_with("landing.public_url:"));
    assert!(open("http://x:1/?a=b", &key).await.unwrap_err().starts_with("landing.public_url:"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lands_is_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let rig = Rig::directory(Limits::default()).await;
    let (attempt, grant) = rig.inbox().await;
    rig.put_ok(&grant, "a/b", "x").await;
    rig.landing.seal(attempt, &name("a/b")).await.unwrap();
    let mut unseen = vec![rig.root.clone().unwrap()];
    while let Some(path) = unseen.pop() {
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o077, 0, "{}", path.display());
        if metadata.is_dir() {
            unseen.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
}

/// Two controllers on one directory: the device uploads through one, and the other, which looked before, looks again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_controller_took_in_is_seen() {
    let rig = Rig::directory(Limits::default()).await;
    let (attempt, grant) = rig.inbox().await;
    let other = rig.beside(Limits::default()).await;
    let through_the_other = other.open_inbox(attempt, rig::in_an_hour()).await.unwrap();
    created(rig.put_block(&through_the_other, "later", "1", "x").await).await;
    assert!(other.list_inbox(attempt).await.unwrap().objects.is_empty());
    rig.put_ok(&grant, "bundle.zip", "a bundle").await;
    let objects = other.list_inbox(attempt).await.unwrap().objects;
    assert_eq!(objects.iter().map(|object| (object.name.clone(), object.size_bytes)).collect::<Vec<_>>(), [(name("bundle.zip"), 8)]);
    assert_eq!(other.seal(attempt, &name("bundle.zip")).await.unwrap().size_bytes, 8);
    rig.landing.close_inbox(attempt).await.unwrap();
    assert!(matches!(other.list_inbox(attempt).await, Err(LandingError::InboxNotFound { .. })));
}
