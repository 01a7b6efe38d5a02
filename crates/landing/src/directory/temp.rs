//! Files that nobody sees before they are whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use uuid::Uuid;

/// Bundles hold private data of device owners: nobody but the service's own user reads them.
const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;
/// Enough that system calls do not count; many copies run at once.
const COPY_BUFFER_BYTES: usize = 64 * 1024;

/// A file under `tmp` that is removed when dropped, unless it was published. It travels by value through the threads that
/// do the blocking work, so a cancelled request drops it there and leaves nothing.
#[derive(Debug)]
pub(crate) struct TempFile {
    path: PathBuf,
    file: File,
    published: bool,
}

impl TempFile {
    pub(crate) fn create(directory: &Path) -> io::Result<Self> {
        let path = directory.join(Uuid::new_v4().simple().to_string());
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(FILE_MODE).open(&path)?;
        Ok(Self { path, file, published: false })
    }

    /// A second name for a finished file. `None` where the file system has no hard links.
    pub(crate) fn link(directory: &Path, finished: &Path) -> io::Result<Option<Self>> {
        let path = directory.join(Uuid::new_v4().simple().to_string());
        match fs::hard_link(finished, &path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(error),
            Err(_) => return Ok(None),
        }
        // From here the guard owns the second name.
        match File::open(&path) {
            Ok(file) => Ok(Some(Self { path, file, published: false })),
            Err(error) => {
                remove_quietly(&path);
                Err(error)
            }
        }
    }

    pub(crate) fn file(&mut self) -> &mut File {
        &mut self.file
    }

    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Give the file its name. Whoever had that name before loses it in the same instant.
    pub(crate) fn publish(mut self, to: &Path) -> io::Result<fs::Metadata> {
        fs::rename(&self.path, to)?;
        // A rename onto another name of the same file succeeds and leaves both, so the guard still removes its own.
        self.published = true;
        remove_quietly(&self.path);
        self.file.metadata()
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if !self.published {
            remove_quietly(&self.path);
        }
    }
}

/// Removal that is repeated by the sweep if it fails now.
fn remove_quietly(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "cannot remove a temporary file")
        }
        _ => {}
    }
}

/// Create a directory and those above it, readable for us only.
pub(crate) fn create_private_dirs(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(path)
}

/// Create one directory below one that must exist.
pub(crate) fn create_private_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(DIRECTORY_MODE).create(path)
}

pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Move a directory out of sight in one step. The second step, removing it, may then take its time or be left to the
/// sweep. `None` when it was not there.
pub(crate) fn to_trash(directory: &Path, temporary: &Path) -> io::Result<Option<PathBuf>> {
    let trash = temporary.join(format!("trash-{}", Uuid::new_v4().simple()));
    match fs::rename(directory, &trash) {
        Ok(()) => Ok(Some(trash)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

pub(crate) fn empty_trash(trash: Option<PathBuf>) {
    if let Some(trash) = trash
        && let Err(error) = fs::remove_dir_all(&trash)
    {
        tracing::warn!(path = %trash.display(), %error, "cannot remove a directory yet; the sweep will try again");
    }
}

/// Read to the end in large pieces, handing each to `each`. Returns how many bytes there were.
pub(crate) fn pour(from: &mut impl Read, mut each: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<u64> {
    let mut buffer = vec![0; COPY_BUFFER_BYTES];
    let mut total = 0;
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(count) => {
                each(&buffer[..count])?;
                total += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
