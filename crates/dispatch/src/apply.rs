//! The one writer. Every loop hands its changes here; they are committed in batches, and only then is a message acknowledged
//! or a caller told. No path commits once per message.
//!
//! A batch closes when it is full, or [`DispatchOptions::flush_every`] after the one before it: a lone message on an idle system is
//! written at once, and a busy system commits at a bounded rate; what is urgent gets into the next batch first. While a batch is being
//! committed the next one fills, so a slow disk makes batches larger, not the queue longer. A database that is away, full or broken is retried for ever: the queue is bounded, what
//! waits before it stays with the broker, and nothing is lost. A row that the database refuses is another matter: it would be refused for
//! ever, and with it all that share its batch. So a refused batch is halved until the row stands alone, which is dropped, counted and named.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use muster_domain::event::Work;
use muster_store::{Birth, Seal, Step, StepOutcome, Store, StoreError};
use muster_wire::http::Priority;
use muster_wire::{CollectionId, DeviceId, TaskId, TaskState};
use time::OffsetDateTime;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::DispatchOptions;
use crate::lane::{Lanes, Queue, channels};
use crate::session::Ack;
use crate::wake::Wake;
use crate::window::Window;
use crate::work::OpenWorks;

/// How long between two notes of a device's last sign of life, unless something else changes with it.
const SEEN_EVERY: Duration = Duration::from_secs(60);
/// Devices whose last sign of life is held; beyond it the table is cleared and some are noted early.
const MAX_SEEN: usize = 200_000;
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
    lanes: Lanes<mpsc::Sender<Change>>,
    works: Arc<OpenWorks>,
}

impl Applier {
    pub(crate) fn new(capacity: usize, works: Arc<OpenWorks>) -> (Self, Queue<Change>) {
        let (lanes, receivers) = channels(capacity);
        (Self { lanes, works }, Queue::new(receivers))
    }

