//! What a device has to say, until the broker has taken it.
//!
//! rumqttc gives no receipt for a publish, forgets accepted ones when the broker lost the session, and blocks a caller
//! that publishes from the task that polls. So nothing is handed to it and forgotten: every message stays here, as a
//! [`Parcel`], until its PUBACK is in, and goes back to the front of the queue when the connection breaks. Sending never
//! waits: what the client's small channel cannot take stays in the queue until the event loop reports progress.
//!
//! ```text
//! waiting ──try_publish──▶ handed ──Outgoing::Publish(id)──▶ flying ──PubAck(id)──▶ gone, its requests acknowledged
//!    ▲                        │                                │
//!    └──────────────────── connection lost ────────────────────┘
//! ```

use std::collections::VecDeque;
use std::sync::Mutex;

use bytes::Bytes;
use rumqttc::v5::AsyncClient;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Filter, Publish, PublishProperties};
use uuid::Uuid;

/// Most messages that wait for the broker; beyond it the oldest one nobody waits for is dropped and counted.
pub(crate) const MAX_WAITING: usize = 256;
/// Room for what MQTT adds to a payload (topic, properties) when it is compared with the broker's largest packet.
const PACKET_OVERHEAD_BYTES: usize = 2048;

/// One message of the device.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub topic: String,
    pub payload: Bytes,
    pub retain: bool,
    pub properties: Option<PublishProperties>,
    /// Unix seconds after which nobody waits for it any more.
    pub void_after_unix: Option<i64>,
    /// Messages of one key replace each other while they wait: only the last word about a task matters.
    pub replaces: Option<Uuid>,
    /// Made anew at every connection (presence), so not kept over a loss.
    pub of_this_connection: bool,
}

/// A request that is acknowledged once the message it caused has been taken by the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Receipt {
    /// The connection it came over: a packet id means nothing on another one.
    pub connection: u64,
    pub packet: u16,
}

#[derive(Debug)]
struct Parcel {
    message: Message,
    acknowledges: Vec<Receipt>,
}

/// What became of a message, counted by the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    /// In the queue or on its way.
    Queued,
    /// Larger than the broker takes: dropped, because rumqttc would retry it for ever.
    TooLarge,
    /// Another message had to go for it.
    PushedOut,
}

/// The queue of one device.
#[derive(Debug)]
pub(crate) struct Outbox {
    client: AsyncClient,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    connection: u64,
    opened: u64,
    open: bool,
    closing: bool,
    max_packet_bytes: Option<usize>,
    waiting: VecDeque<Parcel>,
    handed: VecDeque<Parcel>,
    flying: Vec<(u16, Parcel)>,
    owed: VecDeque<u16>,
}

