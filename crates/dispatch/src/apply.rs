//! The one writer. Every loop hands its changes here; they are committed in batches, and only then is a message acknowledged
//! or a caller told. No path commits once per message.
//!
//! A batch closes when it is full, or [`DispatchOptions::flush_every`] after the one before it: a lone message on an idle system is
//! written at once, and a busy system commits at a bounded rate. While a batch is being committed the next one fills, so a slow disk
//! makes batches larger, not the queue longer. An unreachable database is retried
//! for ever: the queue is bounded, what waits before it stays with the broker, and nothing is lost.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use muster_domain::event::Work;
use muster_store::{Birth, Seal, Step, StepOutcome, Store};
use muster_wire::{DeviceId, TaskId, TaskState};
use time::OffsetDateTime;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::DispatchOptions;
use crate::session::Ack;
use crate::wake::Wake;
use crate::window::Window;
use crate::work::OpenWorks;

const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Something to be committed.
#[derive(Debug)]
pub(crate) enum Change {
    /// A move of a task.
    Step {
        step: Box<Step>,
        /// The device has no more to do with this attempt: its place in the window is free.
        leaves_device: bool,
        then: Then,
    },
    /// A bundle and the move of its task to `verified`.
    Seal { seal: Box<Seal>, leaves_device: bool, then: Then },
    /// A birth or a will.
    Presence { birth: Box<Birth>, ack: Ack },
    /// A sign of life.
    Seen { device: DeviceId, at: OffsetDateTime },
}

/// What happens after the commit.
#[derive(Debug)]
pub(crate) enum Then {
    Ack(Ack),
    Tell(oneshot::Sender<StepOutcome>),
    Nothing,
}

/// The sending half; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Applier {
    queue: mpsc::Sender<Change>,
}

impl Applier {
    pub(crate) fn new(capacity: usize) -> (Self, mpsc::Receiver<Change>) {
        let (queue, receiver) = mpsc::channel(capacity);
        (Self { queue }, receiver)
    }

    /// Queues a change; waits while the queue is full.
    pub(crate) async fn send(&self, change: Change) {
        // Closed means shutdown: what is not committed is with the broker or is found again by a scan.
        let _ = self.queue.send(change).await;
    }

    /// Queues a move and waits for its commit. `None`: shutting down.
    pub(crate) async fn apply(&self, step: Step, leaves_device: bool) -> Option<StepOutcome> {
        let (tell, told) = oneshot::channel();
        self.send(Change::Step { step: Box::new(step), leaves_device, then: Then::Tell(tell) }).await;
        told.await.ok()
    }

    /// Queues a bundle and waits for its commit. `None`: shutting down.
    pub(crate) async fn seal(&self, seal: Seal, leaves_device: bool) -> Option<StepOutcome> {
        let (tell, told) = oneshot::channel();
        self.send(Change::Seal { seal: Box::new(seal), leaves_device, then: Then::Tell(tell) }).await;
        told.await.ok()
    }
}

/// What the writer did, for the status page.
#[derive(Debug, Default)]
pub(crate) struct Written {
    pub(crate) batches: AtomicU64,
    pub(crate) applied: AtomicU64,
    pub(crate) repeated: AtomicU64,
    pub(crate) superseded: AtomicU64,
    pub(crate) strangers: AtomicU64,
    pub(crate) births: AtomicU64,
    pub(crate) retries: AtomicU64,
}

pub(crate) struct Writer {
    pub(crate) store: Store,
    pub(crate) options: Arc<DispatchOptions>,
    pub(crate) works: Arc<OpenWorks>,
    pub(crate) window: Arc<Window>,
    pub(crate) wake: Wake,
    pub(crate) written: Arc<Written>,
}

#[derive(Default)]
struct Batch {
    steps: Vec<Step>,
    thens: Vec<(bool, Then)>,
    seals: Vec<Seal>,
    seal_thens: Vec<(bool, Then)>,
    births: Vec<Birth>,
    birth_acks: Vec<Ack>,
    seen: HashMap<DeviceId, OffsetDateTime>,
}

impl Batch {
    fn len(&self) -> usize {
        self.steps.len() + self.seals.len() + self.births.len()
    }

    fn push(&mut self, change: Change) {
        match change {
            Change::Step { step, leaves_device, then } => {
                self.steps.push(*step);
                self.thens.push((leaves_device, then));
            }
            Change::Seal { seal, leaves_device, then } => {
                self.seals.push(*seal);
                self.seal_thens.push((leaves_device, then));
            }
            Change::Presence { birth, ack } => {
                self.births.push(*birth);
                self.birth_acks.push(ack);
            }
            Change::Seen { device, at } => {
                self.seen.insert(device, at);
            }
        }
    }
}

