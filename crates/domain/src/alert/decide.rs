//! What becomes of one alert: tests in a fixed order, of which the first that applies decides.

use muster_wire::ConsentId;
use muster_wire::http::AlertOutcome;
use time::{Duration, OffsetDateTime};

use super::{Plan, day, day_start, instant, seconds, words};

/// What the settings say about all alerts.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// An alert that is older when it comes is stale.
    pub max_age: Duration,
    /// Most collections that alerts may make per UTC day, in all.
    pub per_day: u32,
    /// Of one tenant.
    pub per_tenant_per_day: u32,
}

/// How many collections there were today.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Used {
    /// In all.
    pub fleet: u64,
    /// Of the tenant.
    pub tenant: u64,
    /// Of the rule.
    pub rule: u64,
    /// Of the rule, of the site.
    pub rule_site: u64,
    /// Of the rule, of the device.
    pub rule_device: u64,
    /// Bytes of today's bundles of the indicator.
    pub bytes: u64,
}

/// The last collection that was made of the device for the indicator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Job {
    /// When it ended; `None` while it is open.
    pub ended_at: Option<OffsetDateTime>,
}

/// How it stands with storms of this tenant and indicator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StormNow {
    /// So many devices have the indicator within the time that counts, this one included.
    None {
        /// Devices.
        devices: u64,
    },
    /// There is one.
    Open {
        /// Devices collected of it so far, or to be.
        sampled: u64,
        /// Of those, in the stratum of this device.
        of_stratum: u64,
    },
}

/// All that bears on one alert.
#[derive(Debug, Clone)]
pub struct Facts<'a> {
    /// When it is decided.
    pub now: OffsetDateTime,
    /// When it happened, in our time.
    pub fired_at: OffsetDateTime,
    /// When it ended, if it has.
    pub resolved_at: Option<OffsetDateTime>,
    /// It was deferred before: it cannot be stale any more.
    pub again: bool,
    /// It is in the sample of a storm, or came before it was one: storms are not asked again.
    pub has_place: bool,
    /// What is to be collected; otherwise why the indicator is not acted on.
    pub plan: Result<&'a Plan, &'a str>,
    /// The consent in force; otherwise why there is none.
    pub consent: Result<ConsentId, &'a str>,
    /// The last collection for it.
    pub job: Option<Job>,
    /// What is used up.
    pub used: Used,
    /// Storms.
    pub storm: StormNow,
}

/// Why it waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeferredFor {
    /// A budget is used up.
    Budget,
    /// It is a quiet hour.
    Quiet,
    /// What is to be collected has not been written yet.
    Lookahead,
}

impl DeferredFor {
    /// All of them.
    pub const ALL: &[Self] = &[Self::Budget, Self::Quiet, Self::Lookahead];

    /// The word in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Budget => "budget",
            Self::Quiet => "quiet",
            Self::Lookahead => "lookahead",
        }
    }
}

/// What a decision means for a storm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Nothing: storms were not asked.
    Unasked,
    /// Storms were asked and there is none: it counts towards one.
    Before,
    /// With this alert it is one.
    Opens,
    /// It is part of the sample.
    Sampled,
    /// It is part of a storm and not of its sample.
    Left,
}

/// What becomes of an alert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// What.
    pub outcome: AlertOutcome,
    /// Why, with the number or name that decided.
    pub why: String,
    /// When it is decided again, and why not now.
    pub due: Option<(OffsetDateTime, DeferredFor)>,
    /// What it means for a storm.
    pub place: Place,
}

impl Decision {
    fn new(outcome: AlertOutcome, why: impl Into<String>) -> Self {
        Self { outcome, why: why.into(), due: None, place: Place::Unasked }
    }

    fn deferred(until: OffsetDateTime, cause: DeferredFor, why: String) -> Self {
        Self { due: Some((until, cause)), ..Self::new(AlertOutcome::Deferred, format!("{why}; due at {}", instant(until))) }
    }

    fn at(self, place: Place) -> Self {
        Self { place, ..self }
    }
}

impl<'a> Facts<'a> {
    /// Whether it may be acted on at all, whatever was done before: then it counts towards a storm.
    ///
    /// # Errors
    /// What becomes of it otherwise.
    pub fn admitted(&self, limits: &Limits) -> Result<(&'a Plan, ConsentId), Decision> {
        let age = self.now - self.fired_at;
        if !self.again && age > limits.max_age {
            let why = format!("{} old when it came; at most {}", words(age), words(limits.max_age));
            return Err(Decision::new(AlertOutcome::Stale, why));
        }
        let plan = self.plan.map_err(|why| Decision::new(AlertOutcome::UnknownIndicator, why))?;
        if plan.ignore {
            let why = format!("rule {} ignores it", plan.rule.as_deref().unwrap_or("?"));
            return Err(Decision::new(AlertOutcome::Noted, why));
        }
        let consent = self.consent.map_err(|why| Decision::new(AlertOutcome::NoConsent, why))?;
        Ok((plan, consent))
    }
}