impl Outbox {
    pub(crate) fn new(client: AsyncClient) -> Self {
        Self { client, inner: Mutex::new(Inner::default()) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The number of the connection that is open or was last.
    pub(crate) fn connection(&self) -> u64 {
        self.lock().connection
    }

    /// How many connections came so far that the subscription stood.
    pub(crate) fn opened(&self) -> u64 {
        self.lock().opened
    }

    /// A connection exists; nothing is sent before [`Self::open`].
    pub(crate) fn connected(&self, max_packet_bytes: Option<usize>) {
        let mut inner = self.lock();
        inner.connection += 1;
        inner.max_packet_bytes = max_packet_bytes;
    }

    /// Asks for the requests of this device; nothing else is in the client's channel at that moment.
    pub(crate) fn subscribe(&self, filters: Vec<String>) -> Result<(), String> {
        let filters = filters.into_iter().map(|filter| Filter::new(filter, QoS::AtLeastOnce));
        self.client.try_subscribe_many(filters).map_err(|_| "the client did not take the subscription".to_owned())
    }

    /// The subscription stands: presence goes first, then all that waited.
    pub(crate) fn open(&self, presence: Message) {
        let mut inner = self.lock();
        inner.open = true;
        inner.opened += 1;
        inner.waiting.push_front(Parcel { message: presence, acknowledges: Vec::new() });
        inner.pump(&self.client);
    }

    /// The connection is gone. `forget` clears the client's own queues under the same lock, so that nothing is sent by
    /// both of us; all that was not taken by the broker waits again, in its old order.
    pub(crate) fn lost(&self, forget: impl FnOnce()) {
        let mut inner = self.lock();
        inner.open = false;
        inner.owed.clear();
        forget();
        let Inner { waiting, handed, flying, .. } = &mut *inner;
        let mut again: VecDeque<Parcel> =
            flying.drain(..).map(|(_, parcel)| parcel).chain(handed.drain(..)).chain(waiting.drain(..)).collect();
        again.retain(|parcel| !parcel.message.of_this_connection);
        *waiting = again;
        // An idle device holds no empty queues.
        handed.shrink_to_fit();
        flying.shrink_to_fit();
    }

    /// Queues a message; `acknowledges` are the requests it settles.
    pub(crate) fn send(&self, message: Message, acknowledges: Vec<Receipt>) -> Sent {
        let mut inner = self.lock();
        if inner.max_packet_bytes.is_some_and(|max| message.payload.len() + PACKET_OVERHEAD_BYTES > max) {
            return Sent::TooLarge;
        }
        if let Some(key) = message.replaces
            && let Some(old) = inner.waiting.iter_mut().find(|parcel| parcel.message.replaces == Some(key))
        {
            old.message = message;
            old.acknowledges.extend(acknowledges);
            return Sent::Queued;
        }
        let mut outcome = Sent::Queued;
        if inner.waiting.len() >= MAX_WAITING {
            inner.waiting.pop_front();
            outcome = Sent::PushedOut;
        }
        inner.waiting.push_back(Parcel { message, acknowledges });
        inner.pump(&self.client);
        outcome
    }

    /// Acknowledges a request that gets no answer.
    pub(crate) fn acknowledge(&self, receipt: Receipt) {
        let mut inner = self.lock();
        inner.owe(receipt);
        inner.pump(&self.client);
    }

    /// The event loop has given a publish its packet id.
    pub(crate) fn published(&self, packet: u16) {
        let mut inner = self.lock();
        if let Some(parcel) = inner.handed.pop_front() {
            inner.flying.push((packet, parcel));
        }
        inner.pump(&self.client);
    }

    /// The broker has taken (or refused) a publish; either way it is not sent again.
    pub(crate) fn taken(&self, packet: u16) {
        let mut inner = self.lock();
        if let Some(place) = inner.flying.iter().position(|(id, _)| *id == packet) {
            let (_, parcel) = inner.flying.remove(place);
            for receipt in parcel.acknowledges {
                inner.owe(receipt);
            }
        }
        inner.pump(&self.client);
    }

    /// The event loop made progress, so its channel may have room.
    pub(crate) fn pump(&self) {
        self.lock().pump(&self.client);
    }

    /// Says goodbye: `offline` is sent after all that waits, then the connection is closed. False when none is open.
    pub(crate) fn close(&self, offline: Message) -> bool {
        let mut inner = self.lock();
        if !inner.open {
            return false;
        }
        inner.closing = true;
        inner.waiting.push_back(Parcel { message: offline, acknowledges: Vec::new() });
        inner.pump(&self.client);
        true
    }
}

impl Inner {
    fn owe(&mut self, receipt: Receipt) {
        // A request of an earlier connection is delivered again by the broker, and acknowledged then.
        if receipt.connection == self.connection {
            self.owed.push_back(receipt.packet);
        }
    }

    fn pump(&mut self, client: &AsyncClient) {
        if !self.open {
            return;
        }
        while let Some(&packet) = self.owed.front() {
            let request = Publish { qos: QoS::AtLeastOnce, pkid: packet, ..Publish::default() };
            if client.try_ack(&request).is_err() {
                return;
            }
            self.owed.pop_front();
        }
        while let Some(parcel) = self.waiting.front() {
            let message = &parcel.message;
            let void = message.void_after_unix.is_some_and(|until| until < time::OffsetDateTime::now_utc().unix_timestamp());
            let too_large = self.max_packet_bytes.is_some_and(|max| message.payload.len() + PACKET_OVERHEAD_BYTES > max);
            if void || too_large {
                let parcel = self.waiting.pop_front().expect("the front was just looked at");
                for receipt in parcel.acknowledges {
                    self.owe(receipt);
                }
                continue;
            }
            let (topic, payload) = (message.topic.clone(), message.payload.clone());
            let accepted = match message.properties.clone() {
                Some(properties) => client.try_publish_with_properties(topic, QoS::AtLeastOnce, message.retain, payload, properties),
                None => client.try_publish(topic, QoS::AtLeastOnce, message.retain, payload),
            };
            if accepted.is_err() {
                return;
            }
            let parcel = self.waiting.pop_front().expect("the front was just sent");
            self.handed.push_back(parcel);
        }
        if self.closing && self.handed.is_empty() && self.flying.is_empty() && client.try_disconnect().is_ok() {
            self.closing = false;
            self.open = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rumqttc::v5::{EventLoop, MqttOptions};

    fn outbox(room: usize) -> (Outbox, EventLoop) {
        let (client, events) = AsyncClient::new(MqttOptions::new("t", "localhost", 1), room);
        let outbox = Outbox::new(client);
        outbox.connected(None);
        (outbox, events)
    }

    fn message(text: &str) -> Message {
        Message {
            topic: "t".to_owned(),
            payload: Bytes::copy_from_slice(text.as_bytes()),
            retain: false,
            properties: None,
            void_after_unix: None,
            replaces: None,
            of_this_connection: text == "presence",
        }
    }

    fn texts(parcels: &VecDeque<Parcel>) -> Vec<String> {
        parcels.iter().map(|p| String::from_utf8_lossy(&p.message.payload).into_owned()).collect()
    }

    #[tokio::test]
    async fn a_lost_connection_puts_everything_back_in_order() {
        let (outbox, mut events) = outbox(2);
        outbox.send(message("a"), Vec::new());
        outbox.open(message("presence"));
        for text in ["b", "c"] {
            outbox.send(message(text), Vec::new());
        }
        outbox.published(1);
        outbox.published(2);
        assert_eq!(outbox.lock().flying.len(), 2, "presence and a fly; the channel of two is full, so b and c wait");
        outbox.lost(|| {
            events.clean();
            events.pending.clear();
        });
        assert_eq!(texts(&outbox.lock().waiting), ["a", "b", "c"], "presence is made anew, the rest waits again");
    }

    #[tokio::test]
    async fn a_request_is_acknowledged_only_on_its_own_connection() {
        let (outbox, mut events) = outbox(8);
        outbox.open(message("presence"));
        let receipt = Receipt { connection: outbox.connection(), packet: 7 };
        outbox.send(message("answer"), vec![receipt]);
        outbox.published(1);
        outbox.published(2);
        outbox.taken(2);
        assert!(outbox.lock().owed.is_empty(), "the acknowledgement went into the client's channel");
        outbox.lost(|| events.clean());
        outbox.connected(None);
        outbox.lock().owe(receipt);
        assert!(outbox.lock().owed.is_empty(), "a receipt of the old connection means nothing on the new one");
    }

    #[tokio::test]
    async fn the_queue_is_bounded_and_the_last_word_about_a_task_replaces_the_one_before() {
        let (outbox, _events) = outbox(2);
        let key = Some(Uuid::from_u128(1));
        outbox.send(Message { replaces: key, ..message("running") }, Vec::new());
        outbox.send(Message { replaces: key, ..message("completed") }, Vec::new());
        assert_eq!(texts(&outbox.lock().waiting), ["completed"]);
        for _ in 1..MAX_WAITING {
            assert_eq!(outbox.send(message("x"), Vec::new()), Sent::Queued);
        }
        assert_eq!(outbox.send(message("x"), Vec::new()), Sent::PushedOut);
        assert_eq!(outbox.lock().waiting.len(), MAX_WAITING);
    }

    #[tokio::test]
    async fn what_the_broker_cannot_take_is_refused_before_it_poisons_the_client() {
        let (client, _events) = AsyncClient::new(MqttOptions::new("t", "localhost", 1), 4);
        let outbox = Outbox::new(client);
        outbox.connected(Some(PACKET_OVERHEAD_BYTES + 10));
        assert_eq!(outbox.send(message("short"), Vec::new()), Sent::Queued);
        assert_eq!(outbox.send(message("longer than ten bytes"), Vec::new()), Sent::TooLarge);
    }
}
