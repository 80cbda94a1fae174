//! The data directory: only its owner may enter it, and only one host uses it at a time.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Random;
use crate::error::{Error, Result};

const LOCK: &str = "wharf.lock";
const NODE: &str = "node";
/// The time between two attempts to take the lock.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// The directory, locked until this value is dropped. The operating system frees the lock of a process that dies, so a
/// lock file that stays behind is harmless.
#[derive(Debug)]
pub(super) struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Creates the directory if it is missing, and waits for its lock, without limit. Calls `waiting` with a description
    /// of the directory and its holder at each attempt that fails because another host has the lock.
    pub(super) async fn open(path: &Path, mut waiting: impl FnMut(String)) -> Result<Self> {
        let failed =
            |what: &str, error: std::io::Error| Error::io(format!("data directory {}: {what}", path.display()), error);
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
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) => {
                    let mut holder = String::new();
                    // The number only helps an operator; a process that has not written it yet holds the lock too.
                    let _ = lock.rewind().and_then(|()| lock.read_to_string(&mut holder));
                    waiting(format!("data directory {} (process {})", path.display(), holder.trim()));
                    tokio::time::sleep(RETRY_INTERVAL).await;
                }
                Err(TryLockError::Error(error)) => return Err(failed("cannot be locked", error)),
            }
        }
        let note = lock.set_len(0).and_then(|()| lock.rewind()).and_then(|()| write!(lock, "{}", std::process::id()));
        // The number only helps an operator, and a host must start on a full disk.
        if let Err(error) = note {
            tracing::warn!(path = %file.display(), %error, "the number of this process was not written");
        }
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the name of this node. It is created with the directory and stays the same as long as the directory
    /// exists.
    pub(super) fn node(&self, random: &Random) -> Result<Arc<str>> {
        let file = self.path.join(NODE);
        let failed = |error| Error::io(format!("{} cannot be written", file.display()), error);
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

    #[tokio::test]
    async fn a_second_host_waits_for_the_directory_and_only_its_owner_may_enter() {
        let outer = tempfile::tempdir().unwrap();
        let path = outer.path().join("a/data");
        let mut first = Some(DataDir::open(&path, |_| ()).await.unwrap());
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        let mut holders = Vec::new();
        let second = DataDir::open(&path, |holder| {
            holders.push(holder);
            first = None;
        });
        second.await.unwrap();
        assert_eq!(holders, [format!("data directory {} (process {})", path.display(), std::process::id())]);
    }
}
