//! A delivery as the inbox takes it.

use std::sync::Arc;

use bytes::Bytes;
use lapin::message::Delivery;
use lapin::types::AMQPValue;
use muster_wire::alert::{AlertVia, AttributeValue, Poison, Refused, SourceRules};
use time::OffsetDateTime;

use super::encoded;
use crate::incoming::Incoming;

/// Where a RabbitMQ before 4.0 puts the application properties of a message that was sent with AMQP 1.0.
const ONE_ZERO_PROPERTIES: &str = "x-amqp-1.0-app-properties";
/// The type of a message whose body is a value of AMQP 1.0, not data.
const ONE_ZERO_BODY: &str = "amqp-1.0";

/// What all messages of one queue have in common.
pub(crate) struct Queue {
    pub(crate) name: Arc<str>,
    pub(crate) rules: Arc<SourceRules>,
    pub(crate) tenant: Option<Arc<str>>,
}

impl Queue {
    /// Takes the body out of the delivery, unless it is still needed there; bodies may be large, so it is given in.
    pub(crate) fn incoming(&self, delivery: &Delivery, body: Bytes, received_at: OffsetDateTime) -> Incoming {
        let properties = &delivery.properties;
        let mut attributes = Vec::new();
        let mut unreadable = None;
        for (name, value) in properties.headers().iter().flat_map(|headers| headers.inner()) {
            if name.as_str() != ONE_ZERO_PROPERTIES {
                attributes.push((name.as_str().to_owned(), attribute(value)));
                continue;
            }
            let read = match value {
                AMQPValue::LongString(bytes) => encoded::properties(bytes.as_bytes()),
                AMQPValue::ByteArray(bytes) => encoded::properties(bytes.as_slice()),
                _ => Err(encoded::Unreadable::NotMap),
            };
            match read {
                Ok(found) => attributes.extend(found),
                Err(error) => unreadable = Some(Refused::new(Poison::Malformed, format!("header {ONE_ZERO_PROPERTIES}: {error}"))),
            }
        }
        let mut body = body;
        if properties.kind().as_ref().is_some_and(|kind| kind.as_str() == ONE_ZERO_BODY) {
            match encoded::body(&body).map(|inner| body.slice_ref(inner)) {
                Some(inner) => body = inner,
                None => {
                    let detail =
                        "the body was sent as an AMQP 1.0 value (amqp-value) that is neither bytes nor a text; send it as a data section";
                    unreadable = Some(Refused::new(Poison::Malformed, detail));
                }
            }
        }
        Incoming {
            via: AlertVia::Amqp,
            from: Arc::clone(&self.name),
            content_type: properties.content_type().as_ref().map(|text| text.as_str().to_owned()).filter(|text| !text.is_empty()),
            attributes,
            body,
            rules: Arc::clone(&self.rules),
            tenant: self.tenant.clone(),
            speaks_for: None,
            received_at,
            unreadable,
        }
    }
}

fn attribute(value: &AMQPValue) -> AttributeValue {
    let bytes = |bytes: &[u8]| AttributeValue::Bytes(bytes.to_vec());
    match value {
        AMQPValue::Boolean(value) => AttributeValue::Bool(*value),
        AMQPValue::ShortShortInt(value) => AttributeValue::Integer((*value).into()),
        AMQPValue::ShortShortUInt(value) => AttributeValue::Integer((*value).into()),
        AMQPValue::ShortInt(value) => AttributeValue::Integer((*value).into()),
        AMQPValue::ShortUInt(value) => AttributeValue::Integer((*value).into()),
        AMQPValue::LongInt(value) => AttributeValue::Integer((*value).into()),
        AMQPValue::LongUInt(value) => AttributeValue::Integer((*value).into()),
        AMQPValue::LongLongInt(value) => AttributeValue::Integer(*value),
        AMQPValue::ShortString(text) => AttributeValue::Text(text.as_str().to_owned()),
        AMQPValue::LongString(text) => match std::str::from_utf8(text.as_bytes()) {
            Ok(text) => AttributeValue::Text(text.to_owned()),
            Err(_) => bytes(text.as_bytes()),
        },
        AMQPValue::ByteArray(value) => bytes(value.as_slice()),
        // Whole seconds since 1970.
        AMQPValue::Timestamp(seconds) => i64::try_from(*seconds)
            .ok()
            .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
            .map_or(AttributeValue::Foreign("a timestamp past all calendars"), AttributeValue::Timestamp),
        AMQPValue::Float(_) | AMQPValue::Double(_) | AMQPValue::DecimalValue(_) => AttributeValue::Foreign("a number with a fraction"),
        AMQPValue::FieldArray(_) => AttributeValue::Foreign("a list"),
        AMQPValue::FieldTable(_) => AttributeValue::Foreign("a table"),
        AMQPValue::Void => AttributeValue::Foreign("nothing"),
    }
}

