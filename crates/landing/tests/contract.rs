//! What a landing zone does, held against both kinds: a directory behind our own endpoint, and a storage account (Azurite).

#![expect(clippy::unwrap_used, reason = "in a test an error is a failure, and the place says which")]

mod rig;

use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use muster_landing::{Landing, LandingError, Limits, MANIFEST_NAME, ObjectName};
use reqwest::Method;
use rig::{MIB, Rig, attempt, collect, created, eventually, in_an_hour, name, noise, refused};
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use tokio::io::AsyncWriteExt as _;

const BIG_OBJECT_MIB: usize = 200;

/// Each function once for each kind.
macro_rules! contract {
    ($($test:ident),* $(,)?) => {
        mod directory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test(super::Rig::directory(super::Limits::default()).await).await;
            })*
        }
        mod azure {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test(super::Rig::azure(super::Limits::default()).await).await;
            })*
        }
    };
}

contract!(
    a_grant_takes_a_plain_put,
    a_grant_takes_blocks,
    a_grant_takes_appends,
    a_grant_only_writes,
    a_grant_ends,
    a_grant_is_for_one_inbox,
    create_only_is_kept,
    opening_again_keeps_the_inbox,
    sealing_computes_what_sha256sum_does,
    sealing_again_gives_the_same_and_overwriting_later_changes_nothing,
    closing_ends_the_grant_and_keeps_what_is_sealed,
    an_upload_that_breaks_off_leaves_nothing,
    a_cancelled_seal_leaves_nothing_or_all,
    what_is_not_there_is_named,
    the_manifest_is_ours,
    parts_of_an_object_are_read,
    a_reader_jumps_around,
    a_bundle_is_removed_as_one,
    empty_objects_are_objects,
    a_big_object_passes_through,
    the_probe_finds_it_working,
);

async fn a_grant_takes_a_plain_put(rig: Rig) {
    let (attempt, grant) = rig.inbox().await;
    assert!(!format!("{grant:?}").contains("sig="));
    assert!(rig.listed(attempt).await.is_empty());
    let before = OffsetDateTime::now_utc() - Duration::from_secs(5);
    let answer = created(rig.put(&grant, "hub/dev%20ice/bundle.zip", "hello").await).await;
    for header in ["etag", "last-modified", "x-ms-request-id", "x-ms-version", "x-ms-request-server-encrypted"] {
        assert!(answer.headers().contains_key(header), "{header}");
    }
    let listing = rig.landing.list_inbox(attempt).await.unwrap();
    assert_eq!(listing.objects.len(), 1);
    assert_eq!((listing.objects[0].name.as_str(), listing.objects[0].size_bytes), ("hub/dev ice/bundle.zip", 5));
    assert!(listing.objects[0].modified_at >= before);
    rig.put_ok(&grant, "hub/dev%20ice/bundle.zip", "again").await;
    assert_eq!(rig.listed(attempt).await.len(), 1);
}

async fn a_grant_takes_blocks(rig: Rig) {
    let (attempt, grant) = rig.inbox().await;
    for (id, bytes) in [("2", "world"), ("1", "hello "), ("3", "never used")] {
        created(rig.put_block(&grant, "b.txt", id, bytes).await).await;
    }
    assert!(rig.listed(attempt).await.is_empty(), "staged blocks are not visible");
    created(rig.put_block_list(&grant, "b.txt", &[("Latest", "1"), ("Uncommitted", "2")]).await).await;
    rig.landing.seal(attempt, &name("b.txt")).await.unwrap();
    assert_eq!(rig.sealed_bytes(attempt, "b.txt").await, b"hello world");
    // A second list may name what the first committed.
    created(rig.put_block(&grant, "b.txt", "4", "!").await).await;
    created(rig.put_block_list(&grant, "b.txt", &[("Committed", "2"), ("Latest", "4"), ("Latest", "1")]).await).await;
    rig.landing.seal(attempt, &name("b.txt")).await.unwrap();
    assert_eq!(rig.sealed_bytes(attempt, "b.txt").await, b"world!hello ");
    assert_eq!(refused(rig.put_block_list(&grant, "b.txt", &[("Latest", "3")]).await).await, (400, "InvalidBlockList".into()));
}

