//! A request body on its way to a temporary file: bounded in memory, size, time and room.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use futures_util::StreamExt as _;

use super::refusal::Refusal;
use crate::checksum::{Expected, Mismatch};
use crate::directory::temp::TempFile;
use crate::directory::{Inbox, Reservation, spawn};
use crate::limits::{Limits, MIN_BODY_BYTES_PER_SECOND, STREAM_BUFFER_BYTES};

/// What a body may be.
pub(crate) struct Plan {
    /// In the words of the refusal.
    pub(crate) what: &'static str,
    pub(crate) max_bytes: u64,
    /// What the client says it is; only a hint.
    pub(crate) declared: Option<u64>,
    pub(crate) expected: Expected,
    /// Whether the bytes are on the disk when this returns.
    pub(crate) sync: bool,
}

/// A body, whole, in a file nobody sees yet.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) temp: TempFile,
    pub(crate) size_bytes: u64,
    pub(crate) room: Reservation,
}

struct Sink {
    temp: Option<TempFile>,
    directory: PathBuf,
    expected: Expected,
}

impl Sink {
    /// The file comes into being with its first bytes, on the thread that writes them.
    fn write(&mut self, bytes: &[u8]) -> io::Result<&mut TempFile> {
        let temp = match &mut self.temp {
            Some(temp) => temp,
            none => none.insert(TempFile::create(&self.directory)?),
        };
        self.expected.update(bytes);
        temp.file().write_all(bytes)?;
        Ok(temp)
    }
}

/// Take a body in. It is gathered and written in large pieces, as each visit to a blocking thread has its price. The bytes
/// are copied into one buffer that lasts for the whole body: keeping the server's own pieces would hold on to its read
/// buffers, several times as large, and make it allocate new ones.
pub(crate) async fn receive(inbox: &Arc<Inbox>, limits: &Limits, body: Body, plan: Plan) -> Result<Received, Refusal> {
    let Plan { what, max_bytes, declared, expected, sync } = plan;
    let mut room = inbox.reserve();
    let mut sink = Sink { temp: None, directory: inbox.paths.temporary.clone(), expected };
    let mut stream = body.into_data_stream();
    let largest = declared.map_or(STREAM_BUFFER_BYTES, |declared| usize::try_from(declared).unwrap_or(usize::MAX).min(STREAM_BUFFER_BYTES));
    let mut buffer = Vec::with_capacity(largest);
    let mut size_bytes = 0u64;
    let started = Instant::now();
    loop {
        let next = tokio::time::timeout(limits.body_idle, stream.next()).await.map_err(|_| Refusal::Idle)?;
        let Some(piece) = next else { break };
        let mut piece = piece.map_err(|_| Refusal::Truncated)?;
        size_bytes += piece.len() as u64;
        if size_bytes > max_bytes {
            return Err(Refusal::TooLarge { what, limit: max_bytes });
        }
        room.grow(piece.len() as u64).map_err(|limit| Refusal::TooLarge { what: "an inbox", limit })?;
        too_slow(limits, started, size_bytes)?;
        while buffer.len() + piece.len() >= STREAM_BUFFER_BYTES {
            buffer.extend_from_slice(&piece.split_to(STREAM_BUFFER_BYTES - buffer.len()));
            let write = spawn(move || {
                sink.write(&buffer)?;
                buffer.clear();
                Ok((sink, buffer))
            });
            (sink, buffer) = write.await.map_err(Refusal::Disk)?;
        }
        buffer.extend_from_slice(&piece);
    }
    let finished = spawn(move || {
        let temp = sink.write(&buffer)?;
        if sync {
            temp.sync()?;
        }
        Ok(sink)
    });
    let Sink { temp, expected, .. } = finished.await.map_err(Refusal::Disk)?;
    expected.verify().map_err(|mismatch: Mismatch| Refusal::Checksum(mismatch))?;
    let temp = temp.expect("the last write creates the file if none did before");
    metrics::counter!("muster_landing_received_bytes_total").increment(size_bytes);
    Ok(Received { temp, size_bytes, room })
}

/// Take in a body that has to be looked at as a whole.
pub(crate) async fn receive_text(limits: &Limits, body: Body, max_bytes: usize, mut expected: Expected) -> Result<Vec<u8>, Refusal> {
    let mut stream = body.into_data_stream();
    let mut text = Vec::new();
    let started = Instant::now();
    loop {
        let next = tokio::time::timeout(limits.body_idle, stream.next()).await.map_err(|_| Refusal::Idle)?;
        let Some(piece) = next else { break };
        let piece = piece.map_err(|_| Refusal::Truncated)?;
        if text.len() + piece.len() > max_bytes {
            return Err(Refusal::TooLarge { what: "a block list", limit: max_bytes as u64 });
        }
        text.extend_from_slice(&piece);
        too_slow(limits, started, text.len() as u64)?;
    }
    expected.update(&text);
    expected.verify().map_err(Refusal::Checksum)?;
    Ok(text)
}

/// A trickle that never pauses long enough to be idle, and never ends.
fn too_slow(limits: &Limits, started: Instant, bytes: u64) -> Result<(), Refusal> {
    let elapsed = started.elapsed();
    if elapsed > limits.body_idle && bytes < MIN_BODY_BYTES_PER_SECOND * elapsed.as_secs().max(1) {
        return Err(Refusal::Idle);
    }
    Ok(())
}

/// Read a body we refused without having read it, up to a bound: most clients only look for the answer once they have
/// sent everything, and would report a broken connection instead of the reason.
pub(crate) async fn drain(limits: &Limits, body: Body, max_bytes: u64) {
    let mut stream = body.into_data_stream();
    let mut left = max_bytes;
    while let Ok(Some(Ok(piece))) = tokio::time::timeout(limits.body_idle.min(DRAIN_IDLE), stream.next()).await {
        left = left.saturating_sub(piece.len() as u64);
        if left == 0 {
            return;
        }
    }
}

const DRAIN_IDLE: std::time::Duration = std::time::Duration::from_secs(5);
