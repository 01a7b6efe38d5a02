//! Queues of our own at the RabbitMQ of `MUSTER_TEST_AMQP_URL`, and a stranger that publishes to them.

use std::time::Duration;

use lapin::message::BasicGetMessage;
use lapin::options::{
    BasicAckOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeleteOptions, QueueDeclareOptions,
    QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use muster_intake::AmqpOptions;
use muster_wire::alert::{ALERT_TYPE, COMMON_ALERT_SCHEMA, SourceRules};
use secrecy::SecretString;
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

const SERVER: &str = "amqp://guest:guest@127.0.0.1:5672/%2f";
const STRUCTURED: &str = "application/cloudevents+json";

pub(crate) struct Rabbit {
    pub(crate) options: AmqpOptions,
    _connection: Connection,
    pub(crate) channel: Channel,
}

pub(crate) fn server() -> String {
    std::env::var("MUSTER_TEST_AMQP_URL").unwrap_or_else(|_| SERVER.to_owned())
}

impl Rabbit {
    pub(crate) async fn new() -> Self {
        let connection = Connection::connect(&server(), ConnectionProperties::default())
            .await
            .expect("these tests need RabbitMQ: set MUSTER_TEST_AMQP_URL, or run scripts/services.sh");
        let channel = connection.create_channel().await.expect("a channel");
        channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
        let name = format!("muster-test-{}", uuid::Uuid::new_v4().simple());
        let options = AmqpOptions {
            url: SecretString::from(server()),
            ca_file: None,
            name: "a test".to_owned(),
            dead_letter_exchange: format!("{name}.dead"),
            dead_letter_queue: format!("{name}.dead"),
            queue: name,
            prefetch: 1000,
            delivery_limit: 20,
            tenant: None,
            rules: SourceRules::default(),
        };
        Self { options, _connection: connection, channel }
    }

    /// Sends as a stranger would, through the default exchange.
    pub(crate) async fn publish(&self, properties: BasicProperties, body: &[u8]) {
        let how = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let queue = self.options.queue.as_str().into();
        let confirm = self.channel.basic_publish("".into(), queue, how, body, properties).await.expect("published");
        assert_eq!(confirm.await.expect("confirmed"), lapin::Confirmation::Ack(None));
    }

    pub(crate) async fn publish_event(&self, id: &str, device: &str) {
        self.publish(BasicProperties::default().with_content_type(STRUCTURED.into()).with_delivery_mode(2), event(id, device).as_bytes())
            .await;
    }

    /// Many events at once, confirmed together.
    pub(crate) async fn publish_all(&self, events: &[(BasicProperties, Vec<u8>)]) {
        let mut confirms = Vec::new();
        for (properties, body) in events {
            let queue = self.options.queue.as_str().into();
            let sent = self.channel.basic_publish("".into(), queue, BasicPublishOptions::default(), body, properties.clone()).await;
            confirms.push(sent.expect("published"));
        }
        for confirm in confirms {
            confirm.await.expect("confirmed");
        }
    }

    pub(crate) async fn count(&self, queue: &str) -> u32 {
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        self.channel.queue_declare(queue.into(), passive, FieldTable::default()).await.expect("the queue is there").message_count()
    }

    /// The next dead letter.
    pub(crate) async fn dead_letter(&self) -> BasicGetMessage {
        let queue = self.options.dead_letter_queue.clone();
        wait_for("a dead letter", async || {
            let got = self.channel.basic_get(queue.as_str().into(), BasicGetOptions::default()).await.expect("the queue is there");
            if let Some(message) = &got {
                message.delivery.acker.ack(BasicAckOptions::default()).await.expect("acknowledged");
            }
            got
        })
        .await
    }

    pub(crate) async fn remove(self) {
        for queue in [&self.options.queue, &self.options.dead_letter_queue] {
            let _gone = self.channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await;
        }
        let exchange = self.options.dead_letter_exchange.as_str().into();
        let _gone = self.channel.exchange_delete(exchange, ExchangeDeleteOptions::default()).await;
    }
}

pub(crate) fn properties() -> BasicProperties {
    BasicProperties::default().with_content_type(STRUCTURED.into()).with_delivery_mode(2)
}

pub(crate) fn header(message: &BasicGetMessage, name: &str) -> String {
    let headers = message.delivery.properties.headers().clone().unwrap_or_default();
    match headers.inner().get(name) {
        Some(AMQPValue::LongString(text)) => text.to_string(),
        other => format!("{other:?}"),
    }
}

/// The common alert schema for one device.
pub(crate) fn data(device: &str) -> serde_json::Value {
    let now = OffsetDateTime::now_utc().format(&Rfc3339).expect("a time");
    json!({"schemaId": COMMON_ALERT_SCHEMA, "data": {
        "essentials": {"alertId": "a-1", "monitorCondition": "Fired", "severity": "Sev2", "configurationItems": [device], "firedDateTime": now},
        "alertContext": {"properties": {"alertType": "IOTEdgeAgentNotRunningCondition"}},
    }})
}

/// One event as a document.
pub(crate) fn event(id: &str, device: &str) -> String {
    json!({"specversion": "1.0", "id": id, "source": "urn:test", "type": ALERT_TYPE, "data": data(device)}).to_string()
}

/// Asks until there is an answer.
pub(crate) async fn wait_for<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let give_up = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < give_up, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Publishes a message whose content type is not UTF-8: the broker takes it, and our library ends its connection over it. No library sends
/// such a thing, so it is written by hand: protocol header, log in, open, publish.
pub(crate) async fn publish_unreadable(rabbit: &Rabbit) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let url = server();
    let (login, place) = url.strip_prefix("amqp://").and_then(|rest| rest.split_once('@')).expect("amqp://user:password@host:port/vhost");
    let (user, password) = login.split_once(':').expect("user:password");
    let (host, vhost) = place.split_once('/').unwrap_or((place, "%2f"));
    let vhost = vhost.replace("%2f", "/").replace("%2F", "/");
    let mut stream = tokio::net::TcpStream::connect(host).await.expect("connected");

    let short = |text: &[u8]| [&[u8::try_from(text.len()).expect("short")], text].concat();
    let long = |text: &[u8]| [&u32::try_from(text.len()).expect("short").to_be_bytes()[..], text].concat();
    let frame = |kind: u8, channel: u16, body: &[u8]| {
        let size = u32::try_from(body.len()).expect("short").to_be_bytes();
        [&[kind], &channel.to_be_bytes()[..], &size, body, &[0xce]].concat()
    };
    let method = |channel: u16, class: u16, method: u16, arguments: &[u8]| {
        frame(1, channel, &[&class.to_be_bytes()[..], &method.to_be_bytes(), arguments].concat())
    };
    let started = [&long(b"")[..], &short(b"PLAIN"), &long(format!("\0{user}\0{password}").as_bytes()), &short(b"en_US")].concat();
    let tuned = [&100u16.to_be_bytes()[..], &131_072u32.to_be_bytes(), &0u16.to_be_bytes()].concat();
    let opened = [&short(vhost.as_bytes())[..], &short(b""), &[0]].concat();
    let publish = [&0u16.to_be_bytes()[..], &short(b""), &short(rabbit.options.queue.as_bytes()), &[0]].concat();
    let body = b"{}";
    // Class 60, weight 0, size, the flag of content_type, and what is no UTF-8.
    let head = [&60u16.to_be_bytes()[..], &0u16.to_be_bytes(), &2u64.to_be_bytes(), &0x8000u16.to_be_bytes(), &short(b"\xff\xfe")].concat();
    for (said, answered) in [
        (b"AMQP\0\0\x09\x01".to_vec(), true),
        (method(0, 10, 11, &started), true),
        ([method(0, 10, 31, &tuned), method(0, 10, 40, &opened)].concat(), true),
        (method(1, 20, 10, &short(b"")), true),
        ([method(1, 85, 10, &[0]), method(1, 60, 40, &publish), frame(2, 1, &head), frame(3, 1, body)].concat(), true),
    ] {
        stream.write_all(&said).await.expect("written");
        if answered {
            let mut answer = [0; 4096];
            let read = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut answer)).await.expect("an answer").expect("read");
            assert!(read > 0, "the broker closed the connection");
        }
    }
    // The confirm may come behind the answer to the request for confirms.
    tokio::time::sleep(Duration::from_millis(200)).await;
}
