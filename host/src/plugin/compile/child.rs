//! The parent's half of a compile: starts the child, hands it the component, holds it to its limits, and tells from how it
//! ended what that means. Whatever happens, no child outlives the deploy that wanted it.

use std::fmt;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use bytes::Bytes;
use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use super::MachineCode;
use super::program::{COMMAND, OUT_OF_MEMORY, REFUSED};
use crate::config;
use crate::error::{Error, Kind, Result, code};
use crate::plugin::artifact::{Digest, invalid, printable};

/// Threads that compile.
const THREADS: &str = "2";
/// Addresses that the allocator reserves at a time, in KiB; its usual 1 GiB would be half of the child's.
const ARENA_KIB: &str = "32768";
/// What is read of the child's last words.
const SAID_BYTES: u64 = 4 * 1024;
/// How a Rust program ends after a panic.
const PANICKED: i32 = 101;
/// Last words of a child that had no more memory.
const OUT_OF_MEMORY_WORDS: [&str; 5] = [
    // The standard library, when an allocation fails.
    "memory allocation of",
    // wasmtime and Cranelift, where they cannot pass it on (`wasmtime_internal_core::alloc::PanicOnOom`).
    "out-of-memory error",
    // The system, when a mapping or a thread cannot be had.
    "os error 12",
    "os error 11",
    "kind: WouldBlock",
];

/// How components are compiled in a child.
pub(super) struct Child {
    program: PathBuf,
    memory_bytes: u64,
    cpu_time: Duration,
    wall_time: Duration,
    machine_code_bytes: u64,
}

/// What a compile used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limit {
    Memory,
    Cpu,
    Wall,
    MachineCode,
}

/// How a child ended, and what it left.
struct End {
    status: ExitStatus,
    machine_code: Vec<u8>,
    said: String,
}

/// What an end means.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Compiled,
    /// The compiler does not take the component.
    Refused,
    Limit(Limit),
    /// The component broke the compiler.
    Crashed,
    /// The child did not do its work, whatever the component.
    Failed,
}

impl Child {
    pub(super) fn new(program: PathBuf, limits: &config::Plugins, machine_code_bytes: u64) -> Self {
        Self {
            program,
            memory_bytes: limits.compile_memory_bytes,
            cpu_time: limits.compile_cpu_time,
            wall_time: limits.compile_time,
            machine_code_bytes,
        }
    }

    /// Compiles a component.
    ///
    /// # Errors
    /// The compiler refuses it, it takes more than it may, or the child does not work.
    pub(super) async fn compile(&self, digest: &Digest, component: Bytes) -> Result<MachineCode> {
        let mut child = self.command(component.len()).spawn().map_err(|error| {
            Error::internal(format!("the compiler {} does not start", self.program.display())).with_source(error)
        })?;
        let (Some(stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(Error::internal("the compiler has no standard streams"));
        };
        let conversation = async {
            // The end of standard input that is given back stays open until the child has ended: see `program`.
            let (_open, machine_code, said) = tokio::join!(
                hand_over(stdin, &component),
                machine_code(stdout, self.machine_code_bytes),
                last_words(stderr)
            );
            let Some(machine_code) = machine_code? else { return Ok(None) };
            Ok::<_, io::Error>(Some(End { status: child.wait().await?, machine_code, said: said? }))
        };
        let limit = match timeout(self.wall_time, conversation).await {
            Ok(Ok(Some(end))) => return self.judge(digest, end),
            Ok(Ok(None)) => Limit::MachineCode,
            Ok(Err(error)) => return Err(Error::internal("the compiler cannot be heard").with_source(error)),
            Err(_) => Limit::Wall,
        };
        child.kill().await.map_err(|error| Error::internal("the compiler cannot be ended").with_source(error))?;
        Err(self.exceeded(digest, limit))
    }

    fn command(&self, component_bytes: usize) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg(COMMAND)
            .args(["--memory-bytes", &self.memory_bytes.to_string()])
            .args(["--cpu-seconds", &self.cpu_seconds().to_string()])
            .args(["--component-bytes", &component_bytes.to_string()])
            // The host's own holds passwords.
            .env_clear()
            .env("RAYON_NUM_THREADS", THREADS)
            .env("MIMALLOC_ARENA_RESERVE", ARENA_KIB)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// The operating system counts whole seconds.
    fn cpu_seconds(&self) -> u64 {
        self.cpu_time.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX).max(1)
    }

    fn judge(&self, digest: &Digest, end: End) -> Result<MachineCode> {
        // Whole, because a long path in front may put what matters beyond what is told.
        let verdict = verdict(end.status, &end.said);
        let said = printable(end.said.trim());
        match verdict {
            Verdict::Compiled => Ok(MachineCode(end.machine_code)),
            Verdict::Refused => Err(invalid(format!("it does not compile: {said}"))),
            Verdict::Limit(limit) => Err(self.exceeded(digest, limit)),
            Verdict::Crashed => {
                tracing::error!(%digest, status = %end.status, said, "a component broke the compiler");
                Err(invalid("it does not compile: it broke the compiler; the operator's log says how"))
            }
            Verdict::Failed => Err(Error::internal(format!("the compiler failed ({}): {said}", end.status))),
        }
    }

