//! Open collections as the loops need them: the request rendered once, the limits parsed once.
//!
//! A collection is immutable once created, but for its expiry and whether it is open and sends, so a cache is safe: what a stale one would
//! send is asked again by the statement that claims. It is read anew at every scan, and when somebody pokes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
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
use crate::wake::Wake;

/// One open collection.
#[derive(Debug)]
pub(crate) struct OpenWork {
    pub(crate) id: CollectionId,
    pub(crate) request: CollectionRequest,
    pub(crate) case: Option<String>,
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
            request: row.request.clone(),
            case: row.case.clone(),
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
    works: RwLock<HashMap<CollectionId, Arc<OpenWork>>>,
    /// One reading at a time, or an older one could overwrite a newer one.
    reading: tokio::sync::Mutex<()>,
    /// What is in flight has been counted, so there may be works to send for.
    counted: AtomicBool,
}

impl OpenWorks {
    fn read(&self) -> std::sync::RwLockReadGuard<'_, HashMap<CollectionId, Arc<OpenWork>>> {
        self.works.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// In order of creation.
    pub(crate) fn all(&self) -> Vec<Arc<OpenWork>> {
        let mut all: Vec<_> = self.read().values().cloned().collect();
        all.sort_by_key(|work| work.id);
        all
    }

    pub(crate) fn get(&self, id: CollectionId) -> Option<Arc<OpenWork>> {
        self.read().get(&id).cloned()
    }

    /// Which lane a collection goes in; the middle one for what is not open.
    pub(crate) fn priority(&self, id: CollectionId) -> Priority {
        self.read().get(&id).map_or(Priority::Normal, |work| work.row.priority)
    }

    /// Reads the open collections anew.
    pub(crate) async fn refresh(&self, store: &Store) -> Result<(), StoreError> {
        let _one_at_a_time = self.reading.lock().await;
        let now = OffsetDateTime::now_utc();
        let works = store.open_collections().await?.into_iter().map(|row| OpenWork::new(row, now));
        let works = works.map(|work| (work.id, Arc::new(work))).collect();
        *self.works.write().unwrap_or_else(std::sync::PoisonError::into_inner) = works;
        Ok(())
    }

    /// From now on a poke alone brings new works.
    pub(crate) fn set_counted(&self) {
        self.counted.store(true, Ordering::Relaxed);
    }

    /// Reads them when poked, so that a new collection need not wait for a scan of the large ones.
    pub(crate) async fn follow(self: Arc<Self>, store: Store, wake: Wake, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = wake.works_poked() => {}
                () = stop.cancelled() => return,
            }
            if self.counted.load(Ordering::Relaxed) {
                match self.refresh(&store).await {
                    Ok(()) => wake.outbound(),
                    Err(error) => {
                        tracing::warn!(error = &error as &dyn std::error::Error, "could not read the open collections; the next scan does");
                    }
                }
            }
        }
    }
}
