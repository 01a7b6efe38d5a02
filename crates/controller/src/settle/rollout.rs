//! The limits of a rollout, each with its field named.

use muster_wire::http::{
    AbortRule, Amount, MAX_ABORT_RULES, MAX_EXPIRY_SECONDS, MAX_RAMP_FACTOR, MAX_RATE_PER_MINUTE, MAX_STAGES, MIN_RATE_PER_MINUTE, Rate,
    Rollout, Stage,
};

use super::Faults;

/// Checks every member of a rollout.
pub(super) fn check(faults: &mut Faults, rollout: &Rollout) {
    if let Some(rate) = &rollout.rate {
        check_rate(faults, rate);
    }
    if let Some(percent) = rollout.in_flight_percent {
        share(faults, "rollout.in_flight_percent", percent);
    }
    if rollout.stages.len() > MAX_STAGES {
        faults.add("rollout.stages", format!("has {} stages; at most {MAX_STAGES} are taken", rollout.stages.len()));
    }
    for (index, stage) in rollout.stages.iter().take(MAX_STAGES).enumerate() {
        check_stage(faults, &format!("rollout.stages[{index}]"), stage);
    }
    if rollout.abort.len() > MAX_ABORT_RULES {
        faults.add("rollout.abort", format!("has {} rules; at most {MAX_ABORT_RULES} are taken", rollout.abort.len()));
    }
    for (index, rule) in rollout.abort.iter().take(MAX_ABORT_RULES).enumerate() {
        check_rule(faults, &format!("rollout.abort[{index}]"), rule);
    }
    if rollout.max_bytes == Some(0) {
        faults.add("rollout.max_bytes", "is 0: nothing could be collected");
    }
}

fn check_rate(faults: &mut Faults, rate: &Rate) {
    between(faults, "rollout.rate.per_minute", rate.per_minute, MIN_RATE_PER_MINUTE, MAX_RATE_PER_MINUTE);
    let Some(ramp) = &rate.ramp else { return };
    if !(ramp.factor > 1.0 && ramp.factor <= MAX_RAMP_FACTOR) {
        faults.add("rollout.rate.ramp.factor", format!("is {}; it is above 1 and at most {MAX_RAMP_FACTOR}", ramp.factor));
    }
    if ramp.every_verified == 0 {
        faults.add("rollout.rate.ramp.every_verified", "is 0; a step comes after one verified device at least");
    }
    if let Some(most) = ramp.max_per_minute {
        between(faults, "rollout.rate.ramp.max_per_minute", most, rate.per_minute.max(MIN_RATE_PER_MINUTE), MAX_RATE_PER_MINUTE);
    }
}

fn check_stage(faults: &mut Faults, at: &str, stage: &Stage) {
    match stage.devices {
        Amount::Count(0) => faults.add(format!("{at}.devices.count"), "is 0: a stage has one device at least"),
        Amount::Count(_) => {}
        Amount::Percent(percent) => share(faults, &format!("{at}.devices.percent"), percent),
    }
    between(faults, &format!("{at}.verified_percent"), stage.verified_percent, 0.0, 100.0);
    faults.within(&format!("{at}.wait_seconds"), Some(stage.wait_seconds), 0, MAX_EXPIRY_SECONDS);
}

fn check_rule(faults: &mut Faults, at: &str, rule: &AbortRule) {
    share(faults, &format!("{at}.percent"), rule.percent);
    if rule.minimum_done == 0 {
        faults.add(format!("{at}.minimum_done"), "is 0; a share needs one device at least");
    }
}

/// More than nothing, and all at most.
fn share(faults: &mut Faults, field: &str, percent: f64) {
    if !(percent > 0.0 && percent <= 100.0) {
        faults.add(field, format!("is {percent}; it is above 0 and at most 100"));
    }
}