    fn exceeded(&self, digest: &Digest, limit: Limit) -> Error {
        let cpu_time = Duration::from_secs(self.cpu_seconds());
        let reason = match limit {
            Limit::Memory => {
                format!("more memory than plugins.compile_memory_bytes allows ({} bytes)", self.memory_bytes)
            }
            Limit::MachineCode => format!(
                "more memory than plugins.compile_memory_bytes allows ({} bytes, of which the machine code may take {})",
                self.memory_bytes, self.machine_code_bytes
            ),
            Limit::Cpu => format!("more CPU time than plugins.compile_cpu_time allows ({})", Shown(cpu_time)),
            Limit::Wall => format!("more time than plugins.compile_time allows ({})", Shown(self.wall_time)),
        };
        tracing::warn!(%digest, reason, "a compile was ended");
        let text = format!("The file cannot be deployed: compiling it takes {reason}");
        Error::new(Kind::Invalid(Vec::new()), code::COMPILE_LIMIT, text)
    }
}

struct Shown(Duration);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

/// A child that ends before it has read everything has said why, so a broken pipe is no failure of its own.
async fn hand_over(mut stdin: ChildStdin, component: &Bytes) -> ChildStdin {
    let _ = stdin.write_all(component).await;
    let _ = stdin.flush().await;
    stdin
}

/// None: it is more than it may be.
async fn machine_code(stdout: ChildStdout, most: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    stdout.take(most.saturating_add(1)).read_to_end(&mut bytes).await?;
    Ok((bytes.len() as u64 <= most).then_some(bytes))
}

async fn last_words(stderr: ChildStderr) -> io::Result<String> {
    let mut bytes = Vec::new();
    stderr.take(SAID_BYTES).read_to_end(&mut bytes).await?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn verdict(status: ExitStatus, said: &str) -> Verdict {
    let is = |signal: Signal| status.signal() == Some(signal.as_raw());
    let short = OUT_OF_MEMORY_WORDS.iter().any(|words| said.contains(words));
    match status.code() {
        Some(0) => Verdict::Compiled,
        Some(status) if status == i32::from(REFUSED) => Verdict::Refused,
        Some(status) if status == i32::from(OUT_OF_MEMORY) => Verdict::Limit(Limit::Memory),
        Some(PANICKED) | None if short => Verdict::Limit(Limit::Memory),
        Some(PANICKED) => Verdict::Crashed,
        Some(_) => Verdict::Failed,
        None if is(Signal::XCPU) => Verdict::Limit(Limit::Cpu),
        // Not by this process: by the system, which had no more memory to give.
        None if is(Signal::KILL) => Verdict::Limit(Limit::Memory),
        None => Verdict::Crashed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(raw: i32, said: &str) -> Verdict {
        verdict(ExitStatus::from_raw(raw), said)
    }

    fn exited(code: i32, said: &str) -> Verdict {
        of(code << 8, said)
    }

    #[test]
    fn an_end_is_told_from_how_it_came() {
        let allocation = "memory allocation of 38297504 bytes failed";
        let thread = "ThreadPoolBuildError { kind: IOError(Os { code: 11, kind: WouldBlock, message: \"…\" }) }";
        assert_eq!(exited(0, ""), Verdict::Compiled);
        assert_eq!(exited(3, "unexpected end"), Verdict::Refused);
        assert_eq!(exited(3, "it has the name 'os error 12'"), Verdict::Refused);
        let within = "unhandled out-of-memory error: out of memory (failed to allocate 64 bytes)";
        for end in [
            exited(4, "out of memory"),
            of(6, allocation),
            of(9, ""),
            exited(PANICKED, thread),
            exited(PANICKED, within),
        ] {
            assert_eq!(end, Verdict::Limit(Limit::Memory));
        }
        assert_eq!(of(Signal::XCPU.as_raw(), ""), Verdict::Limit(Limit::Cpu));
        assert_eq!(exited(PANICKED, "index out of bounds"), Verdict::Crashed);
        assert_eq!(of(6, "thread 'main' has overflowed its stack"), Verdict::Crashed);
        assert_eq!(of(11, ""), Verdict::Crashed);
        assert_eq!((exited(1, ""), exited(127, "")), (Verdict::Failed, Verdict::Failed));
    }

    #[test]
    fn a_long_path_in_front_hides_no_reason() {
        let child = Child::new("wharf".into(), &config::Plugins::default(), 1);
        let said = format!("panicked at {}map.rs:100:5:\nunhandled out-of-memory error", "registry/".repeat(50));
        let end = End { status: ExitStatus::from_raw(PANICKED << 8), machine_code: Vec::new(), said };
        let error = child.judge(&Digest::of(b""), end).err().unwrap();
        assert_eq!(*error.code(), code::COMPILE_LIMIT);
    }

    #[test]
    fn parts_of_a_second_of_cpu_time_are_counted_as_whole_ones() {
        let child = |cpu_time| {
            let limits = config::Plugins { compile_cpu_time: cpu_time, ..config::Plugins::default() };
            Child::new("wharf".into(), &limits, 1).cpu_seconds()
        };
        assert_eq!([0, 1, 1000, 1001].map(|millis| child(Duration::from_millis(millis))), [1, 1, 1, 2]);
    }
}
