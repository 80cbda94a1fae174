//! A server of this program, as a separate process: `wharf-bench plain FILE` or `wharf-bench bare`. Its first line is its
//! address.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use axum::Router;

use crate::Failure;

/// The server as a separate process, which ends with this value.
pub(crate) struct OwnServer {
    process: Child,
    address: String,
}

impl OwnServer {
    /// Starts the server with this name and the file for its data.
    pub(crate) fn start(name: &str, file: Option<&Path>) -> Result<Self, Failure> {
        let mut process = Command::new(std::env::current_exe()?).arg(name).args(file).stdout(Stdio::piped()).spawn()?;
        let mut address = String::new();
        BufReader::new(process.stdout.take().ok_or("no output")?).read_line(&mut address)?;
        Ok(Self { process, address: address.trim().to_owned() })
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Prints the address as the first line, and serves until the process is killed.
#[allow(clippy::print_stdout, reason = "prints the address")]
pub(crate) async fn serve(router: Router) -> Result<(), Failure> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    axum::serve(listener, router).await?;
    Ok(())
}
