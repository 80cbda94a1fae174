//! What lies in a directory.

use std::collections::BTreeSet;
use std::path::Path;

/// The files below a directory, by their paths from there, without those that SQLite keeps beside an open database.
pub(crate) fn files(directory: &Path) -> BTreeSet<String> {
    let mut files = BTreeSet::new();
    collect(directory, directory, &mut files);
    files
}

fn collect(root: &Path, directory: &Path, files: &mut BTreeSet<String>) {
    // One that is removed meanwhile is not there.
    for path in std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()) {
        let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            collect(root, &path, files);
        } else if !["-wal", "-shm", "-journal"].iter().any(|ending| name.ends_with(ending)) {
            files.insert(name);
        }
    }
}
