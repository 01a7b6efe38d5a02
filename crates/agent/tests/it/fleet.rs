//! Fleets: every fault does what it says, and nothing else.

use std::time::Duration;

use muster_agent::{Fault, FaultFigures, FaultRule, Fleet, FleetOptions, Who};
use muster_wire::method::answer::TaskStatus;

use crate::broker::Mosquitto;
use crate::caller::{Ask, Caller, bundle_request};
use crate::contract::sha256;
use crate::storage::{Storage, Trouble};

fn options(broker: &Mosquitto, devices: usize) -> FleetOptions {
    FleetOptions { mqtt_url: broker.url(), devices, will_delay: Duration::ZERO, ..FleetOptions::default() }
}

fn with(fault: Fault, broker: &Mosquitto) -> FleetOptions {
    FleetOptions {
        faults: vec![FaultRule { fault, who: Who::Numbers(vec![1, 2]) }],
        figures: FaultFigures {
            slow_delay: Duration::from_millis(500),
            away: Duration::from_millis(800),
            clock_skew: Duration::from_secs(7 * 3600),
        },
        ..options(broker, 3)
    }
}

const FAULTY: &str = "sim-0001";

async fn bundle<'a>(caller: &Caller, storage: &Storage, device: &'a str) -> Ask<'a> {
    let ask = Ask::new(device, "UploadSupportBundle", bundle_request(&storage.grant(device)));
    caller.send(&ask).await;
    ask
}

