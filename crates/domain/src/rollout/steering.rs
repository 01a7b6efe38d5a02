//! Steering: whether a collection goes on, goes further, pauses or stops, and which number says so.

use std::collections::BTreeMap;
use std::time::Duration;

use muster_wire::Reason;
use muster_wire::http::{AbortAction, AbortRule, Counters, Rollout};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::stage::{Gate, gate};

/// What has ended, as abort rules and the byte budget count it. A resumed collection is measured from where it stood then: what made it
/// stop would otherwise stop it again at once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Devices that were asked and are done.
    pub done: u64,
    /// Those among them that ended without success.
    pub unsuccessful: u64,
    /// Endings per reason.
    pub reasons: BTreeMap<Reason, u64>,
    /// Bytes of the sealed bundles.
    pub bytes: u64,
}

impl Ended {
    /// Out of the counters of a collection. Skipped devices were never asked, cancelled ones were stopped by us: neither says anything about
    /// how it goes.
    pub fn of(counters: &Counters, reasons: &BTreeMap<Reason, u64>, bytes: u64) -> Self {
        let unsuccessful = counters.refused + counters.failed + counters.expired;
        Self { done: counters.verified + unsuccessful, unsuccessful, reasons: reasons.clone(), bytes }
    }

    /// What ended since then. Tasks that were queued again since count for nothing rather than against it.
    fn since(&self, then: &Self) -> Self {
        let reasons = self.reasons.iter().map(|(reason, count)| {
            let before = then.reasons.get(reason).copied().unwrap_or(0);
            (*reason, count.saturating_sub(before))
        });
        Self {
            done: self.done.saturating_sub(then.done),
            unsuccessful: self.unsuccessful.saturating_sub(then.unsuccessful),
            reasons: reasons.collect(),
            bytes: self.bytes.saturating_sub(then.bytes),
        }
    }
}

/// What the steering looks at.
#[derive(Debug, Clone)]
pub struct Facts<'a> {
    /// How the collection wants to be paced.
    pub rollout: &'a Rollout,
    /// What has ended.
    pub ended: Ended,
    /// What counts from then on only.
    pub counted_from: &'a Ended,
    /// The stage it is in, from 0; as many as there are stages for the rest.
    pub stage: usize,
    /// The devices of that stage; `None` when it is the rest, or when no device is left behind it.
    pub of_stage: Option<Counters>,
    /// When the stage passed its gate, if it did.
    pub passed_at: Option<OffsetDateTime>,
    /// The time.
    pub now: OffsetDateTime,
}

/// What follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// On as before.
    Go,
    /// The stage passed its gate, and waits.
    Passed(String),
    /// The next stage begins.
    Next(String),
    /// Nothing more is sent until somebody resumes.
    Pause(String),
    /// Everything that is not final is cancelled.
    Abort(String),
}

/// Whether a collection has anything to steer.
pub fn is_steered(rollout: &Rollout) -> bool {
    let has_ramp = rollout.rate.is_some_and(|rate| rate.ramp.is_some());
    has_ramp || !rollout.stages.is_empty() || !rollout.abort.is_empty() || rollout.max_bytes.is_some()
}

/// What follows from these facts. What stops comes before what goes further.
pub fn steer(facts: &Facts<'_>) -> Turn {
    let rollout = facts.rollout;
    let ended = facts.ended.since(facts.counted_from);
    // A rule that cancels speaks before one that pauses.
    let mut crossed: Vec<(&AbortRule, String)> = rollout.abort.iter().filter_map(|rule| Some((rule, crossing(rule, &ended)?))).collect();
    crossed.sort_by_key(|(rule, _)| rule.action != AbortAction::Cancel);
    if let Some((rule, why)) = crossed.into_iter().next() {
        return match rule.action {
            AbortAction::Pause => Turn::Pause(why),
            AbortAction::Cancel => Turn::Abort(why),
        };
    }
    if let Some(limit) = rollout.max_bytes.filter(|limit| ended.bytes >= *limit) {
        return Turn::Pause(format!("the sealed bundles hold {} bytes; the limit is {limit}", ended.bytes));
    }
    at_the_gate(facts)
}

fn at_the_gate(facts: &Facts<'_>) -> Turn {
    let (Some(stage), Some(own)) = (facts.rollout.stages.get(facts.stage), &facts.of_stage) else { return Turn::Go };
    let wait = Duration::from_secs(stage.wait_seconds);
    match gate(stage, facts.stage, facts.rollout.stages.len(), own) {
        Gate::AtWork => Turn::Go,
        Gate::Failed(why) => Turn::Pause(why),
        Gate::Passed(stands) if stage.manual => Turn::Pause(format!("{stands}. The gate waits for somebody to resume")),
        Gate::Passed(stands) => match facts.passed_at {
            Some(at) if facts.now >= at + wait => Turn::Next(stands),
            Some(_) => Turn::Go,
            None if wait.is_zero() => Turn::Next(stands),
            None => Turn::Passed(stands),
        },
    }
}

/// Which number crossed the limit of a rule; `None` when none did.
fn crossing(rule: &AbortRule, ended: &Ended) -> Option<String> {
    let (count, how) = if rule.reasons.is_empty() {
        (ended.unsuccessful, "ended without success".to_owned())
    } else {
        let words: Vec<&str> = rule.reasons.iter().map(|reason| reason.as_str()).collect();
        let count = rule.reasons.iter().filter_map(|reason| ended.reasons.get(reason)).sum();
        (count, format!("ended with {}", words.join(" or ")))
    };
    if count == 0 || ended.done < rule.minimum_done {
        return None;
    }
    let share = count as f64 * 100.0 / ended.done.max(count) as f64;
    (share >= rule.percent).then(|| {
        format!(
            "{count} of {} done devices ({share:.1} %) {how}; the limit is {} %, from {} on",
            ended.done, rule.percent, rule.minimum_done
        )
    })
}

