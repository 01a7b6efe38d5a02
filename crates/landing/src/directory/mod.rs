//! The landing zone as a directory, written by devices through our own endpoint ([`crate::endpoint`]).
//!
//! ```text
//! {path}/inbox/{attempt's stem}/{name}                       what devices wrote
//! {path}/staged/{attempt's stem}/…                           what they have not finished writing
//! {path}/sealed/{collection}/{ordinal}/{attempt}/{name}      what we sealed
//! {path}/tmp/…                                               what nobody may see yet
//! ```
//!
//! Everything is written under `tmp` and renamed. Sealing gives an object a second name (a hard link) and hashes it:
//! the endpoint never writes into a file that has a name, except behind the end of an append object, and those are
//! copied. Where there are no hard links, everything is copied.

mod inbox;
mod sealed;
pub(crate) mod temp;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use muster_wire::AttemptId;
use secrecy::{ExposeSecret as _, SecretString};
use time::OffsetDateTime;
use tokio::sync::{OwnedMutexGuard, Semaphore};
use url::Url;

pub(crate) use inbox::{Append, Inbox, InboxPaths, Index, NameKey, Object, Reservation, Staged};
use temp::TempFile;

use crate::error::LandingError;
use crate::grant::{self, Grant};
use crate::limits::{Limits, MAX_CONCURRENT_COMMITS, MIN_SWEEP_AGE_SECONDS};
use crate::listing::{InboxListing, InboxObject, SweepReport};
use crate::name::ObjectName;
use crate::sas::{self, Protocols, SigningKey};

/// Shortest key that grants may be signed with.
pub const MIN_SIGNING_KEY_BYTES: usize = 32;
/// Inboxes whose content is remembered. Forgetting one costs reading its directory again.
const MAX_INBOXES_REMEMBERED: usize = 4_096;
/// What stands for the account in the signature of a grant; also the path the endpoint is mounted under.
const ACCOUNT: &str = "landing";

/// How to keep bundles in a directory.
#[derive(Debug, Clone)]
pub struct DirectoryOptions {
    /// Where everything is kept. Created when missing.
    pub path: PathBuf,
    /// How devices reach us: scheme, host and port, and a path if a proxy has one. The endpoint is at `{public_url}/landing`.
    pub public_url: Url,
    /// What grants are signed with, at least 32 bytes. Another key makes all grants in use void.
    pub signing_key: SecretString,
    /// Whether bytes are on the disk, not only with the operating system, before we say that we have them.
    pub fsync: bool,
    /// What devices may use.
    pub limits: Limits,
}

/// Bundles in a directory.
#[derive(Debug, Clone)]
pub struct DirectoryLanding {
    pub(crate) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    root: PathBuf,
    grant_base: String,
    protocols: Protocols,
    pub(crate) key: SigningKey,
    pub(crate) limits: Limits,
    pub(crate) fsync: bool,
    inboxes: Mutex<HashMap<AttemptId, Arc<Inbox>>>,
    pub(crate) uploads: Arc<Semaphore>,
    pub(crate) commits: Arc<Semaphore>,
}

impl DirectoryLanding {
    pub(crate) fn sealed_location(&self, attempt: AttemptId) -> String {
        self.shared.sealed_location(attempt)
    }

    /// Prepare the directory. One process may use it at a time.
    pub async fn open(options: DirectoryOptions) -> Result<Self, LandingError> {
        let DirectoryOptions { path, public_url, signing_key, fsync, limits } = options;
        let key = signing_key.expose_secret().as_bytes();
        if key.len() < MIN_SIGNING_KEY_BYTES {
            let reason = format!("{} bytes are too few, use at least {MIN_SIGNING_KEY_BYTES} random ones", key.len());
            return Err(LandingError::Settings { setting: "signing_key", reason });
        }
        if !matches!(public_url.scheme(), "http" | "https") || public_url.host().is_none() || public_url.query().is_some() {
            let reason = format!("{public_url} is not what devices can call; it looks like https://muster.example.com");
            return Err(LandingError::Settings { setting: "public_url", reason });
        }
        let shared = Shared {
            grant_base: format!("{}/{ACCOUNT}", public_url.as_str().trim_end_matches('/')),
            protocols: Protocols::of_scheme(public_url.scheme()),
            key: SigningKey::new(key),
            fsync,
            inboxes: Mutex::default(),
            uploads: Arc::new(Semaphore::new(limits.max_concurrent_uploads)),
            commits: Arc::new(Semaphore::new(MAX_CONCURRENT_COMMITS)),
            limits,
            root: path,
        };
        let shared = Arc::new(shared);
        let preparing = Arc::clone(&shared);
        blocking(move || {
            for directory in ["inbox", "staged", "sealed", "tmp"].map(|name| preparing.root.join(name)) {
                temp::create_private_dirs(&directory).map_err(LandingError::io("create", &directory))?;
            }
            Ok(())
        })
        .await?;
        Ok(Self { shared })
    }

