//! How the demo ended: every device against what its fault must lead to.

use std::collections::BTreeMap;
use std::time::Duration;

use muster_agent::Fault;
use muster_wire::http::{CollectionView, TaskView, Verdict};
use muster_wire::{AlertId, CollectionId, Reason};
use serde::Serialize;

use super::alerts::{self, Shown};
use crate::failure::Failure;
use crate::present::units::{bytes, count, counted, duration};
use crate::present::{Column, Form, Out, Paint, table, task_word};

/// A device's task at the end, and what was wrong with the device.
#[derive(Debug, Clone)]
pub(super) struct Ended {
    pub(super) fault: Option<Fault>,
    pub(super) task: TaskView,
    /// Why the attempts before the last one ended.
    pub(super) earlier: Vec<Reason>,
}

/// What a controller must report for a device with this fault, with the patience of the demo. Sharper than [`Fault::expected`], which allows
/// for other deadlines.
fn expected(fault: Option<Fault>) -> &'static [Reason] {
    let Some(fault) = fault else { return &[Reason::Collected] };
    match fault {
        Fault::Deaf | Fault::WrongCorrelation => &[Reason::NoAnswer],
        Fault::Slow
        | Fault::Offline
        | Fault::Repeater
        | Fault::WrongStatus
        | Fault::ClockSkew
        | Fault::DisconnectMidUpload
        | Fault::Forgetful => &[Reason::Collected],
        // Which of the two depends on whether the storage shows blocks that were never committed.
        Fault::HalfUpload => &[Reason::UploadUnfinished, Reason::UploadMissing],
        Fault::Liar => &[Reason::UploadMissing],
        Fault::TruncatedZip => &[Reason::UploadTruncated],
        Fault::Refuser => &[Reason::RequestRefused],
        Fault::Crasher => &[Reason::DeviceError],
        Fault::ErrorDocument => &[Reason::UploadErrorDocument],
        Fault::EmptyZip => &[Reason::UploadEmpty],
    }
}

impl Ended {
    fn as_expected(&self) -> bool {
        let expected = expected(self.fault);
        let told = self.task.reason.is_some_and(|reason| expected.contains(&reason));
        // A device that falls silent in the middle of its first upload cannot answer the second request: then the first attempt tells.
        let told_before = self.fault == Some(Fault::HalfUpload)
            && self.task.reason == Some(Reason::NoAnswer)
            && self.earlier.iter().any(|reason| expected.contains(reason));
        self.task.state.is_final() && (told || told_before)
    }

    /// The reason, with those of earlier attempts where they were others.
    fn reasons(&self) -> String {
        let last = self.task.reason.map(|reason| reason.to_string()).unwrap_or_default();
        let mut others: Vec<&str> =
            self.earlier.iter().filter(|reason| Some(**reason) != self.task.reason).map(|reason| reason.as_str()).collect();
        others.dedup();
        if others.is_empty() { last } else { format!("{last}, before: {}", others.join(", ")) }
    }
}

/// The whole report.
#[derive(Debug)]
pub(super) struct Report {
    collection: CollectionId,
    devices: u64,
    ended: Vec<Ended>,
    verified: u64,
    partial: u64,
    bundle_bytes: u64,
    took: Duration,
    peak_memory_bytes: Option<u64>,
    alerts: Vec<Shown>,
}

/// One device, for programs.
#[derive(Debug, Serialize)]
struct Line<'a> {
    device: &'a str,
    fault: Option<&'static str>,
    state: &'static str,
    reason: Option<Reason>,
    earlier_reasons: &'a [Reason],
    expected: &'static [Reason],
    as_expected: bool,
    attempts: u8,
    size_bytes: u64,
}

impl Report {
    pub(super) fn new(
        view: &CollectionView,
        mut ended: Vec<Ended>,
        devices: u64,
        took: Duration,
        peak_memory_bytes: Option<u64>,
        alerts: Vec<Shown>,
    ) -> Self {
        ended.sort_by(|a, b| (a.fault, &a.task.device).cmp(&(b.fault, &b.task.device)));
        let partial =
            ended.iter().filter(|ended| ended.task.bundle.as_ref().is_some_and(|bundle| bundle.verdict == Verdict::Partial)).count() as u64;
        let (verified, bundle_bytes) = (view.counters.verified, view.bundle_bytes);
        Self { collection: view.id, devices, ended, verified, partial, bundle_bytes, took, peak_memory_bytes, alerts }
    }