impl Writer {
    /// Runs until the queue closes or `stop`.
    pub(crate) async fn run(self, mut queue: mpsc::Receiver<Change>, stop: CancellationToken) {
        let mut next_commit = Instant::now();
        loop {
            let first = tokio::select! {
                change = queue.recv() => change,
                () = stop.cancelled() => {
                    // What was queued before the stop is committed, not dropped: most of it is acknowledgements.
                    queue.close();
                    queue.recv().await
                }
            };
            let Some(first) = first else { return };
            let mut batch = Batch::default();
            batch.push(first);
            while batch.len() < self.options.apply_batch {
                let change = match queue.try_recv() {
                    Ok(change) => Some(change),
                    Err(mpsc::error::TryRecvError::Empty) if Instant::now() < next_commit => {
                        tokio::time::timeout_at(next_commit, queue.recv()).await.ok().flatten()
                    }
                    Err(_) => None,
                };
                match change {
                    Some(change) => batch.push(change),
                    None => break,
                }
            }
            next_commit = Instant::now() + self.options.flush_every;
            self.commit(batch, &stop).await;
        }
    }

    async fn commit(&self, batch: Batch, stop: &CancellationToken) {
        let Batch { steps, thens, seals, seal_thens, births, birth_acks, seen } = batch;
        metrics::histogram!("muster_apply_batch_size").record(steps.len() as f64);
        let seen: Vec<_> = seen.into_iter().collect();
        let Some(()) = self.persist("births", stop, || self.store.record_births(&births)).await else { return };
        let Some(()) = self.persist("signs of life", stop, || self.store.record_seen(&seen)).await else { return };
        for ack in birth_acks {
            ack.done();
        }
        let came_online = births.iter().any(|birth| birth.presence.online);
        self.written.births.fetch_add(births.len() as u64, Ordering::Relaxed);
        let mut freed = false;
        if !steps.is_empty() {
            let Some(outcomes) = self.persist("moves of tasks", stop, || self.store.apply(&steps)).await else { return };
            let pings = self.ended_pings(&steps, &outcomes);
            freed |= self.conclude(steps.iter(), outcomes, thens);
            // What a ping measured is a note beside the task: were it lost, the next ping measures again.
            let Some(()) = self.persist("pings", stop, || self.store.record_pings(&pings)).await else { return };
        }
        if !seals.is_empty() {
            let Some(outcomes) = self.persist("bundles", stop, || self.store.seal(&seals)).await else { return };
            freed |= self.conclude(seals.iter().map(|seal| &seal.step), outcomes, seal_thens);
        }
        if came_online || freed {
            self.wake.outbound();
        }
    }

    /// Pings that ended with this batch.
    fn ended_pings(&self, steps: &[Step], outcomes: &[StepOutcome]) -> Vec<TaskId> {
        let ended = steps
            .iter()
            .zip(outcomes)
            .filter(|(step, outcome)| **outcome == StepOutcome::Applied && matches!(step.to, TaskState::Verified | TaskState::Failed));
        let tasks = ended.map(|(step, _)| step.attempt.task());
        tasks.filter(|task| self.works.get(task.collection()).is_some_and(|work| work.work == Work::Ping)).collect()
    }

    /// After the commit: counts, frees places in the window, acknowledges, tells. True when a place came free.
    fn conclude<'a>(&self, steps: impl Iterator<Item = &'a Step>, outcomes: Vec<StepOutcome>, thens: Vec<(bool, Then)>) -> bool {
        self.written.batches.fetch_add(1, Ordering::Relaxed);
        let mut freed = false;
        for ((step, outcome), (leaves_device, then)) in steps.zip(outcomes).zip(thens) {
            self.count(step, &outcome);
            if leaves_device && outcome == StepOutcome::Applied {
                freed = true;
                self.window.ended(step.attempt.task().collection(), 1);
            }
            match then {
                Then::Ack(ack) => ack.done(),
                Then::Tell(tell) => drop(tell.send(outcome)),
                Then::Nothing => {}
            }
        }
        freed
    }

    fn count(&self, step: &Step, outcome: &StepOutcome) {
        let (counter, label) = match outcome {
            StepOutcome::Applied => (&self.written.applied, "applied"),
            StepOutcome::Repeated => (&self.written.repeated, "repeated"),
            StepOutcome::Superseded { .. } => (&self.written.superseded, "superseded"),
            StepOutcome::WrongDevice | StepOutcome::UnknownTask => (&self.written.strangers, "stranger"),
        };
        counter.fetch_add(1, Ordering::Relaxed);
        metrics::counter!("muster_task_moves_total", "to" => step.to.as_str(), "outcome" => label).increment(1);
        if matches!(outcome, StepOutcome::WrongDevice) {
            tracing::warn!(attempt = %step.attempt, device.id = step.device.as_ref().map(DeviceId::as_str), "an answer for another device's task was ignored");
        }
    }

    /// Tries until it is written; gives up only on shutdown, or when the database says the statement itself is wrong.
    async fn persist<T, F, Fut>(&self, what: &str, stop: &CancellationToken, mut write: F) -> Option<T>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, muster_store::StoreError>>,
    {
        let mut wait = RETRY_FIRST;
        loop {
            match write().await {
                Ok(value) => return Some(value),
                Err(error) => {
                    self.written.retries.fetch_add(1, Ordering::Relaxed);
                    metrics::counter!("muster_database_retries_total").increment(1);
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        transient = error.is_transient(),
                        "could not write {what}; trying again"
                    );
                }
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = stop.cancelled() => return None,
            }
            wait = (wait * 2).min(RETRY_MAX);
        }
    }
}