#[cfg(test)]
mod tests {
    use lapin::BasicProperties;
    use lapin::types::FieldTable;

    use super::*;

    fn taken(properties: BasicProperties, body: &'static [u8]) -> Incoming {
        let mut delivery = Delivery::mock(1, "".into(), "q".into(), false, Vec::new());
        delivery.properties = properties;
        let queue = Queue { name: "q".into(), rules: Arc::new(SourceRules::default()), tenant: Some("contoso".into()) };
        queue.incoming(&delivery, Bytes::from_static(body), OffsetDateTime::UNIX_EPOCH)
    }

    fn headers(pairs: &[(&str, AMQPValue)]) -> BasicProperties {
        let mut table = FieldTable::default();
        for (name, value) in pairs {
            table.insert((*name).into(), value.clone());
        }
        BasicProperties::default().with_headers(table)
    }

    #[test]
    fn headers_keep_their_types() {
        let at = time::macros::datetime!(2026-11-18 09:14:22 UTC);
        for (value, expected) in [
            (AMQPValue::LongString("x".into()), AttributeValue::Text("x".to_owned())),
            (AMQPValue::LongString(vec![0xff].into()), AttributeValue::Bytes(vec![0xff])),
            (AMQPValue::Boolean(true), AttributeValue::Bool(true)),
            (AMQPValue::LongInt(-5), AttributeValue::Integer(-5)),
            (AMQPValue::LongLongInt(5), AttributeValue::Integer(5)),
            (AMQPValue::Timestamp(at.unix_timestamp().unsigned_abs()), AttributeValue::Timestamp(at)),
            (AMQPValue::Timestamp(u64::MAX), AttributeValue::Foreign("a timestamp past all calendars")),
            (AMQPValue::Double(1.5), AttributeValue::Foreign("a number with a fraction")),
            (AMQPValue::FieldTable(FieldTable::default()), AttributeValue::Foreign("a table")),
        ] {
            let incoming = taken(headers(&[("cloudEvents_x", value)]), b"{}");
            assert_eq!(incoming.attributes, [("cloudEvents_x".to_owned(), expected)]);
        }
        let incoming = taken(BasicProperties::default().with_content_type("application/json".into()), b"{}");
        assert_eq!((incoming.content_type.as_deref(), incoming.tenant.as_deref()), (Some("application/json"), Some("contoso")));
    }

    #[test]
    fn properties_of_a_newer_protocol_are_found_in_their_header() {
        let encoded = [&[0xc1, 20, 2, 0xa1, 14][..], b"cloudEvents_id", &[0xa1, 1, b'7']].concat();
        for value in [AMQPValue::LongString(encoded.clone().into()), AMQPValue::ByteArray(encoded.into())] {
            let incoming = taken(headers(&[(ONE_ZERO_PROPERTIES, value)]), b"{}");
            assert_eq!(incoming.attributes, [("cloudEvents_id".to_owned(), AttributeValue::Text("7".to_owned()))]);
            assert_eq!(incoming.unreadable, None);
        }
        for bad in [AMQPValue::LongString("nonsense".into()), AMQPValue::Boolean(true)] {
            let refused = taken(headers(&[(ONE_ZERO_PROPERTIES, bad)]), b"{}").unreadable.expect("refused");
            assert_eq!(refused.reason, Poison::Malformed);
        }
    }

    #[test]
    fn a_body_that_is_a_value_is_unpacked_or_refused_and_never_read_as_it_is() {
        let kind = || BasicProperties::default().with_type(ONE_ZERO_BODY.into());
        let good = taken(kind(), b"\x00\x53\x77\xa1\x02{}");
        assert_eq!((&good.body[..], good.unreadable), (&b"{}"[..], None));
        let bad = taken(kind(), b"{}");
        assert!(bad.unreadable.is_some_and(|refused| refused.detail.contains("data section")));
        assert_eq!(taken(BasicProperties::default().with_type("binary".into()), b"{}").unreadable, None);
    }
}