fn is_good_bundle(bytes: &[u8]) -> bool {
    zip::ZipArchive::new(std::io::Cursor::new(bytes))
        .is_ok_and(|mut zip| zip.by_name("check.json").is_ok() && zip.by_name("logs/edgeAgent_log.txt").is_ok())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_answers_uploads_distinct_bundles_and_says_goodbye() {
    let broker = Mosquitto::start("").await;
    let storage = Storage::start().await;
    let caller = Caller::connect(broker.port).await;
    let fleet = Fleet::start(FleetOptions { bundle_kb: 200, ..options(&broker, 50) }).await.expect("a fleet");
    assert!(fleet.connected(50, Duration::from_secs(20)).await);
    assert!(fleet.devices().iter().all(|(_, fault)| fault.is_none()));
    let ids: Vec<String> = fleet.devices().iter().map(|(id, _)| id.to_string()).collect();
    let mut attempts = Vec::new();
    for id in &ids {
        attempts.push(bundle(&caller, &storage, id).await.attempt);
    }
    let mut digests = std::collections::HashSet::new();
    for (id, attempt) in ids.iter().zip(attempts) {
        let ended = caller.ended(attempt).await;
        assert_eq!(ended.status, TaskStatus::Completed, "{id}: {}", ended.message);
        let objects = storage.objects(id);
        let bytes = objects.values().next().expect("a bundle");
        assert!(is_good_bundle(bytes), "{id}");
        assert!((180 * 1024..230 * 1024).contains(&bytes.len()), "{} bytes for 200 KB", bytes.len());
        assert_eq!(ended.objects[0].sha256, Some(sha256(bytes)));
        digests.insert(sha256(bytes));
    }
    assert_eq!(digests.len(), 50, "no two devices have the same bundle");
    let birth = caller.presence("sim-0007", true).await;
    assert!(birth.reported["site"].is_string() && birth.reported["firmware"].is_string());
    let logs = r#"{"schemaVersion":"1.0","contentType":"text","items":[{"id":"all","filter":{"tail":3}}]}"#;
    let answer = caller.ask(&Ask::new("sim-0007", "GetModuleLogs", logs)).await;
    assert_eq!(answer.json().as_array().map(Vec::len), Some(3), "three modules");
    let stats = fleet.stop().await;
    assert_eq!((stats.uploads_completed, stats.max_bundles_at_once, stats.max_bundle_uploads_at_once), (50, 1, 1));
    for id in &ids {
        caller.presence(id, false).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_seen_in_the_answers() {
    for fault in [Fault::Deaf, Fault::WrongCorrelation, Fault::Refuser, Fault::Crasher, Fault::Slow, Fault::Repeater, Fault::WrongStatus] {
        let broker = Mosquitto::start("").await;
        let storage = Storage::start().await;
        let caller = Caller::connect(broker.port).await;
        let fleet = Fleet::start(with(fault, &broker)).await.expect("a fleet");
        assert!(fleet.connected(3, Duration::from_secs(20)).await);
        let ask = bundle(&caller, &storage, FAULTY).await;
        // The device beside it notices nothing.
        let well = bundle(&caller, &storage, "sim-0003").await;
        assert_eq!(caller.ended(well.attempt).await.status, TaskStatus::Completed, "{fault}");
        match fault {
            Fault::Deaf | Fault::WrongCorrelation => {
                tokio::time::sleep(Duration::from_millis(500)).await;
                assert!(caller.answers(ask.attempt).is_empty(), "{fault}");
                assert_eq!(caller.all_answers(FAULTY).len(), usize::from(fault == Fault::WrongCorrelation), "{fault}");
                assert!(storage.objects(FAULTY).is_empty() && caller.reports(FAULTY).is_empty(), "{fault}");
            }
            Fault::Refuser => assert_eq!(caller.answer(ask.attempt, 0).await.status, 400),
            Fault::Crasher => assert_eq!(caller.answer(ask.attempt, 0).await.status, 500),
            Fault::Slow => {
                let began = std::time::Instant::now();
                assert_eq!(caller.ended(ask.attempt).await.status, TaskStatus::Completed);
                assert!(began.elapsed() > Duration::from_millis(300), "late twice: with the answer and with the upload");
            }
            Fault::Repeater => {
                assert_eq!(caller.answer(ask.attempt, 2).await.payload, caller.answer(ask.attempt, 0).await.payload);
                caller.ended(ask.attempt).await;
                assert_eq!(storage.objects(FAULTY).len(), 1);
                assert!(storage.calls().iter().filter(|call| call.path.contains(FAULTY)).count() == 1, "said three times, done once");
            }
            _ => {
                let answer = caller.answer(ask.attempt, 0).await.json();
                let id = answer["correlationId"].as_str().expect("an id").to_owned();
                while caller.task_status(FAULTY, &id).await != "Completed" {}
                assert!(is_good_bundle(storage.objects(FAULTY).values().next().expect("a bundle")));
                let reports = caller.reports(FAULTY);
                assert!(!reports.is_empty() && reports.iter().all(|r| r.attempt != ask.attempt && r.correlation_id != id), "{reports:?}");
            }
        }
        fleet.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_seen_in_the_storage() {
    for fault in [
        Fault::Liar,
        Fault::TruncatedZip,
        Fault::ErrorDocument,
        Fault::EmptyZip,
        Fault::ClockSkew,
        Fault::HalfUpload,
        Fault::Forgetful,
        Fault::DisconnectMidUpload,
    ] {
        let broker = Mosquitto::start("").await;
        let storage = Storage::start().await;
        let caller = Caller::connect(broker.port).await;
        let fleet = Fleet::start(with(fault, &broker)).await.expect("a fleet");
        assert!(fleet.connected(3, Duration::from_secs(20)).await);
        let ask = bundle(&caller, &storage, FAULTY).await;
        let id = caller.answer(ask.attempt, 0).await.json()["correlationId"].as_str().expect("an id").to_owned();
        let object = || storage.objects(FAULTY).into_iter().next();
        match fault {
            Fault::HalfUpload => {
                tokio::time::sleep(Duration::from_millis(500)).await;
                assert!(storage.staged(FAULTY) > 0 && object().is_none());
                let question = Ask::new(FAULTY, "GetTaskStatus", format!(r#"{{"schemaVersion":"1.0","correlationId":"{id}"}}"#));
                caller.send(&question).await;
                tokio::time::sleep(Duration::from_millis(300)).await;
                assert!(caller.answers(question.attempt).is_empty(), "silent");
                assert!(caller.reports(FAULTY).iter().all(|report| report.status == TaskStatus::Running));
            }
            Fault::Forgetful => {
                while caller.task_status(FAULTY, &id).await != "Unknown" {}
                assert!(is_good_bundle(&object().expect("uploaded all the same").1));
                assert!(caller.reports(FAULTY).iter().all(|report| report.status == TaskStatus::Running));
            }
            _ => {
                assert_eq!(caller.ended(ask.attempt).await.status, TaskStatus::Completed, "{fault}");
                match fault {
                    Fault::Liar => assert!(object().is_none() && storage.staged(FAULTY) == 0),
                    Fault::TruncatedZip => {
                        let (_, bytes) = object().expect("half a zip");
                        assert!(bytes.starts_with(b"PK") && !is_good_bundle(&bytes));
                    }
                    Fault::ErrorDocument => {
                        let (name, bytes) = object().expect("a document");
                        assert!(name.ends_with(".zip") && serde_json::from_slice::<serde_json::Value>(&bytes).is_ok());
                    }
                    Fault::EmptyZip => assert!(object().expect("nothing, stored").1.is_empty()),
                    Fault::ClockSkew => {
                        let (name, bytes) = object().expect("a bundle");
                        assert!(is_good_bundle(&bytes));
                        let now = time::OffsetDateTime::now_utc();
                        let hour = format!("{:04}-{:02}-{:02}--{:02}", now.year(), u8::from(now.month()), now.day(), now.hour());
                        assert!(!name.contains(&hour), "{name}");
                        let clock = caller.presence(FAULTY, true).await.clock.expect("a clock");
                        assert!((clock - now).abs() > time::Duration::hours(6));
                    }
                    _ => {
                        assert!(is_good_bundle(&object().expect("a bundle").1));
                        assert!(
                            storage.calls().iter().any(|call| call.path.contains(FAULTY) && call.query.contains("comp=block&")),
                            "it had begun before"
                        );
                        assert!(caller.births(FAULTY) >= 2, "and was away in between");
                    }
                }
            }
        }
        fleet.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offline_devices_come_back_and_find_their_requests() {
    let broker = Mosquitto::start("").await;
    let storage = Storage::start().await;
    let caller = Caller::connect(broker.port).await;
    let fleet = Fleet::start(with(Fault::Offline, &broker)).await.expect("a fleet");
    assert!(fleet.connected(2, Duration::from_secs(20)).await);
    assert_eq!(fleet.stats().connected, 2, "the first one is away at the start, the second is not");
    // The second leaves when it is asked; the broker keeps the request for its return.
    let ask = bundle(&caller, &storage, "sim-0002").await;
    caller.presence("sim-0002", false).await;
    assert_eq!(caller.ended(ask.attempt).await.status, TaskStatus::Completed);
    caller.presence(FAULTY, true).await;
    let ask = bundle(&caller, &storage, FAULTY).await;
    assert_eq!(caller.ended(ask.attempt).await.status, TaskStatus::Completed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn asked_for_two_bundles_at_once_the_device_says_so() {
    let broker = Mosquitto::start("").await;
    let storage = Storage::start().await;
    storage.delay(Duration::from_millis(300));
    let caller = Caller::connect(broker.port).await;
    let fleet = Fleet::start(options(&broker, 1)).await.expect("a fleet");
    assert!(fleet.connected(1, Duration::from_secs(20)).await);
    let first = bundle(&caller, &storage, FAULTY).await;
    let second = bundle(&caller, &storage, FAULTY).await;
    caller.ended(first.attempt).await;
    caller.ended(second.attempt).await;
    assert_eq!(storage.most_at_once(), 1, "they took turns");
    let stats = fleet.stop().await;
    assert_eq!((stats.max_bundles_at_once, stats.max_bundle_uploads_at_once), (2, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn devices_that_lost_their_broker_all_come_back() {
    let mut broker = Mosquitto::start("").await;
    let fleet = Fleet::start(options(&broker, 200)).await.expect("a fleet");
    assert!(fleet.connected(200, Duration::from_secs(20)).await);
    broker.down();
    broker.up().await;
    let caller = Caller::connect(broker.port).await;
    assert!(fleet.connected(200, Duration::from_secs(30)).await, "{:?}", fleet.stats());
    assert_eq!(caller.ask(&Ask::new("sim-0200", "ping", "")).await.status, 200);
    let storage = Storage::start().await;
    storage.next([Trouble::Status(500, "InternalError")]);
    let ask = bundle(&caller, &storage, "sim-0123").await;
    assert_eq!(caller.ended(ask.attempt).await.status, TaskStatus::Completed);
}
