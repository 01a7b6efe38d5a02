//! Devices per minute. What is kept is one moment: when the next device is due. Time that nobody used is lost but for a small burst, so
//! a rate holds over any minute, not only on average.

use std::time::Duration;

use muster_wire::http::{MAX_RATE_PER_MINUTE, Rate};

/// How far a collection may be ahead of its rate: by what the rate allows in this time, and by one device at least.
pub const BURST: Duration = Duration::from_secs(1);
const MINUTE_US: f64 = 60e6;

/// The rate after so many were verified. It never falls while that number grows.
pub fn per_minute(rate: &Rate, verified: u64) -> f64 {
    let Some(ramp) = rate.ramp else { return rate.per_minute };
    let steps = i32::try_from(verified / ramp.every_verified.max(1)).unwrap_or(i32::MAX);
    let most = ramp.max_per_minute.unwrap_or(MAX_RATE_PER_MINUTE);
    (rate.per_minute * ramp.factor.powi(steps)).min(most)
}

/// Devices that may go at once after a pause.
pub fn burst(per_minute: f64) -> u32 {
    ((per_minute * BURST.as_micros() as f64 / MINUTE_US).floor() as u32).max(1)
}

/// Room under a rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// How many may go now.
    pub devices: u32,
    /// With no room: how long until there is some.
    pub wait: Duration,
}

/// How many may go now, when the next device is due at `due_us`. Times in microseconds since 1970.
pub fn room(due_us: i64, per_minute: f64, now_us: i64) -> Room {
    let interval = MINUTE_US / per_minute;
    let behind = (now_us - due_us.max(now_us)) as f64;
    let free = (behind + f64::from(burst(per_minute)) * interval) / interval;
    if free >= 1.0 {
        return Room { devices: free.floor().min(f64::from(u32::MAX)) as u32, wait: Duration::ZERO };
    }
    Room { devices: 0, wait: Duration::from_micros((((1.0 - free) * interval).ceil() as u64).max(1)) }
}

/// When the next device is due after so many went now. Rounded up: many small steps are never faster than a large one.
pub fn due_after(due_us: i64, per_minute: f64, now_us: i64, went: u32) -> i64 {
    let span = (f64::from(went) * MINUTE_US / per_minute).ceil();
    due_us.max(now_us).saturating_add(span as i64)
}

#[cfg(test)]
mod tests {
    use muster_wire::http::Ramp;
    use proptest::prelude::*;

    use super::*;

    const SECOND_US: i64 = 1_000_000;

    #[test]
    fn a_ramp_grows_by_verified_devices_up_to_its_end() {
        let ramp = |max_per_minute| Rate { per_minute: 50.0, ramp: Some(Ramp { factor: 2.0, every_verified: 100, max_per_minute }) };
        for (verified, expected) in [(0, 50.0), (99, 50.0), (100, 100.0), (250, 200.0), (300, 400.0), (1_000_000, 1000.0)] {
            assert_eq!(per_minute(&ramp(Some(1000.0)), verified), expected, "{verified}");
        }
        assert_eq!(per_minute(&ramp(None), u64::MAX), MAX_RATE_PER_MINUTE);
        assert_eq!(per_minute(&Rate { per_minute: 7.0, ramp: None }, 1_000_000), 7.0);
    }

    #[test]
    fn a_slow_rate_goes_one_by_one() {
        let now = 1_000 * SECOND_US;
        assert_eq!(room(0, 60.0, now), Room { devices: 1, wait: Duration::ZERO });
        let due = due_after(0, 60.0, now, 1);
        assert_eq!(room(due, 60.0, now), Room { devices: 0, wait: Duration::from_secs(1) });
        assert_eq!(room(due, 60.0, now + SECOND_US).devices, 1);
        assert_eq!(room(due, 60.0, now + 3600 * SECOND_US).devices, 1, "an unused hour is lost");
    }

    #[test]
    fn a_fast_rate_goes_by_the_second() {
        assert_eq!(burst(6000.0), 100);
        assert_eq!(room(0, 6000.0, SECOND_US).devices, 100);
        let due = due_after(0, 6000.0, SECOND_US, 100);
        assert_eq!(room(due, 6000.0, SECOND_US).devices, 0);
        assert_eq!(room(due, 6000.0, SECOND_US + 500_000).devices, 50);
    }

    proptest! {
        /// Whoever asks, whenever and for however many, with clocks that differ: over no minute do more go than rate and burst.
        #[test]
        fn no_minute_has_more_than_the_rate_and_the_burst(
            per_minute in 0.5_f64..20_000.0,
            asks in proptest::collection::vec((0_i64..2_000_000, -300_000_i64..300_000, 1_u32..500), 1..300),
        ) {
            let (mut due, mut clock, mut went) = (0, 1_000 * SECOND_US, Vec::new());
            for (passed, skew, wanted) in asks {
                clock += passed;
                let now = clock + skew;
                let count = room(due, per_minute, now).devices.min(wanted);
                if count > 0 {
                    due = due_after(due, per_minute, now, count);
                    went.push((clock, count));
                }
            }
            // Clocks that are 0.3 s apart to either side make a minute at most 0.6 s longer.
            let most = per_minute * 60.6 / 60.0 + f64::from(burst(per_minute)) + 1e-6;
            for (start, _) in &went {
                let minute: u32 = went.iter().filter(|(at, _)| (*start..start + 60 * SECOND_US).contains(at)).map(|(_, count)| count).sum();
                prop_assert!(f64::from(minute) <= most, "{minute} within a minute, {most} allowed");
            }
        }

        #[test]
        fn a_ramp_never_falls(base in 0.01_f64..1000.0, factor in 1.01_f64..10.0, every in 1_u64..1000, a in 0_u64..100_000, b in 0_u64..100_000) {
            let rate = Rate { per_minute: base, ramp: Some(Ramp { factor, every_verified: every, max_per_minute: Some(50_000.0) }) };
            prop_assert!(super::per_minute(&rate, a.min(b)) <= super::per_minute(&rate, a.max(b)));
        }

        #[test]
        fn after_the_wait_there_is_room(per_minute in 0.01_f64..100_000.0, ahead in 0_i64..10_000_000_000) {
            let now = 1_000 * SECOND_US;
            let first = room(now + ahead, per_minute, now);
            if first.devices == 0 {
                let then = now + i64::try_from(first.wait.as_micros()).expect("a wait") + 1;
                prop_assert!(room(now + ahead, per_minute, then).devices > 0);
            }
        }
    }
}
