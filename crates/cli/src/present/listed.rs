//! How each kind of thing looks as a row.

use muster_wire::TaskState;
use muster_wire::http::{
    BundleFile, BundleView, CollectionState, CollectionView, ConsentAuditLine, Counters, DeviceView, ObjectCheck, PingView, ScheduleRun,
    ScheduleView, Standing, TaskView, TermsDefault, TermsView, TimelineEntry,
};
use serde::Serialize;
use time::OffsetDateTime;

use super::Column;
use super::units::{bytes, count, relative};

/// Something that can stand in a list.
pub(crate) trait Listed: Serialize {
    /// The columns of its table.
    const COLUMNS: &'static [Column];

    /// Its cells, one per column.
    fn cells(&self, now: OffsetDateTime) -> Vec<String>;

    /// Its id.
    fn name(&self) -> String;
}

/// The word for the state of a collection.
pub(crate) fn collection_word(state: CollectionState) -> &'static str {
    match state {
        CollectionState::Running => "running",
        CollectionState::Finished => "finished",
        CollectionState::Cancelled => "cancelled",
    }
}

/// The word for the state of a task, with "waiting" for those whose device is offline.
pub(crate) fn task_word(task: &TaskView) -> &'static str {
    if task.waiting && task.state == TaskState::Queued { "waiting" } else { task.state.as_str() }
}

/// Tasks that ended without a verified bundle.
fn not_verified(counters: &Counters) -> u64 {
    counters.done().saturating_sub(counters.verified)
}

impl Listed for CollectionView {
    const COLUMNS: &'static [Column] = &[
        Column::id("COLLECTION"),
        Column::text("KIND"),
        Column::text("STATE"),
        Column::number("DEVICES"),
        Column::number("VERIFIED"),
        Column::number("NOT"),
        Column::number("OPEN"),
        Column::number("SIZE"),
        Column::text("CASE"),
        Column::text("BY"),
        Column::text("CREATED"),
    ];

    fn cells(&self, now: OffsetDateTime) -> Vec<String> {
        let counters = &self.counters;
        vec![
            self.id.to_string(),
            self.request.kind().to_owned(),
            self.paused
                .as_ref()
                .filter(|_| self.state == CollectionState::Running)
                .map_or(collection_word(self.state), |_| "paused")
                .to_owned(),
            count(counters.targeted),
            count(counters.verified),
            count(not_verified(counters)),
            count(counters.targeted.saturating_sub(counters.done())),
            bytes(self.bundle_bytes),
            self.case.clone().unwrap_or_default(),
            self.created_by.clone(),
            relative(self.created_at, now),
        ]
    }

    fn name(&self) -> String {
        self.id.to_string()
    }
}

impl Listed for TaskView {
    const COLUMNS: &'static [Column] = &[
        Column::id("TASK"),
        Column::id("DEVICE"),
        Column::text("STATE"),
        Column::text("REASON"),
        Column::number("TRY"),
        Column::number("SIZE"),
        Column::text("DETAIL"),
    ];

    fn cells(&self, _now: OffsetDateTime) -> Vec<String> {
        vec![
            self.id.to_string(),
            self.device.to_string(),
            task_word(self).to_owned(),
            self.reason.map(|reason| reason.as_str().to_owned()).unwrap_or_default(),
            self.attempt.to_string(),
            self.bundle.as_ref().map(|bundle| bytes(bundle.size_bytes)).unwrap_or_default(),
            task_detail(self),
        ]
    }

    fn name(&self) -> String {
        self.id.to_string()
    }
}

/// What there is to say about a task: what the controller knows, else what a partial bundle lacks.
pub(crate) fn task_detail(task: &TaskView) -> String {
    if let Some(detail) = task.detail.as_ref().filter(|detail| !detail.is_empty()) {
        return detail.clone();
    }
    let missing = task.bundle.iter().flat_map(|bundle| &bundle.missing);
    missing.map(|missing| format!("{}: {}", missing.what, missing.why)).collect::<Vec<_>>().join("; ")
}

/// What the last ping said: how long the answer took, or how many in a row had none.
pub(crate) fn ping_word(ping: &PingView) -> String {
    match ping.round_trip_ms {
        Some(ms) => format!("in {ms} ms"),
        None => format!("no, {} in a row", count(u64::from(ping.failed_in_a_row))),
    }
}

impl Listed for DeviceView {
    const COLUMNS: &'static [Column] = &[
        Column::id("DEVICE"),
        Column::text("PRESENCE"),
        Column::text("LAST SEEN"),
        Column::text("REACHABLE"),
        Column::text("AGENT"),
        Column::number("METHODS"),
        Column::text("CLOCK"),
    ];

    fn cells(&self, now: OffsetDateTime) -> Vec<String> {
        vec![
            self.id.to_string(),
            self.presence.as_str().to_owned(),
            self.last_seen.map(|seen| relative(seen, now)).unwrap_or_else(|| "never".to_owned()),
            self.ping.as_ref().map(ping_word).unwrap_or_default(),
            self.agent.as_ref().map(|agent| format!("{} {}", agent.name, agent.version)).unwrap_or_default(),
            self.methods.len().to_string(),
            self.clock_skew_ms.map(clock_word).unwrap_or_default(),
        ]
    }

    fn name(&self) -> String {
        self.id.to_string()
    }
}