async fn a_grant_takes_appends(rig: Rig) {
    let (attempt, grant) = rig.inbox().await;
    assert_eq!(refused(rig.append(&grant, "log.txt", "x", &[]).await).await, (404, "BlobNotFound".into()));
    created(rig.create_append(&grant, "log.txt").await).await;
    let answer = created(rig.append(&grant, "log.txt", "one\n", &[]).await).await;
    assert_eq!(answer.headers()["x-ms-blob-append-offset"], "0");
    assert_eq!(answer.headers()["x-ms-blob-committed-block-count"], "1");
    let wrong = rig.append(&grant, "log.txt", "lost\n", &[("x-ms-blob-condition-appendpos", "0")]).await;
    assert_eq!(refused(wrong).await, (412, "AppendPositionConditionNotMet".into()));
    let over = rig.append(&grant, "log.txt", "lost\n", &[("x-ms-blob-condition-maxsize", "8")]).await;
    assert_eq!(refused(over).await, (412, "MaxBlobSizeConditionNotMet".into()));
    rig.landing.seal(attempt, &name("log.txt")).await.unwrap();
    created(rig.append(&grant, "log.txt", "two\n", &[("x-ms-blob-condition-appendpos", "4")]).await).await;
    assert_eq!(rig.sealed_bytes(attempt, "log.txt").await, b"one\n", "sealed before the second");
    assert_eq!(rig.listed(attempt).await, [("log.txt".to_owned(), 8)]);
    rig.landing.seal(attempt, &name("log.txt")).await.unwrap();
    assert_eq!(rig.sealed_bytes(attempt, "log.txt").await, b"one\ntwo\n");
    assert_eq!(refused(rig.append(&grant, "log.txt", "", &[]).await).await, (400, "InvalidHeaderValue".into()));
    rig.put_ok(&grant, "block.txt", "x").await;
    assert_eq!(refused(rig.append(&grant, "block.txt", "x", &[]).await).await, (409, "InvalidBlobType".into()));
}

async fn a_grant_only_writes(rig: Rig) {
    let (attempt, grant) = rig.inbox().await;
    rig.put_ok(&grant, "a", "private").await;
    for (method, name, query) in [
        (Method::GET, "a", ""),
        (Method::HEAD, "a", ""),
        (Method::DELETE, "a", ""),
        (Method::GET, "a", "comp=blocklist"),
        (Method::GET, "", "restype=container&comp=list"),
        (Method::DELETE, "", "restype=container"),
    ] {
        let answer = rig.request(method.clone(), &grant, name, query).send().await.unwrap();
        let (status, code) = (answer.status().as_u16(), answer.headers().get("x-ms-error-code").cloned());
        assert_eq!(status, 403, "{method} {name} {query}");
        assert_eq!(code.unwrap(), "AuthorizationPermissionMismatch", "{method} {name} {query}");
    }
    assert_eq!(rig.listed(attempt).await, [("a".to_owned(), 7)]);
}

async fn a_grant_ends(rig: Rig) {
    let attempt = attempt();
    let ended = rig.landing.open_inbox(attempt, OffsetDateTime::now_utc() - Duration::from_secs(1)).await;
    assert!(matches!(ended, Err(LandingError::Grant { .. })));
    let eternal = rig.landing.open_inbox(attempt, OffsetDateTime::now_utc() + Duration::from_secs(8 * 24 * 3600)).await;
    assert!(matches!(eternal, Err(LandingError::Grant { .. })));
    let grant = rig.landing.open_inbox(attempt, OffsetDateTime::now_utc() + Duration::from_secs(2)).await.unwrap();
    eventually("the grant ends", async || rig.put(&grant, "a", "x").await.status() == 403).await;
    not_authenticated(rig.put(&grant, "b", "x").await).await;
    assert!(rig.listed(attempt).await.iter().all(|(name, _)| name == "a"));
}

