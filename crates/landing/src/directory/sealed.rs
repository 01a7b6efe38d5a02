//! Sealed objects on disk: out of the device's reach, hashed, and removed as one.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use muster_wire::AttemptId;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::io::ReaderStream;

use super::temp::{self, TempFile};
use super::{DirectoryLanding, Parents, blocking, create_parents, temporary_file};
use crate::error::LandingError;
use crate::limits::STREAM_BUFFER_BYTES;
use crate::listing::{Digest, Download, InboxObject, SealedObject, clamp};
use crate::name::ObjectName;
use crate::reader::SealedReader;

impl DirectoryLanding {
    pub(crate) async fn seal(&self, attempt: AttemptId, name: &ObjectName) -> Result<SealedObject, LandingError> {
        let held = self.shared.hold(attempt).await;
        let index = self.shared.index_on_disk(attempt).await?;
        let object = index.objects.get(name).cloned().ok_or_else(|| LandingError::ObjectNotFound { attempt, name: name.clone() })?;
        let limit_bytes = self.shared.limits.max_object_bytes;
        if object.size_bytes > limit_bytes {
            return Err(LandingError::ObjectTooLarge { attempt, name: name.clone(), limit_bytes });
        }
        let (from, to, temporary) = (name.below(&self.shared.paths(attempt).objects), self.shared.sealed(attempt), self.shared.temporary());
        let (name, fsync) = (name.clone(), self.shared.fsync);
        blocking(move || {
            // An append object grows behind its end, so it gets a file of its own; all others never change again.
            let linked = match object.append_blocks {
                Some(_) => None,
                None => TempFile::link(&temporary, &from).map_err(LandingError::io("link", &from))?,
            };
            let (temp, digest, size_bytes) = match linked {
                Some(mut linked) => {
                    drop(held);
                    let mut hash = Sha256::new();
                    let read = temp::pour(linked.file(), |bytes| {
                        hash.update(bytes);
                        Ok(())
                    });
                    let size_bytes = read.map_err(LandingError::io("read", &from))?;
                    (linked, Digest(hash.finalize().into()), size_bytes)
                }
                None => {
                    let source = File::open(&from).map_err(LandingError::io("open", &from))?;
                    drop(held);
                    let mut copy = temporary_file(&temporary)?;
                    let mut hash = Sha256::new();
                    let size_bytes = temp::pour(&mut source.take(object.size_bytes), |bytes| {
                        hash.update(bytes);
                        copy.file().write_all(bytes)
                    });
                    let size_bytes = size_bytes.map_err(LandingError::io("copy", &from))?;
                    (copy, Digest(hash.finalize().into()), size_bytes)
                }
            };
            if size_bytes != object.size_bytes {
                return Err(LandingError::ObjectChanged { attempt, name });
            }
            publish(attempt, &to, &name, temp, fsync)?;
            Ok(SealedObject { name, size_bytes, sha256: digest })
        })
        .await
    }

    pub(crate) async fn put_sealed(&self, attempt: AttemptId, name: &ObjectName, bytes: Bytes) -> Result<SealedObject, LandingError> {
        let (to, temporary) = (self.shared.sealed(attempt), self.shared.temporary());
        let (name, fsync) = (name.clone(), self.shared.fsync);
        blocking(move || {
            let mut temp = temporary_file(&temporary)?;
            temp.file().write_all(&bytes).map_err(LandingError::io("write in", &temporary))?;
            let sealed = SealedObject { name: name.clone(), size_bytes: bytes.len() as u64, sha256: Digest(Sha256::digest(&bytes).into()) };
            publish(attempt, &to, &name, temp, fsync)?;
            Ok(sealed)
        })
        .await
    }

