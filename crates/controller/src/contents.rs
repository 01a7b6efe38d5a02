//! What is inside sealed bundles: files of archives, one file as a stream, everything hashed again. Archives are read on blocking threads,
//! a bounded number at a time, and what they expand to is bounded as well: a bundle was judged, but whoever made it is still a stranger.

use std::io::{self, Read};
use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use futures_util::{StreamExt as _, stream};
use http::StatusCode;
use muster_landing::{Landing, LandingError, MANIFEST_NAME, ObjectName, SealedReader};
use muster_store::BundleRecord;
use muster_wire::http::{BundleCheck, BundleFile, ObjectCheck, ObjectKind};
use sha2::{Digest, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use zip::ZipArchive;
use zip::result::ZipError;

use crate::api::problem::{ApiError, ApiResult};

/// Archives read at the same time.
const MAX_READERS: usize = 16;
/// Bundles hashed again at the same time.
const MAX_CHECKS: usize = 4;
/// Most files listed of one bundle.
pub const MAX_FILES_LISTED: usize = 200_000;
/// Most bytes one file may expand to while it is printed.
pub const MAX_EXPANDED_BYTES: u64 = 4 << 30;
/// Bytes read at once.
const CHUNK_BYTES: usize = 64 * 1024;
/// Chunks on their way to a caller; a slow one stops the reading.
const CHUNKS_AHEAD: usize = 4;
/// Separates an object from an entry of it.
const SEPARATOR: char = '!';

/// Reads bundles for callers.
#[derive(Clone)]
pub(crate) struct Contents {
    landing: Landing,
    readers: Arc<Semaphore>,
    checks: Arc<Semaphore>,
}

/// Which file of a bundle.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Object { name: String, kind: ObjectKind },
    Entry { object: String, entry: String },
}

impl Contents {
    pub(crate) fn new(landing: Landing) -> Self {
        Self { landing, readers: Arc::new(Semaphore::new(MAX_READERS)), checks: Arc::new(Semaphore::new(MAX_CHECKS)) }
    }

    /// Every object, and every file inside those that are archives.
    pub(crate) async fn files(&self, bundle: &BundleRecord) -> ApiResult<Vec<BundleFile>> {
        let mut files = Vec::new();
        for object in &bundle.manifest.objects {
            files.push(BundleFile { path: object.name.clone(), size_bytes: object.size_bytes });
            if object.kind == ObjectKind::Zip {
                let name = object.name.clone();
                let (reader, _permit) = self.reader(bundle, &name).await?;
                let entries = tokio::task::spawn_blocking(move || list_entries(reader))
                    .await
                    .map_err(|error| ApiError::internal("read an archive", &error))?;
                let entries = entries.map_err(|error| unreadable(&name, &error))?;
                files.extend(
                    entries.into_iter().map(|(entry, size_bytes)| BundleFile { path: format!("{name}{SEPARATOR}{entry}"), size_bytes }),
                );
            }
            files.truncate(MAX_FILES_LISTED);
        }
        Ok(files)
    }

    /// One file: an object as it is (expanded, when it is gzip), or an entry of an archive.
    pub(crate) async fn print(&self, bundle: &BundleRecord, path: &str) -> ApiResult<Body> {
        match place(bundle, path).ok_or_else(|| file_not_found(bundle, path))? {
            Place::Object { name, kind: ObjectKind::Gzip } => self.expand(bundle, name, None).await,
            Place::Object { name, .. } => {
                let name = object_name(&name)?;
                let download = self.landing.open_sealed(bundle.manifest.attempt, &name, None).await?;
                Ok(Body::from_stream(download.body))
            }
            Place::Entry { object, entry } => self.expand(bundle, object, Some(entry)).await,
        }
    }

