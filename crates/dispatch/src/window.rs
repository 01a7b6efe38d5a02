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
    out: Mutex<Out>,
}

#[derive(Debug, Default)]
struct Out {
    /// Collections with any.
    of: HashMap<CollectionId, u32>,
    /// The sum of them, and of the room that was taken.
    total: u32,
    /// How often they were counted.
    counts: u64,
}

/// Room for requests, taken at once, so that lanes which ask at the same time do not take the same. It is given back with [`Window::fill`].
#[derive(Debug)]
#[must_use]
pub(crate) struct Room {
    pub(crate) size: u32,
    count: u64,
}

impl Window {
    fn locked(&self) -> std::sync::MutexGuard<'_, Out> {
        self.out.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// All requests out.
    pub(crate) fn total(&self) -> u32 {
        self.locked().total
    }

    /// Takes room for so many requests, or for as many as the limit over all collections leaves.
    pub(crate) fn take(&self, wanted: u32, total_limit: u32) -> Room {
        let mut out = self.locked();
        let size = total_limit.saturating_sub(out.total).min(wanted);
        out.total += size;
        Room { size, count: out.counts }
    }

    /// What went out into the room; the rest of it is free again.
    pub(crate) fn fill(&self, room: Room, sent: impl IntoIterator<Item = CollectionId>) {
        let mut out = self.locked();
        // Counted meanwhile: who was claimed before is in the count, and who was not is in the next one.
        if out.counts != room.count {
            return;
        }
        out.total = out.total.saturating_sub(room.size);
        for collection in sent {
            *out.of.entry(collection).or_default() += 1;
            out.total += 1;
        }
    }

    /// So many are no longer out.
    pub(crate) fn ended(&self, collection: CollectionId, count: u32) {
        let mut out = self.locked();
        let Some(own) = out.of.get_mut(&collection) else { return };
        let count = count.min(*own);
        *own -= count;
        if *own == 0 {
            out.of.remove(&collection);
        }
        out.total = out.total.saturating_sub(count);
    }

    /// Nothing of this collection is out.
    pub(crate) fn is_idle(&self, collection: CollectionId) -> bool {
        !self.locked().of.contains_key(&collection)
    }

    /// A collection that is closed has nothing out.
    pub(crate) fn closed(&self, collection: CollectionId) {
        self.ended(collection, u32::MAX);
    }

    /// The database says so.
    pub(crate) fn set(&self, counted: HashMap<CollectionId, u32>) {
        let total = counted.values().sum();
        metrics::gauge!("muster_requests_in_flight").set(f64::from(total));
        let mut out = self.locked();
        *out = Out { of: counted, total, counts: out.counts + 1 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_holds_over_all_collections() {
        let window = Window::default();
        let (a, b) = (CollectionId::new(), CollectionId::new());
        let (for_a, for_b) = (window.take(30, 100), window.take(50, 100));
        assert_eq!((for_a.size, for_b.size), (30, 50));
        let rest = window.take(400, 90);
        assert_eq!(rest.size, 10, "what the limit leaves");
        assert_eq!((window.take(1, 90).size, window.take(0, 100).size), (0, 0));
        window.fill(rest, []);
        assert_eq!(window.total(), 80, "what did not go out is free again");
        window.fill(for_a, std::iter::repeat_n(a, 30));
        window.fill(for_b, std::iter::repeat_n(b, 20));
        assert_eq!(window.total(), 50);
        window.ended(b, 60);
        assert_eq!(window.total(), 30, "never below zero");
        assert!(window.is_idle(b) && !window.is_idle(a));
        let before = window.take(10, 100);
        window.set(HashMap::from([(b, 5)]));
        window.fill(before, [a, a]);
        assert_eq!((window.total(), window.take(400, 100).size), (5, 95), "the count stands");
        window.closed(b);
        assert!(window.is_idle(b) && window.is_idle(a));
        assert_eq!(window.total(), 95);
    }
}
