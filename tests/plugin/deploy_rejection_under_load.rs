//! Hostile files for each stage of a deploy, uploaded over a plugin under load: each is rejected with its stage and
//! reason, and the old release serves every request.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::compile::{bomb, child_compiler, compiler_processes};
use super::liar;
use crate::support::component::RawPlugin;
use crate::support::files::files;
use crate::support::patience::NEVER;
use crate::support::{Component, Load, Setup, TestHost, both};

both!(
    hostile_files_are_rejected_under_load => scarce_call_slots(),
    a_descriptor_of_a_gibibyte_is_rejected_under_load => scarce_call_slots().with(|config| config.plugins.memory_bytes = 2 << 30),
);

const CLIENTS: usize = 4;
const NEIGHBOURS: usize = 2;

/// As many call slots as clients, and a queue time that is shorter than a slow call: if the deploy took a call slot or
/// did not return one, a client would get "busy".
fn scarce_call_slots() -> Setup {
    // Distinguishes the compiler processes from those of other tests.
    static NUMBER: AtomicU64 = AtomicU64::new(1);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    Setup::default().compiling(child_compiler()).with(|config| {
        config.plugins.concurrency = CLIENTS;
        config.plugins.total_concurrency = CLIENTS + NEIGHBOURS;
        config.plugins.queue_time = Duration::from_secs(2);
        config.plugins.compile_memory_bytes = (512 << 20) + 16_384 * number;
        config.plugins.compile_cpu_time = NEVER;
        config.plugins.compile_time = NEVER;
    })
}

/// A file that must be rejected.
struct HostileFile {
    what: &'static str,
    component: Component,
    stage: &'static str,
    code: &'static str,
    /// The reason must be one of these.
    reasons: Vec<String>,
}

impl HostileFile {
    fn new(what: &'static str, component: Component, stage: &'static str, code: &'static str, reason: &str) -> Self {
        Self { what, component, stage, code, reasons: vec![reason.to_owned()] }
    }

    fn failing_describe(what: &'static str, component: Component, why: &str) -> Self {
        let reason = format!("The file cannot be deployed: it fails when it is asked for its declaration: {why}");
        Self::new(what, component, "describe", "invalid_component", &reason)
    }

    fn or(mut self, reason: &str) -> Self {
        self.reasons.push(reason.to_owned());
        self
    }
}

/// The descriptor of a handwritten plugin in memory: name, version, summary and permissions as pointer and length, then
/// whether there is a settings schema, and its pointer and length.
const DESCRIPTOR: [u32; 11] = [64, 3, 80, 5, 0, 0, 0, 0, 0, 0, 0];

/// Returns a plugin whose core module is written by hand, with additional `items`, instructions that `describe`
/// executes `first`, and a `change` of its descriptor.
fn raw(items: &str, first: &str, change: impl FnOnce(&mut [u32; 11])) -> Component {
    let mut descriptor = DESCRIPTOR;
    change(&mut descriptor);
    let bytes: String =
        descriptor.iter().flat_map(|word| word.to_le_bytes()).map(|byte| format!("\\{byte:02x}")).collect();
    let core = format!(
        r#"(memory (export "memory") 1)
        (data (i32.const 64) "raw")
        (data (i32.const 80) "1.0.0")
        (data (i32.const 96) "\ff\fe\c0\80")
        (data (i32.const 128) "{bytes}")
        (func (export "describe") (result i32) {first} i32.const 128)
        (func (export "routes") (result i32) i32.const 256)
        (func (export "realloc") (param i32 i32 i32 i32) (result i32) unreachable)
        (func (export "handle") (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32) unreachable)
        {items}"#
    );
    Component::raw(&RawPlugin { core: &core, ..RawPlugin::default() })
}

const GIBIBYTE: u32 = 1 << 30;
const GROW_BY_A_GIBIBYTE: &str = "(drop (memory.grow (i32.const 16384)))";

fn first_migration() -> Value {
    json!(["0001", "CREATE TABLE t (a BIGINT)"])
}

fn with_smoke_route(handle: &str) -> Component {
    let route = json!({ "method": "GET", "path": "/", "access": "public", "operation": { "x-wharf-smoke": true } });
    liar(json!({ "handle": handle, "routes": [route], "migrations": [first_migration()] }))
}

