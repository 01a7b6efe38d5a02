//! From devices: answers, reports, births. Parses, decides, hands on; never waits for a disk or a bundle.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use muster_domain::deadline;
use muster_domain::event::{self, Decision, Event, Presence as DevicePresence, TaskFacts, Work};
use muster_store::{Birth, Step, Store};
use muster_wire::method::answer::{TaskStatus, TaskStatusAnswer};
use muster_wire::presence::{Presence, TaskReport};
use muster_wire::properties::AnswerProperties;
use muster_wire::{AttemptId, DeviceId, TaskState};
use time::OffsetDateTime;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio_util::sync::CancellationToken;

use crate::DispatchOptions;
use crate::alert::DeviceAlert;
use crate::apply::{Applier, Change, Then};
use crate::look::{Job, Looks};
use crate::message::{self, Answer, Message};
use crate::poll::Polls;
use crate::session::{Ack, Delivery, Session};
use crate::work::{NextStep, OpenWork, OpenWorks};

/// How long an alert may wait for room before it is left with the broker.
const ALERT_PATIENCE: Duration = Duration::from_secs(1);

/// What came in, for the status page.
#[derive(Debug, Default)]
pub(crate) struct Received {
    pub(crate) answers: AtomicU64,
    pub(crate) reports: AtomicU64,
    pub(crate) presences: AtomicU64,
    pub(crate) alerts: AtomicU64,
    /// Alerts nobody had room for.
    pub(crate) alerts_left: AtomicU64,
    /// Messages outside the contract.
    pub(crate) refused: AtomicU64,
    /// Answers to nothing we asked, or to a collection that has ended.
    pub(crate) unasked: AtomicU64,
}

pub(crate) struct Inbound {
    pub(crate) store: Store,
    pub(crate) options: Arc<DispatchOptions>,
    pub(crate) session: Session,
    pub(crate) applier: Applier,
    pub(crate) looks: Looks,
    pub(crate) polls: Arc<Polls>,
    pub(crate) works: Arc<OpenWorks>,
    pub(crate) received: Arc<Received>,
    /// Whoever takes alerts.
    pub(crate) alerts: Option<mpsc::Sender<DeviceAlert>>,
}

impl Inbound {
    pub(crate) async fn run(self, mut deliveries: mpsc::Receiver<Delivery>, stop: CancellationToken) {
        while let Some(Delivery { publish, ack }) =
            tokio::select! { delivery = deliveries.recv() => delivery, () = stop.cancelled() => None }
        {
            match message::parse(&self.session.prefix, &self.session.caller, &publish) {
                Ok(Message::Answer(answer)) => self.answer(answer, ack).await,
                Ok(Message::Report { device, report }) => self.report(device, report, ack).await,
                Ok(Message::Alert { device, content_type, properties, payload }) => {
                    self.alert(DeviceAlert { device, content_type, properties, payload, ack }).await;
                }
                Ok(Message::Presence { device, presence, retained }) => self.presence(device, *presence, retained, ack).await,
                Err(refusal) => {
                    metrics::counter!("muster_messages_refused_total", "why" => refusal.label()).increment(1);
                    // The first, second, fourth … of them: a hostile peer must not fill the disk with our words about it.
                    if self.received.refused.fetch_add(1, Ordering::Relaxed).is_power_of_two() {
                        tracing::warn!(topic = %message::clean(&String::from_utf8_lossy(&publish.topic)), bytes = publish.payload.len(), why = refusal.label(), "a message outside the device contract was refused");
                    }
                    ack.done();
                }
            }
        }
    }

    /// Handed on, and acknowledged by whoever takes it once it is committed. Where nobody takes any, the answers of the fleet must not wait
    /// behind alerts: they stay with the broker, which sends them again with the next connection.
    async fn alert(&self, alert: DeviceAlert) {
        self.received.alerts.fetch_add(1, Ordering::Relaxed);
        let Some(alerts) = &self.alerts else {
            alert.ack.done();
            return;
        };
        if let Err(SendTimeoutError::Timeout(alert)) = alerts.send_timeout(alert, ALERT_PATIENCE).await {
            metrics::counter!("muster_alerts_left_with_broker_total").increment(1);
            if self.received.alerts_left.fetch_add(1, Ordering::Relaxed).is_power_of_two() {
                tracing::warn!(device = %alert.device, "alerts are not taken in; they stay with the broker until the next connection");
            }
        }
    }

    async fn presence(&self, device: DeviceId, presence: Presence, retained: bool, ack: Ack) {
        self.received.presences.fetch_add(1, Ordering::Relaxed);
        let now = OffsetDateTime::now_utc();
        let birth = Box::new(Birth { device, presence, at: now, retained });
        self.applier.send(Change::Presence { birth, ack }).await;
    }

