//! `make bench-check`: counts the instructions that the host executes for one request, and fails if a count is more than
//! [`TOLERANCE`] above the recorded one. `make bench-check RECORD=1` records the counts in [`RECORDED`].
//!
//! Callgrind counts, so the counts depend on the compiler, the libraries and the instructions that the processor has, and hardly
//! on the speed and the load of the machine. With another compiler, valgrind, C library or kind of processor than the
//! recorded one, a difference is shown and is no failure. The host serves over a connection, with everything on, in
//! `wharf-counted`. It starts without instrumentation, because the compile of its components would take minutes with it. The
//! kernel's instructions are not counted.
//!
//! The epoch clock ticks in real time while the guest runs some fifty times slower, so a few calls yield that would not.
//! The least of some rounds counts.
//!
//! Some things of the host do not work under valgrind:
//!
//! - Valgrind executes no AVX-512. The processor that it shows to the program has none, so libraries that ask choose
//!   other code, and so does Cranelift in this process. A build with `-C target-cpu=native` may end with SIGILL.
//! - It gives a program a bit less than 64 GiB of addresses in one piece: see [`SETTINGS`].
//! - It knows no memory protection keys. wasmtime's pool uses them only if it is told to, and the host does not.
//! - It does not map the kernel's vDSO, which rustix looked for (rustix#1559): see `host/Cargo.toml`.
//! - It does not start `/proc/self/exe`: see `wharf-counted`.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::Failure;
use crate::wharf::Wharf;

/// The share by which a count may exceed the recorded one.
const TOLERANCE: f64 = 0.03;
/// The recorded counts: one route and its count on each line.
const RECORDED: &str = "tests/bench/instructions.txt";
/// The directory for the profiles of the rounds that count, for `callgrind_annotate`.
const PROFILES: &str = "target/bench-check";
/// Rounds of each route. The host also works without requests, about once a second. Rounds of cheap routes are shorter than
/// that, so the least one is free of this work.
const ROUNDS: usize = 10;
/// Requests of one round.
const REQUESTS: u32 = 40;
/// Requests before the first round, which fill pools and caches.
const WARM_UP: u32 = 50;
/// Items in the list that is requested.
const ITEMS: usize = 20;
/// The name of the count of a statement, which is the difference of two routes.
const STATEMENT: &str = "statement";
/// The time for the start, which compiles two components under valgrind.
const PATIENCE: Duration = Duration::from_secs(300);

const PLUGINS: [&str; 2] = ["target/plugins/hello.wasm", "target/plugins/items.wasm"];
const GRANTS: &str = "auth,events,sql,events.rate=1000000";

/// Of those that valgrind executes.
const EXTENSIONS: [&str; 8] = ["sse4_2", "popcnt", "avx", "f16c", "fma", "avx2", "bmi1", "bmi2"];

/// Callgrind counts `rep stosb` and `rep movsb` once for each byte: the reset of a slot of the pool would be four fifths of
/// a call. With these thresholds, glibc uses loops over vectors, which cost what they count.
const NO_STRING_INSTRUCTIONS: &str =
    "glibc.cpu.x86_rep_stosb_threshold=1073741824:glibc.cpu.x86_rep_movsb_threshold=1073741824";

/// Valgrind has a bit less than 64 GiB of addresses in one piece. The instance pool for one call, one delivery and one
/// deploy needs 48 GiB. The other settings are time limits, which a host under callgrind would exceed.
const SETTINGS: [(&str, &str); 8] = [
    ("GLIBC_TUNABLES", NO_STRING_INSTRUCTIONS),
    ("WHARF_PLUGIN_TOTAL_CONCURRENCY", "1"),
    ("WHARF_PLUGIN_BACKGROUND_CONCURRENCY", "1"),
    ("WHARF_PLUGIN_CPU_TIME", "1m"),
    ("WHARF_PLUGIN_DEADLINE", "5m"),
    ("WHARF_PLUGIN_SMOKE_TIME", "5m"),
    ("WHARF_START_TIMEOUT", "5m"),
    ("WHARF_HEADER_TIMEOUT", "1m"),
];