impl Listed for ScheduleView {
    const COLUMNS: &'static [Column] = &[
        Column::id("SCHEDULE"),
        Column::text("CRON"),
        Column::text("ZONE"),
        Column::text("MAKES"),
        Column::text("NEXT"),
        Column::text("LAST"),
        Column::text("OUTCOME"),
    ];

    fn cells(&self, now: OffsetDateTime) -> Vec<String> {
        let next = match (self.paused_at, self.next_due) {
            (Some(_), _) => "paused".to_owned(),
            (None, next) => next.map(|at| relative(at, now)).unwrap_or_default(),
        };
        vec![
            self.name.clone(),
            self.cron.clone(),
            self.time_zone.clone(),
            self.collection.request.kind().to_owned(),
            next,
            self.last_run.as_ref().map(|run| relative(run.due, now)).unwrap_or_else(|| "never".to_owned()),
            self.last_run.as_ref().map(|run| run.outcome.as_str().to_owned()).unwrap_or_default(),
        ]
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}

impl Listed for ScheduleRun {
    const COLUMNS: &'static [Column] = &[Column::text("DUE"), Column::text("OUTCOME"), Column::id("COLLECTION"), Column::text("DETAIL")];

    fn cells(&self, _now: OffsetDateTime) -> Vec<String> {
        vec![
            super::units::rfc3339_seconds(self.due),
            self.outcome.as_str().to_owned(),
            self.collection.map(|id| id.to_string()).unwrap_or_default(),
            self.detail.clone().unwrap_or_default(),
        ]
    }

    fn name(&self) -> String {
        self.collection.map(|id| id.to_string()).unwrap_or_default()
    }
}

impl Listed for Standing {
    const COLUMNS: &'static [Column] = &[
        Column::id("SCOPE"),
        Column::text("STATE"),
        Column::text("BY"),
        Column::text("CHANNEL"),
        Column::text("TERMS"),
        Column::text("DECIDED"),
        Column::id("CONSENT"),
    ];

    fn cells(&self, now: OffsetDateTime) -> Vec<String> {
        let record = self.record.as_ref();
        vec![
            self.scope.to_string(),
            self.state.to_string(),
            record.map(|record| format!("{} ({})", record.actor.id, record.actor.role)).unwrap_or_default(),
            record.map(|record| record.channel.to_string()).unwrap_or_default(),
            record.and_then(|record| record.terms.as_ref()).map(|terms| terms.version.clone()).unwrap_or_default(),
            record.map(|record| relative(record.decided_at, now)).unwrap_or_default(),
            self.name(),
        ]
    }

    fn name(&self) -> String {
        self.record.as_ref().map(|record| record.consent_id.to_string()).unwrap_or_default()
    }
}

impl Listed for ConsentAuditLine {
    const COLUMNS: &'static [Column] = &[
        Column::text("TIME"),
        Column::text("WHAT"),
        Column::id("SCOPE"),
        Column::text("BY"),
        Column::text("OBJECT"),
        Column::text("DETAIL"),
    ];

    fn cells(&self, _now: OffsetDateTime) -> Vec<String> {
        vec![
            super::units::rfc3339_seconds(self.at),
            self.what.replace('_', " "),
            self.scope.to_string(),
            self.who.clone(),
            self.object.clone().unwrap_or_default(),
            self.detail.clone().unwrap_or_default(),
        ]
    }

    fn name(&self) -> String {
        self.attempt.map(|attempt| attempt.to_string()).unwrap_or_default()
    }
}

impl Listed for TermsView {
    const COLUMNS: &'static [Column] = &[
        Column::id("VERSION"),
        Column::text("LOCALE"),
        Column::number("NUMBER"),
        Column::text("SILENCE IS"),
        Column::text("ASKS AGAIN"),
        Column::text("PUBLISHED"),
        Column::id("SHA256"),
    ];

    fn cells(&self, now: OffsetDateTime) -> Vec<String> {
        vec![
            self.version.clone(),
            self.locale.clone(),
            self.number.to_string(),
            if self.default == TermsDefault::OptIn { "no" } else { "yes" }.to_owned(),
            if self.material { "yes" } else { "no" }.to_owned(),
            relative(self.published_at, now),
            self.sha256.clone(),
        ]
    }

    fn name(&self) -> String {
        self.version.clone()
    }
}

impl Listed for TimelineEntry {
    const COLUMNS: &'static [Column] = &[Column::text("TIME"), Column::text("WHAT"), Column::id("COLLECTION"), Column::text("DETAIL")];

