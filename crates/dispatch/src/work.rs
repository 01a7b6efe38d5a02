//! Open collections as the loops need them: the request rendered once, the limits parsed once.
//!
//! A collection is immutable once created, but for its expiry and whether it is open, so a cache is safe; it is read anew at every scan.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use muster_domain::event::Work;
use muster_store::Collection;
use muster_wire::CollectionId;
use muster_wire::http::CollectionRequest;
use muster_wire::method::name::Method;
use time::OffsetDateTime;

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
    pub(crate) in_flight: u32,
    pub(crate) expires_at: OffsetDateTime,
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

    pub(crate) fn new(row: Collection) -> Self {
        let (work, method) = match &row.request {
            CollectionRequest::Bundle { .. } => (Work::UploadOne, Method::UploadSupportBundle),
            CollectionRequest::UploadLogs { .. } => (Work::UploadMany, Method::UploadModuleLogs),
            CollectionRequest::Logs { .. } => (Work::Answer, Method::GetModuleLogs),
            CollectionRequest::Ping {} => (Work::Ping, Method::Ping),
        };
        Self {
            id: row.id,
            request: row.request,
            case: row.case,
            work,
            method,
            attempt_timeout: row.attempt_timeout,
            max_attempts: row.attempt_limit,
            in_flight: row.in_flight,
            expires_at: row.expires_at,
        }
    }
}

/// All open collections.
#[derive(Debug, Default)]
pub(crate) struct OpenWorks(RwLock<HashMap<CollectionId, Arc<OpenWork>>>);

impl OpenWorks {
    /// In order of creation.
    pub(crate) fn all(&self) -> Vec<Arc<OpenWork>> {
        let mut all: Vec<_> = self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner).values().cloned().collect();
        all.sort_by_key(|work| work.id);
        all
    }

    pub(crate) fn get(&self, id: CollectionId) -> Option<Arc<OpenWork>> {
        self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner).get(&id).cloned()
    }

    pub(crate) fn replace(&self, works: Vec<OpenWork>) {
        let works = works.into_iter().map(|work| (work.id, Arc::new(work))).collect();
        *self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner) = works;
    }
}
