//! Downloading: bounded, checked, repeatable.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Args;
use futures_util::{StreamExt as _, stream};
use indicatif::ProgressBar;
use muster_wire::http::{BundleManifest, BundleObject, BundleView};
use muster_wire::{CollectionId, DeviceId, TaskId};
use reqwest::header::HeaderMap;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::MANIFEST;
use super::name::safe_path;
use crate::client::Client;
use crate::failure::{Failure, exit};
use crate::present::units::{bytes, counted};
use crate::present::{Column, Form, Listed, Out};
use crate::progress;

/// Most objects on their way at the same time.
const MAX_PARALLEL: u64 = 32;
/// Bytes read at once from a file that is checked.
const READ_BYTES: usize = 256 * 1024;
/// Most objects one bundle may list: a manifest that says more is not believed.
const MAX_OBJECTS: usize = 100_000;

/// How to download.
#[derive(Debug, Clone, Args)]
pub(crate) struct TransferArgs {
    /// Objects on their way at the same time
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=MAX_PARALLEL))]
    pub(crate) parallel: u64,
    /// Overwrite files that are there and differ
    #[arg(long)]
    pub(crate) force: bool,
}

/// A bundle to download.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    /// Its task.
    pub(crate) task: TaskId,
    /// Its device, when known before the manifest is.
    pub(crate) device: Option<DeviceId>,
    /// Bytes, as far as known.
    pub(crate) size_bytes: u64,
}

/// Every bundle of a collection.
pub(crate) async fn collection_bundles(client: &Client, id: CollectionId) -> Result<Vec<Wanted>, Failure> {
    let mut all = Vec::new();
    let query = vec![("collection", id.to_string())];
    client
        .pages("list the bundles", &["bundles"], &query, None, |bundles: Vec<BundleView>| {
            all.extend(bundles.into_iter().map(|bundle| Wanted {
                task: bundle.task,
                device: Some(bundle.device),
                size_bytes: bundle.size_bytes,
            }));
            Ok(())
        })
        .await?;
    Ok(all)
}

/// What became of one file.
#[derive(Debug, Serialize)]
struct Fetched {
    task: TaskId,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<DeviceId>,
    object: String,
    path: PathBuf,
    size_bytes: u64,
    result: Outcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    /// Written now.
    Downloaded,
    /// It was there already, and good.
    Kept,
    /// Not there, or not good.
    Failed,
}

impl Listed for Fetched {
    const COLUMNS: &'static [Column] = &[Column::text("RESULT"), Column::number("SIZE"), Column::text("FILE"), Column::text("PROBLEM")];

    fn cells(&self, _now: time::OffsetDateTime) -> Vec<String> {
        let result = match self.result {
            Outcome::Downloaded => "downloaded",
            Outcome::Kept => "kept",
            Outcome::Failed => "failed",
        };
        vec![result.to_owned(), bytes(self.size_bytes), self.path.display().to_string(), self.problem.clone().unwrap_or_default()]
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }
}

/// What all downloads of one command share.
struct Job {
    client: Client,
    force: bool,
    bar: ProgressBar,
    /// Makes temporary names unique within the process.
    counter: AtomicU64,
}

