//! Events that say what happened to a device: CloudEvents 1.0 around the common alert schema of Azure Monitor, or that schema alone.
//!
//! Three shapes become one [`Alert`] (`docs/ALERTS.md`; the rules are CloudEvents core 1.0.2, its JSON format and its AMQP binding). Nothing
//! in an alert is believed about whose device it is: that is asked of the registry.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::words::words;

mod device_ref;
mod envelope;
mod json;
mod message;
mod payload;
#[cfg(test)]
mod tests;

pub use message::{AttributeValue, RawAlert, SourceRules};

/// Largest message, in bytes, attributes included.
pub const MAX_ALERT_BYTES: usize = 256 * 1024;
/// Deepest nesting of JSON in a message.
pub const MAX_ALERT_DEPTH: usize = 64;
/// Most devices one event may name.
pub const MAX_ALERT_DEVICES: usize = 16;
/// Longest text taken from an event (an id, a source, an indicator, the id of an alert), in bytes; longer ones are refused.
pub const MAX_ALERT_TEXT_BYTES: usize = 1024;
/// How far in the future an alert may lie: clocks differ.
pub const MAX_ALERT_AHEAD: time::Duration = time::Duration::minutes(10);
/// The one type of event that is taken unless the settings name others.
pub const ALERT_TYPE: &str = "com.microsoft.edge.alert.v1";
/// `schemaId` of the common alert schema.
pub const COMMON_ALERT_SCHEMA: &str = "azureMonitorCommonAlertSchema";

words! {
    /// Why a message is no alert, or none that may be acted on. It goes to the dead letters with this word.
    Poison {
        /// Larger than [`MAX_ALERT_BYTES`].
        TooLarge = "too_large",
        /// The body is no JSON, or not UTF-8.
        NotJson = "not_json",
        /// Deeper than [`MAX_ALERT_DEPTH`].
        TooDeep = "too_deep",
        /// A member is missing, has the wrong type, is too long, or two members contradict each other.
        Malformed = "malformed",
        /// A name stands twice in one object.
        DuplicateKey = "duplicate_key",
        /// A batch, or a format of events other than JSON.
        UnsupportedFormat = "unsupported_format",
        /// `specversion` is not `1.0`.
        UnsupportedSpecversion = "unsupported_specversion",
        /// `type` is not in the list of the source.
        UnsupportedType = "unsupported_type",
        /// `datacontenttype` is not JSON.
        UnsupportedContent = "unsupported_content",
        /// The data is not the common alert schema, or a bare alert came to a source that takes none.
        UnsupportedSchema = "unsupported_schema",
        /// No device is named in a way that can be read.
        NoDevice = "no_device",
        /// Nothing says what happened.
        NoIndicator = "no_indicator",
        /// `monitorCondition` is neither `Fired` nor `Resolved`.
        UnknownCondition = "unknown_condition",
        /// More than [`MAX_ALERT_AHEAD`] in the future.
        FutureTime = "future_time",
        /// None of its devices is in the registry.
        UnknownDevice = "unknown_device",
        /// The sender may not speak for the device.
        TenantMismatch = "tenant_mismatch",
        /// The broker gave it out too often: each time whoever had it ended before it was settled.
        DeliveryLimit = "delivery_limit",
    }
}

words! {
    /// How an event was written.
    AlertShape {
        /// One JSON document with attributes and data.
        Structured = "structured",
        /// Attributes beside the message, data in its body.
        Binary = "binary",
        /// The common alert schema without an envelope.
        Bare = "bare",
    }
}

words! {
    /// Whether it began or ended.
    AlertCondition {
        /// It began.
        Fired = "fired",
        /// It ended.
        Resolved = "resolved",
    }
}

