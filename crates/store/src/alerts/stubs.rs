#![allow(unused_variables)]
use super::*;
use crate::connect::Store;
use crate::error::StoreError;
use muster_wire::http::*;
use muster_wire::*;
use std::time::Duration;
impl Store {
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
