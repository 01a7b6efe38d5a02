//! The queue of alerts at RabbitMQ (AMQP 0-9-1).
//!
//! ```text
//!  queue of alerts ──► batch ──► inbox (commit) ──► acknowledge
//!       ▲                           │
//!       │ own trouble: given back   └─ no alert ──► exchange of dead letters, confirmed ──► acknowledge
//! ```
//!
//! Nothing is acknowledged before it is committed, so whatever dies, messages come again and are known. What cannot be read is parked and goes
//! to the dead letters with its reason; it holds up nothing behind it. Own trouble is never the message's fault: while the database is away
//! the batch is held, then given back once, and nothing is taken before the database answers again. So an outage costs a message one delivery
//! of its limit, however long it lasts.
//!
//! The library's own recovery hangs when a busy link is reset, so it is not used: on any fault the connection is dropped and all is built anew.

mod encoded;
mod letters;
mod message;
mod topology;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions, QueueDeclareOptions};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::tcp::OwnedTLSConfig;
use lapin::types::{FieldTable, ShortString};
use lapin::uri::AMQPUri;
use lapin::{Channel, Connection, ConnectionProperties, Consumer, ErrorKind};
use muster_store::{MAX_ALERTS, StoreError};
use muster_wire::alert::SourceRules;
use secrecy::{ExposeSecret as _, SecretString};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

pub use letters::{DETAIL_HEADER, MESSAGE_ID_HEADER, REASON_HEADER, USER_ID_HEADER};

use crate::backoff::Backoff;
use crate::inbox::Inbox;
use crate::incoming::{Incoming, Settled};
use crate::ledger::Ledger;
use letters::{Letter, Letters};
use message::Queue;

/// Longest name of a queue or exchange, in bytes (the protocol's).
pub const MAX_NAME_BYTES: usize = 255;
/// Bodies of one batch, in bytes; the message that oversteps it is the last of its batch.
const MAX_BATCH_BYTES: usize = 32 * 1024 * 1024;
/// A dead peer is noticed after twice this.
const HEARTBEAT_SECONDS: u16 = 10;
/// How long anything but consuming may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long a batch is held while the database is away, before it is given back.
const HOLD: Duration = Duration::from_secs(30);
/// How long what was delivered may take to be settled when the intake stops.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
const RECONNECT_FIRST: Duration = Duration::from_millis(500);
const RECONNECT_MAX: Duration = Duration::from_secs(30);

/// Where the queue is and how it is made.
#[derive(Debug, Clone)]
pub struct AmqpOptions {
    /// `amqp://user:password@host:5672/vhost`, or `amqps`.
    pub url: SecretString,
    /// PEM file with the roots to trust instead of the system's (`amqps` only).
    pub ca_file: Option<PathBuf>,
    /// Name of this controller, shown at the broker.
    pub name: String,
    /// Queue of alerts.
    pub queue: String,
    /// Exchange of dead letters.
    pub dead_letter_exchange: String,
    /// Their queue.
    pub dead_letter_queue: String,
    /// Most messages taken and not acknowledged.
    pub prefetch: u16,
    /// After so many deliveries that nobody settled the broker itself makes a message a dead letter.
    pub delivery_limit: u16,
    /// The only tenant whose devices the queue may speak for.
    pub tenant: Option<String>,
    /// What is an alert there.
    pub rules: SourceRules,
}

