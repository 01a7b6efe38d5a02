//! Everything embedded: one process, SQLite, the broker inside, a directory.

use std::process::Command;
use std::time::Duration;

use muster_agent::fault::Fault;
use muster_tests::api::{bundles_from_all, collection, devices};
use muster_wire::http::{BundleManifest, CollectionRequest, Target, TaskDetail};
use muster_wire::{Reason, TaskState};

use crate::fleet::{Mix, fleet};
use crate::stack::{Controller, Landing, cli, cli_ok};

/// Every fault ends with the reason it should, and costs the others nothing.
#[tokio::test(flavor = "multi_thread")]
async fn heavy_every_fault_ends_with_its_reason() {
    let directory = tempfile::tempdir().expect("a private directory");
    let controller = Controller::start(directory.path(), None, None, Landing::Directory, &[]).await;
    let fleet = fleet(&controller.embedded_mqtt(), 40, Mix::OneOfEach).await;
    controller.api.devices_online(40, Duration::from_secs(30)).await;
    let created = controller.api.create(&bundles_from_all(8, 2)).await;
    assert_eq!(created.targeted, 40);
    controller.api.finished(created.id, Duration::from_secs(120)).await;
    let tasks = controller.api.tasks(created.id).await;
    for (device, fault) in fleet.devices() {
        let task = tasks.iter().find(|task| task.device == device).expect("every device has a task");
        match fault {
            None => assert_eq!((task.state, task.reason), (TaskState::Verified, Some(Reason::Collected)), "{device} {task:?}"),
            // It falls silent for good, so the last word is about silence, and the first attempt's about the half that came.
            Some(Fault::HalfUpload) => {
                let detail: TaskDetail = controller.api.get(&format!("/api/v1/tasks/{}", task.id)).await.expect("a task");
                assert_eq!(
                    (detail.attempts[0].reason, task.reason),
                    (Some(Reason::UploadUnfinished), Some(Reason::NoAnswer)),
                    "{detail:?}"
                );
            }
            Some(fault) => assert!(
                fault.expected().contains(&task.reason.expect("a final task has a reason")),
                "{device} is {fault}: expected one of {:?}, got {task:?}",
                fault.expected()
            ),
        }
    }
    assert_eq!(fleet.stats().max_bundles_at_once, 1, "no device was at work on two bundles at the same time");
    fleet.stop().await;
}

/// The bundle a person downloads is the bundle the device sent: checked with programs that are not ours.
#[tokio::test(flavor = "multi_thread")]
async fn a_downloaded_bundle_passes_unzip_and_sha256sum() {
    let directory = tempfile::tempdir().expect("a private directory");
    let controller = Controller::start(directory.path(), None, None, Landing::Directory, &[]).await;
    let fleet = fleet(&controller.embedded_mqtt(), 3, Mix::Healthy).await;
    controller.api.devices_online(3, Duration::from_secs(30)).await;
    let out = cli_ok(&controller.api, &["collect", "bundle", "--all", "--case", "48213", "--wait", "--exit-status", "-o", "name"]);
    let id = out.lines().last().expect("the id is printed").trim().to_owned();
    let target = directory.path().join("out");
    cli_ok(&controller.api, &["collections", "download", &id, "--dir", target.to_str().expect("UTF-8")]);
    let mut seen = 0;
    for manifest in walk(&target).into_iter().filter(|path| path.ends_with("manifest.json")) {
        let text = std::fs::read_to_string(&manifest).expect("a manifest");
        let parsed: BundleManifest = serde_json::from_str(&text).expect("a manifest");
        for object in &parsed.objects {
            let path = manifest.parent().expect("a directory").join(&object.name);
            let sum = Command::new("sha256sum").arg(&path).output().expect("sha256sum runs");
            assert_eq!(String::from_utf8_lossy(&sum.stdout).split_whitespace().next(), Some(object.sha256.as_str()));
            let unzip = Command::new("unzip").arg("-t").arg(&path).output().expect("unzip runs");
            assert!(unzip.status.success(), "{}", String::from_utf8_lossy(&unzip.stdout));
            seen += 1;
        }
    }
    assert_eq!(seen, 3);
    let again = cli(&controller.api, &["bundles", "verify", "--collection", &id]);
    assert_eq!(again.status.code(), Some(0), "{}", String::from_utf8_lossy(&again.stderr));
    fleet.stop().await;
}

