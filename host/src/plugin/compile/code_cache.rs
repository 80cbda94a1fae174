//! The code cache: compiled components on disk, in `compiled/` of the data directory, so that a restart compiles
//! nothing.
//!
//! A file is loaded only if this host wrote it, for this digest and this engine: its MAC is an HMAC over all three,
//! with a key that is stored next to the directory. Any other file under one of these names is reported, removed and
//! compiled again. A lost file costs only the time to compile it, so an error of the disk never fails a deploy.
//!
//! Loaded files are mapped. So a file is written once, under another name, and is read-only afterwards. It is never
//! overwritten, only replaced or removed: the file that is mapped stays as it is until nothing uses it.
//!
//! The size is bounded for the files that are not in use. The caller knows which are.

mod key;

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::fingerprint::Fingerprint;
use super::machine_code::{CodeFile, MachineCode};
use crate::clock::Random;
use crate::error::{Error, Result};
use crate::plugin::artifact::Digest;
use crate::plugin::shortage::is_io_shortage;

const DIRECTORY: &str = "compiled";
const EXTENSION: &str = "cwasm";
/// The extension of a file that is still being written.
const UNFINISHED: &str = "tmp";

/// The version of the form of a file. A start removes the files of other versions.
const VERSION: u8 = 2;
/// A file consists of the machine code, and a trailer of magic, fingerprint, length of the machine code and MAC. A mapping
/// begins at a page of the file, so the machine code is at the beginning.
const MAGIC: &[u8; 8] = &[b'w', b'h', b'a', b'r', b'f', b'c', 0, VERSION];
const TRAILER: u64 = 8 + 32 + 8 + 32;

/// The bytes of a file that are read at once to check its MAC.
const CHUNK: usize = 64 * 1024;

/// One part in this many of the size of the cache may be written before the next trim.
const TRIM_PART: u64 = 8;

/// The maximum sizes in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    /// Of one file's machine code; a larger file is not read.
    pub(super) file: u64,
    /// Of all files that are not in use.
    pub(super) cache: u64,
}

/// The cache directory.
pub(super) struct CodeCache {
    directory: PathBuf,
    fingerprint: Fingerprint,
    /// The HMAC with the key and no data yet.
    mac: Hmac<Sha256>,
    sizes: Sizes,
    /// Distinguishes temporary names.
    written: AtomicU64,
    files: Mutex<Files>,
}

/// The files of the cache.
#[derive(Debug, Default)]
struct Files {
    by_digest: HashMap<String, Kept>,
    /// The number of uses so far.
    uses: u64,
    /// Bytes written since the last trim.
    written: u64,
}

#[derive(Debug, Clone, Copy)]
struct Kept {
    bytes: u64,
    /// The number of its last use.
    used: u64,
}

impl Files {
    fn use_now(&mut self, digest: &str, bytes: u64) {
        self.uses += 1;
        self.by_digest.insert(digest.to_owned(), Kept { bytes, used: self.uses });
    }
}

/// A file with the form that this host writes, whose MAC is not checked yet.
struct Unchecked {
    file: File,
    /// Of the machine code.
    length: u64,
    mac: [u8; 32],
}

