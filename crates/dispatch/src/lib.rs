//! All that moves a task: the MQTT session and the loops around it.
//!
//! ```text
//!            ┌────────── pokes ───────────┐
//!  scan ─────┤                            ▼
//!  (clock)   │        claim         outbound ──► session ──► broker ──► devices
//!            ▼                            ▲          │
//!  looks ◄── leases            room ──────┘          ▼
//!    │   ▲                                        inbound
//!    │   └──────────── "Completed", results ─────────┤
//!    ▼                                               │ answers, births
//!  judge ── moves ──►  apply (batches, commit, acknowledge) ◄┘
//! ```
//!
//! * `session`: one persistent MQTT 5 session; nothing is acknowledged before it is committed.
//! * `outbound`: claims queued tasks in batches; `dispatched` is written before the first byte leaves.
//! * `inbound`: parses what devices say and lets `muster_domain::event::decide` decide.
//! * `look` and `judge`: the inbox is the evidence; whoever moves a task to `uploaded` judges it.
//! * `scan`: reads the database at intervals; every loop is poked *and* runs on a timer, with one path for the happy case and for recovery.
//! * `steering`: lets the rules of `muster_domain::rollout` look at each collection, and pauses or stops it.
//! * `apply`: the one writer.
//! * `growth` and `matching`: who joins a standing collection, and whose answer gives reason for the next step.
//! * `consent`: what is left to do when a consent has ended; and the question to the records that stands before a grant and before a seal.
//! * `clock`: log windows as the clock of a device shows them.
//!
//! Whatever queues has a lane per priority (`lane`): what somebody waits for does not stand behind a batch.
//!
//! All state that matters is in the database. What is held in memory (room in the window, open polls, sweep cursors) only paces.

mod alert;
mod apply;
mod clock;
mod consent;
mod growth;
mod inbound;
mod judge;
mod lane;
mod look;
mod matching;
mod message;
mod options;
mod outbound;
mod poll;
mod request;
mod scan;
mod session;
mod status;
mod steering;
mod wake;
mod window;
mod work;

pub use alert::DeviceAlert;
pub use options::{DispatchOptions, MqttOptions};
pub use request::payload as request_payload;
pub use session::{Ack, MAX_PACKET_BYTES, RECEIVE_MAXIMUM, SessionError};
pub use status::{DispatchStatus, LoopReports};

use std::sync::Arc;
use std::time::Duration;

use muster_landing::Landing;
use muster_store::Store;
use muster_wire::CollectionId;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use apply::{Applier, Writer};
use consent::Withdrawals;
use growth::Growth;
use inbound::Inbound;
use lane::Lanes;
use look::{Looker, Looks};
use outbound::Outbound;
use scan::Scan;
use session::Session;
use status::Counters;
use steering::Steering;
use wake::Wake;
use window::Window;
use work::OpenWorks;

/// Messages parsed and not yet decided on. Small: what waits before it waits at the broker.
const DELIVERIES: usize = 1024;

/// The running loops.
pub struct Dispatch {
    handle: DispatchHandle,
    /// First the loops that begin work, then the writer, then the session, so that what is decided is committed and acknowledged.
    loops: Stage,
    writer: Stage,
    session: Stage,
}

