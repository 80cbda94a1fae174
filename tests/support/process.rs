//! A host in its own process: the real program, its log, its end, and its use of the machine's resources.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::Client;
use super::component::build_components;
use super::files::files;
use super::host::{PASSWORD, SUPERUSER};
use super::patience::patience;
use super::polling::until;
use super::program::program;
use super::small_disk::SmallDisk;

/// Returns a command that runs the program in an environment without other settings than the patience of tests.
pub(crate) fn wharf(home: &Path) -> Command {
    isolated(Command::new(program()), home)
}

fn isolated(mut command: Command, home: &Path) -> Command {
    command.env_clear().env("HOME", home).env("XDG_CONFIG_HOME", home).env("WHARF_DATABASE_TIMEOUT", patience());
    command.current_dir(home).stdin(Stdio::null());
    command
}

/// Makes a command run a host on a free port, with its data in `home` and its log in JSON.
pub(crate) fn serving<'a>(command: &'a mut Command, home: &Path) -> &'a mut Command {
    build_components();
    if command.get_args().all(|argument| argument != "serve") {
        command.arg("serve");
    }
    command
        .env("WHARF_LISTEN", "127.0.0.1:0")
        .env("WHARF_DATA_DIR", home.join("data"))
        .env("WHARF_SUPERUSER_EMAIL", SUPERUSER)
        .env("WHARF_SUPERUSER_PASSWORD", PASSWORD)
        .env("WHARF_LOG_FORMAT", "json")
        .env("WHARF_PLUGIN_QUEUE_TIME", patience())
        .env("WHARF_PLUGIN_DEADLINE", patience())
        .env("WHARF_PLUGIN_SQL_TIME", patience())
        .stdout(Stdio::null())
}

/// A host in its own process, killed when it is dropped.
pub(crate) struct Process {
    pub(crate) child: Child,
    pub(crate) addr: SocketAddr,
    pub(crate) home: TempDir,
}

impl Process {
    pub(crate) async fn start(home: TempDir) -> Self {
        Self::start_with(home, &[]).await
    }

    pub(crate) async fn start_with(home: TempDir, settings: &[(&str, &str)]) -> Self {
        let command = wharf(home.path());
        Self::start_by(command, home, settings).await
    }

    /// Starts a host with these limits of open files.
    pub(crate) async fn start_with_files(home: TempDir, soft: u32, hard: u32) -> Self {
        let mut command = isolated(Command::new("sh"), home.path());
        let limited = format!("ulimit -S -n {soft} && ulimit -H -n {hard} && exec \"$0\" \"$@\"");
        command.arg("-c").arg(limited).arg(program());
        Self::start_by(command, home, &[]).await
    }

    /// Starts a host with this option of `env`, such as one that changes what a signal does. These tests may themselves
    /// run under `nohup`.
    pub(crate) async fn start_with_signal(home: TempDir, option: &str) -> Self {
        let mut command = isolated(Command::new("env"), home.path());
        command.arg(option).arg(program());
        Self::start_by(command, home, &[]).await
    }

    /// Starts a host with more arguments of `wharf serve`.
    pub(crate) async fn start_serving(home: TempDir, arguments: &[&str]) -> Self {
        let mut command = wharf(home.path());
        command.arg("serve").args(arguments);
        Self::start_by(command, home, &[]).await
    }

    /// Starts a host whose data directory is a small disk.
    pub(crate) async fn start_on(disk: &SmallDisk, home: TempDir) -> Self {
        let command = isolated(disk.command(&program()), home.path());
        Self::start_by(command, home, &[]).await
    }

    async fn start_by(mut command: Command, home: TempDir, settings: &[(&str, &str)]) -> Self {
        let log = std::fs::File::create(home.path().join("log")).unwrap();
        let child = serving(&mut command, home.path()).envs(settings.iter().copied()).stderr(log).spawn().unwrap();
        let mut process = Self { child, addr: SocketAddr::from(([127, 0, 0, 1], 0)), home };
        process.addr = until("the address in the log", async || {
            let ended = process.child.try_wait().unwrap();
            assert!(ended.is_none(), "{ended:?}: {}", process.log());
            let line = process.entries().into_iter().find(|entry| entry["message"] == "listening")?;
            Some(line["address"].as_str().unwrap().parse().unwrap())
        })
        .await;
        process
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.home.path().join("log")).unwrap()
    }

    pub(crate) fn entries(&self) -> Vec<Value> {
        self.log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.addr)
    }

    pub(crate) async fn superuser(&self) -> Client {
        self.client().signed_in(SUPERUSER, PASSWORD).await
    }

    /// Returns a superuser's client that keeps its connection.
    pub(crate) async fn superuser_keeping_its_connection(&self) -> Client {
        Client::keeping_its_connection(self.addr).signed_in(SUPERUSER, PASSWORD).await
    }

    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status().unwrap();
        assert!(sent.success());
    }

    pub(crate) async fn ended(&mut self) -> std::process::ExitStatus {
        until("the end of the process", async || self.child.try_wait().unwrap()).await
    }

    /// Waits for the end of the process and returns its home directory.
    pub(crate) async fn stopped(mut self) -> TempDir {
        self.signal("TERM");
        self.ended().await;
        std::mem::replace(&mut self.home, TempDir::new().unwrap())
    }

    /// Kills the process at once and returns its home directory.
    pub(crate) fn kill(mut self) -> TempDir {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::mem::replace(&mut self.home, TempDir::new().unwrap())
    }

    /// Returns its present use of resources.
    pub(crate) fn resources(&self) -> ProcessResources {
        ProcessResources::of(self)
    }

    /// Runs a command against this host.
    pub(crate) fn command(&self, token: &str, arguments: &[&str]) -> Output {
        let mut command = wharf(self.home.path());
        command.env("WHARF_URL", format!("http://{}", self.addr)).env("WHARF_TOKEN", token).args(arguments);
        command.output().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn home() -> TempDir {
    tempfile::Builder::new().prefix("wharf-cli-").tempdir().unwrap()
}

/// The resources that a process uses.
#[derive(Debug)]
pub(crate) struct ProcessResources {
    pub(crate) resident_kib: u64,
    pub(crate) threads: usize,
    pub(crate) descriptors: usize,
    pub(crate) files: usize,
}

impl ProcessResources {
    fn of(process: &Process) -> Self {
        let proc = format!("/proc/{}", process.child.id());
        let status = std::fs::read_to_string(format!("{proc}/status")).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let count = |directory: String| std::fs::read_dir(directory).unwrap().count();
        let data = process.home.path().join("data");
        Self {
            resident_kib: resident.trim().trim_end_matches(" kB").parse().unwrap(),
            threads: count(format!("{proc}/task")),
            descriptors: count(format!("{proc}/fd")),
            files: files(&data).len(),
        }
    }
}