/// Counts, and compares or records.
#[allow(clippy::print_stdout, reason = "the report")]
pub(crate) fn check(program: &Path, record: bool) -> Result<(), Failure> {
    let [rustc, valgrind, libc] =
        [("rustc", "--version"), ("valgrind", "--version"), ("getconf", "GNU_LIBC_VERSION")].map(version);
    let toolchain = format!("{}, {}, {}, {}", rustc?, valgrind?, libc?, processor());
    // First of all: to count takes minutes.
    let recorded = if record { None } else { Some(read_recorded()?) };
    println!("Starting the host under callgrind …");
    let directory = tempfile::tempdir()?;
    let counts = Counted::start(program, directory.path())?.count_routes()?;
    match recorded {
        Some(text) => compare(&counts, &text, &toolchain),
        None => write_recorded(&counts, &toolchain),
    }
}

fn read_recorded() -> Result<String, Failure> {
    let read = fs::read_to_string(RECORDED);
    Ok(read.map_err(|error| format!("{RECORDED}: {error}; record the counts with make bench-check RECORD=1"))?)
}

#[allow(clippy::print_stdout, reason = "the report")]
fn write_recorded(counts: &[(&str, f64)], toolchain: &str) -> Result<(), Failure> {
    let mut text =
        format!("# Instructions of one request. `make bench-check RECORD=1` writes this file.\n# {toolchain}\n");
    for (name, count) in counts {
        println!("{name:<14}{count:>12.0}");
        writeln!(text, "{name} {count:.0}")?;
    }
    fs::write(RECORDED, text)?;
    println!("recorded in {RECORDED}");
    Ok(())
}

#[allow(clippy::print_stdout, reason = "the report")]
fn compare(counts: &[(&str, f64)], text: &str, toolchain: &str) -> Result<(), Failure> {
    let is_comparable = text.lines().any(|line| line.strip_prefix("# ") == Some(toolchain));
    println!("{:<14}{:>12}{:>12}{:>10}", "", "recorded", "now", "change");
    let mut grown = Vec::new();
    for (name, count) in counts {
        let recorded = recorded(text, name).ok_or_else(|| format!("{RECORDED} has no count of {name}"))?;
        let change = count / recorded - 1.0;
        println!("{name:<14}{recorded:>12.0}{count:>12.0}{:>+9.1}%", change * 100.0);
        if change > TOLERANCE {
            grown.push(*name);
        }
        if is_comparable && change < -TOLERANCE {
            println!("{:<14}fewer than recorded: keep that with make bench-check RECORD=1", "");
        }
    }
    if !is_comparable {
        println!(
            "{RECORDED} was recorded with another toolchain than {toolchain}, so a difference is no failure. Record the \
             counts of the commit before the change, and compare with them"
        );
        return Ok(());
    }
    match grown.as_slice() {
        [] => Ok(()),
        names => Err(next_step(names).into()),
    }
}

fn next_step(grown: &[&str]) -> String {
    let first = grown.iter().find(|name| **name != STATEMENT).unwrap_or(&"item");
    format!(
        "more instructions than recorded: {}\n`callgrind_annotate {PROFILES}/{first}` shows the functions that execute them. \
         If the change has to cost that, record it with make bench-check RECORD=1 and give the reason in the commit",
        grown.join(", ")
    )
}

fn recorded(text: &str, name: &str) -> Option<f64> {
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.find(|(of, _)| *of == name)?.1.trim().parse().ok()
}

