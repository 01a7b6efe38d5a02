//! Writing the registry: lists of devices, tags, forgetting.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};

use axum::body::Body;
use bytes::Bytes;
use futures_util::StreamExt as _;
use http::StatusCode;
use muster_store::{DeviceEntry, Entered, Forgotten, MAX_ENTRIES};
use muster_wire::DeviceId;
use muster_wire::http::{
    DevicePatch, DeviceView, DevicesPatch, DevicesPatched, Imported, MAX_IMPORT_BYTES, MAX_IMPORT_ROWS, MAX_REFUSED_LISTED,
    MAX_TARGET_DEVICES, MAX_WHOLE_IMPORT_BYTES, Refusal,
};
use time::OffsetDateTime;
use tokio::sync::mpsc;

use crate::api::extract::BODY_TIMEOUT;
use crate::api::problem::{ApiError, ApiResult};
use crate::api::{Api, device_not_found};
use crate::import::{self, Broken, Format, Pieces, ReadRow};
use crate::targets::MAX_UNKNOWN_LISTED;

/// Imports at the same time; each holds a thread and a few batches of rows.
pub(crate) const MAX_IMPORTS: usize = 4;
/// Pieces of a body, and batches of rows, that are read ahead.
const AHEAD: usize = 2;

/// How a list is entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Row by row: one that is refused keeps no other out.
    Rows,
    /// All rows, or none.
    AllOrNothing,
    /// Not at all: only what would come of it.
    DryRun,
}

/// Enters a list of devices.
pub(crate) async fn import(api: &Api, who: &str, format: Format, body: Body, mode: Mode) -> ApiResult<Imported> {
    let Ok(_permit) = api.imports.try_acquire() else {
        let detail = format!("{MAX_IMPORTS} lists are being entered already");
        return Err(ApiError::new(StatusCode::TOO_MANY_REQUESTS, "too_many_imports", "Too many imports", detail)
            .next_step("try again when one of them has ended"));
    };
    let (pieces, body_pieces) = mpsc::channel(AHEAD);
    let (batches, mut rows) = mpsc::channel(AHEAD);
    let feeding = tokio::spawn(feed(body, pieces));
    let limit = if mode == Mode::AllOrNothing { MAX_WHOLE_IMPORT_BYTES } else { MAX_IMPORT_BYTES };
    let reading = tokio::task::spawn_blocking(move || read(format, Pieces::new(body_pieces, limit), &batches));
    let mut entering =
        Entering { api, who, mode, imported: Imported::default(), seen: HashSet::new(), hasher: RandomState::new(), whole: Vec::new() };
    while let Some(batch) = rows.recv().await {
        if !entering.take(batch).await? {
            break;
        }
    }
    drop(rows);
    let ended = reading.await;
    feeding.abort();
    let broken = match ended {
        Ok(ended) => ended.err(),
        Err(error) => return Err(ApiError::internal("read a list of devices", &error)),
    };
    entering.finish(broken).await
}

/// Hands the body on, piece by piece.
async fn feed(body: Body, pieces: mpsc::Sender<std::io::Result<Bytes>>) {
    let mut body = body.into_data_stream();
    loop {
        let piece = match tokio::time::timeout(BODY_TIMEOUT, body.next()).await {
            Ok(None) => return,
            Ok(Some(piece)) => piece.map_err(|_| std::io::Error::other("the list ended before it was complete")),
            Err(_) => Err(std::io::Error::other(format!("nothing more of the list came within {BODY_TIMEOUT:?}"))),
        };
        let last = piece.is_err();
        if pieces.send(piece).await.is_err() || last {
            return;
        }
    }
}

fn read(format: Format, input: Pieces, batches: &mpsc::Sender<Vec<ReadRow>>) -> Result<(), Broken> {
    let mut batch = Vec::with_capacity(MAX_ENTRIES);
    let ended = import::read(format, input, |row| {
        batch.push(row);
        batch.len() < MAX_ENTRIES || batches.blocking_send(std::mem::replace(&mut batch, Vec::with_capacity(MAX_ENTRIES))).is_ok()
    });
    if !batch.is_empty() {
        // Nobody there: enough was read.
        let _ = batches.blocking_send(batch);
    }
    ended
}

struct Entering<'a> {
    api: &'a Api,
    who: &'a str,
    mode: Mode,
    imported: Imported,
    /// Digests of the ids seen: a million ids themselves would be a hundred megabytes. Two ids of one list share one in ten million lists.
    seen: HashSet<u64>,
    hasher: RandomState,
    whole: Vec<(u64, DeviceEntry)>,
}

