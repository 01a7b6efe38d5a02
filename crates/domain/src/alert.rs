//! Alerts: what follows when something happened to a device.
//!
//! * [`Plan`]: what a rule and the catalogue say together about one alert.
//! * [`mod@decide`]: the one function that says what becomes of an alert. Its facts are gathered elsewhere; nothing else decides.
//! * [`check`]: whether a definition of an indicator or a rule can be taken, with what is wrong with it.

pub mod check;
pub mod decide;

#[cfg(test)]
mod tests;

pub use check::{Fault, check_indicator, check_rule, check_storm_policy};
pub use decide::{Decision, DeferredFor, Facts, Job, Limits, Place, StormNow, Used, decide};

use muster_wire::http::{CollectionRequest, NewIndicator, NewRule, Priority, StormPolicy};
use muster_wire::method::since;
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime, UtcDateTime};

use crate::calendar::{InvalidCalendar, OpenTimes};

/// The form in which names of indicators are compared.
pub fn indicator_key(name: &str) -> String {
    name.to_lowercase()
}

/// What a rule and the catalogue say together about one alert.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The rule; absent where the catalogue alone speaks.
    pub rule: Option<String>,
    /// Nothing is collected.
    pub ignore: bool,
    /// What is collected, and from which time.
    pub collect: Collect,
    /// So long after a collection ended the device is left alone.
    pub cooldown: Duration,
    /// When nothing is asked.
    pub quiet: Option<OpenTimes>,
    /// Most collections of the rule per UTC day, of one device.
    pub per_device_per_day: Option<u32>,
    /// Of one site.
    pub per_site_per_day: Option<u32>,
    /// In all.
    pub per_day: Option<u32>,
    /// When it is a storm.
    pub storm: StormPolicy,
    /// Most bytes that bundles of the indicator may hold per UTC day.
    pub max_bytes: Option<u64>,
}

/// What is collected, from which time, and who goes first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Collect {
    /// The request without times.
    pub request: CollectionRequest,
    /// How far before the alert the logs begin, in seconds.
    pub lookback_seconds: u64,
    /// How far behind the alert they end, in seconds.
    pub lookahead_seconds: u64,
    /// Who goes first.
    pub priority: Priority,
    /// A healthy device is collected beside the first of each stratum of a storm.
    #[serde(default)]
    pub control_twin: bool,
}

impl Plan {
    /// What is said about an indicator by a rule, or by the catalogue alone. What neither says about storms comes from `storm`.
    ///
    /// # Errors
    /// When the quiet hours of the rule cannot be read; [`check_rule`] lets no such rule pass.
    pub fn new(indicator: &NewIndicator, rule: Option<&NewRule>, storm: StormPolicy) -> Result<Self, InvalidCalendar> {
        let storm = rule.and_then(|rule| rule.storm).unwrap_or(storm);
        Ok(Self {
            rule: rule.map(|rule| rule.name.clone()),
            ignore: rule.is_some_and(|rule| rule.ignore),
            collect: Collect {
                request: rule.and_then(|rule| rule.collect.clone()).unwrap_or_else(|| indicator.collect.clone()),
                lookback_seconds: rule.and_then(|rule| rule.lookback_seconds).unwrap_or(indicator.lookback_seconds),
                lookahead_seconds: rule.and_then(|rule| rule.lookahead_seconds).unwrap_or(indicator.lookahead_seconds),
                priority: rule.and_then(|rule| rule.priority).unwrap_or(indicator.priority),
                control_twin: storm.control_twin,
            },
            cooldown: seconds(rule.and_then(|rule| rule.cooldown_seconds).unwrap_or(indicator.cooldown_seconds)),
            quiet: rule.and_then(|rule| rule.quiet.as_ref()).map(OpenTimes::parse).transpose()?,
            per_device_per_day: rule.and_then(|rule| rule.per_device_per_day),
            per_site_per_day: rule.and_then(|rule| rule.per_site_per_day),
            per_day: rule.and_then(|rule| rule.per_day),
            storm,
            max_bytes: indicator.max_bytes,
        })
    }
}

impl Collect {
    /// When the logs end that are to be collected: where it was resolved, or so long after the alert as is asked for. `None`: at the moment
    /// at which the device is asked.
    pub fn until(&self, fired_at: OffsetDateTime, resolved_at: Option<OffsetDateTime>) -> Option<OffsetDateTime> {
        let ahead = (self.lookahead_seconds > 0).then(|| fired_at.saturating_add(seconds(self.lookahead_seconds)));
        let resolved = resolved_at.filter(|resolved| *resolved > fired_at);
        match (ahead, resolved) {
            (Some(ahead), Some(resolved)) => Some(ahead.min(resolved)),
            (ahead, resolved) => ahead.or(resolved),
        }
    }

    /// The request with its times, absolute and in UTC: the one form that every device reads alike. A bundle takes no `until`.
    pub fn request(&self, fired_at: OffsetDateTime, until: Option<OffsetDateTime>) -> CollectionRequest {
        let from = portable(fired_at.saturating_sub(seconds(self.lookback_seconds)));
        // Times are told in whole seconds: the last lines of a second that was begun are wanted too.
        let until = until.map(|until| until.saturating_add(Duration::nanoseconds(999_999_999))).and_then(portable);
        let mut request = self.request.clone();
        match &mut request {
            CollectionRequest::Bundle { since, .. } => *since = from,
            CollectionRequest::UploadLogs { items, .. } | CollectionRequest::Logs { items, .. } => {
                for item in items {
                    item.filter.since.clone_from(&from);
                    item.filter.until.clone_from(&until);
                }
            }
            CollectionRequest::Ping {} => {}
        }
        request
    }
}

fn portable(at: OffsetDateTime) -> Option<String> {
    // What lies before 1970 is as good as no bound.
    Some(at.unix_timestamp()).filter(|unix| *unix > 0).and_then(since::portable)
}

/// A number of seconds from a definition, which is bounded far below what fits.
pub fn seconds(seconds: u64) -> Duration {
    Duration::seconds(i64::try_from(seconds).unwrap_or(i64::MAX))
}

/// The number of a UTC day, counted from 1970.
pub fn day(at: OffsetDateTime) -> i64 {
    at.unix_timestamp().div_euclid(24 * 3600)
}

/// The first instant of a day by its number.
pub fn day_start(day: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(day.saturating_mul(24 * 3600)).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// A length of time in words: `90m`, `26h`, `45s`.
pub fn words(length: Duration) -> String {
    let seconds = length.whole_seconds();
    match seconds {
        s if s >= 2 * 3600 && s % 3600 == 0 => format!("{}h", s / 3600),
        s if s >= 48 * 3600 => format!("{}h", s / 3600),
        s if s >= 120 => format!("{}m", s / 60),
        s => format!("{s}s"),
    }
}

/// An instant in words, to the second: `2026-11-28T10:00:00Z`.
pub fn instant(at: OffsetDateTime) -> String {
    let at = UtcDateTime::from(at);
    let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", at.hour(), at.minute(), at.second())
}