/// Tasks that are stopped together.
struct Stage {
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Stage {
    fn new() -> Self {
        Self { tasks: TaskTracker::new(), stop: CancellationToken::new() }
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// For everybody else: poke, and read how it goes.
#[derive(Clone)]
pub struct DispatchHandle {
    wake: Wake,
    works: Arc<OpenWorks>,
    session: Session,
    counters: Counters,
    window: Arc<Window>,
    looks: Looks,
}

impl Dispatch {
    /// Starts all loops. Returns at once; a broker or database that is away is waited for. `alerts` takes what devices raise; without it the
    /// broker is not asked for alerts.
    ///
    /// # Errors
    /// [`SessionError`] when the broker's settings make no sense.
    pub fn start(
        options: DispatchOptions,
        store: Store,
        landing: Landing,
        alerts: Option<mpsc::Sender<DeviceAlert>>,
    ) -> Result<Self, SessionError> {
        let options = Arc::new(options);
        let (delivery_sender, deliveries) = mpsc::channel(DELIVERIES);
        let (session, driver) = session::prepare(&options.mqtt, alerts.is_some(), delivery_sender)?;
        let (wake, window, works) = (Wake::default(), Arc::new(Window::default()), Arc::new(OpenWorks::default()));
        let (applier, changes) = Applier::new(options.apply_batch * 4, works.clone());
        let (looks, jobs) = Looks::new(works.clone());
        let (polls, counters) = (Arc::new(poll::Polls::default()), Counters::default());
        let handle = DispatchHandle {
            wake: wake.clone(),
            works: works.clone(),
            session: session.clone(),
            counters: counters.clone(),
            window: window.clone(),
            looks: looks.clone(),
        };

        let write = Writer {
            store: store.clone(),
            options: options.clone(),
            works: works.clone(),
            window: window.clone(),
            wake: wake.clone(),
            written: counters.written.clone(),
        };
        let inbound = Inbound {
            store: store.clone(),
            options: options.clone(),
            session: session.clone(),
            applier: applier.clone(),
            looks: looks.clone(),
            polls: polls.clone(),
            works: works.clone(),
            received: counters.received.clone(),
            alerts,
        };
        let looker = || Looker {
            store: store.clone(),
            landing: landing.clone(),
            options: options.clone(),
            session: session.clone(),
            applier: applier.clone(),
            polls: polls.clone(),
            works: works.clone(),
            judging: Arc::new(Semaphore::new(options.verify_parallel)),
        };
        let outbound = |lane| Outbound {
            lane,
            store: store.clone(),
            landing: landing.clone(),
            options: options.clone(),
            session: session.clone(),
            applier: applier.clone(),
            works: works.clone(),
            looks: looks.clone(),
            window: window.clone(),
            wake: wake.clone(),
            sent: counters.sent.clone(),
        };
        let steering = Steering {
            store: store.clone(),
            options: options.clone(),
            works: works.clone(),
            wake: wake.clone(),
            steered: counters.steered.clone(),
        };
        let scan = Scan {
            store: store.clone(),
            options: options.clone(),
            works: works.clone(),
            window: window.clone(),
            looks: looks.clone(),
            growth: Growth::new(store.clone()),
            wake: wake.clone(),
            scanned: counters.scanned.clone(),
        };

        let withdrawals = Withdrawals { store: store.clone(), landing: landing.clone(), options: options.clone(), wake: wake.clone() };

        let (loop_stage, writer_stage, session_stage) = (Stage::new(), Stage::new(), Stage::new());
        session_stage.spawn(session::run(driver, session_stage.stop.clone()));
        writer_stage.spawn(write.run(changes, writer_stage.stop.clone()));
        loop_stage.spawn(inbound.run(deliveries, loop_stage.stop.clone()));
        for jobs in jobs.into_all() {
            loop_stage.spawn(looker().run(jobs, loop_stage.stop.clone()));
        }
        for lane in Lanes::<()>::ORDER {
            loop_stage.spawn(outbound(lane).run(loop_stage.stop.clone()));
        }
        loop_stage.spawn(works.clone().follow(store.clone(), wake.clone(), loop_stage.stop.clone()));
        loop_stage.spawn(withdrawals.run(loop_stage.stop.clone()));
        loop_stage.spawn(steering.run(loop_stage.stop.clone()));
        loop_stage.spawn(scan.run(loop_stage.stop.clone()));
        Ok(Self { handle, loops: loop_stage, writer: writer_stage, session: session_stage })
    }

    /// For everybody else.
    pub fn handle(&self) -> DispatchHandle {
        self.handle.clone()
    }

    /// Stops: no new work, what is being judged is finished, what is decided is committed and acknowledged, then the session ends. What
    /// takes longer than `patience` is left to its lease.
    pub async fn stop(self, patience: Duration) {
        let stages = [&self.loops, &self.writer, &self.session];
        let in_order = async {
            for stage in stages {
                stage.stop().await;
            }
        };
        if tokio::time::timeout(patience, in_order).await.is_err() {
            tracing::warn!("some work did not end in time; its leases bring it back");
            for stage in stages {
                stage.stop.cancel();
            }
        }
    }
}

impl DispatchHandle {
    /// These are new, or were paused, resumed, cancelled or run again, or lost a consent: the loops look at them now.
    pub fn poke(&self, collections: impl IntoIterator<Item = CollectionId>) {
        self.works.tell(collections);
        self.wake.withdrawals();
        self.wake.works();
        self.wake.ended();
    }

    /// How it goes.
    pub fn status(&self) -> DispatchStatus {
        self.counters.status(&self.session, &self.window, &self.looks)
    }
}
