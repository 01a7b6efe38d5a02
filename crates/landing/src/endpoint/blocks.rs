//! Put Block and Put Block List: an object in many requests, in any order and in parallel, visible with the last one.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::PathBuf;
use std::sync::Arc;

use super::block_list::{BlockList, From};
use super::objects::{Kind, Room, Written, publish, run};
use super::receive::Received;
use super::refusal::Refusal;
use super::request::Conditions;
use crate::directory::temp::{self, TempFile};
use crate::directory::{Inbox, NameKey, Shared, Staged};
use crate::name::ObjectName;

pub(crate) async fn put_block(
    shared: &Arc<Shared>,
    inbox: &Arc<Inbox>,
    name: ObjectName,
    id: Vec<u8>,
    received: Received,
) -> Result<(), Refusal> {
    let mut index = inbox.index().await;
    let (shared, inbox) = (Arc::clone(shared), Arc::clone(inbox));
    run(move || {
        let Received { temp, size_bytes, room } = received;
        if index.closed {
            return Err(Refusal::NoContainer);
        }
        if index.objects.get(&name).is_some_and(|object| object.append_blocks.is_some()) {
            return Err(Refusal::ObjectType);
        }
        let key = NameKey::of(&name);
        let staged = index.staged.get(&key);
        if staged.and_then(|staged| staged.blocks.keys().next()).is_some_and(|other| other.len() != id.len()) {
            return Err(Refusal::BlockIdLength);
        }
        let replaced = staged.and_then(|staged| staged.blocks.get(&id)).copied();
        if replaced.is_none() && index.staged_blocks() >= shared.limits.max_uncommitted_blocks {
            return Err(Refusal::TooManyBlocks(shared.limits.max_uncommitted_blocks));
        }
        if staged.is_none() && !index.objects.contains_key(&name) && index.names() >= shared.limits.max_objects {
            return Err(Refusal::TooManyObjects(shared.limits.max_objects));
        }
        inbox.create_key_dir(&key).map_err(Refusal::disk)?;
        temp.publish(&inbox.block_path(&key, &id)).map_err(Refusal::disk)?;
        index.staged.entry(key).or_default().blocks.insert(id, size_bytes);
        room.keep();
        inbox.release(replaced.unwrap_or(0));
        Ok(())
    })
    .await
}

struct Part {
    id: Vec<u8>,
    size_bytes: u64,
    /// Place in the committed object; `None` for a staged block, which is a file.
    offset: Option<u64>,
    path: PathBuf,
}

pub(crate) async fn put_block_list(
    shared: &Arc<Shared>,
    inbox: &Arc<Inbox>,
    name: ObjectName,
    conditions: Conditions,
    list: BlockList,
) -> Result<Written, Refusal> {
    if list.entries.len() > shared.limits.max_committed_blocks {
        return Err(Refusal::BlockListTooLong(shared.limits.max_committed_blocks));
    }
    let (parts, size_bytes) = resolve(shared, inbox, &name, &conditions, list).await?;
    let (fsync, temporary) = (shared.fsync, inbox.paths.temporary.clone());
    let (temp, parts) = run(move || {
        let mut whole = TempFile::create(&temporary).map_err(Refusal::disk)?;
        for part in &parts {
            // A block that is gone was dropped by another commit of the same name.
            let mut file = File::open(&part.path).map_err(|_| Refusal::BlockList)?;
            if let Some(offset) = part.offset {
                file.seek(SeekFrom::Start(offset)).map_err(Refusal::disk)?;
            }
            let copied = std::io::copy(&mut file.take(part.size_bytes), whole.file()).map_err(Refusal::disk)?;
            if copied != part.size_bytes {
                return Err(Refusal::BlockList);
            }
        }
        whole.file().flush().map_err(Refusal::disk)?;
        if fsync {
            whole.sync().map_err(Refusal::disk)?;
        }
        Ok((whole, parts))
    })
    .await?;
    let blocks = parts.into_iter().map(|part| (part.id, part.size_bytes)).collect();
    publish(shared, inbox, name, conditions, temp, size_bytes, Kind::Blocks(blocks), Room::ExchangedForBlocks).await
}