words! {
    /// For display and order only: it never admits or refuses.
    Severity {
        /// Critical.
        Sev0 = "sev0",
        /// Error; ARM's `Critical`.
        Sev1 = "sev1",
        /// Warning.
        Sev2 = "sev2",
        /// Informational.
        Sev3 = "sev3",
        /// Verbose.
        Sev4 = "sev4",
    }
}

words! {
    /// The way by which an alert came.
    AlertVia {
        /// A queue of RabbitMQ.
        Amqp = "amqp",
        /// `POST /api/v1/alerts`.
        Http = "http",
        /// The device's own topic.
        Mqtt = "mqtt",
    }
}

/// One event that could be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alert {
    /// With `id` the key by which a repetition is known.
    pub source: String,
    /// Unique within its source.
    pub id: String,
    /// How it was written.
    pub shape: AlertShape,
    /// The devices it names, as written, without what an ARM id has around them; each once (compared without regard to case).
    pub devices: Vec<String>,
    /// What happened, as written; compared without regard to case.
    pub indicator: String,
    /// Began or ended.
    pub condition: AlertCondition,
    /// How bad.
    pub severity: Option<Severity>,
    /// When, by the clock of whoever says so.
    pub fired_at: OffsetDateTime,
    /// The event said no time: `fired_at` is when it was received.
    pub time_inferred: bool,
    /// When it ended, if that is said.
    pub resolved_at: Option<OffsetDateTime>,
    /// Joins what fired with what resolved.
    pub origin_alert_id: Option<String>,
    /// A sentence for people.
    pub description: Option<String>,
    /// The trace it is part of (W3C).
    pub traceparent: Option<String>,
    /// Extension attributes of the envelope, `traceparent` and `dataschema` included.
    pub extensions: BTreeMap<String, String>,
    /// The data as JSON text, kept as evidence.
    pub data: String,
}

/// Why a message was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{reason}: {detail}")]
pub struct Refused {
    /// The word.
    pub reason: Poison,
    /// Which member, what was found, what was expected.
    pub detail: String,
}

