//! How a collection is paced: how fast, how far, how many at the same time, and when it stops by itself. Pure rules; what they are asked
//! about is one row of the database, so that any number of controllers come to the same answer.
//!
//! * [`rate`]: devices per minute, and the ramp; [`rate::room`] says how many may go now.
//! * [`stage`]: which devices go first, and what has to be true before the others go.
//! * [`steering`]: [`steering::steer`], the one function that says go, go further, pause or stop.

pub mod rate;
pub mod stage;
pub mod steering;

use muster_wire::http::{Amount, Rate, Rollout};

/// Limits that hold for one collection over all controllers. A claim asks for each of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// How many devices are asked per minute.
    pub rate: Option<Rate>,
    /// Most devices asked at the same time.
    pub in_flight: Option<u32>,
    /// Place in the order of devices at which each stage ends; the rest has no end of its own.
    pub stage_ends: Vec<u32>,
}

impl Limits {
    /// The limits of a collection; `None` when it has none of its own, and each controller's window is all that bounds it.
    pub fn of(rollout: &Rollout, in_flight: Option<u32>, targeted: u64) -> Option<Self> {
        let share = rollout.in_flight_percent.map(|percent| saturated(amount(Amount::Percent(percent), targeted)));
        let limits = Self {
            rate: rollout.rate,
            in_flight: in_flight.into_iter().chain(share).min(),
            stage_ends: stage::ends(&rollout.stages, targeted),
        };
        let is_bound = limits.rate.is_some() || limits.in_flight.is_some() || !limits.stage_ends.is_empty();
        is_bound.then_some(limits)
    }
}

/// A number of devices out of so many. A share of something is one device at least.
pub fn amount(amount: Amount, of: u64) -> u64 {
    match amount {
        Amount::Count(count) => count,
        Amount::Percent(percent) => ((of as f64 * percent / 100.0).floor() as u64).max(1),
    }
}

fn saturated(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smaller_of_number_and_share_holds() {
        let of = |in_flight, percent, targeted| {
            Limits::of(&Rollout { in_flight_percent: percent, ..Rollout::default() }, in_flight, targeted).map(|limits| limits.in_flight)
        };
        assert_eq!(of(None, None, 1000), None, "no limit of its own");
        assert_eq!(of(Some(200), None, 1000), Some(Some(200)));
        assert_eq!(of(Some(200), Some(5.0), 1000), Some(Some(50)));
        assert_eq!(of(Some(20), Some(5.0), 1000), Some(Some(20)));
        assert_eq!(of(None, Some(0.1), 10), Some(Some(1)), "a share is one device at least");
    }
}
