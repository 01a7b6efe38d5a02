//! `kill -9` at random moments: of the controller, the broker, PostgreSQL. Nothing lost, nothing landed twice, no device asked for
//! two bundles at the same time, everything final.

use std::time::Duration;

use muster_agent::fleet::Fleet;
use muster_tests::broker::{Mosquitto, Tuning};
use muster_tests::postgres::{Database, Server};
use muster_wire::TaskState;
use rand::Rng;
use sqlx::Row;

use crate::fleet::{Mix, fleet};
use crate::flows::embedded::walk;
use crate::stack::{Controller, Landing};

/// Devices of these collections.
const DEVICES: usize = 1000;

/// Looks behind the scenes after a collection with crashes.
async fn nothing_lost_nothing_twice(controller: &Controller, database: &Database, fleet: &Fleet, id: muster_wire::CollectionId) {
    let tasks = controller.api.tasks(id).await;
    assert_eq!(tasks.len(), DEVICES);
    let open: Vec<_> = tasks.iter().filter(|task| !task.state.is_final()).collect();
    assert!(open.is_empty(), "not final: {open:?}");
    let not_verified: Vec<_> =
        tasks.iter().filter(|task| task.state != TaskState::Verified).map(|t| (t.device.as_str(), t.state, t.reason, t.attempt)).collect();
    let some: Vec<_> = not_verified.iter().take(5).collect();
    assert!(
        not_verified.is_empty(),
        "healthy devices must all be verified, {} are not: {some:?}…\n{:?}\n{}",
        not_verified.len(),
        fleet.stats(),
        controller.program.tail()
    );
    let mut connection = database.connect().await;
    let rows = sqlx::query(
        "SELECT count(*)::bigint AS n, count(DISTINCT task_id)::bigint AS tasks, count(DISTINCT device_id)::bigint AS devices FROM bundle",
    )
    .fetch_one(&mut connection)
    .await
    .expect("the table of bundles");
    let numbers: (i64, i64, i64) = (rows.get("n"), rows.get("tasks"), rows.get("devices"));
    assert_eq!(numbers, (DEVICES as i64, DEVICES as i64, DEVICES as i64), "one bundle per task and device");
    let manifests = walk(&controller.directory.join("data")).into_iter().filter(|path| path.ends_with("manifest.json")).count();
    assert_eq!(manifests, DEVICES, "nothing landed twice: one sealed manifest per task");
}

/// Ten kills of the controller while a collection of 1,000 bundles runs.
#[tokio::test(flavor = "multi_thread")]
async fn heavy_controller_killed_ten_times() {
    let directory = tempfile::tempdir().expect("a private directory");
    let broker = Mosquitto::start(directory.path(), Tuning::Ours).await;
    let database = Database::create().await;
    let mut controller =
        Controller::start(directory.path(), Some(&broker.url()), Some(&database.url), Landing::Directory, &[("dispatch.in_flight", "150")])
            .await;
    let fleet = fleet(&broker.url(), DEVICES, Mix::Unhurried).await;
    controller.api.devices_online(DEVICES, Duration::from_secs(60)).await;
    let created = controller.api.create(&muster_tests::api::bundles_from_all(30, 5)).await;
    let mut moments = Vec::new();
    for _ in 0..10 {
        let moment = Duration::from_millis(rand::rng().random_range(50..1500));
        moments.push(moment);
        tokio::time::sleep(moment).await;
        controller.crash_and_restart();
        controller.ready().await;
    }
    let view = controller.api.finished(created.id, Duration::from_secs(240)).await;
    eprintln!("killed after {moments:?}; {:?}", view.counters);
    nothing_lost_nothing_twice(&controller, &database, &fleet, created.id).await;
    assert_eq!(fleet.stats().max_bundles_at_once, 1, "no device was asked for two bundles at the same time");
    fleet.stop().await;
    drop(controller);
    database.drop_now().await;
}

/// Kills of the broker and of PostgreSQL while a collection runs.
#[tokio::test(flavor = "multi_thread")]
async fn heavy_broker_and_postgres_killed() {
    let directory = tempfile::tempdir().expect("a private directory");
    let mut broker = Mosquitto::start(directory.path(), Tuning::Ours).await;
    let server_directory = tempfile::tempdir().expect("a private directory");
    let mut server = Server::start(server_directory.path()).await;
    let database = Database::create_in(&server.admin_url()).await;
    let controller =
        Controller::start(directory.path(), Some(&broker.url()), Some(&database.url), Landing::Directory, &[("dispatch.in_flight", "150")])
            .await;
    let fleet = fleet(&broker.url(), DEVICES, Mix::Unhurried).await;
    controller.api.devices_online(DEVICES, Duration::from_secs(60)).await;
    let created = controller.api.create(&muster_tests::api::bundles_from_all(30, 5)).await;
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(rand::rng().random_range(300..2000))).await;
        broker.crash_and_restart(Duration::from_millis(500)).await;
        tokio::time::sleep(Duration::from_millis(rand::rng().random_range(300..2000))).await;
        server.crash_and_restart(Duration::from_millis(500)).await;
    }
    controller.api.finished(created.id, Duration::from_secs(300)).await;
    nothing_lost_nothing_twice(&controller, &database, &fleet, created.id).await;
    assert_eq!(fleet.stats().max_bundles_at_once, 1, "no device was asked for two bundles at the same time");
    fleet.stop().await;
}
