//! A request as it arrives: which of them are ours, which are answered with a refusal, which are not answered at all.

use bytes::Bytes;
use muster_wire::DeviceId;
use muster_wire::properties::{
    AnswerProperties, CONTENT_TYPE, MAX_REQUEST_BYTES, MAX_USER_PROPERTIES, PROTOCOL_VERSION, RequestProperties,
};
use muster_wire::topic::{Prefix, Topic};
use rumqttc::v5::mqttbytes::v5::{Publish, PublishProperties};
use uuid::Uuid;

use super::outbox::{Message, Receipt};

/// Longest a request may live: nothing is remembered for its sake beyond that.
pub(crate) const MAX_LIFE_SECONDS: u32 = 7 * 24 * 3600;

/// Where an answer goes.
#[derive(Debug, Clone)]
pub(crate) struct ReplyTo {
    pub topic: String,
    pub correlation: Bytes,
    pub receipt: Receipt,
    /// Unix seconds until which the caller waits; `None` when it did not say.
    pub void_after_unix: Option<i64>,
    pub max_response_bytes: usize,
}

/// A request that may be carried out.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub reply_to: ReplyTo,
    /// The attempt's id: the key under which its answer is remembered.
    pub attempt: Uuid,
    pub method: String,
    pub payload: Bytes,
    pub deadline_unix: i64,
    /// Nobody asked for it.
    pub proactive: bool,
}

/// What an incoming message turned out to be.
#[derive(Debug)]
pub(crate) enum Incoming {
    Request(Request),
    /// The caller learns why not.
    Refused {
        reply_to: ReplyTo,
        status: u16,
        reason: String,
    },
    /// Nobody to answer, or nobody we may answer.
    Ignored(&'static str),
}

/// The answer to a request, before it becomes a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub status: u16,
    pub message: Option<String>,
    pub payload: Bytes,
}

impl Answer {
    pub(crate) fn refusal(status: u16, reason: &str) -> Self {
        let payload = serde_json::json!({ "message": reason }).to_string();
        Self { status, message: Some(reason.to_owned()), payload: payload.into() }
    }

    /// As a message to the caller; larger than the caller takes becomes a refusal, as IoT Edge does it.
    pub(crate) fn to_message(&self, to: &ReplyTo) -> Message {
        let limit = to.max_response_bytes;
        if self.payload.len() > limit && self.status == 200 {
            let reason = format!(
                "the answer has {} bytes, the caller takes {limit}; narrow the request with tail, since or a pattern, or upload the logs",
                self.payload.len()
            );
            return Self::refusal(400, &reason).to_message(to);
        }
        let message = self.message.as_deref().map(|text| text.chars().take(muster_wire::properties::MAX_STATUS_MESSAGE_CHARS).collect());
        let properties = PublishProperties {
            payload_format_indicator: Some(1),
            correlation_data: Some(to.correlation.clone()),
            content_type: Some(CONTENT_TYPE.to_owned()),
            user_properties: AnswerProperties { status: self.status, message }.to_pairs(),
            ..PublishProperties::default()
        };
        Message {
            topic: to.topic.clone(),
            payload: self.payload.clone(),
            retain: false,
            properties: Some(properties),
            void_after_unix: to.void_after_unix,
            replaces: None,
            of_this_connection: false,
        }
    }
}

