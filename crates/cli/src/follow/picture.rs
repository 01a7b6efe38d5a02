//! What a collection looks like while it runs and when it is over.

use std::fmt::Write as _;

use muster_wire::Reason;
use muster_wire::http::{CollectionView, Counters, Priority};

use super::pace::Pace;
use crate::present::units::{bytes, count, counted, duration};
use crate::present::{Out, Paint, Sheet, fit, one_line};

fn priority_word(priority: Priority) -> &'static str {
    match priority {
        Priority::Low => "low",
        Priority::Normal => "normal",
        Priority::High => "high",
    }
}

/// Widest bar, in columns.
const MAX_BAR: usize = 40;

/// Reasons that mean success.
fn is_good(reason: Reason) -> bool {
    matches!(reason, Reason::Collected | Reason::CollectedPartial | Reason::Answered)
}

/// The block that `watch` redraws.
pub(super) fn block(view: &CollectionView, pace: &Pace, width: usize, out: &Out) -> String {
    let counters = &view.counters;
    let (done, all) = (counters.done(), counters.targeted);
    let mut head = format!("{}  {}  {}", view.id, view.request.kind(), counted(all, "device"));
    if let Some(case) = &view.case {
        let _ = write!(head, "  case {}", one_line(case));
    }
    let mut text = format!("{}\n{}\n", fit(&head, width), fit(&bar(counters, width), width));
    text.push_str(&states(counters, width, out));
    let mut speed = vec![format!("{} elapsed", duration(pace.elapsed().as_secs_f64()))];
    if let Some(rate) = pace.rate() {
        speed.push(format!("{rate:.1} devices/s"));
    }
    if view.bundle_bytes > 0 {
        speed.push(bytes(view.bundle_bytes));
    }
    // Nobody can say when a device that is offline comes back.
    let reachable = all.saturating_sub(done + counters.waiting);
    if let Some(left) = pace.left(reachable).filter(|_| reachable > 0 && view.paused.is_none()) {
        speed.push(format!("about {} left", duration(left.as_secs_f64())));
    }
    if counters.waiting > 0 {
        speed.push(format!("{} offline", counted(counters.waiting, "device")));
    }
    let _ = writeln!(text, "{}", fit(&speed.join("  "), width));
    for line in paces(view) {
        let _ = writeln!(text, "{}", fit(&line, width));
    }
    if let Some(window) = view.window_now.as_ref().filter(|window| !window.open) {
        let _ = writeln!(text, "{}", fit(&format!("the window {}", window.words), width));
    }
    text.push_str(&whys(view, width));
    text.push_str(&later_steps(view, width, out));
    text.truncate(text.trim_end().len());
    text
}

fn bar(counters: &Counters, width: usize) -> String {
    let (done, all) = (counters.done(), counters.targeted);
    let share = if all == 0 { 1.0 } else { done as f64 / all as f64 };
    let tail = format!(" {:>3.0} %  {} of {} done", (share * 100.0).floor(), count(done), count(all));
    let columns = width.saturating_sub(tail.chars().count() + 1).min(MAX_BAR);
    let full = ((columns as f64) * share).floor() as usize;
    format!("{}{}{tail}", "█".repeat(full), "░".repeat(columns - full))
}

/// Every state that has tasks, in the order of a life, broken into lines that fit.
fn states(counters: &Counters, width: usize, out: &Out) -> String {
    let all = [
        ("verified", counters.verified, Some(Paint::Good)),
        ("failed", counters.failed, Some(Paint::Bad)),
        ("refused", counters.refused, Some(Paint::Bad)),
        ("expired", counters.expired, Some(Paint::Warn)),
        ("cancelled", counters.cancelled, Some(Paint::Warn)),
        ("skipped", counters.skipped, Some(Paint::Warn)),
        ("waiting", counters.waiting, None),
        ("queued", counters.queued, None),
        ("dispatched", counters.dispatched, None),
        ("accepted", counters.accepted, None),
        ("uploaded", counters.uploaded, None),
    ];
    let mut text = String::new();
    let mut used = 0;
    for (word, number, paint) in all.into_iter().filter(|(_, number, _)| *number > 0) {
        let plain = format!("{word} {}", count(number));
        let length = plain.chars().count();
        if used > 0 && used + 2 + length > width {
            text.push('\n');
            used = 0;
        }
        if used > 0 {
            text.push_str("  ");
            used += 2;
        }
        text.push_str(&paint.map_or_else(|| plain.clone(), |paint| out.paint(&plain, paint)));
        used += length;
    }
    if !text.is_empty() {
        text.push('\n');
    }
    text
}

/// Why tasks ended without success, the most frequent first.
fn whys(view: &CollectionView, width: usize) -> String {
    let mut reasons: Vec<(Reason, u64)> =
        view.reasons.iter().map(|(reason, number)| (*reason, *number)).filter(|(reason, _)| !is_good(*reason)).collect();
    reasons.sort_by_key(|(reason, number)| (std::cmp::Reverse(*number), *reason));
    let words = reasons.iter().map(|(reason, _)| reason.as_str().len()).max().unwrap_or(0);
    reasons.iter().fold(String::new(), |mut text, (reason, number)| {
        let _ = writeln!(text, "{}", fit(&format!("  {:<words$} {:>5}  {}", reason.as_str(), count(*number), reason.sentence()), width));
        text
    })
}

