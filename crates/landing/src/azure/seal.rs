//! Copying an object from an inbox to the bundles, hashing on the way.

use azure_core::Bytes;
use azure_storage_blob::models::{BlobClientUploadOptions, BlockLookupList};
use azure_storage_blob::{BlobClient, BlockBlobClient};
use futures_util::{Stream, TryStreamExt as _};
use muster_wire::AttemptId;
use sha2::{Digest as _, Sha256};
use std::num::NonZero;
use uuid::Uuid;

use super::{AzureLanding, BLOCK_BYTES, object_error, ranged, stat};
use crate::error::LandingError;
use crate::listing::{Digest, SealedObject};
use crate::name::ObjectName;

impl AzureLanding {
    pub(crate) async fn seal(&self, attempt: AttemptId, name: &ObjectName) -> Result<SealedObject, LandingError> {
        self.shared.ensure_bundles().await?;
        let source = self.shared.inbox(attempt).blob_client(name.as_str());
        let (size_bytes, etag) = stat(&source, attempt, name).await?;
        let limit_bytes = self.shared.limits.max_object_bytes;
        if size_bytes > limit_bytes {
            return Err(LandingError::ObjectTooLarge { attempt, name: name.clone(), limit_bytes });
        }
        let target = self.shared.sealed_blob(attempt, name);
        if size_bytes == 0 {
            return self.put(attempt, name, &target, Bytes::new()).await;
        }
        // Held to the version we just looked at: a device that writes on is told apart, not mixed in.
        let download =
            source.download(Some(ranged(0..size_bytes, etag))).await.map_err(object_error("read an object to seal", attempt, name))?;
        let body = download.body.map_err(object_error("read an object to seal", attempt, name));
        let copy = Copy { attempt, name, target: target.block_blob_client(), blocks: Vec::new(), hash: Sha256::new(), copied: 0 };
        let sealed = copy.run(std::pin::pin!(body)).await?;
        if sealed.size_bytes != size_bytes {
            return Err(LandingError::ObjectChanged { attempt, name: name.clone() });
        }
        Ok(sealed)
    }

    pub(crate) async fn put_sealed(&self, attempt: AttemptId, name: &ObjectName, bytes: Bytes) -> Result<SealedObject, LandingError> {
        self.shared.ensure_bundles().await?;
        self.put(attempt, name, &self.shared.sealed_blob(attempt, name), bytes).await
    }

    async fn put(&self, attempt: AttemptId, name: &ObjectName, target: &BlobClient, bytes: Bytes) -> Result<SealedObject, LandingError> {
        let sealed = SealedObject { name: name.clone(), size_bytes: bytes.len() as u64, sha256: Digest(Sha256::digest(&bytes).into()) };
        let options =
            BlobClientUploadOptions { partition_size: NonZero::new(BLOCK_BYTES as u64), parallel: NonZero::new(2), ..Default::default() };
        target.upload(bytes.into(), Some(options)).await.map_err(object_error("write a sealed object", attempt, name))?;
        Ok(sealed)
    }
}

/// A copy in progress. Nothing of it is visible before its list of blocks is committed; what a cancelled copy staged is
/// dropped by the account after a week.
struct Copy<'a> {
    attempt: AttemptId,
    name: &'a ObjectName,
    target: BlockBlobClient,
    blocks: Vec<Vec<u8>>,
    hash: Sha256,
    copied: u64,
}

impl Copy<'_> {
    async fn run(mut self, mut body: impl Stream<Item = Result<Bytes, LandingError>> + Unpin) -> Result<SealedObject, LandingError> {
        // Two copies of one object at the same time (a lease that was lost) must not mix their blocks.
        let mine = Uuid::new_v4();
        let mut pending = Pending::default();
        let mut block = pending.fill(&mut body).await?;
        while !block.is_empty() {
            let mut id = mine.as_bytes().to_vec();
            id.extend_from_slice(&(self.blocks.len() as u32).to_be_bytes());
            let (hash, bytes) = (self.hash.clone(), block.clone());
            // Hash, write this block and read the next at the same time; only these two are in memory.
            let hashing = tokio::task::spawn_blocking(move || hash.chain_update(&bytes));
            let writing = async {
                let staged = self.target.stage_block(&id, block.len() as u64, block.clone().into(), None).await;
                staged.map_err(object_error("write a sealed object", self.attempt, self.name))
            };
            let (_, next) = tokio::try_join!(writing, pending.fill(&mut body))?;
            self.hash = hashing.await.map_err(|stopped| LandingError::Io {
                doing: "hash",
                path: self.name.as_str().into(),
                source: std::io::Error::other(stopped),
            })?;
            self.copied += block.len() as u64;
            self.blocks.push(id);
            block = next;
        }
        let list = BlockLookupList { latest: Some(self.blocks), ..Default::default() };
        let failed = object_error("commit a sealed object", self.attempt, self.name);
        self.target.commit_block_list(list.try_into().map_err(&failed)?, None).await.map_err(&failed)?;
        Ok(SealedObject { name: self.name.clone(), size_bytes: self.copied, sha256: Digest(self.hash.finalize().into()) })
    }
}

/// What came with one block but belongs to the next.
#[derive(Default)]
struct Pending(Bytes);

impl Pending {
    /// The next block: full, unless it is the last. Empty at the end.
    async fn fill(&mut self, body: &mut (impl Stream<Item = Result<Bytes, LandingError>> + Unpin)) -> Result<Bytes, LandingError> {
        let mut first = std::mem::take(&mut self.0);
        if first.is_empty() {
            first = body.try_next().await?.unwrap_or_default();
        }
        if first.len() >= BLOCK_BYTES {
            self.0 = first.split_off(BLOCK_BYTES);
            return Ok(first);
        }
        let mut block = Vec::with_capacity(BLOCK_BYTES);
        block.extend_from_slice(&first);
        drop(first);
        while block.len() < BLOCK_BYTES {
            let Some(mut piece) = body.try_next().await? else { break };
            let rest = piece.split_off(piece.len().min(BLOCK_BYTES - block.len()));
            block.extend_from_slice(&piece);
            self.0 = rest;
        }
        Ok(block.into())
    }
}