#[cfg(test)]
mod tests {
    use muster_wire::http::{Amount, Stage};
    use proptest::prelude::*;
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-25 12:00 UTC);

    fn rule(percent: f64, minimum_done: u64, action: AbortAction) -> AbortRule {
        AbortRule { reasons: Vec::new(), percent, minimum_done, action }
    }

    fn ended(done: u64, unsuccessful: u64) -> Ended {
        Ended { done, unsuccessful, reasons: [(Reason::NoAnswer, unsuccessful)].into(), bytes: done * 1000 }
    }

    fn turn(rollout: &Rollout, ended: Ended, counted_from: &Ended) -> Turn {
        steer(&Facts { rollout, ended, counted_from, stage: 0, of_stage: None, passed_at: None, now: NOW })
    }

    #[test]
    fn a_stop_says_which_number_crossed_which_limit() {
        let rollout = Rollout { abort: vec![rule(5.0, 10, AbortAction::Pause)], ..Rollout::default() };
        let from = Ended::default();
        assert_eq!(turn(&rollout, ended(200, 9), &from), Turn::Go);
        assert_eq!(
            turn(&rollout, ended(200, 12), &from),
            Turn::Pause("12 of 200 done devices (6.0 %) ended without success; the limit is 5 %, from 10 on".to_owned())
        );
        assert_eq!(turn(&rollout, ended(9, 9), &from), Turn::Go, "too few to say");
        assert!(matches!(turn(&rollout, ended(10, 10), &from), Turn::Pause(_)));
        let reasons = vec![Reason::UploadMissing, Reason::NoAnswer];
        let rollout = Rollout { abort: vec![AbortRule { reasons, ..rule(6.0, 10, AbortAction::Cancel) }], ..Rollout::default() };
        assert_eq!(
            turn(&rollout, ended(200, 12), &from),
            Turn::Abort("12 of 200 done devices (6.0 %) ended with upload_missing or no_answer; the limit is 6 %, from 10 on".to_owned())
        );
    }

    #[test]
    fn the_rule_that_cancels_speaks_first() {
        let abort = vec![rule(1.0, 1, AbortAction::Pause), rule(2.0, 1, AbortAction::Cancel)];
        assert!(matches!(turn(&Rollout { abort, ..Rollout::default() }, ended(100, 50), &Ended::default()), Turn::Abort(_)));
    }

    #[test]
    fn a_resumed_collection_counts_from_there() {
        let rollout = Rollout { abort: vec![rule(5.0, 10, AbortAction::Pause)], max_bytes: Some(150_000), ..Rollout::default() };
        assert!(matches!(turn(&rollout, ended(100, 20), &Ended::default()), Turn::Pause(_)));
        assert_eq!(turn(&rollout, ended(109, 29), &ended(100, 20)), Turn::Go, "nine more are too few to say");
        assert!(matches!(turn(&rollout, ended(110, 30), &ended(100, 20)), Turn::Pause(_)));
        assert_eq!(
            turn(&rollout, ended(260, 20), &ended(100, 20)),
            Turn::Pause("the sealed bundles hold 160000 bytes; the limit is 150000".to_owned())
        );
    }

    #[test]
    fn stages_pass_wait_fail_or_ask() {
        let with = |wait_seconds, manual| Rollout {
            stages: vec![Stage { devices: Amount::Count(10), verified_percent: 90.0, wait_seconds, manual }],
            ..Rollout::default()
        };
        let at = |rollout: &Rollout, verified, failed, queued, passed_at| {
            let own = Counters { verified, failed, queued, ..Counters::default() };
            let (counted_from, ended) = (&Ended::default(), Ended::default());
            steer(&Facts { rollout, ended, counted_from, stage: 0, of_stage: Some(own), passed_at, now: NOW })
        };
        let minute = Duration::from_secs(60);
        assert_eq!(at(&with(0, false), 9, 0, 1, None), Turn::Go);
        assert!(matches!(at(&with(0, false), 9, 1, 0, None), Turn::Next(_)));
        assert!(matches!(at(&with(0, false), 8, 2, 0, None), Turn::Pause(why) if why.contains("80.0 %")));
        assert!(matches!(at(&with(60, false), 10, 0, 0, None), Turn::Passed(_)));
        assert_eq!(at(&with(60, false), 10, 0, 0, Some(NOW - minute / 2)), Turn::Go);
        assert!(matches!(at(&with(60, false), 10, 0, 0, Some(NOW - minute)), Turn::Next(_)));
        assert!(matches!(at(&with(0, true), 10, 0, 0, None), Turn::Pause(why) if why.contains("waits for somebody to resume")));
    }

    proptest! {
        /// It stops exactly when a share of those done since the last resume is at the limit, whatever the order of endings.
        #[test]
        fn it_stops_at_the_limit_and_not_before(endings in proptest::collection::vec(any::<bool>(), 1..400), percent in 1_u32..100, minimum in 1_u64..50) {
            let rollout = Rollout { abort: vec![rule(f64::from(percent), minimum, AbortAction::Pause)], ..Rollout::default() };
            let mut seen = ended(0, 0);
            for good in endings {
                seen = ended(seen.done + 1, seen.unsuccessful + u64::from(!good));
                let is_over = seen.done >= minimum && seen.unsuccessful > 0 && seen.unsuccessful * 100 >= seen.done * u64::from(percent);
                prop_assert_eq!(turn(&rollout, seen.clone(), &Ended::default()) != Turn::Go, is_over, "{:?}", seen);
            }
        }
    }
}
