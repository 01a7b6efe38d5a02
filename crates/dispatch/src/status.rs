//! What the loops report, as one typed page.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use crate::apply::Written;
use crate::inbound::Received;
use crate::look::Looks;
use crate::outbound::Sent;
use crate::scan::Scanned;
use crate::session::Session;
use crate::steering::Steered;
use crate::window::Window;

/// How the dispatcher is doing.
#[derive(Debug, Clone, Serialize)]
pub struct DispatchStatus {
    /// Whether the broker is there.
    pub mqtt_connected: bool,
    /// How often a connection was made since the start.
    pub mqtt_connections: u64,
    /// Publishes the broker refused.
    pub mqtt_publishes_refused: u64,
    /// Requests with devices, by the last scan and since.
    pub in_flight: u32,
    /// Looks waiting.
    pub looks_waiting: usize,
    /// Per loop, since the start.
    pub loops: LoopReports,
}

/// What each loop did since the start.
#[derive(Debug, Clone, Serialize)]
pub struct LoopReports {
    /// Tasks claimed.
    pub claimed: u64,
    /// Requests sent.
    pub sent: u64,
    /// Tasks put back because no inbox could be opened.
    pub put_back: u64,
    /// Answers received.
    pub answers: u64,
    /// Task reports received.
    pub reports: u64,
    /// Births and wills received.
    pub presences: u64,
    /// Messages outside the contract.
    pub refused: u64,
    /// Answers to nothing that is open.
    pub unasked: u64,
    /// Transactions with moves of tasks.
    pub batches: u64,
    /// Moves applied.
    pub applied: u64,
    /// Moves that had been applied before.
    pub repeated: u64,
    /// Moves of an attempt or state that is no longer current.
    pub superseded: u64,
    /// Moves from a device that does not have the task, or of no task.
    pub strangers: u64,
    /// Births and wills recorded.
    pub births: u64,
    /// Writes that had to be tried again.
    pub database_retries: u64,
    /// Rows the database refused; they were dropped.
    pub dropped: u64,
    /// Scans made.
    pub scans: u64,
    /// Tasks whose lease ended without news.
    pub silent: u64,
    /// Uploads taken over for judging.
    pub unjudged: u64,
    /// Tasks expired.
    pub expired: u64,
    /// Collections finished.
    pub finished: u64,
    /// Stages passed.
    pub stages: u64,
    /// Collections that paused themselves.
    pub paused: u64,
    /// Collections that stopped themselves.
    pub aborted: u64,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Counters {
    pub(crate) sent: Arc<Sent>,
    pub(crate) received: Arc<Received>,
    pub(crate) written: Arc<Written>,
    pub(crate) scanned: Arc<Scanned>,
    pub(crate) steered: Arc<Steered>,
}

impl Counters {
    pub(crate) fn status(&self, session: &Session, window: &Window, looks: &Looks) -> DispatchStatus {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (sent, received, written) = (&self.sent, &self.received, &self.written);
        let (scanned, steered) = (&self.scanned, &self.steered);
        DispatchStatus {
            mqtt_connected: session.is_connected(),
            mqtt_connections: session.connections(),
            mqtt_publishes_refused: session.refused_publishes(),
            in_flight: window.total(),
            looks_waiting: looks.waiting(),
            loops: LoopReports {
                claimed: read(&sent.claimed),
                sent: read(&sent.sent),
                put_back: read(&sent.put_back),
                answers: read(&received.answers),
                reports: read(&received.reports),
                presences: read(&received.presences),
                refused: read(&received.refused),
                unasked: read(&received.unasked),
                batches: read(&written.batches),
                applied: read(&written.applied),
                repeated: read(&written.repeated),
                superseded: read(&written.superseded),
                strangers: read(&written.strangers),
                births: read(&written.births),
                database_retries: read(&written.retries),
                dropped: read(&written.dropped),
                scans: read(&scanned.scans),
                silent: read(&scanned.silent),
                unjudged: read(&scanned.unjudged),
                expired: read(&scanned.expired),
                finished: read(&scanned.finished),
                stages: read(&steered.stages),
                paused: read(&steered.paused),
                aborted: read(&steered.aborted),
            },
        }
    }
}
