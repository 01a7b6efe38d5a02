//! Looking: into an inbox, because somebody said something or because nobody did, and what follows.
//!
//! Every path to a verdict leads through here, so the happy case and recovery are one: a device reports `Completed`, a lease
//! ends, a controller comes back from the dead: each time the row is read, the inbox is listed, [`muster_domain::event::decide`]
//! decides, and a guarded update applies it. Whoever's update moves the task to `uploaded` judges it; everyone else stops.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use muster_domain::deadline::{AttemptWindow, attempt_window};
use muster_domain::event::{self, Decision, Event};
use muster_landing::{Landing, LandingError};
use muster_store::{OpenTask, Step, StepOutcome, Store, StoreError};
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
use crate::consent::{Held, held_by};
use crate::inbound::{facts, may_come_late, moved, step};
use crate::lane::{Lanes, channels};
use crate::message::{Answer, clean};
use crate::poll::Polls;
use crate::request::{self, Addressed};
use crate::session::{Ack, Session};
use crate::work::{OpenWork, OpenWorks};

/// Most looks waiting in one lane. Beyond it a hint is dropped: the lease of the task brings the next one.
const MAX_WAITING: usize = 65_536;
/// Most words about one attempt that wait for a look at it to end. Beyond it somebody forges; the lease of the task brings the next look.
const MAX_MEANWHILE: usize = 16;
/// Looks under way at the same time in one lane; judging has its own, smaller bound.
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

    /// Whose word it is; `None` when it is our own.
    fn device(&self) -> Option<&DeviceId> {
        match self {
            Self::Said { device, .. } => Some(device),
            Self::Land { answer, .. } => Some(&answer.device),
            Self::Silence { .. } | Self::Judge { .. } | Self::Close { .. } => None,
        }
    }

    /// It will not be done. The message of an answer is acknowledged all the same: kept unacknowledged it would hold one of the places
    /// the broker has for us until the connection ends, and whoever may repeat answers could take them all.
    fn dismiss(self) {
        if let Self::Land { ack, .. } = self {
            ack.done();
        }
    }
}

/// What came about an attempt while it was being looked at. Of the same kind from the same device only the last counts; what another
/// device says about it has a place of its own, so a forged word never takes the place of the true one.
#[derive(Debug, Default)]
struct Meanwhile(VecDeque<Job>);

impl Meanwhile {
    fn push(&mut self, job: Job) {
        let same = |other: &&mut Job| std::mem::discriminant(*other) == std::mem::discriminant(&job) && other.device() == job.device();
        if let Some(earlier) = self.0.iter_mut().find(same) {
            std::mem::replace(earlier, job).dismiss();
        } else if self.0.len() < MAX_MEANWHILE {
            self.0.push_back(job);
        } else {
            metrics::counter!("muster_looks_dropped_total").increment(1);
            job.dismiss();
        }
    }
}

/// The queueing half; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Looks {
    lanes: Lanes<mpsc::Sender<Job>>,
    works: Arc<OpenWorks>,
}

impl Looks {
    pub(crate) fn new(works: Arc<OpenWorks>) -> (Self, Lanes<mpsc::Receiver<Job>>) {
        let (lanes, receivers) = channels(MAX_WAITING);
        (Self { lanes, works }, receivers)
    }

    fn lane(&self, attempt: AttemptId) -> &mpsc::Sender<Job> {
        self.lanes.of(self.works.priority(attempt.task().collection()))
    }

    /// Queues a look; drops the hint when too many wait.
    pub(crate) fn look(&self, job: Job) {
        if self.lane(job.attempt()).try_send(job).is_err() {
            metrics::counter!("muster_looks_dropped_total").increment(1);
        }
    }

    /// Queues a result; waits while too many wait. Its message is acknowledged once the bundle is committed.
    pub(crate) async fn land(&self, attempt: AttemptId, answer: Answer, ack: Ack) {
        let _ = self.lane(attempt).send(Job::Land { attempt, answer: Box::new(answer), ack }).await;
    }

    /// The attempt is over.
    pub(crate) fn close(&self, attempt: AttemptId) {
        self.look(Job::Close { attempt });
    }

    pub(crate) fn waiting(&self) -> usize {
        self.lanes.all().iter().map(|lane| MAX_WAITING - lane.capacity()).sum()
    }
}

/// All a look may touch. Each lane has one, with a bound of its own on judging.
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
type Busy = Arc<Mutex<HashMap<AttemptId, Meanwhile>>>;