    /// Every device was asked, each ended as its fault demands, and each alert as its owner wants.
    pub(super) fn as_expected(&self) -> bool {
        self.devices_as_expected() && self.alerts.iter().all(Shown::as_expected)
    }

    fn devices_as_expected(&self) -> bool {
        self.ended.len() as u64 == self.devices && self.ended.iter().all(Ended::as_expected)
    }

    pub(super) fn collection(&self) -> CollectionId {
        self.collection
    }

    /// A task that went well, to look at.
    pub(super) fn one_good(&self) -> Option<&TaskView> {
        self.ended.iter().find(|ended| ended.fault.is_none() && ended.task.bundle.is_some()).map(|ended| &ended.task)
    }

    /// An alert that led to logs, to look at.
    pub(super) fn one_alert(&self) -> Option<AlertId> {
        alerts::one_good(&self.alerts)
    }

    /// For people unless a form for programs was asked for: a demo is watched, in a pipe too.
    pub(super) fn print(&self, out: &mut Out, next: impl FnOnce(&Self, &Out) -> String) -> Result<(), Failure> {
        match out.chosen_form() {
            None | Some(Form::Table) => {
                let text = format!("{}\n{}", self.text(out), next(self, out));
                out.text(&text)
            }
            Some(Form::Json) => out.json(&self.document()),
            Some(Form::Ndjson) => self.ended.iter().try_for_each(|ended| out.json(&Self::line(ended))),
            Some(Form::Name) => out.text(&format!("{}\n", self.collection)),
        }
    }

