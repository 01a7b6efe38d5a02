//! A file of JSON lines that survives `kill -9`: appended and synced before anything is said about what it records,
//! rewritten to a new file and renamed when most of it is history.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Size from which a journal is rewritten, if at least half of it is history.
pub(crate) const COMPACT_FROM_BYTES: u64 = 4 * 1024 * 1024;
/// Longest line that is read back; a longer one is damage.
pub(crate) const MAX_LINE_BYTES: usize = 1024 * 1024;
/// Largest journal that is read at start.
pub(crate) const MAX_JOURNAL_BYTES: u64 = 256 * 1024 * 1024;

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another process holds it.
    #[error("{0} is in use by another muster-agent; stop it, or give this one its own state directory")]
    InUse(PathBuf),
    /// Larger than we would ever write.
    #[error("{0} has {1} bytes, more than {MAX_JOURNAL_BYTES}; move it away to start with an empty task table")]
    TooLarge(PathBuf, u64),
    /// The file system said no.
    #[error("{action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Its answer.
        source: std::io::Error,
    },
}

/// An open journal.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    /// Held for the life of the process; the journal itself is replaced by compaction, so it cannot carry the lock.
    _lock: File,
    bytes: u64,
    bytes_after_compaction: u64,
}

impl Journal {
    /// Opens or makes the journal and reads what it holds. A line that is cut or damaged is left out and counted.
    pub(crate) fn open<E: DeserializeOwned>(path: &Path) -> Result<(Self, Vec<E>, usize), JournalError> {
        let io = |action, path: &Path| {
            let path = path.to_owned();
            move |source| JournalError::Io { action, path, source }
        };
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).map_err(io("make", directory))?;
        }
        let lock_path = path.with_extension("lock");
        let lock = open_private(&lock_path).map_err(io("open", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Err(JournalError::InUse(path.to_owned())),
            Err(std::fs::TryLockError::Error(source)) => return Err(io("lock", &lock_path)(source)),
        }
        let file = open_private(path).map_err(io("open", path))?;
        let bytes = file.metadata().map_err(io("read", path))?.len();
        if bytes > MAX_JOURNAL_BYTES {
            return Err(JournalError::TooLarge(path.to_owned(), bytes));
        }
        let (mut entries, mut damaged, mut ends_in_newline) = (Vec::new(), 0, true);
        let mut reader = BufReader::new(&file);
        let mut line = Vec::new();
        loop {
            line.clear();
            if reader.read_until(b'\n', &mut line).map_err(io("read", path))? == 0 {
                break;
            }
            ends_in_newline = line.ends_with(b"\n");
            match (line.len() <= MAX_LINE_BYTES).then(|| serde_json::from_slice(&line)) {
                Some(Ok(entry)) => entries.push(entry),
                _ => damaged += 1,
            }
        }
        let mut journal = Self { path: path.to_owned(), file, _lock: lock, bytes, bytes_after_compaction: 0 };
        if !ends_in_newline {
            // The process died while it wrote; the next line must not be glued to the torn one.
            journal.write(b"\n").map_err(io("write", path))?;
        }
        Ok((journal, entries, damaged))
    }

    /// Appends entries and waits until they are on disk.
    pub(crate) fn append<E: Serialize>(&mut self, entries: &[E]) -> Result<(), JournalError> {
        let mut bytes = Vec::new();
        for entry in entries {
            serde_json::to_writer(&mut bytes, entry).expect("journal entries have only JSON members");
            bytes.push(b'\n');
        }
        self.write(&bytes).map_err(|source| JournalError::Io { action: "write", path: self.path.clone(), source })
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.file.write_all(bytes)?;
        self.file.sync_data()?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Whether a rewrite would pay.
    pub(crate) fn wants_compaction(&self) -> bool {
        self.bytes > COMPACT_FROM_BYTES.max(self.bytes_after_compaction * 2)
    }

    /// Replaces the journal by `entries`: a new file, synced, renamed over the old one, and the directory synced.
    pub(crate) fn compact<E: Serialize>(&mut self, entries: &[E]) -> Result<(), JournalError> {
        let fresh_path = self.path.with_extension("new");
        let io = |action, path: &Path| {
            let path = path.to_owned();
            move |source| JournalError::Io { action, path, source }
        };
        match std::fs::remove_file(&fresh_path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(io("remove", &fresh_path)(e)),
            _ => {}
        }
        let file = open_private(&fresh_path).map_err(io("make", &fresh_path))?;
        let mut fresh = Self {
            path: self.path.clone(),
            file,
            _lock: self._lock.try_clone().map_err(io("lock", &self.path))?,
            bytes: 0,
            bytes_after_compaction: 0,
        };
        fresh.append(entries)?;
        std::fs::rename(&fresh_path, &self.path).map_err(io("rename", &fresh_path))?;
        if let Some(directory) = self.path.parent() {
            File::open(directory).and_then(|d| d.sync_all()).map_err(io("sync", directory))?;
        }
        fresh.bytes_after_compaction = fresh.bytes;
        *self = fresh;
        Ok(())
    }
}

/// Requests hold grants: nobody but us may read them.
fn open_private(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path) -> (Journal, Vec<u64>, usize) {
        Journal::open(path).expect("a journal")
    }

    #[test]
    fn what_was_appended_is_there_after_a_torn_write() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("state").join("tasks.jsonl");
        let (mut journal, entries, damaged) = open(&path);
        assert!(entries.is_empty() && damaged == 0);
        journal.append(&[1_u64, 2]).expect("written");
        drop(journal);
        OpenOptions::new().append(true).open(&path).and_then(|mut f| f.write_all(b"34")).expect("a torn line");
        OpenOptions::new().append(true).open(&path).and_then(|mut f| f.write_all(b"x")).expect("a torn line");
        let (mut journal, entries, damaged) = open(&path);
        assert_eq!((entries, damaged), (vec![1, 2], 1));
        journal.append(&[5_u64]).expect("written");
        drop(journal);
        let (_, entries, damaged) = open(&path);
        assert_eq!((entries, damaged), (vec![1, 2, 5], 1), "the torn line did not swallow the next one");
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).expect("there").permissions());
        assert_eq!(mode & 0o777, 0o600, "it holds grants");
    }

    #[test]
    fn compaction_keeps_what_it_is_given_and_is_asked_for_only_when_it_pays() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("tasks.jsonl");
        let (mut journal, ..) = open(&path);
        journal.append(&vec![1_234_567_890_u64; usize::try_from(COMPACT_FROM_BYTES).expect("fits") / 10]).expect("written");
        assert!(journal.wants_compaction());
        journal.compact(&[1_u64, 2]).expect("compacted");
        assert!(!journal.wants_compaction());
        journal.append(&[3_u64]).expect("written");
        drop(journal);
        assert_eq!(open(&path).1, [1, 2, 3]);
    }

    #[test]
    fn two_agents_do_not_share_a_journal() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("tasks.jsonl");
        let first = open(&path);
        assert!(matches!(Journal::open::<u64>(&path), Err(JournalError::InUse(_))));
        drop(first);
        open(&path);
    }
}
