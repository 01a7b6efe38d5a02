//! Single messages share transactions: what comes while one batch is written is the next one.
//!
//! Two ways lead here. Over HTTP somebody waits for the answer, and is told when the database is away. Over MQTT nobody waits; the message
//! stays with the broker until it is committed, however long that takes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use muster_store::{MAX_ALERTS, StoreError};
use muster_wire::DeviceId;
use muster_wire::alert::{AlertVia, AttributeValue, SourceRules};
use time::OffsetDateTime;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::inbox::Inbox;
use crate::incoming::{Incoming, Settled};
use crate::ledger::Ledger;

/// Posted messages that wait for their batch; whoever posts more waits before the door.
pub const POSTED_WAITING: usize = 256;

/// Why a posted message was not taken.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NotTaken {
    /// The database's.
    #[error(transparent)]
    Store(Arc<StoreError>),
    /// The service stops.
    #[error("the intake has stopped")]
    Stopped,
}

/// A message somebody waits for.
pub(crate) struct Posted {
    message: Incoming,
    answer: oneshot::Sender<Result<Settled, NotTaken>>,
}

/// Where messages are posted; cheap to clone.
#[derive(Clone)]
pub struct Desk(pub(crate) mpsc::Sender<Posted>);

impl Desk {
    /// Hands a message in and waits until it is committed.
    ///
    /// # Errors
    /// [`NotTaken`]; the message may be posted again.
    pub async fn post(&self, message: Incoming) -> Result<Settled, NotTaken> {
        let (answer, answered) = oneshot::channel();
        self.0.send(Posted { message, answer }).await.map_err(|_| NotTaken::Stopped)?;
        answered.await.unwrap_or(Err(NotTaken::Stopped))
    }
}

/// Takes what is posted, until `stop`; what was handed in before is still answered.
pub(crate) async fn posted<L: Ledger>(inbox: Inbox<L>, mut waiting: mpsc::Receiver<Posted>, stop: CancellationToken) {
    let mut batch = Vec::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => waiting.close(),
            _ = waiting.recv_many(&mut batch, MAX_ALERTS) => {}
        }
        if batch.is_empty() && waiting.recv_many(&mut batch, MAX_ALERTS).await == 0 {
            return;
        }
        let (messages, answers): (Vec<_>, Vec<_>) = batch.drain(..).map(|posted| (posted.message, posted.answer)).unzip();
        let results = match inbox.take(&messages).await {
            Ok(settled) => settled.into_iter().map(Ok).collect::<Vec<_>>(),
            Err(error) => {
                let error = Arc::new(error);
                messages.iter().map(|_| Err(NotTaken::Store(Arc::clone(&error)))).collect()
            }
        };
        for (answer, result) in answers.into_iter().zip(results) {
            // Who has gone away meanwhile posts again, and hears that it is a repetition.
            let _gone = answer.send(result);
        }
    }
}

/// An alert of a device itself.
pub struct FromDevice {
    /// The device whose topic it is; it speaks for nobody else.
    pub device: DeviceId,
    /// Content type; MQTT 3.1.1 has none.
    pub content_type: Option<String>,
    /// User properties.
    pub properties: Vec<(String, String)>,
    /// The event, or the common alert schema alone.
    pub payload: Bytes,
    /// Tells the broker that it may forget the message.
    pub committed: Box<dyn FnOnce() + Send>,
}

/// Takes alerts of devices until `stop`. A batch that the database does not take is tried again; its messages are still the broker's.
pub(crate) async fn from_devices<L: Ledger, T: Send>(
    inbox: Inbox<L>,
    types: Vec<String>,
    mut waiting: mpsc::Receiver<T>,
    open: impl Fn(T) -> FromDevice + Send,
    stop: CancellationToken,
) {
    let mut batch = Vec::new();
    loop {
        let count = tokio::select! {
            count = waiting.recv_many(&mut batch, MAX_ALERTS) => count,
            () = stop.cancelled() => return,
        };
        if count == 0 {
            return;
        }
        let now = OffsetDateTime::now_utc();
        let (messages, committed): (Vec<_>, Vec<_>) = batch.drain(..).map(|item| incoming(open(item), &types, now)).unzip();
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        loop {
            match inbox.take(&messages).await {
                Ok(_) => break,
                Err(error) => {
                    tracing::warn!(%error, cause = ?std::error::Error::source(&error), alerts = messages.len(), "alerts of devices wait for the database");
                    tokio::select! {
                        () = tokio::time::sleep(backoff.next()) => {}
                        () = stop.cancelled() => return,
                    }
                }
            }
        }
        for done in committed {
            done();
        }
    }
}

/// What is an alert when this device says it itself: the bare schema as well, as of a source of its name.
pub fn device_rules(device: &DeviceId, types: &[String]) -> SourceRules {
    SourceRules { bare: Some(format!("urn:device:{device}")), types: types.to_vec() }
}

fn incoming(alert: FromDevice, types: &[String], now: OffsetDateTime) -> (Incoming, Box<dyn FnOnce() + Send>) {
    let FromDevice { device, content_type, properties, payload, committed } = alert;
    let rules = device_rules(&device, types);
    let message = Incoming {
        via: AlertVia::Mqtt,
        from: device.as_str().into(),
        content_type,
        attributes: properties.into_iter().map(|(name, value)| (name, AttributeValue::Text(value))).collect(),
        body: payload,
        rules: Arc::new(rules),
        tenant: None,
        speaks_for: Some(device),
        received_at: now,
        unreadable: None,
    };
    (message, committed)
}
