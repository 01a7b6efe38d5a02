//! Looking: into an inbox, because somebody said something or because nobody did, and what follows.
//!
//! Every path to a verdict leads through here, so the happy case and recovery are one: a device reports `Completed`, a lease
//! ends, a controller comes back from the dead: each time the row is read, the inbox is listed, [`muster_domain::event::decide`]
//! decides, and a guarded update applies it. Whoever's update moves the task to `uploaded` judges it; everyone else stops.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use muster_domain::deadline::{AttemptWindow, attempt_window};
use muster_domain::event::{self, Decision, Event};
use muster_landing::{Landing, LandingError};
use muster_store::{OpenTask, Step, StepOutcome, Store};
use muster_wire::method::answer::TaskStatus;
use muster_wire::presence::PROTO_311;
use muster_wire::{AttemptId, DeviceId, TaskState};
use secrecy::ExposeSecret;
use time::OffsetDateTime;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::DispatchOptions;
use crate::apply::Applier;
use crate::inbound::{facts, moved, step};
use crate::message::{Answer, clean};
use crate::poll::Polls;
use crate::request::{self, Addressed};
use crate::session::{Ack, Session};
use crate::work::{OpenWork, OpenWorks};

/// Most looks waiting. Beyond it a hint is dropped: the lease of the task brings the next one.
const MAX_WAITING: usize = 65_536;
/// Looks under way at the same time; judging has its own, smaller bound.
const PARALLEL: usize = 32;

/// A reason to look.
#[derive(Debug)]
pub(crate) enum Job {
    /// The device said something about its upload.
    Said { attempt: AttemptId, device: DeviceId, said: TaskStatus, correlation_id: Option<String>, message: String },
    /// Nobody said anything for a while.
    Silence { attempt: AttemptId },
    /// The task is `uploaded` and nobody judges it.
    Judge { attempt: AttemptId },
    /// The answer is the result.
    Land { attempt: AttemptId, answer: Box<Answer>, ack: Ack },
    /// The attempt is over; its inbox can go.
    Close { attempt: AttemptId },
}

impl Job {
    pub(crate) fn said(attempt: AttemptId, device: DeviceId, said: TaskStatus, correlation_id: Option<String>, message: String) -> Self {
        Self::Said { attempt, device, said, correlation_id, message: clean(&message) }
    }

    fn attempt(&self) -> AttemptId {
        match self {
            Self::Said { attempt, .. }
            | Self::Silence { attempt }
            | Self::Judge { attempt }
            | Self::Land { attempt, .. }
            | Self::Close { attempt } => *attempt,
        }
    }
}

/// The queueing half; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Looks {
    queue: mpsc::Sender<Job>,
}

impl Looks {
    pub(crate) fn new() -> (Self, mpsc::Receiver<Job>) {
        let (queue, receiver) = mpsc::channel(MAX_WAITING);
        (Self { queue }, receiver)
    }

    /// Queues a look; drops the hint when too many wait.
    pub(crate) fn look(&self, job: Job) {
        if self.queue.try_send(job).is_err() {
            metrics::counter!("muster_looks_dropped_total").increment(1);
        }
    }

    /// Queues a result; waits while too many wait. Its message is acknowledged once the bundle is committed.
    pub(crate) async fn land(&self, attempt: AttemptId, answer: Answer, ack: Ack) {
        let _ = self.queue.send(Job::Land { attempt, answer: Box::new(answer), ack }).await;
    }

    /// The attempt is over.
    pub(crate) fn close(&self, attempt: AttemptId) {
        self.look(Job::Close { attempt });
    }

    pub(crate) fn waiting(&self) -> usize {
        MAX_WAITING - self.queue.capacity()
    }
}

/// All a look may touch.
#[derive(Clone)]
pub(crate) struct Looker {
    pub(crate) store: Store,
    pub(crate) landing: Landing,
    pub(crate) options: Arc<DispatchOptions>,
    pub(crate) session: Session,
    pub(crate) applier: Applier,
    pub(crate) polls: Arc<Polls>,
    pub(crate) works: Arc<OpenWorks>,
    pub(crate) judging: Arc<Semaphore>,
}