async fn a_grant_is_for_one_inbox(rig: Rig) {
    use secrecy::ExposeSecret as _;
    let (mine, grant) = rig.inbox().await;
    let (other, _) = rig.inbox().await;
    let url = rig::object_url(&grant, "a", "").replace(&mine.stem(), &other.stem());
    let answer =
        rig.http.put(url).header("x-ms-blob-type", "BlockBlob").header("x-ms-version", "2022-11-02").body("x").send().await.unwrap();
    not_authenticated(answer).await;
    let url = grant.url().expose_secret().replace("sp=cw", "sp=rcwdl");
    assert_eq!(rig.http.get(format!("{url}&restype=container&comp=list")).send().await.unwrap().status(), 403);
    assert!(rig.listed(other).await.is_empty());
}

/// Azure's code for a bad signature, and the one Azurite has for it.
async fn not_authenticated(answer: reqwest::Response) {
    let (status, code) = refused(answer).await;
    assert!(status == 403 && ["AuthenticationFailed", "AuthorizationFailure"].contains(&code.as_str()), "{status} {code}");
}

async fn create_only_is_kept(rig: Rig) {
    let (attempt, grant) = rig.inbox().await;
    let once = |bytes: &'static str| {
        rig.request(Method::PUT, &grant, "a", "").header("x-ms-blob-type", "BlockBlob").header("if-none-match", "*").body(bytes).send()
    };
    created(once("first").await.unwrap()).await;
    assert_eq!(refused(once("second one").await.unwrap()).await, (409, "BlobAlreadyExists".into()));
    assert_eq!(rig.listed(attempt).await, [("a".to_owned(), 5)]);
    // Of many at the same time exactly one creates.
    let all = (0..16).map(|_| {
        rig.request(Method::PUT, &grant, "race", "").header("x-ms-blob-type", "BlockBlob").header("if-none-match", "*").body("x").send()
    });
    let answers = futures_util::future::join_all(all).await;
    assert_eq!(answers.iter().filter(|answer| answer.as_ref().unwrap().status() == 201).count(), 1);
}

async fn opening_again_keeps_the_inbox(rig: Rig) {
    let (attempt, first) = rig.inbox().await;
    rig.put_ok(&first, "a", "x").await;
    let second = rig.landing.open_inbox(attempt, in_an_hour()).await.unwrap();
    rig.put_ok(&second, "b", "y").await;
    rig.put_ok(&first, "c", "z").await;
    assert_eq!(rig.listed(attempt).await.len(), 3);
}

async fn sealing_computes_what_sha256sum_does(rig: Rig) {
    let (attempt, grant) = rig.inbox().await;
    // Around the sizes at which copying changes its way.
    for (i, size) in [1, 4 * MIB - 1, 4 * MIB, 4 * MIB + 1, 9 * MIB + 12345].into_iter().enumerate() {
        let bytes = noise(size, i as u64 + 1);
        rig.put_ok(&grant, "object", bytes.clone()).await;
        let sealed = rig.landing.seal(attempt, &name("object")).await.unwrap();
        assert_eq!(sealed.size_bytes, size as u64);
        assert_eq!(sealed.sha256.to_string(), sha256sum(&bytes), "{size} bytes");
        assert!(rig.sealed_bytes(attempt, "object").await == bytes, "{size} bytes");
    }
}

/// By the program everybody has.
fn sha256sum(bytes: &[u8]) -> String {
    let mut child = Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("sha256sum");
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    let output = child.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap().split_whitespace().next().unwrap().to_owned()
}

async fn sealing_again_gives_the_same_and_overwriting_later_changes_nothing(rig: Rig) {
    let (attempt, grant) = rig.inbox().await;
    rig.put_ok(&grant, "a/b", "evidence").await;
    let first = rig.landing.seal(attempt, &name("a/b")).await.unwrap();
    assert_eq!(rig.landing.seal(attempt, &name("a/b")).await.unwrap(), first);
    rig.put_ok(&grant, "a/b", "something else").await;
    assert_eq!(rig.sealed_bytes(attempt, "a/b").await, b"evidence");
    assert_eq!(rig.landing.list_sealed(attempt).await.unwrap().len(), 1);
}

