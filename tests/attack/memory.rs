//! Memory: guests that take as much as they can, in their own memory and in the host's.

use std::time::Instant;

use super::handwritten_component::{GuestParts, attacker};
use super::{Arena, CountedBy};
use crate::support::polling::until;
use crate::support::{Component, TestResponse};

async fn arena() -> Arena {
    let limits = "&limit=memory=48MiB&limit=concurrency=8&limit=cpu_time=20s&limit=deadline=60s&grant=log.rate=100";
    Arena::open(&[], limits).await
}

/// Counts the lines with this message in the host's log.
fn lines(arena: &Arena, message: &str) -> usize {
    arena.process.entries().iter().filter(|entry| entry["message"] == message).count()
}

fn assert_all_rejected(responses: &[TestResponse], code: &str) {
    for response in responses {
        response.has_code(502, code);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_memory_is_limited() {
    let mut arena = arena().await;
    arena
        .attack("memory growth above the limit", CountedBy::Limit("memory"), async |arena| {
            assert_all_rejected(&arena.flood(8, "grow/1000").await, "plugin_memory_limit");
        })
        .await;
    arena
        .attack("a response far above the limit", CountedBy::Outcome("limit"), async |arena| {
            assert_all_rejected(&arena.flood(4, "body/9000000").await, "plugin_response_limit");
        })
        .await;
    arena
        .attack("a flood of log lines", CountedBy::Limit("log.rate"), async |arena| {
            let (began, before) = (Instant::now(), lines(arena, "flood"));
            for response in arena.flood(4, "flood/9000").await {
                assert_eq!(response.text(), "9000");
            }
            let written = lines(arena, "flood") - before;
            // The limit is a hundred lines for each second that began meanwhile, the one before included.
            let most = 100 * (3 + usize::try_from(began.elapsed().as_secs()).unwrap());
            assert!((1..=most).contains(&written), "{written} lines");
        })
        .await;
    arena
        .attack(
            "a huge log line",
            CountedBy::Host("wharf_plugin_log_dropped_total{plugin=\"attacker\""),
            async |arena| {
                for response in arena.flood(4, "print/20000000").await {
                    assert_eq!(response.text(), "printed");
                }
                let longest = arena.process.log().lines().map(str::len).max();
                assert!(longest < Some(64 * 1024), "{longest:?}");
            },
        )
        .await;
    arena
        .attack("a huge message", CountedBy::Outcome("trap"), async |arena| {
            for response in arena.flood(4, "log/7000000").await {
                assert_eq!(response.text(), "logged");
            }
            // More than the host copies for one call.
            assert_all_rejected(&arena.flood(4, "log/15000000").await, "plugin_trap");
            let longest = arena.process.log().lines().map(str::len).max();
            assert!(longest < Some(64 * 1024), "{longest:?}");
        })
        .await;
    // The plugin gets no more calls, so the host must report the dropped lines by itself.
    until("all dropped lines to be reported", async || {
        let counted = arena.count(CountedBy::Host("wharf_plugin_log_dropped_total{plugin=\"attacker\"")).await;
        let entries = arena.process.entries().into_iter().filter(|entry| entry["plugin"] == "attacker");
        let reported: f64 = entries.filter_map(|entry| entry["dropped"].as_f64()).sum();
        (reported == counted).then_some(())
    })
    .await;
    arena
        .attack("headers that are never sent", CountedBy::Outcome("trap"), async |arena| {
            // As many handles as there may be, each of them full.
            assert_all_rejected(&arena.flood(8, "standard-fields/3000/15000").await, "plugin_trap");
        })
        .await;
    arena
        .attack("methods of eight megabytes", CountedBy::Limit("memory"), async |arena| {
            assert_all_rejected(&arena.flood(4, "standard-methods/900/8000000").await, "plugin_memory_limit");
        })
        .await;

    let table = GuestParts { items: "(table $t 1 funcref)", ..GuestParts::default() };
    let tables = "(if (i32.eq (table.grow $t (ref.null func) (i32.const 8000000)) (i32.const -1)) (then unreachable))";
    // One memory for each module, so three modules in addition to the first.
    let memories = GuestParts {
        before: r#"(core module $bank
                (memory 1)
                (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0))))
            (core instance $b (instantiate $bank))
            (core instance $c (instantiate $bank))
            (core instance $d (instantiate $bank))"#,
        with: r#"(with "b" (instance $b)) (with "c" (instance $c)) (with "d" (instance $d))"#,
        imports: r#"(func $b (import "b" "grow") (param i32) (result i32))
            (func $c (import "c" "grow") (param i32) (result i32))
            (func $d (import "d" "grow") (param i32) (result i32))"#,
        ..GuestParts::default()
    };
    let grows = "(if (i32.eq (call $b (i32.const 300)) (i32.const -1)) (then unreachable))
        (if (i32.eq (call $c (i32.const 300)) (i32.const -1)) (then unreachable))
        (if (i32.eq (call $d (i32.const 300)) (i32.const -1)) (then unreachable))";
    let name = "several memories above the limit together";
    arena.replace_attacker(&attacker(grows, &memories)).await;
    arena
        .attack(name, CountedBy::Limit("memory"), async |arena| {
            assert_all_rejected(&arena.flood(8, "").await, "plugin_memory_limit");
        })
        .await;

    // A response that lies beyond the guest's memory, or claims an impossible number of headers.
    let gibibyte = "(i32.store (i32.const 532) (i32.const 1073741824))";
    let headers = "(i32.store (i32.const 524) (i32.const 268435455))";
    // Responses within memory that refer to one text many times: a list of it, and a list of lists.
    let many_headers = format!(
        "{} (i32.store (i32.const 520) (i32.const 196608)) (i32.store (i32.const 524) (i32.const 2048))",
        list_stores(196_608, 2_048, &[64, 3, 131_072, 65_536])
    );
    let many_lists = format!(
        "{} {}
        (i32.store (i32.const 512) (i32.const 1)) (i32.store (i32.const 516) (i32.const 400))
        (i32.store (i32.const 520) (i32.const 64)) (i32.store (i32.const 524) (i32.const 3))
        (i32.store (i32.const 528) (i32.const 64)) (i32.store (i32.const 532) (i32.const 3))
        (i32.store (i32.const 536) (i32.const 229376)) (i32.store (i32.const 540) (i32.const 1000))",
        list_stores(196_608, 2_048, &[131_072, 4_096]),
        list_stores(229_376, 1_000, &[196_608, 2_048, 64, 3, 64, 3])
    );
    let handles = GuestParts {
        before: r#"(type $thing (resource (rep i32))) (core func $new (canon resource.new $thing))"#,
        with: r#"(with "thing" (instance (export "new" (func $new))))"#,
        imports: r#"(func $new (import "thing" "new") (param i32) (result i32))"#,
        ..GuestParts::default()
    };
    // Written to the memory of an earlier module: the core module's own memory does not exist yet when its imports are
    // created.
    let randomness = GuestParts {
        before: r#"(import "wasi:random/random@0.2.6" (instance $random
                (export "get-random-bytes" (func (param "len" u64) (result (list u8))))))
            (core module $buffer
                (memory (export "memory") 32)
                (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 0)))
            (core instance $buffer (instantiate $buffer))
            (core func $get (canon lower (func $random "get-random-bytes")
                (memory (core memory $buffer "memory")) (realloc (core func $buffer "realloc"))))"#,
        with: r#"(with "random" (instance (export "get" (func $get))))"#,
        imports: r#"(func $get (import "random" "get") (param i64 i32))"#,
        ..GuestParts::default()
    };
    // The random bytes would fit into memory, and the CPU time would suffice for the handles.
    let random = "(call $get (i64.const 1048576) (i32.const 0))";
    let many = "(loop $again (local.set 0 (call $new (i32.const 1))) (br_if $again (i32.lt_u (local.get 0) (i32.const 20000))))";
    for (name, component) in [
        // A table ends at the limit of the pool's tables, long before its memory matters.
        ("a table of eight million", attacker(tables, &table)),
        ("a text of a gibibyte", attacker(gibibyte, &GuestParts::default())),
        ("a quarter of a billion headers", attacker(headers, &GuestParts::default())),
        ("one text in two thousand headers", attacker(&many_headers, &GuestParts::default())),
        ("one text in a thousand lists of two thousand", attacker(&many_lists, &GuestParts::default())),
        ("a mebibyte of random numbers", attacker(random, &randomness)),
        ("twenty thousand handles", attacker(many, &handles)),
    ] {
        arena.replace_attacker(&component).await;
        arena
            .attack(name, CountedBy::Outcome("trap"), async |arena| {
                assert_all_rejected(&arena.flood(8, "").await, "plugin_trap");
            })
            .await;
    }
}

