//! The flags of a rollout: `--rate 50/min`, `--ramp 2x/100`, `--canary 1%`, `--abort-at 5%`.

use std::time::Duration;

use clap::Args;
use muster_wire::Reason;
use muster_wire::http::{AbortAction, AbortRule, Amount, MAX_IN_FLIGHT, Priority, Ramp, Rate, Rollout, Stage, Target};

use crate::moment::parse_span;

/// Done devices an abort rule waits for, unless it says otherwise.
const MINIMUM_DONE: u64 = 10;

/// How a collection is paced.
#[derive(Debug, Args)]
#[command(next_help_heading = "Rollout")]
pub(crate) struct RolloutArgs {
    /// Devices asked per minute, second or hour, over all controllers: 50/min, 2/s, 300/h
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    rate: Option<f64>,
    /// The rate grows: so many times faster for every so many verified devices, up to a rate: 2x/100, 1.5x/500:2000/min
    #[arg(long, value_name = "FACTORx/VERIFIED[:RATE]", value_parser = parse_ramp, requires = "rate")]
    ramp: Option<Ramp>,
    /// Most devices asked at the same time, over all controllers: a number, or a share like 5%
    #[arg(long, value_name = "N|SHARE", value_parser = parse_window)]
    in_flight: Option<Amount>,
    /// So many devices first, in random order; the others follow when all of these are done and verified: 10 or 1%
    #[arg(long, value_name = "N|SHARE", value_parser = parse_canary)]
    canary: Option<Stage>,
    /// A stage after the canary: devices, share that has to be verified, wait before the next, and manual when somebody has to resume it;
    /// repeatable: 10%, 10%:verified=95%:wait=30m, 50:manual
    #[arg(long, value_name = "N|SHARE[:…]", value_parser = parse_stage)]
    stage: Vec<Stage>,
    /// Pause when this share of the done devices ended without success, or with one of these reasons; not before so many are done (10);
    /// cancel instead with :cancel. Repeatable: 5%, 5%:no_answer,upload_missing:50:cancel
    #[arg(long, value_name = "SHARE[:REASON,…][:MIN][:cancel]", value_parser = parse_abort)]
    abort_at: Vec<AbortRule>,
    /// Pause once the bundles hold so many bytes: 10GB, 500MB
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    max_bytes: Option<u64>,
    /// Make it, and begin when somebody resumes it
    #[arg(long, conflicts_with = "wait")]
    start_paused: bool,
    /// Who goes first when there is not room for all: low, normal or high (default: high for one named device, else normal)
    #[arg(long, value_name = "WORD", value_parser = parse_priority)]
    priority: Option<Priority>,
}

impl RolloutArgs {
    /// The window as a number, where it was given as one.
    pub(crate) fn in_flight(&self) -> Option<u32> {
        match self.in_flight {
            Some(Amount::Count(count)) => u32::try_from(count).ok(),
            _ => None,
        }
    }

    /// As asked for; somebody waits for one device.
    pub(crate) fn priority(&self, target: &Target) -> Option<Priority> {
        self.priority.or_else(|| matches!(target, Target::Devices { devices } if devices.len() == 1).then_some(Priority::High))
    }

    /// The rollout that was asked for.
    pub(crate) fn rollout(&self) -> Rollout {
        Rollout {
            rate: self.rate.map(|per_minute| Rate { per_minute, ramp: self.ramp }),
            in_flight_percent: match self.in_flight {
                Some(Amount::Percent(percent)) => Some(percent),
                _ => None,
            },
            stages: self.canary.iter().chain(&self.stage).copied().collect(),
            abort: self.abort_at.clone(),
            max_bytes: self.max_bytes,
            start_paused: self.start_paused,
        }
    }
}

/// `50/min`, as devices per minute.
pub(crate) fn parse_rate(text: &str) -> Result<f64, String> {
    let wrong = || "a rate is a number per s, min or h, like 50/min".to_owned();
    let (number, unit) = text.split_once('/').ok_or_else(wrong)?;
    let number: f64 = number.trim().parse().map_err(|_| wrong())?;
    let per_minute = match unit.trim() {
        "s" | "sec" | "second" => number * 60.0,
        "m" | "min" | "minute" => number,
        "h" | "hour" => number / 60.0,
        _ => return Err(wrong()),
    };
    if per_minute.is_finite() && per_minute > 0.0 { Ok(per_minute) } else { Err("a rate is above 0".to_owned()) }
}

fn parse_ramp(text: &str) -> Result<Ramp, String> {
    let wrong =
        || "a ramp is a factor and a number of verified devices, like 2x/100, and may name the fastest rate: 2x/100:500/min".to_owned();
    let (steps, most) = match text.split_once(':') {
        Some((steps, rate)) => (steps, Some(parse_rate(rate)?)),
        None => (text, None),
    };
    let (factor, every) = steps.split_once("x/").ok_or_else(wrong)?;
    let factor: f64 = factor.trim().parse().map_err(|_| wrong())?;
    let every_verified = every.trim().parse().map_err(|_| wrong())?;
    if !(factor > 1.0 && factor.is_finite()) {
        return Err("a ramp grows: its factor is above 1".to_owned());
    }
    Ok(Ramp { factor, every_verified, max_per_minute: most })
}

/// `200` or `5%`.
fn parse_amount(text: &str) -> Result<Amount, String> {
    match text.strip_suffix('%') {
        Some(_) => Ok(Amount::Percent(parse_share(text)?)),
        None => match text.trim().parse::<u64>() {
            Ok(count) if count > 0 => Ok(Amount::Count(count)),
            _ => Err("it is a number of devices, or a share of them like 5%".to_owned()),
        },
    }
}