async fn closing_ends_the_grant_and_keeps_what_is_sealed(rig: Rig) {
    let (attempt, grant) = rig.inbox().await;
    rig.put_ok(&grant, "a", "evidence").await;
    created(rig.put_block(&grant, "b", "1", "staged").await).await;
    rig.landing.seal(attempt, &name("a")).await.unwrap();
    rig.landing.close_inbox(attempt).await.unwrap();
    rig.landing.close_inbox(attempt).await.unwrap();
    for answer in [
        rig.put(&grant, "c", "x").await,
        rig.put_block(&grant, "b", "2", "x").await,
        rig.put_block_list(&grant, "b", &[("Latest", "1")]).await,
    ] {
        let (status, code) = refused(answer).await;
        assert!(status == 404 || status == 409, "{status}");
        assert!(["ContainerNotFound", "ContainerBeingDeleted"].contains(&code.as_str()), "{code}");
    }
    assert!(matches!(rig.landing.list_inbox(attempt).await, Err(LandingError::InboxNotFound { .. })));
    assert!(rig.landing.seal(attempt, &name("a")).await.unwrap_err().is_permanent());
    assert_eq!(rig.sealed_bytes(attempt, "a").await, b"evidence");
    if let Some(root) = &rig.root {
        for directory in ["inbox", "staged", "tmp"] {
            assert_eq!(std::fs::read_dir(root.join(directory)).unwrap().count(), 0, "{directory}");
        }
    }
}

async fn an_upload_that_breaks_off_leaves_nothing(rig: Rig) {
    let (attempt, grant) = rig.inbox().await;
    for (name, query) in [("a", ""), ("b", "comp=block&blockid=QQ%3D%3D")] {
        let target = rig::request_target(&grant, name, query);
        let head = format!(
            "PUT {target} HTTP/1.1\r\nHost: x\r\nx-ms-blob-type: BlockBlob\r\nx-ms-version: 2022-11-02\r\nContent-Length: {}\r\n\r\n",
            2 * MIB
        );
        let mut stream = rig::connect(&grant).await;
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&noise(MIB, 1)).await.unwrap();
        stream.flush().await.unwrap();
        assert!(rig.listed(attempt).await.is_empty(), "half an object is not visible");
        drop(stream);
    }
    if let Some(root) = &rig.root {
        eventually("temporary files are gone", async || std::fs::read_dir(root.join("tmp")).unwrap().count() == 0).await;
    }
    rig.put_ok(&grant, "c", "x").await;
    assert_eq!(rig.listed(attempt).await, [("c".to_owned(), 1)]);
    assert!(refused(rig.put_block_list(&grant, "b", &[("Latest", "A")]).await).await.0 >= 400);
}

async fn a_cancelled_seal_leaves_nothing_or_all(rig: Rig) {
    let (attempt, grant) = rig.inbox().await;
    let bytes = noise(24 * MIB, 3);
    rig.put_ok(&grant, "a", bytes.clone()).await;
    for wait_ms in [0, 1, 5, 20] {
        let object = name("a");
        let _ = tokio::time::timeout(Duration::from_millis(wait_ms), rig.landing.seal(attempt, &object)).await;
        let sealed = rig.landing.list_sealed(attempt).await.unwrap();
        assert!(sealed.iter().all(|object| object.size_bytes == bytes.len() as u64), "{sealed:?}");
    }
    rig.landing.seal(attempt, &name("a")).await.unwrap();
    assert!(rig.sealed_bytes(attempt, "a").await == bytes);
    if let Some(root) = &rig.root {
        eventually("temporary files are gone", async || std::fs::read_dir(root.join("tmp")).unwrap().count() == 0).await;
    }
}