    pub(crate) async fn open_inbox(&self, attempt: AttemptId, expires_at: OffsetDateTime) -> Result<Grant, LandingError> {
        grant::check_lifetime(attempt, expires_at)?;
        let objects = self.shared.paths(attempt).objects;
        blocking(move || match temp::create_private_dir(&objects) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(LandingError::io("create", &objects)(error)),
            _ => Ok(()),
        })
        .await?;
        let container = grant::container(attempt);
        let resource = sas::container_resource(ACCOUNT, &container);
        let query = sas::service_grant(&self.shared.key, &resource, expires_at, self.shared.protocols);
        Ok(Grant::new(format!("{}/{container}?{query}", self.shared.grant_base), expires_at))
    }

    pub(crate) async fn list_inbox(&self, attempt: AttemptId) -> Result<InboxListing, LandingError> {
        let _held = self.shared.hold(attempt).await;
        let index = self.shared.index_on_disk(attempt).await?;
        let limit = self.shared.limits.max_objects;
        if index.objects.len() + index.refused_names > limit {
            return Err(LandingError::TooManyObjects { attempt, limit });
        }
        let objects = index.objects.iter().map(|(name, object)| InboxObject {
            name: name.clone(),
            size_bytes: object.size_bytes,
            modified_at: object.modified_at.into(),
        });
        let begun = index.objects.is_empty() && index.staged_blocks() > 0;
        Ok(InboxListing { objects: objects.collect(), begun, refused_names: index.refused_names })
    }

    pub(crate) async fn close_inbox(&self, attempt: AttemptId) -> Result<(), LandingError> {
        let known = self.shared.inbox(attempt).await.map_err(LandingError::io("read", &self.shared.root))?;
        let mut index = match &known {
            Some(inbox) => Some(inbox.index().await),
            None => None,
        };
        let paths = self.shared.paths(attempt);
        let trash = blocking(move || {
            if let Some(index) = &mut index {
                index.closed = true;
            }
            // The objects' directory goes first: without it nothing can be published any more.
            let mut trash = Vec::new();
            for directory in [&paths.objects, &paths.staged] {
                trash.push(temp::to_trash(directory, &paths.temporary).map_err(LandingError::io("close", directory))?);
            }
            Ok(trash)
        })
        .await?;
        self.shared.forget(attempt);
        blocking(move || {
            trash.into_iter().for_each(temp::empty_trash);
            Ok(())
        })
        .await
    }

    pub(crate) async fn sweep(&self, older_than: Duration) -> Result<SweepReport, LandingError> {
        let shared = Arc::clone(&self.shared);
        let older_than = older_than.max(Duration::from_secs(MIN_SWEEP_AGE_SECONDS));
        blocking(move || {
            let mut report = SweepReport::default();
            let temporary = shared.temporary();
            sweep_directory(&temporary, older_than, |_| true, &mut report)?;
            // Staged blocks belong to an inbox; without one nobody will ever commit them.
            let inboxes = shared.root.join("inbox");
            sweep_directory(&shared.root.join("staged"), older_than, |stem| !inboxes.join(stem).is_dir(), &mut report)?;
            Ok(report)
        })
        .await
    }
}

impl Shared {
    pub(crate) fn temporary(&self) -> PathBuf {
        self.root.join("tmp")
    }

    fn paths(&self, attempt: AttemptId) -> InboxPaths {
        let stem = attempt.stem();
        InboxPaths {
            objects: self.root.join("inbox").join(&stem),
            staged: self.root.join("staged").join(&stem),
            temporary: self.temporary(),
        }
    }

    /// Where the sealed objects of an attempt are, from the collection down.
    fn sealed(&self, attempt: AttemptId) -> PathBuf {
        let task = attempt.task();
        self.root.join("sealed").join(task.collection().to_string()).join(task.ordinal().to_string()).join(attempt.number().to_string())
    }

    pub(crate) fn sealed_location(&self, attempt: AttemptId) -> String {
        self.sealed(attempt).display().to_string()
    }

