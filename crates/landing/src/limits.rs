//! What one inbox, one object and one request may cost. Every number is a limit on somebody we do not trust.

use std::time::Duration;

const MIB: u64 = 1024 * 1024;
const GIB: u64 = 1024 * MIB;

/// Default of [`Limits::max_object_bytes`].
pub const MAX_OBJECT_BYTES: u64 = 8 * GIB;
/// Default of [`Limits::max_inbox_bytes`].
pub const MAX_INBOX_BYTES: u64 = 16 * GIB;
/// Default of [`Limits::max_objects`].
pub const MAX_OBJECTS_PER_INBOX: usize = 1_000;
/// Default of [`Limits::max_block_bytes`].
pub const MAX_BLOCK_BYTES: u64 = 256 * MIB;
/// Default of [`Limits::max_uncommitted_blocks`]; Azure has the same for one blob.
pub const MAX_UNCOMMITTED_BLOCKS: usize = 100_000;
/// Default of [`Limits::max_committed_blocks`]; Azure's own number.
pub const MAX_COMMITTED_BLOCKS: usize = 50_000;
/// Default of [`Limits::body_idle`].
pub const BODY_IDLE_SECONDS: u64 = 60;
/// Default of [`Limits::max_concurrent_uploads`].
pub const MAX_CONCURRENT_UPLOADS: usize = 1_024;
/// Default of [`Limits::max_uploads_per_inbox`].
pub const MAX_UPLOADS_PER_INBOX: usize = 64;

/// Slowest body that is still served, once it has lasted as long as [`Limits::body_idle`]: below this a peer only holds a socket.
pub const MIN_BODY_BYTES_PER_SECOND: u64 = 512;
/// How much of a body is gathered before it is written to disk in one go. The memory of an upload is about this.
pub const STREAM_BUFFER_BYTES: usize = 512 * 1024;
/// Largest list of blocks: 50,000 of the longest ids in their tags.
pub const MAX_BLOCK_LIST_BYTES: usize = 8 * MIB as usize;
/// Longest block id after decoding, in bytes; Azure's own number.
pub const MAX_BLOCK_ID_BYTES: usize = 64;
/// Block lists assembled at the same time; each may hold [`MAX_BLOCK_LIST_BYTES`] and keeps the disk busy.
pub const MAX_CONCURRENT_COMMITS: usize = 4;
/// Default of [`Limits::upload_queue`].
pub const UPLOAD_QUEUE_SECONDS: u64 = 10;
/// Longest life of a grant: a user delegation key of Azure lives no longer.
pub const MAX_GRANT_SECONDS: i64 = 7 * 24 * 3600;
/// Largest object that is handed over in memory with `put_sealed`.
pub const MAX_PUT_SEALED_BYTES: usize = 64 * MIB as usize;
/// Temporary files younger than this are never swept: they may belong to an upload in progress.
pub const MIN_SWEEP_AGE_SECONDS: u64 = 10 * 60;

/// Limits that an operator may set. The embedded endpoint holds all of them; with Azure Blob Storage the account itself
/// takes the uploads, and the sizes and the number of objects are held when the inbox is listed and sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest object.
    pub max_object_bytes: u64,
    /// Largest sum of an inbox: objects, blocks not yet committed and bytes still arriving.
    pub max_inbox_bytes: u64,
    /// Most objects in an inbox, those not yet committed included.
    pub max_objects: usize,
    /// Largest block, staged or appended.
    pub max_block_bytes: u64,
    /// Most blocks of an inbox that are staged and not committed.
    pub max_uncommitted_blocks: usize,
    /// Most blocks in one object, committed or appended.
    pub max_committed_blocks: usize,
    /// Longest pause within a request body.
    pub body_idle: Duration,
    /// Uploads served at the same time.
    pub max_concurrent_uploads: usize,
    /// Uploads served at the same time for one inbox.
    pub max_uploads_per_inbox: usize,
    /// How long a request waits for a free place among the uploads before it is told to come back.
    pub upload_queue: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_object_bytes: MAX_OBJECT_BYTES,
            max_inbox_bytes: MAX_INBOX_BYTES,
            max_objects: MAX_OBJECTS_PER_INBOX,
            max_block_bytes: MAX_BLOCK_BYTES,
            max_uncommitted_blocks: MAX_UNCOMMITTED_BLOCKS,
            max_committed_blocks: MAX_COMMITTED_BLOCKS,
            body_idle: Duration::from_secs(BODY_IDLE_SECONDS),
            max_concurrent_uploads: MAX_CONCURRENT_UPLOADS,
            max_uploads_per_inbox: MAX_UPLOADS_PER_INBOX,
            upload_queue: Duration::from_secs(UPLOAD_QUEUE_SECONDS),
        }
    }
}