fn version((program, argument): (&str, &str)) -> Result<String, Failure> {
    let output = Command::new(program)
        .arg(argument)
        .output()
        .map_err(|error| format!("{program} does not start ({error}); on Debian, valgrind is a package"))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Returns the extensions of the processor by which the C library, the crates and Cranelift choose their code.
fn processor() -> String {
    let information = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = information.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let has = |extension: &&&str| flags.split_ascii_whitespace().any(|flag| flag == **extension);
    EXTENSIONS.iter().filter(has).copied().collect::<Vec<_>>().join(" ")
}

/// The host under callgrind.
struct Counted {
    wharf: Wharf,
    agent: ureq::Agent,
    /// Below it are the pipes of vgdb and the dumps, each of which has a number at its end.
    directory: PathBuf,
    dumps: usize,
}

impl Counted {
    fn start(program: &Path, directory: &Path) -> Result<Self, Failure> {
        let log = directory.join("log");
        let mut command = Command::new("valgrind");
        command.args(["--tool=callgrind", "--instr-atstart=no", "--dump-line=no", "--fair-sched=try"]);
        command.arg(pipes(directory));
        command.arg(format!("--callgrind-out-file={}", directory.join("counts").display()));
        command.arg(program).arg(GRANTS).args(PLUGINS).envs(SETTINGS).stderr(File::create(&log)?);
        let wharf = Wharf::attend(command, directory, ("/api/v1/items/", 401), PATIENCE).map_err(|error| {
            let log = fs::read_to_string(&log).unwrap_or_default();
            format!("{error}\n{log}")
        })?;
        wharf.create_items(ITEMS)?;
        Ok(Self { wharf, agent: ureq::Agent::new_with_defaults(), directory: directory.to_owned(), dumps: 0 })
    }

    /// Returns the instructions of one request to each route, and those of a statement.
    fn count_routes(mut self) -> Result<Vec<(&'static str, f64)>, Failure> {
        fs::create_dir_all(PROFILES)?;
        let items = self.request("/api/v1/items/?limit=1", true)?;
        let items: Value = serde_json::from_slice(&items)?;
        let id = items.pointer("/data/0/id").and_then(Value::as_str).ok_or("there is no item")?;
        let item = format!("/api/v1/items/{id}");
        self.control(&["instrumentation", "on"])?;
        let health = self.count("health", "/healthz", false)?;
        let hello = self.count("hello", "/api/v1/hello/", false)?;
        let hello_token = self.count("hello-token", "/api/v1/hello/", true)?;
        let users_me = self.count("users-me", "/api/v1/users/me", true)?;
        let item = self.count("item", &item, true)?;
        let list = self.count("items", &format!("/api/v1/items/?limit={ITEMS}"), true)?;
        Ok(vec![
            ("health", health),
            ("hello", hello),
            ("hello-token", hello_token),
            ("users-me", users_me),
            ("item", item),
            ("items", list),
            // One that reads a row by its key, with the work of the guest for it.
            (STATEMENT, item - hello_token),
        ])
    }

    fn count(&mut self, name: &str, path: &str, has_token: bool) -> Result<f64, Failure> {
        for _ in 0..WARM_UP {
            self.request(path, has_token)?;
        }
        // A dump contains the instructions since the one before it.
        fs::remove_file(self.dump()?)?;
        let mut least = f64::INFINITY;
        for _ in 0..ROUNDS {
            for _ in 0..REQUESTS {
                self.request(path, has_token)?;
            }
            let dump = self.dump()?;
            let count = total(&dump)? / f64::from(REQUESTS);
            if count < least {
                least = count;
                fs::copy(&dump, Path::new(PROFILES).join(name))?;
            }
            fs::remove_file(dump)?;
        }
        Ok(least)
    }

    fn request(&self, path: &str, has_token: bool) -> Result<Vec<u8>, Failure> {
        let mut request = self.agent.get(self.wharf.url(path));
        if has_token {
            request = request.header("Authorization", format!("Bearer {}", self.wharf.token()));
        }
        Ok(request.call()?.body_mut().read_to_vec()?)
    }

    /// Writes a dump and returns its file.
    fn dump(&mut self) -> Result<PathBuf, Failure> {
        self.control(&["dump"])?;
        self.dumps += 1;
        Ok(self.directory.join(format!("counts.{}", self.dumps)))
    }

    /// Sends a command to callgrind. (`callgrind_control` reports success for a process that it does not find.)
    fn control(&self, command: &[&str]) -> Result<(), Failure> {
        let mut vgdb = Command::new("vgdb");
        vgdb.arg(pipes(&self.directory)).arg(format!("--pid={}", self.wharf.pid()));
        // A host that waits for requests is interrupted at once.
        let output = vgdb.arg("--max-invoke-ms=1").args(command).output()?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("vgdb {} failed: {}", command.join(" "), String::from_utf8_lossy(&output.stderr)).into())
    }
}

/// Returns the option for the place of the pipes between vgdb and the process. They would stay after a kill.
fn pipes(directory: &Path) -> String {
    format!("--vgdb-prefix={}", directory.join("vgdb").display())
}

/// Returns the instructions of all threads in a dump.
fn total(dump: &Path) -> Result<f64, Failure> {
    let text = fs::read(dump).map_err(|error| format!("{}: {error}", dump.display()))?;
    let text = String::from_utf8_lossy(&text);
    let total =
        text.lines().find_map(|line| line.strip_prefix("summary: ")).ok_or("a dump of callgrind has no total")?;
    Ok(total.trim().parse()?)
}