    /// The inbox, from memory or from disk; `None` when it is not open.
    pub(crate) async fn inbox(&self, attempt: AttemptId) -> io::Result<Option<Arc<Inbox>>> {
        let known = self.remembered().get(&attempt).cloned();
        if known.is_some() {
            return Ok(known);
        }
        let (paths, limits) = (self.paths(attempt), self.limits);
        let loaded = spawn(move || Inbox::load(paths, &limits)).await?;
        let Some(loaded) = loaded else { return Ok(None) };
        let inbox = {
            let mut inboxes = self.remembered();
            if inboxes.len() >= MAX_INBOXES_REMEMBERED {
                inboxes.retain(|_, inbox| Arc::strong_count(inbox) > 1);
            }
            // Whoever loaded first wins, so that everybody holds the same index.
            Arc::clone(inboxes.entry(attempt).or_insert_with(|| Arc::new(loaded)))
        };
        // Closed while we were reading: what we read must not be remembered.
        if !tokio::fs::try_exists(&inbox.paths.objects).await? {
            self.forget(attempt);
            return Ok(None);
        }
        Ok(Some(inbox))
    }

    /// Uploads that come through this process change nothing in the inbox while this is held.
    pub(crate) async fn hold(&self, attempt: AttemptId) -> Option<OwnedMutexGuard<Index>> {
        let known = self.remembered().get(&attempt).cloned();
        match known {
            Some(inbox) => Some(inbox.index().await),
            None => None,
        }
    }

    /// What is in an inbox, read from the disk: another controller on the same directory may take its uploads, and what is remembered here
    /// knows nothing of them.
    pub(crate) async fn index_on_disk(&self, attempt: AttemptId) -> Result<Index, LandingError> {
        let (paths, limits) = (self.paths(attempt), self.limits);
        let objects = paths.objects.clone();
        let index = spawn(move || Index::load(&paths, &limits)).await.map_err(LandingError::io("read", &objects))?;
        index.ok_or(LandingError::InboxNotFound { attempt })
    }

    pub(crate) fn forget(&self, attempt: AttemptId) {
        self.remembered().remove(&attempt);
    }

    fn remembered(&self) -> std::sync::MutexGuard<'_, HashMap<AttemptId, Arc<Inbox>>> {
        self.inboxes.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// What a grant for a container of our own endpoint is signed for.
pub(crate) fn resource(container: &str) -> String {
    sas::container_resource(ACCOUNT, container)
}

fn sweep_directory(
    directory: &Path,
    older_than: Duration,
    wanted: impl Fn(&std::ffi::OsStr) -> bool,
    report: &mut SweepReport,
) -> Result<(), LandingError> {
    let now = SystemTime::now();
    for entry in fs::read_dir(directory).map_err(LandingError::io("list", directory))? {
        let entry = entry.map_err(LandingError::io("list", directory))?;
        // A file that another hand removed meanwhile needs no sweeping.
        let Ok(metadata) = entry.metadata() else { continue };
        let old = metadata.modified().ok().and_then(|at| now.duration_since(at).ok()).is_some_and(|age| age >= older_than);
        if !old || !wanted(&entry.file_name()) {
            continue;
        }
        let path = entry.path();
        let removed = if metadata.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        match removed {
            Ok(()) => {
                report.removed += 1;
                report.removed_bytes += if metadata.is_dir() { 0 } else { metadata.len() };
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(LandingError::io("remove", &path)(error)),
        }
    }
    Ok(())
}

/// Directories between the root of an inbox or bundle and the object. The root itself must exist already.
pub(crate) fn create_parents(root: &Path, name: &ObjectName) -> Result<(), Parents> {
    let mut directory = root.to_owned();
    let mut segments = name.segments();
    segments.next_back();
    for segment in segments {
        directory.push(segment);
        match temp::create_private_dir(&directory) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && directory.is_dir() => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory) => {
                return Err(Parents::Conflict);
            }
            Err(error) => return Err(Parents::Io(error)),
        }
    }
    Ok(())
}

/// Why an object's directories could not be made.
#[derive(Debug)]
pub(crate) enum Parents {
    /// One of them is an object.
    Conflict,
    Io(io::Error),
}

/// Run blocking work on its own thread. It runs to its end even if nobody waits any more.
pub(crate) async fn spawn<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|stopped| Err(io::Error::other(stopped)))
}

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LandingError> + Send + 'static,
) -> Result<T, LandingError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|stopped| {
        Err(LandingError::Io { doing: "finish work in", path: PathBuf::from("tmp"), source: io::Error::other(stopped) })
    })
}

/// A temporary file of this landing zone.
pub(crate) fn temporary_file(directory: &Path) -> Result<TempFile, LandingError> {
    TempFile::create(directory).map_err(LandingError::io("create a file in", directory))
}
