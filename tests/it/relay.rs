//! Lanes between two brokers: everything of a message crosses, and nothing is lost while a broker is away.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use muster_tests::broker::{Mosquitto, Tuning};
use muster_tests::relay::{self, Lane};
use muster_tests::wait;
use muster_wire::topic::Prefix;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{LastWill, Packet, PublishProperties};

use crate::mosquitto::{Client, options};

/// Messages while a broker is restarted.
const MANY: usize = 5000;

struct Two {
    core: Mosquitto,
    edge: Mosquitto,
    _directories: [tempfile::TempDir; 2],
}

async fn two_brokers(core: Tuning) -> Result<Two> {
    let directories = [tempfile::tempdir()?, tempfile::tempdir()?];
    let (core, edge) =
        (Mosquitto::start(directories[0].path(), core).await, Mosquitto::start(directories[1].path(), Tuning::Shipped).await);
    Ok(Two { core, edge, _directories: directories })
}

fn everything() -> PublishProperties {
    PublishProperties {
        payload_format_indicator: Some(1),
        message_expiry_interval: Some(600),
        response_topic: Some("muster/v1/d/a/rsp/ctl".to_owned()),
        correlation_data: Some(Bytes::from_static(b"0123456789abcdef")),
        user_properties: vec![("__protVer".to_owned(), "1.0".to_owned()), ("__ts".to_owned(), "now".to_owned())],
        content_type: Some("application/json".to_owned()),
        ..PublishProperties::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_and_answers_cross_with_all_their_properties_and_only_those_of_the_devices() -> Result<()> {
    let two = two_brokers(Tuning::Shipped).await?;
    let prefix = Prefix::default();
    // More devices than fit one SUBSCRIBE.
    let ids: Vec<_> = (0..250).map(|number| format!("d{number}").parse().expect("an id")).collect();
    let _up = Lane::open("up", two.edge.port, two.core.port, relay::up(&prefix)).await;
    let down = Lane::open("down", two.core.port, two.edge.port, relay::down(&prefix, &ids)).await;
    let mut controller = Client::connect(options("ctl", "any", two.core.port)).await?;
    controller.subscribe("muster/v1/d/+/rsp/ctl").await?;
    let mut device = Client::connect(options("d249", "any", two.edge.port)).await?;
    device.subscribe("muster/v1/d/+/cmd/#").await?;

    controller.send_with("muster/v1/d/stranger/cmd/ping", "not ours", false, everything()).await?;
    controller.send_with("muster/v1/d/d249/cmd/ping", "a request", false, everything()).await?;
    device.send_with("muster/v1/d/d249/rsp/ctl", "an answer", false, everything()).await?;
    for (client, payload) in [(&mut device, "a request"), (&mut controller, "an answer")] {
        if client.received.is_empty() {
            client.until(payload, |_| Some(())).await?;
        }
        let message = client.received.first().with_context(|| payload.to_owned())?;
        let properties = message.properties.clone().context("properties")?;
        assert!(properties.message_expiry_interval.is_some_and(|seconds| (590..=600).contains(&seconds)), "{properties:?}");
        assert_eq!(PublishProperties { message_expiry_interval: Some(600), ..properties }, everything());
        assert_eq!((message.payload.as_ref(), message.retain, client.received.len()), (payload.as_bytes(), false, 1));
    }
    wait::until("one request to be carried", Duration::from_secs(5), || async { down.carried() }, |carried| *carried == 1).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn births_and_wills_are_retained_on_the_other_side() -> Result<()> {
    let two = two_brokers(Tuning::Shipped).await?;
    let _up = Lane::open("up", two.edge.port, two.core.port, relay::up(&Prefix::default())).await;
    let mut well = Client::connect(options("well", "any", two.edge.port)).await?;
    well.send("muster/v1/d/well/state", "born", true).await?;
    let mut will = options("dies", "any", two.edge.port);
    will.set_last_will(LastWill::new("muster/v1/d/dies/state", "gone", QoS::AtLeastOnce, true, None));
    let mut dies = Client::connect(will).await?;
    dies.send("muster/v1/d/dies/state", "born", true).await?;
    drop(dies);

    let retained = || async {
        let mut late = Client::connect(options("late", "any", two.core.port)).await.expect("the broker answers");
        late.subscribe("muster/v1/d/+/state").await.expect("a subscription");
        late.publish("marker", "end").await.expect("an acknowledgement");
        let mut seen: Vec<_> =
            late.received.iter().map(|message| (message.payload.clone(), message.topic.clone(), message.retain)).collect();
        seen.sort();
        seen
    };
    let expected = [("born", "muster/v1/d/well/state"), ("gone", "muster/v1/d/dies/state")];
    let expected = expected.map(|(payload, topic)| (Bytes::from(payload), Bytes::from(topic), true));
    wait::until("both to be retained", Duration::from_secs(10), retained, |seen| seen[..] == expected).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_under_way_when_a_broker_stops_comes_after_its_return() -> Result<()> {
    // The core keeps what it has acknowledged, for a subscriber that comes at the end.
    let mut two = two_brokers(Tuning::Ours).await?;
    let subscriber = || {
        let mut subscriber = options("subscriber", "any", two.core.port);
        subscriber.set_clean_start(false).set_session_expiry_interval(Some(600)).set_receive_maximum(Some(u16::MAX));
        subscriber
    };
    let (first, again) = (subscriber(), subscriber());
    let mut first = Client::connect(first).await?;
    first.subscribe("muster/v1/d/+/task").await?;
    // Until the end of its connection: it would be given messages, and acknowledge some of them that nobody counts.
    first.leave().await?;
    let up = Lane::open("up", two.edge.port, two.core.port, relay::up(&Prefix::default())).await;
    let mut device = Client::connect(options("d", "any", two.edge.port)).await?;
    let publishing = async {
        for number in 0..MANY {
            device.publish("muster/v1/d/d/task", &number.to_string()).await?;
        }
        anyhow::Ok(())
    };
    let restarting = async {
        wait::until("some to be carried", Duration::from_secs(10), || async { up.carried() }, |carried| *carried > 100).await;
        // Not killed: what it has acknowledged since it last saved would be gone, and that is not the lane's fault.
        two.core.program.stop().await;
        two.core.crash_and_restart(Duration::ZERO).await;
    };
    let (published, ()) = tokio::join!(publishing, restarting);
    published?;
    let mut late = Client::connect(again).await?;
    // In no promised order: Mosquitto 2.0.11 sends more than a Receive Maximum, and puts what was too much behind what came later.
    let mut arrived: HashSet<Bytes> = late.received.iter().map(|message| message.payload.clone()).collect();
    let all = late.until("all messages", |packet| {
        if let Packet::Publish(publish) = packet {
            arrived.insert(publish.payload.clone());
        }
        (arrived.len() == MANY).then_some(())
    });
    let all = all.await;
    let missing = |number: &usize| !arrived.contains(number.to_string().as_bytes());
    all.with_context(|| format!("{} of {MANY} arrived, not {:?}", arrived.len(), (0..MANY).filter(missing).collect::<Vec<_>>()))
}
