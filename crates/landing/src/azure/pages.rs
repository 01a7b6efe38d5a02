//! A blob read at random places: a few pages of it in memory, the rest fetched when asked for.

use std::collections::VecDeque;
use std::io;

use azure_core::Bytes;
use azure_core::http::Etag;
use azure_storage_blob::BlobClient;
use futures_util::TryStreamExt as _;
use tokio::runtime::Handle;

use super::ranged;

/// One request; large enough that the directory of an archive comes with one or two.
const PAGE_BYTES: u64 = 1024 * 1024;
/// Pages kept.
const MAX_PAGES: usize = 8;

pub(crate) struct BlobPages {
    blob: BlobClient,
    size_bytes: u64,
    etag: Option<Etag>,
    runtime: Handle,
    /// Page number and bytes, the last used in front.
    pages: VecDeque<(u64, Bytes)>,
}

impl BlobPages {
    pub(crate) fn new(blob: BlobClient, size_bytes: u64, etag: Option<Etag>, runtime: Handle) -> Self {
        Self { blob, size_bytes, etag, runtime, pages: VecDeque::with_capacity(MAX_PAGES) }
    }

    /// Up to the end of the page; nothing past the end of the blob.
    pub(crate) fn read_at(&mut self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        if position >= self.size_bytes || buffer.is_empty() {
            return Ok(0);
        }
        let number = position / PAGE_BYTES;
        let page = self.page(number)?;
        let offset = usize::try_from(position - number * PAGE_BYTES).expect("less than a page");
        let count = buffer.len().min(page.len().saturating_sub(offset));
        if count == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the storage account returned less than asked for"));
        }
        buffer[..count].copy_from_slice(&page[offset..offset + count]);
        Ok(count)
    }

    fn page(&mut self, number: u64) -> io::Result<Bytes> {
        if let Some(place) = self.pages.iter().position(|(known, _)| *known == number) {
            let page = self.pages.remove(place).expect("the place was just found");
            self.pages.push_front(page);
        } else {
            let start = number * PAGE_BYTES;
            let range = start..(start + PAGE_BYTES).min(self.size_bytes);
            let options = ranged(range.clone(), self.etag.clone());
            let fetch = async {
                let mut body = self.blob.download(Some(options)).await?.body;
                let mut bytes = Vec::with_capacity((range.end - range.start) as usize);
                while let Some(piece) = body.try_next().await? {
                    bytes.extend_from_slice(&piece);
                }
                Ok::<_, azure_core::Error>(Bytes::from(bytes))
            };
            let bytes = self.runtime.block_on(fetch).map_err(io::Error::other)?;
            self.pages.truncate(MAX_PAGES - 1);
            self.pages.push_front((number, bytes));
        }
        Ok(self.pages[0].1.clone())
    }
}
