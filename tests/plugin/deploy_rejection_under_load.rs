//! Files that explode, each at its stage, deployed over a plugin that is asked without pause: every one is refused with its
//! stage and reason, and the old release answers as if nothing happened.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::compile::{bomb, child, children};
use super::liar;
use crate::support::component::Raw;
use crate::support::files::files;
use crate::support::{Component, Load, Setup, TestHost, both};

both!(
    hostile_files_are_rejected_under_load => tight(),
    a_descriptor_of_a_gibibyte_is_rejected_under_load => tight().with(|config| config.plugins.memory_bytes = 2 << 30),
);

const CLIENTS: usize = 4;
const NEIGHBOURS: usize = 2;

/// As many calls at once as there are clients, and nobody waits for long: one place that is taken too many, or not given
/// back, and a client hears that the plugin is busy.
fn tight() -> Setup {
    // Tells its children apart from those of the other tests.
    static NUMBER: AtomicU64 = AtomicU64::new(1);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    Setup::default().compiling(child()).with(|config| {
        config.plugins.concurrency = CLIENTS;
        config.plugins.total_concurrency = CLIENTS + NEIGHBOURS;
        config.plugins.queue_time = Duration::from_millis(200);
        config.plugins.compile_memory_bytes = (512 << 20) + 16_384 * number;
        // A busy machine is not what is tested.
        config.plugins.compile_cpu_time = Duration::from_secs(600);
        config.plugins.compile_time = Duration::from_secs(600);
    })
}

/// A file that must be refused.
struct Bad {
    what: &'static str,
    component: Component,
    stage: &'static str,
    code: &'static str,
    /// One of them.
    reasons: Vec<String>,
}

impl Bad {
    fn new(what: &'static str, component: Component, stage: &'static str, code: &'static str, reason: &str) -> Self {
        Self { what, component, stage, code, reasons: vec![reason.to_owned()] }
    }

    fn asked(what: &'static str, component: Component, why: &str) -> Self {
        let reason = format!("The file cannot be deployed: it fails when it is asked what it is: {why}");
        Self::new(what, component, "describe", "invalid_component", &reason)
    }

    fn or(mut self, reason: &str) -> Self {
        self.reasons.push(reason.to_owned());
        self
    }
}

/// Where a raw plugin's descriptor lies: name, version, summary and permissions as pointer and length, then whether there is a
/// schema of settings, and that.
const DESCRIPTOR: [u32; 11] = [64, 3, 80, 5, 0, 0, 0, 0, 0, 0, 0];

/// A plugin whose core module is written by hand: `items` are added to it, `first` is what `describe` does first, and
/// `change` is made to its descriptor.
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
    Component::raw(&Raw { core: &core, ..Raw::default() })
}

const GIBIBYTE: u32 = 1 << 30;
const GROW_BY_A_GIBIBYTE: &str = "(drop (memory.grow (i32.const 16384)))";

fn one() -> Value {
    json!(["0001", "CREATE TABLE t (a BIGINT)"])
}

fn smoked(handle: &str) -> Component {
    let route = json!({ "method": "GET", "path": "/", "access": "public", "operation": { "x-wharf-smoke": true } });
    liar(json!({ "handle": handle, "routes": [route], "migrations": [one()] }))
}