    /// Queues a change; waits while the queue of its lane is full.
    pub(crate) async fn send(&self, change: Change) {
        // Closed means shutdown: what is not committed is with the broker or is found again by a scan.
        let priority = match &change {
            Change::Step { step, .. } => self.works.priority(step.attempt.task().collection()),
            Change::Seal { seal, .. } => self.works.priority(seal.step.attempt.task().collection()),
            Change::Presence { .. } | Change::Seen { .. } => Priority::Normal,
        };
        let _ = self.lanes.of(priority).send(change).await;
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
    pub(crate) dropped: AtomicU64,
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

/// What is written in batches.
trait Row: Sync + Sized {
    /// What a log calls them.
    const NAMES: &str;
    type Outcome: Send;

    /// Which one it is; a log holds no payload.
    fn id(&self) -> String;

    /// All of the rows or none of them; an outcome for each.
    fn write(store: &Store, rows: &[Self]) -> impl Future<Output = Result<Vec<Self::Outcome>, StoreError>> + Send;
}

impl Row for Birth {
    const NAMES: &str = "births";
    type Outcome = ();

    fn id(&self) -> String {
        self.device.to_string()
    }

    async fn write(store: &Store, rows: &[Self]) -> Result<Vec<()>, StoreError> {
        store.record_births(rows).await.map(|()| vec![(); rows.len()])
    }
}

impl Row for (DeviceId, OffsetDateTime) {
    const NAMES: &str = "signs of life";
    type Outcome = ();

    fn id(&self) -> String {
        self.0.to_string()
    }

    async fn write(store: &Store, rows: &[Self]) -> Result<Vec<()>, StoreError> {
        store.record_seen(rows).await.map(|()| vec![(); rows.len()])
    }
}

impl Row for Step {
    const NAMES: &str = "moves of tasks";
    type Outcome = StepOutcome;

    fn id(&self) -> String {
        self.attempt.to_string()
    }

    async fn write(store: &Store, rows: &[Self]) -> Result<Vec<StepOutcome>, StoreError> {
        store.apply(rows).await
    }
}

impl Row for TaskId {
    const NAMES: &str = "pings";
    type Outcome = ();

    fn id(&self) -> String {
        self.to_string()
    }

    async fn write(store: &Store, rows: &[Self]) -> Result<Vec<()>, StoreError> {
        store.record_pings(rows).await.map(|()| vec![(); rows.len()])
    }
}

impl Row for Seal {
    const NAMES: &str = "bundles";
    type Outcome = StepOutcome;

    fn id(&self) -> String {
        self.step.attempt.to_string()
    }

    async fn write(store: &Store, rows: &[Self]) -> Result<Vec<StepOutcome>, StoreError> {
        store.seal(rows).await
    }
}

impl Writer {
    /// Runs until the queue closes or `stop`.
    pub(crate) async fn run(self, mut queue: Queue<Change>, stop: CancellationToken) {
        let mut noted: HashMap<DeviceId, Instant> = HashMap::new();
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
                    Some(change) => Some(change),
                    None if Instant::now() < next_commit => tokio::time::timeout_at(next_commit, queue.recv()).await.ok().flatten(),
                    None => None,
                };
                match change {
                    Some(change) => batch.push(change),
                    None => break,
                }
            }
            next_commit = Instant::now() + self.options.flush_every;
            // Only news are worth a row: a busy device would be written once per message otherwise.
            let now = Instant::now();
            batch.seen.retain(|device, _| noted.get(device).is_none_or(|at| now - *at >= SEEN_EVERY));
            if noted.len() > MAX_SEEN {
                noted.clear();
            }
            noted.extend(batch.seen.keys().map(|device| (device.clone(), now)));
            for birth in batch.births.iter().filter(|birth| !birth.presence.online) {
                noted.remove(&birth.device);
            }
            self.commit(batch, &stop).await;
        }
    }

    async fn commit(&self, batch: Batch, stop: &CancellationToken) {
        let Batch { steps, thens, seals, seal_thens, births, birth_acks, seen } = batch;
        metrics::histogram!("muster_apply_batch_size").record(steps.len() as f64);
        let seen: Vec<_> = seen.into_iter().collect();
        let Some(_) = self.persist(&births, stop).await else { return };
        let Some(_) = self.persist(&seen, stop).await else { return };
        for ack in birth_acks {
            ack.done();
        }
        let came_online = births.iter().any(|birth| birth.presence.online);
        self.written.births.fetch_add(births.len() as u64, Ordering::Relaxed);
        let mut freed = false;
        if !steps.is_empty() {
            let Some(outcomes) = self.persist(&steps, stop).await else { return };
            let pings = self.ended_pings(&steps, &outcomes);
            freed |= self.conclude(steps.iter(), outcomes, thens);
            // What a ping measured is a note beside the task: were it lost, the next ping measures again.
            let Some(_) = self.persist(&pings, stop).await else { return };
        }
        if !seals.is_empty() {
            let Some(outcomes) = self.persist(&seals, stop).await else { return };
            freed |= self.conclude(seals.iter().map(|seal| &seal.step), outcomes, seal_thens);
        }
        if came_online || freed {
            self.wake.outbound();
        }
    }

    /// Pings that ended with this batch.
    fn ended_pings(&self, steps: &[Step], outcomes: &[Option<StepOutcome>]) -> Vec<TaskId> {
        let ended = steps.iter().zip(outcomes).filter(|(step, outcome)| {
            **outcome == Some(StepOutcome::Applied) && matches!(step.to, TaskState::Verified | TaskState::Failed)
        });
        let tasks = ended.map(|(step, _)| step.attempt.task());
        tasks.filter(|task| self.works.get(task.collection()).is_some_and(|work| work.work == Work::Ping)).collect()
    }

    /// After the commit: counts, frees places in the window, acknowledges, tells. True when a place came free. A step without an outcome was
    /// dropped: its message is acknowledged, for it will not get better, and its task stays where it is until its lease ends.
    fn conclude<'a>(&self, steps: impl Iterator<Item = &'a Step>, outcomes: Vec<Option<StepOutcome>>, thens: Vec<(bool, Then)>) -> bool {
        self.written.batches.fetch_add(1, Ordering::Relaxed);
        let mut freed = false;
        let mut ended: HashSet<CollectionId> = HashSet::new();
        for ((step, outcome), (leaves_device, then)) in steps.zip(outcomes).zip(thens) {
            if let Some(outcome) = &outcome {
                self.count(step, outcome);
            }
            if leaves_device && outcome == Some(StepOutcome::Applied) {
                freed = true;
                self.window.ended(step.attempt.task().collection(), 1);
            }
            if step.to.is_final() && outcome == Some(StepOutcome::Applied) {
                ended.insert(step.attempt.task().collection());
            }
            match (then, outcome) {
                (Then::Ack(ack), _) => ack.done(),
                (Then::Tell(tell), Some(outcome)) => drop(tell.send(outcome)),
                (Then::Tell(_), None) | (Then::Nothing, _) => {}
            }
        }
        if !ended.is_empty() {
            self.wake.steering();
        }
        // With requests out it goes on; without, this may have been its last task.
        if ended.into_iter().any(|collection| self.window.is_idle(collection)) {
            self.wake.ended();
        }
        freed
    }

    fn count(&self, step: &Step, outcome: &StepOutcome) {
        let (counter, label) = match outcome {
            StepOutcome::Applied => (&self.written.applied, "applied"),
            StepOutcome::Repeated => (&self.written.repeated, "repeated"),
            StepOutcome::Superseded { .. } => (&self.written.superseded, "superseded"),
            StepOutcome::WrongDevice | StepOutcome::UnknownTask => (&self.written.strangers, "stranger"),
            StepOutcome::NotAllowed => (&self.written.superseded, "not_allowed"),
        };
        counter.fetch_add(1, Ordering::Relaxed);
        metrics::counter!("muster_task_moves_total", "to" => step.to.as_str(), "outcome" => label).increment(1);
        if matches!(outcome, StepOutcome::WrongDevice) {
            tracing::warn!(attempt = %step.attempt, device.id = step.device.as_ref().map(DeviceId::as_str), "an answer for another device's task was ignored");
        }
    }

    /// Tries until all rows are written, and gives up only on shutdown: then `None`. A row that the database refuses has no outcome.
    async fn persist<R: Row>(&self, rows: &[R], stop: &CancellationToken) -> Option<Vec<Option<R::Outcome>>> {
        let mut outcomes = Vec::with_capacity(rows.len());
        let mut waiting = vec![rows];
        let mut wait = RETRY_FIRST;
        while let Some(rows) = waiting.pop() {
            let error = match R::write(&self.store, rows).await {
                Ok(written) => {
                    outcomes.extend(written.into_iter().map(Some));
                    wait = RETRY_FIRST;
                    continue;
                }
                Err(error) => error,
            };
            if error.is_about_a_row() {
                match rows {
                    [row] => {
                        outcomes.push(None);
                        self.dropped(row, &error);
                    }
                    _ => {
                        // The earlier half first: the steps of a task keep their order.
                        let (earlier, later) = rows.split_at(rows.len() / 2);
                        waiting.extend([later, earlier]);
                    }
                }
                continue;
            }
            self.written.retries.fetch_add(1, Ordering::Relaxed);
            metrics::counter!("muster_database_retries_total").increment(1);
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                transient = error.is_transient(),
                "could not write {}; trying again",
                R::NAMES
            );
            waiting.push(rows);
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = stop.cancelled() => return None,
            }
            wait = (wait * 2).min(RETRY_MAX);
        }
        Some(outcomes)
    }

    fn dropped<R: Row>(&self, row: &R, error: &StoreError) {
        metrics::counter!("muster_rows_dropped_total").increment(1);
        // As with refused messages: a hostile peer must not fill the disk with our words about it.
        if self.written.dropped.fetch_add(1, Ordering::Relaxed).is_power_of_two() {
            tracing::error!(
                error = error as &dyn std::error::Error,
                row = row.id(),
                "the database refuses one of the {}; it was dropped",
                R::NAMES
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use muster_store::StoreOptions;
    use muster_wire::{CollectionId, Reason, TaskState};

    use super::*;

    async fn writer(directory: &tempfile::TempDir) -> Writer {
        let url = format!("sqlite://{}", directory.path().join("muster.db").display());
        let store = Store::connect(&StoreOptions::new(&url)).await.expect("a fresh database opens");
        store.migrate().await.expect("a fresh database takes the schema");
        Writer {
            works: Arc::new(OpenWorks::default()),
            store,
            options: Arc::new(DispatchOptions::default()),
            window: Arc::new(Window::default()),
            wake: Wake::default(),
            written: Arc::new(Written::default()),
        }
    }

    #[tokio::test]
    async fn a_row_the_store_refuses_takes_nobody_with_it() {
        let directory = tempfile::tempdir().expect("a private directory");
        let writer = writer(&directory).await;
        let written = writer.written.clone();
        let stop = CancellationToken::new();
        let (applier, changes) = Applier::new(16, Arc::new(OpenWorks::default()));
        let running = tokio::spawn(writer.run(changes, stop.clone()));
        let collection = CollectionId::new();
        let step = |place: u32, to| Step::new(collection.task(place).attempt(1), to, OffsetDateTime::now_utc()).because(Reason::NoAnswer);
        let places: Vec<_> = (0..7).map(|place| (place, if place == 3 { TaskState::Dispatched } else { TaskState::Failed })).collect();
        let told = places.iter().map(|&(place, to)| applier.apply(step(place, to), true));
        let told = tokio::time::timeout(Duration::from_secs(20), futures_util::future::join_all(told)).await.expect("the writer is stuck");
        for (place, outcome) in told.into_iter().enumerate() {
            assert_eq!(outcome, (place != 3).then_some(StepOutcome::UnknownTask), "step {place}");
        }
        assert_eq!(written.dropped.load(Ordering::Relaxed), 1);
        assert_eq!(written.retries.load(Ordering::Relaxed), 0, "a refusal is not waited for");
        stop.cancel();
        drop(applier);
        running.await.expect("the writer ends");
    }

    #[tokio::test]
    async fn an_answer_a_second_is_not_a_row_a_second() {
        let directory = tempfile::tempdir().expect("a private directory");
        let writer = writer(&directory).await;
        let store = writer.store.clone();
        let stop = CancellationToken::new();
        let (applier, changes) = Applier::new(16, Arc::new(OpenWorks::default()));
        let running = tokio::spawn(writer.run(changes, stop.clone()));
        let device: DeviceId = "press-0042".parse().expect("an id");
        let first = OffsetDateTime::from_unix_timestamp(1_764_000_000).expect("a time");
        for second in 0..3 {
            applier.send(Change::Seen { device: device.clone(), at: first + Duration::from_secs(second) }).await;
            // In a batch of its own, or the last of a batch would be the only one told of.
            tokio::time::sleep(DispatchOptions::default().flush_every * 3).await;
        }
        stop.cancel();
        drop(applier);
        running.await.expect("the writer ends");
        assert_eq!(store.device(&device).await.expect("a read").expect("there").last_seen, Some(first));
    }
}
