//! The MQTT session: connect, reconnect, subscribe, publish, acknowledge.
//!
//! The client library has traps (lost publishes and subscriptions when the broker has no session, acknowledgements that
//! belong to an earlier connection, a deadlock between its request channel and its event loop). All are handled here, and
//! the rest of the crate knows MQTT only as "publish this" and "here is a message; tell me when it is committed":
//!
//! * The session is persistent, so answers that arrive while we are down wait at the broker.
//! * Nothing is acknowledged by the library. [`Ack`]s go through a queue of their own: the event loop must never wait for a
//!   consumer that itself waits for the event loop. The queue has a place for each packet id there is; the Receive Maximum, which we set,
//!   bounds it too, but Mosquitto 2.0.11 oversteps it.
//! * An acknowledgement of an earlier connection is dropped: packet ids start anew, the broker sends the message again.
//! * Publishes that die with a connection are not tracked here. The request stays `dispatched` in the database and is sent
//!   again when its lease ends; the device knows it by its correlation data.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use muster_wire::topic::{Filters, Prefix};
use rand::Rng;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnectProperties, Filter, Packet, Publish, PublishProperties, RetainForwardRule, Subscribe};
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions as ClientOptions, Request};
use rumqttc::{TlsConfiguration, Transport};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::MqttOptions;

/// Most messages the broker may have delivered to us without an acknowledgement. Brokers drop what exceeds their queue for
/// us, so this is the largest the protocol allows (Mosquitto lost 20–43 % of a job's answers without it).
pub const RECEIVE_MAXIMUM: u16 = u16::MAX;
/// Most publishes of ours the broker has not acknowledged. The library allocates a table of this size.
pub(crate) const OUTGOING_IN_FLIGHT: u16 = 1000;
/// Largest packet we take, in bytes: the largest message of the contract and its properties.
pub const MAX_PACKET_BYTES: u32 = 512 * 1024;
/// How long the broker keeps our session while we are away, in seconds.
pub(crate) const SESSION_EXPIRY_SECONDS: u32 = 7 * 24 * 3600;
/// Requests handed to the event loop and not yet written. Small: it is lost with the connection.
const REQUEST_CHANNEL: usize = 128;
const KEEP_ALIVE: Duration = Duration::from_secs(30);
const RECONNECT_FIRST: Duration = Duration::from_millis(100);
const RECONNECT_MAX: Duration = Duration::from_secs(15);

/// Why the session cannot be set up. Everything later is retried.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// Not an MQTT URL.
    #[error("mqtt.url {url:?}: {why}; it looks like mqtt://host:1883 or mqtts://host:8883")]
    Url {
        /// As configured.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// Roots cannot be read.
    #[error("mqtt.ca_file {path}: {why}")]
    CaFile {
        /// As configured.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// A caller id stands in topics.
    #[error("mqtt.client_id {0:?}: use 1 to 64 of A-Z a-z 0-9 - _ .")]
    ClientId(String),
}

/// A message with the permission to acknowledge it.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) publish: Publish,
    pub(crate) ack: Ack,
}

/// To be given back once the message's effect is committed. Dropping it leaves the message with the broker.
#[derive(Debug)]
pub struct Ack {
    pkid: u16,
    epoch: u64,
    queue: mpsc::Sender<Ack>,
}

impl Ack {
    /// As if this packet had come in.
    #[cfg(test)]
    pub(crate) fn of_packet(pkid: u16, queue: mpsc::Sender<Ack>) -> Self {
        Self { pkid, epoch: 1, queue }
    }

    /// The effect is committed; the broker may forget the message.
    pub fn done(self) {
        if self.pkid != 0 {
            let queue = self.queue.clone();
            // It has room for all the broker may leave unacknowledged. A closed queue means shutdown: the broker keeps the message, which
            // is what an unacknowledged message is for.
            let _ = queue.try_send(self);
        }
    }
}

/// The publishing half; cheap to clone.
#[derive(Clone)]
pub(crate) struct Session {
    client: AsyncClient,
    shared: Arc<Shared>,
    pub(crate) prefix: Prefix,
    pub(crate) caller: String,
}

