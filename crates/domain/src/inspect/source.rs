//! The object's bytes, with bounds checked against its size and the storage's own failures kept apart from the object's faults.

use std::io::{self, Read, Seek, SeekFrom};

use muster_wire::Reason;

use super::Fault;

/// A reader over one object.
pub(super) struct Source<R> {
    inner: R,
    size: u64,
    /// The first failure of the storage, as text.
    failure: Option<String>,
}

impl<R: Read + Seek> Source<R> {
    pub(super) fn new(inner: R, size: u64) -> Self {
        Self { inner, size, failure: None }
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Why the storage failed, if it did.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// The first bytes, at most `most`.
    pub(super) fn head(&mut self, most: usize) -> Result<Vec<u8>, Fault> {
        let length = usize::try_from(self.size).map_or(most, |size| size.min(most));
        let mut head = vec![0; length];
        self.read_at(0, &mut head)?;
        Ok(head)
    }

    /// Fills the buffer from this place of the object.
    pub(super) fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Fault> {
        let end = offset.checked_add(buffer.len() as u64).filter(|end| *end <= self.size);
        if end.is_none() {
            return Err(Fault::truncated(format!("{} bytes at {offset} lie beyond the end at {}", buffer.len(), self.size)));
        }
        self.seek_to(offset)?;
        self.read_exact(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => Fault::truncated(format!("the object ends before its {} bytes", self.size)),
            _ => unreadable(&error),
        })
    }

    /// A reader over a part of the object.
    pub(super) fn range(&mut self, offset: u64, length: u64) -> Result<io::Take<&mut Self>, Fault> {
        self.seek_to(offset)?;
        Ok(self.take(length))
    }

    fn seek_to(&mut self, offset: u64) -> Result<(), Fault> {
        match self.inner.seek(SeekFrom::Start(offset)) {
            Ok(_) => Ok(()),
            Err(error) => {
                self.failure.get_or_insert_with(|| error.to_string());
                Err(unreadable(&error))
            }
        }
    }
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let result = self.inner.read(buffer);
        if let Err(error) = &result
            && error.kind() != io::ErrorKind::Interrupted
        {
            self.failure.get_or_insert_with(|| error.to_string());
        }
        result
    }
}

fn unreadable(error: &io::Error) -> Fault {
    Fault::new(Reason::LandingUnavailable, error.to_string())
}
