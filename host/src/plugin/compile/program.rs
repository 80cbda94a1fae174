//! The program of the child process: limits and confines itself, reads a component, writes machine code. It opens no
//! file of the host and knows neither the configuration nor the database, so that an attacker who exploits the compiler
//! finds nothing else. Where the kernel has the means, it can open nothing ([`confinement`](super::confinement)).

use std::io::{self, Read as _, Write as _};

use rustix::process::{Resource, Rlimit, setrlimit};

use super::confinement::confine;
use crate::plugin::artifact::printable;
use crate::plugin::engine;

/// The hidden subcommand that runs this.
pub const COMMAND: &str = "compile-component";
/// Exit status: the compiler rejected the component. Standard error has the reason in one line.
pub const REFUSED: u8 = 3;
/// Exit status: there was not enough memory. Most often the process aborts instead.
pub const OUT_OF_MEMORY: u8 = 4;
/// Exit status: the host has exited, so nobody waits for the result.
const ABANDONED: i32 = 5;

/// The limits of the child.
#[derive(Debug, Clone, Copy)]
pub struct ChildLimits {
    /// Its address space in bytes.
    pub memory_bytes: u64,
    /// CPU seconds of all its threads together.
    pub cpu_seconds: u64,
    /// The length of the component on standard input.
    pub component_bytes: u64,
}

/// Why there is no machine code.
#[derive(Debug, thiserror::Error)]
pub enum CompileFailure {
    /// The compiler rejected the component.
    #[error("{0}")]
    Refused(String),
    /// The memory limit was hit.
    #[error("out of memory")]
    OutOfMemory,
    /// The process failed for another reason.
    #[error("{0}")]
    Failed(String),
}

impl CompileFailure {
    /// Returns the exit status, by which the parent distinguishes them.
    pub fn status(&self) -> u8 {
        match self {
            Self::Refused(_) => REFUSED,
            Self::OutOfMemory => OUT_OF_MEMORY,
            Self::Failed(_) => 1,
        }
    }
}

/// Confines this process as for a compile, and writes what holds to standard output.
///
/// # Errors
/// Standard output cannot be written.
pub fn report_confinement() -> Result<(), CompileFailure> {
    let confinement = confine();
    writeln!(io::stdout(), "{confinement}").map_err(|error| failed("the report cannot be written", error))
}

/// Compiles standard input to standard output.
///
/// # Errors
/// The reason for the failure. If memory or CPU time runs out, the process usually ends without returning here.
pub fn run(limits: &ChildLimits) -> Result<(), CompileFailure> {
    // Before the first byte of the uploaded file.
    apply(limits).map_err(|error| failed("the limits cannot be set", error))?;
    // The host checks at its start what holds.
    let _ = confine();
    let mut component = Vec::new();
    let read = io::stdin().take(limits.component_bytes).read_to_end(&mut component);
    read.map_err(|error| failed("the component cannot be read", error))?;
    if component.len() as u64 != limits.component_bytes {
        return Err(CompileFailure::Failed("the component did not arrive completely".to_owned()));
    }
    exit_with_the_host().map_err(|error| failed("the watching thread does not start", error))?;
    let engine = engine::compiling().map_err(|error| CompileFailure::Failed(error.report()))?;
    let machine_code = engine.precompile_component(&component).map_err(|error| {
        if error.is::<wasmtime::error::OutOfMemory>() {
            CompileFailure::OutOfMemory
        } else {
            CompileFailure::Refused(printable(&format!("{error:#}")))
        }
    })?;
    let mut output = io::stdout().lock();
    output
        .write_all(&machine_code)
        .and_then(|()| output.flush())
        .map_err(|error| failed("the machine code cannot be written", error))
}

fn failed(what: &str, error: io::Error) -> CompileFailure {
    match error.kind() {
        // `WouldBlock` is the error for a thread whose stack does not fit.
        io::ErrorKind::OutOfMemory | io::ErrorKind::WouldBlock => CompileFailure::OutOfMemory,
        _ => CompileFailure::Failed(format!("{what}: {error}")),
    }
}

fn apply(limits: &ChildLimits) -> io::Result<()> {
    let at = |soft: u64, hard: u64| Rlimit { current: Some(soft), maximum: Some(hard) };
    setrlimit(Resource::As, at(limits.memory_bytes, limits.memory_bytes))?;
    // The soft limit ends it with SIGXCPU, which names the reason; the hard one with SIGKILL if the first does not.
    setrlimit(Resource::Cpu, at(limits.cpu_seconds, limits.cpu_seconds.saturating_add(1)))?;
    setrlimit(Resource::Core, at(0, 0))?;
    if cfg!(target_os = "linux") {
        // If the machine runs out of memory, the kernel should kill this process first. Some containers forbid this
        // setting.
        let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    }
    Ok(())
}

/// Starts a thread that exits with the host. The host keeps its end of standard input open as long as it waits. If the
/// host is killed, that end closes, and the child does not continue alone until its CPU time is used up.
fn exit_with_the_host() -> io::Result<()> {
    let wait = || {
        let _ = io::stdin().read(&mut [0]);
        std::process::exit(ABANDONED);
    };
    // It needs almost no stack, and its stack counts as memory.
    std::thread::Builder::new().name("wharf-parent".to_owned()).stack_size(64 * 1024).spawn(wait).map(drop)
}
