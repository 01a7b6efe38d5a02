//! Pokes. A poke makes a loop early and informs it of nothing: it reads the database, as it does when its timer runs out.

use std::sync::Arc;

use tokio::sync::Notify;

/// The loops that can be poked.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wake {
    outbound: Arc<Notify>,
    scan: Arc<Notify>,
    ended: Arc<Notify>,
}

impl Wake {
    /// There may be something to send.
    pub(crate) fn outbound(&self) {
        self.outbound.notify_one();
    }

    /// There may be a new collection, or one that was cancelled or runs again.
    pub(crate) fn scan(&self) {
        self.scan.notify_one();
    }

    /// The last task of a collection may have ended.
    pub(crate) fn ended(&self) {
        self.ended.notify_one();
    }

    pub(crate) async fn outbound_poked(&self) {
        self.outbound.notified().await;
    }

    pub(crate) async fn scan_poked(&self) {
        self.scan.notified().await;
    }

    pub(crate) async fn ended_poked(&self) {
        self.ended.notified().await;
    }
}