impl Entering<'_> {
    /// Takes a batch; false when no more is wanted.
    async fn take(&mut self, batch: Vec<ReadRow>) -> ApiResult<bool> {
        let mut entries = Vec::with_capacity(batch.len());
        for row in batch {
            if self.imported.rows == MAX_IMPORT_ROWS {
                self.enter(entries).await?;
                let reason = format!("a list has at most {MAX_IMPORT_ROWS} rows; what follows was not read");
                self.refuse(Refusal {
                    line: None,
                    column: None,
                    device: None,
                    reason,
                    next_step: "import the rest as a list of its own".to_owned(),
                });
                return Ok(false);
            }
            self.imported.rows += 1;
            match row {
                ReadRow::Refused(refusal) => self.refuse(refusal),
                ReadRow::Entry(line, entry) if self.seen.insert(self.hasher.hash_one(&entry.device)) => entries.push((line, entry)),
                ReadRow::Entry(line, entry) => self.refuse(Refusal {
                    line: Some(line),
                    column: Some("id".to_owned()),
                    reason: format!("{} stands in an earlier row", entry.device),
                    device: Some(entry.device),
                    next_step: "keep one row per device".to_owned(),
                }),
            }
        }
        self.enter(entries).await?;
        Ok(true)
    }

    async fn enter(&mut self, mut entries: Vec<(u64, DeviceEntry)>) -> ApiResult<()> {
        if self.mode == Mode::AllOrNothing {
            self.whole.append(&mut entries);
            return Ok(());
        }
        let (lines, entries): (Vec<u64>, Vec<DeviceEntry>) = entries.into_iter().unzip();
        let outcomes = match self.mode {
            Mode::DryRun => self.api.store.preview_devices(&entries).await?,
            _ => self.api.store.enter_devices(&entries, self.who, OffsetDateTime::now_utc()).await?,
        };
        self.count(&lines, &entries, outcomes);
        Ok(())
    }

    fn count(&mut self, lines: &[u64], entries: &[DeviceEntry], outcomes: Vec<Entered>) {
        for ((line, entry), outcome) in lines.iter().zip(entries).zip(outcomes) {
            match outcome {
                Entered::New => self.imported.new += 1,
                Entered::Changed => self.imported.changed += 1,
                Entered::Unchanged | Entered::Unknown => self.imported.unchanged += 1,
                Entered::Refused(error) => self.refuse(too_large(Some(*line), &entry.device, error.to_string())),
            }
        }
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.imported.refused += 1;
        if self.imported.refusals.len() < MAX_REFUSED_LISTED {
            self.imported.refusals.push(refusal);
        }
    }

    async fn finish(mut self, broken: Option<Broken>) -> ApiResult<Imported> {
        if let Some(broken) = broken {
            if self.imported.rows == 0 {
                let field = format!("line {}", broken.line);
                return Err(ApiError::new(
                    StatusCode::UNPROCESSABLE_ENTITY,
                    "invalid_import",
                    "Not a list of devices",
                    "the list cannot be read",
                )
                .next_step(broken.next_step)
                .field(field, broken.reason));
            }
            let reason = format!("{}; what follows was not read", broken.reason);
            self.refuse(Refusal { line: Some(broken.line), column: None, device: None, reason, next_step: broken.next_step });
        }
        if self.mode == Mode::AllOrNothing && self.imported.refused == 0 {
            let (lines, entries): (Vec<u64>, Vec<DeviceEntry>) = std::mem::take(&mut self.whole).into_iter().unzip();
            let outcomes = self.api.store.enter_all_devices(&entries, self.who, OffsetDateTime::now_utc()).await?;
            self.count(&lines, &entries, outcomes);
        }
        self.imported.written = match self.mode {
            Mode::DryRun => false,
            Mode::AllOrNothing => self.imported.refused == 0,
            Mode::Rows => true,
        };
        if self.mode == Mode::AllOrNothing && !self.imported.written {
            (self.imported.new, self.imported.changed, self.imported.unchanged) = (0, 0, 0);
        }
        let Imported { rows, new, changed, refused, written, .. } = self.imported;
        tracing::info!(rows, new, changed, refused, written, "a list of devices was read");
        Ok(self.imported)
    }
}

