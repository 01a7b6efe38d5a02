//! What the tests of alerts stand on is what they think it is: both protocols, a virtual host that goes, a node that comes back.

use std::time::Duration;

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use muster_tests::rabbit::{OwnRabbit, Rabbit};

/// RabbitMQ writes down that there is a quorum queue a few seconds after it said so: a node that is killed before that comes back with the
/// queue and without what was confirmed to be in it (seen with 3.10.8). One that has been there for a while loses nothing.
const QUEUE_IS_KEPT: Duration = Duration::from_secs(6);

fn quorum() -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    arguments
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_publish_with_both_protocols() {
    let rabbit = Rabbit::from_env().await;
    assert_eq!(rabbit.count("alerts").await, None);
    rabbit.make_queue("alerts", quorum()).await;
    let lines = concat!(
        r#"{"body":"{}","content_type":"application/json","message_id":"m1","headers":{"cloudEvents_id":"a","cloudEvents_time":{"timestamp":7}}}"#,
        "\n",
        r#"{"body_base64":"AAECAw=="}"#,
        "\n"
    );
    let sent = rabbit.pika("alerts", &[], lines);
    assert_eq!((sent["sent"].as_u64(), sent["distinct"].as_u64()), (Some(2), Some(2)));
    rabbit.holds("alerts", 2, Duration::from_secs(10)).await;
    let taken = rabbit.take_all("alerts").await;
    assert_eq!((taken[0].message_id.as_deref(), taken[0].content_type.as_deref()), (Some("m1"), Some("application/json")));
    assert_eq!((taken[0].header("cloudEvents_id"), taken[0].header("cloudEvents_time")), ("a", "7"));
    assert_eq!(taken[1].body, [0, 1, 2, 3]);

    let directory = tempfile::tempdir().expect("a private directory");
    let devices = directory.path().join("devices");
    std::fs::write(&devices, "a-1\na-2\n").expect("a private directory can be written");
    let devices = devices.display().to_string();
    let sent = rabbit.pika("alerts", &["--generate", "1000", "--repeats", "30", "--seed", "7", "--devices", &devices], "");
    assert_eq!((sent["sent"].as_u64(), sent["distinct"].as_u64(), sent["pairs"].as_u64()), (Some(1000), Some(700), Some(6)));
    let bodies: std::collections::BTreeSet<_> = rabbit.take_all("alerts").await.into_iter().map(|message| message.body).collect();
    assert_eq!(bodies.len(), 700, "what is repeated is the same to the byte");

    // Over 1.0: application-properties become one opaque header, a value body says what it is.
    let lines = concat!(
        r#"{"body":"{}","content_type":"application/json","properties":{"cloudEvents_id":"a","cloudEvents_time":{"timestamp":1700000000000}}}"#,
        "\n",
        r#"{"body":"{}","section":"value","message_id":"v"}"#,
        "\n"
    );
    let sent = rabbit.rhea("alerts", lines);
    assert_eq!(sent["accepted"].as_u64(), Some(2), "{sent}");
    let taken = rabbit.take_all("alerts").await;
    assert_eq!((taken[0].body.as_slice(), taken[0].content_type.as_deref()), (b"{}".as_slice(), Some("application/json")));
    assert_eq!(taken[1].message_id.as_deref(), Some("v"));
    rabbit.delete_queue("alerts").await;
    assert_eq!(rabbit.count("alerts").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn heavy_a_node_of_our_own_comes_back_with_its_queues() {
    let directory = tempfile::tempdir().expect("a private directory");
    let mut own = OwnRabbit::start(directory.path()).await;
    let rabbit = own.rabbit();
    rabbit.make_queue("alerts", quorum()).await;
    rabbit.publish("alerts", (0..10).map(|n| (BasicProperties::default(), vec![n]))).await;
    tokio::time::sleep(QUEUE_IS_KEPT).await;
    own.kill_9();
    assert!(rabbit.connect().await.is_err());
    own.start_again().await;
    rabbit.holds("alerts", 10, Duration::from_secs(30)).await;
    own.stop().await;
    assert!(rabbit.connect().await.is_err());
    own.start_again().await;
    rabbit.holds("alerts", 10, Duration::from_secs(30)).await;
}
