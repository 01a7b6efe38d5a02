//! Where bundles land.
//!
//! A device that is asked for logs gets a [`Grant`]: a URL with which it may write into one attempt's *inbox*, and do
//! nothing else. What it writes there is hostile until judged. [`Landing::seal`] takes an object out of the device's
//! reach, hashing it on the way; from then on only the sealed copy counts. After sealing, [`Landing::close_inbox`] makes
//! the grant useless.
//!
//! ```text
//!   device ──grant──► inbox ──seal (copy + sha256)──► sealed ──reader──► judged
//!                       │                               ├──open──► downloaded
//!                  close_inbox                          └── manifest.json, written last with put_sealed
//! ```
//!
//! Two kinds: a directory, written through our own [`endpoint`], and Azure Blob Storage. One contract suite
//! (`tests/contract.rs`) holds both to the same behaviour. Every operation may be repeated; every one may be cancelled,
//! and then leaves nothing visible that is not whole.

mod azure;
mod check;
mod checksum;
mod directory;
pub mod endpoint;
mod error;
mod grant;
pub mod limits;
mod listing;
mod name;
mod reader;
mod sas;

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use muster_wire::AttemptId;
use time::OffsetDateTime;

pub use azure::{AzureCredential, AzureLanding, AzureOptions, MAX_CONTAINER_PREFIX_CHARS};
pub use directory::{DirectoryLanding, DirectoryOptions, MIN_SIGNING_KEY_BYTES};
pub use error::LandingError;
pub use grant::Grant;
pub use limits::{Limits, MAX_CONCURRENT_COMMITS};
pub use listing::{Digest, Download, InboxListing, InboxObject, SealedObject, SweepReport};
pub use name::{InvalidName, MANIFEST_NAME, MAX_OBJECT_NAME_BYTES, MAX_SEGMENT_BYTES, MAX_SEGMENTS, ObjectName};
pub use reader::SealedReader;

/// Settings of the landing zone.
#[derive(Debug, Clone)]
pub enum LandingOptions {
    /// A directory on this machine.
    Directory(DirectoryOptions),
    /// A storage account.
    Azure(AzureOptions),
}

/// The landing zone. Cheap to clone.
#[derive(Debug, Clone)]
pub enum Landing {
    /// A directory on this machine.
    Directory(DirectoryLanding),
    /// A storage account.
    Azure(AzureLanding),
}

/// The same call on whichever kind it is.
macro_rules! either {
    ($landing:expr, $kind:ident => $call:expr) => {
        match $landing {
            Landing::Directory($kind) => $call,
            Landing::Azure($kind) => $call,
        }
    };
}

impl Landing {
    /// Prepare the landing zone these settings describe. With Azure, the process must have a TLS provider installed, and
    /// nothing is sent yet: [`Landing::check`] tells whether it works.
    pub async fn open(options: LandingOptions) -> Result<Self, LandingError> {
        match options {
            LandingOptions::Directory(options) => DirectoryLanding::open(options).await.map(Self::Directory),
            LandingOptions::Azure(options) => AzureLanding::open(options).map(Self::Azure),
        }
    }

    /// The directory, if it is one: its [`endpoint::router`] has to be served.
    pub fn directory(&self) -> Option<&DirectoryLanding> {
        match self {
            Self::Directory(directory) => Some(directory),
            Self::Azure(_) => None,
        }
    }

    /// Open the inbox of an attempt and make a grant for it. May be repeated: the inbox stays, the grant is another one.
    /// A grant lives up to 7 days.
    pub async fn open_inbox(&self, attempt: AttemptId, expires_at: OffsetDateTime) -> Result<Grant, LandingError> {
        either!(self, kind => kind.open_inbox(attempt, expires_at).await)
    }

    /// What is whole in an inbox. [`LandingError::InboxNotFound`] when it was never opened or is closed,
    /// [`LandingError::TooManyObjects`] and [`LandingError::InboxTooLarge`] past the limits.
    pub async fn list_inbox(&self, attempt: AttemptId) -> Result<InboxListing, LandingError> {
        either!(self, kind => kind.list_inbox(attempt).await)
    }

    /// Take an object out of the device's reach and hash it. May be repeated: the sealed object is replaced in one step,
    /// by the same bytes unless the device wrote others meanwhile.
    pub async fn seal(&self, attempt: AttemptId, name: &ObjectName) -> Result<SealedObject, LandingError> {
        let sealed = either!(self, kind => kind.seal(attempt, name).await)?;
        metrics::counter!("muster_landing_sealed_bytes_total").increment(sealed.size_bytes);
        Ok(sealed)
    }

    /// Put bytes of our own beside the sealed objects: an answer that came over MQTT, or the manifest. In one step.
    pub async fn put_sealed(&self, attempt: AttemptId, name: &ObjectName, bytes: Bytes) -> Result<SealedObject, LandingError> {
        if bytes.len() > limits::MAX_PUT_SEALED_BYTES {
            return Err(LandingError::ObjectTooLarge { attempt, name: name.clone(), limit_bytes: limits::MAX_PUT_SEALED_BYTES as u64 });
        }
        either!(self, kind => kind.put_sealed(attempt, name, bytes).await)
    }

    /// Where the sealed objects of an attempt lie, for a person: a directory, or a URL without a grant.
    pub fn sealed_location(&self, attempt: AttemptId) -> String {
        either!(self, kind => kind.sealed_location(attempt))
    }

    /// The sealed objects of an attempt, the manifest included; none is an empty list.
    pub async fn list_sealed(&self, attempt: AttemptId) -> Result<Vec<InboxObject>, LandingError> {
        // One more than an inbox holds: the manifest.
        either!(self, kind => kind.list_sealed(attempt, limits::MAX_OBJECTS_PER_INBOX + 1).await)
    }

    /// The bytes of a sealed object, or a part of them. An end past the object's is cut; a start past it is
    /// [`LandingError::RangeOutside`].
    pub async fn open_sealed(&self, attempt: AttemptId, name: &ObjectName, range: Option<Range<u64>>) -> Result<Download, LandingError> {
        either!(self, kind => kind.open_sealed(attempt, name, range).await)
    }

    /// A sealed object for blocking code that jumps around in it, such as a zip reader. Must be called on the runtime and
    /// used off it, in `spawn_blocking`.
    pub async fn reader(&self, attempt: AttemptId, name: &ObjectName) -> Result<SealedReader, LandingError> {
        either!(self, kind => kind.reader(attempt, name).await)
    }

    /// End an inbox: its objects are removed and its grants are worth nothing. May be repeated. Seal first.
    pub async fn close_inbox(&self, attempt: AttemptId) -> Result<(), LandingError> {
        either!(self, kind => kind.close_inbox(attempt).await)
    }

    /// Remove the sealed objects of an attempt, the manifest included. May be repeated.
    pub async fn delete_sealed(&self, attempt: AttemptId) -> Result<(), LandingError> {
        either!(self, kind => kind.delete_sealed(attempt).await)
    }

    /// Remove what interrupted uploads and crashes left behind, if it is older than this (and than ten minutes). A storage
    /// account does it by itself.
    pub async fn sweep(&self, older_than: Duration) -> Result<SweepReport, LandingError> {
        match self {
            Self::Directory(directory) => directory.sweep(older_than).await,
            Self::Azure(_) => Ok(SweepReport::default()),
        }
    }
}
