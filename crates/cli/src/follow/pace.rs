//! How fast it goes and how long it will take, from what was seen lately.

use std::collections::VecDeque;
use std::time::Duration;

/// How far back "lately" reaches.
const WINDOW: Duration = Duration::from_secs(20);
/// Less than this says nothing yet.
const ENOUGH: Duration = Duration::from_millis(800);
/// Most samples kept.
const MAX_SAMPLES: usize = 256;

/// Samples of how many tasks were done when.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    samples: VecDeque<(Duration, u64)>,
}

impl Pace {
    /// Takes a sample: so many done, so long after the start.
    pub(crate) fn note(&mut self, elapsed: Duration, done: u64) {
        self.samples.push_back((elapsed, done));
        // One sample from before the window stays: the window is measured from it.
        while self.samples.len() > MAX_SAMPLES || self.samples.get(1).is_some_and(|(at, _)| elapsed.saturating_sub(*at) > WINDOW) {
            self.samples.pop_front();
        }
    }

    /// Tasks done per second, lately.
    pub(crate) fn rate(&self) -> Option<f64> {
        let (first_at, first) = self.samples.front()?;
        let (last_at, last) = self.samples.back()?;
        let span = last_at.saturating_sub(*first_at);
        (span >= ENOUGH).then(|| last.saturating_sub(*first) as f64 / span.as_secs_f64())
    }

    /// Time for the rest at this rate.
    pub(crate) fn left(&self, remaining: u64) -> Option<Duration> {
        let rate = self.rate().filter(|rate| *rate > 0.0)?;
        Duration::try_from_secs_f64(remaining as f64 / rate).ok()
    }

    /// Time since the first sample was counted from.
    pub(crate) fn elapsed(&self) -> Duration {
        self.samples.back().map(|(at, _)| *at).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_rate_is_that_of_lately() {
        let mut pace = Pace::default();
        assert_eq!(pace.rate(), None);
        pace.note(Duration::ZERO, 0);
        pace.note(Duration::from_millis(100), 50);
        assert_eq!(pace.rate(), None, "too short to say");
        for second in 1..=100u32 {
            pace.note(SECOND * second, if second <= 50 { u64::from(second) * 10 } else { 500 + u64::from(second - 50) * 2 });
        }
        let rate = pace.rate().expect("long enough");
        assert!((rate - 2.0).abs() < 0.1, "{rate}");
        assert_eq!(pace.left(20).map(|left| left.as_secs()), Some(10));
        assert_eq!(pace.elapsed(), SECOND * 100);
    }

    #[test]
    fn standing_still_has_no_end() {
        let mut pace = Pace::default();
        pace.note(Duration::ZERO, 5);
        pace.note(SECOND * 5, 5);
        assert_eq!(pace.rate(), Some(0.0));
        assert_eq!(pace.left(10), None);
    }

    #[test]
    fn samples_are_bounded() {
        let mut pace = Pace::default();
        for i in 0..10_000u64 {
            pace.note(Duration::from_millis(i), i);
        }
        assert!(pace.samples.len() <= MAX_SAMPLES);
    }
}
