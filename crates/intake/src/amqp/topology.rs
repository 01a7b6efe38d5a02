//! The queue of alerts, the exchange of dead letters and their queue: made if they are missing, used as they are if they fit.

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, Connection, ErrorKind, ExchangeKind};

use super::{AmqpOptions, Fault, in_time};

/// What is declared.
enum Thing<'a> {
    Exchange(&'a str),
    Queue(&'a str, FieldTable),
}

impl Thing<'_> {
    fn kind(&self) -> &'static str {
        match self {
            Self::Exchange(_) => "exchange",
            Self::Queue(..) => "queue",
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::Exchange(name) | Self::Queue(name, _) => name,
        }
    }

    /// Passive: looks whether it is there, and makes nothing.
    async fn declare(&self, channel: &Channel, passive: bool) -> lapin::Result<()> {
        match self {
            Self::Exchange(name) => {
                let how = ExchangeDeclareOptions { durable: true, passive, ..ExchangeDeclareOptions::default() };
                channel.exchange_declare(short(name)?, ExchangeKind::Fanout, how, FieldTable::default()).await
            }
            Self::Queue(name, arguments) => {
                let how = QueueDeclareOptions { durable: true, passive, ..QueueDeclareOptions::default() };
                channel.queue_declare(short(name)?, how, arguments.clone()).await.map(drop)
            }
        }
    }
}

/// Declares all three.
pub(crate) async fn declare(connection: &Connection, options: &AmqpOptions) -> Result<(), Fault> {
    let (exchange, dead) = (&options.dead_letter_exchange, &options.dead_letter_queue);
    declared(connection, &Thing::Exchange(exchange)).await?;
    declared(connection, &Thing::Queue(dead, quorum())).await?;
    match in_time("bind the queue of dead letters", bind(connection, dead, exchange)).await {
        // Whoever may not bind finds out at the first dead letter whether somebody else did.
        Err(fault) if fault.is_refusal(AMQPSoftError::ACCESSREFUSED) => {
            tracing::info!(queue = dead, exchange, "this user may not bind queues; the queue of dead letters is taken to be bound");
        }
        other => other?,
    }
    declared(connection, &Thing::Queue(&options.queue, arguments(options))).await
}

async fn bind(connection: &Connection, queue: &str, exchange: &str) -> lapin::Result<()> {
    let (channel, how) = (connection.create_channel().await?, QueueBindOptions::default());
    channel.queue_bind(short(queue)?, short(exchange)?, ShortString::default(), how, FieldTable::default()).await
}

/// Of the queue of alerts.
fn arguments(options: &AmqpOptions) -> FieldTable {
    let mut table = quorum();
    let mut text = |name: &str, value: &str| {
        table.insert(name.into(), AMQPValue::LongString(value.into()));
    };
    text("x-dead-letter-exchange", &options.dead_letter_exchange);
    // A dead letter is kept until its queue has it, which needs the overflow to be a refusal.
    text("x-dead-letter-strategy", "at-least-once");
    text("x-overflow", "reject-publish");
    table.insert("x-delivery-limit".into(), AMQPValue::LongInt(options.delivery_limit.into()));
    table
}

fn quorum() -> FieldTable {
    let mut table = FieldTable::default();
    table.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    table
}

/// Names come from the settings, which bound them; the library would panic.
fn short(name: &str) -> lapin::Result<ShortString> {
    ShortString::try_new(name).map_err(|error| std::io::Error::other(error).into())
}

/// Declares one thing, on a channel of its own, because a refusal closes it; where we may not, looks whether it is there.
async fn declared(connection: &Connection, thing: &Thing<'_>) -> Result<(), Fault> {
    let channel = in_time("open a channel", connection.create_channel()).await?;
    let fault = match in_time("declare", thing.declare(&channel, false)).await {
        Ok(()) => return Ok(()),
        Err(fault) => fault,
    };
    let (kind, name, said) = (thing.kind(), thing.name().to_owned(), fault.to_string());
    if fault.is_refusal(AMQPSoftError::PRECONDITIONFAILED) {
        return Err(Fault::Differs { kind, name, said });
    }
    if !fault.is_refusal(AMQPSoftError::ACCESSREFUSED) {
        return Err(fault);
    }
    let channel = in_time("open a channel", connection.create_channel()).await?;
    in_time("look for it", thing.declare(&channel, true)).await.map_err(|_| Fault::Forbidden { kind, name, said })
}

impl Fault {
    /// Whether the broker refused one thing with this word, and the connection lives on.
    pub(crate) fn is_refusal(&self, word: AMQPSoftError) -> bool {
        let Self::Amqp { error, .. } = self else { return false };
        matches!(error.kind(), ErrorKind::ProtocolError(said) if matches!(said.kind(), AMQPErrorKind::Soft(found) if *found == word))
    }
}
