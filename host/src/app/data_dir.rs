//! The data directory: only its owner may enter it, and only one host uses it at a time.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::clock::Random;
use crate::error::{Error, Result};

const LOCK: &str = "wharf.lock";
const NODE: &str = "node";

/// The directory, locked until this value is dropped. The operating system frees the lock of a process that dies, so a
/// lock file that stays behind is harmless.
#[derive(Debug)]
pub(super) struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Creates the directory if it is missing, and locks it.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let failed = |what: &str, error: std::io::Error| {
            Error::internal(format!("data directory {}: {what}", path.display())).with_source(error)
        };
        let create = DirBuilder::new().recursive(true).mode(0o700).create(path);
        create.map_err(|error| failed("cannot be created", error))?;
        let mode = path.metadata().map_err(|error| failed("cannot be read", error))?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            tracing::warn!(path = %path.display(), mode = format!("{mode:o}"), "others may enter the data directory");
        }

        let file = path.join(LOCK);
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&file)
            .map_err(|error| failed("cannot be written", error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // The number only helps an operator; a process that has not written it yet holds the lock all the same.
                let _ = lock.read_to_string(&mut holder);
                return Err(Error::internal(format!(
                    "data directory {} is in use by another wharf (process {}); stop it, or choose another with \
                     --data-dir or WHARF_DATA_DIR",
                    path.display(),
                    holder.trim()
                )));
            }
            Err(TryLockError::Error(error)) => return Err(failed("cannot be locked", error)),
        }
        let note = lock
            .set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| write!(lock, "{}", std::process::id()))
            .map_err(|error| failed("cannot be written", error));
        note.map(|()| Self { path: path.to_owned(), _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the name of this node. It is created with the directory and stays the same as long as the directory
    /// exists.
    pub(super) fn node(&self, random: &Random) -> Result<Arc<str>> {
        let file = self.path.join(NODE);
        let failed = |error| Error::internal(format!("{} cannot be written", file.display())).with_source(error);
        match std::fs::read_to_string(&file) {
            Ok(name) if !name.trim().is_empty() => return Ok(name.trim().into()),
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let name = random.uuid()?.to_string();
        let mut made =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&file).map_err(failed)?;
        made.write_all(name.as_bytes()).and_then(|()| made.sync_all()).map_err(failed)?;
        Ok(name.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_host_locks_the_directory_and_only_its_owner_may_enter() {
        let outer = tempfile::tempdir().unwrap();
        let path = outer.path().join("a/data");
        let first = DataDir::open(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        let second = DataDir::open(&path).unwrap_err();
        assert!(second.report().contains(&format!("in use by another wharf (process {})", std::process::id())));
        drop(first);
        assert!(DataDir::open(&path).is_ok());
    }
}
