//! What is uploaded: a file that is deleted when it is done with, or a few bytes in memory.

use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest, Sha256};

/// Content that is at most this long stays in memory.
pub(crate) const IN_MEMORY_BYTES: usize = 1024 * 1024;

/// Bytes to upload, readable at any place and more than once.
#[derive(Debug, Clone)]
pub(crate) enum Content {
    Memory(Bytes),
    /// An unlinked temporary file: nothing of it stays, however the process ends.
    File {
        file: Arc<std::fs::File>,
        size: u64,
    },
}

impl Content {
    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File { size, .. } => *size,
        }
    }

    /// The bytes from `offset`, at most `length` of them.
    pub(crate) async fn read(&self, offset: u64, length: usize) -> std::io::Result<Bytes> {
        let length = usize::try_from(self.size().saturating_sub(offset)).unwrap_or(usize::MAX).min(length);
        match self {
            Self::Memory(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                Ok(bytes.slice(start..start + length))
            }
            Self::File { file, .. } => {
                let file = Arc::clone(file);
                blocking(move || {
                    let mut buffer = vec![0; length];
                    file.read_exact_at(&mut buffer, offset)?;
                    Ok(Bytes::from(buffer))
                })
                .await
            }
        }
    }

    /// Digest of the whole, as lower-case hex.
    pub(crate) async fn sha256(&self) -> std::io::Result<String> {
        match self {
            Self::Memory(bytes) => Ok(hex(&Sha256::digest(bytes))),
            Self::File { file, size } => {
                let (file, size) = (Arc::clone(file), *size);
                blocking(move || {
                    let (mut digest, mut offset, mut buffer) = (Sha256::new(), 0, vec![0; 256 * 1024]);
                    while offset < size {
                        let length = usize::try_from(size - offset).unwrap_or(usize::MAX).min(buffer.len());
                        file.read_exact_at(&mut buffer[..length], offset)?;
                        digest.update(&buffer[..length]);
                        offset += length as u64;
                    }
                    Ok(hex(&digest.finalize()))
                })
                .await
            }
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)?
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Collects content of unknown length: in memory while it is small, then in a temporary file.
#[derive(Debug)]
pub(crate) struct Spool {
    file: tempfile::SpooledTempFile,
    size: u64,
    limit: u64,
}

impl Spool {
    /// A spool that refuses to grow beyond `limit` bytes.
    pub(crate) fn new(directory: &std::path::Path, limit: u64) -> Self {
        Self { file: tempfile::spooled_tempfile_in(IN_MEMORY_BYTES, directory), size: 0, limit }
    }

    pub(crate) fn finish(mut self) -> std::io::Result<Content> {
        self.file.flush()?;
        let size = self.file.seek(SeekFrom::End(0))?;
        match self.file.into_inner() {
            tempfile::SpooledData::InMemory(cursor) => Ok(Content::Memory(cursor.into_inner().into())),
            tempfile::SpooledData::OnDisk(file) => Ok(Content::File { file: Arc::new(file), size }),
        }
    }
}

impl Write for Spool {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.size + bytes.len() as u64 > self.limit {
            return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, format!("more than {} bytes", self.limit)));
        }
        let written = self.file.write(bytes)?;
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

impl Seek for Spool {
    fn seek(&mut self, place: SeekFrom) -> std::io::Result<u64> {
        self.file.seek(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn small_stays_in_memory_and_large_goes_to_a_file_that_vanishes() {
        let directory = tempfile::tempdir().expect("a directory");
        for size in [0, 10, IN_MEMORY_BYTES + 5] {
            let bytes: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
            let mut spool = Spool::new(directory.path(), 1 << 30);
            spool.write_all(&bytes).expect("written");
            let content = spool.finish().expect("finished");
            assert_eq!(matches!(content, Content::Memory(_)), size <= IN_MEMORY_BYTES, "{size}");
            assert_eq!(content.size(), size as u64);
            assert_eq!(content.sha256().await.expect("read"), hex(&Sha256::digest(&bytes)));
            let part = content.read(3, 4).await.expect("read");
            assert_eq!(part.as_ref(), bytes.get(3..7).unwrap_or_default());
            assert!(content.read(size as u64, 10).await.expect("read").is_empty());
        }
        assert_eq!(std::fs::read_dir(directory.path()).expect("listed").count(), 0, "temporary files have no name");
    }

    #[test]
    fn a_spool_stops_at_its_limit() {
        let mut spool = Spool::new(std::path::Path::new("/tmp"), 10);
        assert!(spool.write_all(&[0; 10]).is_ok());
        assert!(spool.write_all(&[0]).is_err());
    }
}
