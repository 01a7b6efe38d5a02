//! The MQTT session of one device: connect, subscribe, say who we are, hand requests on, say goodbye.
//!
//! One task per device polls the client's event loop and does nothing that waits; requests run in tasks of their own
//! that exist only while they are worked on. So an idle device costs its connection and little else.

pub(crate) mod broker;
pub(crate) mod envelope;
pub(crate) mod outbox;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::Rng;
use rumqttc::Outgoing;
use rumqttc::v5::mqttbytes::v5::{ConnAck, Packet, PubAckReason, SubscribeReasonCode};
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::consent::SAID_AGAIN_EVERY;
use crate::device::Device;
use broker::CHANNEL;

/// First wait after a lost connection; doubled each time, with jitter.
pub(crate) const FIRST_RECONNECT_WAIT: Duration = Duration::from_millis(250);
/// Longest wait between two tries.
pub(crate) const LONGEST_RECONNECT_WAIT: Duration = Duration::from_secs(30);
/// A connection that lived this long was a good one: the next loss starts with the first wait again.
const GOOD_CONNECTION: Duration = Duration::from_secs(10);
/// How long a goodbye may take.
pub(crate) const GOODBYE_LIMIT: Duration = Duration::from_secs(5);

/// Cuts a connection from inside, for a while. Only scripted faults do that.
#[derive(Debug, Default)]
pub(crate) struct Cut {
    asked: Notify,
    away_ms: AtomicU64,
}

