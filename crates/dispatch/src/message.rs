//! What comes from devices, parsed. Nothing past this file sees a raw message.
//!
//! The device id is taken from the topic, which the broker's permissions vouch for; nothing a payload says about identity is believed.

use bytes::Bytes;
use muster_wire::presence::{Presence, TaskReport};
use muster_wire::properties::{AnswerProperties, MAX_ANSWER_BYTES, MAX_STATUS_MESSAGE_CHARS};
use muster_wire::topic::{Prefix, Topic};
use muster_wire::{AttemptId, DeviceId};
use rumqttc::v5::mqttbytes::v5::Publish;
use uuid::Uuid;

/// A message of the contract.
#[derive(Debug)]
pub(crate) enum Message {
    /// Answer to a request of ours.
    Answer(Answer),
    /// State of an upload.
    Report { device: DeviceId, report: TaskReport },
    /// An event that is read by whoever takes alerts.
    Alert { device: DeviceId, content_type: Option<String>, properties: Vec<(String, String)>, payload: Bytes },
    /// Birth or will.
    Presence {
        device: DeviceId,
        presence: Box<Presence>,
        /// Kept by the broker from before we subscribed: true now, but not news of this moment.
        retained: bool,
    },
}

/// Answer to a request of ours.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) device: DeviceId,
    /// Correlation data: an attempt's id, or the id of one `GetTaskStatus` poll.
    pub(crate) correlation: Uuid,
    pub(crate) status: u16,
    pub(crate) status_message: Option<String>,
    pub(crate) payload: Bytes,
}

impl Answer {
    /// The attempt this answers, if the correlation data is one.
    pub(crate) fn attempt(&self) -> Option<AttemptId> {
        AttemptId::from_uuid(self.correlation)
    }

    /// What the device said in words: `__stMsg`, or the `message` member of an error payload.
    pub(crate) fn words(&self) -> Option<String> {
        #[derive(serde::Deserialize)]
        struct ErrorPayload {
            message: String,
        }
        let from_payload = || serde_json::from_slice::<ErrorPayload>(&self.payload).ok().map(|p| p.message);
        self.status_message.clone().or_else(from_payload).map(|text| clean(&text))
    }
}

/// Longest detail kept, in characters.
pub(crate) const MAX_DETAIL_CHARS: usize = MAX_STATUS_MESSAGE_CHARS;

/// Text of a device made safe for a terminal and a column: no control characters, bounded.
pub(crate) fn clean(text: &str) -> String {
    let mut cleaned: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_DETAIL_CHARS).collect();
    if text.chars().nth(MAX_DETAIL_CHARS).is_some() {
        cleaned.push('…');
    }
    cleaned
}

/// Why a message was not taken. Counted by its label; the message is acknowledged, for it will not get better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Not a topic of the contract, or one that is not for us.
    Topic,
    /// No correlation data of 16 bytes.
    Correlation,
    /// No readable `__stat`.
    Status,
    /// Over the contract's size.
    TooLarge,
    /// Payload is not what the contract says.
    Payload,
}

impl Refusal {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Topic => "topic",
            Self::Correlation => "correlation",
            Self::Status => "status",
            Self::TooLarge => "too_large",
            Self::Payload => "payload",
        }
    }
}

/// Parses a delivery.
pub(crate) fn parse(prefix: &Prefix, caller: &str, publish: &Publish) -> Result<Message, Refusal> {
    let topic = std::str::from_utf8(&publish.topic).map_err(|_| Refusal::Topic)?;
    match Topic::parse(prefix, topic).ok_or(Refusal::Topic)? {
        Topic::Answer { device, caller: to } if to == caller => {
            let properties = publish.properties.as_ref();
            let correlation = properties
                .and_then(|p| p.correlation_data.as_deref())
                .and_then(|data| Uuid::from_slice(data).ok())
                .ok_or(Refusal::Correlation)?;
            let said = properties.map(|p| AnswerProperties::from_pairs(&p.user_properties)).and_then(Result::ok).ok_or(Refusal::Status)?;
            answer(device, correlation, said.status, said.message, &publish.payload)
        }
        Topic::Answer311 { device, correlation, status } => answer(device, correlation, status, None, &publish.payload),
        Topic::TaskStatus { device } => Ok(Message::Report { device, report: TaskReport::parse(&publish.payload).map_err(refusal)? }),
        Topic::State { device } => {
            let presence = Box::new(Presence::parse(&publish.payload).map_err(refusal)?);
            Ok(Message::Presence { device, presence, retained: publish.retain })
        }
        Topic::Alert { device } => {
            let said = publish.properties.as_ref();
            let content_type = said.and_then(|said| said.content_type.clone()).filter(|text| !text.is_empty());
            let properties = said.map(|said| said.user_properties.clone()).unwrap_or_default();
            Ok(Message::Alert { device, content_type, properties, payload: publish.payload.clone() })
        }
        _ => Err(Refusal::Topic),
    }
}

