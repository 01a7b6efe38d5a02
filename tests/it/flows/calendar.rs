//! Time and escalation, with devices that run the real agent code.

use std::time::Duration;

use muster_tests::api::collection;
use muster_tests::wait;
use muster_wire::http::{CollectionRequest, CollectionState, CollectionView, EscalationStep, NewCollection, Target};
use muster_wire::method::request::{ContentType, LogFilter, LogItem};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::fleet::{Mix, SKEW, fleet};
use crate::stack::{Controller, Landing, cli_ok};

fn logs(since: &str, until: Option<&str>) -> CollectionRequest {
    let filter = LogFilter { since: Some(since.to_owned()), until: until.map(str::to_owned), ..LogFilter::default() };
    CollectionRequest::Logs { items: vec![LogItem { id: "edgeAgent".to_owned(), filter }], content_type: ContentType::Text }
}

/// A device whose clock is three hours wrong, ahead or behind, gives the lines of the real time that was asked for.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_three_hours_wrong_still_gives_the_right_window() {
    let directory = tempfile::tempdir().expect("a private directory");
    let controller = Controller::start(directory.path(), None, None, Landing::Directory, &[]).await;
    let fleet = fleet(&controller.embedded_mqtt(), 4, Mix::Skewed).await;
    controller.api.devices_online(4, Duration::from_secs(30)).await;
    let now = OffsetDateTime::now_utc();
    let created = controller.api.create(&collection(logs("20m", Some("10m")), Target::All {}, 20, 1)).await;
    let view = controller.api.finished(created.id, Duration::from_secs(60)).await;
    assert_eq!(view.counters.verified, 4, "{view:?}");
    let asked = (now - Duration::from_secs(20 * 60), now - Duration::from_secs(10 * 60));
    let slack = Duration::from_secs(20);
    for task in controller.api.tasks(created.id).await {
        let skew_ms: i64 = {
            let device: serde_json::Value = controller.api.get(&format!("/api/v1/devices/{}", task.device)).await.expect("a device");
            device["clock_skew_ms"].as_i64().expect("it said what its clock shows")
        };
        assert!((skew_ms.abs() - i64::try_from(SKEW.as_millis()).expect("hours")).abs() < 10_000, "{skew_ms}");
        let text = cli_ok(&controller.api, &["bundles", "cat", &task.id.to_string(), "edgeAgent.log"]);
        // `<6> 2026-11-25 16:20:15.123 +00:00 [INF] - …`, by the device's clock.
        let lines: Vec<OffsetDateTime> = text.lines().filter_map(|line| line.split_once("> ")).map(|(_, rest)| stamp(rest)).collect();
        assert!((38..=42).contains(&lines.len()), "ten minutes, a line every 15 seconds: {} of {}\n{text}", lines.len(), task.device);
        for line in lines {
            let real = line - time::Duration::milliseconds(skew_ms);
            assert!((asked.0 - slack..=asked.1 + slack).contains(&real), "{real} of {} is outside {asked:?}", task.device);
        }
    }
    fleet.stop().await;
}

fn stamp(line: &str) -> OffsetDateTime {
    let text = format!("{}T{}Z", &line[..10], &line[11..23]);
    OffsetDateTime::parse(&text, &Rfc3339).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// First a few lines; only devices whose answer matches are asked for more, and of those only the ones that match again for a bundle.
#[tokio::test(flavor = "multi_thread")]
async fn only_devices_whose_answer_matches_get_the_next_step() {
    let directory = tempfile::tempdir().expect("a private directory");
    let controller = Controller::start(directory.path(), None, None, Landing::Directory, &[]).await;
    let fleet = fleet(&controller.embedded_mqtt(), 8, Mix::Healthy).await;
    controller.api.devices_online(8, Duration::from_secs(30)).await;
    // What a device says is its own: which of them have the last word in their last lines follows from the seed of the fleet.
    let deeper = CollectionRequest::UploadLogs {
        items: vec![LogItem { id: "edgeHub".to_owned(), filter: LogFilter { tail: Some(20), ..LogFilter::default() } }],
        encoding: muster_wire::method::request::Encoding::Gzip,
        content_type: ContentType::Json,
    };
    let word = "queue drained";
    let step = |request, when_matches: &str| EscalationStep { request, when_matches: Some(when_matches.to_owned()) };
    let new = NewCollection {
        steps: vec![step(deeper, word), step(CollectionRequest::Bundle { since: Some("1h".to_owned()), edge_runtime_only: false }, word)],
        ..collection(logs("3m", None), Target::All {}, 20, 2)
    };
    let created = controller.api.create(&new).await;
    let over = |view: &Result<CollectionView, String>| {
        view.as_ref().is_ok_and(|view| view.later_steps.iter().all(|step| step.state != CollectionState::Running))
    };
    let look = || controller.api.collection(created.id);
    let view = wait::until("all steps to end", Duration::from_secs(90), look, over).await.expect("accepted above");
    let mut before: Vec<_> = controller.api.tasks(created.id).await;
    assert_eq!(view.counters.verified, 8, "{view:?}");
    for step in &view.later_steps {
        let mut wanted = Vec::new();
        for task in &before {
            let files = cli_ok(&controller.api, &["bundles", "files", &task.id.to_string(), "-o", "name"]);
            let object = files.lines().find(|name| name.contains("edge")).expect("the log of a module").to_owned();
            if cli_ok(&controller.api, &["bundles", "cat", &task.id.to_string(), &object]).contains(word) {
                wanted.push(task.device.clone());
            }
        }
        let tasks = controller.api.tasks(step.id).await;
        let mut got: Vec<_> = tasks.iter().map(|task| task.device.clone()).collect();
        wanted.sort();
        got.sort();
        assert_eq!(got, wanted, "step {}", step.step);
        assert_eq!(step.counters.verified, wanted.len() as u64, "{step:?}");
        before = tasks;
    }
    let asked: Vec<u64> = view.later_steps.iter().map(|step| step.counters.targeted).collect();
    assert!(asked[0] > 0 && asked[0] < 8 && asked[1] <= asked[0], "the word chooses some and not all: {asked:?}");
    let shown = cli_ok(&controller.api, &["collections", "show", &created.id.to_string(), "-o", "table"]);
    assert!(shown.contains("step 2  upload_logs") && shown.contains("step 3  bundle"), "{shown}");
    fleet.stop().await;
}
