//! CPU: guests that loop for ever, in every place where their code runs.

use super::handwritten_component::{GuestParts, attacker};
use super::{Arena, CountedBy};
use crate::support::Component;
use crate::support::polling::until;

const LOOP: &str = "(loop $again (br $again))";

async fn arena() -> Arena {
    Arena::open(&[], "&limit=cpu_time=300ms&limit=deadline=10m&limit=concurrency=8").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guests_that_never_end_are_ended() {
    let mut arena = arena().await;
    let cases = [("an endless loop in a handler", "endless"), ("endless loops of eight clients", "endless")];
    for (clients, (name, path)) in [1, 8].into_iter().zip(cases) {
        arena
            .attack(name, CountedBy::Limit("cpu_time"), async |arena| {
                for response in arena.flood(clients, path).await {
                    response.has_code(504, "plugin_cpu_limit");
                }
            })
            .await;
    }
    let deep = "endless recursion";
    arena
        .attack(deep, CountedBy::Outcome("trap"), async |arena| {
            for response in arena.flood(8, "recurse").await {
                response.has_code(502, "plugin_trap");
            }
        })
        .await;

    // A function that the host calls after the response, a destructor that it calls for a dropped handle, and work that
    // checks no clock while it lasts.
    let post_return = GuestParts {
        items: r#"(func (export "after") (param i32) (loop $again (br $again)))"#,
        options: r#"(post-return (core func $core "after"))"#,
        ..GuestParts::default()
    };
    let destructor = GuestParts {
        before: r#"(core module $end (func (export "end") (param i32) (loop $again (br $again))))
            (core instance $end (instantiate $end))
            (type $thing (resource (rep i32) (dtor (core func $end "end"))))
            (core func $new (canon resource.new $thing))
            (core func $drop (canon resource.drop $thing))"#,
        with: r#"(with "thing" (instance (export "new" (func $new)) (export "drop" (func $drop))))"#,
        imports: r#"(func $new (import "thing" "new") (param i32) (result i32))
            (func $drop (import "thing" "drop") (param i32))"#,
        ..GuestParts::default()
    };
    let copies = "(drop (memory.grow (i32.const 512)))
        (loop $again
            (memory.copy (i32.const 1048576) (i32.const 0) (i32.const 16777216))
            (br $again))";
    for (name, component) in [
        ("an endless loop after the response", attacker("", &post_return)),
        ("an endless loop in a destructor", attacker("(call $drop (call $new (i32.const 7)))", &destructor)),
        ("endless copies of memory", attacker(copies, &GuestParts::default())),
        ("an endless loop in handwritten code", attacker(LOOP, &GuestParts::default())),
    ] {
        arena.replace_attacker(&component).await;
        arena
            .attack(name, CountedBy::Limit("cpu_time"), async |arena| {
                for response in arena.flood(4, "").await {
                    response.has_code(504, "plugin_cpu_limit");
                }
            })
            .await;
    }
}

/// It loops at one start in four, so that a deploy soon succeeds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_function_that_sometimes_loops_is_ended() {
    let mut arena = arena().await;
    let dice = GuestParts {
        before: r#"(import "wasi:random/random@0.2.6" (instance $random
                (export "get-random-u64" (func (result u64)))))
            (core func $roll (canon lower (func $random "get-random-u64")))"#,
        with: r#"(with "dice" (instance (export "roll" (func $roll))))"#,
        imports: r#"(func $roll (import "dice" "roll") (result i64))"#,
        items: "(func $start
                (if (i64.eqz (i64.and (call $roll) (i64.const 3))) (then (loop $again (br $again)))))
            (start $start)",
        ..GuestParts::default()
    };
    let component = attacker("", &dice).0;
    until("a deploy to succeed", async || {
        let response = arena.superuser.deploy(&component, "name=attacker").await;
        (response.status == 200).then_some(())
    })
    .await;
    arena
        .attack("a start function that sometimes loops", CountedBy::Limit("cpu_time"), async |arena| {
            let mut failed = 0;
            for _ in 0..5 {
                for response in arena.flood(8, "").await {
                    if response.status != 200 {
                        response.has_code(504, "plugin_cpu_limit");
                        failed += 1;
                    }
                }
            }
            assert!((1..40).contains(&failed), "{failed}");
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deploy_that_never_ends_is_rejected() {
    let mut arena = arena().await;
    let start = GuestParts { items: "(func $start (loop $again (br $again))) (start $start)", ..GuestParts::default() };
    let start = attacker("", &start);
    let describe = crate::plugin::liar(serde_json::json!({ "describe": "loop" }));
    for (name, component) in [("an endless start function", start), ("an endless describe", describe)] {
        arena
            .attack(name, CountedBy::Deploy, async |arena| {
                let Component(bytes) = &component;
                let response = arena.superuser.deploy(bytes, "name=other").await;
                let reason = response.has_code(422, "invalid_component");
                // Both limits expire at the same time.
                let ends = ["The plugin used up its CPU time", "The plugin did not respond in time"];
                assert!(ends.iter().any(|end| reason.ends_with(end)), "{reason}");
            })
            .await;
    }
}
