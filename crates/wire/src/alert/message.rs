//! A message as some transport gave it, before anything of it is believed.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A message: what stands beside the body, and the body.
#[derive(Debug, Clone, Copy)]
pub struct RawAlert<'a> {
    /// Content type, as the transport has it; absent where it has none.
    pub content_type: Option<&'a str>,
    /// What else stands beside the body, names as they came: `ce-id` (HTTP, lower case), `cloudEvents_id` or `cloudEvents:id` (AMQP). Names
    /// of other kinds are left alone.
    pub attributes: &'a [(String, AttributeValue)],
    /// The body.
    pub body: &'a [u8],
}

/// The value of an attribute, in the types that transports have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttributeValue {
    /// A text; the only type HTTP has.
    Text(String),
    /// True or false.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// An instant.
    Timestamp(OffsetDateTime),
    /// Bytes.
    Bytes(Vec<u8>),
    /// A value CloudEvents has no type for; the word says which.
    Foreign(&'static str),
}

impl AttributeValue {
    /// The canonical text (CloudEvents core, "Type System"); none for what has none.
    pub fn canonical(&self) -> Option<String> {
        match self {
            Self::Text(text) => Some(text.clone()),
            Self::Bool(value) => Some(value.to_string()),
            Self::Integer(value) => Some(value.to_string()),
            Self::Timestamp(at) => at.format(&Rfc3339).ok(),
            Self::Bytes(bytes) => Some(STANDARD.encode(bytes)),
            Self::Foreign(_) => None,
        }
    }

    /// Size for the limit of a message, in bytes.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Bytes(bytes) => bytes.len(),
            Self::Bool(_) | Self::Integer(_) | Self::Timestamp(_) | Self::Foreign(_) => 8,
        }
    }

    /// What it is, for a refusal.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a text",
            Self::Bool(_) => "a boolean",
            Self::Integer(_) => "a whole number",
            Self::Timestamp(_) => "a timestamp",
            Self::Bytes(_) => "bytes",
            Self::Foreign(kind) => kind,
        }
    }
}

/// What the settings say about the source of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceRules {
    /// Takes the common alert schema without an envelope, as of a source of this name.
    pub bare: Option<String>,
    /// Types of events it takes.
    pub types: Vec<String>,
}

impl Default for SourceRules {
    fn default() -> Self {
        Self { bare: None, types: vec![super::ALERT_TYPE.to_owned()] }
    }
}
