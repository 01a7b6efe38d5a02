//! A request to collect, settled: every limit held, every default filled in, every time absolute. Nothing is sent to a device that a real
//! device is known to get wrong without the engineer having been told.

mod rollout;
mod timing;

use std::time::Duration;

use muster_domain::condition::Condition;
use muster_wire::http::{
    CollectionOptions, CollectionRequest, EscalationStep, MAX_ATTEMPT_TIMEOUT_SECONDS, MAX_ATTEMPTS_ASKED, MAX_EXPIRY_SECONDS,
    MAX_IN_FLIGHT, MAX_LOG_ITEMS, MAX_TARGET_DEVICES, MAX_TEXT_CHARS, MIN_ATTEMPT_TIMEOUT_SECONDS, NewCollection, Problem, Target,
};
use muster_wire::method::pattern;
use muster_wire::method::request::{ContentType, Encoding, GetModuleLogsRequest, LogFilter, LogItem, MAX_REQUEST_BYTES};
use muster_wire::method::{Method, since};
use time::OffsetDateTime;

use crate::settings::DispatchSettings;

pub(crate) use timing::add_calendar;

/// Levels a line can have.
const LOG_LEVELS: std::ops::RangeInclusive<i32> = 0..=7;
/// A request on the wire carries a grant and its envelope beside the items.
const MAX_ITEMS_BYTES: usize = MAX_REQUEST_BYTES - 8 * 1024;

/// A request that can be sent as it stands.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Settled {
    pub(crate) request: CollectionRequest,
    pub(crate) steps: Vec<EscalationStep>,
    pub(crate) attempt_timeout: Duration,
    pub(crate) max_attempts: u8,
    pub(crate) expires_at: OffsetDateTime,
    /// Over all controllers, where it was asked for.
    pub(crate) in_flight: Option<u32>,
    /// What is legal and does something else than one might think.
    pub(crate) warnings: Vec<String>,
}

/// The method a request is asked with.
pub(crate) fn method(request: &CollectionRequest) -> Method {
    match request {
        CollectionRequest::Bundle { .. } => Method::UploadSupportBundle,
        CollectionRequest::UploadLogs { .. } => Method::UploadModuleLogs,
        CollectionRequest::Logs { .. } => Method::GetModuleLogs,
        CollectionRequest::Ping {} => Method::Ping,
    }
}

/// Checks and settles a request.
///
/// # Errors
/// A problem that lists every value at fault.
pub(crate) fn settle(new: &NewCollection, defaults: &DispatchSettings, now: OffsetDateTime) -> Result<Settled, Box<Problem>> {
    let mut faults = Faults::default();
    let mut warnings = Vec::new();
    check_text(&mut faults, "reason", new.reason.as_deref(), true);
    check_text(&mut faults, "case", new.case.as_deref(), false);
    if let Target::Devices { devices } = &new.target {
        if devices.is_empty() {
            faults.add("target.devices", "is empty: name at least one device, or take the target \"all\"");
        }
        if devices.len() > MAX_TARGET_DEVICES {
            faults.add(
                "target.devices",
                format!("has {} devices; at most {MAX_TARGET_DEVICES} can be named, or take the target \"all\"", devices.len()),
            );
        }
    }
    settle_choice(&mut faults, new);
    let mut request = new.request.clone();
    settle_request(&mut faults, &mut warnings, "request", &mut request, now);
    let mut steps = new.steps.clone();
    timing::settle_steps(&mut faults, &mut warnings, &request, &mut steps, now);
    timing::check_standing(&mut faults, new);
    let (attempt_timeout, expires_in) = settle_options(&mut faults, &new.options, method(&request), defaults);
    let expires_at = now + expires_in;
    if let Some(window) = &new.window {
        timing::settle_window(&mut faults, &mut warnings, window, now, expires_at);
    }
    rollout::check(&mut faults, &new.rollout);
    faults.into_result()?;
    Ok(Settled {
        request,
        steps,
        attempt_timeout,
        max_attempts: new.options.max_attempts.unwrap_or_else(|| timing::attempts(new.options.retry.as_ref(), defaults.attempts)),
        expires_at,
        in_flight: new.options.in_flight,
        warnings,
    })
}

