//! Messages that come one by one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use muster_intake::{FromDevice, Incoming, Intake, IntakeOptions, NotTaken, Settled};
use muster_wire::DeviceId;
use muster_wire::alert::{ALERT_TYPE, AlertVia, Poison, SourceRules};
use time::OffsetDateTime;
use tokio::sync::mpsc;

use crate::ledger::{Memory, limits};
use crate::queue::{data, event, wait_for};

fn start(memory: &Memory) -> Intake<Memory> {
    let options = IntakeOptions { limits: limits(), types: vec![ALERT_TYPE.to_owned()], amqp: None };
    Intake::start(options, memory.clone(), Arc::new(|_| {}))
}

fn message(body: String) -> Incoming {
    Incoming {
        via: AlertVia::Http,
        from: "ops".into(),
        content_type: Some("application/cloudevents+json".to_owned()),
        attributes: Vec::new(),
        body: Bytes::from(body),
        rules: Arc::new(SourceRules::default()),
        tenant: None,
        speaks_for: None,
        received_at: OffsetDateTime::now_utc(),
        unreadable: None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn posts_share_transactions_and_each_hears_its_own_answer() {
    let memory = Memory::default();
    let intake = start(&memory);
    let posts: Vec<_> = (0..500)
        .map(|n| {
            let (desk, bad) = (intake.desk(), n % 50 == 0);
            let body = if bad { "{".to_owned() } else { event(&format!("e-{n}"), &format!("press-{n}")) };
            tokio::spawn(async move { (n, desk.post(message(body)).await.expect("taken")) })
        })
        .collect();
    for post in posts {
        match post.await.expect("no panic") {
            (n, Settled::Parked { refused, .. }) => assert!(n % 50 == 0 && refused.reason == Poison::NotJson, "{n}: {refused}"),
            (n, Settled::Answered(answer)) => {
                let devices: Vec<_> = answer.alerts.iter().map(|alert| alert.device.clone()).collect();
                assert_eq!((devices, answer.duplicate), (vec![format!("press-{n}")], false));
            }
        }
    }
    let Settled::Answered(again) = intake.desk().post(message(event("e-1", "press-1"))).await.expect("taken") else { panic!("an alert") };
    assert!(again.duplicate && again.alerts.is_empty());
    let batches = memory.kept(|kept| kept.batches.len());
    assert!(batches < 400, "{batches} transactions for 490 alerts");
    intake.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_posts_is_told_when_the_database_is_away_and_when_we_stop() {
    let memory = Memory::default();
    let intake = start(&memory);
    let desk = intake.desk();
    memory.is_away(true);
    let away = desk.post(message(event("e-1", "press-1"))).await;
    assert!(matches!(&away, Err(NotTaken::Store(error)) if error.is_transient()), "{away:?}");
    memory.is_away(false);
    intake.close_sources();
    assert!(desk.post(message(event("e-1", "press-1"))).await.is_ok(), "sources are closed, the desk is not");
    intake.stop(Duration::from_secs(5)).await;
    assert!(matches!(desk.post(message(event("e-2", "press-1"))).await, Err(NotTaken::Stopped)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_device_raises_is_acknowledged_once_it_is_committed() {
    let memory = Memory::default();
    let intake = start(&memory);
    let (raise, raised) = mpsc::channel(1024);
    intake.take_from_devices(raised, |alert: FromDevice| alert);
    let committed = Arc::new(AtomicUsize::new(0));
    let device: DeviceId = "press-1".parse().expect("an id");
    let alert = |payload: String| {
        let committed = Arc::clone(&committed);
        FromDevice {
            device: device.clone(),
            content_type: None,
            properties: Vec::new(),
            payload: Bytes::from(payload),
            committed: Box::new(move || {
                committed.fetch_add(1, Ordering::SeqCst);
            }),
        }
    };
    memory.is_away(true);
    // An event by its own words, for MQTT 3.1.1 has no content type; the schema alone; and nonsense, which must not come for ever.
    for payload in [event("e-1", "press-1"), data("press-1").to_string(), "nonsense".to_owned()] {
        raise.send(alert(payload)).await.expect("taken");
    }
    wait_for("a try", async || (memory.kept(|kept| kept.failures) > 1).then_some(())).await;
    assert_eq!(committed.load(Ordering::SeqCst), 0, "nothing is committed yet");
    memory.is_away(false);
    wait_for("all three", async || (committed.load(Ordering::SeqCst) == 3).then_some(())).await;
    let sources = memory.kept(|kept| kept.events.iter().map(|(source, _)| source.clone()).collect::<Vec<_>>());
    assert_eq!(sources, ["urn:device:press-1", "urn:test"]);
    assert_eq!(memory.kept(|kept| kept.parked.len()), 1);
    intake.stop(Duration::from_secs(5)).await;
}
