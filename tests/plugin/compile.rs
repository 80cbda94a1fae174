//! Compiling in a child process: only that process ends if a component explodes in the compiler. Cached machine code is
//! reused only if it is unaltered.

use std::fmt::Write as _;
use std::fs::{File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use wharf::config::Config;
use wharf::plugin::Compile;

use crate::support::patience::NEVER;
use crate::support::polling::until;
use crate::support::program::program;
use crate::support::{Component, Setup, TestHost, TestResponse};

/// Returns a component with one function of the given number of steps, which take the compiler much time and memory.
pub(super) fn bomb(steps: u32) -> Component {
    let mut text =
        String::from("(component (core module (memory 1) (func (export \"f\") (param i32) (local i32 i32)\n");
    for step in 0..steps {
        let at = step % 1000 * 4;
        writeln!(text, "local.get {} local.get 1 i32.xor local.tee 2", step % 3).unwrap();
        writeln!(
            text,
            "if local.get 2 i32.load offset={at} local.set 1 else local.get 0 local.get 1 i32.store offset={at} end"
        )
        .unwrap();
    }
    text.push_str(")))");
    Component::text(&text)
}

/// Returns the compiler processes with this memory limit, which no other test uses.
pub(crate) fn compiler_processes(memory_bytes: u64) -> Vec<PathBuf> {
    let limit = format!("--memory-bytes\0{memory_bytes}\0");
    let processes = std::fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    let command = |process: &PathBuf| std::fs::read(process.join("cmdline")).unwrap_or_default();
    processes.filter(|process| String::from_utf8_lossy(&command(process)).contains(&limit)).collect()
}

/// Returns the files of a host's code cache.
fn code_cache_files(host: &TestHost) -> Vec<PathBuf> {
    let files = std::fs::read_dir(host.config().server.data_dir.join("compiled")).unwrap();
    let mut files: Vec<_> = files.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Puts other bytes under the name of a file of the code cache. The host has mapped the old one.
fn replace(file: &Path, bytes: &[u8]) {
    std::fs::remove_file(file).unwrap();
    std::fs::write(file, bytes).unwrap();
}

/// Returns whether this process has mapped a file as executable, in which the hosts of all tests run.
fn is_mapped(file: &Path) -> bool {
    let (file, mappings) = (file.canonicalize().unwrap(), std::fs::read_to_string("/proc/self/maps").unwrap());
    mappings.lines().any(|line| line.contains(" r-xp ") && line.ends_with(file.to_str().unwrap()))
}

pub(super) fn child_compiler() -> Compile {
    Compile::Child(program())
}

/// A compiler that always fails.
fn failing_compiler() -> Compile {
    Compile::Child("/bin/false".into())
}

/// Returns a compiler that compiles after a shell command has ended.
fn compiler_after(command: &str, directory: &Path) -> Compile {
    let file = directory.join("compiler");
    // The host also asks the compiler how it is confined. That runs no command.
    let script = format!(
        "#!/bin/sh\n[ \"$2\" = --report-confinement ] || {{\n{command}\n}}\nexec {} \"$@\"\n",
        program().display()
    );
    std::fs::write(&file, script).unwrap();
    std::fs::set_permissions(&file, Permissions::from_mode(0o755)).unwrap();
    Compile::Child(file)
}

/// Returns a compiler that waits for a line in a pipe, and the pipe. The shell itself reads from the pipe, because a
/// process that it starts would have a similar command line.
pub(super) fn held_compiler(directory: &Path) -> (Compile, PathBuf) {
    let pipe = directory.join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    (compiler_after(&format!("read -r line <{}", pipe.display()), directory), pipe)
}

/// Lets a held compiler compile. The pipe is opened for reading and writing, so that it opens even if the shell does
/// not read yet. It must stay open until the compiler has ended, so that no byte is lost.
pub(super) fn let_compile(pipe: &Path) -> File {
    let mut pipe = File::options().read(true).write(true).open(pipe).unwrap();
    pipe.write_all(b"\n").unwrap();
    pipe
}

/// Returns the rejection of a compile bomb. The host and a plugin must respond during the compilation and after it.
async fn rejection_of_bomb(component: Component, memory_bytes: u64, change: impl FnOnce(&mut Config)) -> TestResponse {
    let directory = tempfile::tempdir().unwrap();
    // The compiler waits until the test has seen it.
    let (held, pipe) = held_compiler(directory.path());
    let setup = Setup::default().with(|config| {
        config.plugins.compile_memory_bytes = memory_bytes;
        config.plugins.compile_cpu_time = NEVER;
        config.plugins.compile_time = NEVER;
    });
    let mut host = TestHost::sqlite(setup).await;
    host.superuser().deploy(&Component::hello().0, "").await.ok();
    // The compiler and the limits apply to the bomb, not to the neighbour.
    host.restart_with(change).await;
    host.restart_compiling(held).await;
    let deploy = {
        let superuser = host.superuser().clone();
        tokio::spawn(async move { superuser.deploy(&component.0, "").await })
    };
    let child = until("the compilation to begin", async || compiler_processes(memory_bytes).pop()).await;
    let environment = String::from_utf8(std::fs::read(child.join("environ")).unwrap()).unwrap();
    assert!(environment.contains("RAYON_NUM_THREADS="), "{environment}");
    let _pipe = let_compile(&pipe);
    while !deploy.is_finished() {
        assert_eq!(host.anonymous().get("/hello/").await.ok()["message"], "Hello");
    }
    for variable in environment.split('\0').filter(|variable| !variable.is_empty()) {
        assert!(["RAYON_", "MIMALLOC_"].iter().any(|known| variable.starts_with(known)), "{variable}");
    }
    let response = deploy.await.unwrap();
    assert_eq!(compiler_processes(memory_bytes), Vec::<PathBuf>::new());
    assert_eq!(host.anonymous().get("/hello/").await.ok()["message"], "Hello");
    host.stop().await;
    response
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_compile_that_takes_too_much_memory_is_ended() {
    let memory_bytes = (200 << 20) + 4096;
    let response = rejection_of_bomb(bomb(40_000), memory_bytes, |_| {}).await;
    response.is_problem(
        422,
        "compile_limit",
        "The file cannot be deployed: compiling it takes more memory than plugins.compile_memory_bytes allows \
         (209719296 bytes)",
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_compile_that_takes_too_much_cpu_time_is_ended() {
    let change = |config: &mut Config| config.plugins.compile_cpu_time = Duration::from_secs(1);
    let response = rejection_of_bomb(bomb(100_000), (4 << 30) + 4096, change).await;
    response.is_problem(
        422,
        "compile_limit",
        "The file cannot be deployed: compiling it takes more CPU time than plugins.compile_cpu_time allows (1s)",
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_compile_that_takes_too_long_is_ended() {
    let change = |config: &mut Config| config.plugins.compile_time = Duration::from_secs(2);
    let response = rejection_of_bomb(bomb(100_000), (4 << 30) + 8192, change).await;
    response.is_problem(
        422,
        "compile_limit",
        "The file cannot be deployed: compiling it takes more time than plugins.compile_time allows (2s)",
    );
}

#[test]
fn a_compiler_child_exits_when_its_host_is_gone() {
    let component = bomb(100_000).0;
    let bytes = component.len().to_string();
    let mut child = Command::new(program())
        .args([
            "compile-component",
            "--memory-bytes",
            "4294967296",
            "--cpu-seconds",
            "600",
            "--component-bytes",
            &bytes,
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&component).unwrap();
    assert_eq!(child.try_wait().unwrap(), None);
    drop(stdin);
    assert_eq!(child.wait().unwrap().code(), Some(5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_process_accepts_and_rejects_the_same_files_as_in_process_compilation() {
    let child = TestHost::sqlite(Setup::default().compiling(child_compiler())).await;
    let within = TestHost::sqlite(Setup::default()).await;
    let mut truncated = Component::hello();
    truncated.0.truncate(truncated.0.len() / 2);
    let mut garbage = Component::hello();
    garbage.0.truncate(8);
    garbage.0.extend([0xff; 64]);
    let invalid = Component::text("(component)").rebuilt("x");
    for component in [truncated, garbage, invalid] {
        let responses = [&child, &within].map(|host| host.superuser().deploy(&component.0, ""));
        let [child, within] = responses;
        let (child, within) = (child.await, within.await);
        let reason = within.has_code(422, "invalid_component");
        assert_eq!(child.has_code(422, "invalid_component"), reason);
    }
    child.deploy_items().await;
    assert_eq!(code_cache_files(&child).len(), 2, "items, and the component that is not a plugin");
    child.stop().await;
    within.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_compiles_nothing() {
    let mut host = TestHost::sqlite(Setup::default()).await;
    host.superuser().deploy(&Component::hello().0, "").await.ok();
    host.deploy_items().await;
    host.restart_compiling(failing_compiler()).await;
    assert_eq!(host.anonymous().get("/hello/").await.ok()["message"], "Hello");
    host.superuser().get("/items/").await.ok();
    host.superuser().deploy(&Component::chameleon().0, crate::support::host::CHAMELEON).await.has_code(500, "internal");

    // Without the cached files, a restart would have to compile.
    code_cache_files(&host).iter().for_each(|file| std::fs::remove_file(file).unwrap());
    host.restart().await;
    host.anonymous().get("/hello/").await.has_code(503, "plugin_unavailable");
    host.restart_compiling(Compile::in_process().unwrap()).await;
    assert_eq!(host.anonymous().get("/hello/").await.ok()["message"], "Hello");
    // The other one is compiled without a request.
    until("both to be compiled", async || (code_cache_files(&host).len() == 2).then_some(())).await;
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_wait_for_a_compile_share_its_failure_and_a_later_one_tries_again() {
    let directory = tempfile::tempdir().unwrap();
    let (attempts, fixed) = (directory.path().join("attempts"), directory.path().join("fixed"));
    let mut host = TestHost::sqlite(Setup::default()).await;
    host.superuser().deploy(&Component::hello().0, "").await.ok();
    code_cache_files(&host).iter().for_each(|file| std::fs::remove_file(file).unwrap());
    let command = format!("echo >>{}; [ -e {} ] || exit 1", attempts.display(), fixed.display());
    host.restart_compiling(compiler_after(&command, directory.path())).await;
    let client = host.anonymous();
    let requests = (0..20).map(|_| client.get("/hello/"));
    for response in futures_util::future::join_all(requests).await {
        response.has_code(503, "plugin_unavailable");
    }
    // The compile in the background may have been an attempt of its own, some time before the requests.
    assert!(std::fs::read(&attempts).unwrap().len() <= 2, "each attempt is a line");
    std::fs::write(&fixed, "").unwrap();
    until("the plugin to be served", async || (client.get("/hello/").await.status == 200).then_some(())).await;
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tampered_code_cache_file_is_recompiled_and_never_loaded() {
    let mut host = TestHost::sqlite(Setup::default()).await;
    host.superuser().deploy(&Component::hello().0, "").await.ok();
    let [file] = &code_cache_files(&host)[..] else { panic!("one component must be one file") };
    let whole = std::fs::read(file).unwrap();
    for at in [0, 20, 60, whole.len() / 2, whole.len() - 1] {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x40;
        replace(file, &bytes);
        host.restart().await;
        assert_eq!(host.anonymous().get("/hello/").await.ok()["message"], "Hello");
        assert_ne!(std::fs::read(file).unwrap(), bytes);
    }
    // If it cannot be compiled again, the plugin is unavailable: the altered file is never loaded.
    let mut bytes = whole.clone();
    *bytes.last_mut().unwrap() ^= 1;
    replace(file, &bytes);
    host.restart_compiling(failing_compiler()).await;
    host.anonymous().get("/hello/").await.has_code(503, "plugin_unavailable");
    assert!(!file.exists());
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn machine_code_is_mapped_and_a_plugin_needs_no_name_of_its_file() {
    let mut host = TestHost::sqlite(Setup::default()).await;
    host.superuser().deploy(&Component::hello().0, "").await.ok();
    let [file] = &code_cache_files(&host)[..] else { panic!("one component must be one file") };
    assert!(is_mapped(file), "after the deploy");
    host.restart().await;
    assert_eq!(host.anonymous().get("/hello/").await.ok()["message"], "Hello");
    assert!(is_mapped(file), "after a start");
    std::fs::remove_file(file).unwrap();
    for _ in 0..100 {
        assert_eq!(host.anonymous().get("/hello/").await.ok()["message"], "Hello");
    }
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_component_that_compiles_and_never_loads_is_rejected_and_not_cached() {
    let host = TestHost::sqlite(Setup::default()).await;
    // No place in the instance pool has such a table.
    let text = "(component (core module $m (table 100000 funcref)) (core instance (instantiate $m)))";
    for _ in 0..2 {
        let reason = host.superuser().deploy(&Component::text(text).0, "").await.has_code(422, "invalid_component");
        assert!(reason.contains("exceeds the limit"), "{reason}");
        assert_eq!(code_cache_files(&host), Vec::<PathBuf>::new());
    }
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn code_cache_files_of_another_host_are_not_loaded() {
    let mut host = TestHost::sqlite(Setup::default()).await;
    let other = TestHost::sqlite(Setup::default()).await;
    for host in [&host, &other] {
        host.superuser().deploy(&Component::hello().0, "").await.ok();
    }
    replace(&code_cache_files(&host)[0], &std::fs::read(&code_cache_files(&other)[0]).unwrap());
    host.restart_compiling(failing_compiler()).await;
    host.anonymous().get("/hello/").await.has_code(503, "plugin_unavailable");
    host.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_does_not_wait_for_a_deploy_that_compiles() {
    let directory = tempfile::tempdir().unwrap();
    let mut host = TestHost::sqlite(Setup::default()).await;
    for word in ["one", "two"] {
        host.superuser().deploy(&super::liar(serde_json::json!({ "answer": word })).0, "").await.ok();
    }
    let (held, pipe) = held_compiler(directory.path());
    host.restart_compiling(held).await;
    let deploying = tokio::spawn({
        let client = host.superuser().clone();
        async move { client.deploy(&Component::hello().rebuilt("slowly").0, "id=slow").await }
    });
    until("the compilation to begin", async || {
        let response = host.superuser().get("/deploys/slow").await;
        (response.status == 200 && response.json()["stage"] == "compile").then_some(())
    })
    .await;
    host.superuser().request(reqwest::Method::POST, "/plugins/liar/rollback").send().await.ok();
    assert_eq!(host.anonymous().get("/liar").await.text(), "one");
    host.superuser().request(reqwest::Method::POST, "/plugins/liar/pause").send().await.ok();
    assert!(!deploying.is_finished(), "the compilation did not wait");
    let _pipe = let_compile(&pipe);
    deploying.await.unwrap().ok();
    host.stop().await;
}