async fn what_is_not_there_is_named(rig: Rig) {
    let unknown = attempt();
    let object = name("a");
    assert!(matches!(rig.landing.list_inbox(unknown).await, Err(LandingError::InboxNotFound { .. })));
    rig.landing.close_inbox(unknown).await.unwrap();
    rig.landing.delete_sealed(unknown).await.unwrap();
    assert!(rig.landing.list_sealed(unknown).await.unwrap().is_empty());
    assert!(matches!(rig.landing.open_sealed(unknown, &object, None).await, Err(LandingError::ObjectNotFound { .. })));
    assert!(matches!(rig.landing.reader(unknown, &object).await, Err(LandingError::ObjectNotFound { .. })));
    assert!(rig.landing.seal(unknown, &object).await.unwrap_err().is_permanent());
    let (open, _) = rig.inbox().await;
    let error = rig.landing.seal(open, &object).await.unwrap_err();
    assert!(matches!(error, LandingError::ObjectNotFound { .. }) && error.is_permanent(), "{error}");
}

async fn the_manifest_is_ours(rig: Rig) {
    let (attempt, grant) = rig.inbox().await;
    rig.put_ok(&grant, "a", "x").await;
    let answer = rig.put(&grant, MANIFEST_NAME, "forged").await;
    // A storage account takes the name; then it is counted and never read.
    assert_eq!(answer.status().as_u16(), if rig.is_directory() { 400 } else { 201 });
    let listing = rig.landing.list_inbox(attempt).await.unwrap();
    assert_eq!((listing.objects.len(), listing.refused_names), (1, usize::from(!rig.is_directory())));
    rig.landing.seal(attempt, &name("a")).await.unwrap();
    let written = rig.landing.put_sealed(attempt, &ObjectName::manifest(), Bytes::from_static(b"{}")).await.unwrap();
    assert_eq!(written.sha256.0, *Sha256::digest(b"{}"));
    rig.landing.put_sealed(attempt, &ObjectName::manifest(), Bytes::from_static(b"{\"v\":2}")).await.unwrap();
    assert_eq!(rig.sealed_bytes(attempt, MANIFEST_NAME).await, b"{\"v\":2}");
    let names: Vec<String> = rig.landing.list_sealed(attempt).await.unwrap().into_iter().map(|object| object.name.to_string()).collect();
    assert_eq!(names, ["a", MANIFEST_NAME]);
}

async fn parts_of_an_object_are_read(rig: Rig) {
    let (attempt, _) = rig.inbox().await;
    let bytes = noise(9 * MIB, 5);
    let object = name("a");
    rig.landing.put_sealed(attempt, &object, bytes.clone().into()).await.unwrap();
    let length = bytes.len() as u64;
    for range in [0..1, 0..length, 5..5, 3..4 * MIB as u64 + 7, length - 1..length, length - 10..length + 1000] {
        let mut download = rig.landing.open_sealed(attempt, &object, Some(range.clone())).await.unwrap();
        assert_eq!(download.total_bytes, length);
        assert_eq!(download.range, range.start..range.end.min(length));
        assert!(collect(&mut download).await == bytes[range.start as usize..range.end.min(length) as usize], "{range:?}");
    }
    let inverted = std::ops::Range { start: 7, end: 3 };
    for range in [length..length + 1, length + 5..length + 6, inverted] {
        let error = rig.landing.open_sealed(attempt, &object, Some(range)).await.unwrap_err();
        assert!(matches!(error, LandingError::RangeOutside { .. }), "{error}");
    }
}

async fn a_reader_jumps_around(rig: Rig) {
    let (attempt, _) = rig.inbox().await;
    let bytes = noise(12 * MIB + 77, 6);
    rig.landing.put_sealed(attempt, &name("a"), bytes.clone().into()).await.unwrap();
    let mut reader = rig.landing.reader(attempt, &name("a")).await.unwrap();
    tokio::task::spawn_blocking(move || {
        assert_eq!(reader.size_bytes(), bytes.len() as u64);
        assert_eq!(reader.seek(SeekFrom::End(-4)).unwrap(), bytes.len() as u64 - 4);
        let mut end = Vec::new();
        reader.read_to_end(&mut end).unwrap();
        assert_eq!(end, bytes[bytes.len() - 4..]);
        let mut place = 1usize;
        for _ in 0..40 {
            place = place.wrapping_mul(7919) % (bytes.len() - 100);
            reader.seek(SeekFrom::Start(place as u64)).unwrap();
            let mut part = [0; 100];
            reader.read_exact(&mut part).unwrap();
            assert_eq!(part[..], bytes[place..place + 100]);
            assert_eq!(reader.stream_position().unwrap(), place as u64 + 100);
        }
        reader.rewind().unwrap();
        let mut all = Vec::new();
        reader.read_to_end(&mut all).unwrap();
        assert!(all == bytes);
        reader.seek(SeekFrom::Start(bytes.len() as u64 + 10)).unwrap();
        assert_eq!(reader.read(&mut [0; 8]).unwrap(), 0);
        assert!(reader.seek(SeekFrom::Current(-(bytes.len() as i64) - 11)).is_err());
    })
    .await
    .unwrap();
}

