//! The parent's side of a compile: starts the child process, sends it the component, enforces the wall-time limit, and
//! interprets its exit. A child never outlives the deploy that started it.

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use bytes::Bytes;
use humantime::format_duration;
use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use super::confinement::Confinement;
use super::machine_code::MachineCode;
use super::program::{COMMAND, OUT_OF_MEMORY, REFUSED};
use crate::config;
use crate::error::{Error, Kind, Result, code};
use crate::plugin::artifact::{Digest, invalid, printable};
use crate::plugin::shortage::{self, is_io_shortage};

/// The number of compiler threads.
const THREADS: &str = "2";
/// The address space that the allocator reserves at a time, in KiB. Its default of 1 GiB would be half of the child's
/// limit.
const ARENA_KIB: &str = "32768";
/// The number of bytes that are read of the child's standard error.
const STDERR_BYTES: u64 = 4 * 1024;
/// The exit status of a Rust program after a panic.
const PANICKED: i32 = 101;
/// Texts on standard error that mean that the child ran out of memory.
const OUT_OF_MEMORY_TEXTS: [&str; 5] = [
    // The standard library, when an allocation fails.
    "memory allocation of",
    // wasmtime and Cranelift, where they cannot return an error (`wasmtime_internal_core::alloc::PanicOnOom`).
    "out-of-memory error",
    // The operating system, when it refuses a mapping or a thread.
    "os error 12",
    "os error 11",
    "kind: WouldBlock",
];

/// Compiles components in child processes.
pub(super) struct ChildCompiler {
    program: PathBuf,
    memory_bytes: u64,
    cpu_time: Duration,
    wall_time: Duration,
    machine_code_bytes: u64,
}

/// The limit that a compile hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limit {
    Memory,
    Cpu,
    Wall,
    MachineCode,
}

/// The exit of a child with its output.
struct Exit {
    status: ExitStatus,
    machine_code: Vec<u8>,
    stderr: String,
}

/// The meaning of an exit.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Compiled,
    /// The compiler rejected the component.
    Refused,
    Limit(Limit),
    /// The component crashed the compiler.
    Crashed,
    /// The child failed for a reason other than the component.
    Failed,
}

impl ChildCompiler {
    pub(super) fn new(program: PathBuf, limits: &config::Plugins, machine_code_bytes: u64) -> Self {
        Self {
            program,
            memory_bytes: limits.compile_memory_bytes,
            cpu_time: limits.compile_cpu_time,
            wall_time: limits.compile_time,
            machine_code_bytes,
        }
    }

    /// Asks a child which means of the kernel confine it.
    ///
    /// # Errors
    /// The child fails.
    pub(super) async fn confinement(&self) -> io::Result<Confinement> {
        let mut command = Command::new(&self.program);
        command.arg(COMMAND).arg("--report-confinement").env_clear().stdin(Stdio::null()).kill_on_drop(true);
        let output = timeout(self.wall_time, command.output()).await??;
        if !output.status.success() {
            return Err(io::Error::other(output.status.to_string()));
        }
        Ok(Confinement::read(&String::from_utf8_lossy(&output.stdout)))
    }

