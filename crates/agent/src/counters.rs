//! What the devices of this process have done, counted where it happens.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use serde::Serialize;

/// Counters of all devices of one process.
#[derive(Debug, Default)]
pub struct Counters {
    connected: AtomicI64,
    connects: AtomicU64,
    requests: AtomicU64,
    repeated: AtomicU64,
    ignored: AtomicU64,
    refused: AtomicU64,
    answers: AtomicU64,
    statuses: AtomicU64,
    alerts: AtomicU64,
    dropped: AtomicU64,
    refused_by_broker: AtomicU64,
    uploads_started: AtomicU64,
    uploads_completed: AtomicU64,
    uploads_failed: AtomicU64,
    bytes_uploaded: AtomicU64,
    max_bundles_at_once: AtomicU64,
    max_bundle_uploads_at_once: AtomicU64,
}

/// The counters at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Devices connected now.
    pub connected: u64,
    /// Connections made since the start.
    pub connects: u64,
    /// Requests taken, repeated ones included.
    pub requests: u64,
    /// Requests that had come before: answered from memory, nothing started.
    pub repeated: u64,
    /// Messages that may not be answered: forged topics, foreign response topics.
    pub ignored: u64,
    /// Requests answered with anything but 200.
    pub refused: u64,
    /// Answers sent.
    pub answers: u64,
    /// Task statuses sent.
    pub statuses: u64,
    /// Alerts raised.
    pub alerts: u64,
    /// Messages that could not be sent: too large for the broker, or pushed out of a full queue.
    pub dropped: u64,
    /// Messages the broker refused, for lack of permission as a rule.
    pub refused_by_broker: u64,
    /// Uploads begun.
    pub uploads_started: u64,
    /// Uploads that ended as Completed.
    pub uploads_completed: u64,
    /// Uploads that ended in any other way.
    pub uploads_failed: u64,
    /// Bytes of all objects written.
    pub bytes_uploaded: u64,
    /// Most bundles any one device was asked for at once: requests that had not ended when one more came, itself included. 1 is as it should be.
    pub max_bundles_at_once: u64,
    /// Most bundles any one device uploaded at once; a device takes turns, so this is 1 or the device is broken.
    pub max_bundle_uploads_at_once: u64,
}

impl Counters {
    pub(crate) fn connected(&self) {
        self.connected.fetch_add(1, Relaxed);
        self.connects.fetch_add(1, Relaxed);
    }

    pub(crate) fn disconnected(&self) {
        self.connected.fetch_sub(1, Relaxed);
    }

    pub(crate) fn request(&self) {
        self.requests.fetch_add(1, Relaxed);
    }

    pub(crate) fn repeated(&self) {
        self.repeated.fetch_add(1, Relaxed);
    }

    pub(crate) fn ignored(&self) {
        self.ignored.fetch_add(1, Relaxed);
    }

    pub(crate) fn answered(&self, status: u16) {
        self.answers.fetch_add(1, Relaxed);
        if status != 200 {
            self.refused.fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn status(&self) {
        self.statuses.fetch_add(1, Relaxed);
    }

    pub(crate) fn alert(&self) {
        self.alerts.fetch_add(1, Relaxed);
    }

    pub(crate) fn dropped(&self) {
        self.dropped.fetch_add(1, Relaxed);
    }

    pub(crate) fn refused_by_broker(&self) {
        self.refused_by_broker.fetch_add(1, Relaxed);
    }

    pub(crate) fn upload_started(&self) {
        self.uploads_started.fetch_add(1, Relaxed);
    }

    pub(crate) fn upload_ended(&self, completed: bool) {
        if completed { &self.uploads_completed } else { &self.uploads_failed }.fetch_add(1, Relaxed);
    }

    pub(crate) fn uploaded(&self, bytes: u64) {
        self.bytes_uploaded.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn bundles_asked_at_once(&self, count: usize) {
        self.max_bundles_at_once.fetch_max(count as u64, Relaxed);
    }

    pub(crate) fn bundle_uploads_at_once(&self, count: u32) {
        self.max_bundle_uploads_at_once.fetch_max(count.into(), Relaxed);
    }

    /// All of them now.
    pub fn stats(&self) -> Stats {
        Stats {
            connected: u64::try_from(self.connected.load(Relaxed)).unwrap_or(0),
            connects: self.connects.load(Relaxed),
            requests: self.requests.load(Relaxed),
            repeated: self.repeated.load(Relaxed),
            ignored: self.ignored.load(Relaxed),
            refused: self.refused.load(Relaxed),
            answers: self.answers.load(Relaxed),
            statuses: self.statuses.load(Relaxed),
            alerts: self.alerts.load(Relaxed),
            dropped: self.dropped.load(Relaxed),
            refused_by_broker: self.refused_by_broker.load(Relaxed),
            uploads_started: self.uploads_started.load(Relaxed),
            uploads_completed: self.uploads_completed.load(Relaxed),
            uploads_failed: self.uploads_failed.load(Relaxed),
            bytes_uploaded: self.bytes_uploaded.load(Relaxed),
            max_bundles_at_once: self.max_bundles_at_once.load(Relaxed),
            max_bundle_uploads_at_once: self.max_bundle_uploads_at_once.load(Relaxed),
        }
    }
}