/// How it is paced, and why it stands still.
fn paces(view: &CollectionView) -> Vec<String> {
    let mut lines = Vec::new();
    let pace = pace_words(view);
    if !pace.is_empty() {
        lines.push(pace);
    }
    if let Some(paused) = &view.paused {
        lines.push(format!("paused by {}: {}", one_line(&paused.by), one_line(&paused.why)));
    }
    lines
}

fn pace_words(view: &CollectionView) -> String {
    let Some(pace) = &view.pace else { return String::new() };
    let mut words = Vec::new();
    let stages = u32::try_from(view.rollout.stages.len()).unwrap_or(u32::MAX);
    match pace.stage {
        Some(stage) if stage > stages => words.push("stages passed".to_owned()),
        Some(stage) => words.push(format!("stage {stage} of {stages}")),
        None => {}
    }
    words
        .extend(pace.per_minute.map(|rate| format!("{}/min", if rate < 10.0 { format!("{rate:.1}") } else { count(rate.round() as u64) })));
    words.extend(pace.in_flight.map(|limit| format!("{} at once", count(u64::from(limit)))));
    words.join(", ")
}

/// A collection as a sheet.
pub(crate) fn summary(view: &CollectionView, out: &Out) -> String {
    use crate::present::units::relative;
    let counters = &view.counters;
    let took = view.finished_at.map(|end| duration((end - view.created_at).as_seconds_f64()));
    let sheet = Sheet::default()
        .line("collection", view.id.to_string())
        .line("kind", view.request.kind())
        .line("state", crate::present::collection_word(view.state))
        .maybe("case", view.case.clone())
        .maybe("reason", view.reason.clone())
        .line("asked by", view.created_by.clone())
        .maybe("made by", made_by(view))
        .line("created", format!("{} ({})", crate::present::units::rfc3339_seconds(view.created_at), relative(view.created_at, out.now())))
        .maybe("took", took)
        .maybe("priority", view.options.priority.filter(|priority| *priority != Priority::Normal).map(priority_word))
        .maybe("pace", Some(pace_words(view)).filter(|words| !words.is_empty()))
        .maybe("paused", view.paused.as_ref().map(|paused| format!("{} by {}: {}", relative(paused.at, out.now()), paused.by, paused.why)))
        .line("devices", count(counters.targeted))
        .line("bundles", bytes(view.bundle_bytes))
        .maybe("window", view.window_now.as_ref().map(|window| window.words.clone()))
        .maybe("standing", standing(view))
        .maybe("step", view.step_of.map(|of| format!("{} of {}", of.step, of.collection)))
        .render(out);
    let width = out.width().map_or(usize::MAX, usize::from);
    format!("{sheet}{}{}{}", states(counters, width, out), whys(view, width), later_steps(view, width, out))
}

/// What made it, where no person and no schedule did.
fn made_by(view: &CollectionView) -> Option<String> {
    use muster_wire::http::{Origin, StormRole};
    match &view.origin {
        Origin::Manual | Origin::Schedule => None,
        Origin::Alert { alert, indicator } => Some(format!("alert {alert}: {indicator}")),
        Origin::Storm { storm, indicator, role: StormRole::Twin } => {
            Some(format!("storm {storm}: {indicator}; a healthy device for comparison"))
        }
        Origin::Storm { storm, indicator, role: StormRole::Rest } => {
            Some(format!("storm {storm}: {indicator}; what was not in its sample"))
        }
    }
}

fn standing(view: &CollectionView) -> Option<String> {
    use crate::present::units::rfc3339_seconds;
    view.standing.then(|| format!("devices that meet the target join until {}", rfc3339_seconds(view.expires_at)))
}