/// Deploys each file while clients call the plugin and its neighbour.
async fn assert_all_rejected(host: &TestHost, bad: &[HostileFile]) {
    let superuser = host.superuser();
    superuser.deploy(&liar(json!({ "migrations": [first_migration()] })).0, "grant=sql").await.ok();
    superuser.deploy(&Component::hello().0, "").await.ok();
    let memory_bytes = host.config().plugins.compile_memory_bytes;
    let before = files(&host.config().server.data_dir);
    let load = Load::begin(&host.anonymous(), CLIENTS, "/liar", ["one"]);
    let neighbour = Load::begin(&host.anonymous(), NEIGHBOURS, "/hello/", [r#"{"message":"Hello"}"#]);
    let mut compiled = Vec::new();
    for (number, HostileFile { what, component, stage, code, reasons }) in bad.iter().enumerate() {
        let response = superuser.deploy(&component.0, &format!("grant=sql&name=liar&id=case-{number}")).await;
        let problem = response.problem();
        assert_eq!(problem["code"].as_str(), Some(*code), "{what}: {problem}");
        let reason = problem["detail"].as_str().unwrap();
        assert!(reasons.iter().any(|expected| reason == expected), "{what}: {reason}");
        let job = superuser.get(&format!("/deploys/case-{number}")).await.ok();
        assert_eq!((&job["state"], job["stage"].as_str()), (&json!("failed"), Some(*stage)), "{what}: {job}");
        assert_eq!((job["code"].as_str(), job["reason"].as_str()), (Some(*code), Some(reason)), "{what}");
        assert!(compiler_processes(memory_bytes).is_empty(), "{what}");
        if *stage != "compile" {
            compiled.push(job["digest"].as_str().unwrap().to_owned());
        }
        load.wait_for_progress().await;
        neighbour.wait_for_progress().await;
    }
    load.end().await;
    neighbour.end().await;
    assert_eq!(superuser.get("/plugins/liar/releases").await.ok()["count"], 1);
    let history = superuser.get("/plugins/liar/history").await.ok();
    assert_eq!(history["count"], 1 + bad.len());
    // Machine code of the files that compiled is kept; no other file was left.
    let after = files(&host.config().server.data_dir);
    let kept = |file: &&String| compiled.iter().any(|digest| file.starts_with(&format!("compiled/{digest}-")));
    let left: Vec<_> = after.difference(&before).filter(|file| !kept(file)).collect();
    assert!(left.is_empty() && after.is_superset(&before), "{left:?}");
}

/// Checks that all call slots are free: the maximum number of slow calls runs at the same time, and none waits for
/// another.
async fn has_all_its_call_slots(host: &TestHost) {
    host.superuser().deploy(&liar(json!({ "answer": "slow", "millis": 4_000 })).0, "").await.ok();
    let client = host.anonymous();
    let responses = futures_util::future::join_all((0..CLIENTS).map(|_| client.get("/liar"))).await;
    for response in responses {
        assert_eq!((response.status, &*response.text()), (200, "slow"));
    }
}

async fn hostile_files_are_rejected_under_load(host: &mut TestHost) {
    let memory_bytes = host.config().plugins.compile_memory_bytes;
    let cpu = "it fails when it is asked for its declaration: The plugin used up its CPU time";
    let smoke = "The release does not pass its first call (GET /api/v1/liar): ";
    let route = json!({ "method": "GET", "path": "/", "access": "public", "operation": {} });
    let new_table = json!(["0002", "CREATE TABLE u (a BIGINT PRIMARY KEY)"]);
    let twice = json!(["0003", "INSERT INTO t VALUES (1); INSERT INTO u VALUES (1); INSERT INTO u VALUES (1)"]);
    let bad = [
        HostileFile::new(
            "a compilation that takes all memory",
            bomb(100_000),
            "compile",
            "compile_limit",
            &format!(
                "The file cannot be deployed: compiling it takes more memory than plugins.compile_memory_bytes allows \
                 ({memory_bytes} bytes)"
            ),
        ),
        HostileFile::failing_describe(
            "a start function that loops",
            raw("(func $spin (loop $again (br $again))) (start $spin)", "", |_| {}),
            "The plugin did not respond in time",
        )
        // Both limits are equal here; which one expires first depends on scheduling.
        .or(&format!("The file cannot be deployed: {cpu}")),
        HostileFile::new(
            "a proper descriptor without routes",
            raw("", "", |_| {}),
            "describe",
            "invalid_component",
            "The file cannot be deployed: it declares no route",
        ),
        HostileFile::failing_describe(
            "text that is not UTF-8",
            raw("", "", |words| words[..2].copy_from_slice(&[96, 4])),
            "The plugin failed",
        ),
        HostileFile::failing_describe(
            "an invalid option discriminant",
            raw("", "", |words| words[8] = 7),
            "The plugin failed",
        ),
        HostileFile::failing_describe(
            "a text beyond the end of memory",
            raw("", "", |words| words[..2].fill(u32::MAX)),
            "The plugin failed",
        ),
        HostileFile::failing_describe(
            "a descriptor beyond the end of memory",
            raw("", "i32.const -4 return", |_| {}),
            "The plugin failed",
        ),
        HostileFile::failing_describe(
            "an endless list of permissions",
            raw("", "", |words| words[7] = u32::MAX),
            "The plugin failed",
        ),
        HostileFile::new(
            "an invalid version",
            raw("", "", |words| words[2..4].copy_from_slice(&[64, 3])),
            "describe",
            "invalid_component",
            "The file cannot be deployed: its version 'raw' is not a semantic version: unexpected character 'r' while \
             parsing major version number",
        ),
        HostileFile::failing_describe(
            "a gibibyte that does not exist",
            raw("", "", |words| words[5] = GIBIBYTE),
            "The plugin failed",
        ),
        HostileFile::failing_describe(
            "a gibibyte above the memory limit",
            raw("", GROW_BY_A_GIBIBYTE, |words| words[5] = GIBIBYTE),
            "The plugin needs more memory than its limit",
        ),
        HostileFile::new(
            "a route that is declared twice",
            liar(json!({ "routes": [route, route] })),
            "conflicts",
            "route_conflict",
            "The route GET /api/v1/liar is already served",
        ),
        HostileFile::new(
            "a migration that fails in the middle",
            liar(json!({ "migrations": [first_migration(), new_table, twice] })),
            "migrate",
            "migration_failed",
            // The databases name the constraint differently.
            "migration 0003, statement 3: constraint u.a",
        )
        .or("migration 0003, statement 3: constraint u_pkey"),
        HostileFile::new(
            "a first call that traps",
            with_smoke_route("trap"),
            "smoke",
            "smoke_failed",
            &format!("{smoke}The plugin failed. The live release stays live"),
        ),
        HostileFile::new(
            "a first call that loops",
            with_smoke_route("loop"),
            "smoke",
            "smoke_failed",
            &format!("{smoke}The plugin used up its CPU time. The live release stays live"),
        )
        .or(&format!("{smoke}The plugin did not respond in time. The live release stays live")),
    ];
    assert_all_rejected(host, &bad).await;
    // Successful migrations of the same deploy are rolled back too: other migrations with the same names and tables
    // succeed.
    let steps = json!([first_migration(), ["0002", "CREATE TABLE u (a BIGINT)"], ["0003", "INSERT INTO u VALUES (1)"]]);
    host.superuser().deploy(&liar(json!({ "answer": "fixed", "migrations": steps })).0, "").await.ok();
    assert_eq!(host.anonymous().get("/liar").await.text(), "fixed");
    has_all_its_call_slots(host).await;
}

async fn a_descriptor_of_a_gibibyte_is_rejected_under_load(host: &mut TestHost) {
    let summary = raw("", GROW_BY_A_GIBIBYTE, |words| words[5] = GIBIBYTE);
    let permissions = raw("", GROW_BY_A_GIBIBYTE, |words| words[7] = GIBIBYTE / 16);
    let bad = [
        HostileFile::failing_describe("a gibibyte of text", summary, "The plugin failed"),
        HostileFile::failing_describe("a gibibyte of permissions", permissions, "The plugin failed"),
    ];
    assert_all_rejected(host, &bad).await;
    has_all_its_call_slots(host).await;
}
