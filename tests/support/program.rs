//! The real program.

use std::path::PathBuf;
use std::sync::OnceLock;

use super::component::{cargo, target};

/// The program, built once for each run. Another one where `WHARF_TEST_PROGRAM` names it: a release, for what is measured.
pub(crate) fn program() -> PathBuf {
    if let Some(program) = std::env::var_os("WHARF_TEST_PROGRAM") {
        return program.into();
    }
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| {
        // What `cargo test --workspace` builds, so that Cargo unifies the same features and builds nothing twice.
        let arguments = ["build", "--quiet", "--workspace", "--bin", "wharf", "--test", "wharf"];
        assert!(cargo().args(arguments).status().unwrap().success());
    });
    target().join("debug/wharf")
}