    /// Compiles a component.
    ///
    /// # Errors
    /// The compiler rejects it, it hits a limit, or the child fails.
    pub(super) async fn compile(&self, digest: &Digest, component: Bytes) -> Result<MachineCode> {
        let mut child = self.command(component.len()).spawn().map_err(|error| self.not_started(error))?;
        let (Some(stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(Error::internal("the compiler has no standard streams"));
        };
        let conversation = async {
            // The returned end of standard input stays open until the child has exited: see `program`.
            let (_stdin, machine_code, stderr) = tokio::join!(
                send_component(stdin, &component),
                read_machine_code(stdout, self.machine_code_bytes),
                read_stderr(stderr)
            );
            let Some(machine_code) = machine_code? else { return Ok(None) };
            Ok::<_, io::Error>(Some(Exit { status: child.wait().await?, machine_code, stderr: stderr? }))
        };
        let limit = match timeout(self.wall_time, conversation).await {
            Ok(Ok(Some(exit))) => return self.interpret(digest, exit),
            Ok(Ok(None)) => Limit::MachineCode,
            Ok(Err(error)) => {
                return Err(Error::internal("the output of the compiler cannot be read").with_source(error));
            }
            Err(_) => Limit::Wall,
        };
        child.kill().await.map_err(|error| Error::internal("the compiler cannot be ended").with_source(error))?;
        Err(self.exceeded(digest, limit))
    }

    fn not_started(&self, error: io::Error) -> Error {
        if is_io_shortage(&error) {
            return shortage::unavailable(error);
        }
        Error::internal(format!("the compiler {} does not start", self.program.display())).with_source(error)
    }

    fn command(&self, component_bytes: usize) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg(COMMAND)
            .args(["--memory-bytes", &self.memory_bytes.to_string()])
            .args(["--cpu-seconds", &self.cpu_seconds().to_string()])
            .args(["--component-bytes", &component_bytes.to_string()])
            // The environment of the host contains passwords.
            .env_clear()
            .env("RAYON_NUM_THREADS", THREADS)
            .env("MIMALLOC_ARENA_RESERVE", ARENA_KIB)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Returns the CPU limit in whole seconds, as the operating system counts it.
    fn cpu_seconds(&self) -> u64 {
        self.cpu_time.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX).max(1)
    }

    fn interpret(&self, digest: &Digest, exit: Exit) -> Result<MachineCode> {
        // Uses the whole text, because a long path in front can push the reason beyond the printable part.
        let verdict = verdict(exit.status, &exit.stderr);
        let reason = printable(exit.stderr.trim());
        match verdict {
            Verdict::Compiled => Ok(MachineCode::trusted(exit.machine_code)),
            Verdict::Refused => Err(invalid(format!("it does not compile: {reason}"))),
            Verdict::Limit(limit) => Err(self.exceeded(digest, limit)),
            Verdict::Crashed => {
                tracing::error!(%digest, status = %exit.status, said = reason, "a component crashed the compiler");
                Err(invalid("it does not compile: it crashed the compiler; the host's log has the details"))
            }
            Verdict::Failed => Err(Error::internal(format!("the compiler failed ({}): {reason}", exit.status))),
        }
    }

    fn exceeded(&self, digest: &Digest, limit: Limit) -> Error {
        let cpu_time = Duration::from_secs(self.cpu_seconds());
        let reason = match limit {
            Limit::Memory => {
                format!("more memory than plugins.compile_memory_bytes allows ({} bytes)", self.memory_bytes)
            }
            Limit::MachineCode => format!(
                "more memory than plugins.compile_memory_bytes allows ({} bytes, of which machine code may take {})",
                self.memory_bytes, self.machine_code_bytes
            ),
            Limit::Cpu => format!("more CPU time than plugins.compile_cpu_time allows ({})", format_duration(cpu_time)),
            Limit::Wall => format!("more time than plugins.compile_time allows ({})", format_duration(self.wall_time)),
        };
        tracing::warn!(%digest, reason, "a compile was stopped at its limit");
        let text = format!("The file cannot be deployed: compiling it takes {reason}");
        Error::new(Kind::Invalid(Vec::new()), code::COMPILE_LIMIT, text)
    }
}

/// Sends the component. A broken pipe is not an error, because a child that exits early reports the reason itself.
async fn send_component(mut stdin: ChildStdin, component: &Bytes) -> ChildStdin {
    let _ = stdin.write_all(component).await;
    let _ = stdin.flush().await;
    stdin
}

/// Reads the machine code; `None` if it is larger than `max`.
async fn read_machine_code(stdout: ChildStdout, max: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    stdout.take(max.saturating_add(1)).read_to_end(&mut bytes).await?;
    Ok((bytes.len() as u64 <= max).then_some(bytes))
}

