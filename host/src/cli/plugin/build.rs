//! `wharf plugin build`: builds a component from a Rust crate with cargo. Prints each step, and adds the target with
//! rustup if it is missing.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;
use serde_json::{Value, json};

use crate::cli::failure::Failure;
use crate::cli::terminal::Terminal;

const TARGET: &str = "wasm32-wasip2";

/// The cargo profile for small code without unwinding tables, used if the workspace defines it.
const PROFILE: &str = "plugin";

/// Build a Rust plugin.
#[derive(Debug, Args)]
pub(crate) struct BuildCommand {
    /// The directory of the plugin's crate
    #[arg(default_value = ".")]
    dir: PathBuf,
}

/// The crate to build, as cargo describes it.
struct Crate {
    name: String,
    /// The library's name, which is also the built file's.
    library: String,
    target_dir: PathBuf,
    profile: bool,
}

impl BuildCommand {
    pub(super) fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        let manifest = self.dir.join("Cargo.toml");
        if !manifest.is_file() {
            let text = format!("{} has no Cargo.toml", self.dir.display());
            return Err(Failure::usage(text).next("Give the directory of the plugin's crate."));
        }
        let found = describe(&manifest)?;
        ensure_target(terminal)?;

        let profile: &[&str] = if found.profile { &["--profile", PROFILE] } else { &["--release"] };
        let directory = if found.profile { PROFILE } else { "release" };
        terminal.note(format!("Building {} for {TARGET} ({})", found.name, profile.join(" ")));
        let mut cargo = Command::new("cargo");
        cargo.arg("build").arg("--manifest-path").arg(&manifest).args(["-p", &found.name, "--lib", "--target", TARGET]);
        run(cargo.args(profile), "cargo build")?;

        let built = found.target_dir.join(TARGET).join(directory).join(format!("{}.wasm", found.library));
        let plugins = found.target_dir.join("plugins");
        let file = plugins.join(format!("{}.wasm", found.name));
        let size = std::fs::create_dir_all(&plugins)
            .and_then(|()| std::fs::copy(&built, &file))
            .map_err(|error| Failure::new(format!("cannot copy {} to {}: {error}", built.display(), file.display())))?;
        match terminal.is_json() {
            true => terminal.json(&json!({ "name": found.name, "file": file, "size": size })),
            false => {
                terminal.line(format!("{} {} ({size} bytes)", terminal.good("Built"), file.display()));
                terminal.hint(format!("`wharf plugin deploy {}` deploys it", file.display()));
            }
        }
        Ok(())
    }
}

fn describe(manifest: &Path) -> Result<Crate, Failure> {
    let output = Command::new("cargo")
        .args(["metadata", "--no-deps", "--format-version", "1", "--manifest-path"])
        .arg(manifest)
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| no_cargo(&error))?;
    if !output.status.success() {
        return Err(Failure::new(format!("cargo cannot read {}", manifest.display())));
    }
    let unexpected = || Failure::new("the output of `cargo metadata` has an unexpected form");
    let metadata: Value = serde_json::from_slice(&output.stdout).map_err(|_| unexpected())?;
    let manifest = manifest.canonicalize().map_err(|error| Failure::new(error.to_string()))?;
    let members = metadata.get("packages").and_then(Value::as_array).ok_or_else(unexpected)?;
    let same_file = |package: &&Value| {
        package.get("manifest_path").and_then(Value::as_str).is_some_and(|path| Path::new(path) == manifest)
    };
    let package = members.iter().find(same_file).ok_or_else(|| {
        Failure::usage(format!("{} is a workspace, not a crate", manifest.display()))
            .next("Name the plugin's directory.")
    })?;
    let name = package.get("name").and_then(Value::as_str).ok_or_else(unexpected)?.to_owned();
    let is_component = |target: &&Value| {
        let kinds = target.get("crate_types").and_then(Value::as_array);
        kinds.is_some_and(|kinds| kinds.iter().any(|kind| kind == "cdylib"))
    };
    let library = package.get("targets").and_then(Value::as_array).into_iter().flatten().find(is_component);
    let library = library.and_then(|target| target.get("name")).and_then(Value::as_str).ok_or_else(|| {
        let next = "A plugin's Cargo.toml says: [lib] crate-type = [\"cdylib\"]";
        Failure::usage(format!("{name} is not a plugin: it builds no cdylib")).next(next)
    })?;
    let path = |member: &str| metadata.get(member).and_then(Value::as_str).map(PathBuf::from).ok_or_else(unexpected);
    Ok(Crate {
        library: library.replace('-', "_"),
        target_dir: path("target_directory")?,
        profile: has_profile(&path("workspace_root")?.join("Cargo.toml")),
        name,
    })
}

/// Returns whether a manifest defines the profile; `cargo metadata` does not list profiles.
fn has_profile(manifest: &Path) -> bool {
    let text = std::fs::read_to_string(manifest).unwrap_or_default();
    let table = toml::from_str::<toml::Table>(&text).unwrap_or_default();
    table.get("profile").and_then(|profiles| profiles.get(PROFILE)).is_some()
}

fn ensure_target(terminal: &Terminal) -> Result<(), Failure> {
    let output = Command::new("rustc").args(["--print", "target-libdir", "--target", TARGET]).output();
    let output = output.map_err(|error| no_cargo(&error))?;
    let directory = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    if output.status.success() && directory.is_dir() {
        return Ok(());
    }
    terminal.note(format!("Adding the target {TARGET} with rustup"));
    run(Command::new("rustup").args(["target", "add", TARGET]), "rustup target add").map_err(|failure| {
        failure.next(format!("Rust's standard library for {TARGET} is needed; with rustup: rustup target add {TARGET}"))
    })
}

fn run(command: &mut Command, name: &str) -> Result<(), Failure> {
    // Standard output is for the result only.
    let status = command.stdout(Stdio::null()).status();
    let status = status.map_err(|error| Failure::new(format!("{name} cannot run: {error}")))?;
    if status.success() { Ok(()) } else { Err(Failure::new(format!("{name} failed ({status})"))) }
}

fn no_cargo(error: &std::io::Error) -> Failure {
    Failure::new(format!("Rust's tools cannot run: {error}")).next("Install them from https://rustup.rs.")
}
