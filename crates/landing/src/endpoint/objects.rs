//! Put Blob: an object in one request, and the empty append object that blocks are appended to.

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use super::receive::Received;
use super::refusal::Refusal;
use super::request::{Conditions, etag};
use crate::directory::temp::{self, TempFile};
use crate::directory::{Append, Inbox, NameKey, Object, Parents, Shared, create_parents, spawn};
use crate::name::ObjectName;

/// What the answer says about a written object.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) etag: String,
    pub(crate) modified_at: SystemTime,
    pub(crate) append: Option<Appended>,
}

/// Where an appended block went.
#[derive(Debug)]
pub(crate) struct Appended {
    pub(crate) offset: u64,
    pub(crate) blocks: usize,
}

impl Written {
    pub(crate) fn of(object: &Object) -> Self {
        Self { etag: etag(object.modified_at, object.size_bytes), modified_at: object.modified_at, append: None }
    }
}

/// What kind of object gets the name.
pub(crate) enum Kind {
    /// Written in one request.
    Whole,
    /// Made of these blocks, in this order.
    Blocks(Vec<(Vec<u8>, u64)>),
    /// Empty, to be appended to.
    Append,
}

pub(crate) async fn put_blob(
    shared: &Arc<Shared>,
    inbox: &Arc<Inbox>,
    name: ObjectName,
    conditions: Conditions,
    received: Received,
    kind: Kind,
) -> Result<Written, Refusal> {
    let Received { temp, size_bytes, room } = received;
    let written = publish(shared, inbox, name, conditions, temp, size_bytes, kind, Room::Reserved).await?;
    room.keep();
    Ok(written)
}

/// Whether the bytes of the new object are counted in the inbox already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// They were reserved while they arrived.
    Reserved,
    /// They are blocks, counted as such, and stop being blocks now.
    ExchangedForBlocks,
}

/// Give a finished file its name, under the inbox's index: the conditions hold at the instant of the rename. Uncommitted
/// blocks of the name are dropped.
#[expect(clippy::too_many_arguments, reason = "one call site per kind of upload; a struct would only repeat the names")]
pub(crate) async fn publish(
    shared: &Arc<Shared>,
    inbox: &Arc<Inbox>,
    name: ObjectName,
    conditions: Conditions,
    temp: TempFile,
    size_bytes: u64,
    kind: Kind,
    room: Room,
) -> Result<Written, Refusal> {
    let mut index = inbox.index().await;
    let (shared, inbox) = (Arc::clone(shared), Arc::clone(inbox));
    let work = move || -> Result<Written, Refusal> {
        if index.closed {
            return Err(Refusal::NoContainer);
        }
        let existing = index.objects.get(&name);
        conditions.check(existing)?;
        let key = NameKey::of(&name);
        let new_name = existing.is_none() && !index.staged.contains_key(&key);
        if new_name && index.names() >= shared.limits.max_objects {
            return Err(Refusal::TooManyObjects(shared.limits.max_objects));
        }
        let path = inbox.object_path(&name);
        match create_parents(&inbox.paths.objects, &name) {
            Ok(()) if !path.is_dir() => {}
            Ok(()) | Err(Parents::Conflict) => return Err(Refusal::NameConflict),
            Err(Parents::Io(error)) => return Err(missing_inbox(error)),
        }
        let freed = existing.map_or(0, |object| object.size_bytes) + index.staged.get(&key).map_or(0, |staged| staged.bytes());
        let taken = if room == Room::ExchangedForBlocks { size_bytes } else { 0 };
        inbox.exchange(freed, taken).map_err(|limit| Refusal::TooLarge { what: "an inbox", limit })?;
        // What is known about the old object goes first: it must never be taken for the new one's.
        let trash = temp::to_trash(&inbox.key_dir(&key), &inbox.paths.temporary).map_err(Refusal::disk)?;
        index.staged.remove(&key);
        let metadata = temp.publish(&path).map_err(missing_inbox)?;
        let append_blocks = match &kind {
            Kind::Append => Some(0),
            _ => None,
        };
        match kind {
            Kind::Whole => {}
            Kind::Append => inbox.write_append(&key, Append { size_bytes, blocks: 0 }, shared.fsync).map_err(Refusal::disk)?,
            Kind::Blocks(blocks) => inbox.write_committed(&key, &blocks, shared.fsync).map_err(Refusal::disk)?,
        }
        let object = Object { size_bytes, modified_at: metadata.modified().map_err(Refusal::disk)?, append_blocks };
        let written = Written::of(&object);
        index.objects.insert(name, object);
        drop(index);
        temp::empty_trash(trash);
        Ok(written)
    };
    run(work).await
}

/// Work on a blocking thread that may be refused.
pub(crate) async fn run<T: Send + 'static>(work: impl FnOnce() -> Result<T, Refusal> + Send + 'static) -> Result<T, Refusal> {
    spawn(move || Ok(work())).await.map_err(Refusal::Disk)?
}

/// A path that is gone means that the inbox was closed meanwhile.
pub(crate) fn missing_inbox(error: io::Error) -> Refusal {
    match error.kind() {
        io::ErrorKind::NotFound => Refusal::NoContainer,
        io::ErrorKind::IsADirectory | io::ErrorKind::NotADirectory => Refusal::NameConflict,
        _ => Refusal::Disk(error),
    }
}