    pub(crate) async fn list_sealed(&self, attempt: AttemptId, limit: usize) -> Result<Vec<InboxObject>, LandingError> {
        let directory = self.shared.sealed(attempt);
        blocking(move || {
            let files = match super::inbox::files_below(&directory, limit + 1) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
                files => files.map_err(LandingError::io("list", &directory))?,
            };
            if files.len() > limit {
                return Err(LandingError::TooManyObjects { attempt, limit });
            }
            let mut objects = Vec::with_capacity(files.len());
            for file in files {
                objects.push(InboxObject {
                    name: ObjectName::parse(&file.name)?,
                    size_bytes: file.size_bytes,
                    modified_at: file.modified_at.into(),
                });
            }
            objects.sort_by(|a, b| a.name.cmp(&b.name));
            Ok(objects)
        })
        .await
    }

    pub(crate) async fn open_sealed(
        &self,
        attempt: AttemptId,
        name: &ObjectName,
        range: Option<Range<u64>>,
    ) -> Result<Download, LandingError> {
        let (file, path, total_bytes) = self.sealed_file(attempt, name).await?;
        let range = clamp(range, total_bytes)?;
        let mut file = tokio::fs::File::from_std(file);
        file.set_max_buf_size(STREAM_BUFFER_BYTES);
        if range.start > 0 {
            file.seek(io::SeekFrom::Start(range.start)).await.map_err(LandingError::io("read", &path))?;
        }
        let body = ReaderStream::with_capacity(file.take(range.end - range.start), STREAM_BUFFER_BYTES);
        Ok(Download { total_bytes, range, body: body.boxed() })
    }

    pub(crate) async fn reader(&self, attempt: AttemptId, name: &ObjectName) -> Result<SealedReader, LandingError> {
        let (file, _, size_bytes) = self.sealed_file(attempt, name).await?;
        Ok(SealedReader::file(file, size_bytes))
    }

    async fn sealed_file(&self, attempt: AttemptId, name: &ObjectName) -> Result<(File, PathBuf, u64), LandingError> {
        let (path, name) = (name.below(&self.shared.sealed(attempt)), name.clone());
        blocking(move || {
            let not_found = LandingError::ObjectNotFound { attempt, name };
            let file = match File::open(&path) {
                Ok(file) => file,
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Err(not_found),
                Err(error) => return Err(LandingError::io("open", &path)(error)),
            };
            let metadata = file.metadata().map_err(LandingError::io("open", &path))?;
            if !metadata.is_file() {
                return Err(not_found);
            }
            Ok((file, path, metadata.len()))
        })
        .await
    }

    pub(crate) async fn delete_sealed(&self, attempt: AttemptId) -> Result<(), LandingError> {
        let shared = Arc::clone(&self.shared);
        blocking(move || {
            let directory = shared.sealed(attempt);
            let trash = temp::to_trash(&directory, &shared.temporary()).map_err(LandingError::io("remove", &directory))?;
            temp::empty_trash(trash);
            // The task's and the collection's directories go with their last attempt; a full one stays.
            let _ = directory.parent().map(fs::remove_dir);
            let _ = directory.parent().and_then(Path::parent).map(fs::remove_dir);
            Ok(())
        })
        .await
    }
}

fn publish(attempt: AttemptId, directory: &Path, name: &ObjectName, temp: TempFile, fsync: bool) -> Result<(), LandingError> {
    temp::create_private_dirs(directory).map_err(LandingError::io("create", directory))?;
    match create_parents(directory, name) {
        Ok(()) => {}
        Err(Parents::Conflict) => return Err(LandingError::NameConflict { attempt, name: name.clone() }),
        Err(Parents::Io(error)) => return Err(LandingError::io("create directories in", directory)(error)),
    }
    let path = name.below(directory);
    if fsync {
        temp.sync().map_err(LandingError::io("write", &path))?;
    }
    match temp.publish(&path) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
            return Err(LandingError::NameConflict { attempt, name: name.clone() });
        }
        Err(error) => return Err(LandingError::io("write", &path)(error)),
    }
    if fsync {
        let parent = path.parent().unwrap_or(directory);
        temp::sync_directory(parent).map_err(LandingError::io("write", parent))?;
    }
    Ok(())
}
