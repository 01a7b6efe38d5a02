//! Dead letters: what was no alert goes to the exchange of dead letters with the reason, over a connection of its own. The broker confirms it
//! before the message is acknowledged.

use futures_util::future::join_all;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, Connection};
use muster_wire::ParkedId;
use muster_wire::alert::Refused;

use super::{AmqpOptions, Fault, connect, in_time};

/// The reason, one word.
pub const REASON_HEADER: &str = "x-muster-reason";
/// Which member, what was found, what was expected.
pub const DETAIL_HEADER: &str = "x-muster-detail";
/// The message id it had, if it had one.
pub const MESSAGE_ID_HEADER: &str = "x-muster-message-id";
/// The user it was published by, if it said one.
pub const USER_ID_HEADER: &str = "x-muster-user-id";

/// Longest detail in a letter, in bytes; all of it is in the inbox.
const MAX_DETAIL_BYTES: usize = 512;
/// Headers of the message that go with it, in bytes; larger ones do not, for they have to fit one frame.
const MAX_HEADER_BYTES: usize = 64 * 1024;
const PERSISTENT: u8 = 2;

/// A message and why it is dead.
pub(crate) struct Letter<'a> {
    pub(crate) id: ParkedId,
    pub(crate) refused: &'a Refused,
    pub(crate) routing_key: &'a ShortString,
    pub(crate) properties: BasicProperties,
    pub(crate) body: &'a [u8],
}

/// The way to the exchange of dead letters; connected when the first one is sent.
#[derive(Default)]
pub(crate) struct Letters {
    open: Option<(Connection, Channel)>,
}

