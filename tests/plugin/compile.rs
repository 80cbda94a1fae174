//! Compiling: in a child that a bomb ends alone, and never twice what is on the shelf as it was left there.

use std::fmt::Write as _;
use std::fs::Permissions;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use wharf::config::Config;
use wharf::plugin::Compile;

use crate::support::patience::until;
use crate::support::program::program;
use crate::support::{Answer, Component, Setup, TestHost};

/// Far beyond what a test takes.
const NEVER: Duration = Duration::from_secs(600);

/// A component with one function of so many steps, which take the compiler long and much memory.
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

/// The children that this process has for compiling within so much memory, which no other test allows.
pub(crate) fn children(memory_bytes: u64) -> Vec<PathBuf> {
    let limit = format!("--memory-bytes\0{memory_bytes}\0");
    let processes = std::fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    let command = |process: &PathBuf| std::fs::read(process.join("cmdline")).unwrap_or_default();
    processes.filter(|process| String::from_utf8_lossy(&command(process)).contains(&limit)).collect()
}

/// The compiled components of a host.
fn shelf(host: &TestHost) -> Vec<PathBuf> {
    let files = std::fs::read_dir(host.config().server.data_dir.join("compiled")).unwrap();
    let mut files: Vec<_> = files.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

pub(super) fn child() -> Compile {
    Compile::Child(program())
}

/// Nobody who could compile.
fn nobody() -> Compile {
    Compile::Child("/bin/false".into())
}

/// The compiler, once this command of a shell has ended.
fn after(command: &str, directory: &Path) -> Compile {
    let file = directory.join("compiler");
    std::fs::write(&file, format!("#!/bin/sh\n{command}\nexec {} \"$@\"\n", program().display())).unwrap();
    std::fs::set_permissions(&file, Permissions::from_mode(0o755)).unwrap();
    Compile::Child(file)
}

/// The refusal of a bomb, during which and after which the host and a plugin of it answer.
async fn explodes(component: Component, memory_bytes: u64, change: impl FnOnce(&mut Config)) -> Answer {
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("seen");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    // However soon it explodes, it is seen before. The shell itself reads: a process that it starts has a like command line.
    let held = after(&format!("read -r seen <{}", pipe.display()), directory.path());
    let setup = Setup::default().with(|config| {
        config.plugins.compile_memory_bytes = memory_bytes;
        config.plugins.compile_cpu_time = NEVER;
        config.plugins.compile_time = NEVER;
    });
    let mut host = TestHost::sqlite(setup).await;
    host.superuser().deploy(&Component::hello().0, "").await.ok();
    // The compiler and the limits of the test are the bomb's, not the neighbour's.
    host.restart_with(change).await;
    host.restart_compiling(held).await;
    let deploy = {
        let superuser = host.superuser().clone();
        tokio::spawn(async move { superuser.deploy(&component.0, "").await })
    };
    let child = until("the compile to begin", async || children(memory_bytes).pop()).await;
    let environment = String::from_utf8(std::fs::read(child.join("environ")).unwrap()).unwrap();
    assert!(environment.contains("RAYON_NUM_THREADS="), "{environment}");
    // Both ends, so that it opens whether or not somebody reads yet; kept until the end, so that nothing is lost.
    let mut seen = std::fs::File::options().read(true).write(true).open(pipe).unwrap();
    seen.write_all(b"\n").unwrap();
    while !deploy.is_finished() {
        assert_eq!(host.anonymous().get("/hello/").await.ok()["message"], "Hello");
    }
    for variable in environment.split('\0').filter(|variable| !variable.is_empty()) {
        assert!(["RAYON_", "MIMALLOC_"].iter().any(|known| variable.starts_with(known)), "{variable}");
    }
    let answer = deploy.await.unwrap();
    assert_eq!(children(memory_bytes), Vec::<PathBuf>::new());
    assert_eq!(host.anonymous().get("/hello/").await.ok()["message"], "Hello");
    host.stop().await;
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_compile_that_takes_too_much_memory_is_ended() {
    let memory_bytes = (200 << 20) + 4096;
    let answer = explodes(bomb(40_000), memory_bytes, |_| {}).await;
    answer.is_problem(
        422,
        "compile_limit",
        "The file cannot be deployed: compiling it takes more memory than plugins.compile_memory_bytes allows \
         (209719296 bytes)",
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_compile_that_takes_too_much_cpu_time_is_ended() {
    let change = |config: &mut Config| config.plugins.compile_cpu_time = Duration::from_secs(1);
    let answer = explodes(bomb(100_000), (4 << 30) + 4096, change).await;
    answer.is_problem(
        422,
        "compile_limit",
        "The file cannot be deployed: compiling it takes more CPU time than plugins.compile_cpu_time allows (1s)",
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_compile_that_takes_too_long_is_ended() {
    let change = |config: &mut Config| config.plugins.compile_time = Duration::from_secs(2);
    let answer = explodes(bomb(100_000), (4 << 30) + 8192, change).await;
    answer.is_problem(
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
    let child = TestHost::sqlite(Setup::default().compiling(child())).await;
    let within = TestHost::sqlite(Setup::default()).await;
    let mut truncated = Component::hello();
    truncated.0.truncate(truncated.0.len() / 2);
    let mut garbage = Component::hello();
    garbage.0.truncate(8);
    garbage.0.extend([0xff; 64]);
    let invalid = Component::text("(component)").rebuilt("x");
    for component in [truncated, garbage, invalid] {
        let answers = [&child, &within].map(|host| host.superuser().deploy(&component.0, ""));
        let [child, within] = answers;
        let (child, within) = (child.await, within.await);
        let reason = within.has_code(422, "invalid_component");
        assert_eq!(child.has_code(422, "invalid_component"), reason);
    }
    child.deploy_items().await;
    assert_eq!(shelf(&child).len(), 2, "items, and the component that is no plugin");
    child.stop().await;
    within.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_compiles_nothing() {
    let mut host = TestHost::sqlite(Setup::default()).await;
    host.superuser().deploy(&Component::hello().0, "").await.ok();
    host.deploy_items().await;
    host.restart_compiling(nobody()).await;
    assert_eq!(host.anonymous().get("/hello/").await.ok()["message"], "Hello");
    host.superuser().get("/items/").await.ok();
    host.superuser().deploy(&Component::chameleon().0, crate::support::host::CHAMELEON).await.has_code(500, "internal");

    // Or rather: a restart that finds nothing compiled would have to.
    shelf(&host).iter().for_each(|file| std::fs::remove_file(file).unwrap());
    host.restart().await;
    host.anonymous().get("/hello/").await.has_code(503, "plugin_unavailable");
    host.restart_compiling(Compile::in_process()).await;
    assert_eq!(host.anonymous().get("/hello/").await.ok()["message"], "Hello");
    assert_eq!(shelf(&host).len(), 2);
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tampered_code_cache_file_is_recompiled_and_never_loaded() {
    let mut host = TestHost::sqlite(Setup::default()).await;
    host.superuser().deploy(&Component::hello().0, "").await.ok();
    let [file] = &shelf(&host)[..] else { panic!("one component is one file") };
    let whole = std::fs::read(file).unwrap();
    for at in [0, 20, 60, whole.len() / 2, whole.len() - 1] {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x40;
        std::fs::write(file, &bytes).unwrap();
        host.restart().await;
        assert_eq!(host.anonymous().get("/hello/").await.ok()["message"], "Hello");
        assert_ne!(std::fs::read(file).unwrap(), bytes);
    }
    // Where it cannot be compiled again, the plugin does not answer: nothing else is a way round.
    let mut bytes = whole.clone();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(file, bytes).unwrap();
    host.restart_compiling(nobody()).await;
    host.anonymous().get("/hello/").await.has_code(503, "plugin_unavailable");
    assert!(!file.exists());
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn code_cache_files_of_another_host_are_not_loaded() {
    let mut host = TestHost::sqlite(Setup::default()).await;
    let other = TestHost::sqlite(Setup::default()).await;
    for host in [&host, &other] {
        host.superuser().deploy(&Component::hello().0, "").await.ok();
    }
    std::fs::copy(&shelf(&other)[0], &shelf(&host)[0]).unwrap();
    host.restart_compiling(nobody()).await;
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
    host.restart_compiling(after("/bin/sleep 5", directory.path())).await;
    let deploying = tokio::spawn({
        let client = host.superuser().clone();
        async move { client.deploy(&Component::hello().rebuilt("slowly").0, "id=slow").await }
    });
    until("the compile to begin", async || {
        let answer = host.superuser().get("/deploys/slow").await;
        (answer.status == 200 && answer.json()["stage"] == "compile").then_some(())
    })
    .await;
    host.superuser().request(reqwest::Method::POST, "/plugins/liar/rollback").send().await.ok();
    assert_eq!(host.anonymous().get("/liar").await.text(), "one");
    host.superuser().request(reqwest::Method::POST, "/plugins/liar/pause").send().await.ok();
    assert!(!deploying.is_finished(), "it waited");
    deploying.await.unwrap().ok();
    host.stop().await;
}
