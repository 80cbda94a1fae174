//! The compiler messages for an author's mistakes, each at the tokens that are wrong.
//!
//! `TRYBUILD=overwrite cargo test -p wharf-sdk --test sdk compile_fail` writes the expected messages anew. Read the
//! difference.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// Set in the child process that runs trybuild.
const CHILD: &str = "WHARF_SDK_COMPILE_FAIL";

/// trybuild passes its environment on to Cargo and takes the features to build with from Cargo's record of the running
/// program, which it finds by the program's name. So it runs in a child process without the variables of a lint, under
/// a name that has no record: without the feature `testing` it need not compile SQLite.
#[test]
fn mistakes_are_explained_where_they_were_made() {
    if std::env::var_os(CHILD).is_some() {
        trybuild::TestCases::new().compile_fail("tests/compile_fail/*.rs");
        return;
    }
    let mut child = Command::new(std::env::current_exe().unwrap());
    child
        .arg0("wharf-sdk-compile-fail")
        .env(CHILD, "1")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("CLIPPY_ARGS");
    child.args(["compile_fail::mistakes_are_explained_where_they_were_made", "--exact", "--nocapture"]);
    let output = child.output().unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    // A name that matches no test would succeed too.
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}