/// What keeps the queue from being read.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The broker or the way to it.
    #[error("failed to {doing}: {error}")]
    Amqp {
        /// What was being done.
        doing: &'static str,
        /// What the library said.
        error: lapin::Error,
    },
    /// No answer.
    #[error("no answer within {PATIENCE:?} when asked to {doing}")]
    Late {
        /// What was being done.
        doing: &'static str,
    },
    /// The address is none.
    #[error("amqp.url is not like amqp://user:password@host:5672/vhost: {0}")]
    Url(String),
    /// The roots cannot be read.
    #[error("amqp.ca_file: {0}")]
    CaFile(String),
    /// It exists, made otherwise.
    #[error(
        "the {kind} {name:?} exists with other arguments than ours ({said}). Delete it once it is empty (rabbitmqctl delete_queue, or the management page) and we make it anew, or name another in the section amqp of the settings; a policy can change the delivery limit of a queue that exists"
    )]
    Differs {
        /// Queue or exchange.
        kind: &'static str,
        /// Its name.
        name: String,
        /// What the broker said.
        said: String,
    },
    /// It does not exist, and we may not make it.
    #[error(
        "the {kind} {name:?} does not exist and this user may not make it ({said}); make it, or let the user: rabbitmqctl set_permissions"
    )]
    Forbidden {
        /// Queue or exchange.
        kind: &'static str,
        /// Its name.
        name: String,
        /// What the broker said.
        said: String,
    },
    /// Dead letters have nowhere to go.
    #[error("no queue is bound to the exchange {exchange:?}, so dead letters have nowhere to go; bind amqp.dead_letter_queue to it")]
    NoWay {
        /// Which.
        exchange: String,
    },
    /// Dead letters are not taken.
    #[error("the broker did not store a dead letter sent to {exchange:?}; check that its queue takes messages")]
    NotStored {
        /// Which.
        exchange: String,
    },
    /// The queue went away.
    #[error("the broker ended the consumer: the queue was deleted, or the node that leads it is away")]
    Cancelled,
    /// Own trouble.
    #[error("the database is away, and alerts wait in the queue: {0}")]
    Store(#[source] StoreError),
}

impl Fault {
    fn amqp(doing: &'static str, error: lapin::Error) -> Self {
        Self::Amqp { doing, error }
    }

    /// A message that our library cannot read: it took the connection with it, and will do so again.
    fn is_unreadable(&self) -> bool {
        matches!(self, Self::Amqp { error, .. } if matches!(error.kind(), ErrorKind::ParsingError(_)))
    }
}

/// How it stands; cheap to clone.
#[derive(Debug, Clone)]
pub struct AmqpState(Arc<Mutex<Result<(), String>>>);

impl AmqpState {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Err("not connected yet".to_owned()))))
    }

    /// Whether the queue is being read, and what is in the way.
    ///
    /// # Errors
    /// A sentence about what is in the way.
    pub fn now(&self) -> Result<(), String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether this is news.
    fn set(&self, state: Result<(), String>) -> bool {
        metrics::gauge!("muster_amqp_connected").set(if state.is_ok() { 1.0 } else { 0.0 });
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = *known != state;
        *known = state;
        is_news
    }
}

/// Reads the queue until `stop`, through any number of connections.
pub(crate) async fn keep<L: Ledger>(options: AmqpOptions, inbox: Inbox<L>, state: AmqpState, stop: CancellationToken) {
    let mut backoff = Backoff::new(RECONNECT_FIRST, RECONNECT_MAX);
    let mut careful = false;
    loop {
        let mut session = Session { options: &options, inbox: &inbox, state: &state, stop: &stop, settled: 0, letters: Letters::default() };
        let ended = tokio::select! {
            ended = session.run(careful) => ended,
            // The session itself ends softly when it is told to; this is for one that cannot.
            () = async { stop.cancelled().await; tokio::time::sleep(STOP_PATIENCE).await } => return,
        };
        let settled = session.settled;
        session.letters.close().await;
        let Err(fault) = ended else { return };
        if stop.is_cancelled() {
            return;
        }
        if settled > 0 {
            backoff = Backoff::new(RECONNECT_FIRST, RECONNECT_MAX);
        }
        // One message the library cannot read takes everything with it that was delivered beside it, and each counts as a delivery. Alone it
        // reaches its limit and becomes a dead letter, and the others do not.
        careful = fault.is_unreadable() || (careful && settled < usize::from(options.prefetch));
        if state.set(Err(fault.to_string())) {
            tracing::warn!(queue = options.queue, %fault, careful, "the queue of alerts cannot be read; retrying");
        }
        let pause = async {
            tokio::time::sleep(backoff.next()).await;
            while matches!(fault, Fault::Store(_)) && inbox.ledger().ping().await.is_err() {
                tokio::time::sleep(backoff.next()).await;
            }
        };
        tokio::select! {
            () = pause => {}
            () = stop.cancelled() => return,
        }
    }
}

/// One connection's time.
struct Session<'a, L> {
    options: &'a AmqpOptions,
    inbox: &'a Inbox<L>,
    state: &'a AmqpState,
    stop: &'a CancellationToken,
    /// Messages settled since it began.
    settled: usize,
    letters: Letters,
}