/// Why a file is not loaded.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("there is no such file")]
    Missing,
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    #[error("it does not end as Wharf writes it")]
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
    pub(super) fn open(data_dir: &Path, fingerprint: Fingerprint, sizes: Sizes, random: &Random) -> Result<Self> {
        let directory = data_dir.join(DIRECTORY);
        let failed = |error: io::Error| Error::io(format!("{} cannot be created", directory.display()), error);
        DirBuilder::new().recursive(true).mode(0o700).create(&directory).map_err(failed)?;
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).map_err(failed)?;
        let mac = Hmac::new_from_slice(&key::open(data_dir, random)?).map_err(Error::internal)?;
        let (written, files) = (AtomicU64::new(0), Mutex::default());
        let cache = Self { directory, fingerprint, mac, sizes, written, files };
        if let Err(error) = cache.remove_stale().and_then(|()| cache.find_files()) {
            tracing::warn!(directory = %cache.directory.display(), %error, "old compiled components were not removed");
        }
        Ok(cache)
    }

    /// Returns the file with the machine code of a component, if it is cached and unchanged.
    ///
    /// # Errors
    /// The system lacks file descriptors or memory. The file is not at fault and stays.
    pub(super) fn take(&self, digest: &Digest) -> io::Result<Option<CodeFile>> {
        Ok(self.unless_refused(digest, self.read(digest))?.map(CodeFile::trusted))
    }

    /// Returns a copy of the machine code of a component, if it is cached and unchanged.
    ///
    /// # Errors
    /// As [`CodeCache::take`].
    pub(super) fn take_copy(&self, digest: &Digest) -> io::Result<Option<MachineCode>> {
        Ok(self.unless_refused(digest, self.read_copy(digest))?.map(MachineCode::trusted))
    }

    /// Discards a file that was refused.
    fn unless_refused<T>(&self, digest: &Digest, read: Result<T, Refusal>) -> io::Result<Option<T>> {
        match read {
            Ok(content) => Ok(Some(content)),
            Err(Refusal::Missing) => Ok(None),
            Err(Refusal::Unreadable(error)) if is_io_shortage(&error) => Err(error),
            Err(refusal) => {
                self.discard(digest, &refusal.to_string());
                Ok(None)
            }
        }
    }

    /// Returns whether there is a file for a component. It may still be refused.
    pub(super) fn contains(&self, digest: &Digest) -> bool {
        self.path(digest).exists()
    }

    /// Stores machine code.
    pub(super) fn put(&self, digest: &Digest, machine_code: &MachineCode) {
        let bytes = machine_code.len() as u64 + TRAILER;
        match self.write(digest, machine_code.as_bytes()) {
            Ok(()) => {
                let mut files = self.files();
                files.use_now(digest.as_str(), bytes);
                files.written = files.written.saturating_add(bytes);
            }
            Err(error) => {
                tracing::warn!(%digest, %error, "a compiled component was not cached; the next start compiles it again");
            }
        }
    }

    /// Removes a file and logs the reason.
    pub(super) fn discard(&self, digest: &Digest, reason: &str) {
        let path = self.path(digest);
        tracing::warn!(%digest, file = %path.display(), reason, "a cached component is not loaded but compiled again");
        self.remove(digest);
    }

    /// Removes a file, if there is one.
    pub(super) fn remove(&self, digest: &Digest) {
        let path = self.path(digest);
        self.files().by_digest.remove(digest.as_str());
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(file = %path.display(), %error, "the cached component was not removed");
            }
            _ => {}
        }
    }

    /// Checks a file by reading it once through.
    fn read(&self, digest: &Digest) -> Result<File, Refusal> {
        let Unchecked { file, length, mac } = self.find(digest)?;
        let mut computed = self.mac_of(digest);
        hash(BufReader::with_capacity(CHUNK, (&file).take(length)), &mut computed)?;
        computed.verify_slice(&mac).map_err(|_| Refusal::WrongMac)?;
        self.files().use_now(digest.as_str(), length.saturating_add(TRAILER));
        Ok(file)
    }

    /// Reads the machine code of a file and checks what was read.
    fn read_copy(&self, digest: &Digest) -> Result<Vec<u8>, Refusal> {
        let Unchecked { file, length, mac } = self.find(digest)?;
        let mut code = Vec::new();
        file.take(length).read_to_end(&mut code)?;
        self.mac_of(digest).chain_update(&code).verify_slice(&mac).map_err(|_| Refusal::WrongMac)?;
        self.files().use_now(digest.as_str(), length.saturating_add(TRAILER));
        Ok(code)
    }

    /// Opens a file and reads its trailer.
    fn find(&self, digest: &Digest) -> Result<Unchecked, Refusal> {
        let file = match File::open(self.path(digest)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Refusal::Missing),
            opened => opened?,
        };
        let length = file.metadata()?.len().checked_sub(TRAILER).ok_or(Refusal::OtherLength)?;
        let mut magic = [0; 8];
        let mut fingerprint = [0; 32];
        let mut recorded = [0; 8];
        let mut mac = [0; 32];
        let mut at = length;
        for part in [magic.as_mut_slice(), &mut fingerprint, &mut recorded, &mut mac] {
            file.read_exact_at(part, at)?;
            at = at.saturating_add(part.len() as u64);
        }
        if magic != *MAGIC {
            return Err(Refusal::Foreign);
        }
        if fingerprint != self.fingerprint.0 {
            return Err(Refusal::OtherEngine);
        }
        if u64::from_le_bytes(recorded) != length {
            return Err(Refusal::OtherLength);
        }
        if length > self.sizes.file {
            return Err(Refusal::TooLarge);
        }
        Ok(Unchecked { file, length, mac })
    }

    /// Writes a file atomically: under its final name there is only a complete file.
    fn write(&self, digest: &Digest, machine_code: &[u8]) -> io::Result<()> {
        let number = self.written.fetch_add(1, Ordering::Relaxed);
        let unfinished = self.directory.join(format!("{digest}.{number}.{UNFINISHED}"));
        let written = (|| {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o400).open(&unfinished)?;
            file.write_all(machine_code)?;
            file.write_all(MAGIC)?;
            file.write_all(&self.fingerprint.0)?;
            file.write_all(&(machine_code.len() as u64).to_le_bytes())?;
            file.write_all(&self.mac_of(digest).chain_update(machine_code).finalize().into_bytes())?;
            file.sync_all()?;
            fs::rename(&unfinished, self.path(digest))
        })();
        written.inspect_err(|_| {
            // A file that is left is removed at the next start.
            let _ = fs::remove_file(&unfinished);
        })
    }

    /// Returns the MAC of a file of this component. The machine code follows.
    fn mac_of(&self, digest: &Digest) -> Hmac<Sha256> {
        let mut mac = self.mac.clone();
        // These have a fixed length, so no two different files are the same bytes.
        mac.update(MAGIC);
        mac.update(digest.as_str().as_bytes());
        mac.update(&self.fingerprint.0);
        mac
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.directory.join(format!("{digest}{}", self.ending()))
    }

    fn ending(&self) -> String {
        format!("-{}.{VERSION}.{EXTENSION}", self.fingerprint.short())
    }

    fn remove_stale(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let ours = [EXTENSION, UNFINISHED].iter().any(|ending| name.ends_with(&format!(".{ending}")));
            if ours && !name.ends_with(&self.ending()) {
                tracing::info!(file = %name, "a cached component of another engine or version, or an unfinished file, is removed");
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Lists the files that a start finds, the ones that were written first as the least recently used.
    fn find_files(&self) -> io::Result<()> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            found.push((metadata.modified()?, metadata.len(), entry.file_name()));
        }
        found.sort();
        let mut files = self.files();
        for (_, bytes, name) in found {
            if let Some(digest) = name.to_str().and_then(|name| name.strip_suffix(&self.ending())) {
                files.use_now(digest, bytes);
                files.written = files.written.saturating_add(bytes);
            }
        }
        Ok(())
    }

    /// Returns whether enough was written since the last trim that another one is worth its time.
    pub(super) fn needs_trim(&self) -> bool {
        self.files().written > self.sizes.cache / TRIM_PART
    }

    /// Removes the least recently used files that are not in use, until the others fit into the cache.
    pub(super) fn trim(&self, is_in_use: impl Fn(&str) -> bool) {
        let mut files = self.files();
        files.written = 0;
        let mut unused: Vec<(u64, u64, String)> = files
            .by_digest
            .iter()
            .filter(|(digest, _)| !is_in_use(digest))
            .map(|(digest, kept)| (kept.used, kept.bytes, digest.clone()))
            .collect();
        unused.sort_unstable();
        let mut bytes: u64 = unused.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, size, digest) in unused {
            if bytes <= self.sizes.cache {
                break;
            }
            bytes = bytes.saturating_sub(size);
            files.by_digest.remove(&digest);
            let path = self.directory.join(format!("{digest}{}", self.ending()));
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(file = %path.display(), %error, "old machine code was not removed");
                }
                _ => {}
            }
        }
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds everything that can be read to a MAC.
fn hash(mut content: impl BufRead, mac: &mut Hmac<Sha256>) -> io::Result<()> {
    loop {
        let chunk = content.fill_buf()?;
        let bytes = chunk.len();
        if bytes == 0 {
            return Ok(());
        }
        mac.update(chunk);
        content.consume(bytes);
    }
}

#[cfg(test)]
mod tests;