/// Downloads bundles below `dir`: each into a directory of its device, or straight into `dir` when there is only one to come.
pub(crate) async fn download(
    client: &Client,
    out: &mut Out,
    bundles: Vec<Wanted>,
    dir: &Path,
    by_device: bool,
    args: &TransferArgs,
) -> Result<u8, Failure> {
    make_dir(dir).await?;
    let total: u64 = bundles.iter().map(|bundle| bundle.size_bytes).sum();
    let number = bundles.len() as u64;
    let bar = progress::bytes_bar(total, &counted(number, "bundle"));
    let job = Arc::new(Job { client: client.clone(), force: args.force, bar: bar.clone(), counter: AtomicU64::new(0) });
    let parallel = usize::try_from(args.parallel).expect("at most 32");
    // Two levels would multiply: bundles come one window at a time, and their objects share one stream.
    let mut results = stream::iter(bundles)
        .map(|bundle| plan(job.clone(), bundle, dir.to_owned(), by_device))
        .buffered(parallel)
        .flat_map(|planned| stream::iter(planned.unwrap_or_else(|failed| vec![Planned::Failed(failed)])))
        .map(|planned| fetch(job.clone(), planned))
        .buffer_unordered(parallel);
    let (mut all, mut counts, mut written) = (Vec::new(), [0_u64; 3], 0);
    while let Some(done) = results.next().await {
        counts[done.result as usize] += 1;
        written += if done.result == Outcome::Downloaded { done.size_bytes } else { 0 };
        match out.form() {
            Form::Ndjson | Form::Name => out.list(&[done])?,
            // A table of ten thousand good files helps nobody: it shows what needs a look.
            Form::Table if done.result != Outcome::Failed => {}
            Form::Table | Form::Json => all.push(done),
        }
    }
    bar.finish_and_clear();
    let [downloaded, kept, failed] = counts;
    let summary = format!(
        "{} into {}: {} ({}), {kept} already there, {failed} failed",
        counted(number, "bundle"),
        dir.display(),
        counted(downloaded, "file") + " downloaded",
        bytes(written)
    );
    match out.form() {
        Form::Table => {
            if failed > 0 {
                out.list(&all)?;
            }
            out.text(&format!("{}\n", crate::present::one_line(&summary)))?;
        }
        Form::Json => out.list(&all)?,
        Form::Ndjson | Form::Name => out.note(&summary),
    }
    if failed > 0 && all.iter().any(|done| done.problem.as_deref().is_some_and(|problem| problem.contains("--force"))) {
        out.note("files that differ are never overwritten without --force");
    }
    Ok(if failed == 0 { exit::DONE } else { exit::SOME_NOT })
}

enum Planned {
    Object { task: TaskId, device: DeviceId, object: BundleObject, path: PathBuf },
    Manifest { task: TaskId, device: DeviceId, bytes: Vec<u8>, path: PathBuf },
    Failed(Fetched),
}

/// Gets the manifest and says what is to be fetched where.
async fn plan(job: Arc<Job>, bundle: Wanted, dir: PathBuf, by_device: bool) -> Result<Vec<Planned>, Fetched> {
    let task = bundle.task;
    let fail = |problem: String| Fetched {
        task,
        device: bundle.device.clone(),
        object: MANIFEST.to_owned(),
        path: dir.clone(),
        size_bytes: 0,
        result: Outcome::Failed,
        problem: Some(problem),
    };
    let manifest: BundleManifest =
        job.client.get("get the manifest", &["bundles", &task.to_string()], &[]).await.map_err(|failure| fail(reason_of(&failure)))?;
    if manifest.objects.len() > MAX_OBJECTS {
        return Err(fail(format!("the manifest lists {} objects, at most {MAX_OBJECTS} are believed", manifest.objects.len())));
    }
    if manifest.task != task || bundle.device.as_ref().is_some_and(|device| *device != manifest.device) {
        return Err(fail("the manifest is that of another bundle".to_owned()));
    }
    // A device id is safe as a directory name by its own rule.
    let dir = if by_device { dir.join(manifest.device.as_str()) } else { dir };
    let bytes = sealed_manifest(&job.client, &manifest).await;
    let mut planned = vec![Planned::Manifest { task, device: manifest.device.clone(), bytes, path: dir.join(MANIFEST) }];
    planned.extend(manifest.objects.into_iter().map(|object| {
        let path = dir.join(safe_path(&object.name));
        Planned::Object { task, device: manifest.device.clone(), object, path }
    }));
    Ok(planned)
}

/// The manifest byte for byte as it was sealed, so that its own digest can be checked; the same in our own words where the sealed one cannot be
/// had, or where a device has put an object in its place.
async fn sealed_manifest(client: &Client, manifest: &BundleManifest) -> Vec<u8> {
    let intent = "download the manifest";
    let read = async {
        let response = client.open(intent, &["bundles", &manifest.task.to_string(), "objects", MANIFEST], &[], HeaderMap::new()).await?;
        client.body(intent, response).await
    };
    match read.await {
        Ok(bytes) if serde_json::from_slice::<BundleManifest>(&bytes).is_ok_and(|sealed| sealed == *manifest) => bytes.to_vec(),
        _ => {
            let mut bytes = serde_json::to_vec_pretty(manifest).expect("a manifest is JSON");
            bytes.push(b'\n');
            bytes
        }
    }
}