    async fn expand(&self, bundle: &BundleRecord, object: String, entry: Option<String>) -> ApiResult<Body> {
        let (reader, permit) = self.reader(bundle, &object).await?;
        let (opened, is_open) = oneshot::channel();
        let (chunks, mut received) = mpsc::channel(CHUNKS_AHEAD);
        let work = Expand { opened: Some(opened), chunks, limit: MAX_EXPANDED_BYTES, _permit: permit };
        let named = entry.clone();
        tokio::task::spawn_blocking(move || match named {
            Some(entry) => work.zip_entry(reader, &entry),
            None => work.stream(MultiGzDecoder::new(reader)),
        });
        match is_open.await {
            Ok(Ok(())) => Ok(Body::from_stream(stream::poll_fn(move |context| received.poll_recv(context)))),
            Ok(Err(Refused::NotFound)) => Err(file_not_found(bundle, &format!("{object}{SEPARATOR}{}", entry.unwrap_or_default()))),
            Ok(Err(Refused::TooLarge(size))) => Err(ApiError::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "file_too_large",
                "The file is too large to print",
                format!("it expands to {size} bytes; at most {MAX_EXPANDED_BYTES} are printed"),
            )
            .next_step("download the object and read it with a program of your own")),
            Ok(Err(Refused::Unreadable(error))) => Err(unreadable(&object, &error)),
            Err(_) => Err(unreadable(&object, &ZipError::InvalidArchive("reading it ended without a result".into()))),
        }
    }

    /// Reads every object again and compares it with the manifest, and the manifest with what was recorded of it.
    pub(crate) async fn check(&self, bundle: &BundleRecord) -> ApiResult<BundleCheck> {
        let _permit = self.checks.acquire().await.expect("never closed");
        let mut objects = Vec::with_capacity(bundle.manifest.objects.len() + 1);
        for object in &bundle.manifest.objects {
            objects.push(self.check_object(bundle, &object.name, Some(object.size_bytes), &object.sha256).await?);
        }
        objects.push(self.check_object(bundle, MANIFEST_NAME, None, &bundle.view.manifest_sha256).await?);
        let intact = objects.iter().all(|object| object.problem.is_none());
        if !intact {
            tracing::error!(task.id = %bundle.view.task, "a sealed bundle is not what was sealed");
        }
        metrics::counter!("muster_bundle_checks_total", "intact" => if intact { "true" } else { "false" }).increment(1);
        Ok(BundleCheck { task: bundle.view.task, intact, objects })
    }

    async fn check_object(&self, bundle: &BundleRecord, name: &str, size_bytes: Option<u64>, expected: &str) -> ApiResult<ObjectCheck> {
        let found =
            |found_sha256, problem| ObjectCheck { name: name.to_owned(), expected_sha256: expected.to_owned(), found_sha256, problem };
        let opened = self.landing.open_sealed(bundle.manifest.attempt, &object_name(name)?, None).await;
        let mut download = match opened {
            Ok(download) => download,
            Err(LandingError::ObjectNotFound { .. }) => return Ok(found(None, Some("it is gone".to_owned()))),
            Err(error) => return Err(error.into()),
        };
        let (mut hasher, mut size) = (Sha256::new(), 0);
        while let Some(chunk) = download.body.next().await {
            match chunk {
                Ok(chunk) => {
                    size += chunk.len() as u64;
                    hasher.update(&chunk);
                }
                Err(error) => return Ok(found(None, Some(format!("it cannot be read to its end: {error}")))),
            }
        }
        let digest: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        let problem = match size_bytes {
            Some(expected) if expected != size => Some(format!("it has {size} bytes, the manifest says {expected}")),
            _ if digest != expected => Some("its bytes are not those that were sealed".to_owned()),
            _ => None,
        };
        Ok(found(Some(digest), problem))
    }

    async fn reader(&self, bundle: &BundleRecord, object: &str) -> ApiResult<(SealedReader, OwnedSemaphorePermit)> {
        let permit = self.readers.clone().acquire_owned().await.expect("never closed");
        let reader = self.landing.reader(bundle.manifest.attempt, &object_name(object)?).await?;
        Ok((reader, permit))
    }
}

