//! The code cache: compiled components on disk, in `compiled/` of the data directory, so that a restart compiles
//! nothing.
//!
//! A file is loaded only if this host wrote it, for this digest and this engine: its MAC is an HMAC over all three,
//! with a key that is stored next to the directory. Any other file under one of these names is reported, removed and
//! compiled again. A lost file costs only the time to compile it, so an error of the disk never fails a deploy.

mod key;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::fingerprint::Fingerprint;
use super::machine_code::MachineCode;
use crate::clock::Random;
use crate::error::{Error, Result};
use crate::plugin::artifact::Digest;

const DIRECTORY: &str = "compiled";
const EXTENSION: &str = "cwasm";
/// The extension of a file that is still being written.
const UNFINISHED: &str = "tmp";

/// A file consists of magic, fingerprint, length of the machine code, MAC, machine code.
const MAGIC: &[u8; 8] = b"wharfc\x00\x01";
const HEADER: usize = 8 + 32 + 8 + 32;

/// The maximum size of the cache; the files that were written first are removed first.
const MAX_BYTES: u64 = 1024 * 1024 * 1024;

/// The cache directory.
pub(super) struct CodeCache {
    directory: PathBuf,
    fingerprint: Fingerprint,
    /// The HMAC with the key and no data yet.
    mac: Hmac<Sha256>,
    /// The maximum size of machine code; a larger file is not read.
    largest: u64,
    /// Distinguishes temporary names.
    written: AtomicU64,
}

/// Why a file is not loaded.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("there is no such file")]
    Missing,
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    #[error("Wharf did not write it")]
    Foreign,
    #[error("it was compiled for another engine")]
    OtherEngine,
    #[error("its length has changed")]
    OtherLength,
    #[error("it is larger than compiled code can be")]
    TooLarge,
    #[error("its MAC is wrong, so it was changed")]
    WrongMac,
}

impl CodeCache {
    /// Opens or creates the directory and the key. Removes files that this host can no longer use.
    pub(super) fn open(data_dir: &Path, fingerprint: Fingerprint, largest: u64, random: &Random) -> Result<Self> {
        let directory = data_dir.join(DIRECTORY);
        let failed = |error: io::Error| Error::io(format!("{} cannot be created", directory.display()), error);
        DirBuilder::new().recursive(true).mode(0o700).create(&directory).map_err(failed)?;
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).map_err(failed)?;
        let mac = Hmac::new_from_slice(&key::open(data_dir, random)?).map_err(Error::internal)?;
        let cache = Self { directory, fingerprint, mac, largest, written: AtomicU64::new(0) };
        if let Err(error) = cache.remove_stale() {
            tracing::warn!(directory = %cache.directory.display(), %error, "old compiled components were not removed");
        }
        Ok(cache)
    }

    /// Returns the machine code of a component, if it is cached and unchanged.
    pub(super) fn take(&self, digest: &Digest) -> Option<MachineCode> {
        match self.read(digest) {
            Ok(bytes) => Some(MachineCode::trusted(bytes)),
            Err(Refusal::Missing) => None,
            Err(refusal) => {
                self.discard(digest, &refusal.to_string());
                None
            }
        }
    }

    /// Returns whether there is a file for a component. It may still be refused.
    pub(super) fn contains(&self, digest: &Digest) -> bool {
        self.path(digest).exists()
    }

    /// Stores machine code.
    pub(super) fn put(&self, digest: &Digest, machine_code: &MachineCode) {
        if let Err(error) = self.write(digest, machine_code.as_bytes()).and_then(|()| self.evict()) {
            tracing::warn!(%digest, %error, "a compiled component was not cached; the next start compiles it again");
        }
    }

    /// Removes a file and logs the reason.
    pub(super) fn discard(&self, digest: &Digest, reason: &str) {
        let path = self.path(digest);
        tracing::warn!(%digest, file = %path.display(), reason, "a cached component is not loaded but compiled again");
        if let Err(error) = fs::remove_file(&path) {
            tracing::warn!(file = %path.display(), %error, "the cached component was not removed");
        }
    }

    fn read(&self, digest: &Digest) -> Result<Vec<u8>, Refusal> {
        let mut file = match File::open(self.path(digest)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Refusal::Missing),
            opened => opened?,
        };
        let whole = file.metadata()?.len();
        let mut magic = [0; 8];
        let mut fingerprint = [0; 32];
        let mut length = [0; 8];
        let mut mac = [0; 32];
        for part in [magic.as_mut_slice(), &mut fingerprint, &mut length, &mut mac] {
            file.read_exact(part).map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => Refusal::OtherLength,
                _ => Refusal::Unreadable(error),
            })?;
        }
        let length = u64::from_le_bytes(length);
        if magic != *MAGIC {
            return Err(Refusal::Foreign);
        }
        if fingerprint != self.fingerprint.0 {
            return Err(Refusal::OtherEngine);
        }
        if length.checked_add(HEADER as u64) != Some(whole) {
            return Err(Refusal::OtherLength);
        }
        if length > self.largest {
            return Err(Refusal::TooLarge);
        }
        let mut bytes = Vec::new();
        file.take(length).read_to_end(&mut bytes)?;
        self.mac(digest, &bytes).verify_slice(&mac).map_err(|_| Refusal::WrongMac)?;
        Ok(bytes)
    }

    /// Writes a file atomically: under its final name there is only a complete file.
    fn write(&self, digest: &Digest, machine_code: &[u8]) -> io::Result<()> {
        let number = self.written.fetch_add(1, Ordering::Relaxed);
        let unfinished = self.directory.join(format!("{digest}.{number}.{UNFINISHED}"));
        let written = (|| {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
            file.write_all(MAGIC)?;
            file.write_all(&self.fingerprint.0)?;
            file.write_all(&(machine_code.len() as u64).to_le_bytes())?;
            file.write_all(&self.mac(digest, machine_code).finalize().into_bytes())?;
            file.write_all(machine_code)?;
            file.sync_all()?;
            fs::rename(&unfinished, self.path(digest))
        })();
        written.inspect_err(|_| {
            // A file that is left is removed at the next start.
            let _ = fs::remove_file(&unfinished);
        })
    }

    fn mac(&self, digest: &Digest, machine_code: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.mac.clone();
        // The first three have a fixed length, so no two different triples are the same bytes.
        mac.update(MAGIC);
        mac.update(digest.as_str().as_bytes());
        mac.update(&self.fingerprint.0);
        mac.update(machine_code);
        mac
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.directory.join(format!("{digest}{}", self.ending()))
    }

    fn ending(&self) -> String {
        format!("-{}.{EXTENSION}", self.fingerprint.short())
    }

    fn remove_stale(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let ours = [EXTENSION, UNFINISHED].iter().any(|ending| name.ends_with(&format!(".{ending}")));
            if ours && !name.ends_with(&self.ending()) {
                tracing::info!(file = %name, "a cached component of another engine or an unfinished file is removed");
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    fn evict(&self) -> io::Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            files.push((metadata.modified()?, metadata.len(), entry.path()));
        }
        files.sort();
        let mut whole: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, bytes, path) in files {
            if whole <= MAX_BYTES {
                break;
            }
            fs::remove_file(path)?;
            whole = whole.saturating_sub(bytes);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
