//! The `wharf` program under test.

use std::path::PathBuf;
use std::sync::OnceLock;

use super::component::{cargo, target};

/// Returns the program, built once for each test run. `WHARF_TEST_PROGRAM` names another one, such as a release build
/// to measure.
pub(crate) fn program() -> PathBuf {
    if let Some(program) = std::env::var_os("WHARF_TEST_PROGRAM") {
        return program.into();
    }
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| {
        // The packages of `cargo test --workspace`, so that Cargo unifies the same features and builds nothing twice.
        let arguments = ["build", "--quiet", "--workspace", "--bin", "wharf", "--test", "wharf"];
        assert!(cargo().args(arguments).status().unwrap().success());
    });
    target().join("debug/wharf")
}