    async fn answer(&self, answer: Answer, ack: Ack) {
        self.received.answers.fetch_add(1, Ordering::Relaxed);
        let now = OffsetDateTime::now_utc();
        self.applier.send(Change::Seen { device: answer.device.clone(), at: now }).await;
        if let Some(attempt) = self.polls.close(answer.correlation, &answer.device) {
            ack.done();
            self.poll_answered(attempt, answer).await;
            return;
        }
        let open = answer.attempt().and_then(|attempt| Some((attempt, self.works.get(attempt.task().collection())?)));
        let Some((attempt, work)) = open else {
            self.received.unasked.fetch_add(1, Ordering::Relaxed);
            metrics::counter!("muster_answers_unasked_total").increment(1);
            ack.done();
            return;
        };
        let (meaning, correlation_id) = meaning(&work, &answer);
        let facts = self.facts(&work, attempt, &answer, now).await;
        // A device that knows better than our records ends the task as a withdrawal would.
        let no_consent = work.is_proactive() && answer.status == AnswerProperties::NO_CONSENT;
        let event = if no_consent { Event::ConsentMissing } else { Event::Answered(meaning) };
        match event::decide(&facts, &event) {
            // The answer is the result: it is landed first, and acknowledged when the bundle is committed.
            Decision::Look => self.looks.land(attempt, answer, ack).await,
            decision => {
                let step = Step {
                    device: Some(answer.device.clone()),
                    correlation_id,
                    detail: if answer.status == 200 { None } else { answer.words().map(|words| format!("{}: {words}", answer.status)) },
                    lease_until: Some(now + self.options.look_first),
                    ..step(attempt, now)
                };
                self.decided(&work, &facts, decision, step, Then::Ack(ack)).await;
            }
        }
    }

    /// A report is a hint that makes us look early; the objects are the evidence. So it is acknowledged at once: were it lost, the
    /// next look would find the same.
    async fn report(&self, device: DeviceId, report: TaskReport, ack: Ack) {
        self.received.reports.fetch_add(1, Ordering::Relaxed);
        ack.done();
        let open = |attempt: &AttemptId| self.works.get(attempt.task().collection()).is_some();
        let Some(attempt) = AttemptId::from_uuid(report.attempt).filter(open) else {
            self.received.unasked.fetch_add(1, Ordering::Relaxed);
            return;
        };
        match report.status {
            // It stands for an answer that was lost, or that is still under way on the other topic.
            TaskStatus::NotStarted | TaskStatus::Running => {
                let now = OffsetDateTime::now_utc();
                let step = Step {
                    to: TaskState::Accepted,
                    device: Some(device),
                    correlation_id: Some(report.correlation_id),
                    lease_until: Some(now + self.options.look_first),
                    ..step(attempt, now)
                };
                self.applier.send(Change::Step { step: Box::new(step), leaves_device: false, then: Then::Nothing }).await;
            }
            said => self.looks.look(Job::said(attempt, device, said, Some(report.correlation_id), report.message)),
        }
    }

    async fn poll_answered(&self, attempt: AttemptId, answer: Answer) {
        if answer.status != 200 {
            tracing::debug!(%attempt, status = answer.status, "GetTaskStatus was refused");
            return;
        }
        match TaskStatusAnswer::parse(&answer.payload) {
            Ok(TaskStatusAnswer { status: TaskStatus::NotStarted | TaskStatus::Running, .. }) => {}
            Ok(said) => self.looks.look(Job::said(attempt, answer.device, said.status, Some(said.correlation_id), said.message)),
            Err(error) => tracing::debug!(%attempt, %error, "the answer to GetTaskStatus makes no sense"),
        }
    }

    /// Facts for an answer. The state is assumed: the update that applies the decision names the states it may come from, so an
    /// answer that comes too late or twice touches nothing. The device row is read only where a rule asks for it.
    async fn facts(&self, work: &OpenWork, attempt: AttemptId, answer: &Answer, now: OffsetDateTime) -> TaskFacts {
        let mut facts = facts(&self.options, work, attempt, TaskState::Dispatched, now);
        if (400..500).contains(&answer.status)
            && let Ok(Some(device)) = self.store.device(&answer.device).await
        {
            facts.method_listed =
                (!device.methods.is_empty()).then(|| device.methods.iter().any(|m| m.eq_ignore_ascii_case(work.method.as_str())));
            facts.agent_started_ago = device.started.and_then(|started| started_ago(now, started, device.clock_skew_ms.unwrap_or(0)));
        }
        facts
    }

    async fn decided(&self, work: &OpenWork, facts: &TaskFacts, decision: Decision, base: Step, then: Then) {
        let Some((step, leaves_device)) = moved(&self.options, work, facts, decision, base) else {
            if let Then::Ack(ack) = then {
                ack.done();
            }
            return;
        };
        if leaves_device && work.uploads() && !may_come_late(&step) {
            self.looks.close(step.attempt);
        }
        self.applier.send(Change::Step { step: Box::new(step), leaves_device, then }).await;
    }
}

