//! A message on its way in, and what became of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use muster_store::{NewParked, ReceivedAlert};
use muster_wire::alert::{self, Alert, AlertVia, AttributeValue, RawAlert, Refused, SourceRules};
use muster_wire::http::AlertAnswer;
use muster_wire::{DeviceId, ParkedId};
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;

/// Most attributes of a message that was no alert which are kept with it.
pub const MAX_PARKED_ATTRIBUTES: usize = 64;
/// Longest of their names and values, in bytes; the rest is cut.
pub const MAX_PARKED_TEXT_BYTES: usize = 4096;

/// A message as a source took it.
#[derive(Debug, Clone)]
pub struct Incoming {
    /// The way by which it came.
    pub via: AlertVia,
    /// The queue, the address or the device it came from.
    pub from: Arc<str>,
    /// Content type, where the way has one.
    pub content_type: Option<String>,
    /// What else stands beside the body.
    pub attributes: Vec<(String, AttributeValue)>,
    /// The body.
    pub body: Bytes,
    /// What the settings say about its source.
    pub rules: Arc<SourceRules>,
    /// The only tenant its source may speak for.
    pub tenant: Option<Arc<str>>,
    /// The only device its source may speak for.
    pub speaks_for: Option<DeviceId>,
    /// When it came.
    pub received_at: OffsetDateTime,
    /// The way itself found it unreadable; then it is parked and not parsed.
    pub unreadable: Option<Refused>,
}

/// What became of a message; committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// It was an alert.
    Answered(AlertAnswer),
    /// It was none, or may not be acted on, and is kept under this id.
    Parked {
        /// Its id; also the `message-id` of its dead letter.
        id: ParkedId,
        /// Why.
        refused: Refused,
    },
}

impl Incoming {
    /// The alert in it.
    ///
    /// # Errors
    /// Why it is none.
    pub fn read(&self) -> Result<Alert, Refused> {
        match &self.unreadable {
            Some(refused) => Err(refused.clone()),
            None => {
                let raw = RawAlert { content_type: self.content_type.as_deref(), attributes: &self.attributes, body: &self.body };
                alert::parse(&raw, &self.rules, self.received_at)
            }
        }
    }

    /// The alert that was read from it, as the store takes it.
    pub fn received<'a>(&'a self, alert: &'a Alert) -> ReceivedAlert<'a> {
        ReceivedAlert {
            alert,
            via: self.via,
            tenant: self.tenant.as_deref(),
            speaks_for: self.speaks_for.as_ref(),
            received_at: self.received_at,
        }
    }

    /// To be kept, because of this.
    pub(crate) fn parked(&self, refused: Refused) -> NewParked {
        let texts = self.attributes.iter().take(MAX_PARKED_ATTRIBUTES).map(|(name, value)| {
            let value = value.canonical().unwrap_or_else(|| "(a value of another type)".to_owned());
            (kept(name), kept(&value))
        });
        NewParked {
            id: ParkedId::new(),
            received_at: self.received_at,
            via: self.via,
            from: kept(&self.from),
            refused: Refused { reason: refused.reason, detail: kept(&refused.detail) },
            content_type: self.content_type.as_deref().map(kept),
            attributes: texts.collect::<BTreeMap<_, _>>(),
            body: self.body.to_vec(),
            digest: self.digest(),
        }
    }

    /// Tells a message from another, and not one delivery from the next: a broker adds attributes of its own with every delivery.
    fn digest(&self) -> String {
        let mut hash = Sha256::new();
        let mut add = |part: &[u8]| {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        };
        add(self.via.as_str().as_bytes());
        add(self.from.as_bytes());
        add(self.content_type.as_deref().unwrap_or_default().as_bytes());
        for (name, value) in self.attributes.iter().filter(|(name, _)| name.starts_with("ce-") || name.starts_with("cloudEvents")) {
            add(name.as_bytes());
            add(value.canonical().unwrap_or_default().as_bytes());
        }
        add(&self.body);
        hash.finalize().iter().fold(String::with_capacity(64), |mut hex, byte| {
            let _infallible = write!(hex, "{byte:02x}");
            hex
        })
    }
}

/// A text as the database can hold it: bounded, without NUL.
fn kept(text: &str) -> String {
    let mut text = text.replace('\0', "\u{fffd}");
    if text.len() > MAX_PARKED_TEXT_BYTES {
        let end = (0..=MAX_PARKED_TEXT_BYTES).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_wire::alert::Poison;

    fn incoming() -> Incoming {
        Incoming {
            via: AlertVia::Amqp,
            from: "muster.alerts".into(),
            content_type: Some("application/json".to_owned()),
            attributes: vec![("cloudEvents_id".to_owned(), AttributeValue::Integer(1))],
            body: Bytes::from_static(b"{}"),
            rules: Arc::new(SourceRules::default()),
            tenant: None,
            speaks_for: None,
            received_at: OffsetDateTime::UNIX_EPOCH,
            unreadable: None,
        }
    }

    #[test]
    fn a_delivery_again_is_the_same_message_and_another_message_is_not() {
        let digest = incoming().digest();
        let mut again = incoming();
        again.attributes.push(("x-delivery-count".to_owned(), AttributeValue::Integer(3)));
        again.received_at = OffsetDateTime::now_utc();
        assert_eq!(again.digest(), digest);
        let others: [fn(&mut Incoming); 5] = [
            |other| other.body = Bytes::from_static(b"{} "),
            |other| other.from = "elsewhere".into(),
            |other| other.via = AlertVia::Mqtt,
            |other| other.content_type = None,
            |other| other.attributes[0].1 = AttributeValue::Integer(2),
        ];
        for change in others {
            let mut other = incoming();
            change(&mut other);
            assert_ne!(other.digest(), digest);
        }
    }

    #[test]
    fn what_is_kept_is_bounded_and_fits_the_database() {
        let mut hostile = incoming();
        hostile.attributes = (0..1000).map(|n| (format!("{n}\0{}", "ä".repeat(9999)), AttributeValue::Foreign("a list"))).collect();
        hostile.content_type = Some("x".repeat(100_000));
        let parked = hostile.parked(Refused::new(Poison::Malformed, "a\0b"));
        assert_eq!(parked.attributes.len(), MAX_PARKED_ATTRIBUTES);
        let longest = MAX_PARKED_TEXT_BYTES + '…'.len_utf8();
        assert!(parked.attributes.keys().all(|name| name.len() <= longest && !name.contains('\0')));
        assert!(parked.content_type.is_some_and(|text| text.len() <= longest));
        assert_eq!(parked.refused.detail, "a\u{fffd}b");
    }
}
