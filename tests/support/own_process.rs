//! A test in a process of its own, because it uses up something that all tests of a process share.

use std::process::Stdio;

use tokio::process::Command;
use tokio::time::timeout;

use super::patience::PATIENCE;

/// Set in the process of such a test.
const ALONE: &str = "WHARF_TEST_ALONE";

/// Returns whether this process runs the test alone. Otherwise such a process has just run it, and nothing is left to do.
/// `test` is the full name of the test that calls this function.
pub(crate) async fn is_alone(test: &str) -> bool {
    if std::env::var(ALONE).is_ok_and(|alone| alone == test) {
        return true;
    }
    // The thread has the name of its test, unless tests run one at a time.
    let thread = std::thread::current();
    let name = thread.name().unwrap_or_default();
    assert!(name == test || name == "main", "{name} runs {test}");
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture"]).env(ALONE, test).kill_on_drop(true);
    let run = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = timeout(4 * PATIENCE, run).await.expect("the process to end").unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && printed.contains("1 passed"), "{test}: {printed}");
    false
}
