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
use muster_wire::http::{CollectionRequest, ConsentKind, Priority, TargetView};
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

    /// Nobody asked for it: devices are told so, and may refuse.
    pub(crate) fn is_proactive(&self) -> bool {
        self.row.needs_consent == Some(ConsentKind::Proactive)
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
                        drop(
                            works.insert(id, if work.row.window.is_some() { Arc::new(OpenWork::new(work.row.clone(), now)) } else { work }),
                        );
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

#[cfg(test)]
pub(crate) mod tests {
    use muster_store::{NewCollection, NewTask, StoreOptions};
    use muster_wire::http::{Origin, Rollout};

    use super::*;

    pub(crate) async fn store(directory: &tempfile::TempDir) -> Store {
        let options = StoreOptions::new(format!("sqlite://{}", directory.path().join("muster.db").display()));
        let store = Store::connect(&options).await.expect("made");
        store.migrate().await.expect("migrated");
        store
    }

    /// A ping of so many devices.
    pub(crate) async fn collection(store: &Store, devices: usize, in_flight: Option<u32>) -> CollectionId {
        let now = OffsetDateTime::now_utc();
        let device = |n: usize| format!("press-{n:05}").parse().expect("an id");
        let new = NewCollection {
            id: CollectionId::new(),
            request: CollectionRequest::Ping {},
            target: TargetView::Devices,
            reason: None,
            case: None,
            created_by: "ada".to_owned(),
            created_at: now,
            expires_at: now + Duration::from_secs(3600),
            attempt_timeout: Duration::from_secs(60),
            max_attempts: 3,
            in_flight,
            priority: Priority::Normal,
            rollout: Rollout::default(),
            retry: None,
            window: None,
            standing: false,
            steps: Vec::new(),
            step_of: None,
            when_matches: None,
            paused: None,
            idempotency: None,
            origin: Origin::Manual,
            needs_consent: None,
            tasks: (0..devices).map(|n| NewTask { device: device(n), skip: None }).collect(),
        };
        store.create_collection(&new).await.expect("a collection");
        new.id
    }

    /// However many are open: what has not changed is not read again, and what was told of is read alone.
    #[tokio::test]
    async fn only_what_is_new_or_changed_is_read() {
        let directory = tempfile::tempdir().expect("a private directory");
        let store = store(&directory).await;
        let (works, wake) = (OpenWorks::default(), Wake::default());
        let mut ids = Vec::new();
        for _ in 0..READ_PAGE + 3 {
            ids.push(collection(&store, 1, None).await);
        }
        ids.sort_unstable();
        works.refresh(&store, &wake).await.expect("read");
        assert_eq!(works.all().iter().map(|work| work.id).collect::<Vec<_>>(), ids);
        assert_eq!(works.fresh(Priority::Normal).into_iter().collect::<Vec<_>>(), ids);
        assert!(works.fresh(Priority::High).is_empty());
        assert_eq!(works.behind(Some(ids[1]), 2).iter().map(|work| work.id).collect::<Vec<_>>(), ids[2..4]);

        let before = works.all();
        let now = OffsetDateTime::now_utc();
        store.pause(ids[7], "ada", "wait", now).await.expect("paused");
        works.refresh(&store, &wake).await.expect("read");
        let read_anew = before.iter().zip(works.all()).filter(|(before, after)| !Arc::ptr_eq(before, after)).map(|(_, after)| after);
        let read_anew: Vec<_> = read_anew.collect();
        assert_eq!((read_anew.len(), read_anew[0].id, read_anew[0].may_send()), (1, ids[7], false));
        assert_eq!(works.fresh(Priority::Normal).into_iter().collect::<Vec<_>>(), [ids[7]]);

        // Told of: one that is new, one that goes on, one that ended.
        let new = collection(&store, 1, None).await;
        let untold = collection(&store, 1, None).await;
        store.resume(ids[7], "ada", now).await.expect("resumed");
        store.cancel_collection(ids[0], muster_store::Cancel::All, "ada", now).await.expect("cancelled");
        assert_eq!(store.close_finished(now).await.expect("closed"), [ids[0]]);
        works.tell([new, ids[7], ids[0]]);
        works.read_told(&store, &wake).await.expect("read");
        assert!(works.get(new).is_some() && works.get(untold).is_none() && works.get(ids[0]).is_none());
        assert!(works.get(ids[7]).is_some_and(|work| work.may_send()));
        works.remove(&[ids[1]]).await;
        assert!(works.get(ids[1]).is_none());
        works.refresh(&store, &wake).await.expect("read");
        assert!(works.get(untold).is_some() && works.get(ids[1]).is_some(), "the database is the truth");
        assert_eq!(works.all().len(), ids.len() + 1);
        store.close().await;
    }

    #[test]
    fn what_is_told_is_bounded() {
        let works = OpenWorks::default();
        works.tell(std::iter::repeat_with(CollectionId::new).take(MAX_TOLD + 10));
        assert_eq!(locked(&works.told).len(), MAX_TOLD);
    }
}
