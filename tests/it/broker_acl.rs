//! The Mosquitto configuration that ships in `deploy/mosquitto`, run for real: who may publish and hear what, who may call itself what, and
//! that nothing is dropped where a stock broker drops.
//!
//! That something is *not* delivered is shown with a marker: it is sent after the forbidden message on the same connection, the broker keeps
//! the order of a connection, so whoever has the marker has everything before it.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use rumqttc::v5::MqttOptions;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{LastWill, Packet, PubAckReason};
use tokio::time::timeout;

use crate::mosquitto::{Broker, CONTROLLER, Client, DEADLINE, options};

/// More than the 1,000 a stock broker queues for one client.
const ABSENT_MESSAGES: usize = 1_500;

fn pairs(wanted: &[(&str, &str)]) -> Vec<(String, String)> {
    wanted.iter().map(|(topic, payload)| ((*topic).to_owned(), (*payload).to_owned())).collect()
}

#[tokio::test]
async fn a_device_hears_its_own_requests_and_nobody_elses() -> Result<()> {
    let broker = Broker::start(&[CONTROLLER, "dev-a", "dev-b", "+"]).await?;
    let mut a = Client::connect(broker.device("dev-a")).await?;
    let mut b = Client::connect(broker.device("dev-b")).await?;
    let mut wildcard = Client::connect(broker.device("+")).await?;
    let mut controller = Client::connect(broker.controller("ctl-1")).await?;
    a.subscribe("muster/v1/d/dev-a/cmd/#").await?;
    // Mosquitto accepts any filter and checks each delivery; so each of these may be asked for, and brings nothing but what is b's own.
    for filter in
        ["muster/v1/d/dev-b/cmd/#", "#", "muster/v1/d/+/cmd/+", "muster/v1/d/dev-a/cmd/#", "muster/v1/d/+/state", "muster/v1/d/+/rsp/+"]
    {
        b.subscribe(filter).await?;
        wildcard.subscribe(filter).await?;
    }

    ensure!(controller.publish("muster/v1/d/dev-a/cmd/ping", "to a").await? == PubAckReason::Success);
    ensure!(controller.publish("muster/v1/d/dev-a/c3/ping/00/1", "to a, 3.1.1").await? == PubAckReason::Success);
    ensure!(a.send("muster/v1/d/dev-a/state", "a is here", true).await? == PubAckReason::Success);
    ensure!(a.publish("muster/v1/d/dev-a/rsp/ctl-1", "answer of a").await? == PubAckReason::Success);
    ensure!(controller.publish("muster/v1/d/dev-b/cmd/ping", "marker for b").await? == PubAckReason::Success);
    ensure!(controller.publish("muster/v1/d/dev-a/cmd/ping", "marker for a").await? == PubAckReason::Success);

    let to_a = a.received_until("marker for a").await?;
    ensure!(to_a == pairs(&[("muster/v1/d/dev-a/cmd/ping", "to a"), ("muster/v1/d/dev-a/cmd/ping", "marker for a")]), "{to_a:?}");
    let mut to_b = b.received_until("marker for b").await?;
    to_b.dedup(); // overlapping filters may bring a message more than once
    ensure!(to_b == pairs(&[("muster/v1/d/dev-b/cmd/ping", "marker for b")]), "{to_b:?}");

    // A user called `+` would match everything if the name were put into the pattern. It gets nothing at all: a round trip of its own proves
    // that everything before has been routed.
    wildcard.subscribe("any").await?;
    ensure!(wildcard.received.is_empty(), "{:?}", wildcard.received);
    Ok(())
}

/// Publishes on a connection of its own and wants a no: a PUBACK that says so, or the connection cut (Mosquitto 2.0.11 does both, and the cut
/// can overtake the PUBACK).
async fn refused(options: MqttOptions, topic: &str) -> Result<()> {
    let mut client = Client::connect(options).await?;
    match client.publish(topic, "forged").await {
        Ok(PubAckReason::NotAuthorized) => Ok(()),
        Ok(other) => bail!("{topic} was taken: {other:?}"),
        Err(_) if client.is_lost => Ok(()),
        Err(error) => Err(error.context(format!("{topic} was neither taken nor refused"))),
    }
}