async fn fetch(job: Arc<Job>, planned: Planned) -> Fetched {
    let (task, device, name, size_bytes, path, result) = match planned {
        Planned::Failed(failed) => return failed,
        Planned::Manifest { task, device, bytes, path } => {
            let expected = hex(&Sha256::digest(&bytes));
            let size = bytes.len() as u64;
            let result = match already(&job, &path, size, &expected).await {
                Ok(true) => Ok(Outcome::Kept),
                Ok(false) => write_whole(&job, &path, &bytes).await,
                Err(problem) => Err(problem),
            };
            (task, device, MANIFEST.to_owned(), size, path, result)
        }
        Planned::Object { task, device, object, path } => {
            let result = match already(&job, &path, object.size_bytes, &object.sha256).await {
                Ok(true) => {
                    job.bar.inc(object.size_bytes);
                    Ok(Outcome::Kept)
                }
                Ok(false) => object_to_file(&job, task, &object, &path).await,
                Err(problem) => Err(problem),
            };
            (task, device, object.name, object.size_bytes, path, result)
        }
    };
    let (result, problem) = match result {
        Ok(outcome) => (outcome, None),
        Err(problem) => (Outcome::Failed, Some(problem)),
    };
    Fetched { task, device: Some(device), object: name, path, size_bytes, result, problem }
}

/// Whether the file is there and good. There and not good is an error, unless it may be overwritten.
async fn already(job: &Job, path: &Path, size: u64, sha256: &str) -> Result<bool, String> {
    let metadata = match tokio::fs::symlink_metadata(path).await {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error.to_string()),
    };
    if metadata.is_dir() {
        return Err("a directory of that name is there".to_owned());
    }
    if metadata.is_file() && metadata.len() == size && digest_of(path).await.is_ok_and(|(_, found)| found == sha256) {
        return Ok(true);
    }
    if job.force { Ok(false) } else { Err("a file of that name is there and differs; --force overwrites it".to_owned()) }
}

/// Size and digest of a file.
pub(super) async fn digest_of(path: &Path) -> std::io::Result<(u64, String)> {
    let mut file = tokio::fs::File::open(path).await?;
    let mut buffer = vec![0; READ_BYTES];
    let (mut hasher, mut size) = (Sha256::new(), 0);
    loop {
        match file.read(&mut buffer).await? {
            0 => return Ok((size, hex(&hasher.finalize()))),
            read => {
                hasher.update(&buffer[..read]);
                size += read as u64;
            }
        }
    }
}

pub(super) fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A file under a temporary name; gone when it is dropped before it got its own.
struct Partial {
    temporary: PathBuf,
    done: bool,
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.done {
            // Best effort: what stays behind has a name that says what it is.
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

impl Partial {
    async fn create(job: &Job, path: &Path) -> Result<(Self, tokio::fs::File), String> {
        let parent = path.parent().expect("every path is below the directory");
        tokio::fs::create_dir_all(parent).await.map_err(|error| format!("cannot make {}: {error}", parent.display()))?;
        let number = job.counter.fetch_add(1, Ordering::Relaxed);
        let temporary = parent.join(format!(".muster-{}-{number}.part", std::process::id()));
        let file = tokio::fs::OpenOptions::new().write(true).create_new(true).open(&temporary).await;
        let file = file.map_err(|error| format!("cannot write {}: {error}", temporary.display()))?;
        Ok((Self { temporary, done: false }, file))
    }

    /// Gives it its name. Without `--force` a file that appeared meanwhile is not replaced.
    async fn finish(mut self, job: &Job, path: &Path, file: tokio::fs::File) -> Result<(), String> {
        file.sync_all().await.map_err(|error| error.to_string())?;
        drop(file);
        if job.force {
            tokio::fs::rename(&self.temporary, path).await.map_err(|error| error.to_string())?;
            self.done = true;
            return Ok(());
        }
        match tokio::fs::hard_link(&self.temporary, path).await {
            // The link is the file; the temporary name goes when this is dropped.
            Ok(()) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Err("a file of that name appeared meanwhile".to_owned()),
            // A file system without hard links: the check has just been made.
            Err(_) => {
                tokio::fs::rename(&self.temporary, path).await.map_err(|error| error.to_string())?;
                self.done = true;
                Ok(())
            }
        }
    }
}

async fn write_whole(job: &Job, path: &Path, bytes: &[u8]) -> Result<Outcome, String> {
    let (partial, mut file) = Partial::create(job, path).await?;
    file.write_all(bytes).await.map_err(|error| error.to_string())?;
    file.flush().await.map_err(|error| error.to_string())?;
    partial.finish(job, path, file).await?;
    Ok(Outcome::Downloaded)
}

async fn object_to_file(job: &Job, task: TaskId, object: &BundleObject, path: &Path) -> Result<Outcome, String> {
    let (partial, mut file) = Partial::create(job, path).await?;
    let task = task.to_string();
    let segments: Vec<&str> = ["bundles", &task, "objects"].into_iter().chain(object.name.split('/')).collect();
    let response = job.client.open("download the object", &segments, &[], HeaderMap::new()).await.map_err(|failure| reason_of(&failure))?;
    let mut pieces = response.bytes_stream();
    let (mut hasher, mut size) = (Sha256::new(), 0_u64);
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|error| reason_of(&job.client.transport("download the object", error)))?;
        size += piece.len() as u64;
        if size > object.size_bytes {
            return Err(format!("more bytes came than the {} of the manifest", object.size_bytes));
        }
        hasher.update(&piece);
        file.write_all(&piece).await.map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        job.bar.inc(piece.len() as u64);
    }
    file.flush().await.map_err(|error| error.to_string())?;
    if size != object.size_bytes {
        return Err(format!("{size} of {} bytes came", object.size_bytes));
    }
    let found = hex(&hasher.finalize());
    if found != object.sha256 {
        return Err(format!("its SHA-256 is {found}, the manifest says {}", object.sha256));
    }
    partial.finish(job, path, file).await?;
    Ok(Outcome::Downloaded)
}

