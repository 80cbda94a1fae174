//! The files on disk: which file a path below the directory names, and which encoded copies of it exist.
//!
//! Owns the rule that nothing outside the directory is found, not by a symbolic link either. Keeps nothing between two
//! requests, so a link that is replaced, such as `current → v2`, takes effect at once: the directory itself may be the
//! link. Blocks, so it runs on a thread for that.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

use crate::http::accepted_codings::{AcceptedCodings, Coding};

/// The file that is sent for a directory.
pub(super) const INDEX: &str = "index.html";

/// The bytes of a digest that an entity tag has.
const TAG_BYTES: usize = 15;

/// The thing that a path names.
#[derive(Debug)]
pub(super) enum Found {
    File(FoundFile),
    /// A directory with an index, named without a slash at its end.
    Directory,
    Nothing,
}

/// A file with links resolved.
#[derive(Debug)]
pub(super) struct FoundFile {
    /// The path as it was requested. Its name decides how the file may be cached.
    pub(super) requested: PathBuf,
    /// The file without links and codings. Its name decides the type if the requested one does not.
    pub(super) plain: PathBuf,
    /// The file to send.
    path: PathBuf,
    pub(super) coding: Option<Coding>,
    /// Whether encoded copies exist, so that the response depends on `Accept-Encoding`.
    pub(super) has_codings: bool,
}

/// An open file.
#[derive(Debug)]
pub(super) struct OpenFile {
    pub(super) file: File,
    pub(super) length: u64,
    pub(super) modified: Option<SystemTime>,
    /// The content of a strong entity tag.
    pub(super) tag: String,
}

/// Finds the file at `relative`. `is_directory` says that the path ends with a slash.
pub(super) fn find(directory: &Path, relative: &Path, is_directory: bool, accepted: &AcceptedCodings) -> Found {
    let Ok(root) = directory.canonicalize() else { return Found::Nothing };
    let mut requested = root.join(relative);
    if is_directory {
        requested.push(INDEX);
    }
    if let Some(plain) = file_within(&root, &requested) {
        return Found::File(with_coding(&root, requested, plain, accepted));
    }
    if !is_directory && file_within(&root, &requested.join(INDEX)).is_some() {
        return Found::Directory;
    }
    Found::Nothing
}

/// Chooses the copy to send. The copies lie next to the file itself, not next to a link to it.
fn with_coding(root: &Path, requested: PathBuf, plain: PathBuf, accepted: &AcceptedCodings) -> FoundFile {
    let copies = Coding::ALL.into_iter().filter_map(|coding| {
        let mut name = plain.clone().into_os_string();
        name.push(coding.file_ending());
        Some((coding, file_within(root, Path::new(&name))?))
    });
    let copies: Vec<(Coding, PathBuf)> = copies.collect();
    let available: Vec<Coding> = copies.iter().map(|(coding, _)| *coding).collect();
    let coding = accepted.preferred(&available);
    let chosen = copies.into_iter().find(|(copy, _)| Some(*copy) == coding);
    let path = chosen.map_or_else(|| plain.clone(), |(_, path)| path);
    FoundFile { requested, plain, path, coding, has_codings: !available.is_empty() }
}

/// Returns the regular file at `path` with links resolved, if it is within the root.
fn file_within(root: &Path, path: &Path) -> Option<PathBuf> {
    let path = path.canonicalize().ok().filter(|path| path.starts_with(root))?;
    fs::metadata(&path).ok().filter(fs::Metadata::is_file)?;
    Some(path)
}

impl FoundFile {
    /// Opens the file. Everything that the response says about it comes from the open file, so that a replacement at
    /// this moment does not mix two files.
    pub(super) fn open(&self) -> io::Result<OpenFile> {
        let file = File::open(&self.path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(OpenFile {
            length: metadata.len(),
            modified: metadata.modified().ok(),
            tag: tag(&metadata, self.coding),
            file,
        })
    }
}

/// Returns a text that differs between any two contents. Builds often set every file to the same time of modification,
/// and pages that differ only in the hashes of their scripts have the same size. So the file itself (its inode) and the
/// time of its last change (ctime), which nobody can set, count too.
fn tag(metadata: &fs::Metadata, coding: Option<Coding>) -> String {
    let mut digest = Sha256::new();
    digest.update(metadata.len().to_be_bytes());
    digest.update(metadata.ino().to_be_bytes());
    for part in [metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec()] {
        digest.update(part.to_be_bytes());
    }
    digest.update(coding.map_or("", Coding::name));
    URL_SAFE_NO_PAD.encode(digest.finalize().get(..TAG_BYTES).unwrap_or_default())
}