#[derive(Default)]
struct Shared {
    connected: AtomicBool,
    epoch: AtomicU64,
    /// Largest packet the broker takes, from CONNACK.
    broker_max_packet: AtomicU64,
    refused_publishes: AtomicU64,
}

/// A publish that cannot be handed over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PublishError {
    #[error("the message has {size} bytes, the broker takes {limit}")]
    TooLarge { size: usize, limit: u64 },
    #[error("the session has ended")]
    Ended,
    #[error("the broker takes no more at the moment")]
    Busy,
}

/// The parts to run: pass them to [`run`].
pub(crate) struct Driver {
    event_loop: EventLoop,
    client: AsyncClient,
    filters: Vec<String>,
    shared: Arc<Shared>,
    deliveries: mpsc::Sender<Delivery>,
    acks: (mpsc::Sender<Ack>, mpsc::Receiver<Ack>),
    broker: String,
}

/// Prepares a session; nothing is connected yet. Without `with_alerts` it does not ask for alerts, and the broker keeps none for it.
pub(crate) fn prepare(
    options: &MqttOptions,
    with_alerts: bool,
    deliveries: mpsc::Sender<Delivery>,
) -> Result<(Session, Driver), SessionError> {
    let client_options = client_options(options)?;
    let (host, port) = client_options.broker_address();
    let (client, mut event_loop) = AsyncClient::new(client_options, REQUEST_CHANNEL);
    let mut network = rumqttc::NetworkOptions::new();
    // 44 ms per round trip without it: Nagle waits for the delayed acknowledgement of the peer.
    network.set_tcp_nodelay(true);
    event_loop.options.set_network_options(network);
    let shared = Arc::new(Shared::default());
    shared.broker_max_packet.store(u64::MAX, Ordering::Relaxed);
    let filters = Filters(&options.prefix);
    let session =
        Session { client: client.clone(), shared: shared.clone(), prefix: options.prefix.clone(), caller: options.client_id.clone() };
    let alerts = with_alerts.then(|| filters.alerts());
    let filters = [filters.answers_to(&options.client_id), filters.answers_311(), filters.task_status(), filters.states()];
    let filters = filters.into_iter().chain(alerts).collect();
    let driver = Driver {
        event_loop,
        client,
        filters,
        shared,
        deliveries,
        acks: mpsc::channel(RECEIVE_MAXIMUM as usize),
        broker: format!("{host}:{port}"),
    };
    Ok((session, driver))
}

fn client_options(options: &MqttOptions) -> Result<ClientOptions, SessionError> {
    if !muster_wire::topic::is_caller(&options.client_id) {
        return Err(SessionError::ClientId(options.client_id.clone()));
    }
    let bad = |why: &str| SessionError::Url { url: options.url.clone(), why: why.to_owned() };
    let url = url::Url::parse(&options.url).map_err(|error| bad(&error.to_string()))?;
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(|| bad("it names no host"))?;
    let (tls, default_port) = match url.scheme() {
        "mqtt" => (false, 1883),
        "mqtts" => (true, 8883),
        other => return Err(bad(&format!("scheme {other:?} is not known"))),
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Err(bad("credentials do not belong into the URL; use mqtt.username and mqtt.password_file"));
    }
    let mut client = ClientOptions::new(&options.client_id, host.trim_matches(['[', ']']), url.port().unwrap_or(default_port));
    client.set_keep_alive(KEEP_ALIVE);
    client.set_clean_start(false);
    client.set_manual_acks(true);
    client.set_outgoing_inflight_upper_limit(OUTGOING_IN_FLIGHT);
    client.set_connect_properties(ConnectProperties {
        session_expiry_interval: Some(SESSION_EXPIRY_SECONDS),
        receive_maximum: Some(RECEIVE_MAXIMUM),
        max_packet_size: Some(MAX_PACKET_BYTES),
        ..ConnectProperties::new()
    });
    if let (Some(username), Some(password)) = (&options.username, &options.password) {
        client.set_credentials(username, password);
    }
    if tls {
        client.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::new(tls_config(options)?))));
    }
    Ok(client)
}