/// Whoever waits for a collection hears of its end when its last task ends, not when the clock comes round.
#[tokio::test(flavor = "multi_thread")]
async fn a_collection_is_closed_with_its_last_task() {
    let directory = tempfile::tempdir().expect("a private directory");
    let controller = Controller::start(directory.path(), None, None, Landing::Directory, &[("dispatch.scan_every", "30s")]).await;
    let fleet = fleet(&controller.embedded_mqtt(), 3, Mix::Healthy).await;
    controller.api.devices_online(3, Duration::from_secs(30)).await;
    for request in [CollectionRequest::Ping {}, CollectionRequest::Bundle { since: None, edge_runtime_only: false }] {
        let created = controller.api.create(&collection(request, Target::All {}, 60, 1)).await;
        let view = controller.api.finished(created.id, Duration::from_secs(20)).await;
        assert_eq!(view.counters.verified, 3, "{view:?}");
    }
    fleet.stop().await;
}

/// Cancel, and what it leaves; rerun only what failed.
#[tokio::test(flavor = "multi_thread")]
async fn cancelled_tasks_are_final_and_failed_ones_can_be_run_again() {
    let directory = tempfile::tempdir().expect("a private directory");
    let controller = Controller::start(directory.path(), None, None, Landing::Directory, &[]).await;
    let mut fleet = fleet(&controller.embedded_mqtt(), 6, Mix::AllDeaf).await;
    controller.api.devices_online(6, Duration::from_secs(30)).await;
    // Short attempts: a device that was asked keeps its slot until its attempt would have ended, cancelled or not.
    let created = controller.api.create(&bundles_from_all(3, 2)).await;
    let (status, body) = controller.api.post_text(&format!("/api/v1/collections/{}/cancel", created.id), "{}").await;
    assert_eq!(status, 200, "{body}");
    let view = controller.api.finished(created.id, Duration::from_secs(20)).await;
    assert_eq!(view.counters.cancelled, 6);

    let created = controller.api.create(&bundles_from_all(3, 1)).await;
    let view = controller.api.finished(created.id, Duration::from_secs(30)).await;
    assert_eq!(view.counters.failed, 6, "{view:?}");
    assert_eq!(view.reasons.get(&Reason::NoAnswer), Some(&6));
    fleet.stop().await;
    fleet = crate::fleet::fleet(&controller.embedded_mqtt(), 6, Mix::Healthy).await;
    controller.api.devices_online(6, Duration::from_secs(30)).await;
    cli_ok(&controller.api, &["collections", "rerun", &created.id.to_string(), "--failed"]);
    let view = controller.api.finished(created.id, Duration::from_secs(60)).await;
    assert_eq!(view.counters.verified, 6, "{view:?}");
    let detail: TaskDetail = controller.api.get(&format!("/api/v1/tasks/{}", created.id.task(0))).await.expect("a task");
    assert_eq!(detail.attempts.len(), 1, "the first attempt stays as history: {detail:?}");
    fleet.stop().await;
}

/// A device that is offline is waited for, and sent to when its birth message comes.
#[tokio::test(flavor = "multi_thread")]
async fn an_offline_device_waits_and_is_asked_when_it_returns() {
    let directory = tempfile::tempdir().expect("a private directory");
    let controller = Controller::start(directory.path(), None, None, Landing::Directory, &[]).await;
    let first = fleet(&controller.embedded_mqtt(), 2, Mix::Healthy).await;
    controller.api.devices_online(2, Duration::from_secs(30)).await;
    first.stop().await;
    let offline = || controller.api.present("online");
    muster_tests::wait::until("both devices offline", Duration::from_secs(30), offline, |online| *online == 0).await;
    let created = controller.api.create(&collection(CollectionRequest::Ping {}, Target::All {}, 10, 1)).await;
    let waiting = || async { controller.api.collection(created.id).await.map(|view| view.counters.waiting) };
    let _ = muster_tests::wait::until("both tasks waiting", Duration::from_secs(10), waiting, |waiting| *waiting == Ok(2)).await;
    let second = fleet(&controller.embedded_mqtt(), 2, Mix::Healthy).await;
    let view = controller.api.finished(created.id, Duration::from_secs(30)).await;
    assert_eq!(view.counters.verified, 2, "{view:?}");
    let unknown = controller.api.try_create(&collection(CollectionRequest::Ping {}, devices(&["nobody"]), 10, 1)).await;
    assert_eq!(unknown.expect_err("refused").code, "unknown_devices");
    second.stop().await;
}

/// Every file below a directory.
pub(crate) fn walk(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        match entry.path() {
            path if path.is_dir() => files.extend(walk(&path)),
            path => files.push(path),
        }
    }
    files
}
