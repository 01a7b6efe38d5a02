//! One attempt's inbox on disk: what is in it, what is staged beside it, and how much it may still take.
//!
//! ```text
//! inbox/{stem}/{name}                 objects, visible once whole
//! staged/{stem}/{key}/b-{block id}    blocks that no list has committed yet; key is made of the object's name
//! staged/{stem}/{key}/committed       the block list of a committed object: later lists may name its blocks
//! staged/{stem}/{key}/append          length and block count of an append object: what is beyond was torn by a crash
//! ```
//!
//! The disk is the truth; an [`Index`] in memory repeats it and is rebuilt by reading when it is not there. Whoever
//! changes names holds the index, so a check (does it exist? is there room?) and the rename that follows are one step.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};
use tokio::sync::{Mutex, OwnedMutexGuard, Semaphore};

use super::temp;
use crate::limits::Limits;
use crate::name::ObjectName;

const BLOCK_PREFIX: &str = "b-";
const COMMITTED_FILE: &str = "committed";
const APPEND_FILE: &str = "append";
const KEY_BYTES: usize = 16;
/// Sidecars are ours; anything larger than a full block list is not.
const MAX_SIDECAR_BYTES: u64 = 16 * 1024 * 1024;

/// Where an inbox keeps its things.
#[derive(Debug, Clone)]
pub(crate) struct InboxPaths {
    pub(crate) objects: PathBuf,
    pub(crate) staged: PathBuf,
    pub(crate) temporary: PathBuf,
}

/// What is staged for one name lives under this key: a digest, as a name with slashes is not a file name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct NameKey(String);

impl NameKey {
    pub(crate) fn of(name: &ObjectName) -> Self {
        Self(to_hex(&Sha256::digest(name.as_str())[..KEY_BYTES]))
    }
}

/// An object as visible to the cloud.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    pub(crate) size_bytes: u64,
    pub(crate) modified_at: SystemTime,
    /// Number of appended blocks; `None` for an object that is replaced as a whole.
    pub(crate) append_blocks: Option<usize>,
}

/// Blocks of one name that are not committed.
#[derive(Debug, Default)]
pub(crate) struct Staged {
    pub(crate) blocks: HashMap<Vec<u8>, u64>,
}

impl Staged {
    pub(crate) fn bytes(&self) -> u64 {
        self.blocks.values().sum()
    }
}

/// What an inbox holds.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) closed: bool,
    pub(crate) objects: BTreeMap<ObjectName, Object>,
    pub(crate) staged: HashMap<NameKey, Staged>,
    /// Files whose names no device could have sent; only a person could have put them there.
    pub(crate) refused_names: usize,
}

impl Index {
    /// Objects counted with the names that only have staged blocks so far.
    pub(crate) fn names(&self) -> usize {
        let committed: std::collections::HashSet<NameKey> = self.objects.keys().map(NameKey::of).collect();
        self.objects.len() + self.staged.keys().filter(|key| !committed.contains(*key)).count()
    }

    pub(crate) fn staged_blocks(&self) -> usize {
        self.staged.values().map(|staged| staged.blocks.len()).sum()
    }

    /// Read what an inbox holds from disk; `None` when it is not open. Blocking.
    pub(crate) fn load(paths: &InboxPaths, limits: &Limits) -> io::Result<Option<Self>> {
        if !paths.objects.is_dir() {
            return Ok(None);
        }
        let mut index = Self { staged: read_staged(&paths.staged, limits.max_uncommitted_blocks)?, ..Self::default() };
        // One more than allowed is enough to know that there are too many.
        for file in files_below(&paths.objects, limits.max_objects + 1)? {
            let Ok(name) = ObjectName::from_device(&file.name) else {
                index.refused_names += 1;
                continue;
            };
            let append = read_append(&paths.staged, &NameKey::of(&name))?;
            let size_bytes = append.map_or(file.size_bytes, |append| append.size_bytes.min(file.size_bytes));
            index
                .objects
                .insert(name, Object { size_bytes, modified_at: file.modified_at, append_blocks: append.map(|append| append.blocks) });
        }
        Ok(Some(index))
    }

    fn bytes(&self) -> u64 {
        self.objects.values().map(|object| object.size_bytes).sum::<u64>() + self.staged.values().map(Staged::bytes).sum::<u64>()
    }
}