impl Looker {
    pub(crate) async fn run(self, mut queue: mpsc::Receiver<Job>, stop: CancellationToken) {
        let tracker = TaskTracker::new();
        let permits = Arc::new(Semaphore::new(PARALLEL));
        let busy = Busy::default();
        while let Some(job) = tokio::select! { job = queue.recv() => job, () = stop.cancelled() => None } {
            let Ok(permit) = permits.clone().acquire_owned().await else { break };
            let attempt = job.attempt();
            if let Some(meanwhile) = locked(&busy).get_mut(&attempt) {
                meanwhile.push(job);
                continue;
            }
            locked(&busy).insert(attempt, Meanwhile::default());
            let (looker, busy) = (self.clone(), busy.clone());
            tracker.spawn(async move {
                let mut job = Some(job);
                while let Some(current) = job.take() {
                    looker.handle(current).await;
                    let mut busy = locked(&busy);
                    job = busy.get_mut(&attempt).and_then(|meanwhile| meanwhile.0.pop_front());
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
        let Some(work) = self.works.get(attempt.task().collection()) else {
            // Its collection ended meanwhile.
            job.dismiss();
            return;
        };
        let row = match self.row(attempt).await {
            Ok(Some(row)) => row,
            Ok(None) => {
                // Final or superseded: what is said about it changes nothing.
                job.dismiss();
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

    /// The task, while this attempt counts: it is under way, or it was given up and the next one is not sent yet.
    async fn row(&self, attempt: AttemptId) -> Result<Option<OpenTask>, StoreError> {
        match self.store.open_task(attempt.task()).await? {
            Some(row) => Ok(Some(row).filter(|row| row.attempt == attempt)),
            None => self.store.waiting_task(attempt).await,
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
            // Given up already: only good news makes us look once more.
            Some((TaskStatus::Completed | TaskStatus::Unknown, _)) if row.state == TaskState::Queued => Decision::Look,
            Some(_) if row.state == TaskState::Queued => return,
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
                let (to, late) = (step.to, may_come_late(&step));
                let outcome = self.applier.apply(step, leaves_device).await;
                match (to, outcome) {
                    (TaskState::Uploaded, Some(StepOutcome::Applied)) => {
                        let row = OpenTask { state: TaskState::Uploaded, ..row.clone() };
                        self.judge(work, &row, attempt).await;
                    }
                    (TaskState::Uploaded | TaskState::Accepted, _) | (_, None) => {}
                    _ if late => {}
                    _ => self.close_if_uploads(work, attempt).await,
                }
            }
            None if nudge && row.state != TaskState::Queued => self.nudge(work, row, attempt, window, now).await,
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
        let skew = known.first().and_then(|device| device.clock_skew_ms);
        let to = Addressed { device: &row.device, wants_311, window, now, proactive: work.is_proactive() };
        // A request sent again is a grant given again.
        if work.row.needs_consent.is_some() && !matches!(held_by(&self.store, work, &row.device, attempt).await, Some(Held::Granted(_))) {
            return;
        }
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
                    request::payload(&work.row.request, grant.as_ref().map(|grant| grant.url().expose_secret()), skew),
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

fn locked(busy: &Busy) -> std::sync::MutexGuard<'_, HashMap<AttemptId, Meanwhile>> {
    busy.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use muster_wire::CollectionId;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn no_word_about_a_busy_attempt_is_lost_and_no_acknowledgement_either() {
        let (acks, mut acknowledged) = mpsc::channel(1000);
        let attempt = CollectionId::new().task(0).attempt(1);
        let land = |device: &str, packet: u16| {
            let device: DeviceId = device.parse().expect("an id");
            let answer = Answer { device, correlation: Uuid::nil(), status: 200, status_message: None, payload: Bytes::new() };
            Job::Land { attempt, answer: Box::new(answer), ack: Ack::of_packet(packet, acks.clone()) }
        };
        let said = |device: &str, said| Job::said(attempt, device.parse().expect("an id"), said, None, String::new());
        let mut meanwhile = Meanwhile::default();
        meanwhile.push(land("mine", 1));
        meanwhile.push(land("forger", 2));
        meanwhile.push(said("mine", TaskStatus::Running));
        meanwhile.push(Job::Silence { attempt });
        meanwhile.push(land("mine", 3));
        meanwhile.push(said("forger", TaskStatus::Failed));
        meanwhile.push(said("mine", TaskStatus::Completed));
        meanwhile.push(Job::Silence { attempt });
        assert_eq!(meanwhile.0.len(), 5, "{meanwhile:?}");
        assert!(matches!(&meanwhile.0[0], Job::Land { answer, .. } if answer.device.as_str() == "mine"), "it keeps its place");
        assert!(matches!(&meanwhile.0[2], Job::Said { said: TaskStatus::Completed, .. }));
        for n in 0..100 {
            meanwhile.push(land(&format!("forger-{n}"), 100 + n));
        }
        assert_eq!(meanwhile.0.len(), MAX_MEANWHILE);
        // Replaced or refused: acknowledged at once. All others when they have been done.
        let replaced_and_refused = 1 + 100 - (MAX_MEANWHILE - 5);
        assert_eq!(std::iter::from_fn(|| acknowledged.try_recv().ok()).count(), replaced_and_refused);
        meanwhile.0.into_iter().for_each(Job::dismiss);
        assert_eq!(std::iter::from_fn(|| acknowledged.try_recv().ok()).count(), 2 + MAX_MEANWHILE - 5);
    }
}
