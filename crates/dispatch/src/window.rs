//! How many requests may be out at the same time: over all collections, and per collection.
//!
//! The numbers here only pace; they are not the truth. They are set from the database at every scan, so a drift (a lost
//! poke, a crash of another controller) lasts one scan.

use std::collections::HashMap;
use std::sync::Mutex;

use muster_wire::CollectionId;

/// Requests out per collection.
#[derive(Debug, Default)]
pub(crate) struct Window {
    out: Mutex<HashMap<CollectionId, u32>>,
}

impl Window {
    fn locked(&self) -> std::sync::MutexGuard<'_, HashMap<CollectionId, u32>> {
        self.out.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// All requests out.
    pub(crate) fn total(&self) -> u32 {
        self.locked().values().sum()
    }

    /// How many more this collection may send, given both limits.
    pub(crate) fn room(&self, collection: CollectionId, collection_limit: u32, total_limit: u32) -> u32 {
        let out = self.locked();
        let total: u32 = out.values().sum();
        let own = out.get(&collection).copied().unwrap_or(0);
        collection_limit.saturating_sub(own).min(total_limit.saturating_sub(total))
    }

    /// So many were sent.
    pub(crate) fn sent(&self, collection: CollectionId, count: u32) {
        *self.locked().entry(collection).or_default() += count;
    }

    /// So many are no longer out.
    pub(crate) fn ended(&self, collection: CollectionId, count: u32) {
        if let Some(own) = self.locked().get_mut(&collection) {
            *own = own.saturating_sub(count);
        }
    }

    /// Nothing of this collection is out.
    pub(crate) fn is_idle(&self, collection: CollectionId) -> bool {
        self.locked().get(&collection).is_none_or(|own| *own == 0)
    }

    /// A collection that is closed has nothing out.
    pub(crate) fn closed(&self, collection: CollectionId) {
        self.locked().remove(&collection);
    }

    /// The database says so.
    pub(crate) fn set(&self, counted: HashMap<CollectionId, u32>) {
        metrics::gauge!("muster_requests_in_flight").set(f64::from(counted.values().sum::<u32>()));
        *self.locked() = counted;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_limits_hold() {
        let window = Window::default();
        let (a, b) = (CollectionId::new(), CollectionId::new());
        window.sent(a, 30);
        window.sent(b, 50);
        assert_eq!(window.room(a, 40, 100), 10, "its own limit");
        assert_eq!(window.room(a, 400, 100), 20, "the limit over all");
        window.ended(b, 60);
        assert_eq!(window.total(), 30, "never below zero");
        assert!(window.is_idle(b) && !window.is_idle(a));
        window.set(HashMap::from([(b, 5)]));
        assert_eq!((window.room(a, 40, 100), window.total()), (40, 5));
        assert!(window.is_idle(a) && !window.is_idle(b));
        window.closed(b);
        assert!(window.is_idle(b) && window.total() == 0);
    }
}