impl<L: Ledger> Session<'_, L> {
    async fn run(&mut self, careful: bool) -> Result<(), Fault> {
        let options = self.options;
        let connection = connect(options, "alerts").await?;
        topology::declare(&connection, options).await?;
        let channel = in_time("open a channel", connection.create_channel()).await?;
        let prefetch = if careful { 1 } else { options.prefetch };
        in_time("bound what is delivered", channel.basic_qos(prefetch, BasicQosOptions::default())).await?;
        let queue = ShortString::try_new(options.queue.as_str()).map_err(|error| Fault::Url(error.to_string()))?;
        let consumed = channel.basic_consume(queue, ShortString::default(), BasicConsumeOptions::default(), FieldTable::default());
        let mut consumer = in_time("consume", consumed).await?;
        metrics::counter!("muster_amqp_connections_total").increment(1);
        if self.state.set(Ok(())) {
            tracing::info!(queue = options.queue, prefetch, "reading the queue of alerts");
        }
        let ended = self.consume(&channel, &mut consumer).await;
        if let Err(Fault::Store(_)) = &ended {
            // Given back, all that was delivered; the broker counts it as one delivery.
            let all = BasicNackOptions { multiple: true, requeue: true };
            let _gone = in_time("stop consuming", channel.basic_cancel(consumer.tag(), BasicCancelOptions::default())).await;
            let _gone = in_time("give back", channel.basic_nack(0, all)).await;
        }
        let _gone = in_time("close", connection.close(200, "done".into())).await;
        ended
    }

    /// Until something is in the way (an error) or the intake stops; then what was delivered before is still settled.
    async fn consume(&mut self, channel: &Channel, consumer: &mut Consumer) -> Result<(), Fault> {
        let common = Queue {
            name: self.options.queue.as_str().into(),
            rules: Arc::new(self.options.rules.clone()),
            tenant: self.options.tenant.as_deref().map(Arc::from),
        };
        let mut stopping = false;
        loop {
            let next = tokio::select! {
                biased;
                () = self.stop.cancelled(), if !stopping => {
                    stopping = true;
                    in_time("stop consuming", channel.basic_cancel(consumer.tag(), BasicCancelOptions::default())).await?;
                    continue;
                }
                next = consumer.next() => next,
            };
            let first = match next {
                Some(delivery) => delivery.map_err(|error| Fault::amqp("consume", error))?,
                None if stopping => return Ok(()),
                None => return Err(Fault::Cancelled),
            };
            let (batch, ended) = gather(first, consumer);
            self.settle(channel, &common, batch).await?;
            if let Some(error) = ended {
                return Err(Fault::amqp("consume", error));
            }
        }
    }

    async fn settle(&mut self, channel: &Channel, common: &Queue, mut batch: Vec<Delivery>) -> Result<(), Fault> {
        let Some(last) = batch.last().map(|delivery| delivery.delivery_tag) else { return Ok(()) };
        let now = OffsetDateTime::now_utc();
        let bodies: Vec<Bytes> = batch.iter_mut().map(|delivery| Bytes::from(std::mem::take(&mut delivery.data))).collect();
        let messages: Vec<_> = batch.iter().zip(&bodies).map(|(delivery, body)| common.incoming(delivery, body.clone(), now)).collect();
        let settled = self.hold(&messages).await.map_err(Fault::Store)?;
        let mut letters = Vec::new();
        for ((delivery, body), settled) in batch.iter().zip(&bodies).zip(&settled) {
            if let Settled::Parked { id, refused } = settled {
                let properties = delivery.properties.clone();
                letters.push(Letter { id: *id, refused, routing_key: &delivery.routing_key, properties, body });
            }
        }
        if let Err(fault) = self.letters.send(&letters, self.options).await {
            // Those beside them are done, and need not come again.
            for (delivery, _) in batch.iter().zip(&settled).filter(|(_, settled)| matches!(settled, Settled::Answered(_))) {
                in_time("acknowledge", channel.basic_ack(delivery.delivery_tag, BasicAckOptions::default())).await?;
                self.settled += 1;
            }
            return Err(fault);
        }
        metrics::counter!("muster_amqp_dead_letters_total").increment(letters.len() as u64);
        in_time("acknowledge", channel.basic_ack(last, BasicAckOptions { multiple: true })).await?;
        self.settled += batch.len();
        Ok(())
    }

    /// Takes a batch in; a database that is away for a moment is waited for with the batch in hand.
    async fn hold(&self, messages: &[Incoming]) -> Result<Vec<Settled>, StoreError> {
        let give_up = tokio::time::Instant::now() + HOLD;
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        loop {
            let error = match self.inbox.take(messages).await {
                Ok(settled) => return Ok(settled),
                Err(error) => error,
            };
            tracing::warn!(%error, cause = ?std::error::Error::source(&error), alerts = messages.len(), "alerts of the queue wait for the database");
            let wait = backoff.next();
            if tokio::time::Instant::now() + wait > give_up || self.stop.is_cancelled() {
                return Err(error);
            }
            self.state.set(Err("the database is away, and alerts are held".to_owned()));
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.stop.cancelled() => return Err(error),
            }
            self.state.set(Ok(()));
        }
    }
}