async fn read_stderr(stderr: ChildStderr) -> io::Result<String> {
    let mut bytes = Vec::new();
    stderr.take(STDERR_BYTES).read_to_end(&mut bytes).await?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn verdict(status: ExitStatus, stderr: &str) -> Verdict {
    let is = |signal: Signal| status.signal() == Some(signal.as_raw());
    let out_of_memory = OUT_OF_MEMORY_TEXTS.iter().any(|text| stderr.contains(text));
    match status.code() {
        Some(0) => Verdict::Compiled,
        Some(status) if status == i32::from(REFUSED) => Verdict::Refused,
        Some(status) if status == i32::from(OUT_OF_MEMORY) => Verdict::Limit(Limit::Memory),
        Some(PANICKED) | None if out_of_memory => Verdict::Limit(Limit::Memory),
        Some(PANICKED) => Verdict::Crashed,
        Some(_) => Verdict::Failed,
        None if is(Signal::XCPU) => Verdict::Limit(Limit::Cpu),
        // The operating system killed it, because the machine was out of memory.
        None if is(Signal::KILL) => Verdict::Limit(Limit::Memory),
        None => Verdict::Crashed,
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    fn of(raw: i32, stderr: &str) -> Verdict {
        verdict(ExitStatus::from_raw(raw), stderr)
    }

    fn exited(code: i32, stderr: &str) -> Verdict {
        of(code << 8, stderr)
    }

    #[test]
    fn the_verdict_follows_from_the_exit_status_and_standard_error() {
        let allocation = "memory allocation of 38297504 bytes failed";
        let thread = "ThreadPoolBuildError { kind: IOError(Os { code: 11, kind: WouldBlock, message: \"…\" }) }";
        assert_eq!(exited(0, ""), Verdict::Compiled);
        assert_eq!(exited(3, "unexpected end"), Verdict::Refused);
        assert_eq!(exited(3, "it has the name 'os error 12'"), Verdict::Refused);
        let within = "unhandled out-of-memory error: out of memory (failed to allocate 64 bytes)";
        for verdict in [
            exited(4, "out of memory"),
            of(6, allocation),
            of(9, ""),
            exited(PANICKED, thread),
            exited(PANICKED, within),
        ] {
            assert_eq!(verdict, Verdict::Limit(Limit::Memory));
        }
        assert_eq!(of(Signal::XCPU.as_raw(), ""), Verdict::Limit(Limit::Cpu));
        assert_eq!(exited(PANICKED, "index out of bounds"), Verdict::Crashed);
        assert_eq!(of(6, "thread 'main' has overflowed its stack"), Verdict::Crashed);
        assert_eq!(of(11, ""), Verdict::Crashed);
        assert_eq!((exited(1, ""), exited(127, "")), (Verdict::Failed, Verdict::Failed));
    }

    #[test]
    fn a_long_path_does_not_hide_the_reason() {
        let child = ChildCompiler::new("wharf".into(), &config::Plugins::default(), 1);
        let stderr = format!("panicked at {}map.rs:100:5:\nunhandled out-of-memory error", "registry/".repeat(50));
        let exit = Exit { status: ExitStatus::from_raw(PANICKED << 8), machine_code: Vec::new(), stderr };
        let error = child.interpret(&Digest::of(b""), exit).err().unwrap();
        assert_eq!(*error.code(), code::COMPILE_LIMIT);
    }

    #[test]
    fn a_host_without_descriptors_or_processes_for_a_compiler_is_not_defective() {
        let child = ChildCompiler::new("wharf".into(), &config::Plugins::default(), 1);
        for shortage in [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::AGAIN] {
            assert!(matches!(child.not_started(shortage.into()).kind(), Kind::Unavailable(_)), "{shortage}");
        }
        assert_eq!(*child.not_started(Errno::NOENT.into()).kind(), Kind::Internal);
    }

    #[test]
    fn the_cpu_limit_is_rounded_up_to_whole_seconds() {
        let child = |cpu_time| {
            let limits = config::Plugins { compile_cpu_time: cpu_time, ..config::Plugins::default() };
            ChildCompiler::new("wharf".into(), &limits, 1).cpu_seconds()
        };
        assert_eq!([0, 1, 1000, 1001].map(|millis| child(Duration::from_millis(millis))), [1, 1, 1, 2]);
    }
}
