//! What the intake asks of the database, and no more; a test can put another behind it, and have it fail when it likes.

use muster_store::{AlertLimits, NewParked, ReceivedAlert, Store, StoreError, Taken};
use muster_wire::{CollectionId, ParkedId};
use time::OffsetDateTime;

/// Where alerts are written down and decided.
pub trait Ledger: Clone + Send + Sync + 'static {
    /// [`Store::take_alerts`].
    fn take_alerts(
        &self,
        alerts: &[ReceivedAlert<'_>],
        limits: &AlertLimits,
        now: OffsetDateTime,
    ) -> impl Future<Output = Result<Vec<Taken>, StoreError>> + Send;

    /// [`Store::decide_due`].
    fn decide_due(&self, limits: &AlertLimits, now: OffsetDateTime) -> impl Future<Output = Result<Vec<CollectionId>, StoreError>> + Send;

    /// [`Store::park`].
    fn park(&self, parked: &[NewParked]) -> impl Future<Output = Result<Vec<ParkedId>, StoreError>> + Send;

    /// [`Store::ping`].
    fn ping(&self) -> impl Future<Output = Result<(), StoreError>> + Send;
}

impl Ledger for Store {
    async fn take_alerts(&self, alerts: &[ReceivedAlert<'_>], limits: &AlertLimits, now: OffsetDateTime) -> Result<Vec<Taken>, StoreError> {
        Self::take_alerts(self, alerts, limits, now).await
    }

    async fn decide_due(&self, limits: &AlertLimits, now: OffsetDateTime) -> Result<Vec<CollectionId>, StoreError> {
        Self::decide_due(self, limits, now).await
    }

    async fn park(&self, parked: &[NewParked]) -> Result<Vec<ParkedId>, StoreError> {
        Self::park(self, parked).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Self::ping(self).await
    }
}