async fn a_bundle_is_removed_as_one(rig: Rig) {
    let (attempt, grant) = rig.inbox().await;
    let (other, _) = rig.inbox().await;
    rig.put_ok(&grant, "x/y", "1").await;
    rig.landing.seal(attempt, &name("x/y")).await.unwrap();
    rig.landing.put_sealed(attempt, &ObjectName::manifest(), Bytes::from_static(b"{}")).await.unwrap();
    rig.landing.put_sealed(other, &name("kept"), Bytes::from_static(b"2")).await.unwrap();
    rig.landing.delete_sealed(attempt).await.unwrap();
    rig.landing.delete_sealed(attempt).await.unwrap();
    assert!(rig.landing.list_sealed(attempt).await.unwrap().is_empty());
    assert_eq!(rig.sealed_bytes(other, "kept").await, b"2");
}

async fn empty_objects_are_objects(rig: Rig) {
    let (attempt, grant) = rig.inbox().await;
    rig.put_ok(&grant, "empty", "").await;
    let sealed = rig.landing.seal(attempt, &name("empty")).await.unwrap();
    assert_eq!((sealed.size_bytes, sealed.sha256.to_string()), (0, sha256sum(b"")));
    assert!(rig.sealed_bytes(attempt, "empty").await.is_empty());
    let mut reader = rig.landing.reader(attempt, &name("empty")).await.unwrap();
    assert_eq!(tokio::task::spawn_blocking(move || reader.read(&mut [0; 4]).unwrap()).await.unwrap(), 0);
}

async fn a_big_object_passes_through(rig: Rig) {
    let (attempt, grant) = rig.inbox().await;
    let mut hash = Sha256::new();
    let ids: Vec<String> = (0..BIG_OBJECT_MIB / 8).map(|i| format!("{i:04}")).collect();
    for (i, id) in ids.iter().enumerate() {
        let block = noise(8 * MIB, i as u64 + 11);
        hash.update(&block);
        created(rig.put_block(&grant, "big.zip", id, block).await).await;
    }
    let list: Vec<(&str, &str)> = ids.iter().map(|id| ("Latest", id.as_str())).collect();
    created(rig.put_block_list(&grant, "big.zip", &list).await).await;
    let sealed = rig.landing.seal(attempt, &name("big.zip")).await.unwrap();
    assert_eq!(sealed.size_bytes, (BIG_OBJECT_MIB * MIB) as u64);
    assert_eq!(sealed.sha256.0, *hash.finalize());
    rig.landing.close_inbox(attempt).await.unwrap();
    let mut reader = rig.landing.reader(attempt, &name("big.zip")).await.unwrap();
    let read = tokio::task::spawn_blocking(move || {
        let mut hash = Sha256::new();
        let mut buffer = vec![0; MIB];
        loop {
            match reader.read(&mut buffer).unwrap() {
                0 => return hash.finalize(),
                count => hash.update(&buffer[..count]),
            }
        }
    });
    assert_eq!(read.await.unwrap()[..], sealed.sha256.0);
    rig.landing.delete_sealed(attempt).await.unwrap();
}