fn between(faults: &mut Faults, field: &str, value: f64, min: f64, max: f64) {
    if !(min..=max).contains(&value) {
        faults.add(field, format!("is {value}; it lies between {min} and {max}"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn fields(rollout: Value) -> Vec<String> {
        let rollout: Rollout = serde_json::from_value(rollout).expect("of the right shape");
        let mut faults = Faults::default();
        check(&mut faults, &rollout);
        faults.0.into_iter().map(|(field, _)| field).collect()
    }

    #[test]
    fn every_limit_holds_at_its_edge() {
        let rate = |per_minute: f64| json!({ "rate": { "per_minute": per_minute } });
        let ramp = |factor: f64, every: u64, max: f64| json!({ "rate": { "per_minute": 10.0, "ramp": { "factor": factor, "every_verified": every, "max_per_minute": max } } });
        let stage = |devices: Value, verified: f64, wait: u64| json!({ "stages": [{ "devices": devices, "verified_percent": verified, "wait_seconds": wait }] });
        let rule = |percent: f64, minimum: u64| json!({ "abort": [{ "percent": percent, "minimum_done": minimum }] });
        let many_stages = |count: usize| json!({ "stages": vec![json!({ "devices": { "count": 1 } }); count] });
        let many_rules = |count: usize| json!({ "abort": vec![json!({ "percent": 5.0 }); count] });
        for (field, good, bad) in [
            ("rollout.rate.per_minute", rate(MIN_RATE_PER_MINUTE), rate(0.009)),
            ("rollout.rate.per_minute", rate(MAX_RATE_PER_MINUTE), rate(MAX_RATE_PER_MINUTE + 1.0)),
            ("rollout.rate.ramp.factor", ramp(1.01, 1, 10.0), ramp(1.0, 1, 10.0)),
            ("rollout.rate.ramp.factor", ramp(MAX_RAMP_FACTOR, 1, 10.0), ramp(10.1, 1, 10.0)),
            ("rollout.rate.ramp.every_verified", ramp(2.0, 1, 10.0), ramp(2.0, 0, 10.0)),
            ("rollout.rate.ramp.max_per_minute", ramp(2.0, 1, 10.0), ramp(2.0, 1, 9.0)),
            ("rollout.in_flight_percent", json!({ "in_flight_percent": 100.0 }), json!({ "in_flight_percent": 100.1 })),
            ("rollout.in_flight_percent", json!({ "in_flight_percent": 0.1 }), json!({ "in_flight_percent": 0.0 })),
            ("rollout.stages", many_stages(MAX_STAGES), many_stages(MAX_STAGES + 1)),
            ("rollout.stages[0].devices.count", stage(json!({ "count": 1 }), 0.0, 0), stage(json!({ "count": 0 }), 0.0, 0)),
            (
                "rollout.stages[0].devices.percent",
                stage(json!({ "percent": 100.0 }), 100.0, 0),
                stage(json!({ "percent": 101.0 }), 100.0, 0),
            ),
            ("rollout.stages[0].verified_percent", stage(json!({ "count": 1 }), 100.0, 0), stage(json!({ "count": 1 }), 100.5, 0)),
            (
                "rollout.stages[0].wait_seconds",
                stage(json!({ "count": 1 }), 100.0, MAX_EXPIRY_SECONDS),
                stage(json!({ "count": 1 }), 100.0, MAX_EXPIRY_SECONDS + 1),
            ),
            ("rollout.abort", many_rules(MAX_ABORT_RULES), many_rules(MAX_ABORT_RULES + 1)),
            ("rollout.abort[0].percent", rule(100.0, 1), rule(100.1, 1)),
            ("rollout.abort[0].minimum_done", rule(1.0, 1), rule(1.0, 0)),
            ("rollout.max_bytes", json!({ "max_bytes": 1 }), json!({ "max_bytes": 0 })),
        ] {
            assert_eq!(fields(good.clone()), Vec::<String>::new(), "{good}");
            assert_eq!(fields(bad.clone()), [field], "{bad}");
        }
    }
}
