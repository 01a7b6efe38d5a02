//! Everything a bad peer can say. Each thing is refused with a reason and counted; nothing is lost, nothing crashes, nobody else is touched.

use std::time::Duration;

use bytes::Bytes;
use muster_tests::api::{Api, collection, devices};
use muster_tests::wait;
use muster_wire::http::{CollectionRequest, Problem};
use muster_wire::{CollectionId, DeviceId, TaskState};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, Publish, PublishProperties};
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use tokio::sync::mpsc;

use crate::stack::{Controller, Landing};

/// A device written from the contract's page, that says whatever it is told to.
struct Puppet {
    id: DeviceId,
    client: AsyncClient,
    requests: mpsc::Receiver<Publish>,
}

impl Puppet {
    async fn connect(port: u16, id: &str) -> Self {
        let mut options = MqttOptions::new(id, "127.0.0.1", port);
        options.set_keep_alive(Duration::from_secs(30));
        options.set_max_packet_size(Some(2 << 20));
        options.set_outgoing_inflight_upper_limit(20);
        let (client, mut events) = AsyncClient::new(options, 20);
        let (sender, requests) = mpsc::channel(1000);
        client.subscribe(format!("muster/v1/d/{id}/cmd/#"), QoS::AtLeastOnce).await.expect("the channel is open");
        tokio::spawn(async move {
            loop {
                match events.poll().await {
                    Ok(Event::Incoming(Packet::Publish(publish))) => {
                        if sender.try_send(publish).is_err() {
                            return;
                        }
                    }
                    Ok(_) => {}
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                }
            }
        });
        let puppet = Self { id: id.parse().expect("a device id"), client, requests };
        puppet.say("state", r#"{"online":true,"proto":["1.0"],"methods":["ping","GetModuleLogs","UploadModuleLogs","UploadSupportBundle","GetTaskStatus"]}"#).await;
        puppet
    }

    async fn say(&self, channel: &str, payload: impl Into<Bytes>) {
        let retain = channel == "state";
        self.client
            .publish(format!("muster/v1/d/{}/{channel}", self.id), QoS::AtLeastOnce, retain, payload)
            .await
            .expect("the channel is open");
    }

    async fn asked(&mut self) -> Publish {
        tokio::time::timeout(Duration::from_secs(20), self.requests.recv()).await.expect("a request within 20 s").expect("connected")
    }

    /// Answers a request, as whoever `topic_device` is.
    async fn answer_as(&self, topic_device: &str, request: &Publish, status: &str, payload: impl Into<Bytes>) {
        let asked = request.properties.as_ref().expect("requests have properties");
        let caller = asked.response_topic.as_deref().and_then(|topic| topic.rsplit('/').next()).expect("a response topic");
        let response_topic = format!("muster/v1/d/{topic_device}/rsp/{caller}");
        let properties = PublishProperties {
            correlation_data: asked.correlation_data.clone(),
            user_properties: vec![("__stat".to_owned(), status.to_owned()), ("__protVer".to_owned(), "1.0".to_owned())],
            ..PublishProperties::default()
        };
        self.client
            .publish_with_properties(response_topic, QoS::AtLeastOnce, false, payload, properties)
            .await
            .expect("the channel is open");
    }
}

async fn status_number(api: &Api, pointer: &str) -> u64 {
    let status: serde_json::Value = api.get("/api/v1/status").await.expect("the status page");
    status.pointer(pointer).and_then(serde_json::Value::as_u64).unwrap_or_else(|| panic!("{pointer} in {status}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_that_lie_or_babble_harm_nobody() {
    let directory = tempfile::tempdir().expect("a private directory");
    let mut controller = Controller::start(directory.path(), None, None, Landing::Directory, &[]).await;
    let port = controller.embedded_mqtt_port;
    let mut good = Puppet::connect(port, "good").await;
    let mut bad = Puppet::connect(port, "bad").await;
    controller.api.devices_online(2, Duration::from_secs(20)).await;

    let ping = |ids: &[&str]| collection(CollectionRequest::Ping {}, devices(ids), 15, 1);
    let created = controller.api.create(&ping(&["good"])).await;
    let request = good.asked().await;

    // Somebody else's task, from one's own topic: the broker lets it pass, the task does not move.
    bad.answer_as("bad", &request, "200", "").await;
    // Somebody else's topic: the broker's permissions refuse it.
    bad.answer_as("good", &request, "200", "").await;
    // Babble on every topic one has.
    for payload in ["", "null", "[]", "{\"a\":", "\u{0}\u{1}", "{\"correlationId\":1}"] {
        bad.say("task", payload).await;
        bad.say("state", payload).await;
        bad.answer_as("bad", &request, "teapot", payload).await;
    }
    bad.say("task", vec![b'x'; 256 * 1024 + 1]).await;
    bad.say("state", vec![b'x'; 20 * 1024]).await;
    bad.say(
        "task",
        serde_json::json!({"correlationId": "x", "status": "Completed", "attempt": CollectionId::new().task(3).attempt(1).uuid()})
            .to_string(),
    )
    .await;
    let refused = || async {
        let metrics = controller.api.request(reqwest::Method::GET, "/metrics").send().await.expect("metrics").text().await.expect("text");
        let by_reason =
            metrics.lines().filter(|line| line.starts_with("muster_messages_refused_total")).map(str::to_owned).collect::<Vec<_>>();
        (status_number(&controller.api, "/dispatch/loops/refused").await, by_reason)
    };
    wait::until("the babble to be counted", Duration::from_secs(20), refused, |(n, _)| *n >= 19).await;

    let view = controller.api.collection(created.id).await.expect("a collection");
    assert_eq!(view.counters.dispatched, 1, "nobody else can end a task: {view:?}");
    good.answer_as("good", &request, "200", "").await;
    let view = controller.api.finished(created.id, Duration::from_secs(20)).await;
    assert_eq!(view.counters.verified, 1);

    // The same answer three more times changes nothing.
    for _ in 0..3 {
        good.answer_as("good", &request, "500", "{}").await;
    }
    let created = controller.api.create(&ping(&["good", "bad"])).await;
    let (to_good, to_bad) = (good.asked().await, bad.asked().await);
    good.answer_as("good", &to_good, "200", "").await;
    bad.answer_as("bad", &to_bad, "505", "").await;
    controller.api.finished(created.id, Duration::from_secs(20)).await;
    let tasks = controller.api.tasks(created.id).await;
    let reason = |device: &str| tasks.iter().find(|t| t.device.as_str() == device).and_then(|t| t.reason).map(|r| r.as_str());
    assert_eq!((reason("good"), reason("bad")), (Some("answered"), Some("protocol_unsupported")));
    assert!(controller.program.is_running(), "{}", controller.program.tail());
}

/// `GetModuleLogs` answers that are not what the method promises.
#[tokio::test(flavor = "multi_thread")]
async fn malformed_results_fail_with_a_reason_and_escape_no_directory() {
    let directory = tempfile::tempdir().expect("a private directory");
    let controller = Controller::start(directory.path(), None, None, Landing::Directory, &[]).await;
    let mut device = Puppet::connect(controller.embedded_mqtt_port, "dev").await;
    controller.api.devices_online(1, Duration::from_secs(20)).await;
    let items = serde_json::json!([{"id": ".*"}]);
    let request: CollectionRequest = serde_json::from_value(serde_json::json!({"kind": "logs", "items": items})).expect("a request");
    for (payload, expected) in [
        ("not json", (TaskState::Failed, "answer_malformed")),
        ("{\"status\":\"Running\"}", (TaskState::Failed, "answer_malformed")),
        ("[{\"id\":\"m\",\"payloadBytes\":\"%%%\",\"payload\":null}]", (TaskState::Failed, "answer_malformed")),
        ("[{\"id\":\"../../../../etc/cron.d/x\",\"payloadBytes\":null,\"payload\":\"line\\n\"}]", (TaskState::Verified, "collected")),
        ("[{\"id\":\"m\",\"payloadBytes\":null,\"payload\":\"line\\n\"}]", (TaskState::Verified, "collected")),
    ] {
        let created = controller.api.create(&collection(request.clone(), devices(&["dev"]), 15, 1)).await;
        let asked = device.asked().await;
        device.answer_as("dev", &asked, "200", payload).await;
        controller.api.finished(created.id, Duration::from_secs(20)).await;
        let task = controller.api.tasks(created.id).await.remove(0);
        assert_eq!((task.state, task.reason.map(|r| r.as_str())), (expected.0, Some(expected.1)), "{payload}: {task:?}");
    }
    let outside: Vec<_> = crate::flows::embedded::walk(directory.path())
        .into_iter()
        .filter(|p| p.to_string_lossy().contains("cron.d") && !p.starts_with(directory.path().join("data/landing")))
        .collect();
    assert!(outside.is_empty(), "{outside:?}");
    assert!(!std::path::Path::new("/etc/cron.d/x.log").exists());
}

/// What people send to the API.
#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_are_named_and_nothing_falls_over() {
    let directory = tempfile::tempdir().expect("a private directory");
    let mut controller = Controller::start(directory.path(), None, None, Landing::Directory, &[]).await;
    let deep = "[".repeat(100_000);
    // Ten times the limit: refused from the length alone, before it is read; a client that goes on sending may see the connection end first.
    let huge = controller
        .api
        .request(reqwest::Method::POST, "/api/v1/collections")
        .header("content-type", "application/json")
        .body(vec![b' '; 80 << 20])
        .send()
        .await;
    assert!(huge.is_err() || huge.is_ok_and(|answer| answer.status().as_u16() == 413));
    for (body, status) in [
        ("", 400),
        ("{", 400),
        (deep.as_str(), 422),
        ("{}", 422),
        (r#"{"request":{"kind":"teapot"},"target":{"kind":"all"}}"#, 422),
        (r#"{"request":{"kind":"ping"},"target":{"kind":"devices","devices":[]}}"#, 422),
        (r#"{"request":{"kind":"ping"},"target":{"kind":"devices","devices":["../x"]}}"#, 422),
        (r#"{"request":{"kind":"ping"},"target":{"kind":"devices","devices":["nobody"]}}"#, 422),
        (r#"{"request":{"kind":"ping"},"target":{"kind":"all"},"surprise":1}"#, 422),
        (r#"{"request":{"kind":"logs","items":[{"id":"["}]},"target":{"kind":"all"}}"#, 422),
        (r#"{"request":{"kind":"bundle","since":"1D"},"target":{"kind":"all"}}"#, 422),
    ] {
        let (answered, text) = controller.api.post_text("/api/v1/collections", body).await;
        let shown: String = body.chars().take(80).collect();
        assert_eq!(answered, status, "{shown}: {text}");
        let problem: Problem = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{shown}: {error}: {text}"));
        assert!(!problem.code.is_empty() && !problem.detail.is_empty(), "{problem:?}");
    }
    for path in [
        "/api/v1/collections/nonsense",
        "/api/v1/collections?after=%00",
        "/api/v1/tasks/tsk_x",
        "/api/v1/bundles/..%2f..%2fetc",
        "/api/v2/",
        "/api/v1/devices/%2e%2e",
    ] {
        let answer = controller.api.request(reqwest::Method::GET, path).send().await.expect("an answer");
        let status = answer.status().as_u16();
        assert!((400..500).contains(&status), "{path}: {status}");
        let text = answer.text().await.expect("a body");
        assert!(serde_json::from_str::<Problem>(&text).is_ok(), "{path}: {text}");
    }
    assert!(controller.program.is_running(), "{}", controller.program.tail());
}
