//! Pokes. A poke makes a loop early and informs it of nothing: it reads the database, as it does when its timer runs out.

use std::sync::Arc;

use muster_wire::http::Priority;
use tokio::sync::Notify;

use crate::lane::Lanes;

/// The loops that can be poked.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wake {
    outbound: Arc<Lanes<Notify>>,
    scan: Arc<Notify>,
    works: Arc<Notify>,
    steering: Arc<Notify>,
}

impl Wake {
    /// There may be something to send.
    pub(crate) fn outbound(&self) {
        for lane in self.outbound.all() {
            lane.notify_one();
        }
    }

    /// There may be a collection that ended.
    pub(crate) fn scan(&self) {
        self.scan.notify_one();
    }

    /// There may be a new collection, or one that was paused, resumed or cancelled.
    pub(crate) fn works(&self) {
        self.works.notify_one();
    }

    /// Tasks ended.
    pub(crate) fn steering(&self) {
        self.steering.notify_one();
    }

    pub(crate) async fn outbound_poked(&self, lane: Priority) {
        self.outbound.of(lane).notified().await;
    }

    pub(crate) async fn scan_poked(&self) {
        self.scan.notified().await;
    }

    pub(crate) async fn works_poked(&self) {
        self.works.notified().await;
    }

    pub(crate) async fn steering_poked(&self) {
        self.steering.notified().await;
    }
}