/// An open inbox.
#[derive(Debug)]
pub(crate) struct Inbox {
    pub(crate) paths: InboxPaths,
    pub(crate) uploads: Arc<Semaphore>,
    /// Block lists arrive one at a time: each is held in memory as a whole, and an inbox may not hold many.
    pub(crate) lists: Arc<Semaphore>,
    index: Arc<Mutex<Index>>,
    /// Objects, staged blocks and bytes still arriving.
    used_bytes: AtomicU64,
    max_bytes: u64,
}

impl Inbox {
    /// Read an inbox from disk; `None` when it is not open. Blocking.
    pub(crate) fn load(paths: InboxPaths, limits: &Limits) -> io::Result<Option<Self>> {
        let Some(index) = Index::load(&paths, limits)? else { return Ok(None) };
        let used_bytes = AtomicU64::new(index.bytes());
        let (uploads, lists) = (Arc::new(Semaphore::new(limits.max_uploads_per_inbox)), Arc::new(Semaphore::new(1)));
        Ok(Some(Self { paths, uploads, lists, index: Arc::new(Mutex::new(index)), used_bytes, max_bytes: limits.max_inbox_bytes }))
    }

    /// Hold the index. The guard may go to a blocking thread; waiting for it blocks none.
    pub(crate) async fn index(&self) -> OwnedMutexGuard<Index> {
        Arc::clone(&self.index).lock_owned().await
    }

    /// Room for bytes that are arriving; given back when dropped, unless kept.
    pub(crate) fn reserve(self: &Arc<Self>) -> Reservation {
        Reservation { inbox: Arc::clone(self), bytes: 0 }
    }

    /// Room that something replaced or dropped no longer takes.
    pub(crate) fn release(&self, bytes: u64) {
        self.used_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Take room that is not limited by what is still arriving: the blocks it replaces are counted already.
    pub(crate) fn exchange(&self, freed: u64, taken: u64) -> Result<(), u64> {
        let exchanged = self.used_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            let after = used.saturating_sub(freed).saturating_add(taken);
            (after <= self.max_bytes).then_some(after)
        });
        exchanged.map(drop).map_err(|_| self.max_bytes)
    }

    pub(crate) fn object_path(&self, name: &ObjectName) -> PathBuf {
        name.below(&self.paths.objects)
    }

    pub(crate) fn key_dir(&self, key: &NameKey) -> PathBuf {
        self.paths.staged.join(&key.0)
    }

    pub(crate) fn block_path(&self, key: &NameKey, id: &[u8]) -> PathBuf {
        self.key_dir(key).join(format!("{BLOCK_PREFIX}{}", to_hex(id)))
    }

    pub(crate) fn create_key_dir(&self, key: &NameKey) -> io::Result<()> {
        // The inbox's own directory is made here too, but only while the inbox is open: the caller holds the index.
        temp::create_private_dirs(&self.key_dir(key))
    }

    pub(crate) fn write_append(&self, key: &NameKey, append: Append, sync: bool) -> io::Result<()> {
        self.write_sidecar(key, APPEND_FILE, &format!("{} {}\n", append.size_bytes, append.blocks), sync)
    }

    /// Remember which blocks a committed object is made of.
    pub(crate) fn write_committed(&self, key: &NameKey, blocks: &[(Vec<u8>, u64)], sync: bool) -> io::Result<()> {
        let lines: String = blocks.iter().map(|(id, size)| format!("{} {size}\n", to_hex(id))).collect();
        self.write_sidecar(key, COMMITTED_FILE, &lines, sync)
    }

    /// The blocks of a committed object with their places in it.
    pub(crate) fn read_committed(&self, key: &NameKey) -> io::Result<HashMap<Vec<u8>, (u64, u64)>> {
        let Some(text) = read_sidecar(&self.key_dir(key).join(COMMITTED_FILE))? else { return Ok(HashMap::new()) };
        let mut offset = 0;
        let mut blocks = HashMap::new();
        for line in text.lines() {
            let (id, size) = line.split_once(' ').ok_or_else(not_ours)?;
            let (id, size) = (from_hex(id).ok_or_else(not_ours)?, size.parse::<u64>().map_err(|_| not_ours())?);
            blocks.entry(id).or_insert((offset, size));
            offset += size;
        }
        Ok(blocks)
    }

    fn write_sidecar(&self, key: &NameKey, file: &str, text: &str, sync: bool) -> io::Result<()> {
        self.create_key_dir(key)?;
        let mut sidecar = temp::TempFile::create(&self.paths.temporary)?;
        io::Write::write_all(sidecar.file(), text.as_bytes())?;
        if sync {
            sidecar.sync()?;
        }
        sidecar.publish(&self.key_dir(key).join(file)).map(drop)
    }
}