/// What has been delivered already becomes one batch with the first.
fn gather(first: Delivery, consumer: &mut Consumer) -> (Vec<Delivery>, Option<lapin::Error>) {
    let mut bytes = first.data.len();
    let mut batch = vec![first];
    while batch.len() < MAX_ALERTS && bytes <= MAX_BATCH_BYTES {
        match consumer.next().now_or_never().flatten() {
            Some(Ok(delivery)) => {
                bytes += delivery.data.len();
                batch.push(delivery);
            }
            Some(Err(error)) => return (batch, Some(error)),
            // Nothing more at the moment; an end is seen again by whoever asks next.
            None => break,
        }
    }
    (batch, None)
}

/// Connects; `purpose` is shown at the broker.
async fn connect(options: &AmqpOptions, purpose: &str) -> Result<Connection, Fault> {
    let mut uri: AMQPUri = options.url.expose_secret().parse().map_err(Fault::Url)?;
    uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
    let cert_chain = match &options.ca_file {
        Some(path) => Some(tokio::fs::read_to_string(path).await.map_err(|error| Fault::CaFile(format!("{}: {error}", path.display())))?),
        None => None,
    };
    let tls = OwnedTLSConfig { identity: None, cert_chain };
    let properties = ConnectionProperties::default().with_connection_name(format!("muster {}: {purpose}", options.name).into());
    let runtime = lapin::runtime::default_runtime().map_err(|error| Fault::amqp("connect", error))?;
    in_time("connect", Connection::connect_uri_with_config(uri, properties, tls, runtime)).await
}

/// Nothing is waited for without end: a connection that is half dead answers nothing at all.
async fn in_time<T>(doing: &'static str, what: impl Future<Output = lapin::Result<T>>) -> Result<T, Fault> {
    match tokio::time::timeout(PATIENCE, what).await {
        Ok(result) => result.map_err(|error| Fault::amqp(doing, error)),
        Err(_) => Err(Fault::Late { doing }),
    }
}

/// What a look at the broker found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Messages that wait in the queue of alerts; none: it is made at the first start.
    pub waiting: Option<u32>,
    /// Dead letters that wait to be looked at.
    pub dead_letters: Option<u32>,
}

/// Connects and looks at the queues without making any.
///
/// # Errors
/// [`Fault`], when it cannot be reached, or a queue that exists does not fit.
pub async fn look(options: &AmqpOptions) -> Result<Found, Fault> {
    let connection = connect(options, "doctor").await?;
    let found =
        Found { waiting: count(&connection, &options.queue).await?, dead_letters: count(&connection, &options.dead_letter_queue).await? };
    if found.waiting.is_some() && found.dead_letters.is_some() {
        // They are there, so nothing is made; it is compared.
        topology::declare(&connection, options).await?;
    }
    let _gone = in_time("close", connection.close(200, "done".into())).await;
    Ok(found)
}

async fn count(connection: &Connection, queue: &str) -> Result<Option<u32>, Fault> {
    let channel = in_time("open a channel", connection.create_channel()).await?;
    let name = ShortString::try_new(queue).map_err(|error| Fault::Url(error.to_string()))?;
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    match in_time("look at the queue", channel.queue_declare(name, passive, FieldTable::default())).await {
        Ok(queue) => Ok(Some(queue.message_count())),
        Err(Fault::Amqp { error, .. }) if matches!(error.kind(), ErrorKind::ProtocolError(said) if matches!(said.kind(), AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND))) => {
            Ok(None)
        }
        Err(fault) => Err(fault),
    }
}
