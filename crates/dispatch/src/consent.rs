//! Consent that ended. The store ends the tasks in the transaction that records the end; what is left is here: inboxes to be closed, so that
//! no grant for them works any more, and objects of uploads that were not complete to be removed. It is on record until it is done, so any
//! controller goes on where another one died.
//!
//! Times after a withdrawal: no new request at once; what was queued or under way is cancelled at once, or at the next sweep where a claim
//! and the withdrawal met; grants are unusable and objects gone with the first look, within a scan or two.

use std::sync::Arc;
use std::time::Duration;

use muster_landing::{InboxListing, Landing, LandingError};
use muster_store::{AuditLine, AuditWhat, Cleanup, Store, StoreError};
use muster_wire::http::ConsentKind;
use muster_wire::{AttemptId, DeviceId};
use time::OffsetDateTime;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::DispatchOptions;
use crate::wake::Wake;
use crate::work::OpenWork;

/// How often tasks are looked through whose consent may have ended without anybody ending it: it ran out, the registry changed, a claim and
/// a withdrawal met. A running task is stopped within a minute.
const SWEEP_EVERY: Duration = Duration::from_secs(15);
/// How long one controller has for what it took.
const CLEANUP_LEASE: Duration = Duration::from_secs(60);

pub(crate) struct Withdrawals {
    pub(crate) store: Store,
    pub(crate) landing: Landing,
    pub(crate) options: Arc<DispatchOptions>,
    pub(crate) wake: Wake,
}

impl Withdrawals {
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut next_sweep = Instant::now();
        loop {
            if Instant::now() >= next_sweep {
                next_sweep = Instant::now() + SWEEP_EVERY;
                self.sweep().await;
            }
            if let Err(error) = self.clean_up().await {
                tracing::warn!(error = &error as &dyn std::error::Error, "could not clean up after a withdrawal; trying again");
            }
            tokio::select! {
                () = tokio::time::sleep(self.options.scan_every) => {}
                () = self.wake.withdrawals_poked() => {}
                () = stop.cancelled() => return,
            }
        }
    }

    async fn sweep(&self) {
        if let Ok(waiting) = self.store.cleanups_waiting().await {
            metrics::gauge!("muster_consent_cleanups_waiting").set(waiting as f64);
        }
        match self.store.end_unconsented(ConsentKind::Proactive, OffsetDateTime::now_utc()).await {
            Ok(0) => {}
            Ok(tasks) => {
                tracing::info!(tasks, "tasks were cancelled: their consent has ended");
                self.wake.ended();
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "could not look for tasks without consent; trying again");
            }
        }
    }

    async fn clean_up(&self) -> Result<(), StoreError> {
        loop {
            let now = OffsetDateTime::now_utc();
            let due = self.store.take_cleanups(now, now + CLEANUP_LEASE).await?;
            if due.is_empty() {
                return Ok(());
            }
            self.wake.ended();
            for cleanup in due {
                match self.remove(&cleanup).await {
                    Ok(()) => self.store.cleaned_up(&cleanup, OffsetDateTime::now_utc()).await?,
                    Err(Unremoved::Store(error)) => return Err(error),
                    Err(Unremoved::Landing(error)) => {
                        let attempt = cleanup.attempt;
                        tracing::warn!(%attempt, error = &error as &dyn std::error::Error, "could not remove an upload without consent; trying again");
                    }
                }
            }
        }
    }

    /// First on record, then done: closes the inbox and removes what was sealed of an attempt that never became a bundle.
    async fn remove(&self, cleanup: &Cleanup) -> Result<(), Unremoved> {
        let attempt = cleanup.attempt;
        let listing = match self.landing.list_inbox(attempt).await {
            Ok(listing) => Some(listing),
            Err(LandingError::InboxNotFound { .. }) => None,
            // More than is listed: the inbox goes as a whole.
            Err(error) if error.is_permanent() => Some(InboxListing { objects: Vec::new(), begun: true, refused_names: 0 }),
            Err(error) => return Err(error.into()),
        };
        let sealed = self.landing.list_sealed(attempt).await?;
        let objects =
            listing.iter().flat_map(|listing| &listing.objects).map(|object| (format!("inbox/{}", object.name), object.size_bytes));
        let objects = objects.chain(sealed.iter().map(|object| (format!("sealed/{}", object.name), object.size_bytes)));
        let now = OffsetDateTime::now_utc();
        let about = |what| AuditLine { attempt: Some(attempt), ..AuditLine::about(what, cleanup.kind, cleanup.device.clone(), now) };
        let mut lines: Vec<AuditLine> = objects
            .map(|(name, bytes)| AuditLine {
                object: Some(name),
                detail: Some(format!("{bytes} bytes; consent ended before the upload was complete")),
                ..about(AuditWhat::ObjectRemoved)
            })
            .collect();
        let nothing = listing.as_ref().is_none_or(|listing| listing.objects.is_empty() && !listing.begun && listing.refused_names == 0);
        if listing.is_some() {
            let left = if nothing { "it was empty" } else { "what had been uploaded is removed with it" };
            lines.push(AuditLine { detail: Some(left.to_owned()), ..about(AuditWhat::InboxClosed) });
        }
        self.store.record_audit(&lines).await?;
        // Also where nothing was listed: an inbox that is not there yet could be opened by a request that is on its way right now.
        self.landing.close_inbox(attempt).await?;
        self.landing.delete_sealed(attempt).await?;
        Ok(())
    }
}

#[derive(Debug, thiserror::Error)]
enum Unremoved {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Landing(#[from] LandingError),
}

/// What the records say now of a device that a collection is about to ask, or whose upload is about to be sealed.
pub(crate) enum Held {
    /// It may go on, under this decision; without one where the collection needs none.
    Granted(Option<muster_wire::ConsentId>),
    /// Not now, and perhaps later.
    Suspended,
    /// No.
    Gone(String),
}

/// Asks the records afresh. A collection that needs no consent costs nothing here.
pub(crate) async fn held(store: &Store, kind: Option<ConsentKind>, devices: &[&DeviceId]) -> Result<Vec<Held>, StoreError> {
    let Some(kind) = kind.filter(|_| !devices.is_empty()) else {
        return Ok(devices.iter().map(|_| Held::Granted(None)).collect());
    };
    let effective = store.effective_consent(kind, devices, OffsetDateTime::now_utc()).await?;
    let held = devices.iter().map(|device| match effective.get(*device) {
        Some(effective) if effective.is_granted() => Held::Granted(effective.consent),
        Some(effective) if effective.state == muster_wire::http::ConsentState::Suspended => Held::Suspended,
        Some(effective) => Held::Gone(effective.why.clone()),
        None => Held::Gone("the device is not in the registry".to_owned()),
    });
    Ok(held.collect())
}

/// The same of one device; `None` when the records cannot be read: then nothing is done now.
pub(crate) async fn held_by(store: &Store, work: &OpenWork, device: &DeviceId, attempt: AttemptId) -> Option<Held> {
    match held(store, work.row.needs_consent, &[device]).await {
        Ok(mut held) => held.pop(),
        Err(error) => {
            tracing::warn!(%attempt, error = &error as &dyn std::error::Error, "could not read the consent for a task; trying again later");
            None
        }
    }
}
