//! The directory of what belongs to this one controller: private, and made at the first start.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use secrecy::SecretString;

/// Longest content of a file of ours.
const MAX_FILE_BYTES: u64 = 4096;

/// The data directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {}\nNext: make it writable for this program, or choose another with server.data_dir", path.display())]
pub struct DataDirError {
    doing: &'static str,
    path: PathBuf,
    #[source]
    source: std::io::Error,
}

/// The directory, which exists.
#[derive(Debug, Clone)]
pub(crate) struct DataDir(PathBuf);

impl DataDir {
    /// Makes it if it is missing, for us alone.
    pub(crate) fn open(path: &Path) -> Result<Self, DataDirError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(|source| DataDirError { doing: "make the directory", path: path.to_owned(), source })?;
        Ok(Self(path.to_owned()))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The id of this controller: client id at the broker, caller in response topics, owner of leases.
    pub(crate) fn controller_id(&self) -> Result<String, DataDirError> {
        self.once("controller-id", || format!("muster-{}", &uuid::Uuid::new_v4().simple().to_string()[..12]))
    }

    /// What grants to the directory landing are signed with. Another one makes the grants in use void.
    pub(crate) fn signing_key(&self) -> Result<SecretString, DataDirError> {
        let random = || uuid::Uuid::new_v4().simple().to_string();
        self.once("landing-key", || random() + &random() + &random()).map(SecretString::from)
    }

    /// The text in a file; made at the first start and the same ever after. Of several programs that start at once, the first one's counts.
    fn once(&self, name: &str, make: impl FnOnce() -> String) -> Result<String, DataDirError> {
        let path = self.0.join(name);
        let failed = |doing, path: &Path| {
            let path = path.to_owned();
            move |source| DataDirError { doing, path, source }
        };
        if let Some(text) = read(&path).map_err(failed("read", &path))? {
            return Ok(text);
        }
        // Written whole under another name first: a reader never sees half of it.
        let draft = self.0.join(format!(".{name}-{}", uuid::Uuid::new_v4().simple()));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft).map_err(failed("write", &draft))?;
        let text = make();
        file.write_all(format!("{text}\n").as_bytes()).and_then(|()| file.sync_all()).map_err(failed("write", &draft))?;
        let linked = std::fs::hard_link(&draft, &path);
        std::fs::remove_file(&draft).map_err(failed("remove", &draft))?;
        match linked {
            Ok(()) => Ok(text),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(read(&path).map_err(failed("read", &path))?.unwrap_or(text)),
            Err(source) => Err(DataDirError { doing: "write", path, source }),
        }
    }
}

fn read(path: &Path) -> std::io::Result<Option<String>> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = String::new();
    file.take(MAX_FILE_BYTES).read_to_string(&mut text)?;
    let text = text.trim();
    if text.is_empty() {
        Err(std::io::Error::new(ErrorKind::InvalidData, "it is empty; remove it to have it made anew"))
    } else {
        Ok(Some(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use secrecy::ExposeSecret as _;

    use super::*;

    #[test]
    fn what_is_made_once_stays() {
        let parent = tempfile::tempdir().expect("a directory");
        let dir = DataDir::open(&parent.path().join("a/b")).expect("made");
        assert_eq!(std::fs::metadata(dir.path()).expect("there").permissions().mode() & 0o777, 0o700);
        let id = dir.controller_id().expect("made");
        assert!(muster_wire::topic::is_caller(&id), "{id}");
        assert_eq!(DataDir::open(dir.path()).expect("there").controller_id().expect("read"), id);
        assert!(dir.signing_key().expect("made").expose_secret().len() >= 32);
        assert_eq!(std::fs::metadata(dir.path().join("landing-key")).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).expect("there").count(), 2, "no drafts are left");
    }

    #[test]
    fn an_empty_or_unusable_file_is_an_error_that_says_what_to_do() {
        let parent = tempfile::tempdir().expect("a directory");
        let dir = DataDir::open(parent.path()).expect("there");
        std::fs::write(parent.path().join("controller-id"), "").expect("written");
        assert!(dir.controller_id().is_err());
        std::fs::write(parent.path().join("file"), "").expect("written");
        let error = DataDir::open(&parent.path().join("file/below")).expect_err("no directory").to_string();
        assert!(error.contains("server.data_dir"), "{error}");
    }
}
