//! How long to wait before the next attempt or the next question: a schedule that stands in the settings, and a pure function.

use std::time::Duration;

/// Largest wait a schedule may name; longer ones are a mistake in the settings.
pub const MAX_WAIT_SECONDS: u64 = 24 * 3600;
/// Largest growth from one wait to the next.
pub const MAX_FACTOR: f64 = 100.0;

/// A growing wait with jitter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// Wait after the first attempt.
    pub first: Duration,
    /// Each further wait is this many times the one before; at least 1.
    pub factor: f64,
    /// No wait is longer, jitter included.
    pub max: Duration,
    /// 0 to 1: a wait is spread over this share of itself to both sides, so that a fleet that failed together does not return together.
    pub jitter_share: f64,
}

/// Why a schedule cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum InvalidSchedule {
    /// Zero would be a busy loop.
    #[error("the first wait is zero; give at least a millisecond")]
    NoWait,
    /// The waits would shrink, or outgrow every bound in two steps.
    #[error("the factor is {0}; it must lie between 1 and {MAX_FACTOR}")]
    Factor(f64),
    /// The bound is below the first wait or beyond reason.
    #[error("the longest wait is {max:?}; it must lie between the first wait, {first:?}, and {MAX_WAIT_SECONDS} s")]
    Max {
        /// The first wait.
        first: Duration,
        /// The bound given.
        max: Duration,
    },
    /// More than all of it.
    #[error("the jitter is {0}; it is a share between 0 and 1")]
    Jitter(f64),
}

impl Default for Schedule {
    fn default() -> Self {
        Self { first: Duration::from_secs(5), factor: 3.0, max: Duration::from_secs(600), jitter_share: 0.3 }
    }
}

impl Schedule {
    /// Refuses what a busy loop or an endless wait would come of.
    pub fn check(&self) -> Result<(), InvalidSchedule> {
        if self.first < Duration::from_millis(1) {
            return Err(InvalidSchedule::NoWait);
        }
        if !(1.0..=MAX_FACTOR).contains(&self.factor) {
            return Err(InvalidSchedule::Factor(self.factor));
        }
        if self.max < self.first || self.max > Duration::from_secs(MAX_WAIT_SECONDS) {
            return Err(InvalidSchedule::Max { first: self.first, max: self.max });
        }
        if !(0.0..=1.0).contains(&self.jitter_share) {
            return Err(InvalidSchedule::Jitter(self.jitter_share));
        }
        Ok(())
    }
}

/// The wait after attempt number `attempt` (from 1; 0 counts as 1). `random` is uniform in 0..1. Never above `schedule.max`.
pub fn delay(schedule: &Schedule, attempt: u32, random: f64) -> Duration {
    let max = schedule.max.as_secs_f64();
    let steps = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
    // f64::min and max drop a NaN, so no setting or random value leads past the bounds.
    let base = (schedule.first.as_secs_f64() * schedule.factor.powi(steps)).min(max);
    let random = if random.is_nan() { 0.5 } else { random.clamp(0.0, 1.0) };
    let spread = 1.0 + schedule.jitter_share.clamp(0.0, 1.0) * (2.0 * random - 1.0);
    Duration::try_from_secs_f64((base * spread).max(0.0).min(max)).map_or(schedule.max, |wait| wait.min(schedule.max))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLAIN: Schedule = Schedule { first: Duration::from_secs(5), factor: 3.0, max: Duration::from_secs(600), jitter_share: 0.0 };

    #[test]
    fn it_grows_to_the_bound_and_stays() {
        let waits: Vec<u64> = (1..=7).map(|attempt| delay(&PLAIN, attempt, 0.9).as_secs()).collect();
        assert_eq!(waits, [5, 15, 45, 135, 405, 600, 600]);
        assert_eq!(delay(&PLAIN, u32::MAX, 0.0), PLAIN.max);
        assert_eq!(delay(&PLAIN, 0, 0.0), PLAIN.first);
    }

    #[test]
    fn jitter_spreads_to_both_sides() {
        let schedule = Schedule { jitter_share: 0.5, ..PLAIN };
        assert_eq!(delay(&schedule, 1, 0.0), Duration::from_millis(2500));
        assert_eq!(delay(&schedule, 1, 0.5), Duration::from_secs(5));
        assert_eq!(delay(&schedule, 1, 1.0), Duration::from_millis(7500));
        assert_eq!(delay(&schedule, 9, 1.0), schedule.max);
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_its_name() {
        assert_eq!(Schedule::default().check(), Ok(()));
        assert_eq!(Schedule { first: Duration::ZERO, ..PLAIN }.check(), Err(InvalidSchedule::NoWait));
        for factor in [0.99, 100.5, f64::INFINITY] {
            assert_eq!(Schedule { factor, ..PLAIN }.check(), Err(InvalidSchedule::Factor(factor)));
        }
        assert!(Schedule { factor: f64::NAN, ..PLAIN }.check().is_err());
        for max in [Duration::from_secs(4), Duration::from_secs(MAX_WAIT_SECONDS + 1)] {
            assert_eq!(Schedule { max, ..PLAIN }.check(), Err(InvalidSchedule::Max { first: PLAIN.first, max }));
        }
        for jitter_share in [-0.1, 1.1] {
            assert_eq!(Schedule { jitter_share, ..PLAIN }.check(), Err(InvalidSchedule::Jitter(jitter_share)));
        }
    }

    proptest! {
        #[test]
        fn whatever_the_numbers_the_bound_holds(first_ms: u32, factor: f64, max_ms: u32, jitter_share: f64, attempt: u32, random: f64) {
            let schedule = Schedule { first: Duration::from_millis(first_ms.into()), factor, max: Duration::from_millis(max_ms.into()), jitter_share };
            prop_assert!(delay(&schedule, attempt, random) <= schedule.max);
        }
    }
}
