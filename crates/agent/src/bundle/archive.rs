//! A zip that is written while its entries are still being read: one thread deflates, others feed it through a small channel.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::upload::content::{Content, Spool};

use super::BundleError;

/// Pieces between a reader and the deflating thread.
const PIECES_IN_FLIGHT: usize = 8;
/// Most entries of one archive.
pub(crate) const MAX_ENTRIES: usize = 10_000;

/// An entry as the manifest lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Entry {
    pub name: String,
    pub size: u64,
}

enum Piece {
    Begin(String),
    Data(Vec<u8>),
}

/// An archive in the making.
#[derive(Debug)]
pub(crate) struct Archive {
    pieces: mpsc::Sender<Piece>,
    thread: JoinHandle<Result<Spool, BundleError>>,
    entries: Vec<Entry>,
}

impl Archive {
    pub(crate) fn begin(temp: &Path, limit_bytes: u64) -> Self {
        let (pieces, mut received) = mpsc::channel(PIECES_IN_FLIGHT);
        let spool = Spool::new(temp, limit_bytes);
        let thread = tokio::task::spawn_blocking(move || {
            let mut zip = ZipWriter::new(spool);
            let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated).unix_permissions(0o600);
            while let Some(piece) = received.blocking_recv() {
                match piece {
                    Piece::Begin(name) => zip.start_file(name, options)?,
                    Piece::Data(bytes) => zip.write_all(&bytes)?,
                }
            }
            Ok(zip.finish()?)
        });
        Self { pieces, thread, entries: Vec::new() }
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Begins an entry; what is written until the next one belongs to it. Its place in the list is the answer.
    pub(crate) async fn start(&mut self, name: &str) -> Result<EntryWriter, BundleError> {
        if self.entries.len() >= MAX_ENTRIES {
            return Err(BundleError::TooManyEntries);
        }
        self.pieces.send(Piece::Begin(name.to_owned())).await.map_err(|_| BundleError::Stopped)?;
        self.entries.push(Entry { name: name.to_owned(), size: 0 });
        Ok(EntryWriter { pieces: self.pieces.clone(), written: Arc::default(), limit: u64::MAX })
    }

    /// Notes how long the entry begun last became.
    pub(crate) fn ended(&mut self, size: u64) {
        if let Some(entry) = self.entries.last_mut() {
            entry.size = size;
        }
    }

    /// An entry that is in memory as a whole.
    pub(crate) async fn add(&mut self, name: &str, bytes: Vec<u8>) -> Result<(), BundleError> {
        let writer = self.start(name).await?;
        let size = bytes.len() as u64;
        writer.pieces.send(Piece::Data(bytes)).await.map_err(|_| BundleError::Stopped)?;
        self.ended(size);
        Ok(())
    }

    /// Closes the archive.
    pub(crate) async fn finish(self) -> Result<Content, BundleError> {
        drop(self.pieces);
        let spool = self.thread.await.map_err(|_| BundleError::Stopped)??;
        Ok(spool.finish()?)
    }
}

/// Writes one entry from a blocking thread.
#[derive(Debug)]
pub(crate) struct EntryWriter {
    pieces: mpsc::Sender<Piece>,
    written: Arc<AtomicU64>,
    limit: u64,
}

impl EntryWriter {
    /// Refuses what would make the entry longer than this.
    pub(crate) fn limited(mut self, bytes: u64) -> Self {
        self.limit = bytes;
        self
    }

    /// How much was written, to be read when the writer itself was given away.
    pub(crate) fn written(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.written)
    }
}

impl Write for EntryWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.written.load(Ordering::Relaxed) + bytes.len() as u64 > self.limit {
            return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, format!("more than {} bytes", self.limit)));
        }
        self.pieces.blocking_send(Piece::Data(bytes.to_vec())).map_err(|_| std::io::Error::other("the archive was given up"))?;
        self.written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A module's or network's name as part of an entry's name.
pub(crate) fn entry_part(name: &str) -> String {
    let plain: String =
        name.chars().take(100).map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '_' }).collect();
    if plain.trim_matches('.').is_empty() { "_".to_owned() } else { plain }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn entries_come_out_as_they_went_in() {
        let mut archive = Archive::begin(Path::new("/tmp"), 1 << 30);
        archive.add("a.txt", b"one".to_vec()).await.expect("added");
        let writer = archive.start("logs/b.txt").await.expect("begun");
        let written = writer.written();
        tokio::task::spawn_blocking(move || {
            let mut writer = writer.limited(10);
            writer.write_all(b"0123456789").expect("fits");
            assert!(writer.write_all(b"x").is_err(), "an entry has its limit");
        })
        .await
        .expect("no panic");
        archive.ended(written.load(Ordering::Relaxed));
        assert_eq!(archive.entries(), [Entry { name: "a.txt".to_owned(), size: 3 }, Entry { name: "logs/b.txt".to_owned(), size: 10 }]);
        let content = archive.finish().await.expect("closed");
        let bytes = content.read(0, usize::MAX).await.expect("read");
        let mut zip = zip::ZipArchive::new(std::io::Cursor::new(bytes.as_ref())).expect("a zip");
        assert_eq!(std::io::read_to_string(zip.by_name("logs/b.txt").expect("there")).expect("read"), "0123456789");
        assert_eq!(zip.len(), 2);
    }

    #[tokio::test]
    async fn an_archive_beyond_its_limit_fails_and_does_not_hang() {
        let mut archive = Archive::begin(Path::new("/tmp"), 1000);
        let noise: Vec<u8> = (0..100_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        let mut outcome = Ok(());
        for n in 0..20 {
            outcome = archive.add(&format!("{n}"), noise.clone()).await;
            if outcome.is_err() {
                break;
            }
        }
        assert!(outcome.is_err() || archive.finish().await.is_err());
    }

    #[test]
    fn names_never_lead_out_of_the_archive() {
        assert_eq!(entry_part("../../etc/passwd"), ".._.._etc_passwd");
        assert_eq!(entry_part(".."), "_");
        assert_eq!(entry_part(""), "_");
        assert_eq!(entry_part("edgeHub"), "edgeHub");
    }
}
