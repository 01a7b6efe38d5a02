//! Postgres, Mosquitto and Azurite: the production shape.

use std::time::Duration;

use muster_tests::api::{bundles_from_all, collection};
use muster_tests::azurite::Azurite;
use muster_tests::broker::{Mosquitto, Tuning};
use muster_tests::postgres::Database;
use muster_wire::http::{CollectionRequest, Target};

use crate::fleet::{Mix, fleet};
use crate::stack::{Controller, Landing, cli_ok};

/// Bundles of a fleet through Azure's protocol, every one read again.
#[tokio::test(flavor = "multi_thread")]
async fn heavy_bundles_land_in_azurite() {
    let directory = tempfile::tempdir().expect("a private directory");
    let broker = Mosquitto::start(directory.path(), Tuning::Ours).await;
    let azurite = Azurite::start(directory.path()).await;
    let database = Database::create().await;
    let controller = Controller::start(directory.path(), Some(&broker.url()), Some(&database.url), Landing::Azurite(&azurite), &[]).await;
    let fleet = fleet(&broker.url(), 60, Mix::Healthy).await;
    controller.api.devices_online(60, Duration::from_secs(30)).await;
    let created = controller.api.create(&bundles_from_all(60, 2)).await;
    let view = controller.api.finished(created.id, Duration::from_secs(120)).await;
    assert_eq!(view.counters.verified, 60, "{view:?}");
    cli_ok(&controller.api, &["bundles", "verify", "--collection", &created.id.to_string()]);
    fleet.stop().await;
    drop(controller);
    database.drop_now().await;
}

/// An untuned Mosquitto queues 1,000 messages for a client and drops the rest; we lose nothing there. (`make bench` does 50,000: row P11.)
#[tokio::test(flavor = "multi_thread")]
async fn heavy_a_stock_broker_loses_nothing() {
    let directory = tempfile::tempdir().expect("a private directory");
    let broker = Mosquitto::start(directory.path(), Tuning::Stock).await;
    let database = Database::create().await;
    let controller = Controller::start(
        directory.path(),
        Some(&broker.url()),
        Some(&database.url),
        Landing::Directory,
        &[("dispatch.in_flight", "20000"), ("dispatch.look_first", "60s")],
    )
    .await;
    let fleet = fleet(&broker.url(), 500, Mix::Healthy).await;
    controller.api.devices_online(500, Duration::from_secs(60)).await;
    // 20 collections over 500 devices are 10,000 tasks under way at once, each answered once: nothing is asked twice within the minute.
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.push(controller.api.create(&collection(CollectionRequest::Ping {}, Target::All {}, 50, 1)).await.id);
    }
    for id in ids {
        let view = controller.api.finished(id, Duration::from_secs(120)).await;
        assert_eq!(view.counters.verified, 500, "{view:?}");
    }
    fleet.stop().await;
    drop(controller);
    database.drop_now().await;
}