/// The deeper steps, each with who came to it.
fn later_steps(view: &CollectionView, width: usize, out: &Out) -> String {
    view.later_steps.iter().zip(&view.steps).fold(String::new(), |mut text, (step, asked)| {
        let who = match &asked.when_matches {
            Some(pattern) => format!("for answers that match {pattern}"),
            None => "for every device that was verified".to_owned(),
        };
        let state = crate::present::collection_word(step.state);
        let head = format!("step {}  {}  {}  {state}  {}", step.step, step.kind, step.id, counted(step.counters.targeted, "device"));
        let _ = writeln!(text, "{}\n{}", fit(&head, width), fit(&format!("  {}", one_line(&who)), width));
        for line in states(&step.counters, width.saturating_sub(2), out).lines() {
            let _ = writeln!(text, "  {line}");
        }
        text
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use muster_wire::http::{
        CollectionOptions, CollectionRequest, CollectionState, EscalationStep, Rollout, StepView, TargetView, WindowNow,
    };
    use std::time::Duration;
    use time::macros::datetime;

    pub(in crate::follow) fn view(counters: Counters) -> CollectionView {
        CollectionView {
            id: "col_01jd8k2m3n4p5q6r7s".parse().expect("an id"),
            request: CollectionRequest::Bundle { since: None, edge_runtime_only: false },
            target: TargetView::All,
            reason: Some("line 4 stands still".into()),
            case: Some("48213".into()),
            created_by: "ops".into(),
            origin: muster_wire::http::Origin::Manual,
            needs_consent: None,
            created_at: datetime!(2026-11-21 11:58:00 UTC),
            expires_at: datetime!(2026-11-22 11:58:00 UTC),
            finished_at: None,
            state: CollectionState::Finished,
            options: CollectionOptions::default(),
            rollout: Rollout::default(),
            pace: None,
            paused: None,
            window: None,
            window_now: None,
            standing: false,
            steps: Vec::new(),
            later_steps: Vec::new(),
            step_of: None,
            counters,
            reasons: [(Reason::Collected, 90), (Reason::NoAnswer, 3), (Reason::UploadTruncated, 12)].into(),
            bundle_bytes: 123_456_789,
        }
    }

    fn running() -> CollectionView {
        let counters = Counters {
            targeted: 1200,
            waiting: 14,
            queued: 1000,
            dispatched: 60,
            accepted: 20,
            uploaded: 1,
            verified: 90,
            failed: 15,
            ..Counters::default()
        };
        CollectionView { state: CollectionState::Running, ..view(counters) }
    }

    fn pace() -> Pace {
        let mut pace = Pace::default();
        pace.note(Duration::ZERO, 0);
        pace.note(Duration::from_secs(10), 105);
        pace
    }

    #[test]
    fn the_block_while_it_runs() {
        insta::assert_snapshot!(block(&running(), &pace(), 100, &Out::for_test(Some(100))));
    }

    #[test]
    fn the_block_fits_a_narrow_terminal() {
        let text = block(&running(), &pace(), 44, &Out::for_test(Some(44)));
        insta::assert_snapshot!(text);
        assert!(text.lines().all(|line| line.chars().count() <= 44), "{text}");
    }

    #[test]
    fn the_summary_when_it_is_over() {
        let counters = Counters { targeted: 105, verified: 90, failed: 15, ..Counters::default() };
        let view = CollectionView { finished_at: Some(datetime!(2026-11-21 11:59:10 UTC)), ..view(counters) };
        insta::assert_snapshot!(summary(&view, &Out::for_test(Some(100))));
    }

    #[test]
    fn a_paced_collection_says_how_and_why_it_stands_still() {
        use muster_wire::http::{Amount, PaceView, Paused, Stage};
        let stage = Stage { devices: Amount::Count(10), verified_percent: 100.0, wait_seconds: 0, manual: false };
        let mut view = running();
        view.rollout.stages = vec![stage, stage];
        view.pace = Some(PaceView { per_minute: Some(1600.0), in_flight: Some(200), stage: Some(2) });
        view.options.priority = Some(Priority::Low);
        let why = "12 of 200 done devices (6.0 %) ended without success; the limit is 5 %, from 10 on".to_owned();
        view.paused = Some(Paused { at: view.created_at, by: "rollout".to_owned(), why });
        let out = Out::for_test(Some(100));
        insta::assert_snapshot!(format!("{}\n\n{}", block(&view, &pace(), 100, &out), summary(&view, &out)));
    }

    #[test]
    fn windows_and_steps_are_shown() {
        let step = |when_matches: Option<&str>| EscalationStep {
            request: CollectionRequest::Bundle { since: None, edge_runtime_only: false },
            when_matches: when_matches.map(str::to_owned),
        };
        let later = |step, state, counters| StepView {
            id: "col_01jd8k2m3n4p5q6r7t".parse().expect("an id"),
            step,
            kind: "upload_logs".to_owned(),
            state,
            counters,
        };
        let words = "opens 2026-11-26 01:00 Europe/Oslo".to_owned();
        let view = CollectionView {
            window_now: Some(WindowNow { open: false, changes_at: None, words }),
            standing: true,
            steps: vec![step(Some("ERR|panic")), step(None)],
            later_steps: vec![
                later(2, CollectionState::Running, Counters { targeted: 12, accepted: 2, verified: 10, ..Counters::default() }),
                later(3, CollectionState::Running, Counters::default()),
            ],
            ..running()
        };
        insta::assert_snapshot!("block_with_steps", block(&view, &pace(), 100, &Out::for_test(Some(100))));
        insta::assert_snapshot!("summary_with_steps", summary(&view, &Out::for_test(Some(100))));
    }

    #[test]
    fn a_bar_is_full_only_at_the_end() {
        let at = |verified| bar(&Counters { targeted: 1000, verified, ..Counters::default() }, 80);
        assert!(at(999).contains('░') && at(999).contains(" 99 %"));
        assert!(!at(1000).contains('░') && at(1000).contains("100 %"));
        assert!(bar(&Counters::default(), 10).contains("100 %"));
    }
}
