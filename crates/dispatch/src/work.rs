//! Open collections as the loops need them: the request rendered once, the limits parsed once.
//!
//! A collection is immutable once created, but for its limits and whether it is open and sends, so a cache is safe: what a stale one would
//! send is asked again by the statement that claims. Every scan finds out which are open and reads those that are new or changed; between
//! two scans, those that somebody told of are read. So tens of thousands of open collections cost a row of a few numbers each at a scan, and
//! a new one costs its own reading.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use muster_domain::calendar::{OpenTimes, Opening};
use muster_domain::event::Work;
use muster_domain::retry::{self, Reasons};
use muster_domain::rollout::Limits;
use muster_store::{Collection, Store, StoreError};
use muster_wire::CollectionId;
use muster_wire::http::{CollectionRequest, Priority, TargetView};
use muster_wire::method::name::Method;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use crate::DispatchOptions;
use crate::lane::Lanes;
use crate::wake::Wake;

/// Most collections somebody told of that wait to be read.
const MAX_TOLD: usize = 100_000;
/// Collections read at a time.
const READ_PAGE: usize = 500;

/// One open collection.
#[derive(Debug)]
pub(crate) struct OpenWork {
    pub(crate) id: CollectionId,
    pub(crate) work: Work,
    pub(crate) method: Method,
    pub(crate) attempt_timeout: Duration,
    pub(crate) max_attempts: u8,
    pub(crate) expires_at: OffsetDateTime,
    /// Limits that hold over all controllers.
    pub(crate) limits: Option<Limits>,
    /// As it stands in the database.
    pub(crate) row: Collection,
    pub(crate) retry_reasons: Reasons,
    /// Who gets the next step; `None` when there is none.
    pub(crate) next_step: Option<NextStep>,
    /// The collection with the first step, when this one has steps or is one.
    pub(crate) first_step: Option<CollectionId>,
    /// What devices have to meet to join, when it is standing.
    pub(crate) standing: Option<TargetView>,
    window: Asking,
}

/// Who gets the next step of an escalation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NextStep {
    /// Every device that was verified.
    Everyone,
    /// Devices with a line that matches this pattern.
    Matching(String),
}

/// When devices may be asked.
#[derive(Debug)]
enum Asking {
    Always,
    /// The opening that was current, or next, when the collection was read; it is read anew at every scan.
    Within(Opening),
    Never,
}

impl Asking {
    fn new(row: &Collection, now: OffsetDateTime) -> Self {
        let Some(window) = &row.window else { return Self::Always };
        match OpenTimes::parse(window) {
            Ok(times) => times.opening(now).map_or(Self::Never, Self::Within),
            Err(error) => {
                tracing::error!(collection = %row.id, %error, "the window of a collection cannot be read; it asks nobody");
                Self::Never
            }
        }
    }
}

impl OpenWork {
    /// Uploads need an inbox and a grant.
    pub(crate) fn uploads(&self) -> bool {
        matches!(self.work, Work::UploadOne | Work::UploadMany)
    }

    /// A device is never asked for two bundles at the same time.
    pub(crate) fn one_per_device(&self) -> bool {
        self.work == Work::UploadOne
    }

    /// Devices may be asked now: there is no window, or it is open.
    pub(crate) fn may_ask(&self, now: OffsetDateTime) -> bool {
        match &self.window {
            Asking::Always => true,
            Asking::Within(opening) => opening.contains(now),
            Asking::Never => false,
        }
    }

    /// The wait after an attempt that failed.
    pub(crate) fn retry_wait(&self, options: &DispatchOptions, attempt: u8) -> Duration {
        retry::wait(self.row.retry.as_ref(), &options.schedule, attempt, rand::random())
    }

    pub(crate) fn new(row: Collection, now: OffsetDateTime) -> Self {
        let (work, method) = match &row.request {
            CollectionRequest::Bundle { .. } => (Work::UploadOne, Method::UploadSupportBundle),
            CollectionRequest::UploadLogs { .. } => (Work::UploadMany, Method::UploadModuleLogs),
            CollectionRequest::Logs { .. } => (Work::Answer, Method::GetModuleLogs),
            CollectionRequest::Ping {} => (Work::Ping, Method::Ping),
        };
        let next_step = (!row.steps.is_empty()).then(|| row.when_matches.clone().map_or(NextStep::Everyone, NextStep::Matching));
        let first_step = row.step_of.map(|of| of.collection).or_else(|| (!row.steps.is_empty()).then_some(row.id));
        Self {
            next_step,
            first_step,
            standing: row.standing.then_some(row.target.clone()),
            window: Asking::new(&row, now),
            retry_reasons: retry::reasons(row.retry.as_ref()),
            id: row.id,
            work,
            method,
            attempt_timeout: row.attempt_timeout,
            max_attempts: row.attempt_limit,
            expires_at: row.expires_at,
            limits: Limits::of(&row.rollout, row.in_flight, row.targeted),
            row,
        }
    }

    /// Neither paused nor cancelled.
    pub(crate) fn may_send(&self) -> bool {
        self.row.paused.is_none() && self.row.cancelled_at.is_none()
    }
}