/// Deploys each of them while clients ask the plugin and its neighbour.
async fn refuses_all(host: &TestHost, bad: &[Bad]) {
    let superuser = host.superuser();
    superuser.deploy(&liar(json!({ "migrations": [one()] })).0, "grant=sql").await.ok();
    superuser.deploy(&Component::hello().0, "").await.ok();
    let memory_bytes = host.config().plugins.compile_memory_bytes;
    let before = files(&host.config().server.data_dir);
    let load = Load::begin(&host.anonymous(), CLIENTS, "/liar", ["one"]);
    let neighbour = Load::begin(&host.anonymous(), NEIGHBOURS, "/hello/", [r#"{"message":"Hello"}"#]);
    let mut compiled = Vec::new();
    for (number, Bad { what, component, stage, code, reasons }) in bad.iter().enumerate() {
        let answer = superuser.deploy(&component.0, &format!("grant=sql&name=liar&id=case-{number}")).await;
        let problem = answer.problem();
        assert_eq!(problem["code"].as_str(), Some(*code), "{what}: {problem}");
        let reason = problem["detail"].as_str().unwrap();
        assert!(reasons.iter().any(|expected| reason == expected), "{what}: {reason}");
        let job = superuser.get(&format!("/deploys/case-{number}")).await.ok();
        assert_eq!((&job["state"], job["stage"].as_str()), (&json!("failed"), Some(*stage)), "{what}: {job}");
        assert_eq!((job["code"].as_str(), job["reason"].as_str()), (Some(*code), Some(reason)), "{what}");
        assert!(children(memory_bytes).is_empty(), "{what}");
        if *stage != "compile" {
            compiled.push(job["digest"].as_str().unwrap().to_owned());
        }
        load.goes_on().await;
        neighbour.goes_on().await;
    }
    load.end().await;
    neighbour.end().await;
    assert_eq!(superuser.get("/plugins/liar/releases").await.ok()["count"], 1);
    let history = superuser.get("/plugins/liar/history").await.ok();
    assert_eq!(history["count"], 1 + bad.len());
    // Machine code of what compiled is kept; nothing else was left.
    let after = files(&host.config().server.data_dir);
    let kept = |file: &&String| compiled.iter().any(|digest| file.starts_with(&format!("compiled/{digest}-")));
    let left: Vec<_> = after.difference(&before).filter(|file| !kept(file)).collect();
    assert!(left.is_empty() && after.is_superset(&before), "{left:?}");
}

/// All places are free again: as many slow calls as there may be are answered at once, and none waits for another.
async fn has_all_its_call_slots(host: &TestHost) {
    host.superuser().deploy(&liar(json!({ "answer": "slow", "millis": 1_000 })).0, "").await.ok();
    let client = host.anonymous();
    let answers = futures_util::future::join_all((0..CLIENTS).map(|_| client.get("/liar"))).await;
    for answer in answers {
        assert_eq!((answer.status, &*answer.text()), (200, "slow"));
    }
}

async fn hostile_files_are_rejected_under_load(host: &mut TestHost) {
    let memory_bytes = host.config().plugins.compile_memory_bytes;
    let cpu = "it fails when it is asked what it is: The plugin used up its CPU time";
    let smoke = "The release does not pass its first call (GET /api/v1/liar): ";
    let route = json!({ "method": "GET", "path": "/", "access": "public", "operation": {} });
    let new_table = json!(["0002", "CREATE TABLE u (a BIGINT PRIMARY KEY)"]);
    let twice = json!(["0003", "INSERT INTO t VALUES (1); INSERT INTO u VALUES (1); INSERT INTO u VALUES (1)"]);
    let bad = [
        Bad::new(
            "a compile that takes all memory",
            bomb(100_000),
            "compile",
            "compile_limit",
            &format!(
                "The file cannot be deployed: compiling it takes more memory than plugins.compile_memory_bytes allows \
                 ({memory_bytes} bytes)"
            ),
        ),
        Bad::asked(
            "a start function that loops",
            raw("(func $spin (loop $again (br $again))) (start $spin)", "", |_| {}),
            "The plugin did not answer in time",
        )
        // Both are the same time here; which of them ends it is the scheduler's choice.
        .or(&format!("The file cannot be deployed: {cpu}")),
        Bad::new(
            "a proper descriptor without routes",
            raw("", "", |_| {}),
            "describe",
            "invalid_component",
            "The file cannot be deployed: it declares no route",
        ),
        Bad::asked(
            "text that is not UTF-8",
            raw("", "", |words| words[..2].copy_from_slice(&[96, 4])),
            "The plugin failed",
        ),
        Bad::asked("neither some nor none", raw("", "", |words| words[8] = 7), "The plugin failed"),
        Bad::asked("a text beyond memory", raw("", "", |words| words[..2].fill(u32::MAX)), "The plugin failed"),
        Bad::asked("a descriptor beyond memory", raw("", "i32.const -4 return", |_| {}), "The plugin failed"),
        Bad::asked("permissions without end", raw("", "", |words| words[7] = u32::MAX), "The plugin failed"),
        Bad::new(
            "a version that is none",
            raw("", "", |words| words[2..4].copy_from_slice(&[64, 3])),
            "describe",
            "invalid_component",
            "The file cannot be deployed: its version 'raw' is not a semantic version: unexpected character 'r' while \
             parsing major version number",
        ),
        Bad::asked("a gibibyte that is not there", raw("", "", |words| words[5] = GIBIBYTE), "The plugin failed"),
        Bad::asked(
            "a gibibyte that it may not have",
            raw("", GROW_BY_A_GIBIBYTE, |words| words[5] = GIBIBYTE),
            "The plugin needs more memory than it may have",
        ),
        Bad::new(
            "a route that is there twice",
            liar(json!({ "routes": [route, route] })),
            "conflicts",
            "route_conflict",
            "The route GET /api/v1/liar is already served",
        ),
        Bad::new(
            "a migration that fails in the middle",
            liar(json!({ "migrations": [one(), new_table, twice] })),
            "migrate",
            "migration_failed",
            // Each database has a name for it.
            "migration 0003, statement 3: constraint u.a",
        )
        .or("migration 0003, statement 3: constraint u_pkey"),
        Bad::new(
            "a first call that traps",
            smoked("trap"),
            "smoke",
            "smoke_failed",
            &format!("{smoke}The plugin failed. What was live still is"),
        ),
        Bad::new(
            "a first call that loops",
            smoked("loop"),
            "smoke",
            "smoke_failed",
            &format!("{smoke}The plugin used up its CPU time. What was live still is"),
        )
        .or(&format!("{smoke}The plugin did not answer in time. What was live still is")),
    ];
    refuses_all(host, &bad).await;
    // What of the migrations went well is undone with the rest: others of their names, with the same tables, go through.
    let steps = json!([one(), ["0002", "CREATE TABLE u (a BIGINT)"], ["0003", "INSERT INTO u VALUES (1)"]]);
    host.superuser().deploy(&liar(json!({ "answer": "mended", "migrations": steps })).0, "").await.ok();
    assert_eq!(host.anonymous().get("/liar").await.text(), "mended");
    has_all_its_call_slots(host).await;
}

async fn a_descriptor_of_a_gibibyte_is_rejected_under_load(host: &mut TestHost) {
    let summary = raw("", GROW_BY_A_GIBIBYTE, |words| words[5] = GIBIBYTE);
    let permissions = raw("", GROW_BY_A_GIBIBYTE, |words| words[7] = GIBIBYTE / 16);
    let bad = [
        Bad::asked("a gibibyte of text", summary, "The plugin failed"),
        Bad::asked("a gibibyte of permissions", permissions, "The plugin failed"),
    ];
    refuses_all(host, &bad).await;
    has_all_its_call_slots(host).await;
}
