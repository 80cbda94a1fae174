//! The files of a directory.

use std::collections::BTreeSet;
use std::path::Path;

/// Returns the files below a directory as relative paths, without SQLite's temporary files of an open database.
pub(crate) fn files(directory: &Path) -> BTreeSet<String> {
    let mut files = BTreeSet::new();
    collect(directory, directory, &mut files);
    files
}

fn collect(root: &Path, directory: &Path, files: &mut BTreeSet<String>) {
    // A directory that is removed in the meantime has no files.
    for path in std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()) {
        let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            collect(root, &path, files);
        } else if !["-wal", "-shm", "-journal"].iter().any(|ending| name.ends_with(ending)) {
            files.insert(name);
        }
    }
}
