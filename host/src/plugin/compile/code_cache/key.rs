//! The key of the MACs: one for each data directory, created once, readable by its owner only.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use crate::clock::Random;
use crate::error::{Error, Result};

const FILE: &str = "compiled.key";
/// The length of a key.
pub(super) const BYTES: usize = 32;

/// Opens or creates the key of a data directory. A key that cannot be trusted (wrong length, or readable by others) is
/// replaced, after which everything is compiled again.
pub(super) fn open(data_dir: &Path, random: &Random) -> Result<[u8; BYTES]> {
    let path = data_dir.join(FILE);
    let failed = |error: io::Error| Error::io(format!("{} cannot be used", path.display()), error);
    match File::open(&path) {
        Ok(file) => match read(file).map_err(failed)? {
            Some(key) => return Ok(key),
            None => {
                tracing::warn!(file = %path.display(), "replacing a damaged or exposed key of the code cache")
            }
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let key = random.bytes()?;
    write(&path, &key).map_err(failed)?;
    Ok(key)
}

fn read(mut file: File) -> io::Result<Option<[u8; BYTES]>> {
    let metadata = file.metadata()?;
    if metadata.len() != BYTES as u64 || metadata.permissions().mode() & 0o077 != 0 {
        return Ok(None);
    }
    let mut key = [0; BYTES];
    file.read_exact(&mut key)?;
    Ok(Some(key))
}

/// Writes a key atomically: the data directory has only one host, and a rename is atomic.
fn write(path: &Path, key: &[u8]) -> io::Result<()> {
    let unfinished = path.with_extension("key.tmp");
    // A file that a crash left may be readable by others.
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
    file.write_all(key)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_created_once_for_its_owner_and_replaced_when_it_is_damaged_or_readable() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        let open = || open(directory.path(), &Random::System).unwrap();
        let first = open();
        assert_eq!((open(), fs::metadata(&path).unwrap().permissions().mode() & 0o777), (first, 0o600));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let second = open();
        assert_ne!(second, first);
        fs::write(&path, b"short").unwrap();
        fs::write(directory.path().join("compiled.key.tmp"), b"of a crash").unwrap();
        let third = open();
        assert!(third != second && open() == third);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
