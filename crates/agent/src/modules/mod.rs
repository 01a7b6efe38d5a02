//! Where logs come from: containers, the journal, files. A module is whatever has a name and lines.

pub mod docker;
pub mod files;
mod glob;
pub mod journald;
mod stamp;

use std::path::PathBuf;

pub(crate) use muster_wire::method::filter::RuntimeWindow as Window;
use muster_wire::method::frames::Stream;
use tokio::sync::mpsc;

use docker::Docker;
use files::FileSource;
use journald::Journald;

/// Lines that travel together from a source.
pub const BATCH_LINES: usize = 256;
/// Batches between a source and its reader.
pub const BATCHES_IN_FLIGHT: usize = 4;
/// Longest line in one piece; longer ones are cut into several, as container runtimes do.
pub const MAX_LINE_BYTES: usize = 64 * 1024;
/// Most modules of a device.
pub const MAX_MODULES: usize = 500;

/// One line as its source has it, with its newline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogLine {
    pub stream: Stream,
    /// When it was received, in nanoseconds since 1970; for files the line's own time, or the nearest there is.
    pub received_unix_nanos: i64,
    pub payload: Vec<u8>,
}

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Nothing of that name.
    #[error("there is no module {0:?}")]
    Gone(String),
    /// The container engine.
    #[error("container engine at {socket}: {reason}")]
    Docker {
        /// Its socket.
        socket: PathBuf,
        /// What it said.
        reason: String,
        /// Its HTTP status, 0 when there was none.
        status: u16,
    },
    /// The journal.
    #[error("journalctl: {0}")]
    Journald(String),
    /// A file.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl SourceError {
    /// Whether the request itself was at fault, as the engine sees it.
    pub fn is_request(&self) -> bool {
        matches!(self, Self::Docker { status: 400, .. })
    }
}

/// The receiving end of a log.
pub(crate) type Lines = mpsc::Receiver<Result<Vec<LogLine>, SourceError>>;

/// The sending end: gathers lines into batches.
#[derive(Debug)]
pub(crate) struct LineSink {
    batch: Vec<LogLine>,
    out: mpsc::Sender<Result<Vec<LogLine>, SourceError>>,
}

impl LineSink {
    pub(crate) fn channel() -> (Self, Lines) {
        let (out, lines) = mpsc::channel(BATCHES_IN_FLIGHT);
        (Self { batch: Vec::with_capacity(BATCH_LINES), out }, lines)
    }

    /// False when nobody reads any more.
    pub(crate) async fn push(&mut self, line: LogLine) -> bool {
        self.batch.push(line);
        self.batch.len() < BATCH_LINES || self.flush().await
    }

    pub(crate) async fn flush(&mut self) -> bool {
        self.batch.is_empty() || self.out.send(Ok(std::mem::take(&mut self.batch))).await.is_ok()
    }

    /// The same from a blocking thread.
    pub(crate) fn push_blocking(&mut self, line: LogLine) -> bool {
        self.batch.push(line);
        self.batch.len() < BATCH_LINES || self.flush_blocking()
    }

    pub(crate) fn flush_blocking(&mut self) -> bool {
        self.batch.is_empty() || self.out.blocking_send(Ok(std::mem::take(&mut self.batch))).is_ok()
    }

    pub(crate) async fn end(mut self, result: Result<(), SourceError>) {
        self.flush().await;
        if let Err(error) = result {
            let _ = self.out.send(Err(error)).await;
        }
    }

    pub(crate) fn end_blocking(mut self, result: Result<(), SourceError>) {
        self.flush_blocking();
        if let Err(error) = result {
            let _ = self.out.blocking_send(Err(error));
        }
    }
}

/// A module that is there now.
#[derive(Debug, Clone)]
pub(crate) struct Module {
    pub name: String,
    pub kind: Kind,
}

#[derive(Debug, Clone)]
pub(crate) enum Kind {
    Container { id: String },
    Journal(Journald),
    Files(FileSource),
}

/// All modules of a real device.
#[derive(Debug)]
pub(crate) struct Modules {
    pub docker: Option<Docker>,
    pub configured: Vec<Module>,
}

impl Modules {
    /// What is there, configured modules first; a container of the same name as a configured module is hidden by it.
    pub(crate) async fn list(&self) -> Result<Vec<Module>, SourceError> {
        let mut modules = self.configured.clone();
        if let Some(docker) = &self.docker {
            for container in docker.containers().await? {
                if modules.iter().all(|module| module.name != container.name) {
                    modules.push(Module { name: container.name, kind: Kind::Container { id: container.id } });
                }
            }
        }
        modules.truncate(MAX_MODULES);
        Ok(modules)
    }

    /// Starts to read a log. The window is a hint that saves work: a source may give more, never less; an error of the source comes as the last item.
    pub(crate) fn read(&self, module: &Module, window: Window) -> Lines {
        let (mut sink, lines) = LineSink::channel();
        match module.kind.clone() {
            Kind::Container { id } => {
                let docker = self.docker.clone();
                tokio::spawn(async move {
                    let result = match docker {
                        Some(docker) => docker.logs(&id, window, &mut sink).await,
                        None => Err(SourceError::Gone(id)),
                    };
                    sink.end(result).await;
                });
            }
            Kind::Journal(journal) => {
                tokio::spawn(async move {
                    let result = journal.read(window, &mut sink).await;
                    sink.end(result).await;
                });
            }
            Kind::Files(files) => {
                tokio::task::spawn_blocking(move || {
                    let result = files.read(window, &mut sink);
                    sink.end_blocking(result);
                });
            }
        }
        lines
    }
}