#[tokio::test]
async fn a_device_speaks_for_itself_only() -> Result<()> {
    let broker = Broker::start(&[CONTROLLER, "dev-a", "dev-b"]).await?;
    let mut controller = Client::connect(broker.controller("ctl-1")).await?;
    for filter in ["rsp/ctl-1", "r3/+/+", "task", "alert", "state"] {
        controller.subscribe(&format!("muster/v1/d/+/{filter}")).await?;
    }
    for suffix in ["rsp/ctl-1", "r3/00/200", "task", "alert", "state"] {
        for stranger in ["dev-b", CONTROLLER, "nobody", "dev-a/x", ""] {
            refused(broker.device("dev-a"), &format!("muster/v1/d/{stranger}/{suffix}")).await?;
        }
    }
    // Not even to itself may it send requests, nor below its own topics what the contract does not know.
    for topic in
        ["muster/v1/d/dev-a/cmd/ping", "muster/v1/d/dev-a/c3/ping/00/1", "muster/v1/d/dev-a", "muster/v1/d/dev-a/task/more", "other/topic"]
    {
        refused(broker.device("dev-a"), topic).await?;
    }
    let mut a = Client::connect(broker.device("dev-a")).await?;
    for suffix in ["rsp/ctl-1", "r3/00/200", "task", "alert", "state"] {
        ensure!(a.publish(&format!("muster/v1/d/dev-a/{suffix}"), suffix).await? == PubAckReason::Success, "{suffix}");
    }
    ensure!(a.publish("muster/v1/d/dev-a/task", "marker").await? == PubAckReason::Success);
    let heard = controller.received_until("marker").await?;
    let wanted = pairs(&[
        ("muster/v1/d/dev-a/rsp/ctl-1", "rsp/ctl-1"),
        ("muster/v1/d/dev-a/r3/00/200", "r3/00/200"),
        ("muster/v1/d/dev-a/task", "task"),
        ("muster/v1/d/dev-a/alert", "alert"),
        ("muster/v1/d/dev-a/state", "state"),
        ("muster/v1/d/dev-a/task", "marker"),
    ]);
    ensure!(heard == wanted, "{heard:?}");

    // A controller asks; it cannot answer for a device.
    for suffix in ["rsp/ctl-1", "task", "alert", "state"] {
        refused(broker.controller("ctl-2"), &format!("muster/v1/d/dev-a/{suffix}")).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_will_obeys_the_same_rules() -> Result<()> {
    let broker = Broker::start(&[CONTROLLER, "dev-a", "dev-b"]).await?;
    let mut controller = Client::connect(broker.controller("ctl-1")).await?;
    controller.subscribe("muster/v1/d/+/state").await?;
    let will = |topic: &str| LastWill::new(topic, r#"{"online":false}"#, QoS::AtLeastOnce, true, None);
    let mut forger = broker.device("dev-a");
    forger.set_last_will(will("muster/v1/d/dev-b/state"));
    // Whether the broker refuses the connection or drops the will later is its own matter.
    if let Ok(client) = Client::connect(forger).await {
        drop(client);
    }
    let mut honest = broker.device("dev-b");
    honest.set_last_will(will("muster/v1/d/dev-b/state"));
    let b = Client::connect(honest).await?;
    let mut a = Client::connect(broker.device("dev-a")).await?;
    ensure!(a.publish("muster/v1/d/dev-a/state", "marker").await? == PubAckReason::Success);
    let heard = controller.received_until("marker").await?;
    ensure!(heard == pairs(&[("muster/v1/d/dev-a/state", "marker")]), "dev-b is connected and was declared gone: {heard:?}");
    drop(b); // without a DISCONNECT: now the will is due
    let heard = controller.received_until(r#"{"online":false}"#).await?;
    ensure!(heard == pairs(&[("muster/v1/d/dev-b/state", r#"{"online":false}"#)]), "{heard:?}");
    Ok(())
}

#[tokio::test]
async fn nobody_gets_in_without_a_password_or_under_anothers_name() -> Result<()> {
    let broker = Broker::start(&[CONTROLLER, "dev-a", "dev-b"]).await?;
    for port in [broker.device_port, broker.controller_port] {
        let anonymous = MqttOptions::new("dev-a", "127.0.0.1", port);
        ensure!(Client::connect(anonymous).await.is_err(), "without a password");
        let mut wrong = options("dev-a", "dev-a", port);
        wrong.set_credentials("dev-a", "wrong");
        ensure!(Client::connect(wrong).await.is_err(), "with a wrong password");
    }
    // dev-a calls itself dev-b. It gets its own name all the same, so dev-b stays connected and keeps its requests.
    let mut b = Client::connect(broker.device("dev-b")).await?;
    b.subscribe("muster/v1/d/dev-b/cmd/#").await?;
    let mut thief = Client::connect(options("dev-b", "dev-a", broker.device_port)).await?;
    thief.subscribe("muster/v1/d/dev-b/cmd/#").await?;
    let mut controller = Client::connect(broker.controller("ctl-1")).await?;
    controller.publish("muster/v1/d/dev-b/cmd/ping", "marker").await?;
    let heard = b.received_until("marker").await.context("dev-b was thrown out")?;
    ensure!(heard == pairs(&[("muster/v1/d/dev-b/cmd/ping", "marker")]), "{heard:?}");
    thief.subscribe("any").await?;
    ensure!(thief.received.is_empty(), "the thief heard {:?}", thief.received);
    Ok(())
}

#[tokio::test]
async fn a_device_that_was_away_misses_nothing_that_has_not_expired() -> Result<()> {
    let broker = Broker::start(&[CONTROLLER, "dev-a"]).await?;
    let session = || {
        let mut options = broker.device("dev-a");
        options.set_clean_start(false);
        options.set_session_expiry_interval(Some(300));
        options
    };
    let mut device = Client::connect(session()).await?;
    device.subscribe("muster/v1/d/dev-a/cmd/#").await?;
    drop(device);
    let mut controller = Client::connect(broker.controller("ctl-1")).await?;
    for number in 0..ABSENT_MESSAGES {
        controller.mqtt.publish("muster/v1/d/dev-a/cmd/ping", QoS::AtLeastOnce, false, number.to_string()).await?;
    }
    let mut acknowledged = 0;
    while acknowledged < ABSENT_MESSAGES {
        let reason = controller.until("PUBACK", |p| if let Packet::PubAck(ack) = p { Some(ack.reason) } else { None }).await?;
        ensure!(reason == PubAckReason::Success, "{reason:?}");
        acknowledged += 1;
    }
    let mut device = Client::connect(session()).await?;
    let last = (ABSENT_MESSAGES - 1).to_string();
    let heard = timeout(DEADLINE, device.received_until(&last)).await??;
    ensure!(heard.len() == ABSENT_MESSAGES, "{} of {ABSENT_MESSAGES} arrived; the broker says {}", heard.len(), broker.log());
    Ok(())
}

#[test]
fn the_rules_name_every_topic_of_the_contract() {
    let acl = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/mosquitto/acl")).unwrap();
    let lines: Vec<_> = acl.lines().filter(|l| !l.is_empty() && !l.starts_with('#')).collect();
    for suffix in ["cmd/+", "c3/+/+/+"] {
        assert!(lines.contains(&format!("pattern read muster/v1/d/%u/{suffix}").as_str()), "{suffix}");
        assert!(lines.contains(&format!("topic write muster/v1/d/+/{suffix}").as_str()), "{suffix}");
    }
    for suffix in ["rsp/+", "r3/+/+", "task", "alert", "state"] {
        assert!(lines.contains(&format!("pattern write muster/v1/d/%u/{suffix}").as_str()), "{suffix}");
        assert!(lines.contains(&format!("topic read muster/v1/d/+/{suffix}").as_str()), "{suffix}");
    }
    assert_eq!(lines.len(), 15, "a rule that this test does not know: {lines:?}");
}
