//! Carries messages of the device contract from one MQTT 5 broker to another: payload, properties and retain flag as they are.
//!
//! A [`Lane`] is one direction: a persistent session that receives at the first broker, and a connection that publishes to the second. A
//! message is acknowledged to the first once the second has acknowledged it. When either connection dies both are made anew, and the first
//! broker delivers again what was under way: nothing is lost, and some messages come twice, which the contract allows.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use muster_wire::DeviceId;
use muster_wire::topic::{Filters, Prefix};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnectProperties, Filter, Packet, PubAckReason, Publish, Subscribe, SubscribeReasonCode};
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions, Request};
use rumqttc::{NetworkOptions, Outgoing};
use tokio::sync::{mpsc, watch};

/// Messages under way in one lane. The receiving session announces it as its Receive Maximum and all queues have this size, so nothing here
/// ever waits for room.
const WINDOW: u16 = 1000;
/// Filters in one SUBSCRIBE.
const FILTERS_AT_ONCE: usize = 100;
/// Larger than anything the contract allows.
const MAX_PACKET_BYTES: u32 = 1 << 20;
/// The broker keeps what is for a lane while the lane is made anew.
const SESSION_EXPIRY_SECONDS: u32 = 3600;
const RECONNECT_WAIT: Duration = Duration::from_millis(200);

/// What devices say.
pub fn up(prefix: &Prefix) -> Vec<String> {
    let filters = Filters(prefix);
    vec![filters.answers_to("+"), filters.answers_311(), filters.task_status(), filters.alerts(), filters.states()]
}

/// What these devices are asked.
pub fn down(prefix: &Prefix, devices: &[DeviceId]) -> Vec<String> {
    devices.iter().map(|device| Filters(prefix).requests_to(device)).collect()
}

/// One direction between two brokers on this machine. Ends when dropped.
#[derive(Debug)]
pub struct Lane {
    carried: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

struct Plan {
    /// Of the sessions; unique at both brokers.
    name: String,
    from: u16,
    to: u16,
    filters: Vec<String>,
    carried: Arc<AtomicU64>,
    open: watch::Sender<bool>,
}

impl Lane {
    /// Starts a lane between the brokers at two ports and waits until it is open: what matches the filters from now on arrives.
    pub async fn open(name: &str, from: u16, to: u16, filters: Vec<String>) -> Self {
        let (open, mut opened) = watch::channel(false);
        let carried = Arc::new(AtomicU64::new(0));
        let plan = Plan { name: name.to_owned(), from, to, filters, carried: carried.clone(), open };
        let lane = Self { carried, task: tokio::spawn(plan.run()) };
        opened.wait_for(|open| *open).await.expect("a lane does not end by itself");
        lane
    }

    /// Messages that arrived at the second broker.
    pub fn carried(&self) -> u64 {
        self.carried.load(Ordering::Relaxed)
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Plan {
    async fn run(self) {
        loop {
            let Err(error) = self.connected().await;
            eprintln!("{}: {error:#}; connecting again", self.name);
            tokio::time::sleep(RECONNECT_WAIT).await;
        }
    }

    /// One pair of connections, until one of them dies.
    async fn connected(&self) -> Result<Infallible> {
        let (source, source_events) = client(&format!("{}-from", self.name), self.from, false);
        let (sink, sink_events) = client(&format!("{}-to", self.name), self.to, true);
        // Packet ids at the first broker, in the order in which they went to the second.
        let (sent, to_be_numbered) = mpsc::channel(WINDOW.into());
        tokio::select! {
            end = self.receive(source_events, &sink, sent) => end.context("receiving"),
            end = self.publish(sink_events, &source, to_be_numbered) => end.context("publishing"),
        }
    }

    async fn receive(&self, mut events: EventLoop, sink: &AsyncClient, sent: mpsc::Sender<u16>) -> Result<Infallible> {
        let mut subscribing = 0;
        loop {
            match events.poll().await? {
                // Also when the broker remembers us: births come again then, and the other broker may have forgotten them.
                Event::Incoming(Packet::ConnAck(_)) => {
                    let batches = self.filters.chunks(FILTERS_AT_ONCE);
                    subscribing = batches.len();
                    events.pending.extend(batches.map(subscribe));
                }
                Event::Incoming(Packet::SubAck(ack)) => {
                    let refused = |code: &&SubscribeReasonCode| !matches!(code, SubscribeReasonCode::Success(_));
                    ensure!(!ack.return_codes.iter().any(|code| refused(&code)), "a subscription was refused: {:?}", ack.return_codes);
                    subscribing -= 1;
                    if subscribing == 0 {
                        self.open.send_replace(true);
                    }
                }
                Event::Incoming(Packet::Publish(publish)) => {
                    let Publish { qos, retain, topic, pkid, payload, properties, .. } = publish;
                    sent.try_send(pkid)?;
                    let topic = String::from_utf8(topic.into())?;
                    sink.try_publish_with_properties(topic, qos, retain, payload, properties.unwrap_or_default())?;
                }
                _ => {}
            }
        }
    }

    async fn publish(&self, mut events: EventLoop, source: &AsyncClient, mut sent: mpsc::Receiver<u16>) -> Result<Infallible> {
        // Packet id at the first broker, by packet id at the second.
        let mut under_way = vec![0; usize::from(WINDOW) + 1];
        loop {
            match events.poll().await? {
                Event::Outgoing(Outgoing::Publish(pkid)) => under_way[usize::from(pkid)] = sent.try_recv()?,
                Event::Incoming(Packet::PubAck(ack)) => {
                    let taken = matches!(ack.reason, PubAckReason::Success | PubAckReason::NoMatchingSubscribers);
                    ensure!(taken, "a message was refused: {:?}", ack.reason);
                    let pkid = under_way[usize::from(ack.pkid)];
                    source.try_ack(&Publish { qos: QoS::AtLeastOnce, pkid, ..Publish::default() })?;
                    self.carried.fetch_add(1, Ordering::Relaxed);
                }
                _ => {}
            }
        }
    }
}

fn subscribe(filters: &[String]) -> Request {
    let filters = filters.iter().map(|path| {
        let mut filter = Filter::new(path.clone(), QoS::AtLeastOnce);
        // Without it a birth or a will arrives as if it were not retained.
        filter.preserve_retain = true;
        filter
    });
    Request::Subscribe(Subscribe::new_many(filters, None))
}

fn client(name: &str, port: u16, clean_start: bool) -> (AsyncClient, EventLoop) {
    let mut options = MqttOptions::new(name, "127.0.0.1", port);
    options.set_keep_alive(Duration::from_secs(30));
    options.set_clean_start(clean_start);
    options.set_manual_acks(true);
    options.set_outgoing_inflight_upper_limit(WINDOW);
    options.set_connect_properties(ConnectProperties {
        session_expiry_interval: (!clean_start).then_some(SESSION_EXPIRY_SECONDS),
        receive_maximum: Some(WINDOW),
        max_packet_size: Some(MAX_PACKET_BYTES),
        ..ConnectProperties::new()
    });
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    options.set_network_options(network);
    AsyncClient::new(options, WINDOW.into())
}