impl Letters {
    /// Sends them; returns when the broker has them all.
    pub(crate) async fn send(&mut self, letters: &[Letter<'_>], options: &AmqpOptions) -> Result<(), Fault> {
        if letters.is_empty() {
            return Ok(());
        }
        let (connection, channel) = match self.open.take() {
            Some((connection, channel)) if connection.status().connected() && channel.status().connected() => (connection, channel),
            _ => {
                let connection = connect(options, "dead letters").await?;
                let channel = in_time("open a channel", connection.create_channel()).await?;
                in_time("ask for confirms", channel.confirm_select(ConfirmSelectOptions::default())).await?;
                (connection, channel)
            }
        };
        let exchange = ShortString::try_new(options.dead_letter_exchange.as_str()).unwrap_or_default();
        let mut confirms = Vec::with_capacity(letters.len());
        for letter in letters {
            let how = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
            let properties = addressed(letter);
            let sent = channel.basic_publish(exchange.clone(), letter.routing_key.clone(), how, letter.body, properties);
            confirms.push(in_time("publish a dead letter", sent).await?);
        }
        for confirm in in_time("confirm dead letters", async { Ok(join_all(confirms).await) }).await? {
            match confirm.map_err(|error| Fault::amqp("confirm dead letters", error))? {
                Confirmation::Ack(None) => {}
                // A message without a way comes back, and is confirmed nevertheless.
                Confirmation::Ack(Some(_)) => return Err(Fault::NoWay { exchange: options.dead_letter_exchange.clone() }),
                Confirmation::Nack(_) | Confirmation::NotRequested => {
                    return Err(Fault::NotStored { exchange: options.dead_letter_exchange.clone() });
                }
            }
        }
        // Only a way that works is used again.
        self.open = Some((connection, channel));
        Ok(())
    }

    pub(crate) async fn close(self) {
        if let Some((connection, _)) = self.open {
            let _gone = in_time("close", connection.close(200, "done".into())).await;
        }
    }
}

/// The properties it had, with the reason; without those that would do something at the broker.
fn addressed(letter: &Letter<'_>) -> BasicProperties {
    let given = &letter.properties;
    let mut headers = FieldTable::default();
    let original = given.headers().iter().flat_map(|headers| headers.inner());
    let size: usize = original.clone().map(|(name, value)| name.as_str().len() + size(value)).sum();
    if size <= MAX_HEADER_BYTES {
        for (name, value) in original {
            // CC and BCC would send it to further queues.
            if !matches!(name.as_str(), "CC" | "BCC") {
                headers.insert(name.clone(), value.clone());
            }
        }
    }
    let mut add = |name: &str, text: &str| {
        headers.insert(name.into(), AMQPValue::LongString(text.into()));
    };
    add(REASON_HEADER, letter.refused.reason.as_str());
    add(DETAIL_HEADER, cut(&letter.refused.detail));
    if let Some(id) = given.message_id() {
        add(MESSAGE_ID_HEADER, id.as_str());
    }
    // A broker refuses a user id that is not ours, and closes the channel.
    if let Some(user) = given.user_id() {
        add(USER_ID_HEADER, user.as_str());
    }
    let mut properties = BasicProperties::default()
        .with_headers(headers)
        .with_delivery_mode(PERSISTENT)
        .with_message_id(ShortString::try_new(letter.id.to_string()).unwrap_or_default());
    let mut keep = |value: &Option<ShortString>, with: fn(BasicProperties, ShortString) -> BasicProperties| {
        if let Some(value) = value {
            properties = with(std::mem::take(&mut properties), value.clone());
        }
    };
    keep(given.content_type(), BasicProperties::with_content_type);
    keep(given.content_encoding(), BasicProperties::with_content_encoding);
    keep(given.correlation_id(), BasicProperties::with_correlation_id);
    keep(given.reply_to(), BasicProperties::with_reply_to);
    keep(given.kind(), BasicProperties::with_type);
    keep(given.app_id(), BasicProperties::with_app_id);
    if let Some(at) = given.timestamp() {
        properties = properties.with_timestamp(*at);
    }
    properties
}

fn cut(text: &str) -> &str {
    let end = (0..=MAX_DETAIL_BYTES.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
    &text[..end]
}

/// About as many bytes as it has on the wire.
fn size(value: &AMQPValue) -> usize {
    match value {
        AMQPValue::LongString(text) => text.len(),
        AMQPValue::ShortString(text) => text.as_str().len(),
        AMQPValue::ByteArray(bytes) => bytes.len(),
        AMQPValue::FieldArray(items) => items.as_slice().iter().map(size).sum(),
        AMQPValue::FieldTable(table) => table.inner().iter().map(|(name, value)| name.as_str().len() + size(value)).sum(),
        _ => 8,
    }
}

#[cfg(test)]
mod tests {
    use muster_wire::alert::Poison;

    use super::*;

    fn letter(properties: BasicProperties, refused: &Refused) -> BasicProperties {
        let key = ShortString::from("q");
        addressed(&Letter { id: ParkedId::new(), refused, routing_key: &key, properties, body: b"" })
    }

    #[test]
    fn a_letter_keeps_what_it_had_and_does_nothing_at_the_broker() {
        let mut headers = FieldTable::default();
        for name in ["cloudEvents_id", "CC", "BCC"] {
            headers.insert(name.into(), AMQPValue::LongString("x".into()));
        }
        let given = BasicProperties::default()
            .with_headers(headers)
            .with_content_type("application/json".into())
            .with_message_id("m-1".into())
            .with_user_id("somebody".into())
            .with_expiration("5".into())
            .with_delivery_mode(1);
        let refused = Refused::new(Poison::Malformed, "ä".repeat(1000));
        let sent = letter(given, &refused);
        assert!(sent.user_id().is_none() && sent.expiration().is_none());
        assert_eq!(sent.delivery_mode(), &Some(PERSISTENT));
        assert_eq!(sent.content_type().as_ref().map(ShortString::as_str), Some("application/json"));
        assert!(sent.message_id().as_ref().is_some_and(|id| id.as_str().parse::<ParkedId>().is_ok()));
        let headers = sent.headers().as_ref().expect("headers");
        let names: Vec<_> = headers.inner().keys().map(ShortString::as_str).collect();
        assert_eq!(names, ["cloudEvents_id", DETAIL_HEADER, MESSAGE_ID_HEADER, REASON_HEADER, USER_ID_HEADER]);
        let AMQPValue::LongString(detail) = &headers.inner()[DETAIL_HEADER] else { panic!("a text") };
        assert_eq!(detail.len(), MAX_DETAIL_BYTES);
    }

    #[test]
    fn headers_that_would_not_fit_a_frame_stay_behind() {
        let mut headers = FieldTable::default();
        headers.insert("large".into(), AMQPValue::LongString(vec![b'x'; MAX_HEADER_BYTES].into()));
        let refused = Refused::new(Poison::TooLarge, "large");
        let sent = letter(BasicProperties::default().with_headers(headers), &refused);
        assert_eq!(sent.headers().as_ref().expect("headers").inner().len(), 2);
    }
}