async fn the_probe_finds_it_working(rig: Rig) {
    rig.landing.check().await.unwrap();
    rig.landing.sweep(Duration::ZERO).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listings_are_bounded_in_both() {
    let limits = Limits { max_objects: 5, ..Limits::default() };
    for rig in [Rig::directory(limits).await, Rig::azure(limits).await] {
        let (attempt, grant) = rig.inbox().await;
        for i in 0..5 {
            rig.put_ok(&grant, &format!("{i}"), "x").await;
        }
        assert_eq!(rig.listed(attempt).await.len(), 5);
        let sixth = rig.put(&grant, "5", "x").await;
        if let Some(root) = &rig.root {
            assert_eq!(refused(sixth).await, (409, "InboxObjectLimitReached".into()));
            assert_eq!(refused(rig.put_block(&grant, "6", "1", "x").await).await, (409, "InboxObjectLimitReached".into()));
            // What a person puts there by hand is bounded too.
            std::fs::write(root.join("inbox").join(attempt.stem()).join("by-hand"), "x").unwrap();
            let again = Landing::Directory(rig::serve_directory(root, limits).await);
            assert!(matches!(again.list_inbox(attempt).await, Err(LandingError::TooManyObjects { limit: 5, .. })));
        } else {
            created(sixth).await;
            let error = rig.landing.list_inbox(attempt).await.unwrap_err();
            assert!(matches!(error, LandingError::TooManyObjects { limit: 5, .. }) && error.is_permanent(), "{error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_large_an_object_is_not_sealed() {
    let limits = Limits { max_object_bytes: 1000, ..Limits::default() };
    for rig in [Rig::directory(limits).await, Rig::azure(limits).await] {
        let (attempt, grant) = rig.inbox().await;
        rig.put_ok(&grant, "fits", noise(1000, 1)).await;
        rig.landing.seal(attempt, &name("fits")).await.unwrap();
        let answer = rig.put(&grant, "over", noise(1001, 1)).await;
        if rig.is_directory() {
            assert_eq!(refused(answer).await, (413, "RequestBodyTooLarge".into()));
        } else {
            created(answer).await;
            let error = rig.landing.seal(attempt, &name("over")).await.unwrap_err();
            assert!(matches!(error, LandingError::ObjectTooLarge { limit_bytes: 1000, .. }), "{error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_large_an_inbox_is_not_read() {
    // Our own endpoint does not let it become so: tests/endpoint.rs.
    let rig = Rig::azure(Limits { max_inbox_bytes: 1000, ..Limits::default() }).await;
    let (attempt, grant) = rig.inbox().await;
    rig.put_ok(&grant, "a", noise(600, 1)).await;
    rig.put_ok(&grant, "b", noise(400, 1)).await;
    assert_eq!(rig.listed(attempt).await.len(), 2);
    rig.put_ok(&grant, "c", noise(1, 1)).await;
    let error = rig.landing.list_inbox(attempt).await.unwrap_err();
    assert!(matches!(error, LandingError::InboxTooLarge { limit_bytes: 1000, .. }) && error.is_permanent(), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_that_refuses_or_is_away_is_told_apart() {
    use muster_landing::{AzureCredential, AzureLanding, AzureOptions};
    let base = rig::azurite().await;
    let _ = rig::client();
    let open = |endpoint: String, key: &str| {
        let options = AzureOptions {
            endpoint: Some(endpoint.parse().unwrap()),
            account: Some("devstoreaccount1".into()),
            credential: AzureCredential::SharedKey(key.to_owned().into()),
            container_prefix: "x-".into(),
            limits: Limits::default(),
        };
        Landing::Azure(AzureLanding::open(options).unwrap())
    };
    let error = open(format!("{base}/devstoreaccount1"), "d3Jvbmc=").check().await.unwrap_err();
    assert!(
        matches!(&error, LandingError::Check { step: "open an inbox", source } if matches!(**source, LandingError::Denied { .. })),
        "{error:?}"
    );
    assert!(error.is_permanent());
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).unwrap();
    let away = open(format!("http://{nobody}/devstoreaccount1"), "d3Jvbmc=");
    let error = away.list_inbox(attempt()).await.unwrap_err();
    assert!(!error.is_permanent(), "{error}");
}