/// All open collections.
#[derive(Debug, Default)]
pub(crate) struct OpenWorks {
    works: RwLock<BTreeMap<CollectionId, Arc<OpenWork>>>,
    /// Those somebody told of, which are to be read anew.
    told: Mutex<HashSet<CollectionId>>,
    /// Those that were read or changed since the sender of their lane last asked.
    fresh: Lanes<Mutex<BTreeSet<CollectionId>>>,
    /// One reading at a time, or an older one could overwrite a newer one.
    reading: tokio::sync::Mutex<()>,
    /// What is in flight has been counted, so there may be works to send for.
    counted: AtomicBool,
}

impl OpenWorks {
    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<CollectionId, Arc<OpenWork>>> {
        self.works.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<CollectionId, Arc<OpenWork>>> {
        self.works.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// In order of creation.
    pub(crate) fn all(&self) -> Vec<Arc<OpenWork>> {
        self.read().values().cloned().collect()
    }

    /// At most so many behind this one, in order of creation.
    pub(crate) fn behind(&self, after: Option<CollectionId>, limit: usize) -> Vec<Arc<OpenWork>> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.read().range((from, Bound::Unbounded)).take(limit).map(|(_, work)| work.clone()).collect()
    }

    pub(crate) fn get(&self, id: CollectionId) -> Option<Arc<OpenWork>> {
        self.read().get(&id).cloned()
    }

    /// Which lane a collection goes in; the middle one for what is not open.
    pub(crate) fn priority(&self, id: CollectionId) -> Priority {
        self.read().get(&id).map_or(Priority::Normal, |work| work.row.priority)
    }

    /// These are new, or something about them changed; [`OpenWorks::follow`] reads them once it is poked.
    pub(crate) fn tell(&self, ids: impl IntoIterator<Item = CollectionId>) {
        let mut told = locked(&self.told);
        for id in ids {
            // Beyond it the next scan finds them.
            if told.len() < MAX_TOLD {
                told.insert(id);
            }
        }
    }

    /// Those that were read since the last call, of one lane.
    pub(crate) fn fresh(&self, lane: Priority) -> BTreeSet<CollectionId> {
        std::mem::take(&mut locked(self.fresh.of(lane)))
    }

    /// They were closed.
    pub(crate) async fn remove(&self, ids: &[CollectionId]) {
        let _one_at_a_time = self.reading.lock().await;
        let mut works = self.write();
        for id in ids {
            works.remove(id);
        }
    }

    /// Finds out which collections are open, and reads those that are new or changed.
    pub(crate) async fn refresh(&self, store: &Store, wake: &Wake) -> Result<(), StoreError> {
        let _one_at_a_time = self.reading.lock().await;
        locked(&self.told).clear();
        let open = store.open_stamps().await?;
        let now = OffsetDateTime::now_utc();
        let mut changed = Vec::new();
        {
            let mut works = self.write();
            let mut known = std::mem::take(&mut *works);
            for (id, stamp) in open {
                match known.remove(&id) {
                    Some(work) if work.row.stamp() == stamp => {
                        drop(works.insert(id, if work.row.window.is_some() { Arc::new(OpenWork::new(work.row.clone(), now)) } else { work }));
                    }
                    // The old one stands until the new one is read.
                    Some(work) => {
                        works.insert(id, work);
                        changed.push(id);
                    }
                    None => changed.push(id),
                }
            }
        }
        self.read_in(store, &changed, wake).await
    }

    async fn read_told(&self, store: &Store, wake: &Wake) -> Result<(), StoreError> {
        let _one_at_a_time = self.reading.lock().await;
        let told: Vec<CollectionId> = std::mem::take(&mut *locked(&self.told)).into_iter().collect();
        self.read_in(store, &told, wake).await
    }

    /// Reads these, a page after the other; the first ones are sent for while the last ones are read.
    async fn read_in(&self, store: &Store, ids: &[CollectionId], wake: &Wake) -> Result<(), StoreError> {
        for page in ids.chunks(READ_PAGE) {
            let now = OffsetDateTime::now_utc();
            let rows = store.open_collections_of(page).await?;
            let mut closed: HashSet<&CollectionId> = page.iter().collect();
            {
                let mut works = self.write();
                for row in rows {
                    closed.remove(&row.id);
                    locked(self.fresh.of(row.priority)).insert(row.id);
                    works.insert(row.id, Arc::new(OpenWork::new(row, now)));
                }
                for id in closed {
                    works.remove(id);
                }
            }
            wake.outbound();
        }
        Ok(())
    }

    /// From now on a poke alone brings new works.
    pub(crate) fn set_counted(&self) {
        self.counted.store(true, Ordering::Relaxed);
    }

    /// Reads what it was told of when poked, so that a new collection need not wait for a scan of the large ones.
    pub(crate) async fn follow(self: Arc<Self>, store: Store, wake: Wake, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = wake.works_poked() => {}
                () = stop.cancelled() => return,
            }
            if self.counted.load(Ordering::Relaxed)
                && let Err(error) = self.read_told(&store, &wake).await
            {
                tracing::warn!(error = &error as &dyn std::error::Error, "could not read the open collections; the next scan does");
            }
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
