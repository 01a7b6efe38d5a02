//! What reached the devices of a process, and when: one JSON line each time a request arrives and each time a device is done with one. For
//! measuring rates and windows where they count, which is at the devices.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use muster_wire::DeviceId;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Happened {
    /// A request arrived. A repeated one comes with the attempt of the first.
    Arrived,
    /// The device is done with it: it answered and nothing is left to upload.
    Done,
}

/// A line of a trace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Unix time in milliseconds, by this machine's clock.
    pub at_ms: i64,
    /// What happened.
    pub what: Happened,
    /// At which device.
    pub device: DeviceId,
    /// The attempt it was about.
    pub attempt: Uuid,
    /// Method of the request, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
}

/// A trace cannot be begun.
#[derive(Debug, thiserror::Error)]
#[error("the trace file {path} cannot be written: {cause}")]
pub struct TraceError {
    path: PathBuf,
    #[source]
    cause: std::io::Error,
}

/// An open trace.
#[derive(Debug)]
pub(crate) struct Trace(Mutex<File>);

impl Trace {
    /// Appends to a file, made when it is missing.
    pub(crate) fn append_to(path: &Path) -> Result<Self, TraceError> {
        let file = File::options().create(true).append(true).open(path);
        file.map(|file| Self(Mutex::new(file))).map_err(|cause| TraceError { path: path.to_owned(), cause })
    }

    pub(crate) fn note(&self, what: Happened, device: &DeviceId, attempt: Uuid, method: Option<&str>) {
        let at_ms = i64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX);
        let line = Line { at_ms, what, device: device.clone(), attempt, method: method.map(str::to_owned) };
        let mut text = serde_json::to_vec(&line).expect("plain data is JSON");
        text.push(b'\n');
        let mut file = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Err(error) = file.write_all(&text) {
            tracing::warn!(%error, "a line of the trace is lost");
        }
    }
}