/// Find each block of a list, before any byte is copied.
async fn resolve(
    shared: &Arc<Shared>,
    inbox: &Arc<Inbox>,
    name: &ObjectName,
    conditions: &Conditions,
    list: BlockList,
) -> Result<(Vec<Part>, u64), Refusal> {
    let index = inbox.index().await;
    if index.closed {
        return Err(Refusal::NoContainer);
    }
    let existing = index.objects.get(name);
    conditions.check(existing)?;
    if existing.is_some_and(|object| object.append_blocks.is_some()) {
        return Err(Refusal::ObjectType);
    }
    let (has_object, key, limit) = (existing.is_some(), NameKey::of(name), shared.limits.max_object_bytes);
    let (inbox, object_path) = (Arc::clone(inbox), inbox.object_path(name));
    run(move || {
        let none = Staged::default();
        let staged = index.staged.get(&key).unwrap_or(&none);
        let committed = if has_object { inbox.read_committed(&key).map_err(Refusal::disk)? } else { Default::default() };
        let (mut parts, mut total) = (Vec::with_capacity(list.entries.len()), 0u64);
        for (from, id) in list.entries {
            let uncommitted = (from != From::Committed).then(|| staged.blocks.get(&id)).flatten();
            let part = match (uncommitted, committed.get(&id)) {
                (Some(size), _) => Part { path: inbox.block_path(&key, &id), id, size_bytes: *size, offset: None },
                (None, Some((offset, size))) if from != From::Uncommitted => {
                    Part { path: object_path.clone(), id, size_bytes: *size, offset: Some(*offset) }
                }
                _ => return Err(Refusal::BlockList),
            };
            total = total.saturating_add(part.size_bytes);
            if total > limit {
                return Err(Refusal::TooLarge { what: "an object", limit });
            }
            parts.push(part);
        }
        Ok((parts, total))
    })
    .await
}

/// Append Block: bytes behind the end of an append object.
pub(crate) mod append {
    use std::fs::OpenOptions;

    use super::*;
    use crate::directory::Append;
    use crate::endpoint::objects::Appended;

    /// Where the client believes the object ends, and how large it may become.
    #[derive(Debug, Clone, Copy, Default)]
    pub(crate) struct Position {
        pub(crate) at: Option<u64>,
        pub(crate) max_size: Option<u64>,
    }

    pub(crate) async fn append_block(
        shared: &Arc<Shared>,
        inbox: &Arc<Inbox>,
        name: ObjectName,
        conditions: Conditions,
        position: Position,
        received: Received,
    ) -> Result<Written, Refusal> {
        let mut index = inbox.index().await;
        let (shared, inbox) = (Arc::clone(shared), Arc::clone(inbox));
        run(move || {
            let Received { mut temp, size_bytes, room } = received;
            if index.closed {
                return Err(Refusal::NoContainer);
            }
            let object = index.objects.get_mut(&name).ok_or(Refusal::NoObject)?;
            let blocks = object.append_blocks.ok_or(Refusal::ObjectType)?;
            conditions.check(Some(object))?;
            let (offset, after) = (object.size_bytes, object.size_bytes + size_bytes);
            if position.at.is_some_and(|at| at != offset) {
                return Err(Refusal::AppendPosition);
            }
            if position.max_size.is_some_and(|most| after > most) {
                return Err(Refusal::AppendMaxSize);
            }
            if after > shared.limits.max_object_bytes {
                return Err(Refusal::TooLarge { what: "an object", limit: shared.limits.max_object_bytes });
            }
            if blocks >= shared.limits.max_committed_blocks {
                return Err(Refusal::TooManyBlocks(shared.limits.max_committed_blocks));
            }
            let path = inbox.object_path(&name);
            let mut file = OpenOptions::new().write(true).open(&path).map_err(super::super::objects::missing_inbox)?;
            // The recorded length is the truth: what a crash left behind it is cut off, and so is what fails below.
            file.set_len(offset).map_err(Refusal::disk)?;
            file.seek(SeekFrom::Start(offset)).map_err(Refusal::disk)?;
            temp.file().rewind().map_err(Refusal::disk)?;
            temp::pour(temp.file(), |bytes| file.write_all(bytes)).map_err(Refusal::disk)?;
            if shared.fsync {
                file.sync_data().map_err(Refusal::disk)?;
            }
            let append = Append { size_bytes: after, blocks: blocks + 1 };
            inbox.write_append(&NameKey::of(&name), append, shared.fsync).map_err(Refusal::disk)?;
            object.size_bytes = after;
            object.append_blocks = Some(append.blocks);
            object.modified_at = file.metadata().and_then(|metadata| metadata.modified()).map_err(Refusal::disk)?;
            room.keep();
            Ok(Written { append: Some(Appended { offset, blocks: append.blocks }), ..Written::of(object) })
        })
        .await
    }
}