/// Attempts being looked at, and what was said about them meanwhile: one look per attempt at a time, and no word is lost.
type Busy = Arc<Mutex<HashMap<AttemptId, Option<Job>>>>;

impl Looker {
    pub(crate) async fn run(self, mut queue: mpsc::Receiver<Job>, stop: CancellationToken) {
        let tracker = TaskTracker::new();
        let permits = Arc::new(Semaphore::new(PARALLEL));
        let busy = Busy::default();
        while let Some(job) = tokio::select! { job = queue.recv() => job, () = stop.cancelled() => None } {
            let Ok(permit) = permits.clone().acquire_owned().await else { break };
            let attempt = job.attempt();
            if let Some(next) = locked(&busy).get_mut(&attempt) {
                *next = Some(job);
                continue;
            }
            locked(&busy).insert(attempt, None);
            let (looker, busy) = (self.clone(), busy.clone());
            tracker.spawn(async move {
                let mut job = Some(job);
                while let Some(current) = job.take() {
                    looker.handle(current).await;
                    let mut busy = locked(&busy);
                    job = busy.get_mut(&attempt).and_then(Option::take);
                    if job.is_none() {
                        busy.remove(&attempt);
                    }
                }
                drop(permit);
            });
        }
        tracker.close();
        tracker.wait().await;
    }

    async fn handle(&self, job: Job) {
        let attempt = job.attempt();
        if let Job::Close { .. } = job {
            self.close(attempt).await;
            return;
        }
        let Some(work) = self.works.get(attempt.task().collection()) else { return };
        let row = match self.store.open_task(attempt.task()).await {
            Ok(Some(row)) if row.attempt == attempt => row,
            Ok(_) => {
                // Final or superseded: what is said about it changes nothing.
                if let Job::Land { ack, .. } = job {
                    ack.done();
                }
                return;
            }
            Err(error) => {
                tracing::warn!(%attempt, error = &error as &dyn std::error::Error, "could not read a task; its lease brings it back");
                return;
            }
        };
        match job {
            Job::Said { device, said, correlation_id, message, .. } => {
                if device != row.device {
                    tracing::warn!(%attempt, device.id = %device, "a report about another device's task was ignored");
                } else if row.correlation_id.is_some() && correlation_id.is_some() && row.correlation_id != correlation_id {
                    metrics::counter!("muster_reports_ignored_total", "why" => "correlation_id").increment(1);
                } else {
                    self.look(&work, &row, attempt, Some((said, message)), false).await;
                }
            }
            Job::Silence { .. } => self.look(&work, &row, attempt, None, true).await,
            Job::Judge { .. } => self.judge(&work, &row, attempt).await,
            Job::Land { answer, ack, .. } => {
                if answer.device == row.device {
                    self.land(&work, &row, attempt, *answer, ack).await;
                } else {
                    tracing::warn!(%attempt, device.id = %answer.device, "an answer for another device's task was ignored");
                    ack.done();
                }
            }
            Job::Close { .. } => {}
        }
    }

    /// Reads what is there and lets the rules decide. `nudge`: the device was silent; send the request again, or ask how it goes.
    async fn look(&self, work: &OpenWork, row: &OpenTask, attempt: AttemptId, said: Option<(TaskStatus, String)>, nudge: bool) {
        if row.state == TaskState::Uploaded {
            return;
        }
        let now = OffsetDateTime::now_utc();
        let window = self.window(work, row, now);
        let mut facts = facts(&self.options, work, attempt, row.state, now);
        facts.time_up = now >= window.give_up_at;
        let mut words = None;
        let decision = match said {
            Some((status, message)) => {
                facts.said = Some(status);
                words = (!message.is_empty()).then_some(message);
                event::decide(&facts, &Event::StatusReported(status))
            }
            None => Decision::Look,
        };
        let decision = match decision {
            Decision::Look => match self.inbox_event(work, attempt).await {
                Some(event) => event::decide(&facts, &event),
                None => return,
            },
            decided => decided,
        };
        match moved(&self.options, work, &facts, decision, Step { detail: words, ..step(attempt, now) }) {
            Some((step, leaves_device)) => {
                let to = step.to;
                let outcome = self.applier.apply(step, leaves_device).await;
                match (to, outcome) {
                    (TaskState::Uploaded, Some(StepOutcome::Applied)) => {
                        let row = OpenTask { state: TaskState::Uploaded, ..row.clone() };
                        self.judge(work, &row, attempt).await;
                    }
                    (TaskState::Uploaded | TaskState::Accepted, _) | (_, None) => {}
                    _ => self.close_if_uploads(work, attempt).await,
                }
            }
            None if nudge => self.nudge(work, row, attempt, window, now).await,
            None => {}
        }
    }

