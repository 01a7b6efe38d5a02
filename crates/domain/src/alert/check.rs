//! Whether a definition can be taken, and what is wrong with it: everything at once, so that one answer is enough to mend it.

use muster_wire::http::{
    CollectionRequest, MAX_COOLDOWN_SECONDS, MAX_DESCRIPTION_CHARS, MAX_INDICATOR_CHARS, MAX_LOG_ITEMS, MAX_LOOKBACK_SECONDS,
    MAX_RULE_NAME_CHARS, NewIndicator, NewRule, StormPolicy,
};
use muster_wire::method::pattern;
use muster_wire::method::request::{LogItem, MAX_REQUEST_BYTES};

use crate::calendar::OpenTimes;
use crate::condition::Condition;

/// Largest list of items of one definition, in bytes of JSON: it travels to the device with times and a grant beside it.
pub const MAX_DEFINED_BYTES: usize = MAX_REQUEST_BYTES / 2;
/// Longest quiet hours, in seconds: with more it would hardly ever be loud.
pub const MAX_QUIET_SECONDS: u64 = 24 * 3600;
/// Most devices of one sample, and most before it is a storm.
pub const MAX_STORM_DEVICES: u32 = 10_000;
/// Shortest and longest time within which devices make a storm, in seconds.
pub const STORM_SECONDS: std::ops::RangeInclusive<u64> = 10..=24 * 3600;

/// What is wrong with one member of a definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where it stands: `collect.items[0].filter.since`.
    pub field: String,
    /// What is wrong and what would be right, to be read behind the name of the field.
    pub message: String,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.field, self.message)
    }
}

#[derive(Default)]
struct Faults(Vec<Fault>);

impl Faults {
    fn add(&mut self, field: &str, message: impl Into<String>) {
        self.0.push(Fault { field: field.to_owned(), message: message.into() });
    }

    fn at_most(&mut self, field: &str, value: Option<u64>, most: u64) {
        if let Some(value) = value.filter(|value| *value > most) {
            self.add(field, format!("is {value} seconds; at most {most}"));
        }
    }

    fn not_zero(&mut self, field: &str, value: Option<u64>, instead: &str) {
        if value == Some(0) {
            self.add(field, format!("is 0; {instead}"));
        }
    }
}

/// What is wrong with an indicator; nothing when it can be taken.
pub fn check_indicator(new: &NewIndicator) -> Vec<Fault> {
    let mut faults = Faults::default();
    check_indicator_name(&mut faults, "name", &new.name);
    let described = new.description.chars().count();
    if described > MAX_DESCRIPTION_CHARS {
        faults.add("description", format!("has {described} characters; at most {MAX_DESCRIPTION_CHARS}"));
    }
    if new.description.trim().is_empty() {
        faults.add("description", "is blank: say what the indicator means, it is what customers read");
    }
    if new.description.contains(|c: char| c.is_control() && c != '\n') {
        faults.add("description", "has control characters");
    }
    check_collect(&mut faults, &new.collect);
    faults.at_most("lookback_seconds", Some(new.lookback_seconds), MAX_LOOKBACK_SECONDS);
    faults.at_most("lookahead_seconds", Some(new.lookahead_seconds), MAX_LOOKBACK_SECONDS);
    faults.at_most("cooldown_seconds", Some(new.cooldown_seconds), MAX_COOLDOWN_SECONDS);
    faults.not_zero("max_bytes", new.max_bytes, "switch the indicator off instead (enabled: false)");
    faults.0
}

/// What is wrong with a rule; nothing when it can be taken. Whether its indicator is in the catalogue is not asked here.
pub fn check_rule(new: &NewRule) -> Vec<Fault> {
    let mut faults = Faults::default();
    let named = new.name.chars().count();
    if named == 0 || named > MAX_RULE_NAME_CHARS {
        faults.add("name", format!("has {named} characters; from 1 to {MAX_RULE_NAME_CHARS}"));
    } else if let Some(bad) = new.name.chars().find(|c| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '_' | '.')) {
        faults.add("name", format!("has {bad:?}; letters, digits, '-', '_' and '.' may stand there"));
    } else if matches!(new.name.as_str(), "." | "..") {
        faults.add("name", "would be read as a path");
    }
    check_indicator_name(&mut faults, "indicator", &new.indicator);
    if let Some(Err(error)) = new.devices.as_deref().map(str::parse::<Condition>) {
        faults.add("devices", error.to_string());
    }
    if let Some(collect) = &new.collect {
        check_collect(&mut faults, collect);
    }
    if new.ignore && new.collect.is_some() {
        faults.add("ignore", "contradicts collect: a rule that ignores collects nothing");
    }
    faults.at_most("lookback_seconds", new.lookback_seconds, MAX_LOOKBACK_SECONDS);
    faults.at_most("lookahead_seconds", new.lookahead_seconds, MAX_LOOKBACK_SECONDS);
    faults.at_most("cooldown_seconds", new.cooldown_seconds, MAX_COOLDOWN_SECONDS);
    for (field, most) in
        [("per_device_per_day", new.per_device_per_day), ("per_site_per_day", new.per_site_per_day), ("per_day", new.per_day)]
    {
        faults.not_zero(field, most.map(u64::from), "a rule that collects nothing says ignore: true");
    }
    if let Some(quiet) = &new.quiet {
        match OpenTimes::parse(quiet) {
            Err(error) if error.is_time_zone() => faults.add("quiet.time_zone", error.to_string()),
            Err(error) => faults.add("quiet.cron", error.to_string()),
            Ok(_) => {}
        }
        faults.not_zero("quiet.length_seconds", Some(quiet.length_seconds), "leave quiet out instead");
        faults.at_most("quiet.length_seconds", Some(quiet.length_seconds), MAX_QUIET_SECONDS);
    }
    if let Some(storm) = &new.storm {
        check_storm(&mut faults, storm);
    }
    faults.0
}

