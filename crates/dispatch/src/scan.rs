//! The clock of the dispatcher: reads the database at intervals for what nobody poked us about. Leases that ended, uploads nobody
//! judges, deadlines, collections that are done or new. Between two scans, a poke makes it look only for collections that are done.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use muster_store::{Looking, Store, StoreError, TakeRequest, TaskFilter};
use muster_wire::http::MAX_PAGE;
use muster_wire::{CollectionId, Reason, TaskState};
use time::OffsetDateTime;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::DispatchOptions;
use crate::growth::Growth;
use crate::look::{Job, Looks};
use crate::wake::Wake;
use crate::window::Window;
use crate::work::{OpenWork, OpenWorks};

/// Most tasks of one collection taken up by one scan, of each kind.
const MAX_TAKEN: u32 = 2000;
/// A scan takes at most one part in so many of the time: a large database is scanned less often.
const SHARE: u32 = 20;
/// The same for looks at what has ended between two scans; somebody waits for these.
const LOOK_SHARE: u32 = 10;
/// A scan is never further away than this.
const SCAN_AT_LEAST_EVERY: Duration = Duration::from_secs(30);

/// What the scans found, for the status page.
#[derive(Debug, Default)]
pub(crate) struct Scanned {
    pub(crate) scans: AtomicU64,
    pub(crate) silent: AtomicU64,
    pub(crate) unjudged: AtomicU64,
    pub(crate) expired: AtomicU64,
    pub(crate) finished: AtomicU64,
}

pub(crate) struct Scan {
    pub(crate) store: Store,
    pub(crate) growth: Growth,
    pub(crate) options: Arc<DispatchOptions>,
    pub(crate) works: Arc<OpenWorks>,
    pub(crate) window: Arc<Window>,
    pub(crate) looks: Looks,
    pub(crate) wake: Wake,
    pub(crate) scanned: Arc<Scanned>,
}

impl Scan {
    pub(crate) async fn run(self, stop: CancellationToken) {
        // What this controller held when it died is free at once; what others hold stays theirs until their leases end.
        while let Err(error) = self.store.release_leases(&self.options.owner).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "could not read the database");
            tokio::select! {
                () = tokio::time::sleep(self.options.scan_every) => {}
                () = stop.cancelled() => return,
            }
        }
        loop {
            let began = Instant::now();
            if let Err(error) = self.scan().await {
                tracing::warn!(error = &error as &dyn std::error::Error, "a scan of the database failed; the next one tries again");
            }
            self.scanned.scans.fetch_add(1, Ordering::Relaxed);
            let wait = self.options.scan_every.max(began.elapsed() * SHARE).min(SCAN_AT_LEAST_EVERY);
            if !self.between_scans(Instant::now() + wait, &stop).await {
                return;
            }
        }
    }

    /// What we are poked about before the next scan. False when there is none, because of `stop`.
    async fn between_scans(&self, next: Instant, stop: &CancellationToken) -> bool {
        let mut not_before = Instant::now();
        loop {
            // Tasks end a thousand at a time: one look for all that ended since the last.
            let ended = async {
                self.wake.ended_poked().await;
                tokio::time::sleep_until(not_before).await;
            };
            tokio::select! {
                () = tokio::time::sleep_until(next) => return true,
                () = stop.cancelled() => return false,
                () = ended => {}
            }
            let began = Instant::now();
            if let Err(error) = self.close(OffsetDateTime::now_utc()).await {
                tracing::warn!(error = &error as &dyn std::error::Error, "could not close collections; the next scan makes up for it");
            }
            not_before = Instant::now() + began.elapsed() * LOOK_SHARE;
        }
    }

    async fn scan(&self) -> Result<(), StoreError> {
        // The window before the works: after a start nothing is claimed until what is already out has been counted.
        let in_flight = self.store.in_flight(Some(&self.options.owner)).await?;
        self.window.set(in_flight.into_iter().map(|(id, count)| (id, u32::try_from(count).unwrap_or(u32::MAX))).collect());
        self.works.set_counted();
        self.works.refresh(&self.store).await?;
        let now = OffsetDateTime::now_utc();
        for work in self.works.all() {
            self.scan_collection(&work, now).await?;
        }
        self.growth.grow(&self.works.all(), now).await?;
        self.close(now).await?;
        self.wake.outbound();
        Ok(())
    }

    /// Closes the collections whose last task has ended.
    async fn close(&self, now: OffsetDateTime) -> Result<(), StoreError> {
        let finished = self.store.close_finished(now).await?;
        if finished.is_empty() {
            return Ok(());
        }
        self.scanned.finished.fetch_add(finished.len() as u64, Ordering::Relaxed);
        for id in &finished {
            tracing::info!(collection = %id, "collection finished");
            self.window.closed(*id);
            self.close_inboxes(*id).await?;
        }
        self.works.refresh(&self.store).await
    }

    /// Ends the grants of tasks that were cancelled or given up while a device was at work on them. Closing what is closed costs nothing.
    async fn close_inboxes(&self, id: CollectionId) -> Result<(), StoreError> {
        if !self.works.get(id).is_some_and(|work| work.uploads()) {
            return Ok(());
        }
        let states = vec![TaskState::Cancelled, TaskState::Expired, TaskState::Failed];
        let mut filter = TaskFilter { limit: MAX_PAGE, states, ..TaskFilter::default() };
        loop {
            let tasks = self.store.tasks(id, &filter).await?;
            // What lost its consent is not ours to close: its clean-up puts on record what goes.
            for task in tasks.iter().filter(|task| task.attempt > 0 && task.reason != Some(Reason::ConsentMissing)) {
                self.looks.close(task.id.attempt(task.attempt));
            }
            match tasks.last() {
                Some(last) if tasks.len() == MAX_PAGE as usize => filter.after = Some(last.id),
                _ => return Ok(()),
            }
        }
    }

    async fn scan_collection(&self, work: &OpenWork, now: OffsetDateTime) -> Result<(), StoreError> {
        let lease_until = now + self.options.verify_lease;
        let take = TakeRequest { collection: work.id, after: None, limit: MAX_TAKEN, owner: &self.options.owner, now, lease_until };
        let looks = Looking {
            first: self.options.look_first,
            max: self.options.look_max,
            gives_up_after: work.attempt_timeout + self.options.grace,
        };
        for task in self.store.take_silent(&take, &looks).await?.tasks {
            self.scanned.silent.fetch_add(1, Ordering::Relaxed);
            self.looks.look(Job::Silence { attempt: task.attempt });
        }
        for task in self.store.take_uploaded(&take).await?.tasks {
            self.scanned.unjudged.fetch_add(1, Ordering::Relaxed);
            self.looks.look(Job::Judge { attempt: task.attempt });
        }
        if work.row.cancelled_at.is_some() {
            self.store.cancel_requeued(work.id, now).await?;
        }
        if work.expires_at <= now {
            let expired = self.store.expire(work.id, now).await?;
            self.scanned.expired.fetch_add(expired, Ordering::Relaxed);
        }
        Ok(())
    }
}
