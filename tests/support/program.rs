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
        // With the tests' own packages, so that Cargo unifies the same features and builds no dependency twice.
        let packages = ["build", "--quiet", "-p", "wharf", "-p", "wharf-tests", "--bin", "wharf", "--test", "wharf"];
        assert!(cargo().args(packages).status().unwrap().success());
    });
    target().join("debug/wharf")
}