fn tls_config(options: &MqttOptions) -> Result<rustls::ClientConfig, SessionError> {
    use rustls_pki_types::CertificateDer;
    use rustls_pki_types::pem::PemObject;
    let mut roots = rustls::RootCertStore::empty();
    match &options.ca_file {
        Some(path) => {
            let fail = |why: String| SessionError::CaFile { path: path.display().to_string(), why };
            for certificate in CertificateDer::pem_file_iter(path).map_err(|error| fail(error.to_string()))? {
                roots.add(certificate.map_err(|error| fail(error.to_string()))?).map_err(|error| fail(error.to_string()))?;
            }
            if roots.is_empty() {
                return Err(fail("no certificate in it".to_owned()));
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    Ok(rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
}

impl Session {
    /// Whether the broker is there.
    pub(crate) fn is_connected(&self) -> bool {
        self.shared.connected.load(Ordering::Acquire)
    }

    /// How often a connection was made.
    pub(crate) fn connections(&self) -> u64 {
        self.shared.epoch.load(Ordering::Relaxed)
    }

    /// Publishes the broker refused (no permission, quota).
    pub(crate) fn refused_publishes(&self) -> u64 {
        self.shared.refused_publishes.load(Ordering::Relaxed)
    }

    /// Hands a QoS 1 publish to the event loop; waits while the broker is slow.
    pub(crate) async fn publish(&self, topic: String, properties: PublishProperties, payload: Bytes) -> Result<(), PublishError> {
        self.check_size(&topic, &payload)?;
        self.client.publish_with_properties(topic, QoS::AtLeastOnce, false, payload, properties).await.map_err(|_| PublishError::Ended)
    }

    /// The same without waiting: for what is only a repetition, and comes again. A broker that stands still must not hold up looks.
    pub(crate) fn try_publish(&self, topic: String, properties: PublishProperties, payload: Bytes) -> Result<(), PublishError> {
        self.check_size(&topic, &payload)?;
        self.client.try_publish_with_properties(topic, QoS::AtLeastOnce, false, payload, properties).map_err(|_| PublishError::Busy)
    }

    fn check_size(&self, topic: &str, payload: &Bytes) -> Result<(), PublishError> {
        let size = topic.len() + payload.len() + 1024;
        let limit = self.shared.broker_max_packet.load(Ordering::Relaxed);
        // The library would retry a too large publish for ever, at once, and nothing else would pass.
        if size as u64 > limit {
            return Err(PublishError::TooLarge { size, limit });
        }
        Ok(())
    }
}

/// Runs until `stop`, through any number of connections.
pub(crate) async fn run(driver: Driver, stop: CancellationToken) {
    let Driver { mut event_loop, client, filters, shared, deliveries, acks: (ack_queue, ack_receiver), broker } = driver;
    let acknowledger = tokio::spawn(acknowledge(client.clone(), shared.clone(), ack_receiver, stop.clone()));
    let mut wait = RECONNECT_FIRST;
    let mut first_connection = true;
    let mut was_down = false;
    loop {
        let event = tokio::select! {
            event = event_loop.poll() => event,
            () = stop.cancelled() => break,
        };
        match event {
            Ok(Event::Incoming(Packet::ConnAck(connack))) => {
                let epoch = shared.epoch.fetch_add(1, Ordering::AcqRel) + 1;
                let max_packet = connack.properties.and_then(|p| p.max_packet_size).map_or(u64::MAX, u64::from);
                shared.broker_max_packet.store(max_packet, Ordering::Relaxed);
                shared.connected.store(true, Ordering::Release);
                metrics::gauge!("muster_mqtt_connected").set(1.0);
                metrics::counter!("muster_mqtt_connections_total").increment(1);
                tracing::info!(broker, epoch, session_present = connack.session_present, "connected to the broker");
                wait = RECONNECT_FIRST;
                was_down = false;
                // At every connection: a broker that was killed comes back with what it had last saved, and that may be our session
                // without its subscriptions. All retained births once per process; later only where the subscription is new to the
                // broker, or 18,000 births come again.
                let rule = if first_connection { RetainForwardRule::OnEverySubscribe } else { RetainForwardRule::OnNewSubscribe };
                let filters = filters.iter().map(|path| {
                    let mut filter = Filter::new(path.clone(), QoS::AtLeastOnce);
                    filter.retain_forward_rule = rule.clone();
                    filter
                });
                // In front of all that waits, and not through the request channel, which publishers may have filled.
                event_loop.pending.push_front(Request::Subscribe(Subscribe::new_many(filters, None)));
                first_connection = false;
            }
            Ok(Event::Incoming(Packet::Publish(publish))) => {
                let ack = Ack { pkid: publish.pkid, epoch: shared.epoch.load(Ordering::Acquire), queue: ack_queue.clone() };
                tokio::select! {
                    sent = deliveries.send(Delivery { publish, ack }) => if sent.is_err() { break },
                    () = stop.cancelled() => break,
                }
            }
            Ok(Event::Incoming(Packet::PubAck(ack))) => {
                use rumqttc::v5::mqttbytes::v5::PubAckReason;
                if !matches!(ack.reason, PubAckReason::Success | PubAckReason::NoMatchingSubscribers) {
                    metrics::counter!("muster_mqtt_publishes_refused_total").increment(1);
                    if shared.refused_publishes.fetch_add(1, Ordering::Relaxed).is_power_of_two() {
                        tracing::warn!(broker, reason = ?ack.reason, "the broker refuses publishes; check the permissions of this client");
                    }
                }
            }
            Ok(Event::Incoming(Packet::SubAck(ack))) => {
                use rumqttc::v5::mqttbytes::v5::SubscribeReasonCode;
                if ack.return_codes.iter().any(|code| !matches!(code, SubscribeReasonCode::Success(_))) {
                    tracing::error!(broker, codes = ?ack.return_codes, "the broker refused a subscription; answers will not arrive");
                }
            }
            Ok(_) => {}
            Err(error) => {
                shared.connected.store(false, Ordering::Release);
                metrics::gauge!("muster_mqtt_connected").set(0.0);
                if !was_down {
                    tracing::warn!(broker, %error, "the connection to the broker is down; retrying");
                    was_down = true;
                }
                let jittered = wait.mul_f64(rand::rng().random_range(0.5..1.5));
                tokio::select! {
                    () = tokio::time::sleep(jittered) => {}
                    () = stop.cancelled() => break,
                }
                wait = (wait * 2).min(RECONNECT_MAX);
            }
        }
    }
    shared.connected.store(false, Ordering::Release);
    // What is queued (last answers' acknowledgements, DISCONNECT) goes out within a short, bounded time.
    let _ = client.try_disconnect();
    let _ = tokio::time::timeout(Duration::from_millis(500), async { while event_loop.poll().await.is_ok() {} }).await;
    acknowledger.abort();
}

/// Moves acknowledgements to the event loop, so that whoever commits never waits for it.
async fn acknowledge(client: AsyncClient, shared: Arc<Shared>, mut queue: mpsc::Receiver<Ack>, stop: CancellationToken) {
    while let Some(ack) = tokio::select! { ack = queue.recv() => ack, () = stop.cancelled() => None } {
        if ack.epoch != shared.epoch.load(Ordering::Acquire) || !shared.connected.load(Ordering::Acquire) {
            continue;
        }
        let publish = Publish { qos: QoS::AtLeastOnce, pkid: ack.pkid, ..Publish::default() };
        if client.ack(&publish).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_url_is_named_with_the_reason() {
        for (url, part) in [("localhost", "relative URL"), ("http://x", "scheme"), ("mqtt://", "no host"), ("mqtt://u:p@h", "credentials")]
        {
            let error = client_options(&MqttOptions { url: url.to_owned(), ..MqttOptions::default() }).expect_err("refused").to_string();
            assert!(error.contains(part) || error.contains("empty host"), "{url}: {error}");
            assert!(error.contains("mqtt.url"));
        }
        let options = MqttOptions { client_id: "a/b".to_owned(), ..MqttOptions::default() };
        assert!(matches!(client_options(&options), Err(SessionError::ClientId(_))));
    }
}