    fn line(ended: &Ended) -> Line<'_> {
        Line {
            device: ended.task.device.as_str(),
            fault: ended.fault.map(Fault::as_str),
            state: ended.task.state.as_str(),
            reason: ended.task.reason,
            earlier_reasons: &ended.earlier,
            expected: expected(ended.fault),
            as_expected: ended.as_expected(),
            attempts: ended.task.attempt,
            size_bytes: ended.task.bundle.as_ref().map_or(0, |bundle| bundle.size_bytes),
        }
    }

    fn document(&self) -> serde_json::Value {
        serde_json::json!({
            "collection": self.collection,
            "devices": self.devices,
            "verified": self.verified,
            "partial": self.partial,
            "bundle_bytes": self.bundle_bytes,
            "seconds": self.took.as_secs_f64(),
            "peak_memory_bytes": self.peak_memory_bytes,
            "as_expected": self.as_expected(),
            "alerts": self.alerts,
            "tasks": self.ended.iter().map(Self::line).collect::<Vec<_>>(),
        })
    }

    fn text(&self, out: &Out) -> String {
        let mut text =
            format!("\n{}\n", out.bold("Devices that misbehave on purpose, and healthy ones that ended otherwise than they should"));
        let rows: Vec<Vec<String>> =
            self.ended.iter().filter(|ended| ended.fault.is_some() || !ended.as_expected()).map(|ended| self.row(ended)).collect();
        // Narrow enough for 80 columns: what was collected is in the table below.
        let columns = [
            Column::id("DEVICE"),
            Column::id("FAULT"),
            Column::id("ENDED"),
            Column::text("REASON"),
            Column::number("TRIES"),
            Column::text("RIGHT"),
        ];
        if rows.is_empty() {
            text.push_str("none: the fleet is too small for faulty devices\n");
        } else {
            text.push_str(&table(&columns, &rows, out));
        }
        text.push_str(&format!("\n{}\n", out.bold("All devices, by how they ended")));
        text.push_str(&self.by_reason(out));
        text.push_str(&format!("\n{}\n", self.sentence(out)));
        text.push_str(&alerts::text(&self.alerts, out));
        text
    }

    fn row(&self, ended: &Ended) -> Vec<String> {
        let verdict = if ended.as_expected() {
            "yes".to_owned()
        } else {
            let wanted: Vec<&str> = expected(ended.fault).iter().map(|reason| reason.as_str()).collect();
            format!("NO, expected {}", wanted.join(" or "))
        };
        vec![
            ended.task.device.to_string(),
            ended.fault.map_or("none", Fault::as_str).to_owned(),
            task_word(&ended.task).to_owned(),
            ended.reasons(),
            ended.task.attempt.to_string(),
            verdict,
        ]
    }

    fn by_reason(&self, out: &Out) -> String {
        let mut groups: BTreeMap<(&str, Option<Reason>), u64> = BTreeMap::new();
        for ended in &self.ended {
            *groups.entry((ended.task.state.as_str(), ended.task.reason)).or_default() += 1;
        }
        let mut groups: Vec<_> = groups.into_iter().collect();
        groups.sort_by_key(|((state, reason), number)| (*state != "verified", std::cmp::Reverse(*number), *reason));
        let rows: Vec<Vec<String>> = groups
            .into_iter()
            .map(|((state, reason), number)| {
                let (word, sentence) = reason.map_or(("", ""), |reason| (reason.as_str(), reason.sentence()));
                vec![count(number), state.to_owned(), word.to_owned(), sentence.to_owned()]
            })
            .collect();
        table(&[Column::number("DEVICES"), Column::id("ENDED"), Column::id("REASON"), Column::text("WHICH MEANS")], &rows, out)
    }

    fn sentence(&self, out: &Out) -> String {
        let not = self.devices.saturating_sub(self.verified);
        let partial = if self.partial > 0 { format!(" ({} partial)", count(self.partial)) } else { String::new() };
        let memory = self.peak_memory_bytes.map(|peak| format!(", peak memory {}", bytes(peak))).unwrap_or_default();
        let what = format!(
            "{}: {} verified{partial}, {} not; {} in {}{memory}.",
            counted(self.devices, "device"),
            count(self.verified),
            count(not),
            bytes(self.bundle_bytes),
            duration(self.took.as_secs_f64()),
        );
        let wrong = self.ended.iter().filter(|ended| !ended.as_expected()).count() as u64;
        let unasked = self.devices.saturating_sub(self.ended.len() as u64);
        let judgement = if self.devices_as_expected() {
            out.paint("Every device ended as it should.", Paint::Good)
        } else if unasked > 0 {
            out.paint(&format!("{} never asked.", counted(unasked, "device")), Paint::Bad)
        } else {
            out.paint(&format!("{} did not end as expected.", counted(wrong, "device")), Paint::Bad)
        };
        format!("{what}\n{judgement}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::present::SharedBuffer;
    use muster_wire::TaskState;
    use muster_wire::http::{CollectionOptions, CollectionRequest, CollectionState, Counters, Rollout, TargetView, TaskBundle};
    use time::macros::datetime;

    fn task(ordinal: u32, state: TaskState, reason: Reason) -> TaskView {
        let collection: CollectionId = "col_01jd8k2m3n4p5q6r7s".parse().expect("an id");
        let verified = state == TaskState::Verified;
        TaskView {
            id: collection.task(ordinal),
            collection,
            device: format!("sim-{ordinal:04}").parse().expect("an id"),
            state,
            waiting: false,
            reason: Some(reason),
            detail: None,
            attempt: if verified { 1 } else { 2 },
            consent: None,
            correlation_id: None,
            dispatched_at: None,
            accepted_at: None,
            uploaded_at: None,
            finished_at: None,
            not_before: None,
            bundle: verified.then_some(TaskBundle { verdict: Verdict::Complete, size_bytes: 12_345, objects: 1, missing: vec![] }),
        }
    }

    fn report(ended: Vec<(Option<Fault>, TaskState, Reason)>) -> Report {
        let ended: Vec<Ended> = ended
            .into_iter()
            .enumerate()
            .map(|(i, (fault, state, reason))| Ended { fault, task: task(i as u32 + 1, state, reason), earlier: vec![] })
            .collect();
        let verified = ended.iter().filter(|ended| ended.task.state == TaskState::Verified).count() as u64;
        let devices = ended.len() as u64;
        let view = CollectionView {
            id: "col_01jd8k2m3n4p5q6r7s".parse().expect("an id"),
            request: CollectionRequest::Bundle { since: None, edge_runtime_only: false },
            target: TargetView::All,
            reason: None,
            case: None,
            created_by: "local".into(),
            origin: muster_wire::http::Origin::Manual,
            needs_consent: None,
            created_at: datetime!(2026-11-21 11:58:00 UTC),
            expires_at: datetime!(2026-11-21 12:00:00 UTC),
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
            counters: Counters { targeted: devices, verified, failed: devices - verified, ..Counters::default() },
            reasons: BTreeMap::new(),
            bundle_bytes: verified * 12_345,
        };
        Report::new(&view, ended, devices, Duration::from_secs(19), Some(150_000_000), Vec::new())
    }

    fn good() -> Vec<(Option<Fault>, TaskState, Reason)> {
        let mut all = vec![(None, TaskState::Verified, Reason::Collected); 3];
        all.extend(Fault::ALL.iter().map(|&fault| {
            let reason = expected(Some(fault))[0];
            let state = match reason {
                Reason::Collected => TaskState::Verified,
                Reason::RequestRefused => TaskState::Refused,
                _ => TaskState::Failed,
            };
            (Some(fault), state, reason)
        }));
        all
    }

    #[test]
    fn the_report_when_all_went_as_it_should() {
        let report = report(good());
        assert!(report.as_expected());
        let text = report.text(&Out::for_test(Some(80)));
        insta::assert_snapshot!(text);
        assert!(text.lines().skip(2).take_while(|line| !line.is_empty()).all(|line| line.chars().count() <= 80), "{text}");
    }

    #[test]
    fn the_report_when_the_controller_was_wrong() {
        let mut ended = good();
        ended[0].2 = Reason::NoAnswer;
        ended[0].1 = TaskState::Failed;
        let liar = ended.iter_mut().find(|(fault, ..)| *fault == Some(Fault::Liar)).expect("there is one");
        (liar.1, liar.2) = (TaskState::Verified, Reason::Collected);
        let report = report(ended);
        assert!(!report.as_expected());
        insta::assert_snapshot!(report.text(&Out::for_test(Some(120))));
    }

    #[test]
    fn the_first_attempt_tells_where_the_second_finds_silence() {
        let mut report = report(vec![(Some(Fault::HalfUpload), TaskState::Failed, Reason::NoAnswer)]);
        assert!(!report.as_expected());
        report.ended[0].earlier = vec![Reason::SasExpired];
        assert!(!report.as_expected());
        report.ended[0].earlier = vec![Reason::UploadUnfinished];
        assert!(report.as_expected());
        assert_eq!(report.ended[0].reasons(), "no_answer, before: upload_unfinished");
    }

    #[test]
    fn a_device_that_was_never_asked_is_not_as_expected() {
        let mut report = report(good());
        report.devices += 1;
        assert!(!report.as_expected());
    }

    #[test]
    fn what_the_demo_demands_is_allowed_by_the_fault() {
        for &fault in Fault::ALL {
            for reason in expected(Some(fault)) {
                assert!(fault.expected().contains(reason), "{fault}: {reason}");
            }
        }
    }

    #[test]
    fn programs_get_every_device() {
        let report = report(good());
        let (mut out, buffer) = SharedBuffer::out(Form::Ndjson);
        report.print(&mut out, |_, _| String::new()).expect("printed");
        assert_eq!(buffer.text().lines().count(), report.ended.len());
        let (mut out, buffer) = SharedBuffer::out(Form::Json);
        report.print(&mut out, |_, _| String::new()).expect("printed");
        let document: serde_json::Value = serde_json::from_str(&buffer.text()).expect("JSON");
        assert_eq!(document["as_expected"], true);
        assert_eq!(document["tasks"].as_array().map(Vec::len), Some(report.ended.len()));
    }
}