    fn cells(&self, _now: OffsetDateTime) -> Vec<String> {
        let said = [
            self.reason.map(|reason| reason.as_str().to_owned()),
            self.detail.clone(),
            self.attempt.map(|attempt| format!("attempt {attempt}")),
            self.who.as_ref().map(|who| format!("by {who}")),
        ];
        vec![
            super::units::rfc3339_seconds(self.at),
            self.what.as_str().replace('_', " "),
            self.collection.map(|id| id.to_string()).unwrap_or_default(),
            said.into_iter().flatten().collect::<Vec<_>>().join(", "),
        ]
    }

    fn name(&self) -> String {
        self.task.map(|id| id.to_string()).or_else(|| self.alert.map(|id| id.to_string())).unwrap_or_default()
    }
}

/// Skew below which a clock counts as right, in milliseconds.
const CLOCK_TOLERANCE_MS: i64 = 5_000;

/// How far a device's clock is off.
pub(crate) fn clock_word(skew_ms: i64) -> String {
    let seconds = super::units::duration(skew_ms.unsigned_abs() as f64 / 1000.0);
    if skew_ms.unsigned_abs() <= CLOCK_TOLERANCE_MS.unsigned_abs() {
        "ok".to_owned()
    } else if skew_ms > 0 {
        format!("{seconds} ahead")
    } else {
        format!("{seconds} behind")
    }
}

impl Listed for BundleView {
    const COLUMNS: &'static [Column] = &[
        Column::id("TASK"),
        Column::id("DEVICE"),
        Column::text("VERDICT"),
        Column::number("OBJECTS"),
        Column::number("SIZE"),
        Column::text("SEALED"),
    ];

    fn cells(&self, now: OffsetDateTime) -> Vec<String> {
        vec![
            self.task.to_string(),
            self.device.to_string(),
            self.verdict.as_str().to_owned(),
            count(u64::from(self.objects)),
            bytes(self.size_bytes),
            relative(self.sealed_at, now),
        ]
    }

    fn name(&self) -> String {
        self.task.to_string()
    }
}

impl Listed for BundleFile {
    const COLUMNS: &'static [Column] = &[Column::number("SIZE"), Column::id("PATH")];

    fn cells(&self, _now: OffsetDateTime) -> Vec<String> {
        vec![bytes(self.size_bytes), self.path.clone()]
    }

    fn name(&self) -> String {
        self.path.clone()
    }
}

impl Listed for ObjectCheck {
    const COLUMNS: &'static [Column] = &[Column::text("RESULT"), Column::text("OBJECT"), Column::text("PROBLEM")];

    fn cells(&self, _now: OffsetDateTime) -> Vec<String> {
        let result = if self.problem.is_none() { "intact" } else { "damaged" };
        vec![result.to_owned(), self.name.clone(), self.problem.clone().unwrap_or_default()]
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}

#[cfg(test)]
mod tests {
    use muster_wire::http::TimelineWhat;
    use time::macros::datetime;

    use super::super::Out;
    use super::super::table::table;
    use super::*;

    #[test]
    fn the_line_of_a_device_as_a_table() {
        let task: muster_wire::TaskId = "tsk_01jd8k2m3n4p5q6r7s-17".parse().expect("an id");
        let bare = |at, what| TimelineEntry {
            at,
            what,
            collection: None,
            task: None,
            alert: None,
            attempt: None,
            who: None,
            reason: None,
            detail: None,
        };
        let in_task = |at, what| TimelineEntry { collection: Some(task.collection()), task: Some(task), ..bare(at, what) };
        let line = [
            TimelineEntry {
                reason: Some(muster_wire::Reason::NoAnswer),
                detail: Some("\u{1b}[2Jgone".to_owned()),
                attempt: Some(2),
                ..in_task(datetime!(2026-11-21 12:01 UTC), TimelineWhat::AttemptEnded)
            },
            TimelineEntry {
                who: Some("ada".to_owned()),
                detail: Some("bundle: it hums (case 48213)".to_owned()),
                ..in_task(datetime!(2026-11-21 11:59 UTC), TimelineWhat::Asked)
            },
            TimelineEntry {
                alert: Some("alt_01jd8k2m3n4p5q6r7s8t9v0w1x".parse().expect("an id")),
                collection: Some(task.collection()),
                detail: Some("AcsUnhealthyCondition fired: collected, consent of the device was granted".to_owned()),
                ..bare(datetime!(2026-11-21 11:58 UTC), TimelineWhat::Alert)
            },
            bare(datetime!(2026-11-01 12:00 UTC), TimelineWhat::FirstSeen),
        ];
        let out = Out::for_test(Some(120));
        let rows: Vec<Vec<String>> = line.iter().map(|entry| entry.cells(out.now())).collect();
        insta::assert_snapshot!(table(TimelineEntry::COLUMNS, &rows, &out));
    }
}
