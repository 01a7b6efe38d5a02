//! What followed from an alert, on one line of time: what was decided, the collection, each state of its task, the bundle.

use muster_wire::alert::AlertCondition;
use muster_wire::http::{AlertView, BundleManifest, CollectionView, Page, TaskDetail, TaskView, Verdict};
use serde::Serialize;
use serde::de::DeserializeOwned;
use time::OffsetDateTime;

use crate::client::Client;
use crate::failure::Failure;
use crate::present::units::{bytes, counted, rfc3339_seconds};
use crate::present::{Column, Listed, spoken, task_detail};

/// What followed from an alert, as far as it is still there.
#[derive(Debug, Default)]
pub(crate) struct Followed {
    collection: Option<CollectionView>,
    task: Option<TaskDetail>,
    bundle: Option<Sealed>,
}

/// What a manifest says of its bundle.
#[derive(Debug)]
struct Sealed {
    verdict: Verdict,
    objects: u64,
    bytes: u64,
    at: OffsetDateTime,
}

impl Followed {
    /// Asks for what is there.
    pub(crate) async fn read(alert: &AlertView, client: &Client) -> Result<Self, Failure> {
        let (Some(id), Some(device)) = (alert.collection, alert.device_id()) else { return Ok(Self::default()) };
        let id = id.to_string();
        let collection: Option<CollectionView> = there(client.get("show its collection", &["collections", &id], &[]).await)?;
        let query = [("device", device.to_string()), ("limit", "1".to_owned())];
        let tasks: Option<Page<TaskView>> = there(client.get("show its task", &["collections", &id, "tasks"], &query).await)?;
        let Some(task) = tasks.and_then(|page| page.items.into_iter().next()) else { return Ok(Self { collection, ..Self::default() }) };
        let name = task.id.to_string();
        let detail: Option<TaskDetail> = there(client.get("show its task", &["tasks", &name], &[]).await)?;
        let bundle = match task.bundle {
            Some(_) => there::<BundleManifest>(client.get("show its bundle", &["bundles", &name], &[]).await)?,
            None => None,
        };
        let bundle = bundle.map(|manifest| Sealed {
            verdict: manifest.verdict,
            objects: manifest.objects.len() as u64,
            bytes: manifest.objects.iter().map(|object| object.size_bytes).sum(),
            at: manifest.sealed_at,
        });
        Ok(Self { collection, task: detail, bundle })
    }
}

/// What is there, or nothing where it was removed meanwhile.
fn there<T: DeserializeOwned>(got: Result<T, Failure>) -> Result<Option<T>, Failure> {
    match got {
        Ok(value) => Ok(Some(value)),
        Err(Failure::Refused { problem, .. }) if problem.status == 404 => Ok(None),
        Err(other) => Err(other),
    }
}

/// A moment between an alert and its bundle.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Moments {
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
    what: &'static str,
    detail: String,
}

impl Listed for Moments {
    const COLUMNS: &'static [Column] = &[Column::text("TIME"), Column::text("WHAT"), Column::text("DETAIL")];

    fn cells(&self, _now: OffsetDateTime) -> Vec<String> {
        vec![rfc3339_seconds(self.at), self.what.to_owned(), self.detail.clone()]
    }

    fn name(&self) -> String {
        self.what.to_owned()
    }
}