/// Returns instructions that write a list of `count` equal elements.
fn list_stores(at: usize, count: usize, words: &[u32]) -> String {
    let size = words.len() * 4;
    let stores = words
        .iter()
        .enumerate()
        .map(|(index, word)| format!("(i32.store offset={} (local.get 0) (i32.const {word}))", index * 4));
    format!(
        "(local.set 0 (i32.const {at}))
        (loop $next {}
            (local.set 0 (i32.add (local.get 0) (i32.const {size})))
            (br_if $next (i32.lt_u (local.get 0) (i32.const {}))))",
        stores.collect::<String>(),
        at + count * size
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_component_that_needs_too_many_resources_is_not_deployed() {
    let mut arena = arena().await;
    let many: String = (0..900).map(|number| format!("(core instance $i{number} (instantiate $m))")).collect();
    let instances = Component::text(&format!("(component (core module $m) {many})"));
    let memories: String = (0..5).map(|_| "(memory 1)").collect();
    let memories =
        Component::text(&format!("(component (core module $m {memories}) (core instance (instantiate $m)))"));
    let tables: String = (0..9).map(|_| "(table 1 funcref)").collect();
    let tables = Component::text(&format!("(component (core module $m {tables}) (core instance (instantiate $m)))"));
    for (name, why, component) in [
        ("900 core instances", "core module instances", instances),
        ("too many memories", "memories", memories),
        ("too many tables", "tables", tables),
    ] {
        arena
            .attack(name, CountedBy::Deploy, async |arena| {
                let response = arena.superuser.deploy(&component.0, "name=other").await;
                let reason = response.has_code(422, "invalid_component");
                assert!(reason.contains(why), "{reason}");
            })
            .await;
    }
}