/// Reads a message the broker delivered to `device`.
pub(crate) fn read(prefix: &Prefix, device: &DeviceId, publish: &Publish, connection: u64, now_unix: i64) -> Incoming {
    let Some(Topic::Request { device: to, method }) =
        std::str::from_utf8(&publish.topic).ok().and_then(|topic| Topic::parse(prefix, topic))
    else {
        return Incoming::Ignored("not a request topic");
    };
    if to != *device {
        return Incoming::Ignored("a request to another device");
    }
    let Some(properties) = &publish.properties else { return Incoming::Ignored("no response topic") };
    let Some(topic) = properties.response_topic.as_deref() else { return Incoming::Ignored("no response topic") };
    // A caller that may publish requests must not be able to make the device publish anywhere else.
    if !matches!(Topic::parse(prefix, topic), Some(Topic::Answer { device: from, .. }) if from == *device) {
        return Incoming::Ignored("the response topic is not below the device's own rsp/");
    }
    let pairs = &properties.user_properties[..properties.user_properties.len().min(MAX_USER_PROPERTIES)];
    let request = RequestProperties::from_pairs(pairs);
    let void_after_unix = properties.message_expiry_interval.map(|seconds| now_unix.saturating_add(seconds.min(MAX_LIFE_SECONDS).into()));
    let reply_to = ReplyTo {
        topic: topic.to_owned(),
        correlation: properties.correlation_data.clone().unwrap_or_default(),
        receipt: Receipt { connection, packet: publish.pkid },
        void_after_unix,
        max_response_bytes: request.max_response_bytes,
    };
    let refused = |status, reason: &str| Incoming::Refused { reply_to: reply_to.clone(), status, reason: reason.to_owned() };
    if !request.is_supported() {
        return refused(AnswerProperties::UNSUPPORTED_PROTOCOL, &format!("this device speaks version {PROTOCOL_VERSION} of the contract"));
    }
    let Ok(attempt) = Uuid::from_slice(&reply_to.correlation) else {
        return refused(400, "correlation data must be the 16 bytes of a UUID");
    };
    let Some(deadline_unix) = void_after_unix else {
        return refused(400, "a request needs a message expiry: the seconds until its deadline");
    };
    if publish.payload.len() > MAX_REQUEST_BYTES {
        return refused(400, "the request is larger than 128 KiB");
    }
    Incoming::Request(Request { reply_to, attempt, method, payload: publish.payload.clone(), deadline_unix, proactive: request.proactive })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rumqttc::v5::mqttbytes::QoS;

    const NOW: i64 = 1_800_000_000;

    fn incoming(change: impl FnOnce(&mut Publish)) -> Incoming {
        let properties = PublishProperties {
            message_expiry_interval: Some(60),
            response_topic: Some("muster/v1/d/dev/rsp/ctl".to_owned()),
            correlation_data: Some(Bytes::copy_from_slice(Uuid::from_u128(7).as_bytes())),
            user_properties: vec![("__protVer".to_owned(), "1.0".to_owned()), ("maxResponse".to_owned(), "100".to_owned())],
            ..PublishProperties::default()
        };
        let mut publish = Publish::new("muster/v1/d/dev/cmd/ping", QoS::AtLeastOnce, "{}", Some(properties));
        publish.pkid = 3;
        change(&mut publish);
        read(&Prefix::default(), &"dev".parse().expect("an id"), &publish, 1, NOW)
    }

    fn props(publish: &mut Publish) -> &mut PublishProperties {
        publish.properties.as_mut().expect("properties")
    }

    #[test]
    fn a_good_request_is_read_whole() {
        let Incoming::Request(request) = incoming(|_| ()) else { panic!("refused") };
        assert_eq!((request.method.as_str(), request.attempt, request.deadline_unix), ("ping", Uuid::from_u128(7), NOW + 60));
        assert_eq!(request.reply_to.receipt, Receipt { connection: 1, packet: 3 });
        assert_eq!(request.reply_to.max_response_bytes, 100);
        let Incoming::Request(long) = incoming(|p| props(p).message_expiry_interval = Some(u32::MAX)) else { panic!("refused") };
        assert_eq!(long.deadline_unix, NOW + i64::from(MAX_LIFE_SECONDS));
    }

    #[test]
    fn what_may_not_be_answered_is_ignored() {
        for (what, message) in [
            ("foreign response topic", incoming(|p| props(p).response_topic = Some("muster/v1/d/other/rsp/ctl".to_owned()))),
            ("response into the request tree", incoming(|p| props(p).response_topic = Some("muster/v1/d/dev/cmd/ping".to_owned()))),
            ("response with a wildcard", incoming(|p| props(p).response_topic = Some("muster/v1/d/dev/rsp/#".to_owned()))),
            ("no response topic", incoming(|p| props(p).response_topic = None)),
            ("no properties", incoming(|p| p.properties = None)),
            ("other device", incoming(|p| p.topic = Bytes::from_static(b"muster/v1/d/other/cmd/ping"))),
            ("deeper topic", incoming(|p| p.topic = Bytes::from_static(b"muster/v1/d/dev/cmd/ping/x"))),
            ("not text", incoming(|p| p.topic = Bytes::from_static(b"\xff"))),
        ] {
            assert!(matches!(message, Incoming::Ignored(_)), "{what}");
        }
    }

    #[test]
    fn what_is_wrong_is_refused_with_its_status() {
        for (what, message, expected) in [
            ("no expiry", incoming(|p| props(p).message_expiry_interval = None), 400),
            ("short correlation", incoming(|p| props(p).correlation_data = Some(Bytes::from_static(b"abc"))), 400),
            ("no correlation", incoming(|p| props(p).correlation_data = None), 400),
            ("version 2", incoming(|p| props(p).user_properties = vec![("__protVer".to_owned(), "2.0".to_owned())]), 505),
            ("300 KB", incoming(|p| p.payload = vec![b' '; 300 * 1024].into()), 400),
        ] {
            let Incoming::Refused { status, .. } = message else { panic!("{what} was not refused") };
            assert_eq!(status, expected, "{what}");
        }
    }

    #[test]
    fn an_answer_the_caller_cannot_take_becomes_a_refusal() {
        let Incoming::Request(request) = incoming(|_| ()) else { panic!("refused") };
        let answer = |bytes: usize| Answer { status: 200, message: None, payload: vec![b'x'; bytes].into() };
        let status = |message: Message| {
            AnswerProperties::from_pairs(&message.properties.expect("properties").user_properties).expect("a status").status
        };
        assert_eq!(status(answer(100).to_message(&request.reply_to)), 200);
        assert_eq!(status(answer(101).to_message(&request.reply_to)), 400);
    }
}
