//! Pokes. A poke makes a loop early and informs it of nothing: it reads the database, as it does when its timer runs out.

use std::sync::Arc;

use muster_wire::http::Priority;
use tokio::sync::Notify;

use crate::lane::Lanes;

/// The loops that can be poked.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wake {
    outbound: Arc<Lanes<Notify>>,
    works: Arc<Notify>,
    ended: Arc<Notify>,
    steering: Arc<Notify>,
    withdrawals: Arc<Notify>,
}

impl Wake {
    /// There may be something to send.
    pub(crate) fn outbound(&self) {
        for lane in self.outbound.all() {
            lane.notify_one();
        }
    }

    /// There may be a new collection, or one that was paused, resumed or cancelled.
    pub(crate) fn works(&self) {
        self.works.notify_one();
    }

    /// The last task of a collection may have ended.
    pub(crate) fn ended(&self) {
        self.ended.notify_one();
    }

    /// Tasks ended.
    pub(crate) fn steering(&self) {
        self.steering.notify_one();
    }

    /// A consent may have ended.
    pub(crate) fn withdrawals(&self) {
        self.withdrawals.notify_one();
    }

    pub(crate) async fn outbound_poked(&self, lane: Priority) {
        self.outbound.of(lane).notified().await;
    }

    pub(crate) async fn works_poked(&self) {
        self.works.notified().await;
    }

    pub(crate) async fn ended_poked(&self) {
        self.ended.notified().await;
    }

    pub(crate) async fn steering_poked(&self) {
        self.steering.notified().await;
    }

    pub(crate) async fn withdrawals_poked(&self) {
        self.withdrawals.notified().await;
    }
}
