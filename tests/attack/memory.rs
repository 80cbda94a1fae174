//! Memory: guests that take all they can, in their own memory and in the host's.

use super::raw::{Around, attacker};
use super::{Arena, Counted};
use crate::support::{Answer, Component};

async fn arena() -> Arena {
    let limits = "&limit=memory=48MiB&limit=concurrency=8&limit=cpu_time=2s&limit=deadline=20s&grant=log.rate=100";
    Arena::open(&[], limits).await
}

fn refused(answers: &[Answer], code: &str) {
    for answer in answers {
        answer.has_code(502, code);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_is_bounded_wherever_it_is() {
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
            for answer in arena.flood(4, "flood/9000").await {
                assert_eq!(answer.text(), "9000");
            }
        })
        .await;
    arena
        .attack("a huge log line", Counted::Outcome("success"), async |arena| {
            for answer in arena.flood(4, "print/20000000").await {
                assert_eq!(answer.text(), "printed");
            }
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

    let table = Around { items: "(table $t 1 funcref)", ..Around::default() };
    let tables = "(if (i32.eq (table.grow $t (ref.null func) (i32.const 8000000)) (i32.const -1)) (then unreachable))";
    // One memory for each module, so three modules beside the first.
    let memories = Around {
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
        ..Around::default()
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
    let handles = Around {
        before: r#"(type $thing (resource (rep i32))) (core func $new (canon resource.new $thing))"#,
        with: r#"(with "thing" (instance (export "new" (func $new))))"#,
        imports: r#"(func $new (import "thing" "new") (param i32) (result i32))"#,
        ..Around::default()
    };
    // Into a memory of a module in front: the core module's own is not there yet when its imports are made.
    let randomness = Around {
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
        ..Around::default()
    };
    // There would be room for these, and time for those handles.
    let random = "(call $get (i64.const 1048576) (i32.const 0))";
    let many = "(loop $again (local.set 0 (call $new (i32.const 1))) (br_if $again (i32.lt_u (local.get 0) (i32.const 20000))))";
    for (name, component) in [
        // A table ends where those of the pool do, long before its memory matters.
        ("a table of eight million", attacker(tables, &table)),
        ("a text of a gibibyte", attacker(gibibyte, &Around::default())),
        ("a quarter of a billion headers", attacker(headers, &Around::default())),
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_component_that_needs_too_much_is_not_deployed() {
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