fn parse_share(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
    number.filter(|percent| *percent > 0.0 && *percent <= 100.0).ok_or_else(|| "a share is above 0% and at most 100%, like 5%".to_owned())
}

fn parse_window(text: &str) -> Result<Amount, String> {
    match parse_amount(text)? {
        Amount::Count(count) if count > u64::from(MAX_IN_FLIGHT) => {
            Err(format!("at most {MAX_IN_FLIGHT} devices are asked at the same time"))
        }
        amount => Ok(amount),
    }
}

fn parse_canary(text: &str) -> Result<Stage, String> {
    Ok(Stage { devices: parse_amount(text)?, verified_percent: 100.0, wait_seconds: 0, manual: false })
}

fn parse_stage(text: &str) -> Result<Stage, String> {
    let mut parts = text.split(':');
    let mut stage = parse_canary(parts.next().unwrap_or_default())?;
    for part in parts {
        match part.split_once('=') {
            Some(("verified", share)) => stage.verified_percent = parse_share(share)?,
            Some(("wait", span)) => stage.wait_seconds = parse_span(span)?.max(Duration::from_secs(1)).as_secs(),
            None if part == "manual" => stage.manual = true,
            _ => return Err(format!("{part:?} is none of verified=95%, wait=30m, manual")),
        }
    }
    Ok(stage)
}

fn parse_abort(text: &str) -> Result<AbortRule, String> {
    let mut parts = text.split(':');
    let percent = parse_share(parts.next().unwrap_or_default())?;
    let mut rule = AbortRule { reasons: Vec::new(), percent, minimum_done: MINIMUM_DONE, action: AbortAction::Pause };
    for part in parts {
        if part == "cancel" {
            rule.action = AbortAction::Cancel;
        } else if let Ok(minimum) = part.parse::<u64>() {
            rule.minimum_done = minimum.max(1);
        } else {
            rule.reasons = part.split(',').map(str::parse::<Reason>).collect::<Result<_, _>>()?;
        }
    }
    Ok(rule)
}

/// `10GB`, in decimal units.
fn parse_bytes(text: &str) -> Result<u64, String> {
    let wrong = || "it is a number of bytes like 500MB or 10GB".to_owned();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: f64 = digits.trim().parse().map_err(|_| wrong())?;
    let unit: f64 = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kb" => 1e3,
        "m" | "mb" => 1e6,
        "g" | "gb" => 1e9,
        "t" | "tb" => 1e12,
        _ => return Err(wrong()),
    };
    if number > 0.0 && number * unit >= 1.0 && number * unit < 1e18 { Ok((number * unit) as u64) } else { Err(wrong()) }
}

fn parse_priority(text: &str) -> Result<Priority, String> {
    match text {
        "low" => Ok(Priority::Low),
        "normal" => Ok(Priority::Normal),
        "high" => Ok(Priority::High),
        _ => Err("a priority is low, normal or high".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_ramps_and_amounts() {
        for (text, per_minute) in [("50/min", 50.0), ("2/s", 120.0), ("300/h", 5.0), ("0.5/m", 0.5)] {
            assert_eq!(parse_rate(text), Ok(per_minute), "{text}");
        }
        for text in ["50", "x/min", "0/min", "-1/s", "5/day", "inf/s", "NaN/s"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
        assert_eq!(parse_ramp("2x/100"), Ok(Ramp { factor: 2.0, every_verified: 100, max_per_minute: None }));
        assert_eq!(parse_ramp("1.5x/500:10/s"), Ok(Ramp { factor: 1.5, every_verified: 500, max_per_minute: Some(600.0) }));
        assert!(parse_ramp("1x/100").is_err() && parse_ramp("2/100").is_err() && parse_ramp("2x/a").is_err());
        assert_eq!((parse_window("200"), parse_window("5%")), (Ok(Amount::Count(200)), Ok(Amount::Percent(5.0))));
        assert!(["0", "200001", "0%", "101%", "x"].iter().all(|text| parse_window(text).is_err()));
    }

    #[test]
    fn stages_and_rules() {
        let stage = |devices, verified_percent, wait_seconds, manual| Ok(Stage { devices, verified_percent, wait_seconds, manual });
        assert_eq!(parse_canary("1%"), stage(Amount::Percent(1.0), 100.0, 0, false));
        assert_eq!(parse_stage("10%:verified=95%:wait=30m"), stage(Amount::Percent(10.0), 95.0, 1800, false));
        assert_eq!(parse_stage("50:manual"), stage(Amount::Count(50), 100.0, 0, true));
        assert!(parse_stage("50:often").is_err() && parse_stage("50:verified=often").is_err());
        let rule =
            |reasons: &[Reason], minimum_done, action| Ok(AbortRule { reasons: reasons.to_vec(), percent: 5.0, minimum_done, action });
        assert_eq!(parse_abort("5%"), rule(&[], 10, AbortAction::Pause));
        assert_eq!(
            parse_abort("5%:no_answer,upload_missing:50:cancel"),
            rule(&[Reason::NoAnswer, Reason::UploadMissing], 50, AbortAction::Cancel)
        );
        assert!(parse_abort("5").is_err() && parse_abort("5%:no_such_reason").is_err());
    }

    #[test]
    fn sizes_are_decimal() {
        for (text, bytes) in [("10GB", 10_000_000_000), ("500mb", 500_000_000), ("1.5k", 1500), ("7", 7), ("2 TB", 2_000_000_000_000)] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        assert!(["", "GB", "0", "-1MB", "5 parsecs", "1e30"].iter().all(|text| parse_bytes(text).is_err()));
    }
}
