//! Programs from public registries that tests run: Python packages in an environment of their own, and npm packages. They
//! are installed into the target directory once per list of versions. Without Python, Node.js or the registry, a test
//! reports itself as skipped; with `CI=true` that is a failure.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::component::{target, workspace};

/// Runs a program and returns its output, or the output of a failure as the error.
pub(crate) fn run(program: &Path, arguments: &[&str], directory: &Path) -> Result<Output, String> {
    let mut command = Command::new(program);
    let output = command.args(arguments).current_dir(directory).output();
    let output = output.map_err(|error| format!("{}: {error}", program.display()))?;
    if output.status.success() { Ok(output) } else { Err(output_text(&output)) }
}

/// Returns both outputs as text.
pub(crate) fn output_text(output: &Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Returns a Python interpreter with the packages of a list. They are run as modules, because their scripts contain the
/// installation path and do not survive a clone that is moved.
pub(crate) fn python(requirements: &Path, environment: &str) -> Result<PathBuf, String> {
    let environment = target().join(environment);
    let python = environment.join("bin/python");
    install(&environment, &[requirements], || {
        run(Path::new("python3"), &["-m", "venv", "--clear", environment.to_str().unwrap()], workspace())?;
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "10"];
        let pip = [&pip[..], &["--timeout", "60", "-r", requirements.to_str().unwrap()]].concat();
        run(&python, &pip, workspace()).map(drop)
    })?;
    Ok(python)
}

/// Returns a directory with the packages of `package-lock.json` in `directory`.
pub(crate) fn npm(directory: &Path, environment: &str) -> Result<PathBuf, String> {
    let lists = ["package.json", "package-lock.json"].map(|name| directory.join(name));
    let environment = target().join(environment);
    install(&environment, &[&lists[0], &lists[1]], || {
        std::fs::create_dir_all(&environment).map_err(|error| error.to_string())?;
        for list in &lists {
            std::fs::copy(list, environment.join(list.file_name().unwrap())).map_err(|error| error.to_string())?;
        }
        // No package may run a script.
        run(Path::new("npm"), &["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"], &environment)
            .map(drop)
    })?;
    Ok(environment)
}

/// Installs unless the same lists are installed.
fn install(environment: &Path, lists: &[&Path], install: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    let wanted: String = lists.iter().map(|list| std::fs::read_to_string(list).unwrap()).collect();
    let installed = environment.join("installed.txt");
    if std::fs::read_to_string(&installed).is_ok_and(|text| text == wanted) {
        return Ok(());
    }
    let _ = std::fs::remove_file(&installed);
    install()?;
    // Written last, so that an interrupted installation starts again.
    std::fs::write(&installed, wanted).map_err(|error| error.to_string())
}

/// Returns the installed program, or reports that the test is skipped.
pub(crate) fn or_skip(installed: Result<PathBuf, String>, name: &str) -> Option<PathBuf> {
    match installed {
        Ok(path) => Some(path),
        Err(reason) => {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "{name} cannot be installed: {reason}");
            eprintln!("skipped: {name} cannot be installed: {reason}");
            None
        }
    }
}
