//! Child processes of the tests.

use std::path::PathBuf;
use std::process::Command;

/// Returns the directory in which Cargo built the running test.
pub(crate) fn target_directory() -> PathBuf {
    let program = std::env::current_exe().unwrap();
    program.ancestors().find(|directory| directory.join("CACHEDIR.TAG").is_file()).unwrap().to_owned()
}

/// Removes the variables of the environment that would change a build: those that Cargo sets for a running test, and
/// those with which CI lints in the same build that gives the tests.
pub(crate) fn without_build_variables(command: &mut Command) -> &mut Command {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let is_of_package = ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|prefix| text.starts_with(prefix));
        if is_of_package || text == "RUSTC_WORKSPACE_WRAPPER" || text == "CLIPPY_ARGS" {
            command.env_remove(&name);
        }
    }
    command
}