/// Checks one request, and makes its times absolute; `at` is where it stands in the body.
fn settle_request(faults: &mut Faults, warnings: &mut Vec<String>, at: &str, request: &mut CollectionRequest, now: OffsetDateTime) {
    match request {
        CollectionRequest::Bundle { since, .. } => {
            if since.is_none() {
                warnings.push("no since: the bundles hold all logs there are, and take the devices as long".to_owned());
            }
            settle_time(faults, &format!("{at}.since"), since, now);
        }
        CollectionRequest::UploadLogs { items, encoding, content_type } => {
            settle_items(faults, warnings, at, items, now);
            let by_the_item = |item: &LogItem| item.filter.tail.is_some() && item.filter.since.is_some() && item.filter.until.is_some();
            if *content_type == ContentType::Text && items.iter().any(by_the_item) {
                warnings.push(
                    "tail is ignored by devices for uploads of text when since and until are given as well; take JSON, or drop one of them"
                        .to_owned(),
                );
            }
            if *content_type == ContentType::Text && *encoding == Encoding::None && items.iter().any(|item| item.filter.tail.is_none()) {
                warnings.push(
                    "text without gzip is uploaded piece by piece, which is slow and can tear; take gzip, or a small tail".to_owned(),
                );
            }
        }
        CollectionRequest::Logs { items, .. } => {
            settle_items(faults, warnings, at, items, now);
            if items.iter().any(|item| item.filter.tail.is_none()) {
                warnings
                    .push("no tail: a device refuses when its logs are larger than 128 KB; give a tail, or take upload_logs".to_owned());
            }
        }
        CollectionRequest::Ping {} => {}
    }
}

fn settle_choice(faults: &mut Faults, new: &NewCollection) {
    if let Target::Condition { condition, devices } = &new.target {
        if let Err(error) = condition.parse::<Condition>() {
            faults.add("target.condition", error.to_string());
        }
        if devices.len() > MAX_TARGET_DEVICES {
            faults.add("target.devices", format!("has {} devices; at most {MAX_TARGET_DEVICES} can be named", devices.len()));
        }
    }
    if new.choice.exclude.len() > MAX_TARGET_DEVICES {
        let text = format!("has {} devices; at most {MAX_TARGET_DEVICES} can be excluded by name", new.choice.exclude.len());
        faults.add("choice.exclude", text);
    }
    if let Some(percent) = new.choice.sample_percent.filter(|percent| !(*percent > 0.0 && *percent <= 100.0)) {
        faults.add("choice.sample_percent", format!("is {percent}; it lies above 0 and is at most 100"));
    }
    if new.choice.limit == Some(0) {
        faults.add("choice.limit", "is 0; at least one device is asked");
    }
}

fn settle_options(faults: &mut Faults, options: &CollectionOptions, method: Method, defaults: &DispatchSettings) -> (Duration, Duration) {
    faults.within(
        "options.attempt_timeout_seconds",
        options.attempt_timeout_seconds,
        MIN_ATTEMPT_TIMEOUT_SECONDS,
        MAX_ATTEMPT_TIMEOUT_SECONDS,
    );
    faults.within("options.max_attempts", options.max_attempts.map(u64::from), 1, MAX_ATTEMPTS_ASKED.into());
    faults.within("options.expires_in_seconds", options.expires_in_seconds, MIN_ATTEMPT_TIMEOUT_SECONDS, MAX_EXPIRY_SECONDS);
    faults.within("options.in_flight", options.in_flight.map(u64::from), 1, MAX_IN_FLIGHT.into());
    if let Some(retry) = &options.retry {
        timing::check_retry(faults, retry);
    }
    let expires_in = options.expires_in_seconds.map_or(defaults.expiry.0, Duration::from_secs);
    let usual = usual_timeout(method, defaults);
    if let Some(seconds) = options.attempt_timeout_seconds.filter(|seconds| *seconds > expires_in.as_secs()) {
        let text = format!("is {seconds}, longer than the life of the collection, {}: no attempt could use its time", expires_in.as_secs());
        faults.add("options.attempt_timeout_seconds", text);
    }
    // A default never makes a request illegal.
    (options.attempt_timeout_seconds.map_or(usual.min(expires_in), Duration::from_secs), expires_in)
}

/// Time for an attempt when none is asked for.
pub(crate) fn usual_timeout(method: Method, defaults: &DispatchSettings) -> Duration {
    if method.is_upload() { defaults.attempt_timeout.0 } else { defaults.answer_timeout.0 }
}