    async fn inbox_event(&self, work: &OpenWork, attempt: AttemptId) -> Option<Event> {
        if !work.uploads() {
            return Some(Event::NothingFound { begun: false });
        }
        match self.landing.list_inbox(attempt).await {
            Ok(listing) if listing.objects.is_empty() => Some(Event::NothingFound { begun: listing.begun }),
            Ok(_) => Some(Event::ObjectsFound),
            Err(LandingError::InboxNotFound { .. }) => Some(Event::NothingFound { begun: false }),
            // Too many objects are objects; judging names the limit.
            Err(error) if error.is_permanent() => Some(Event::ObjectsFound),
            Err(error) => {
                tracing::warn!(%attempt, error = &error as &dyn std::error::Error, "could not list an inbox; the next look tries again");
                None
            }
        }
    }

    /// The attempt's times, from when it was sent.
    fn window(&self, work: &OpenWork, row: &OpenTask, now: OffsetDateTime) -> AttemptWindow {
        window(&self.options, work, row.dispatched_at.unwrap_or(now))
    }

    /// A request may have died with a connection, a broker or a controller. Sending it again is safe: the device knows it by its
    /// correlation data and answers with what it answered before.
    async fn nudge(&self, work: &OpenWork, row: &OpenTask, attempt: AttemptId, window: AttemptWindow, now: OffsetDateTime) {
        if window.until <= now || !self.session.is_connected() {
            return;
        }
        let known = self.store.known_devices(std::slice::from_ref(&row.device)).await.unwrap_or_default();
        let wants_311 = known.first().is_some_and(|device| device.proto.first().is_some_and(|proto| proto == PROTO_311));
        let to = Addressed { device: &row.device, wants_311, window, now };
        let sent = match (&row.correlation_id, row.state) {
            (Some(correlation_id), TaskState::Accepted) => match self.polls.open(attempt, &row.device, std::time::Instant::now()) {
                Some(poll) => request::ask_status(&self.session, &to, poll, correlation_id),
                None => return,
            },
            _ => {
                let grant = match work.uploads() {
                    true => match self.landing.open_inbox(attempt, window.until).await {
                        Ok(grant) => Some(grant),
                        Err(error) => {
                            tracing::warn!(%attempt, error = &error as &dyn std::error::Error, "could not open an inbox");
                            return;
                        }
                    },
                    false => None,
                };
                metrics::counter!("muster_requests_repeated_total").increment(1);
                request::send_again(
                    &self.session,
                    &to,
                    work.method,
                    attempt,
                    request::payload(&work.request, grant.as_ref().map(|grant| grant.url().expose_secret())),
                )
            }
        };
        if let Err(error) = sent {
            tracing::debug!(%attempt, %error, "could not send again; the next look does");
        }
    }

    async fn close_if_uploads(&self, work: &OpenWork, attempt: AttemptId) {
        if work.uploads() {
            self.close(attempt).await;
        }
    }

    /// The grant of this attempt ends here, whatever its expiry says.
    pub(crate) async fn close(&self, attempt: AttemptId) {
        if let Err(error) = self.landing.close_inbox(attempt).await {
            tracing::warn!(%attempt, error = &error as &dyn std::error::Error, "could not close an inbox");
        }
    }
}

/// The times of an attempt that was sent at `dispatched_at`.
pub(crate) fn window(options: &DispatchOptions, work: &OpenWork, dispatched_at: OffsetDateTime) -> AttemptWindow {
    attempt_window(dispatched_at, work.attempt_timeout, work.expires_at, options.grace)
}

fn locked(busy: &Busy) -> std::sync::MutexGuard<'_, HashMap<AttemptId, Option<Job>>> {
    busy.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
