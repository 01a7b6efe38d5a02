//! What can go wrong with bytes at rest, and whether trying again can help.

use std::io;
use std::path::{Path, PathBuf};

use muster_wire::AttemptId;

use crate::name::{InvalidName, ObjectName};

/// Why the landing zone did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum LandingError {
    /// A setting cannot work.
    #[error("landing.{setting}: {reason}")]
    Settings {
        /// Name of the setting below `landing`.
        setting: &'static str,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// A name that no object may have.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// A grant that would already be over, or would live too long.
    #[error("a grant for {attempt} cannot be made: {reason}")]
    Grant {
        /// Whose inbox.
        attempt: AttemptId,
        /// What is wrong.
        reason: String,
    },
    /// The inbox was never opened, or is closed.
    #[error("the inbox of {attempt} does not exist: it was never opened or is closed already")]
    InboxNotFound {
        /// Whose inbox.
        attempt: AttemptId,
    },
    /// No such object.
    #[error("{attempt} has no object {name:?}", name = name.as_str())]
    ObjectNotFound {
        /// Whose object.
        attempt: AttemptId,
        /// Its name.
        name: ObjectName,
    },
    /// More objects than an inbox may hold; nothing of it is worth reading.
    #[error("{attempt} has more than {limit} objects")]
    TooManyObjects {
        /// Whose inbox.
        attempt: AttemptId,
        /// The limit.
        limit: usize,
    },
    /// The objects of an inbox are larger than allowed, taken together; nothing of it is worth reading.
    #[error("the objects of {attempt} are larger than {limit_bytes} bytes together")]
    InboxTooLarge {
        /// Whose inbox.
        attempt: AttemptId,
        /// The limit.
        limit_bytes: u64,
    },
    /// An object is larger than allowed.
    #[error("{attempt}: object {name:?} is larger than {limit_bytes} bytes", name = name.as_str())]
    ObjectTooLarge {
        /// Whose object.
        attempt: AttemptId,
        /// Its name.
        name: ObjectName,
        /// The limit.
        limit_bytes: u64,
    },
    /// The name is a folder of other objects, or goes through an object.
    #[error("{attempt}: {name:?} cannot be both an object and a folder of objects", name = name.as_str())]
    NameConflict {
        /// Whose object.
        attempt: AttemptId,
        /// Its name.
        name: ObjectName,
    },
    /// A range that starts past the end.
    #[error("the range starts at byte {start}, the object has {size_bytes}")]
    RangeOutside {
        /// First byte asked for.
        start: u64,
        /// Size of the object.
        size_bytes: u64,
    },
    /// The object was replaced while it was read.
    #[error("{attempt}: object {name:?} changed while it was read", name = name.as_str())]
    ObjectChanged {
        /// Whose object.
        attempt: AttemptId,
        /// Its name.
        name: ObjectName,
    },
    /// The storage refuses our credential.
    #[error("the storage account refuses to {doing}: check the credential and its role")]
    Denied {
        /// What was being done.
        doing: &'static str,
        /// The storage's answer.
        source: Box<azure_core::Error>,
    },
    /// The storage did not do it this time.
    #[error("the storage account could not {doing}")]
    Azure {
        /// What was being done.
        doing: &'static str,
        /// The storage's answer.
        source: Box<azure_core::Error>,
    },
    /// The disk did not do it this time.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which path.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The probe of `check` failed at a step.
    #[error("the landing zone does not work: {step} failed")]
    Check {
        /// The step.
        step: &'static str,
        /// Why.
        source: Box<LandingError>,
    },
    /// What was read back is not what was written.
    #[error("the landing zone returned other bytes than were written")]
    Corrupt,
    /// The grant did not work when used as a device would.
    #[error("an upload with a fresh grant was answered {status}: {body}")]
    GrantRefused {
        /// HTTP status.
        status: u16,
        /// Start of the answer.
        body: String,
    },
    /// The storage account could not be reached with plain HTTP.
    #[error("an upload with a fresh grant got no answer")]
    GrantUnreachable {
        /// Why; without the URL, which holds the grant.
        source: reqwest::Error,
    },
}

impl LandingError {
    /// Whether trying the same again cannot help.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Azure { .. } | Self::Io { .. } | Self::ObjectChanged { .. } | Self::GrantUnreachable { .. } => false,
            Self::Check { source, .. } => source.is_permanent(),
            _ => true,
        }
    }

    pub(crate) fn io<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + use<'a> {
        move |source| Self::Io { doing, path: path.to_owned(), source }
    }
}
