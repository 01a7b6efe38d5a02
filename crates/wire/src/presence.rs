//! What a device says on its own: birth and will, and the state of its uploads.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::method::answer::{MAX_CORRELATION_ID_BYTES, TaskStatus, is_id};
use crate::properties::{MAX_BIRTH_BYTES, MAX_STATUS_BYTES};

/// Most methods a birth may list.
pub const MAX_METHODS: usize = 64;
/// Longest name in a birth (method, agent, protocol), in characters.
pub const MAX_NAME_CHARS: usize = 128;
/// Most objects a task status may list.
pub const MAX_REPORTED_OBJECTS: usize = 1000;

/// Unix seconds of the years 1 to 9999.
const CALENDAR: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

/// The word for the MQTT 3.1.1 form in `proto`.
pub const PROTO_311: &str = "1.0-311";

/// Presence of a device: its birth, or the will the broker published for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Presence {
    /// False only in the will.
    pub online: bool,
    /// Protocol forms the device wants, best first: `1.0`, or [`PROTO_311`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub proto: Vec<String>,
    /// Direct methods it answers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// Program that speaks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentName>,
    /// When the agent started, by the device's clock.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "time::serde::rfc3339::option")]
    pub started: Option<OffsetDateTime>,
    /// The device's clock when it sent this.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "time::serde::rfc3339::option")]
    pub clock: Option<OffsetDateTime>,
    /// Reported properties, as a JSON object.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub reported: Value,
    /// Whether the owner agreed to proactive collection, as the device knows it.
    #[serde(default, rename = "proactiveConsent", skip_serializing_if = "Option::is_none")]
    pub proactive_consent: Option<ProactiveConsent>,
    /// When the owner last said so, by the device's clock: the same word said anew is a new decision.
    #[serde(default, rename = "proactiveConsentAt", skip_serializing_if = "Option::is_none", with = "time::serde::rfc3339::option")]
    pub proactive_consent_at: Option<OffsetDateTime>,
}

/// Program and version of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AgentName {
    /// Program.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// Consent to proactive collection as the device knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProactiveConsent {
    /// The owner agreed.
    Enabled,
    /// The owner did not agree, or withdrew.
    Disabled,
    /// The owner activated the device and left the choice to what the terms say of silence.
    Default,
    /// Nobody was asked, or a word newer than this program.
    #[serde(other)]
    Unknown,
}

impl ProactiveConsent {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Disabled => "disabled",
            Self::Default => "default",
            Self::Unknown => "unknown",
        }
    }

    /// From the word; one that is not known is [`ProactiveConsent::Unknown`].
    pub fn from_word(word: &str) -> Self {
        [Self::Enabled, Self::Disabled, Self::Default].into_iter().find(|known| known.as_str() == word).unwrap_or(Self::Unknown)
    }
}

/// Why a presence or status message was not taken.
#[derive(Debug, thiserror::Error)]
pub enum InvalidMessage {
    /// Larger than the contract allows.
    #[error("the message has {size} bytes, the contract allows {limit}")]
    TooLarge {
        /// Bytes received.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Not JSON of this shape.
    #[error("the message is not what the contract describes")]
    Json(#[from] serde_json::Error),
    /// A list or text inside is longer than allowed, or of the wrong type.
    #[error("{member} breaks the contract: {rule}")]
    Member {
        /// Which member.
        member: &'static str,
        /// What the contract says about it.
        rule: &'static str,
    },
}

impl Presence {
    /// The will: `{"online":false}`.
    pub fn will() -> Self {
        Self {
            online: false,
            proto: Vec::new(),
            methods: Vec::new(),
            agent: None,
            started: None,
            clock: None,
            reported: Value::Null,
            proactive_consent: None,
            proactive_consent_at: None,
        }
    }

    /// Reads a presence message.
    ///
    /// # Errors
    /// [`InvalidMessage`], naming size, JSON or the member at fault.
    pub fn parse(payload: &[u8]) -> Result<Self, InvalidMessage> {
        let presence: Self = read(payload, MAX_BIRTH_BYTES)?;
        let names = presence.methods.iter().chain(&presence.proto).chain(presence.agent.iter().flat_map(|a| [&a.name, &a.version]));
        if presence.methods.len() > MAX_METHODS || presence.proto.len() > MAX_METHODS {
            return Err(InvalidMessage::Member { member: "methods, proto", rule: "at most 64 entries" });
        }
        if names.into_iter().any(|name| name.chars().count() > MAX_NAME_CHARS || name.contains('\0')) {
            return Err(InvalidMessage::Member { member: "methods, proto, agent", rule: "names of at most 128 characters, without NUL" });
        }
        // In RFC 3339 a zone can carry a time out of the calendar; nothing behind this point could write it again.
        if [presence.started, presence.clock].into_iter().flatten().any(|at| !CALENDAR.contains(&at.unix_timestamp())) {
            return Err(InvalidMessage::Member { member: "started, clock", rule: "a time within the years 1 to 9999 of UTC" });
        }
        if !presence.reported.is_null() && !presence.reported.is_object() {
            return Err(InvalidMessage::Member { member: "reported", rule: "a JSON object" });
        }
        Ok(presence)
    }

    /// The message as bytes.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("presence has only JSON members")
    }

    /// Whether the device must be spoken to in the MQTT 3.1.1 form.
    pub fn wants_311(&self) -> bool {
        self.proto.first().is_some_and(|proto| proto == PROTO_311)
    }
}

/// Pushed by the device on every change of an upload. A hint: the objects are the evidence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskReport {
    /// The id the device gave its upload.
    pub correlation_id: String,
    /// As in `GetTaskStatus`.
    pub status: TaskStatus,
    /// Free text.
    #[serde(default)]
    pub message: String,
    /// Correlation data of the request that started it.
    pub attempt: Uuid,
    /// Bytes uploaded so far.
    #[serde(default)]
    pub bytes: u64,
    /// Objects finished so far.
    #[serde(default)]
    pub objects: Vec<ReportedObject>,
}

/// An object as the device claims it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportedObject {
    /// Blob name.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Lower-case hex; may be absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

impl TaskReport {
    /// Reads a task status message.
    ///
    /// # Errors
    /// [`InvalidMessage`], naming size, JSON or the member at fault.
    pub fn parse(payload: &[u8]) -> Result<Self, InvalidMessage> {
        let report: Self = read(payload, MAX_STATUS_BYTES)?;
        if report.objects.len() > MAX_REPORTED_OBJECTS {
            return Err(InvalidMessage::Member { member: "objects", rule: "at most 1000 entries" });
        }
        if !is_id(&report.correlation_id, MAX_CORRELATION_ID_BYTES) {
            return Err(InvalidMessage::Member { member: "correlationId", rule: "1 to 128 bytes, not blank, without control characters" });
        }
        Ok(report)
    }

    /// The message as bytes.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a task report has only JSON members")
    }
}

fn read<T: serde::de::DeserializeOwned>(payload: &[u8], limit: usize) -> Result<T, InvalidMessage> {
    if payload.len() > limit {
        return Err(InvalidMessage::TooLarge { size: payload.len(), limit });
    }
    Ok(serde_json::from_slice(payload)?)
}