fn too_large(line: Option<u64>, device: &DeviceId, reason: String) -> Refusal {
    let next_step = format!("remove tags first: muster devices tag {device} NAME-");
    Refusal { line, column: Some("tags".to_owned()), device: Some(device.clone()), reason, next_step }
}

fn entry(device: DeviceId, patch: &DevicePatch) -> ApiResult<DeviceEntry> {
    let entry = DeviceEntry { device, tags: patch.tags.clone(), parent: patch.parent.clone() };
    import::check(&entry).map_err(|(field, reason, next_step)| invalid_patch().next_step(next_step).field(field, reason))?;
    Ok(entry)
}

fn invalid_patch() -> ApiError {
    ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_patch", "Devices cannot be changed like this", "a value cannot be used")
}

/// Changes what is said of a device.
pub(crate) async fn patch(api: &Api, who: &str, id: DeviceId, patch: DevicePatch) -> ApiResult<DeviceView> {
    let entry = entry(id.clone(), &patch)?;
    for outcome in api.store.change_devices(&[entry], who, OffsetDateTime::now_utc()).await? {
        match outcome {
            Entered::Unknown => return Err(device_not_found(&id)),
            Entered::Refused(error) => return Err(invalid_patch().next_step("remove tags first").field("tags", error.to_string())),
            Entered::New | Entered::Changed | Entered::Unchanged => {}
        }
    }
    api.store.device(&id).await?.ok_or_else(|| device_not_found(&id))
}

/// Changes what is said of many devices; of none when one of them is not known.
pub(crate) async fn patch_many(api: &Api, who: &str, body: DevicesPatch) -> ApiResult<DevicesPatched> {
    let mut devices = body.devices;
    devices.sort_unstable();
    devices.dedup();
    if devices.is_empty() || devices.len() > MAX_TARGET_DEVICES {
        let why = format!("names {} devices; a change is for 1 to {MAX_TARGET_DEVICES}", devices.len());
        return Err(invalid_patch().next_step("name the devices, or divide them among several requests").field("devices", why));
    }
    let known: HashSet<DeviceId> = api.store.known_devices(&devices).await?.into_iter().map(|device| device.id).collect();
    let unknown: Vec<&DeviceId> = devices.iter().filter(|device| !known.contains(*device)).collect();
    if !unknown.is_empty() {
        let detail = format!("{} of the devices named are not in the registry; nothing was changed", unknown.len());
        let error = ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "unknown_devices", "Devices are not known", detail)
            .next_step("check the spelling, or enter them first (muster devices import)");
        let listed = unknown.iter().take(MAX_UNKNOWN_LISTED);
        return Err(listed.fold(error, |error, device| error.field("devices", format!("{device} is not in the registry"))));
    }
    drop(known);
    let entries = devices.into_iter().map(|device| entry(device, &body.patch)).collect::<ApiResult<Vec<_>>>()?;
    let mut patched = DevicesPatched::default();
    for chunk in entries.chunks(MAX_ENTRIES) {
        let outcomes = api.store.change_devices(chunk, who, OffsetDateTime::now_utc()).await?;
        for (entry, outcome) in chunk.iter().zip(outcomes) {
            match outcome {
                Entered::New | Entered::Changed => patched.changed += 1,
                Entered::Unchanged => patched.unchanged += 1,
                // Forgotten since we looked.
                Entered::Unknown => patched.refuse(Refusal {
                    line: None,
                    column: None,
                    device: Some(entry.device.clone()),
                    reason: "it is no longer in the registry".to_owned(),
                    next_step: "enter it again (muster devices import)".to_owned(),
                }),
                Entered::Refused(error) => patched.refuse(too_large(None, &entry.device, error.to_string())),
            }
        }
    }
    Ok(patched)
}

/// Takes a device out of the registry; gives it as it was.
pub(crate) async fn forget(api: &Api, who: &str, id: DeviceId) -> ApiResult<DeviceView> {
    let device = api.store.device(&id).await?.ok_or_else(|| device_not_found(&id))?;
    match api.store.forget_device(&id, who, OffsetDateTime::now_utc()).await? {
        Forgotten::Done => Ok(device),
        Forgotten::Unknown => Err(device_not_found(&id)),
        Forgotten::Busy(task) => Err(ApiError::new(
            StatusCode::CONFLICT,
            "device_busy",
            "The device has work to do",
            format!("{task} asks {id} for something and is not done"),
        )
        .next_step(format!("wait for it, or cancel it: muster collections cancel {}", task.collection()))),
    }
}