async fn make_dir(dir: &Path) -> Result<(), Failure> {
    tokio::fs::create_dir_all(dir).await.map_err(|error| Failure::local(format!("make the directory {}", dir.display()), error.to_string()))
}

/// A failure in one line, for a table.
fn reason_of(failure: &Failure) -> String {
    match failure {
        Failure::Refused { problem, .. } if problem.detail.is_empty() => problem.title.clone(),
        Failure::Refused { problem, .. } => problem.detail.clone(),
        Failure::Strange { why, .. } | Failure::Local { why, .. } => why.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(force: bool) -> Job {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let connection = crate::args::Connection { url: "http://127.0.0.1:9".into(), token: None, token_file: None };
        Job { client: Client::new(&connection).expect("a client"), force, bar: ProgressBar::hidden(), counter: AtomicU64::new(0) }
    }

    fn sha(bytes: &[u8]) -> String {
        hex(&Sha256::digest(bytes))
    }

    #[tokio::test]
    async fn a_good_file_is_kept_and_a_different_one_is_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("x");
        assert_eq!(already(&job(false), &path, 3, &sha(b"abc")).await, Ok(false));
        std::fs::write(&path, "abc").expect("written");
        assert_eq!(already(&job(false), &path, 3, &sha(b"abc")).await, Ok(true));
        assert!(already(&job(false), &path, 3, &sha(b"abd")).await.expect_err("differs").contains("--force"));
        assert_eq!(already(&job(true), &path, 3, &sha(b"abd")).await, Ok(false));
        assert!(already(&job(true), dir.path(), 3, &sha(b"abd")).await.is_err(), "a directory is never replaced");
    }

    #[tokio::test]
    async fn a_file_appears_whole_or_not_at_all() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("deep/er/x");
        let files = || std::fs::read_dir(dir.path().join("deep/er")).expect("listed").count();
        let job = job(false);
        let (partial, _file) = Partial::create(&job, &path).await.expect("created");
        assert!(!path.exists());
        drop(partial);
        assert_eq!(files(), 0, "nothing stays behind");
        assert_eq!(write_whole(&job, &path, b"abc").await, Ok(Outcome::Downloaded));
        assert_eq!(std::fs::read(&path).expect("there"), b"abc");
        assert!(write_whole(&job, &path, b"other").await.is_err(), "it is there by now");
        assert_eq!(std::fs::read(&path).expect("there"), b"abc");
        assert_eq!(files(), 1);
    }

    #[tokio::test]
    async fn force_replaces_the_file_and_not_what_a_link_points_to() {
        let dir = tempfile::tempdir().expect("a directory");
        let (target, link) = (dir.path().join("target"), dir.path().join("link"));
        std::fs::write(&target, "precious").expect("written");
        std::os::unix::fs::symlink(&target, &link).expect("linked");
        assert!(already(&job(false), &link, 3, &sha(b"abc")).await.is_err());
        assert_eq!(write_whole(&job(true), &link, b"abc").await, Ok(Outcome::Downloaded));
        assert_eq!(std::fs::read(&target).expect("there"), b"precious");
        assert_eq!(std::fs::read(&link).expect("there"), b"abc");
    }
}