fn settle_items(faults: &mut Faults, warnings: &mut Vec<String>, at: &str, items: &mut [LogItem], now: OffsetDateTime) {
    if items.is_empty() {
        faults.add(format!("{at}.items"), "is empty: name at least one module, or { \"id\": \"all\" }");
    }
    if items.len() > MAX_LOG_ITEMS {
        return faults.add(format!("{at}.items"), format!("has {} items; at most {MAX_LOG_ITEMS} are taken", items.len()));
    }
    for (index, item) in items.iter_mut().enumerate() {
        let at = format!("{at}.items[{index}]");
        if item.id.trim().is_empty() {
            faults.add(format!("{at}.id"), "is blank: it is a pattern over module names, or the word all");
        } else if !item.id.eq_ignore_ascii_case(pattern::ALL_MODULES) {
            check_pattern(faults, format!("{at}.id"), &item.id);
        }
        settle_filter(faults, warnings, &format!("{at}.filter"), &mut item.filter, now);
    }
    let wire = GetModuleLogsRequest { items: items.to_vec(), encoding: Encoding::Gzip, content_type: ContentType::Json };
    let size = wire.to_json().len();
    if size > MAX_ITEMS_BYTES {
        faults.add(format!("{at}.items"), format!("makes a request of {size} bytes; at most {MAX_ITEMS_BYTES} are sent to a device"));
    }
}

fn settle_filter(faults: &mut Faults, warnings: &mut Vec<String>, at: &str, filter: &mut LogFilter, now: OffsetDateTime) {
    let lower = settle_time(faults, &format!("{at}.since"), &mut filter.since, now);
    let upper = settle_time(faults, &format!("{at}.until"), &mut filter.until, now);
    if upper == Some(0) {
        faults.add(format!("{at}.until"), "is 1970-01-01T00:00:00Z, which devices read as \"not set\"");
    }
    if let (Some(lower), Some(upper)) = (lower, upper)
        && lower > upper
    {
        faults.add(format!("{at}.until"), "is before since: no line could be selected");
    }
    match filter.tail {
        Some(tail) if tail < 0 => faults.add(format!("{at}.tail"), format!("is {tail}; devices refuse a negative number of lines")),
        Some(0) => faults.add(format!("{at}.tail"), "is 0, which selects no line at all"),
        Some(_) if filter.since.is_some() != filter.until.is_some() => warnings.push(format!(
            "{at}: with tail and only one of since and until, devices take the last lines first and the time after; give both, or no tail"
        )),
        _ => {}
    }
    if let Some(level) = filter.loglevel {
        if LOG_LEVELS.contains(&level) {
            warnings
                .push(format!("{at}: loglevel {level} selects the lines of exactly level {level}, not those that are more severe as well"));
        } else {
            faults.add(format!("{at}.loglevel"), format!("is {level}; lines have levels from 0 (emergency) to 7 (debug)"));
        }
    }
    if let Some(regex) = &filter.regex {
        if regex.is_empty() {
            faults.add(format!("{at}.regex"), "is empty: leave it out to select every line");
        } else {
            check_pattern(faults, format!("{at}.regex"), regex);
        }
    }
}

fn check_pattern(faults: &mut Faults, field: String, text: &str) {
    if let Some(risk) = pattern::risky(text) {
        faults.add(field, risk.to_string());
    }
}

/// Makes a time absolute, UTC, whole seconds: the one form every version of every device reads alike, whatever its clock says.
fn settle_time(faults: &mut Faults, field: &str, text: &mut Option<String>, now: OffsetDateTime) -> Option<i64> {
    let given = text.as_deref()?;
    let now = now.unix_timestamp();
    match since::parse(given, now) {
        Ok(unix) if unix > now => faults.add(field, format!("{given:?} is in the future: no line could be selected")),
        Ok(unix) => match since::portable(unix) {
            Some(portable) => {
                *text = Some(portable);
                return Some(unix);
            }
            None => faults.add(field, "is outside what devices can read"),
        },
        Err(error) => faults.add(field, error.to_string()),
    }
    None
}

fn check_text(faults: &mut Faults, field: &str, text: Option<&str>, multiline: bool) {
    let Some(text) = text else { return };
    let length = text.chars().count();
    if length > MAX_TEXT_CHARS {
        faults.add(field, format!("has {length} characters; at most {MAX_TEXT_CHARS} are kept"));
    }
    if text.chars().any(|c| c.is_control() && !(multiline && matches!(c, '\n' | '\t'))) {
        faults.add(field, "holds a control character");
    }
}

