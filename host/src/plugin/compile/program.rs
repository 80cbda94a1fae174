//! What the child does: limits itself, reads a component, writes machine code. It opens no file of the host's, and knows
//! neither the configuration nor the database; whoever finds a hole in the compiler finds nothing else in here.

use std::io::{self, Read as _, Write as _};

use rustix::process::{Resource, Rlimit, setrlimit};

use crate::plugin::artifact::printable;
use crate::plugin::engine;

/// The hidden subcommand that runs this.
pub const COMMAND: &str = "compile-component";
/// Exit status: the compiler does not take the component; why stands in one line on standard error.
pub const REFUSED: u8 = 3;
/// Exit status: there was not enough memory. Most often it ends in an abort instead.
pub const OUT_OF_MEMORY: u8 = 4;
/// Exit status: the host has gone, so nobody waits for an answer.
const ABANDONED: i32 = 5;

/// How far the child may go.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Its address space.
    pub memory_bytes: u64,
    /// CPU seconds of all its threads together.
    pub cpu_seconds: u64,
    /// The length of the component that comes on standard input.
    pub component_bytes: u64,
}

/// Why there is no machine code.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// Of the component.
    #[error("{0}")]
    Refused(String),
    /// Of the limit.
    #[error("out of memory")]
    OutOfMemory,
    /// Of the machine.
    #[error("{0}")]
    Failed(String),
}

impl Ended {
    /// What the parent tells them apart by.
    pub fn status(&self) -> u8 {
        match self {
            Self::Refused(_) => REFUSED,
            Self::OutOfMemory => OUT_OF_MEMORY,
            Self::Failed(_) => 1,
        }
    }
}

/// Compiles what comes on standard input to standard output.
///
/// # Errors
/// Why not. Where memory or CPU time ran out, the process mostly ends without coming back here.
pub fn run(bounds: &Bounds) -> Result<(), Ended> {
    // Before the first byte of what somebody uploaded.
    limit(bounds).map_err(|error| failed("the limits cannot be set", error))?;
    let mut component = Vec::new();
    let read = io::stdin().take(bounds.component_bytes).read_to_end(&mut component);
    read.map_err(|error| failed("the component cannot be read", error))?;
    if component.len() as u64 != bounds.component_bytes {
        return Err(Ended::Failed("the component did not come whole".to_owned()));
    }
    end_with_the_host().map_err(|error| failed("the watching thread does not start", error))?;
    let engine = engine::compiling().map_err(|error| Ended::Failed(error.report()))?;
    let machine_code = engine.precompile_component(&component).map_err(|error| {
        if error.is::<wasmtime::error::OutOfMemory>() {
            Ended::OutOfMemory
        } else {
            Ended::Refused(printable(&format!("{error:#}")))
        }
    })?;
    let mut output = io::stdout().lock();
    output
        .write_all(&machine_code)
        .and_then(|()| output.flush())
        .map_err(|error| failed("the machine code cannot be written", error))
}

fn failed(what: &str, error: io::Error) -> Ended {
    match error.kind() {
        // The second is what a thread without room for its stack gets.
        io::ErrorKind::OutOfMemory | io::ErrorKind::WouldBlock => Ended::OutOfMemory,
        _ => Ended::Failed(format!("{what}: {error}")),
    }
}

fn limit(bounds: &Bounds) -> io::Result<()> {
    let at = |soft: u64, hard: u64| Rlimit { current: Some(soft), maximum: Some(hard) };
    setrlimit(Resource::As, at(bounds.memory_bytes, bounds.memory_bytes))?;
    // The soft limit ends it with SIGXCPU, which says what it was; the hard one with SIGKILL, should the first not.
    setrlimit(Resource::Cpu, at(bounds.cpu_seconds, bounds.cpu_seconds.saturating_add(1)))?;
    setrlimit(Resource::Core, at(0, 0))?;
    if cfg!(target_os = "linux") {
        // If the machine runs out of memory nonetheless, it is this process that goes. Some containers forbid to say so.
        let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    }
    Ok(())
}

/// The host keeps its end of standard input open as long as it waits. Where it dies without a word, that end closes, and
/// the child does not go on alone until its CPU time is used up.
fn end_with_the_host() -> io::Result<()> {
    let wait = || {
        let _ = io::stdin().read(&mut [0]);
        std::process::exit(ABANDONED);
    };
    // It needs next to nothing, and its stack counts as memory.
    std::thread::Builder::new().name("wharf-parent".to_owned()).stack_size(64 * 1024).spawn(wait).map(drop)
}
