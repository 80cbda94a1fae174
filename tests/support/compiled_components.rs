//! The machine code of components that hosts in their own processes have compiled. The unoptimised host takes seconds of CPU
//! time to compile a guest, and dozens of hosts deploy the same two.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Mutex;

/// The files of their code caches, by name.
static FILES: Mutex<BTreeMap<OsString, Vec<u8>>> = Mutex::new(BTreeMap::new());

/// A host loads only what was written with its key, so all of them have this one.
const KEY: &[u8; 32] = b"The hosts of the tests share it.";

/// Gives a new host the code caches of earlier ones.
pub(crate) fn lend(home: &Path) {
    let data = home.join("data");
    let directory = data.join("compiled");
    DirBuilder::new().recursive(true).mode(0o700).create(&directory).unwrap();
    write(&data.join("compiled.key"), KEY, 0o600);
    for (name, bytes) in &*FILES.lock().unwrap() {
        write(&directory.join(name), bytes, 0o400);
    }
}

/// Keeps what a host has compiled so far.
pub(crate) fn keep(home: &Path) {
    for file in fs::read_dir(home.join("data/compiled")).unwrap() {
        let file = file.unwrap();
        let is_complete = file.path().extension().is_some_and(|extension| extension == "cwasm");
        if !is_complete || FILES.lock().unwrap().contains_key(&file.file_name()) {
            continue;
        }
        // The host may have removed it meanwhile.
        if let Ok(bytes) = fs::read(file.path()) {
            FILES.lock().unwrap().insert(file.file_name(), bytes);
        }
    }
}

fn write(file: &Path, bytes: &[u8], mode: u32) {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(file).unwrap();
    file.write_all(bytes).unwrap();
}