fn answer(device: DeviceId, correlation: Uuid, status: u16, status_message: Option<String>, payload: &Bytes) -> Result<Message, Refusal> {
    if payload.len() > MAX_ANSWER_BYTES {
        return Err(Refusal::TooLarge);
    }
    Ok(Message::Answer(Answer { device, correlation, status, status_message, payload: payload.clone() }))
}

fn refusal(error: muster_wire::presence::InvalidMessage) -> Refusal {
    match error {
        muster_wire::presence::InvalidMessage::TooLarge { .. } => Refusal::TooLarge,
        _ => Refusal::Payload,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rumqttc::v5::mqttbytes::QoS;
    use rumqttc::v5::mqttbytes::v5::PublishProperties;

    fn publish(topic: &str, payload: impl Into<Bytes>, properties: Option<PublishProperties>) -> Result<Message, Refusal> {
        parse(&Prefix::default(), "ctl", &Publish::new(topic, QoS::AtLeastOnce, payload, properties))
    }

    fn properties(correlation: Option<Vec<u8>>, status: Option<&str>) -> Option<PublishProperties> {
        Some(PublishProperties {
            correlation_data: correlation.map(Bytes::from),
            user_properties: status.map(|s| ("__stat".to_owned(), s.to_owned())).into_iter().collect(),
            ..PublishProperties::default()
        })
    }

    #[test]
    fn hostile_messages_are_refused_with_their_label() {
        let id = Uuid::now_v7().as_bytes().to_vec();
        let cases = [
            (publish("muster/v1/d/x/rsp/other", "", properties(Some(id.clone()), Some("200"))), Refusal::Topic),
            (publish("muster/v1/d/../rsp/ctl", "", properties(Some(id.clone()), Some("200"))), Refusal::Topic),
            (publish("muster/v1/d/x/cmd/ping", "", None), Refusal::Topic),
            (publish("muster/v1/d/x/rsp/ctl", "", None), Refusal::Correlation),
            (publish("muster/v1/d/x/rsp/ctl", "", properties(Some(vec![1; 17]), Some("200"))), Refusal::Correlation),
            (publish("muster/v1/d/x/rsp/ctl", "", properties(Some(id.clone()), None)), Refusal::Status),
            (publish("muster/v1/d/x/rsp/ctl", "", properties(Some(id.clone()), Some("ok"))), Refusal::Status),
            (publish("muster/v1/d/x/rsp/ctl", vec![b'x'; MAX_ANSWER_BYTES + 1], properties(Some(id), Some("200"))), Refusal::TooLarge),
            (publish("muster/v1/d/x/task", "{}", None), Refusal::Payload),
            (publish("muster/v1/d/x/task", "[1,2", None), Refusal::Payload),
            (publish("muster/v1/d/x/task", vec![b' '; 300 * 1024], None), Refusal::TooLarge),
            (publish("muster/v1/d/x/state", "{\"online\":\"yes\"}", None), Refusal::Payload),
            (publish("muster/v1/d/x/state", vec![b'['; 20_000], None), Refusal::TooLarge),
            (publish("muster/v1/d/x/state", "[".repeat(16_000), None), Refusal::Payload),
        ];
        for (index, (result, expected)) in cases.into_iter().enumerate() {
            assert_eq!(result.err(), Some(expected), "case {index}");
        }
    }

    #[test]
    fn words_of_a_device_cannot_paint_the_terminal() {
        let text = clean(&format!("\u{1b}[31mred\n{}", "x".repeat(1000)));
        assert!(!text.contains('\u{1b}') && !text.contains('\n'));
        assert_eq!(text.chars().count(), MAX_DETAIL_CHARS + 1);
    }
}
