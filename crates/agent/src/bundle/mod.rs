//! Support bundles: from `iotedge support-bundle` where that program exists, else our own zip in the same spirit.

pub(crate) mod archive;
pub(crate) mod check;
mod iotedge;
mod own;
pub mod redact;
pub(crate) mod system;

pub(crate) use iotedge::from_iotedge;
pub(crate) use own::own_bundle;

use muster_wire::method::MethodError;

/// What of the logs goes into a bundle.
#[derive(Debug, Clone, Default)]
pub(crate) struct Window {
    pub since: Option<String>,
    pub until: Option<String>,
    pub edge_runtime_only: bool,
    /// When it was asked for: the moment the window counts back from.
    pub asked_unix: i64,
}

/// Why a bundle could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// A bound that cannot be read.
    #[error(transparent)]
    Window(#[from] MethodError),
    /// Disk, or the limit of its size.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The archive itself.
    #[error("the zip cannot be written: {0}")]
    Zip(#[from] zip::result::ZipError),
    /// More entries than anybody could read.
    #[error("the bundle would have more than {} entries", archive::MAX_ENTRIES)]
    TooManyEntries,
    /// The writing thread ended before its time.
    #[error("the zip was given up")]
    Stopped,
    /// `iotedge support-bundle`.
    #[error("{program} support-bundle: {reason}")]
    IotEdge {
        /// As configured.
        program: String,
        /// What it said.
        reason: String,
    },
}