/// The object of a bundle, or the entry, that a path means. An object may itself have a `!` in its name: then the object wins.
fn place(bundle: &BundleRecord, path: &str) -> Option<Place> {
    let find = |name: &str| bundle.manifest.objects.iter().find(|object| object.name == name);
    if let Some(object) = find(path) {
        return Some(Place::Object { name: object.name.clone(), kind: object.kind });
    }
    if path == MANIFEST_NAME {
        return Some(Place::Object { name: path.to_owned(), kind: ObjectKind::Json });
    }
    path.match_indices(SEPARATOR).find_map(|(at, _)| {
        let (object, entry) = (find(&path[..at])?, &path[at + SEPARATOR.len_utf8()..]);
        (object.kind == ObjectKind::Zip && !entry.is_empty()).then(|| Place::Entry { object: object.name.clone(), entry: entry.to_owned() })
    })
}

fn list_entries(reader: SealedReader) -> Result<Vec<(String, u64)>, ZipError> {
    let mut archive = ZipArchive::new(reader)?;
    let mut entries = Vec::new();
    for index in 0..archive.len().min(MAX_FILES_LISTED) {
        let entry = archive.by_index_raw(index)?;
        if entry.is_file() {
            entries.push((shown_name(&entry), entry.size()));
        }
    }
    Ok(entries)
}

/// The name as it is listed, and as it is asked for: what is no text in it is replaced.
fn shown_name(entry: &zip::read::ZipFile<'_, SealedReader>) -> String {
    entry.name().map_or_else(|_| String::from_utf8_lossy(entry.name_raw()).into_owned(), |name| name.into_owned())
}

enum Refused {
    NotFound,
    TooLarge(u64),
    Unreadable(ZipError),
}

/// Expands on a blocking thread, as fast as the caller takes it.
struct Expand {
    opened: Option<oneshot::Sender<Result<(), Refused>>>,
    chunks: mpsc::Sender<io::Result<Bytes>>,
    limit: u64,
    _permit: OwnedSemaphorePermit,
}

impl Expand {
    fn zip_entry(mut self, reader: SealedReader, name: &str) {
        let mut archive = match ZipArchive::new(reader) {
            Ok(archive) => archive,
            Err(error) => return self.say(Err(Refused::Unreadable(error))),
        };
        let listed_as = |archive: &mut ZipArchive<SealedReader>| {
            (0..archive.len().min(MAX_FILES_LISTED))
                .find(|index| archive.by_index_raw(*index).is_ok_and(|entry| shown_name(&entry) == name))
        };
        let Some(index) = archive.index_for_name(name).or_else(|| listed_as(&mut archive)) else {
            return self.say(Err(Refused::NotFound));
        };
        match archive.by_index(index) {
            Ok(entry) if entry.size() > self.limit => self.say(Err(Refused::TooLarge(entry.size()))),
            Ok(entry) => self.stream(entry),
            Err(error) => self.say(Err(Refused::Unreadable(error))),
        };
    }

    fn say(&mut self, outcome: Result<(), Refused>) {
        if let Some(opened) = self.opened.take() {
            // Nobody listens: the caller is gone.
            let _gone = opened.send(outcome);
        }
    }

    /// The first bytes are read before success is said, so that what cannot be read at all is a problem and not a broken stream.
    fn stream(mut self, mut source: impl Read) {
        let mut left = self.limit;
        loop {
            let mut chunk = vec![0; CHUNK_BYTES];
            match source.read(&mut chunk) {
                Ok(0) => return self.say(Ok(())),
                Ok(count) => {
                    self.say(Ok(()));
                    chunk.truncate(count);
                    let fits = left.checked_sub(count as u64);
                    let next = match fits {
                        Some(_) => Ok(Bytes::from(chunk)),
                        None => Err(io::Error::other(format!("it expands to more than {} bytes", self.limit))),
                    };
                    left = fits.unwrap_or(0);
                    if self.chunks.blocking_send(next).is_err() || fits.is_none() {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if self.opened.is_some() => return self.say(Err(Refused::Unreadable(ZipError::Io(error)))),
                Err(error) => {
                    tracing::warn!(%error, "a file of a bundle broke off while it was printed");
                    let _gone = self.chunks.blocking_send(Err(error));
                    return;
                }
            }
        }
    }
}

/// A name from a manifest of ours, or from a caller.
pub(crate) fn object_name(name: &str) -> ApiResult<ObjectName> {
    ObjectName::parse(name).map_err(|error| ApiError::not_found("object_not_found", "No such object", error.to_string()))
}

fn file_not_found(bundle: &BundleRecord, path: &str) -> ApiError {
    let shown: String = path.chars().take(200).collect();
    ApiError::not_found(
        "file_not_found",
        "No such file in this bundle",
        format!("the bundle of {} has no file {shown:?}", bundle.view.task),
    )
    .next_step(format!("list them: muster bundles files {}", bundle.view.task))
}

fn unreadable(object: &str, error: &ZipError) -> ApiError {
    ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "archive_unreadable", "The archive cannot be read", format!("{object}: {error}"))
        .next_step("download the object and look at it with a program of your own")
}

#[cfg(test)]
mod tests {
    use muster_wire::CollectionId;
    use muster_wire::http::{BundleManifest, BundleObject, BundleView, Depth, Verdict};
    use time::OffsetDateTime;

