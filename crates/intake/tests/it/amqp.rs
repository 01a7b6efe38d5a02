//! The queue: what is settled how, and what happens when something is in the way.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use lapin::BasicProperties;
use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use muster_intake::amqp::{DETAIL_HEADER, Fault, MESSAGE_ID_HEADER, REASON_HEADER, look};
use muster_intake::{AmqpOptions, Intake, IntakeOptions};
use muster_wire::alert::{ALERT_TYPE, SourceRules};

use crate::ledger::{Memory, limits};
use crate::queue::{Rabbit, data, event, header, properties, wait_for};

fn start(options: &AmqpOptions, memory: &Memory) -> Intake<Memory> {
    let options = IntakeOptions { limits: limits(), types: vec![ALERT_TYPE.to_owned()], amqp: Some(options.clone()) };
    Intake::start(options, memory.clone(), Arc::new(|_| {}))
}

async fn ready(intake: &Intake<Memory>) {
    let state = intake.amqp().expect("there is a queue");
    wait_for("the queue to be read", async || state.now().ok()).await;
}

async fn stop(intake: Intake<Memory>) {
    intake.stop(Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_good_ones_pass_a_bad_one_which_lands_once_with_its_reason() {
    const COUNT: usize = 10_000;
    let (rabbit, memory) = (Rabbit::new().await, Memory::default());
    let made = Arc::new(Mutex::new(0));
    let intake = {
        let made = Arc::clone(&made);
        let options = IntakeOptions { limits: limits(), types: vec![ALERT_TYPE.to_owned()], amqp: Some(rabbit.options.clone()) };
        Intake::start(options, memory.clone(), Arc::new(move |ids: Vec<_>| *made.lock().expect("not poisoned") += ids.len()))
    };
    ready(&intake).await;
    let mut events: Vec<_> = (0..COUNT).map(|n| (properties(), event(&format!("e-{n}"), "press-1").into_bytes())).collect();
    events.insert(COUNT / 2, (properties().with_message_id("theirs".into()), b"{\"specversion\":".to_vec()));
    let began = std::time::Instant::now();
    rabbit.publish_all(&events).await;
    wait_for("all alerts", async || (memory.kept(|kept| kept.events.len()) == COUNT).then_some(())).await;
    let letter = rabbit.dead_letter().await;
    println!("{COUNT} alerts and a dead letter in {:?}, {} batches", began.elapsed(), memory.kept(|kept| kept.batches.len()));
    assert_eq!(header(&letter, REASON_HEADER), "not_json");
    assert!(header(&letter, DETAIL_HEADER).contains("EOF"), "{}", header(&letter, DETAIL_HEADER));
    assert_eq!(header(&letter, MESSAGE_ID_HEADER), "theirs");
    assert_eq!(letter.delivery.data, b"{\"specversion\":");
    let parked = memory.kept(|kept| kept.parked.values().map(|parked| parked.id.to_string()).collect::<Vec<_>>());
    assert_eq!(parked, [letter.delivery.properties.message_id().clone().expect("an id").to_string()]);
    assert_eq!(*made.lock().expect("not poisoned"), COUNT, "the dispatcher was told of each");
    stop(intake).await;
    assert_eq!(rabbit.count(&rabbit.options.queue).await, 0, "all were acknowledged");
    assert_eq!(rabbit.count(&rabbit.options.dead_letter_queue).await, 0, "once");
    assert_eq!(memory.kept(|kept| kept.repetitions), 0);
    rabbit.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_shape_and_every_way_of_being_wrong_is_settled() {
    let (mut rabbit, memory) = (Rabbit::new().await, Memory::default());
    rabbit.options.rules = SourceRules { bare: Some("azure-monitor".to_owned()), ..SourceRules::default() };
    rabbit.options.tenant = Some("contoso".to_owned());
    let intake = start(&rabbit.options, &memory);
    ready(&intake).await;
    rabbit.publish_event("structured", "press-1").await;
    for (prefix, id) in [("cloudEvents_", "binary_"), ("cloudEvents:", "binary:")] {
        let mut headers = FieldTable::default();
        for (name, value) in [("specversion", "1.0"), ("id", id), ("source", "urn:test"), ("type", ALERT_TYPE)] {
            headers.insert(format!("{prefix}{name}").into(), AMQPValue::LongString(value.into()));
        }
        headers.insert(format!("{prefix}time").into(), AMQPValue::Timestamp(1_763_457_262));
        let properties = BasicProperties::default().with_content_type("application/json".into()).with_headers(headers);
        rabbit.publish(properties, data("press-1").to_string().as_bytes()).await;
    }
    let bare = BasicProperties::default().with_content_type("application/json".into());
    rabbit.publish(bare.clone(), data("press-1").to_string().as_bytes()).await;
    wait_for("four alerts", async || (memory.kept(|kept| kept.events.len()) == 4).then_some(())).await;
    assert_eq!(memory.kept(|kept| kept.tenants.clone()), [Some("contoso".to_owned())].into(), "the binding of the queue");

    let value = BasicProperties::default().with_type("amqp-1.0".into());
    for (properties, body, reason) in [
        (properties(), event("x", "stranger").into_bytes(), "unknown_device"),
        (properties(), vec![b' '; 257 * 1024], "too_large"),
        (value, event("x", "press-1").into_bytes(), "malformed"),
        (BasicProperties::default().with_content_type("application/cloudevents-batch+json".into()), b"[]".to_vec(), "unsupported_format"),
        (BasicProperties::default().with_expiration("600000".into()), b"\x00\xff".to_vec(), "not_json"),
        (bare.with_user_id("guest".into()), br#"{"schemaId":"other"}"#.to_vec(), "unsupported_schema"),
    ] {
        rabbit.publish(properties, &body).await;
        let letter = rabbit.dead_letter().await;
        assert_eq!(header(&letter, REASON_HEADER), reason);
        assert_eq!(letter.delivery.data, body, "as it came");
        assert!(letter.delivery.properties.expiration().is_none());
    }
    rabbit.publish_event("structured", "press-1").await;
    wait_for("a repetition", async || (memory.kept(|kept| kept.repetitions) == 1).then_some(())).await;
    stop(intake).await;
    assert_eq!(rabbit.count(&rabbit.options.queue).await, 0);
    rabbit.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_the_database_refuses_is_parked_and_holds_up_nobody() {
    let (rabbit, memory) = (Rabbit::new().await, Memory::default());
    memory.kept(|kept| kept.bad_row = Some("e-37".to_owned()));
    // They wait in one batch for whoever comes.
    stop_after_start(&rabbit, &memory).await;
    let events: Vec<_> = (0..100).map(|n| (properties(), event(&format!("e-{n}"), "press-1").into_bytes())).collect();
    rabbit.publish_all(&events).await;
    let intake = start(&rabbit.options, &memory);
    wait_for("the others", async || (memory.kept(|kept| kept.events.len()) == 99).then_some(())).await;
    assert_eq!(header(&rabbit.dead_letter().await, REASON_HEADER), "malformed");
    stop(intake).await;
    assert_eq!(rabbit.count(&rabbit.options.queue).await, 0);
    rabbit.remove().await;
}

/// Makes the queues.
async fn stop_after_start(rabbit: &Rabbit, memory: &Memory) {
    let intake = start(&rabbit.options, memory);
    ready(&intake).await;
    stop(intake).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn own_trouble_is_waited_for_and_nothing_is_lost_or_dead() {
    let (mut rabbit, memory) = (Rabbit::new().await, Memory::default());
    // One delivery more than that, and the broker would make them dead letters.
    rabbit.options.delivery_limit = 2;
    let intake = start(&rabbit.options, &memory);
    ready(&intake).await;
    memory.is_away(true);
    for n in 0..50 {
        rabbit.publish_event(&format!("e-{n}"), "press-1").await;
    }
    rabbit.publish(properties(), b"bad").await;
    wait_for("tries", async || (memory.kept(|kept| kept.failures) > 6).then_some(())).await;
    assert_eq!(memory.kept(|kept| kept.events.len()), 0);
    memory.is_away(false);
    wait_for("all alerts", async || (memory.kept(|kept| kept.events.len()) == 50).then_some(())).await;
    assert_eq!(header(&rabbit.dead_letter().await, REASON_HEADER), "not_json");
    stop(intake).await;
    assert_eq!(rabbit.count(&rabbit.options.queue).await, 0);
    assert_eq!(rabbit.count(&rabbit.options.dead_letter_queue).await, 0, "none of the good ones");
    rabbit.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_while_the_database_is_away_leaves_all_in_the_queue() {
    let (rabbit, memory) = (Rabbit::new().await, Memory::default());
    let intake = start(&rabbit.options, &memory);
    ready(&intake).await;
    memory.is_away(true);
    for n in 0..20 {
        rabbit.publish_event(&format!("e-{n}"), "press-1").await;
    }
    wait_for("a try", async || (memory.kept(|kept| kept.failures) > 0).then_some(())).await;
    let began = std::time::Instant::now();
    stop(intake).await;
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    memory.is_away(false);
    let next = start(&rabbit.options, &memory);
    wait_for("all alerts", async || (memory.kept(|kept| kept.events.len()) == 20).then_some(())).await;
    stop(next).await;
    rabbit.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_was_made_otherwise_is_named_and_read_once_it_is_gone() {
    let (rabbit, memory) = (Rabbit::new().await, Memory::default());
    let how = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let name = rabbit.options.queue.as_str();
    // A classic queue.
    rabbit.channel.queue_declare(name.into(), how, FieldTable::default()).await.expect("made");
    rabbit.channel.queue_declare(rabbit.options.dead_letter_queue.as_str().into(), how, quorum()).await.expect("made");
    let found = look(&rabbit.options).await;
    assert!(matches!(&found, Err(Fault::Differs { kind: "queue", name: named, .. }) if named == name), "{found:?}");
    let intake = start(&rabbit.options, &memory);
    let state = intake.amqp().expect("there is a queue");
    let said = wait_for("the fault", async || state.now().err().filter(|said| said.contains("other arguments"))).await;
    assert!(said.contains(name) && said.contains("amqp"), "{said}");
    rabbit.channel.queue_delete(name.into(), QueueDeleteOptions::default()).await.expect("deleted");
    ready(&intake).await;
    rabbit.publish_event("e-1", "press-1").await;
    wait_for("the alert", async || (memory.kept(|kept| kept.events.len()) == 1).then_some(())).await;
    stop(intake).await;
    rabbit.remove().await;
}

fn quorum() -> FieldTable {
    let mut table = FieldTable::default();
    table.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    table
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_is_deleted_is_made_again() {
    let (rabbit, memory) = (Rabbit::new().await, Memory::default());
    assert_eq!(look(&rabbit.options).await.expect("reached").waiting, None, "looking makes nothing");
    let intake = start(&rabbit.options, &memory);
    ready(&intake).await;
    assert_eq!(look(&rabbit.options).await.expect("reached").waiting, Some(0));
    rabbit.channel.queue_delete(rabbit.options.queue.as_str().into(), QueueDeleteOptions::default()).await.expect("deleted");
    let state = intake.amqp().expect("there is a queue");
    wait_for("the loss to be seen", async || state.now().err()).await;
    ready(&intake).await;
    rabbit.publish_event("e-1", "press-1").await;
    wait_for("the alert", async || (memory.kept(|kept| kept.events.len()) == 1).then_some(())).await;
    stop(intake).await;
    rabbit.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_away_is_said_without_its_password() {
    let (mut rabbit, memory) = (Rabbit::new().await, Memory::default());
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
    rabbit.options.url = format!("amqp://guest:pa55word@127.0.0.1:{port}/%2f").into();
    let fault = look(&rabbit.options).await.expect_err("nobody is there").to_string();
    assert!(fault.starts_with("failed to connect") && !fault.contains("pa55word"), "{fault}");
    let intake = start(&rabbit.options, &memory);
    let state = intake.amqp().expect("there is a queue");
    wait_for("the fault", async || state.now().err().filter(|said| said.starts_with("failed to connect"))).await;
    stop(intake).await;
    rabbit.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_the_library_cannot_read_ends_in_the_dead_letters_alone() {
    let (mut rabbit, memory) = (Rabbit::new().await, Memory::default());
    rabbit.options.delivery_limit = 3;
    stop_after_start(&rabbit, &memory).await;
    for n in 0..20 {
        rabbit.publish_event(&format!("e-{n}"), "press-1").await;
    }
    crate::queue::publish_unreadable(&rabbit).await;
    for n in 20..40 {
        rabbit.publish_event(&format!("e-{n}"), "press-1").await;
    }
    let intake = start(&rabbit.options, &memory);
    wait_for("the good ones", async || (memory.kept(|kept| kept.events.len()) == 40).then_some(())).await;
    wait_for("the unreadable one to be dead", async || (rabbit.count(&rabbit.options.dead_letter_queue).await == 1).then_some(())).await;
    stop(intake).await;
    assert_eq!(rabbit.count(&rabbit.options.queue).await, 0);
    assert_eq!(rabbit.count(&rabbit.options.dead_letter_queue).await, 1, "and none of the good ones");
    rabbit.remove().await;
}