/// Everything from the alert to the bundle, oldest first. What happened at the same time stands in the order in which it follows.
pub(crate) fn line_of_time(alert: &AlertView, followed: &Followed) -> Vec<Moments> {
    let mut line = Vec::new();
    let mut add = |at: Option<OffsetDateTime>, what, detail: String| line.extend(at.map(|at| Moments { at, what, detail }));
    let fired = if alert.condition == AlertCondition::Fired { "fired" } else { "ended" };
    add(Some(alert.fired_at).filter(|_| !alert.time_inferred), fired, alert.indicator.clone());
    add(Some(alert.received_at), "came", format!("{}, {}", alert.via, alert.id));
    add(Some(alert.decided_at), "decided", format!("{}: {}", spoken(alert.outcome.as_str()), alert.why));
    if let Some(collection) = &followed.collection {
        let earlier = if collection.created_at < alert.received_at { ", made for an earlier alert" } else { "" };
        add(Some(collection.created_at), "collection", format!("{} {}{earlier}", collection.request.kind(), collection.id));
    }
    if let Some(TaskDetail { task, attempts }) = &followed.task {
        for attempt in attempts {
            let number = attempt.id.number();
            add(attempt.dispatched_at, "sent", format!("attempt {number}"));
            let why = attempt.reason.map_or_else(|| attempt.state.as_str().to_owned(), |reason| reason.to_string());
            add(Some(attempt.ended_at), "attempt ended", format!("attempt {number}: {why}"));
        }
        add(task.dispatched_at, "sent", format!("attempt {}, {}", task.attempt, task.id));
        add(task.accepted_at, "accepted", task.correlation_id.as_ref().map(|id| format!("as {id}")).unwrap_or_default());
        add(task.uploaded_at, "uploaded", String::new());
        if let Some(bundle) = &followed.bundle {
            let detail = format!("{}, {}, {}", bundle.verdict.as_str(), counted(bundle.objects, "object"), bytes(bundle.bytes));
            add(Some(bundle.at), "bundle", detail);
        }
        let said = [task.reason.map(|reason| reason.to_string()), Some(task_detail(task)).filter(|said| !said.is_empty())];
        add(task.finished_at, task.state.as_str(), said.into_iter().flatten().collect::<Vec<_>>().join(", "));
        add(task.not_before, "not before", "waits for its next attempt".to_owned());
    }
    add(
        alert.resolved_at.filter(|_| alert.condition == AlertCondition::Fired),
        "resolved",
        alert.origin_alert_id.clone().unwrap_or_default(),
    );
    line.sort_by_key(|moment| moment.at);
    line
}

#[cfg(test)]
mod tests {
    use muster_wire::http::{AttemptView, TaskBundle};
    use muster_wire::{Reason, TaskState};
    use time::macros::datetime;

    use super::*;
    use crate::present::{Out, an_alert, table};

    fn followed() -> Followed {
        let task = crate::commands::collections::tests::task();
        let bundle = Sealed { verdict: Verdict::Partial, objects: 1, bytes: 123_456, at: datetime!(2026-11-21 11:59:29 UTC) };
        let attempt = AttemptView {
            id: task.id.attempt(1),
            state: TaskState::Failed,
            reason: Some(Reason::NoAnswer),
            detail: None,
            correlation_id: None,
            dispatched_at: Some(datetime!(2026-11-21 11:50:03 UTC)),
            ended_at: datetime!(2026-11-21 11:58:00 UTC),
        };
        Followed { collection: None, task: Some(TaskDetail { task, attempts: vec![attempt] }), bundle: Some(bundle) }
    }

    #[test]
    fn one_line_from_the_alert_to_the_bundle() {
        let alert = AlertView { resolved_at: Some(datetime!(2026-11-21 11:55:00 UTC)), ..an_alert() };
        let out = Out::for_test(Some(120));
        let line = line_of_time(&alert, &followed());
        assert!(line.is_sorted_by_key(|moment| moment.at));
        let rows: Vec<Vec<String>> = line.iter().map(|moment| moment.cells(out.now())).collect();
        insta::assert_snapshot!(table(Moments::COLUMNS, &rows, &out));
        // Without anything that followed, and without a time of its own.
        let bare = AlertView { time_inferred: true, ..an_alert() };
        let words: Vec<&str> = line_of_time(&bare, &Followed::default()).iter().map(|moment| moment.what).collect();
        assert_eq!(words, ["came", "decided"]);
    }

    #[test]
    fn a_bundle_that_was_removed_is_not_told() {
        let bundle = TaskBundle { verdict: Verdict::Complete, size_bytes: 5, objects: 1, missing: vec![] };
        let mut followed = followed();
        followed.bundle = None;
        if let Some(detail) = &mut followed.task {
            detail.task.bundle = Some(bundle);
        }
        let line = line_of_time(&an_alert(), &followed);
        assert!(line.iter().all(|moment| moment.what != "bundle"));
    }
}
