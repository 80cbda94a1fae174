//! A test in a process of its own, because it uses up something that all tests of a process share.

use tokio::process::Command;

/// Set in the process of such a test.
const ALONE: &str = "WHARF_TEST_ALONE";

/// Returns whether this process runs the test alone. Otherwise such a process has just run it, and nothing is left to do.
/// `test` is the full name of the test that calls this function.
pub(crate) async fn is_alone(test: &str) -> bool {
    if std::env::var(ALONE).is_ok_and(|alone| alone == test) {
        return true;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture"]).env(ALONE, test).kill_on_drop(true);
    let output = command.output().await.unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && printed.contains("1 passed"),
        "{test}:\n{printed}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    false
}