    use super::*;

    fn bundle(objects: &[(&str, ObjectKind)]) -> BundleRecord {
        let task = CollectionId::new().task(0);
        let device: muster_wire::DeviceId = "d".parse().expect("an id");
        let object = |(name, kind): &(&str, ObjectKind)| BundleObject {
            name: (*name).to_owned(),
            size_bytes: 1,
            sha256: String::new(),
            kind: *kind,
            entries: None,
            depth: Depth::Full,
        };
        BundleRecord {
            view: BundleView {
                task,
                collection: task.collection(),
                device: device.clone(),
                verdict: Verdict::Complete,
                size_bytes: 1,
                objects: 1,
                manifest_sha256: String::new(),
                sealed_at: OffsetDateTime::UNIX_EPOCH,
                location: String::new(),
            },
            manifest: BundleManifest {
                version: "1.0".to_owned(),
                task,
                attempt: task.attempt(1),
                collection: task.collection(),
                device,
                correlation_id: None,
                case: None,
                consent: None,
                verdict: Verdict::Complete,
                reason: muster_wire::Reason::Collected,
                missing: Vec::new(),
                objects: objects.iter().map(object).collect(),
                sealed_at: OffsetDateTime::UNIX_EPOCH,
            },
        }
    }

    #[test]
    fn a_path_means_an_object_before_it_means_an_entry() {
        let bundle = bundle(&[
            ("a.zip", ObjectKind::Zip),
            ("a!b.zip", ObjectKind::Zip),
            ("log.gz", ObjectKind::Gzip),
            ("a.zip!x", ObjectKind::Text),
        ]);
        let entry = |object: &str, entry: &str| Some(Place::Entry { object: object.to_owned(), entry: entry.to_owned() });
        assert_eq!(place(&bundle, "a.zip!dir/f!g"), entry("a.zip", "dir/f!g"));
        assert_eq!(place(&bundle, "a!b.zip!f"), entry("a!b.zip", "f"));
        assert_eq!(place(&bundle, "a.zip!x"), Some(Place::Object { name: "a.zip!x".to_owned(), kind: ObjectKind::Text }));
        assert_eq!(place(&bundle, "log.gz!x"), None, "gzip has no entries");
        for none in ["", "!", "a.zip!", "b.zip", "../a.zip", "a.zip/x"] {
            assert_eq!(place(&bundle, none), None, "{none}");
        }
        assert!(matches!(place(&bundle, "manifest.json"), Some(Place::Object { .. })));
    }

    #[test]
    fn expansion_stops_at_its_limit() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let (chunks, mut received) = mpsc::channel(100);
        let (opened, mut is_open) = oneshot::channel();
        let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().expect("free");
        let limit = CHUNK_BYTES as u64 + 10;
        Expand { opened: Some(opened), chunks, limit, _permit: permit }.stream(io::repeat(b'x'));
        assert!(matches!(is_open.try_recv(), Ok(Ok(()))));
        runtime.block_on(async {
            assert_eq!(received.recv().await.expect("a chunk").expect("bytes").len(), CHUNK_BYTES);
            assert!(received.recv().await.expect("an end").is_err());
            assert!(received.recv().await.is_none());
        });
    }
}
