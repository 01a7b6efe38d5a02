//! Alerts: taken in, decided, and what follows from them, one batch and one transaction at a time.

use std::collections::BTreeMap;
use std::time::Duration;

use muster_wire::alert::{Alert, AlertVia, Poison, Refused};
use muster_wire::http::{
    AlertCounts, AlertOutcome, AlertView, AnsweredAlert, CatalogueView, IndicatorView, NewIndicator, NewRule, ParkedState, ParkedView,
    RulePreview, RuleTest, RuleView, StormCollected, StormPolicy, StormView,
};
use muster_wire::{AlertId, CollectionId, DeviceId, ParkedId, StormId};
use time::OffsetDateTime;

use crate::connect::Store;
use crate::error::StoreError;

/// Most alerts in one call of [`Store::take_alerts`].
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

impl Store {
    /// Writes alerts down and decides each, makes the collections that follow, all in one transaction and in the order given.
    /// `results[i]` is what became of `alerts[i]`. At most [`MAX_ALERTS`].
    ///
    /// # Errors
    /// The database's; then nothing was done.
    pub async fn take_alerts(
        &self,
        alerts: &[ReceivedAlert<'_>],
        limits: &AlertLimits,
        now: OffsetDateTime,
    ) -> Result<Vec<Taken>, StoreError> {
        todo!()
    }

    /// Decides again what was deferred and is due, and closes storms that are over. Returns the collections made.
    pub async fn decide_due(&self, limits: &AlertLimits, now: OffsetDateTime) -> Result<Vec<CollectionId>, StoreError> {
        todo!()
    }

    /// What would be decided about an alert now; nothing is written.
    pub async fn test_alert(
        &self,
        alert: &ReceivedAlert<'_>,
        limits: &AlertLimits,
        now: OffsetDateTime,
    ) -> Result<Result<RuleTest, Refused>, StoreError> {
        todo!()
    }

    /// What a rule (stored or not) would have done with the alerts since then.
    pub async fn preview_rule(
        &self,
        rule: &NewRule,
        since: OffsetDateTime,
        limits: &AlertLimits,
        now: OffsetDateTime,
    ) -> Result<RulePreview, StoreError> {
        todo!()
    }

    /// Alerts, newest first.
    pub async fn alerts(&self, filter: &AlertFilter) -> Result<Vec<AlertView>, StoreError> {
        todo!()
    }

    /// One alert with its data and attributes.
    pub async fn alert(&self, id: AlertId) -> Result<Option<AlertView>, StoreError> {
        todo!()
    }

    /// How many alerts came to what, since then.
    pub async fn alert_counts(&self, since: OffsetDateTime) -> Result<AlertCounts, StoreError> {
        todo!()
    }

    /// Makes the collection of an alert that was left on demand, deferred, coalesced or stale, because a person asks. Consent is asked as always.
    /// `None`: there is no such alert.
    pub async fn collect_alert(
        &self,
        id: AlertId,
        who: &str,
        limits: &AlertLimits,
        now: OffsetDateTime,
    ) -> Result<Option<Result<CollectionId, String>>, StoreError> {
        todo!()
    }

    /// The catalogue.
    pub async fn catalogue(&self) -> Result<CatalogueView, StoreError> {
        todo!()
    }

    /// Adds an indicator.
    pub async fn add_indicator(&self, new: &NewIndicator, who: &str, now: OffsetDateTime) -> Result<Changed<IndicatorView>, StoreError> {
        todo!()
    }

    /// Changes an indicator of this name.
    pub async fn change_indicator(&self, new: &NewIndicator, who: &str, now: OffsetDateTime) -> Result<Changed<IndicatorView>, StoreError> {
        todo!()
    }

    /// Rules, in the order in which they are asked.
    pub async fn rules(&self) -> Result<Vec<RuleView>, StoreError> {
        todo!()
    }

    /// Makes a rule or, with `replace`, changes the one of its name. [`Changed::NotThere`] with an indicator that is not in the catalogue.
    pub async fn put_rule(&self, new: &NewRule, replace: bool, who: &str, now: OffsetDateTime) -> Result<Changed<RuleView>, StoreError> {
        todo!()
    }

    /// Deletes a rule; false: there was none.
    pub async fn delete_rule(&self, name: &str, who: &str, now: OffsetDateTime) -> Result<bool, StoreError> {
        todo!()
    }

    /// Storms, newest first.
    pub async fn storms(&self, open_only: bool, before: Option<StormId>, limit: u32) -> Result<Vec<StormView>, StoreError> {
        todo!()
    }

    /// One storm with its strata.
    pub async fn storm(&self, id: StormId) -> Result<Option<StormView>, StoreError> {
        todo!()
    }

    /// Makes one collection for all devices of a storm that were left on demand. `None`: there is no such storm.
    pub async fn collect_storm(
        &self,
        id: StormId,
        who: &str,
        limits: &AlertLimits,
        now: OffsetDateTime,
    ) -> Result<Option<StormCollected>, StoreError> {
        todo!()
    }

    /// Parks messages; one that was parked before (same digest, still parked) keeps its row and its id. Returns the ids, in order.
    pub async fn park(&self, parked: &[NewParked]) -> Result<Vec<ParkedId>, StoreError> {
        todo!()
    }

    /// Parked messages, newest first.
    pub async fn parked(&self, filter: &ParkedFilter) -> Result<Vec<ParkedView>, StoreError> {
        todo!()
    }

    /// One parked message with its body.
    pub async fn parked_message(&self, id: ParkedId) -> Result<Option<ParkedView>, StoreError> {
        todo!()
    }

    /// Marks parked messages replayed or dropped; false: it is not parked (any more).
    pub async fn mark_parked(&self, id: ParkedId, state: ParkedState, who: &str, now: OffsetDateTime) -> Result<bool, StoreError> {
        todo!()
    }
}
