//! Other servers in the same rounds, for `make bench PEERS=1`: each does some of the routes with its own means. The Makefile
//! installs them below [`INSTALLED`]. A peer that cannot be installed or started is skipped with the reason.

mod fastapi;
mod pocketbase;
mod wasmtime_serve;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::load::Request;
use crate::postgres::Postgres;
use crate::{Failure, signal};

/// The directory of the installed peers.
const INSTALLED: &str = "target/peers";
/// How long the start of a peer may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the end of a peer may take.
const GRACE: Duration = Duration::from_secs(10);

/// A running peer.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    /// The processes that do the work. Their children count too.
    pub(crate) processes: Vec<u32>,
    /// Its requests by the names of the routes.
    pub(crate) requests: Vec<(&'static str, Request)>,
    _server: Server,
    _database: Option<Postgres>,
}

/// A peer that is missing, with the reason.
pub(crate) struct Skipped {
    pub(crate) name: &'static str,
    pub(crate) reason: String,
}

/// Starts a peer with its data in a directory.
type Start = fn(&Path) -> Result<Peer, Failure>;

const ALL: [(&str, Start); 3] = [
    (pocketbase::NAME, pocketbase::start),
    (wasmtime_serve::NAME, wasmtime_serve::start),
    (fastapi::NAME, fastapi::start),
];

/// Starts all peers. The directory gets their data.
pub(crate) fn start_all(directory: &Path) -> (Vec<Peer>, Vec<Skipped>) {
    let (mut running, mut skipped) = (Vec::new(), Vec::new());
    for (name, start) in ALL {
        match start(directory) {
            Ok(peer) => running.push(peer),
            Err(error) => skipped.push(Skipped { name, reason: error.to_string() }),
        }
    }
    (running, skipped)
}

/// Returns a program of a peer.
fn installed(path: &str) -> Result<PathBuf, Failure> {
    let program = Path::new(INSTALLED).join(path);
    if program.is_file() { Ok(program) } else { Err(format!("{} is not installed", program.display()).into()) }
}

/// The process of a peer, which ends with this value.
struct Server(Child);

impl Server {
    /// Starts a peer by a command, and waits until it responds to the URL.
    fn start(command: &mut Command, url: &str) -> Result<Self, Failure> {
        let mut server = Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
        let agent = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
        let until = Instant::now() + PATIENCE;
        while agent.get(url).call().is_err() {
            if let Some(exit) = server.0.try_wait()? {
                return Err(format!("it ended with {exit} at its start").into());
            }
            if Instant::now() > until {
                return Err(format!("it does not respond within {} s", PATIENCE.as_secs()).into());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(server)
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A kill would leave the children of a peer.
        let _ = signal::send("TERM", self.pid());
        let until = Instant::now() + GRACE;
        while matches!(self.0.try_wait(), Ok(None)) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