impl Cut {
    pub(crate) fn ask(&self, away: Duration) {
        self.away_ms.store(u64::try_from(away.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.asked.notify_one();
    }

    fn away(&self) -> Duration {
        Duration::from_millis(self.away_ms.load(Ordering::Relaxed))
    }
}

/// A client and its event loop, made small: an idle device should cost its buffers and nothing more.
pub(crate) fn client(options: MqttOptions) -> (AsyncClient, EventLoop) {
    let (client, mut events) = AsyncClient::new(options, CHANNEL);
    // The library reserves room for a hundred events; a device sees a handful at a time.
    events.state.events = std::collections::VecDeque::new();
    (client, events)
}

enum End {
    Stopped,
    Cut(Duration),
    Lost(String),
}

/// Keeps a device connected until `stop`; then says goodbye within [`GOODBYE_LIMIT`].
pub(crate) async fn run(device: Arc<Device>, mut events: EventLoop, connects: Arc<Semaphore>, stop: CancellationToken) {
    let mut failures = 0_u32;
    loop {
        let began = tokio::time::Instant::now();
        let before = device.outbox().opened();
        let end = connection(&device, &mut events, &connects, &stop).await;
        device.outbox().lost(|| {
            events.clean();
            events.pending.clear();
            // What the library had read and not yet handed out belongs to the old connection; left there, it would stand before the
            // CONNACK of the next one.
            events.state.events.clear();
            events.state.collision = None;
        });
        if device.outbox().opened() > before {
            device.counters().disconnected();
        }
        let wait = match end {
            End::Stopped => return,
            End::Cut(away) => away,
            End::Lost(reason) => {
                failures = if began.elapsed() > GOOD_CONNECTION { 1 } else { failures.saturating_add(1) };
                let wait = reconnect_wait(failures);
                tracing::info!(device.id = %device.id(), wait_ms = wait.as_millis() as u64, "not connected to the broker: {reason}");
                wait
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

fn reconnect_wait(failures: u32) -> Duration {
    let longest = FIRST_RECONNECT_WAIT.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LONGEST_RECONNECT_WAIT);
    longest.mul_f64(rand::rng().random_range(0.5..=1.0))
}

async fn connection(device: &Arc<Device>, events: &mut EventLoop, connects: &Semaphore, stop: &CancellationToken) -> End {
    // Many connects at once overrun a broker's accept queue and are slower for it.
    let permit = tokio::select! {
        () = stop.cancelled() => return End::Stopped,
        permit = connects.acquire() => permit,
    };
    let connected = tokio::select! {
        () = stop.cancelled() => return End::Stopped,
        event = events.poll() => event,
    };
    let acknowledged = match connected {
        Ok(Event::Incoming(Packet::ConnAck(ack))) => ack,
        Ok(other) => return End::Lost(format!("the broker began with {other:?}")),
        Err(error) => return End::Lost(error.to_string()),
    };
    drop(permit);
    if let Err(reason) = begin(device, &acknowledged) {
        return End::Lost(reason);
    }
    let mut goodbye: Option<tokio::time::Instant> = None;
    let mut say_again = tokio::time::Instant::now() + SAID_AGAIN_EVERY;
    loop {
        let event = tokio::select! {
            biased;
            () = device.cut().asked.notified() => return End::Cut(device.cut().away()),
            () = stop.cancelled(), if goodbye.is_none() => {
                goodbye = Some(tokio::time::Instant::now() + GOODBYE_LIMIT);
                if !device.outbox().close(device.absence()) {
                    return End::Stopped;
                }
                continue;
            }
            () = tokio::time::sleep_until(goodbye.unwrap_or_else(tokio::time::Instant::now)), if goodbye.is_some() => return End::Stopped,
            () = tokio::time::sleep_until(say_again), if goodbye.is_none() => {
                say_again = tokio::time::Instant::now() + SAID_AGAIN_EVERY;
                device.announce();
                continue;
            }
            event = events.poll() => event,
        };
        match event {
            Ok(Event::Incoming(Packet::Publish(publish))) => device.receive(publish),
            Ok(Event::Incoming(Packet::PubAck(ack))) => {
                if !matches!(ack.reason, PubAckReason::Success | PubAckReason::NoMatchingSubscribers) {
                    device.counters().refused_by_broker();
                    tracing::warn!(device.id = %device.id(), reason = ?ack.reason, "the broker refused a message; check the permissions of this device");
                }
                device.outbox().taken(ack.pkid);
            }
            Ok(Event::Incoming(Packet::SubAck(ack))) => {
                if ack.return_codes.iter().any(|code| !matches!(code, SubscribeReasonCode::Success(_))) {
                    return End::Lost(format!("the broker refused the subscription to our own requests: {:?}", ack.return_codes));
                }
                open(device);
            }
            Ok(Event::Outgoing(Outgoing::Publish(packet))) => device.outbox().published(packet),
            Ok(Event::Outgoing(Outgoing::Disconnect)) => return End::Stopped,
            Ok(_) => device.outbox().pump(),
            Err(_) if goodbye.is_some() => return End::Stopped,
            Err(error) => return End::Lost(error.to_string()),
        }
    }
}

/// Notes the broker's limits and subscribes. At every connection, also to a broker that remembers us: one that was killed comes back with what it
/// had last saved, and that may be our session without its subscription.
fn begin(device: &Arc<Device>, ack: &ConnAck) -> Result<(), String> {
    let limit = ack.properties.as_ref().and_then(|p| p.max_packet_size).map(|bytes| bytes as usize);
    device.outbox().connected(limit);
    device.outbox().subscribe(device.filters())
}

fn open(device: &Arc<Device>) {
    device.counters().connected();
    device.outbox().open(device.birth());
    tracing::debug!(device.id = %device.id(), "connected");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_with_jitter_and_stay_bounded() {
        for failures in 1..40 {
            let wait = reconnect_wait(failures);
            assert!(wait >= FIRST_RECONNECT_WAIT / 2 && wait <= LONGEST_RECONNECT_WAIT, "{failures}: {wait:?}");
        }
        assert!(reconnect_wait(1) <= FIRST_RECONNECT_WAIT);
        assert!(reconnect_wait(30) >= LONGEST_RECONNECT_WAIT / 2);
    }
}
