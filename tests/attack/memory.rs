//! Memory: guests that take all they can, in their own memory and in the host's.

use std::time::Instant;

use super::handwritten_component::{GuestParts, attacker};
use super::{Arena, Counted};
use crate::support::patience::until;
use crate::support::{Answer, Component};

async fn arena() -> Arena {
    let limits = "&limit=memory=48MiB&limit=concurrency=8&limit=cpu_time=20s&limit=deadline=60s&grant=log.rate=100";
    Arena::open(&[], limits).await
}

/// Lines with this message in the host's log.
fn lines(arena: &Arena, message: &str) -> usize {
    arena.process.entries().iter().filter(|entry| entry["message"] == message).count()
}

fn refused(answers: &[Answer], code: &str) {
    for answer in answers {
        answer.has_code(502, code);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_memory_is_limited() {
    let mut arena = arena().await;
    arena
        .attack("growth beyond the limit", Counted::Limit("memory"), async |arena| {
            refused(&arena.flood(8, "grow/1000").await, "plugin_memory_limit");
        })
        .await;
    arena
        .attack("an answer far over the limit", Counted::Outcome("limit"), async |arena| {
            refused(&arena.flood(4, "body/9000000").await, "plugin_response_limit");
        })
        .await;
    arena
        .attack("a flood of log lines", Counted::Limit("log.rate"), async |arena| {
            let (began, before) = (Instant::now(), lines(arena, "flood"));
            for answer in arena.flood(4, "flood/9000").await {
                assert_eq!(answer.text(), "9000");
            }
            let written = lines(arena, "flood") - before;
            // A hundred for each second that began meanwhile.
            let most = 100 * (2 + usize::try_from(began.elapsed().as_secs()).unwrap());
            assert!((1..=most).contains(&written), "{written} lines");
        })
        .await;
    arena
        .attack("a huge log line", Counted::Host("wharf_plugin_log_dropped_total{plugin=\"attacker\""), async |arena| {
            for answer in arena.flood(4, "print/20000000").await {
                assert_eq!(answer.text(), "printed");
            }
            let longest = arena.process.log().lines().map(str::len).max();
            assert!(longest < Some(64 * 1024), "{longest:?}");
        })
        .await;
    arena
        .attack("a huge message", Counted::Outcome("trap"), async |arena| {
            for answer in arena.flood(4, "log/7000000").await {
                assert_eq!(answer.text(), "logged");
            }
            // More than the host copies for one call.
            refused(&arena.flood(4, "log/15000000").await, "plugin_trap");
            let longest = arena.process.log().lines().map(str::len).max();
            assert!(longest < Some(64 * 1024), "{longest:?}");
        })
        .await;
    // Nobody calls the plugin any more, so no line of its own brings that with it.
    until("all that was left out to be told", async || {
        let counted = arena.count(Counted::Host("wharf_plugin_log_dropped_total{plugin=\"attacker\"")).await;
        let entries = arena.process.entries().into_iter().filter(|entry| entry["plugin"] == "attacker");
        let told: f64 = entries.filter_map(|entry| entry["dropped"].as_f64()).sum();
        (told == counted).then_some(())
    })
    .await;
    arena
        .attack("headers that are never sent", Counted::Outcome("trap"), async |arena| {
            // As many handles as there may be, each full.
            refused(&arena.flood(8, "standard-fields/3000/15000").await, "plugin_trap");
        })
        .await;
    arena
        .attack("methods of eight megabytes", Counted::Limit("memory"), async |arena| {
            refused(&arena.flood(4, "standard-methods/900/8000000").await, "plugin_memory_limit");
        })
        .await;

    let table = GuestParts { items: "(table $t 1 funcref)", ..GuestParts::default() };
    let tables = "(if (i32.eq (table.grow $t (ref.null func) (i32.const 8000000)) (i32.const -1)) (then unreachable))";
    // One memory for each module, so three modules beside the first.
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
    let name = "memories that are too large together";
    arena.becomes(&attacker(grows, &memories)).await;
    arena
        .attack(name, Counted::Limit("memory"), async |arena| {
            refused(&arena.flood(8, "").await, "plugin_memory_limit");
        })
        .await;

    // An answer that lies beyond memory, or names more parts than anybody could hold.
    let gibibyte = "(i32.store (i32.const 532) (i32.const 1073741824))";
    let headers = "(i32.store (i32.const 524) (i32.const 268435455))";
    // Answers within memory, of which one text makes far more: a list of it, and a list of lists.
    let many_headers = format!(
        "{} (i32.store (i32.const 520) (i32.const 196608)) (i32.store (i32.const 524) (i32.const 2048))",
        list(196_608, 2_048, &[64, 3, 131_072, 65_536])
    );
    let many_lists = format!(
        "{} {}
        (i32.store (i32.const 512) (i32.const 1)) (i32.store (i32.const 516) (i32.const 400))
        (i32.store (i32.const 520) (i32.const 64)) (i32.store (i32.const 524) (i32.const 3))
        (i32.store (i32.const 528) (i32.const 64)) (i32.store (i32.const 532) (i32.const 3))
        (i32.store (i32.const 536) (i32.const 229376)) (i32.store (i32.const 540) (i32.const 1000))",
        list(196_608, 2_048, &[131_072, 4_096]),
        list(229_376, 1_000, &[196_608, 2_048, 64, 3, 64, 3])
    );
    let handles = GuestParts {
        before: r#"(type $thing (resource (rep i32))) (core func $new (canon resource.new $thing))"#,
        with: r#"(with "thing" (instance (export "new" (func $new))))"#,
        imports: r#"(func $new (import "thing" "new") (param i32) (result i32))"#,
        ..GuestParts::default()
    };
    // Into a memory of a module in front: the core module's own is not there yet when its imports are made.
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
    // There would be room for these, and time for those handles.
    let random = "(call $get (i64.const 1048576) (i32.const 0))";
    let many = "(loop $again (local.set 0 (call $new (i32.const 1))) (br_if $again (i32.lt_u (local.get 0) (i32.const 20000))))";
    for (name, component) in [
        // A table ends where those of the pool do, long before its memory matters.
        ("a table of eight million", attacker(tables, &table)),
        ("a text of a gibibyte", attacker(gibibyte, &GuestParts::default())),
        ("a quarter of a billion headers", attacker(headers, &GuestParts::default())),
        ("one text in two thousand headers", attacker(&many_headers, &GuestParts::default())),
        ("one text in a thousand lists of two thousand", attacker(&many_lists, &GuestParts::default())),
        ("a mebibyte of random numbers", attacker(random, &randomness)),
        ("twenty thousand handles", attacker(many, &handles)),
    ] {
        arena.becomes(&component).await;
        arena
            .attack(name, Counted::Outcome("trap"), async |arena| {
                refused(&arena.flood(8, "").await, "plugin_trap");
            })
            .await;
    }
}

/// Instructions that write so many elements of the same words.
fn list(at: usize, count: usize, words: &[u32]) -> String {
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
        ("more memories than may be", "memories", memories),
        ("more tables than may be", "tables", tables),
    ] {
        arena
            .attack(name, Counted::Deploy, async |arena| {
                let answer = arena.superuser.deploy(&component.0, "name=other").await;
                let reason = answer.has_code(422, "invalid_component");
                assert!(reason.contains(why), "{reason}");
            })
            .await;
    }
}