/// Decides about one alert that says that something began.
pub fn decide(facts: &Facts<'_>, limits: &Limits) -> Decision {
    let (plan, consent) = match facts.admitted(limits) {
        Ok(admitted) => admitted,
        Err(decision) => return decision,
    };
    if let Some(job) = facts.job {
        match job.ended_at {
            None => return Decision::new(AlertOutcome::Coalesced, "its collection is open"),
            Some(ended) if ended.saturating_add(plan.cooldown) > facts.now => {
                let (ago, cooldown) = (words(facts.now - ended), words(plan.cooldown));
                return Decision::new(AlertOutcome::Coalesced, format!("its collection ended {ago} ago; the cooldown is {cooldown}"));
            }
            Some(_) => {}
        }
    }
    let place = match storm(facts, plan) {
        Ok(place) => place,
        Err(left) => return left,
    };
    if let Some(deferred) = waits(facts, plan).or_else(|| over_budget(facts, plan, limits)) {
        return deferred.at(place);
    }
    let by = plan.rule.as_ref().map_or_else(|| "the catalogue".to_owned(), |rule| format!("rule {rule}"));
    let sample = if place == Place::Sampled { ", in the sample of a storm" } else { "" };
    Decision::new(AlertOutcome::Collected, format!("by {by}{sample}, under consent {consent}")).at(place)
}

/// Whether it is in the sample, where there is a storm.
fn storm(facts: &Facts<'_>, plan: &Plan) -> Result<Place, Decision> {
    if facts.has_place {
        return Ok(Place::Unasked);
    }
    let policy = &plan.storm;
    let (sampled, of_stratum, opens) = match facts.storm {
        StormNow::None { devices } if devices <= u64::from(policy.devices) => return Ok(Place::Before),
        // Those before it were all collected, or will be; their places are counted when it is opened, and this one is asked again then.
        StormNow::None { .. } => return Ok(Place::Opens),
        StormNow::Open { sampled, of_stratum } => (sampled, of_stratum, Place::Sampled),
    };
    let left = |why: String| Err(Decision::new(AlertOutcome::OnDemand, why).at(Place::Left));
    if sampled >= u64::from(policy.at_most) {
        return left(format!("a storm, of which {sampled} devices are collected; at most {}", policy.at_most));
    }
    if of_stratum >= u64::from(policy.per_stratum) {
        return left(format!(
            "a storm, of whose devices of this version, site and model {of_stratum} are collected; at most {}",
            policy.per_stratum
        ));
    }
    Ok(opens)
}

fn waits(facts: &Facts<'_>, plan: &Plan) -> Option<Decision> {
    let ahead = seconds(plan.collect.lookahead_seconds);
    let written = plan.collect.until(facts.fired_at, facts.resolved_at).filter(|_| plan.collect.lookahead_seconds > 0);
    if let Some(written) = written.filter(|written| *written > facts.now) {
        let why = format!("its logs go on for {} after it", words(ahead));
        return Some(Decision::deferred(written, DeferredFor::Lookahead, why));
    }
    let quiet = plan.quiet.as_ref()?;
    let opening = quiet.opening(facts.now).filter(|opening| opening.contains(facts.now))?;
    let rule = plan.rule.as_deref().unwrap_or("?");
    let why = format!("quiet hours of rule {rule} until {}", quiet.calendar().words(opening.until));
    Some(Decision::deferred(opening.until, DeferredFor::Quiet, why))
}

fn over_budget(facts: &Facts<'_>, plan: &Plan, limits: &Limits) -> Option<Decision> {
    let used = &facts.used;
    let budgets = [
        (Some(limits.per_day), used.fleet, "alerts"),
        (Some(limits.per_tenant_per_day), used.tenant, "its tenant"),
        (plan.per_day, used.rule, "the rule"),
        (plan.per_site_per_day, used.rule_site, "the rule at its site"),
        (plan.per_device_per_day, used.rule_device, "the rule for this device"),
    ];
    let tomorrow = day_start(day(facts.now) + 1);
    let spent = budgets.into_iter().find_map(|(most, used, whose)| {
        let most = most?;
        (used >= u64::from(most)).then(|| format!("{used} of {most} collections of {whose} were made today"))
    });
    let bytes = || {
        let most = plan.max_bytes?;
        (used.bytes >= most).then(|| format!("today's bundles of the indicator hold {} bytes, of {most}", used.bytes))
    };
    spent.or_else(bytes).map(|why| Decision::deferred(tomorrow, DeferredFor::Budget, why))
}
