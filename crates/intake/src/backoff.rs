//! Waits that grow, spread so that many who failed together do not come back together.

use std::time::Duration;

use rand::Rng as _;

/// The waits of one trouble; a new one for the next.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    max: Duration,
}

impl Backoff {
    pub(crate) fn new(first: Duration, max: Duration) -> Self {
        Self { next: first, max }
    }

    /// The next wait: half to one and a half of a span that doubles up to the longest.
    pub(crate) fn next(&mut self) -> Duration {
        let wait = self.next.mul_f64(rand::rng().random_range(0.5..1.5));
        self.next = (self.next * 2).min(self.max);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_their_bound_and_are_spread() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        let waits: Vec<_> = (0..20).map(|_| backoff.next()).collect();
        assert!(waits[0] <= Duration::from_millis(1500));
        assert!(waits[19] >= Duration::from_secs(15) && waits[19] <= Duration::from_secs(45));
        assert!(waits[10..].windows(2).any(|pair| pair[0] != pair[1]));
    }
}
