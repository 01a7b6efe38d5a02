//! Alerts as they were taken in, what was decided about each, and messages that were no alert.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::alert::{AlertCondition, AlertShape, AlertVia, Poison, Severity};
use crate::words::words;
use crate::{AlertId, CollectionId, ConsentId, DeviceId, ParkedId, StormId};

/// Most bytes kept of a message that was no alert; the rest is cut, and it says so.
pub const MAX_PARKED_BYTES: usize = 1024 * 1024;

words! {
    /// What was decided about an alert.
    AlertOutcome {
        /// A collection was made.
        Collected = "collected",
        /// The same device had the same indicator, and its collection is open or ended within the cooldown: counted and linked.
        Coalesced = "coalesced",
        /// Many devices have this indicator and a sample is collected; this one is not in it, and can be asked for.
        OnDemand = "on_demand",
        /// Later: a budget is used up, it is a quiet hour, or what is to be collected has not been written yet.
        Deferred = "deferred",
        /// Nobody agreed: no request of any kind went to the device.
        NoConsent = "no_consent",
        /// Not in the catalogue, or switched off there.
        UnknownIndicator = "unknown_indicator",
        /// Too old when it came.
        Stale = "stale",
        /// Nothing is to follow: it says that something ended, which is written on what it ended, or a rule ignores it.
        Noted = "noted",
        /// Not in the registry, beside other devices of the same event that are.
        UnknownDevice = "unknown_device",
        /// The sender may not speak for this device, beside others for which it may.
        TenantMismatch = "tenant_mismatch",
    }
}

/// One event and one device: what it said, what was decided, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AlertView {
    /// Its id.
    pub id: AlertId,
    /// With `event_id` the key by which a repetition is known.
    pub source: String,
    /// Unique within its source.
    pub event_id: String,
    /// The device, as the registry spells it; as the event spelt it where it is not there.
    pub device: String,
    /// What happened; in the spelling of the catalogue where it is there.
    pub indicator: String,
    /// Began or ended.
    pub condition: AlertCondition,
    /// How bad, for display and order.
    #[serde(default)]
    pub severity: Option<Severity>,
    /// How it was written.
    pub shape: AlertShape,
    /// The way by which it came.
    pub via: AlertVia,
    /// Tenant of the device, from the registry.
    #[serde(default)]
    pub tenant: Option<String>,
    /// Site of the device.
    #[serde(default)]
    pub site: Option<String>,
    /// Model of the device.
    #[serde(default)]
    pub model: Option<String>,
    /// Version of the device.
    #[serde(default)]
    pub version: Option<String>,
    /// When, in our time: of an alert from the device itself, corrected by the device's clock.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub fired_at: OffsetDateTime,
    /// The event said no time.
    #[serde(default)]
    pub time_inferred: bool,
    /// When it was taken in.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub received_at: OffsetDateTime,
    /// When it ended.
    #[serde(default, with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub resolved_at: Option<OffsetDateTime>,
    /// Joins what fired with what resolved.
    #[serde(default)]
    pub origin_alert_id: Option<String>,
    /// What was decided.
    pub outcome: AlertOutcome,
    /// Why, in words, with the number or name that decided.
    pub why: String,
    /// When it was decided.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub decided_at: OffsetDateTime,
    /// When it is decided again, if it was deferred.
    #[serde(default, with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub due_at: Option<OffsetDateTime>,
    /// The rule that decided; absent where the catalogue alone did.
    #[serde(default)]
    pub rule: Option<String>,
    /// The catalogue it was decided under.
    pub catalogue_version: u32,
    /// The consent it was decided under.
    #[serde(default)]
    pub consent: Option<ConsentId>,
    /// What it made, or what it was counted with.
    #[serde(default)]
    pub collection: Option<CollectionId>,
    /// How many alerts its collection stands for, itself included.
    #[serde(default)]
    pub occurrences: u64,
    /// The storm it is part of.
    #[serde(default)]
    pub storm: Option<StormId>,
    /// What rules in shadow would have done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shadow: Vec<ShadowView>,
    /// A sentence of the event for people.
    #[serde(default)]
    pub description: Option<String>,
    /// The trace it is part of (W3C).
    #[serde(default)]
    pub traceparent: Option<String>,
    /// Further attributes of the event; only of an alert that is shown by itself.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extensions: BTreeMap<String, String>,
    /// The data of the event; only of an alert that is shown by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub data: Option<serde_json::Value>,
}

/// What a rule in shadow would have done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ShadowView {
    /// The rule.
    pub rule: String,
    /// What it would have decided.
    pub outcome: AlertOutcome,
    /// Why.
    pub why: String,
}

/// How many alerts came to what.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AlertCounts {
    /// By outcome; outcomes that did not occur are absent.
    pub outcomes: BTreeMap<String, u64>,
    /// By indicator.
    pub indicators: BTreeMap<String, u64>,
    /// Messages that were no alert and wait to be looked at.
    pub parked: u64,
    /// Repetitions of events, which are answered and not kept.
    pub duplicates: u64,
}

/// What became of alerts that were posted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AlertAnswer {
    /// One for each device of the event, in its order; empty for a repetition.
    pub alerts: Vec<AnsweredAlert>,
    /// The same event came before: nothing was done again.
    pub duplicate: bool,
}

/// What was decided for one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AnsweredAlert {
    /// The alert.
    pub id: AlertId,
    /// The device.
    pub device: String,
    /// What was decided.
    pub outcome: AlertOutcome,
    /// Why.
    pub why: String,
    /// What it made, or what it was counted with.
    #[serde(default)]
    pub collection: Option<CollectionId>,
}

words! {
    /// Where a message that was no alert stands.
    ParkedState {
        /// It waits for somebody to look.
        Parked = "parked",
        /// It was put in again, as it was or mended, and was an alert.
        Replayed = "replayed",
        /// Somebody said that it is not wanted.
        Dropped = "dropped",
    }
}

/// A message that was no alert, or one that may not be acted on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ParkedView {
    /// Its id; also the `message-id` of its dead letter.
    pub id: ParkedId,
    /// When it came.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub received_at: OffsetDateTime,
    /// The way by which it came.
    pub via: AlertVia,
    /// The queue, the address or the device it came from.
    pub from: String,
    /// Why it was refused.
    pub reason: Poison,
    /// Which member, what was found, what was expected.
    pub detail: String,
    /// Where it stands.
    pub state: ParkedState,
    /// Who changed that.
    #[serde(default)]
    pub changed_by: Option<String>,
    /// When.
    #[serde(default, with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub changed_at: Option<OffsetDateTime>,
    /// Size of the body as it came, in bytes.
    pub bytes: u64,
    /// The body as text, where it is text; only of a message that is shown by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// The body in base64, where it is no text; only of a message that is shown by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_base64: Option<String>,
    /// The body was cut at [`MAX_PARKED_BYTES`].
    #[serde(default)]
    pub cut: bool,
    /// Content type of the message.
    #[serde(default)]
    pub content_type: Option<String>,
    /// Its other attributes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
}

/// Puts a parked message in again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Replay {
    /// Instead of the body it came with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// Instead of the content type it came with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
}

impl AlertView {
    /// The device as an id, if it is one.
    pub fn device_id(&self) -> Option<DeviceId> {
        self.device.parse().ok()
    }
}
