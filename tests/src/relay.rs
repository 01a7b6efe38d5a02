//! Carries messages of the device contract from one MQTT 5 broker to another: payload, properties and retain flag as they are.
//!
//! A [`Lane`] is one direction: a persistent session that receives at the first broker, and a connection that publishes to the second. A
//! message crosses with its packet id, and the second broker's acknowledgement goes back to the first as it is, so there is nothing to
//! remember. When either connection dies both are made anew, and the first broker delivers again what was under way: nothing is lost, and
//! some messages come twice, which the contract allows.
//!
//! Of the client library it uses the packets only. Its event loop writes one packet at a time and reads ten before it writes again, which
//! piles up acknowledgements when much comes in.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::BytesMut;
use muster_wire::DeviceId;
use muster_wire::topic::{Filters, Prefix};
use rumqttc::v5::mqttbytes::v5::{
    Connect, ConnectProperties, ConnectReturnCode, Filter, Packet, PubAck, PubAckReason, Subscribe, SubscribeReasonCode,
};
use rumqttc::v5::mqttbytes::{Error, QoS};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Semaphore, watch};

/// Messages under way in one lane. Announced as Receive Maximum, and held here as well: Mosquitto 2.0.11 sends more than that as soon as the
/// first is acknowledged.
const WINDOW: u16 = 1000;
/// Filters in one SUBSCRIBE.
const FILTERS_AT_ONCE: usize = 100;
/// Larger than anything the contract allows.
const MAX_PACKET_BYTES: u32 = 1 << 20;
/// Room for each read, and the most that is gathered before it is written.
const BUFFER_BYTES: usize = 64 * 1024;
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
        let (source, mut to_source) = connect(&format!("{}-from", self.name), self.from, false).await?;
        let (sink, to_sink) = connect(&format!("{}-to", self.name), self.to, true).await?;
        // Also when the broker remembers us: births come again then, and the other broker may have forgotten them.
        let batches = self.filters.chunks(FILTERS_AT_ONCE);
        let subscribing = batches.len();
        for (filters, number) in batches.zip(1..) {
            to_source.write(&subscribe(filters, number)).await?;
        }
        to_source.flush().await?;
        let window = Semaphore::new(WINDOW.into());
        tokio::select! {
            end = self.messages(source, to_sink, &window, subscribing) => end.context("receiving"),
            end = self.acknowledgements(sink, to_source, &window) => end.context("publishing"),
        }
    }

    async fn messages(&self, mut source: Reader, mut sink: Writer, window: &Semaphore, mut subscribing: usize) -> Result<Infallible> {
        loop {
            match source.next(&mut sink).await? {
                Packet::Publish(mut publish) => {
                    if publish.qos != QoS::AtMostOnce {
                        if window.available_permits() == 0 {
                            sink.flush().await?;
                        }
                        window.acquire().await?.forget();
                    }
                    // To the second broker it is the first time.
                    publish.dup = false;
                    sink.write(&Packet::Publish(publish)).await?;
                }
                Packet::SubAck(ack) => {
                    let taken = ack.return_codes.iter().all(|code| matches!(code, SubscribeReasonCode::Success(_)));
                    ensure!(taken, "a subscription was refused: {:?}", ack.return_codes);
                    subscribing -= 1;
                    if subscribing == 0 {
                        self.open.send_replace(true);
                    }
                }
                other => bail!("the broker sent {other:?}"),
            }
        }
    }

    async fn acknowledgements(&self, mut sink: Reader, mut source: Writer, window: &Semaphore) -> Result<Infallible> {
        loop {
            match sink.next(&mut source).await? {
                Packet::PubAck(ack) => {
                    let taken = matches!(ack.reason, PubAckReason::Success | PubAckReason::NoMatchingSubscribers);
                    ensure!(taken, "a message was refused: {:?}", ack.reason);
                    source.write(&Packet::PubAck(PubAck::new(ack.pkid, None))).await?;
                    window.add_permits(1);
                    self.carried.fetch_add(1, Ordering::Relaxed);
                }
                other => bail!("the broker sent {other:?}"),
            }
        }
    }
}

struct Reader {
    socket: OwnedReadHalf,
    bytes: BytesMut,
}

impl Reader {
    /// The next packet. Before it waits for one, what is gathered for the other broker goes out.
    async fn next(&mut self, other: &mut Writer) -> Result<Packet> {
        loop {
            match Packet::read(&mut self.bytes, Some(MAX_PACKET_BYTES)) {
                Ok(packet) => return Ok(packet),
                Err(Error::InsufficientBytes(_)) => {}
                Err(error) => return Err(error.into()),
            }
            other.flush().await?;
            self.bytes.reserve(BUFFER_BYTES);
            ensure!(self.socket.read_buf(&mut self.bytes).await? > 0, "the broker closed the connection");
        }
    }
}

struct Writer {
    socket: OwnedWriteHalf,
    bytes: BytesMut,
}

impl Writer {
    async fn write(&mut self, packet: &Packet) -> Result<()> {
        packet.write(&mut self.bytes, None)?;
        if self.bytes.len() >= BUFFER_BYTES {
            self.flush().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<()> {
        self.socket.write_all_buf(&mut self.bytes).await?;
        Ok(())
    }
}

async fn connect(name: &str, port: u16, clean_start: bool) -> Result<(Reader, Writer)> {
    let socket = TcpStream::connect(("127.0.0.1", port)).await.with_context(|| format!("port {port}"))?;
    socket.set_nodelay(true)?;
    let (read, write) = socket.into_split();
    let (mut reader, mut writer) = (Reader { socket: read, bytes: BytesMut::new() }, Writer { socket: write, bytes: BytesMut::new() });
    let connect = Connect {
        // None: a broker on the same machine that is gone closes its connections.
        keep_alive: 0,
        client_id: name.to_owned(),
        clean_start,
        properties: Some(ConnectProperties {
            session_expiry_interval: (!clean_start).then_some(SESSION_EXPIRY_SECONDS),
            receive_maximum: Some(WINDOW),
            max_packet_size: Some(MAX_PACKET_BYTES),
            ..ConnectProperties::new()
        }),
    };
    writer.write(&Packet::Connect(connect, None, None)).await?;
    match reader.next(&mut writer).await? {
        Packet::ConnAck(ack) if ack.code == ConnectReturnCode::Success => {
            let most = ack.properties.and_then(|properties| properties.receive_max);
            ensure!(
                most.is_none_or(|most| most >= WINDOW),
                "the broker takes only {most:?} messages at once; its max_inflight_messages must be 0"
            );
            Ok((reader, writer))
        }
        other => bail!("the broker refused the connection: {other:?}"),
    }
}

fn subscribe(filters: &[String], number: u16) -> Packet {
    let filters = filters.iter().map(|path| {
        let mut filter = Filter::new(path.clone(), QoS::AtLeastOnce);
        // Without it a birth or a will arrives as if it were not retained.
        filter.preserve_retain = true;
        filter
    });
    Packet::Subscribe(Subscribe { pkid: number, ..Subscribe::new_many(filters, None) })
}
