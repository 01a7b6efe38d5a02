//! Alerts: taken in, decided, and what follows from them, one batch and one transaction at a time.
//!
//! A batch takes a row first that is there for this (`alert_gate`), so that batches of several controllers go one after the other, and each
//! sees what the one before it wrote. What is decided is `muster_domain::alert`'s business; what it has to know is read here in a few
//! statements, and what follows is written in a few more, however long the batch is.

mod ask;
mod catalogue;
mod consider;
mod due;
mod facts;
mod ledger;
mod parked;
mod policy;
mod preview;
mod read;
mod resolve;
mod storms;
mod take;
mod twin;
mod write;

pub(crate) use policy::catalogue_version;

use std::collections::BTreeMap;
use std::time::Duration;

use muster_wire::alert::{Alert, AlertVia, Poison, Refused};
use muster_wire::http::{AlertOutcome, AnsweredAlert, ParkedState, StormPolicy};
use muster_wire::{AlertId, CollectionId, DeviceId, ParkedId, StormId};
use time::OffsetDateTime;

/// Most alerts in one call of [`crate::Store::take_alerts`].
pub const MAX_ALERTS: usize = 1_000;

/// What the settings say about decisions.
#[derive(Debug, Clone)]
pub struct AlertLimits {
    /// An alert that is older when it comes is stale.
    pub max_age: Duration,
    /// An offline device is waited for so long; the collection of an alert lives so long.
    pub expires_after: Duration,
    /// Time for one attempt.
    pub attempt_timeout: Duration,
    /// Attempts per task.
    pub max_attempts: u8,
    /// Most collections that alerts may make per UTC day, in all.
    pub per_day: u32,
    /// Of one tenant.
    pub per_tenant_per_day: u32,
    /// When many alerts are a storm, where no rule says otherwise.
    pub storm: StormPolicy,
}

/// One alert, and who brought it.
#[derive(Debug, Clone, Copy)]
pub struct ReceivedAlert<'a> {
    /// The alert.
    pub alert: &'a Alert,
    /// The way by which it came.
    pub via: AlertVia,
    /// The only tenant its source may speak for.
    pub tenant: Option<&'a str>,
    /// The only device its source may speak for.
    pub speaks_for: Option<&'a DeviceId>,
    /// When it came.
    pub received_at: OffsetDateTime,
}

/// What became of one alert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// Written down and decided, one for each of its devices.
    Decided(Vec<AnsweredAlert>),
    /// The same event came before.
    Duplicate,
    /// It may not be acted on: to be parked. Nothing was written.
    Refused(Refused),
}

/// A message to be parked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewParked {
    /// Its id.
    pub id: ParkedId,
    /// When it came.
    pub received_at: OffsetDateTime,
    /// The way by which it came.
    pub via: AlertVia,
    /// The queue, the address or the device it came from.
    pub from: String,
    /// Why.
    pub refused: Refused,
    /// Content type.
    pub content_type: Option<String>,
    /// Other attributes, as texts.
    pub attributes: BTreeMap<String, String>,
    /// The body, as it came; cut at [`muster_wire::http::MAX_PARKED_BYTES`] when it is written.
    pub body: Vec<u8>,
    /// A word that makes parking the same message again (the same delivery after a crash) one row: the digest of source and body.
    pub digest: String,
}

/// Which alerts, newest first.
#[derive(Debug, Clone, Default)]
pub struct AlertFilter {
    /// Older than this one.
    pub before: Option<AlertId>,
    /// At most so many.
    pub limit: u32,
    /// Only of this device.
    pub device: Option<DeviceId>,
    /// Only of this indicator.
    pub indicator: Option<String>,
    /// Only these.
    pub outcome: Option<AlertOutcome>,
    /// Only of this storm.
    pub storm: Option<StormId>,
    /// Only of this collection.
    pub collection: Option<CollectionId>,
    /// Only of this tenant.
    pub tenant: Option<String>,
    /// Taken in at or after.
    pub since: Option<OffsetDateTime>,
}

/// Which parked messages, newest first.
#[derive(Debug, Clone, Default)]
pub struct ParkedFilter {
    /// Older than this one.
    pub before: Option<ParkedId>,
    /// At most so many.
    pub limit: u32,
    /// Only these.
    pub state: Option<ParkedState>,
    /// Only for this reason.
    pub reason: Option<Poison>,
}

/// What came of changing the catalogue or the rules.
#[derive(Debug, Clone, PartialEq)]
pub enum Changed<T> {
    /// Done.
    Done(T),
    /// There is none of this name.
    NotThere,
    /// There is one of this name.
    Taken,
    /// There are as many as may be.
    TooMany,
    /// Rules or alerts still speak of it; the word says what.
    InUse(String),
}