impl Refused {
    /// A refusal.
    pub fn new(reason: Poison, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

impl Alert {
    /// What an event about one device looks like with nothing but what is needed; for tests and for those who raise alerts.
    pub fn fired(source: &str, id: &str, device: &str, indicator: &str, fired_at: OffsetDateTime) -> Self {
        Self {
            source: source.to_owned(),
            id: id.to_owned(),
            shape: AlertShape::Structured,
            devices: vec![device.to_owned()],
            indicator: indicator.to_owned(),
            condition: AlertCondition::Fired,
            severity: None,
            fired_at,
            time_inferred: false,
            resolved_at: None,
            origin_alert_id: None,
            description: None,
            traceparent: None,
            extensions: BTreeMap::new(),
            data: "{}".to_owned(),
        }
    }
}

/// Reads a message; what it is refused for is named with the member, what was found and what was expected. Never panics, whatever it is given.
///
/// ```
/// use muster_wire::alert::{parse, Poison, RawAlert, SourceRules};
/// let message = RawAlert { content_type: Some("application/cloudevents+json"), attributes: &[], body: b"{}" };
/// let refused = parse(&message, &SourceRules::default(), time::OffsetDateTime::now_utc()).unwrap_err();
/// assert_eq!(refused.reason, Poison::Malformed);
/// ```
///
/// # Errors
/// [`Refused`] with every reason but those that need the registry or the broker.
pub fn parse(message: &RawAlert<'_>, rules: &SourceRules, received_at: OffsetDateTime) -> Result<Alert, Refused> {
    let beside: usize = message.attributes.iter().map(|(name, value)| name.len() + value.size()).sum();
    let bytes = message.body.len() + beside + message.content_type.map_or(0, str::len);
    if bytes > MAX_ALERT_BYTES {
        return Err(Refused::new(Poison::TooLarge, format!("the message has {bytes} bytes, more than {MAX_ALERT_BYTES}")));
    }
    let envelope = envelope::read(message, rules)?;
    let payload = payload::read(&envelope.data, &envelope.source, envelope.subject.as_deref())?;
    let id = match envelope.id {
        Some(id) => id,
        None => payload.bare_id.ok_or_else(|| {
            Refused::new(Poison::Malformed, "essentials.alertId is missing, and nothing else tells a bare alert from another")
        })?,
    };
    let said = payload.fired_at.or(envelope.time);
    let fired_at = said.unwrap_or(received_at);
    for (name, at) in [("it fired at", Some(fired_at)), ("it resolved at", payload.resolved_at)] {
        if let Some(at) = at
            && at > received_at.saturating_add(MAX_ALERT_AHEAD)
        {
            let detail = format!("{name} {at}, more than {MAX_ALERT_AHEAD} ahead of our clock; check the clock of the sender");
            return Err(Refused::new(Poison::FutureTime, detail));
        }
    }
    Ok(Alert {
        source: envelope.source,
        id,
        shape: envelope.shape,
        devices: payload.devices,
        indicator: payload.indicator,
        condition: payload.condition,
        severity: payload.severity,
        fired_at,
        time_inferred: said.is_none(),
        resolved_at: payload.resolved_at,
        origin_alert_id: payload.origin_alert_id,
        description: payload.description,
        traceparent: envelope.extensions.get("traceparent").filter(|text| is_traceparent(text)).cloned(),
        extensions: envelope.extensions,
        data: serde_json::Value::Object(envelope.data).to_string(),
    })
}

/// A text that somebody else wrote, for a sentence of ours: bounded, and nothing in it can move a terminal.
fn quoted(text: &str) -> String {
    const MAX_SHOWN_CHARS: usize = 80;
    match text.char_indices().nth(MAX_SHOWN_CHARS) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// A text that is stored and compared: not empty, not long, nothing invisible.
fn text(name: &str, value: String) -> Result<String, Refused> {
    if value.is_empty() {
        return Err(Refused::new(Poison::Malformed, format!("{name} is empty")));
    }
    check_text(name, &value)?;
    Ok(value)
}

fn check_text(name: &str, value: &str) -> Result<(), Refused> {
    if value.len() > MAX_ALERT_TEXT_BYTES {
        let detail = format!("{name} has {} bytes, more than {MAX_ALERT_TEXT_BYTES}", value.len());
        return Err(Refused::new(Poison::Malformed, detail));
    }
    match value.chars().find(|c| c.is_control()) {
        Some(bad) => Err(Refused::new(Poison::Malformed, format!("{name} holds the control character {bad:?}"))),
        None => Ok(()),
    }
}

/// An instant of RFC 3339, in UTC.
fn instant(name: &str, value: &str) -> Result<OffsetDateTime, Refused> {
    use time::format_description::well_known::Rfc3339;
    let at = OffsetDateTime::parse(value, &Rfc3339)
        .map_err(|_| Refused::new(Poison::Malformed, format!("{name} is {}, not an instant like 2026-11-18T09:14:22Z", quoted(value))))?;
    utc(name, at)
}

/// In UTC, and within what databases agree about.
fn utc(name: &str, at: OffsetDateTime) -> Result<OffsetDateTime, Refused> {
    at.checked_to_offset(time::UtcOffset::UTC)
        .filter(|at| *at >= OffsetDateTime::UNIX_EPOCH)
        .ok_or_else(|| Refused::new(Poison::Malformed, format!("{name} is {at}, before 1970 or past 9999")))
}

/// `00-<32 hex>-<16 hex>-<2 hex>`, in lower case (W3C Trace Context).
fn is_traceparent(text: &str) -> bool {
    let lengths = [2, 32, 16, 2];
    let parts: Vec<&str> = text.split('-').collect();
    let is_hex = |part: &str| part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    parts.len() == lengths.len() && parts.iter().zip(lengths).all(|(part, length)| part.len() == length && is_hex(part))
}
