//! The component that a command works on: opens and reads the file, and refuses one that is no component.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use crate::cli::failure::Failure;

/// Opens a component. Returns the file and its length, or a failure if it cannot be a component, which saves its
/// upload.
pub(super) fn open_component(path: &Path) -> Result<(File, u64), Failure> {
    let unreadable = |error| Failure::usage(format!("{}: {error}", path.display()));
    let mut file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    let refused = |reason: &str| {
        Failure::usage(format!("{} {reason}", path.display())).next("Build one with `wharf plugin build DIR`.")
    };
    if !metadata.is_file() {
        return Err(refused("is not a file"));
    }
    let mut head = [0; 8];
    match file.read_exact(&mut head) {
        // `\0asm`, then the version: 1 for a module, 13 and the layer 1 for a component.
        Ok(()) if head.starts_with(b"\0asm\x01\0\0\0") => {
            return Err(refused("is a WebAssembly module, not a component; build it for wasm32-wasip2"));
        }
        Ok(()) if head.starts_with(b"\0asm") => {}
        Ok(()) | Err(_) => return Err(refused("is not WebAssembly")),
    }
    let file = File::open(path).map_err(unreadable)?;
    Ok((file, metadata.len()))
}

/// Reads a whole component.
pub(super) fn read_component(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    open_component(path)?
        .0
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
    Ok(bytes)
}
