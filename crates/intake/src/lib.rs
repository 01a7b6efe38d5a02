//! All between an alert and a collection.
//!
//! ```text
//!  RabbitMQ ──► amqp ────────────┐
//!  HTTP ──► desk ──► gather ─────┼──► inbox: parse ─► take_alerts (one transaction) ─► poke
//!  devices (MQTT) ──► gather ────┘              └──► park
//! ```
//!
//! * `inbox`: the one way in, whatever filled it. What it has returned is committed; only then is anything acknowledged or answered.
//! * `gather`: messages that come one by one share transactions.
//! * `amqp`: the queue at RabbitMQ, its dead letters, and the trouble of connections.
//!
//! What is decided about an alert is the store's business; here is only how it gets there and how its sender hears of it.

pub mod amqp;
mod backoff;
mod gather;
mod inbox;
mod incoming;
mod ledger;

use std::time::Duration;

use muster_store::{AlertLimits, Store};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use amqp::{AmqpOptions, AmqpState};
pub use gather::{Desk, FromDevice, NotTaken, POSTED_WAITING, device_rules};
pub use inbox::{Inbox, Poke};
pub use incoming::{Incoming, MAX_PARKED_ATTRIBUTES, MAX_PARKED_TEXT_BYTES, Settled};
pub use ledger::Ledger;

/// How often what was deferred is looked at.
const DUE_EVERY: Duration = Duration::from_secs(1);

/// Settings of the intake.
#[derive(Debug, Clone)]
pub struct IntakeOptions {
    /// What the settings say about decisions.
    pub limits: AlertLimits,
    /// Types of events taken from devices themselves.
    pub types: Vec<String>,
    /// The queue at RabbitMQ, where there is one.
    pub amqp: Option<AmqpOptions>,
}

/// The running intake.
pub struct Intake<L = Store> {
    inbox: Inbox<L>,
    desk: Desk,
    types: Vec<String>,
    amqp: Option<AmqpState>,
    tasks: TaskTracker,
    /// Of all that comes without anybody waiting for an answer.
    sources: CancellationToken,
    /// Of the rest.
    stop: CancellationToken,
}

impl<L: Ledger> Intake<L> {
    /// Starts all sources but the devices. Returns at once; a broker or database that is away is waited for.
    pub fn start(options: IntakeOptions, ledger: L, poke: Poke) -> Self {
        let inbox = Inbox::new(ledger, options.limits, poke);
        let (tasks, sources, stop) = (TaskTracker::new(), CancellationToken::new(), CancellationToken::new());
        let (posting, posted) = mpsc::channel(POSTED_WAITING);
        tasks.spawn(gather::posted(inbox.clone(), posted, stop.clone()));
        tasks.spawn(decide_due(inbox.clone(), sources.clone()));
        let amqp = options.amqp.map(|amqp| {
            let state = AmqpState::new();
            tasks.spawn(amqp::keep(amqp, inbox.clone(), state.clone(), sources.clone()));
            state
        });
        Self { inbox, desk: Desk(posting), types: options.types, amqp, tasks, sources, stop }
    }

    /// Takes alerts of devices from here as well; `open` makes of each what the intake needs.
    pub fn take_from_devices<T: Send + 'static>(&self, alerts: mpsc::Receiver<T>, open: impl Fn(T) -> FromDevice + Send + 'static) {
        self.tasks.spawn(gather::from_devices(self.inbox.clone(), self.types.clone(), alerts, open, self.sources.clone()));
    }

    /// Where single messages are posted.
    pub fn desk(&self) -> Desk {
        self.desk.clone()
    }

    /// How the queue at RabbitMQ stands, where there is one.
    pub fn amqp(&self) -> Option<AmqpState> {
        self.amqp.clone()
    }

    /// Takes nothing more from the queue and from devices; who waits for an answer is still served.
    pub fn close_sources(&self) {
        self.sources.cancel();
    }

    /// Stops: nothing new is taken, what was taken is settled. What takes longer than `patience` comes again to whoever is next.
    pub async fn stop(self, patience: Duration) {
        self.sources.cancel();
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(patience, self.tasks.wait()).await.is_err() {
            tracing::warn!("some alerts were not settled in time; they come again");
        }
    }
}

/// Decides again what was deferred, each second.
async fn decide_due<L: Ledger>(inbox: Inbox<L>, stop: CancellationToken) {
    let mut failures: u64 = 0;
    loop {
        tokio::select! {
            () = tokio::time::sleep(DUE_EVERY) => {}
            () = stop.cancelled() => return,
        }
        match inbox.decide_due().await {
            Ok(()) => failures = 0,
            Err(error) => {
                failures += 1;
                // The first, second, fourth … in a row.
                if failures.is_power_of_two() {
                    tracing::warn!(%error, cause = ?std::error::Error::source(&error), failures, "deferred alerts cannot be decided; retrying");
                }
            }
        }
    }
}
