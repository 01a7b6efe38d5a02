//! Reading a sealed object at random places from blocking code: what inspecting a zip archive needs.

use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};

use crate::azure::BlobPages;

const FILE_BUFFER_BYTES: usize = 64 * 1024;

/// A sealed object as `Read + Seek + Send`. Use it on a blocking thread (`spawn_blocking`), never on a worker of the runtime.
pub struct SealedReader {
    source: Source,
    size_bytes: u64,
}

enum Source {
    File(BufReader<File>),
    Blob { pages: Box<BlobPages>, position: u64 },
}

impl SealedReader {
    pub(crate) fn file(file: File, size_bytes: u64) -> Self {
        Self { source: Source::File(BufReader::with_capacity(FILE_BUFFER_BYTES, file)), size_bytes }
    }

    pub(crate) fn blob(pages: BlobPages, size_bytes: u64) -> Self {
        Self { source: Source::Blob { pages: Box::new(pages), position: 0 }, size_bytes }
    }

    /// Size of the object.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }
}

impl Read for SealedReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.source {
            Source::File(file) => file.read(buffer),
            Source::Blob { pages, position } => {
                let count = pages.read_at(*position, buffer)?;
                *position += count as u64;
                Ok(count)
            }
        }
    }
}

impl Seek for SealedReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match &mut self.source {
            Source::File(file) => file.seek(to),
            Source::Blob { position, .. } => {
                let target = match to {
                    SeekFrom::Start(offset) => Some(offset),
                    SeekFrom::End(offset) => self.size_bytes.checked_add_signed(offset),
                    SeekFrom::Current(offset) => position.checked_add_signed(offset),
                };
                *position = target.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "seek before the start of the object"))?;
                Ok(*position)
            }
        }
    }
}

impl fmt::Debug for SealedReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedReader").field("size_bytes", &self.size_bytes).finish_non_exhaustive()
    }
}