/// How long ago the agent started, by our clock. A device says of its clock what it likes: what leads out of the calendar, or into the
/// future, says nothing.
fn started_ago(now: OffsetDateTime, started: OffsetDateTime, skew_ms: i64) -> Option<Duration> {
    let started = started.checked_sub(time::Duration::milliseconds(skew_ms))?;
    Duration::try_from(now - started).ok()
}

/// The attempt was given up while its device may still be uploading: its inbox stays open until the next attempt is sent, and what is found
/// there until then counts.
pub(crate) fn may_come_late(step: &Step) -> bool {
    step.to == TaskState::Queued && step.reason.is_some_and(event::may_still_be_at_work)
}

/// What an answer means, and the id the device gave its work.
fn meaning(work: &OpenWork, answer: &Answer) -> (event::Answer, Option<String>) {
    if answer.status != 200 {
        return (event::Answer::Status(answer.status), None);
    }
    match work.work {
        Work::Ping | Work::Answer => (event::Answer::Result, None),
        Work::UploadOne | Work::UploadMany => match TaskStatusAnswer::parse(&answer.payload) {
            Ok(said) if !said.correlation_id.is_empty() => (event::Answer::Accepted, Some(said.correlation_id)),
            _ => (event::Answer::Malformed, None),
        },
    }
}

/// A step without a direction yet.
pub(crate) fn step(attempt: AttemptId, at: OffsetDateTime) -> Step {
    Step::new(attempt, TaskState::Queued, at)
}

/// Facts from what is at hand without the database.
pub(crate) fn facts(options: &DispatchOptions, work: &OpenWork, attempt: AttemptId, state: TaskState, now: OffsetDateTime) -> TaskFacts {
    TaskFacts {
        state,
        attempt: attempt.number(),
        max_attempts: work.max_attempts,
        work: work.work,
        presence: DevicePresence::Unknown,
        method_listed: None,
        agent_started_ago: None,
        said: None,
        time_up: false,
        time_left: deadline::time_left(now, work.expires_at),
        retry_delay: work.retry_wait(options, attempt.number()),
        retry_reasons: work.retry_reasons,
    }
}

/// Turns a decision into a step; says whether the device is done with the attempt. `None`: nothing to write.
pub(crate) fn moved(options: &DispatchOptions, work: &OpenWork, facts: &TaskFacts, decision: Decision, base: Step) -> Option<(Step, bool)> {
    let with_the_device = matches!(facts.state, TaskState::Dispatched | TaskState::Accepted);
    match decision {
        Decision::Move { to, reason } => {
            let leaves = with_the_device && to != TaskState::Accepted;
            let lease_until = match to {
                TaskState::Uploaded => Some(base.at + options.verify_lease),
                TaskState::Accepted => base.lease_until,
                _ => None,
            };
            // A pattern is looked for by whoever has the lines in hand.
            let matched = (to == TaskState::Verified && work.next_step == Some(NextStep::Everyone)).then_some(true).or(base.matched);
            Some((Step { to, reason, lease_until, matched, releases_slot: leaves && work.one_per_device(), ..base }, leaves))
        }
        Decision::Retry { reason } => {
            let mut not_before = base.at + facts.retry_delay;
            let mut releases_slot = with_the_device && work.one_per_device();
            if with_the_device && work.uploads() && !facts.time_up && event::may_still_be_at_work(reason) {
                // Its grant still works. When it was sent is not known here, only that it was not later than now.
                not_before = not_before.max(base.at + work.attempt_timeout + options.grace);
                releases_slot = false;
            }
            let step = Step {
                to: TaskState::Queued,
                reason: Some(reason),
                not_before: Some(not_before),
                lease_until: None,
                releases_slot,
                ..base
            };
            Some((step, with_the_device))
        }
        Decision::Look | Decision::Ignore { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn a_clock_from_nowhere_panics_nobody() {
        let now = datetime!(2026-11-21 12:00 UTC);
        let hour_ms = 3_600_000;
        assert_eq!(started_ago(now, datetime!(2026-11-21 11:59 UTC), 0), Some(Duration::from_secs(60)));
        assert_eq!(started_ago(now, datetime!(2026-11-21 12:59 UTC), hour_ms), Some(Duration::from_secs(60)), "its clock is an hour ahead");
        assert_eq!(started_ago(now, datetime!(2026-11-21 12:59 UTC), 0), None);
        let (first, last) = (datetime!(0001-01-01 00:00 UTC), datetime!(9999-12-31 23:59:59 UTC));
        for (started, clock) in [(first, last), (last, first), (first, first), (last, last)] {
            let skew_ms = i64::try_from((clock - now).whole_milliseconds()).expect("19,998 years in milliseconds");
            started_ago(now, started, skew_ms);
        }
        for skew_ms in [i64::MIN, i64::MAX] {
            assert_eq!(started_ago(now, last, skew_ms), None);
        }
    }
}
