//! Stages: the first devices of a random order go before the others, and a gate stands behind them.

use muster_wire::http::{Counters, Stage};

use super::{amount, saturated};

/// Place in the order at which each stage ends. A stage is so many devices more, never more than there are.
pub fn ends(stages: &[Stage], targeted: u64) -> Vec<u32> {
    let mut end = 0_u64;
    stages
        .iter()
        .map(|stage| {
            end = end.saturating_add(amount(stage.devices, targeted)).min(targeted);
            saturated(end)
        })
        .collect()
}

/// Devices before this place may be asked in this stage; `None` for all.
pub fn limit(ends: &[u32], stage: usize) -> Option<u32> {
    ends.get(stage).copied()
}

/// Places of the devices of a stage: from, and up to but without.
pub fn places(ends: &[u32], stage: usize) -> Option<(u32, u32)> {
    let end = *ends.get(stage)?;
    let start = stage.checked_sub(1).map_or(0, |before| ends[before]);
    Some((start, end))
}

/// What the gate behind a stage says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gate {
    /// Some of its devices are not done.
    AtWork,
    /// The others may go; the text says by which number.
    Passed(String),
    /// Too few are verified; the text says which number missed which limit.
    Failed(String),
}

/// The gate behind stage `number` (from 0) of `of`, given how its own devices stand.
pub fn gate(stage: &Stage, number: usize, of: usize, own: &Counters) -> Gate {
    if own.done() < own.sum() {
        return Gate::AtWork;
    }
    let asked = own.sum() - own.skipped;
    let share = if asked == 0 { 100.0 } else { own.verified as f64 * 100.0 / asked as f64 };
    let stands = format!(
        "stage {} of {of}: {} of {asked} asked devices ({share:.1} %) are verified; the stage needs {} %",
        number + 1,
        own.verified,
        stage.verified_percent
    );
    if share >= stage.verified_percent { Gate::Passed(stands) } else { Gate::Failed(stands) }
}

#[cfg(test)]
mod tests {
    use muster_wire::http::Amount;

    use super::*;

    fn stage(devices: Amount) -> Stage {
        Stage { devices, verified_percent: 90.0, wait_seconds: 0, manual: false }
    }

    #[test]
    fn stages_follow_each_other_and_end_with_the_devices() {
        let stages = [stage(Amount::Count(10)), stage(Amount::Percent(5.0)), stage(Amount::Percent(50.0)), stage(Amount::Count(9999))];
        let ends = ends(&stages, 1000);
        assert_eq!(ends, [10, 60, 560, 1000]);
        assert_eq!((limit(&ends, 0), limit(&ends, 3), limit(&ends, 4)), (Some(10), Some(1000), None));
        assert_eq!((places(&ends, 0), places(&ends, 2), places(&ends, 4)), (Some((0, 10)), Some((60, 560)), None));
        assert_eq!(super::ends(&[stage(Amount::Percent(1.0))], 20), [1], "a share is one device at least");
    }

    #[test]
    fn a_gate_waits_for_all_and_says_its_numbers() {
        let ten = |verified, failed, skipped, queued| Counters { verified, failed, skipped, queued, ..Counters::default() };
        let gate = |counters| gate(&stage(Amount::Count(10)), 0, 3, &counters);
        assert_eq!(gate(ten(9, 0, 0, 1)), Gate::AtWork);
        assert_eq!(
            gate(ten(9, 1, 0, 0)),
            Gate::Passed("stage 1 of 3: 9 of 10 asked devices (90.0 %) are verified; the stage needs 90 %".to_owned())
        );
        assert_eq!(
            gate(ten(7, 1, 2, 0)),
            Gate::Failed("stage 1 of 3: 7 of 8 asked devices (87.5 %) are verified; the stage needs 90 %".to_owned())
        );
        assert!(matches!(gate(ten(0, 0, 10, 0)), Gate::Passed(_)), "nobody was asked, so nothing speaks against it");
    }
}
