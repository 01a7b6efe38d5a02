//! When a collection asks, tries again and goes deeper: windows, retries, standing, steps.

use muster_domain::backoff::MAX_WAIT_SECONDS;
use muster_domain::calendar::{InvalidCalendar, OpenTimes};
use muster_domain::retry;
use muster_wire::http::{
    Choice, CollectionRequest, EscalationStep, MAX_RETRY_WAITS, MAX_STEPS, MAX_WINDOW_SECONDS, MIN_WINDOW_SECONDS, NewCollection, Retry,
    Target, Window,
};
use muster_wire::method::pattern;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Faults, settle_request};

/// Checks a window, and says when it opens.
pub(super) fn settle_window(
    faults: &mut Faults,
    warnings: &mut Vec<String>,
    window: &Window,
    now: OffsetDateTime,
    expires_at: OffsetDateTime,
) {
    faults.within("window.length_seconds", Some(window.length_seconds), MIN_WINDOW_SECONDS, MAX_WINDOW_SECONDS);
    let times = match OpenTimes::parse(window) {
        Ok(times) => times,
        Err(error) => return add_calendar(faults, "window", &error),
    };
    let Some(opening) = times.opening(now) else { return };
    if opening.from >= expires_at {
        let expires = expires_at.replace_nanosecond(0).unwrap_or(expires_at).format(&Rfc3339).unwrap_or_default();
        warnings.push(format!(
            "no device will be asked: the window opens {}, and the collection expires before that, at {expires}; give it a longer life (expires_in_seconds)",
            times.calendar().coming_words(now)
        ));
    } else if opening.contains(now) {
        warnings.push(format!("the window is {}; after that it opens {}", times.words(now), times.calendar().coming_words(now)));
    } else {
        warnings.push(format!("devices are asked only in the window; it opens {}", times.calendar().coming_words(now)));
    }
}

/// Names the member at fault: the expression or the time zone.
pub(crate) fn add_calendar(faults: &mut Faults, at: &str, error: &InvalidCalendar) {
    let field = match (at, error.is_time_zone()) {
        ("", true) => "time_zone".to_owned(),
        ("", false) => "cron".to_owned(),
        (at, true) => format!("{at}.time_zone"),
        (at, false) => format!("{at}.cron"),
    };
    faults.add(field, error.to_string());
}

/// Checks when a failed attempt is repeated.
pub(super) fn check_retry(faults: &mut Faults, retry: &Retry) {
    let count = retry.waits_seconds.len();
    if count > MAX_RETRY_WAITS {
        faults.add(
            "options.retry.waits_seconds",
            format!("has {count} waits; at most {MAX_RETRY_WAITS} are taken, and the last one repeats"),
        );
    }
    for (index, wait) in retry.waits_seconds.iter().enumerate().take(MAX_RETRY_WAITS) {
        faults.within(&format!("options.retry.waits_seconds[{index}]"), Some(*wait), 1, MAX_WAIT_SECONDS);
    }
    for (index, reason) in retry.reasons.iter().enumerate().filter(|(_, reason)| !retry::can_help(**reason)) {
        faults.add(format!("options.retry.reasons[{index}]"), format!("is {reason}, which another attempt cannot change"));
    }
}

/// Attempts when none are asked for: the first, and one after each wait that was named.
pub(super) fn attempts(retry: Option<&Retry>, default: u8) -> u8 {
    match retry.map(|retry| retry.waits_seconds.len()) {
        None | Some(0) => default,
        Some(waits) => u8::try_from(waits + 1).unwrap_or(u8::MAX),
    }
}

/// A list of devices never grows, and who joins later was not there when a share was drawn.
pub(super) fn check_standing(faults: &mut Faults, new: &NewCollection) {
    if new.standing && matches!(new.target, Target::Devices { .. }) {
        faults.add("standing", "needs a target that can grow: a condition, or all; a list of devices stays as it is");
    }
    if new.standing && matches!(&new.target, Target::Condition { devices, .. } if !devices.is_empty()) {
        faults.add("target.devices", "cannot be used for a standing collection: everybody who meets the condition later joins");
    }
    if new.standing && new.choice != Choice::default() {
        faults.add(
            "choice",
            "cannot be used for a standing collection: everybody who meets the target later joins; put it into the condition",
        );
    }
}

/// Checks the deeper steps, and makes their times absolute.
pub(super) fn settle_steps(
    faults: &mut Faults,
    warnings: &mut Vec<String>,
    first: &CollectionRequest,
    steps: &mut [EscalationStep],
    now: OffsetDateTime,
) {
    if steps.len() > MAX_STEPS {
        return faults.add("steps", format!("has {} steps; at most {MAX_STEPS} come after the first", steps.len()));
    }
    let mut before = first.clone();
    for (index, step) in steps.iter_mut().enumerate() {
        let at = format!("steps[{index}]");
        settle_request(faults, warnings, &format!("{at}.request"), &mut step.request, now);
        if let Some(text) = &step.when_matches {
            if text.is_empty() {
                faults.add(format!("{at}.when_matches"), "is empty: leave it out to take every device that was verified");
            } else if let Some(risk) = pattern::risky(text) {
                faults.add(format!("{at}.when_matches"), risk.to_string());
            }
            if !matches!(before, CollectionRequest::Logs { .. } | CollectionRequest::UploadLogs { .. }) {
                let why = format!("looks for lines, and the step before is a {}, which has none; put logs before it", before.kind());
                faults.add(format!("{at}.when_matches"), why);
            }
        }
        before = step.request.clone();
    }
}
