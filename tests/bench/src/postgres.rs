//! A throwaway PostgreSQL with its default settings, so that its commits wait for the disk as those in production do.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::free_address::free_address;
use crate::{Failure, signal};

/// The role of the host and its database.
const SET_UP: [&str; 2] =
    ["CREATE ROLE wharf LOGIN CREATEDB CREATEROLE PASSWORD 'wharf'", "CREATE DATABASE wharf OWNER wharf"];

/// The server, which ends with this value.
pub(crate) struct Postgres {
    server: Child,
    binaries: PathBuf,
    port: u16,
    directory: TempDir,
}

impl Postgres {
    /// Starts a server. Returns `None` if PostgreSQL is not installed.
    pub(crate) fn start() -> Result<Option<Self>, Failure> {
        let Some(binaries) = binaries() else { return Ok(None) };
        let directory = tempfile::tempdir()?;
        let prefix = without_root(directory.path())?;
        let run = |program: &str| {
            let mut command = Command::new(prefix.first().unwrap_or(&"env"));
            command.args(prefix.iter().skip(1)).arg(binaries.join(program)).current_dir(directory.path());
            command.stdout(Stdio::null()).stderr(Stdio::null());
            command
        };
        let data = directory.path().join("data");
        let created =
            run("initdb").arg("-D").arg(&data).args(["-U", "postgres", "-E", "UTF8", "-A", "trust"]).status()?;
        if !created.success() {
            return Err("initdb failed".into());
        }
        let port = free_address()?.port();
        let mut server = run("postgres");
        server.arg("-D").arg(&data).args(["-p", &port.to_string(), "-h", "127.0.0.1", "-k"]).arg(directory.path());
        let postgres = Self { server: server.spawn()?, binaries: binaries.clone(), port, directory };
        let until = Instant::now() + Duration::from_secs(60);
        while postgres.query("postgres", "SELECT 1").is_err() {
            if Instant::now() > until {
                return Err("PostgreSQL does not start within a minute".into());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        for sql in SET_UP {
            postgres.query("postgres", sql)?;
        }
        Ok(Some(postgres))
    }

    /// Returns the URL for `database.url`.
    pub(crate) fn url(&self) -> String {
        format!("postgres://wharf:wharf@127.0.0.1:{}/wharf", self.port)
    }

    /// Returns the first process of the server. The others are its children.
    pub(crate) fn pid(&self) -> u32 {
        self.server.id()
    }

    /// Returns the number of transactions so far in the database of the host.
    pub(crate) fn transactions(&self) -> Result<u64, Failure> {
        let count =
            self.query("wharf", "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = 'wharf'");
        Ok(count?.trim().parse()?)
    }

    /// Runs a statement as a superuser and returns what `psql` prints.
    fn query(&self, database: &str, sql: &str) -> Result<String, Failure> {
        let mut psql = Command::new(self.binaries.join("psql"));
        psql.args(["-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", &self.port.to_string()]);
        let output = psql.args(["-U", "postgres", "-d", database, "-c", sql]).output()?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // A fast shutdown: a kill would leave the processes of its sessions for a moment.
        let _ = signal::send("INT", self.pid());
        let _ = self.server.wait();
        // It may belong to another user, who cannot delete it from the directory of temporary files.
        let _ = std::fs::remove_dir_all(self.directory.path());
    }
}

/// Returns the directory of PostgreSQL's programs: the one in PATH, or else the newest of Debian's.
fn binaries() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut installed: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|versions| versions.flatten().map(|version| version.path().join("bin")).collect())
        .unwrap_or_default();
    installed.sort();
    std::env::split_paths(&path)
        .chain(installed.into_iter().rev())
        .filter_map(|directory| Some(directory.join("initdb").canonicalize().ok()?.parent()?.to_owned()))
        .find(|directory| ["postgres", "psql"].iter().all(|name| directory.join(name).is_file()))
}

/// Returns a prefix of a command that drops root's rights, which PostgreSQL refuses, and gives the directory to the user
/// that then runs the command.
fn without_root(directory: &Path) -> Result<&'static [&'static str], Failure> {
    let id = Command::new("id").arg("-u").output()?;
    if id.stdout.trim_ascii() != b"0" {
        return Ok(&["env"]);
    }
    if !Command::new("chown").args(["-R", "postgres"]).arg(directory).status()?.success() {
        return Err("root cannot run PostgreSQL, and there is no user `postgres` to run it".into());
    }
    Ok(&["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--"])
}