/// Length and number of blocks of an append object.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Append {
    pub(crate) size_bytes: u64,
    pub(crate) blocks: usize,
}

/// Bytes that an upload may use up.
#[derive(Debug)]
pub(crate) struct Reservation {
    inbox: Arc<Inbox>,
    bytes: u64,
}

impl Reservation {
    /// Ask for more; `Err` holds the limit.
    pub(crate) fn grow(&mut self, bytes: u64) -> Result<(), u64> {
        self.inbox.exchange(0, bytes)?;
        self.bytes += bytes;
        Ok(())
    }

    /// The bytes are stored now: from here on whoever removes them releases the room.
    pub(crate) fn keep(mut self) {
        self.bytes = 0;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.inbox.release(self.bytes);
    }
}

/// A file found below a directory; its name is relative, with `/`.
#[derive(Debug)]
pub(crate) struct FoundFile {
    pub(crate) name: String,
    pub(crate) size_bytes: u64,
    pub(crate) modified_at: SystemTime,
}

/// Up to `most` files below a directory, in any order. Links are not followed.
pub(crate) fn files_below(root: &Path, most: usize) -> io::Result<Vec<FoundFile>> {
    let mut found = Vec::new();
    let mut directories = vec![(root.to_owned(), String::new())];
    while let Some((directory, prefix)) = directories.pop() {
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            let kind = entry.file_type()?;
            if kind.is_dir() {
                directories.push((entry.path(), format!("{name}/")));
            } else if kind.is_file() {
                let metadata = entry.metadata()?;
                found.push(FoundFile { name, size_bytes: metadata.len(), modified_at: metadata.modified()? });
                if found.len() >= most {
                    return Ok(found);
                }
            }
        }
    }
    Ok(found)
}

fn read_staged(staged: &Path, most: usize) -> io::Result<HashMap<NameKey, Staged>> {
    let mut all: HashMap<NameKey, Staged> = HashMap::new();
    let mut left = most;
    let keys = match fs::read_dir(staged) {
        Ok(keys) => keys,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(all),
        Err(error) => return Err(error),
    };
    for key in keys {
        let key = key?;
        for block in fs::read_dir(key.path())? {
            let block = block?;
            let id = block.file_name().to_str().and_then(|name| from_hex(name.strip_prefix(BLOCK_PREFIX)?));
            let (Some(id), true) = (id, left > 0) else { continue };
            left -= 1;
            let size = block.metadata()?.len();
            all.entry(NameKey(key.file_name().to_string_lossy().into_owned())).or_default().blocks.insert(id, size);
        }
    }
    Ok(all)
}

fn read_append(staged: &Path, key: &NameKey) -> io::Result<Option<Append>> {
    let Some(text) = read_sidecar(&staged.join(&key.0).join(APPEND_FILE))? else { return Ok(None) };
    let (size, blocks) = text.trim_end().split_once(' ').ok_or_else(not_ours)?;
    match (size.parse(), blocks.parse()) {
        (Ok(size_bytes), Ok(blocks)) => Ok(Some(Append { size_bytes, blocks })),
        _ => Err(not_ours()),
    }
}

fn read_sidecar(path: &Path) -> io::Result<Option<String>> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.len() > MAX_SIDECAR_BYTES => Err(not_ours()),
        Ok(_) => fs::read_to_string(path).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn not_ours() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a file beside an inbox is not as we wrote it")
}

pub(crate) fn to_hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes everything");
        text
    })
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let nibble = |digit: u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f').then(|| char::from(digit).to_digit(16)).flatten();
    digits.chunks(2).map(|pair| Some((nibble(pair[0])? * 16 + nibble(pair[1])?) as u8)).collect()
}
