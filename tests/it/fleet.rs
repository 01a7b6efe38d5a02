//! Simulated devices for tests: the real agent code, in this process.

use std::time::Duration;

use muster_agent::fault::{Fault, FaultFigures, FaultRule, Who};
use muster_agent::fleet::{Fleet, FleetOptions};

/// Who misbehaves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mix {
    /// Nobody.
    Healthy,
    /// Device n has the n-th fault, the others none.
    OneOfEach,
    /// Everybody takes requests and never answers.
    AllDeaf,
    /// Everybody is late by a second, so that there is time to kill something.
    Unhurried,
    /// Everybody's clock is wrong by [`SKEW`], ahead or behind.
    Skewed,
}

/// How wrong skewed clocks are.
pub(crate) const SKEW: Duration = Duration::from_secs(3 * 3600);

/// Starts devices `sim-…` and waits for nothing; the controller sees them come.
pub(crate) async fn fleet(mqtt_url: &str, devices: usize, mix: Mix) -> Fleet {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let rule = |fault, who| FaultRule { fault, who };
    let faults = match mix {
        Mix::Healthy => Vec::new(),
        Mix::OneOfEach => Fault::ALL.iter().enumerate().map(|(index, &fault)| rule(fault, Who::Numbers(vec![index + 1]))).collect(),
        Mix::AllDeaf => vec![rule(Fault::Deaf, Who::Share(1.0))],
        Mix::Unhurried => vec![rule(Fault::Slow, Who::Share(1.0))],
        Mix::Skewed => vec![rule(Fault::ClockSkew, Who::Share(1.0))],
    };
    let slow_delay = if mix == Mix::Unhurried { Duration::from_millis(800) } else { Duration::from_secs(2) };
    let clock_skew = if mix == Mix::Skewed { SKEW } else { FaultFigures::default().clock_skew };
    let options = FleetOptions {
        mqtt_url: mqtt_url.to_owned(),
        devices,
        faults,
        figures: FaultFigures { slow_delay, away: Duration::from_secs(2), clock_skew },
        will_delay: Duration::from_secs(1),
        bundle_kb: 16,
        ..FleetOptions::default()
    };
    Fleet::start(options).await.expect("the fleet starts")
}
