//! How many requests of this controller may be out at the same time, over all collections.
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

    /// Takes room for so many requests of a collection, or for as many as the limit over all collections leaves. Taken at once, so that
    /// lanes which ask at the same time do not take the same room; what is not sent is given back with [`Window::ended`].
    pub(crate) fn take(&self, collection: CollectionId, wanted: u32, total_limit: u32) -> u32 {
        let mut out = self.locked();
        let total: u32 = out.values().sum();
        let room = total_limit.saturating_sub(total).min(wanted);
        if room > 0 {
            *out.entry(collection).or_default() += room;
        }
        room
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
    fn the_limit_holds_over_all_collections() {
        let window = Window::default();
        let (a, b) = (CollectionId::new(), CollectionId::new());
        assert_eq!((window.take(a, 30, 100), window.take(b, 50, 100)), (30, 50));
        assert_eq!(window.take(a, 400, 90), 10, "what the limit leaves");
        assert_eq!((window.take(b, 1, 90), window.take(b, 1, 100)), (0, 1), "a higher limit has room where a lower one has none");
        window.ended(b, 60);
        assert_eq!(window.total(), 40, "never below zero");
        assert!(window.is_idle(b) && !window.is_idle(a));
        window.set(HashMap::from([(b, 5)]));
        assert_eq!((window.total(), window.take(a, 400, 100)), (5, 95));
        window.closed(b);
        assert!(window.is_idle(b) && !window.is_idle(a));
    }
}