/// Every value at fault, so that one answer names them all.
#[derive(Default)]
pub(crate) struct Faults(Vec<(String, String)>);

impl Faults {
    pub(crate) fn add(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.0.push((field.into(), message.into()));
    }

    pub(crate) fn within(&mut self, field: &str, value: Option<u64>, min: u64, max: u64) {
        if let Some(value) = value.filter(|value| !(min..=max).contains(value)) {
            self.add(field, format!("is {value}; it lies between {min} and {max}"));
        }
    }

    fn into_result(self) -> Result<(), Box<Problem>> {
        self.into_problem("invalid_collection", "The collection cannot be made like this")
    }

    /// A problem that lists them, if there are any.
    pub(crate) fn into_problem(self, code: &str, title: &str) -> Result<(), Box<Problem>> {
        if self.0.is_empty() {
            return Ok(());
        }
        let detail = match self.0.len() {
            1 => "a value cannot be used".to_owned(),
            count => format!("{count} values cannot be used"),
        };
        let problem = Problem::new(422, code, title, detail);
        Err(Box::new(self.0.into_iter().fold(problem, |problem, (field, message)| problem.field(field, message))))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use time::macros::datetime;

    use super::*;
    use crate::settings::Settings;

    const NOW: OffsetDateTime = datetime!(2026-11-21 12:00:00.5 UTC);

    fn settled(request: Value, options: Value) -> Result<Settled, Box<Problem>> {
        let body = json!({ "request": request, "target": { "kind": "all" }, "options": options });
        settle_body(body)
    }

    fn settle_body(body: Value) -> Result<Settled, Box<Problem>> {
        let new: NewCollection = serde_json::from_value(body).expect("of the right shape");
        settle(&new, &Settings::load_from(None, [], &[]).expect("the defaults").dispatch, NOW)
    }

    fn faults(request: Value) -> Vec<String> {
        let problem = settled(request, json!({})).expect_err("must be refused");
        problem.errors.iter().map(|error| format!("{} {}", error.field, error.message)).collect()
    }

    fn logs(filter: Value) -> Value {
        json!({ "kind": "upload_logs", "items": [{ "id": "edge", "filter": filter }] })
    }

    #[test]
    fn times_become_absolute_and_portable() {
        let Settled { request, .. } = settled(json!({ "kind": "bundle", "since": "2h" }), json!({})).expect("good");
        assert_eq!(request, CollectionRequest::Bundle { since: Some("2026-11-21T10:00:00Z".to_owned()), edge_runtime_only: false });
        let Settled { request, .. } =
            settled(logs(json!({ "since": "2026-11-21T12:00:00+02:00", "until": "30m" })), json!({})).expect("good");
        let CollectionRequest::UploadLogs { items, .. } = request else { panic!("another kind") };
        assert_eq!(items[0].filter.since.as_deref(), Some("2026-11-21T10:00:00Z"));
        assert_eq!(items[0].filter.until.as_deref(), Some("2026-11-21T11:30:00Z"));
    }

    #[test]
    fn defaults_fill_in_and_never_make_it_illegal() {
        let bundle = || json!({ "kind": "bundle", "since": "1h" });
        let usual = settled(bundle(), json!({})).expect("good");
        assert_eq!((usual.attempt_timeout.as_secs(), usual.max_attempts, usual.in_flight), (900, 3, None));
        assert_eq!(usual.expires_at, NOW + Duration::from_secs(24 * 3600));
        assert_eq!(settled(json!({ "kind": "ping" }), json!({})).expect("good").attempt_timeout.as_secs(), 60);
        assert_eq!(settled(bundle(), json!({ "expires_in_seconds": 60 })).expect("good").attempt_timeout.as_secs(), 60);
        assert!(settled(bundle(), json!({ "expires_in_seconds": 60, "attempt_timeout_seconds": 61 })).is_err());
    }

    #[test]
    fn every_limit_holds_at_its_edge() {
        for (option, good, bad) in [
            ("attempt_timeout_seconds", 86_400, 86_401),
            ("attempt_timeout_seconds", 2, 1),
            ("max_attempts", 50, 51),
            ("max_attempts", 1, 0),
            ("expires_in_seconds", 7_776_000, 7_776_001),
            ("expires_in_seconds", 2, 1),
            ("in_flight", 200_000, 200_001),
            ("in_flight", 1, 0),
        ] {
            let ping = || json!({ "kind": "ping" });
            assert!(settled(ping(), json!({ option: good })).is_ok(), "{option} = {good}");
            let problem = settled(ping(), json!({ option: bad })).expect_err("past the limit");
            assert_eq!(problem.errors[0].field, format!("options.{option}"), "{bad}");
        }
        let with_text =
            |field: &str, text: String| settle_body(json!({ "request": { "kind": "ping" }, "target": { "kind": "all" }, field: text }));
        for field in ["reason", "case"] {
            assert!(with_text(field, "ä".repeat(MAX_TEXT_CHARS)).is_ok());
            assert!(with_text(field, "ä".repeat(MAX_TEXT_CHARS + 1)).is_err());
            assert!(with_text(field, "a\0b".to_owned()).is_err());
        }
        assert!(with_text("reason", "a\nb".to_owned()).is_ok() && with_text("case", "a\nb".to_owned()).is_err());
        let with_items = |count: usize| settled(json!({ "kind": "logs", "items": vec![json!({ "id": "all" }); count] }), json!({}));
        assert!(with_items(MAX_LOG_ITEMS).is_ok() && with_items(MAX_LOG_ITEMS + 1).is_err() && with_items(0).is_err());
        let with_devices = |count: usize| {
            let devices: Vec<_> = (0..count).map(|n| format!("d{n}")).collect();
            settle_body(json!({ "request": { "kind": "ping" }, "target": { "kind": "devices", "devices": devices } }))
        };
        assert!(with_devices(MAX_TARGET_DEVICES).is_ok() && with_devices(MAX_TARGET_DEVICES + 1).is_err() && with_devices(0).is_err());
    }

    #[test]
    fn what_devices_get_wrong_is_refused() {
        assert!(faults(logs(json!({ "since": "yesterday" })))[0].starts_with("request.items[0].filter.since not a time"));
        assert!(faults(logs(json!({ "since": "2027-01-01T00:00:00Z" })))[0].contains("is in the future"));
        assert!(faults(logs(json!({ "since": "1h", "until": "2h" })))[0].contains("is before since"));
        assert!(faults(logs(json!({ "until": "0" })))[0].contains("not set"));
        assert!(faults(logs(json!({ "tail": -1 })))[0].contains("negative"));
        assert!(faults(logs(json!({ "tail": 0 })))[0].contains("no line at all"));
        assert!(faults(logs(json!({ "loglevel": 8 })))[0].contains("from 0 (emergency) to 7"));
        assert!(faults(logs(json!({ "regex": "(a+)+$" })))[0].contains("doubles with every character"));
        assert!(faults(logs(json!({ "regex": "(" })))[0].starts_with("request.items[0].filter.regex the pattern is not"));
        assert!(faults(json!({ "kind": "logs", "items": [{ "id": "[" }, { "id": " " }] })).len() == 2, "every fault is named at once");
    }

    #[test]
    fn what_may_surprise_is_said() {
        let warned = |request: Value| settled(request, json!({})).expect("allowed").warnings.join("\n");
        assert!(warned(json!({ "kind": "bundle" })).contains("no since"));
        assert!(warned(logs(json!({ "tail": 5, "since": "1h" }))).contains("only one of since and until"));
        assert!(warned(logs(json!({ "loglevel": 3 }))).contains("exactly level 3"));
        assert_eq!(warned(logs(json!({ "tail": 5, "since": "2h", "until": "1h" }))), "");
        let mut text = logs(json!({ "tail": 5, "since": "2h", "until": "1h" }));
        text["content_type"] = json!("text");
        assert!(warned(text).contains("tail is ignored"));
        assert!(warned(json!({ "kind": "logs", "items": [{ "id": "all" }] })).contains("128 KB"));
    }

    #[test]
    fn a_request_too_large_for_a_device_is_refused() {
        let items: Vec<_> =
            (0..MAX_LOG_ITEMS).map(|_| json!({ "id": "a".repeat(1000), "filter": { "regex": "b".repeat(1000) } })).collect();
        let found = faults(json!({ "kind": "logs", "items": items }));
        assert!(found.iter().any(|fault| fault.contains("are sent to a device")), "{found:?}");
    }
}