/// What is wrong with a policy about storms, of the settings as well as of a rule; fields are named behind `storm.`.
pub fn check_storm_policy(policy: &StormPolicy) -> Vec<Fault> {
    let mut faults = Faults::default();
    check_storm(&mut faults, policy);
    faults.0
}

fn check_storm(faults: &mut Faults, policy: &StormPolicy) {
    for (field, value) in [("storm.devices", policy.devices), ("storm.per_stratum", policy.per_stratum), ("storm.at_most", policy.at_most)]
    {
        if value == 0 || value > MAX_STORM_DEVICES {
            faults.add(field, format!("is {value}; from 1 to {MAX_STORM_DEVICES}"));
        }
    }
    if !STORM_SECONDS.contains(&policy.within_seconds) {
        let (least, most) = STORM_SECONDS.into_inner();
        faults.add("storm.within_seconds", format!("is {}; from {least} to {most}", policy.within_seconds));
    }
}

fn check_indicator_name(faults: &mut Faults, field: &str, name: &str) {
    let chars = name.chars().count();
    if chars == 0 || chars > MAX_INDICATOR_CHARS {
        faults.add(field, format!("has {chars} characters; from 1 to {MAX_INDICATOR_CHARS}"));
    } else if name.trim() != name {
        faults.add(field, "begins or ends with a blank");
    } else if name.contains(char::is_control) {
        faults.add(field, "has control characters");
    }
}

fn check_collect(faults: &mut Faults, collect: &CollectionRequest) {
    const TIMES: &str = "cannot stand here: times come from the alert (lookback_seconds, lookahead_seconds)";
    match collect {
        CollectionRequest::Ping {} => {
            faults.add("collect.kind", "is ping, which brings no logs; one of bundle, upload_logs, logs");
        }
        CollectionRequest::Bundle { since, .. } => {
            if since.is_some() {
                faults.add("collect.since", TIMES);
            }
        }
        CollectionRequest::UploadLogs { items, .. } | CollectionRequest::Logs { items, .. } => {
            if items.is_empty() || items.len() > MAX_LOG_ITEMS {
                faults.add("collect.items", format!("has {} items; from 1 to {MAX_LOG_ITEMS}", items.len()));
            }
            for (place, item) in items.iter().enumerate() {
                check_item(faults, &format!("collect.items[{place}]"), item, TIMES);
            }
            let bytes = serde_json::to_string(items).map_or(usize::MAX, |text| text.len());
            if bytes > MAX_DEFINED_BYTES {
                faults.add("collect.items", format!("have {bytes} bytes; at most {MAX_DEFINED_BYTES} are sent to a device"));
            }
        }
    }
}

fn check_item(faults: &mut Faults, at: &str, item: &LogItem, times: &str) {
    if item.id.trim().is_empty() {
        faults.add(&format!("{at}.id"), "is blank: it is a pattern over module names, or the word all");
    } else if let Some(risk) = pattern::risky(&item.id).filter(|_| !item.id.eq_ignore_ascii_case(pattern::ALL_MODULES)) {
        faults.add(&format!("{at}.id"), risk.to_string());
    }
    if item.filter.since.is_some() {
        faults.add(&format!("{at}.filter.since"), times);
    }
    if item.filter.until.is_some() {
        faults.add(&format!("{at}.filter.until"), times);
    }
    if let Some(tail) = item.filter.tail.filter(|tail| *tail < 1) {
        faults.add(&format!("{at}.filter.tail"), format!("is {tail}; at least 1"));
    }
    if let Some(level) = item.filter.loglevel.filter(|level| !(0..=7).contains(level)) {
        faults.add(&format!("{at}.filter.loglevel"), format!("is {level}; lines have levels from 0 (emergency) to 7 (debug)"));
    }
    match item.filter.regex.as_deref() {
        Some("") => faults.add(&format!("{at}.filter.regex"), "is empty: leave it out to select every line"),
        Some(regex) => {
            if let Some(risk) = pattern::risky(regex) {
                faults.add(&format!("{at}.filter.regex"), risk.to_string());
            }
        }
        None => {}
    }
}
