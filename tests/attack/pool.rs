//! The pool of instances: one plugin cannot exhaust it for the others, and a call never sees data of an earlier call in
//! the same slot.

use serde_json::Value;

use super::handwritten_component::{GuestParts, attacker};
use super::{Arena, CountedBy};
use crate::support::TestResponse;

/// The handwritten equivalent of `taint`: it fills eight mebibytes.
const TAINT: &str = "(drop (memory.grow (i32.const 128)))
    (memory.fill (i32.const 262144) (i32.const 165) (i32.const 8388608))";
/// Traps if one of those bytes is found.
const SCAN: &str = "(drop (memory.grow (i32.const 128)))
    (local.set 0 (i32.const 262144))
    (loop $again
        (if (i32.eq (i32.load8_u (local.get 0)) (i32.const 165)) (then unreachable))
        (local.set 0 (i32.add (local.get 0) (i32.const 64)))
        (br_if $again (i32.lt_u (local.get 0) (i32.const 8650752))))";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_plugin_cannot_take_every_call_slot() {
    // The attacker may take every slot but the four that are reserved for the neighbour. The queue time is short, so that
    // no call waits until the attacker's calls end.
    let settings = [
        ("WHARF_PLUGIN_CONCURRENCY", "12"),
        ("WHARF_PLUGIN_TOTAL_CONCURRENCY", "16"),
        ("WHARF_PLUGIN_QUEUE_TIME", "100ms"),
    ];
    let mut arena = Arena::open(&settings, "&limit=deadline=20s").await;
    arena
        .attack("more calls than call slots", CountedBy::Limit("concurrency"), async |arena| {
            let responses = arena.flood(60, "sleep/1000").await;
            let busy = responses.iter().filter(|response| response.status == 503).count();
            assert!(busy >= 10, "{busy}");
            for response in responses.iter().filter(|response| response.status != 204) {
                response.has_code(503, "plugin_busy");
                assert!(response.header("retry-after").is_some(), "{response:?}");
            }
            assert!(responses.iter().any(|response| response.status == 204), "the attacker got no call slot");
        })
        .await;
}

/// Two plugins with the maximum number of core instances, each using every call slot that it gets.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_core_instances_do_not_exhaust_the_pool() {
    let settings = [
        ("WHARF_PLUGIN_CONCURRENCY", "16"),
        ("WHARF_PLUGIN_TOTAL_CONCURRENCY", "16"),
        ("WHARF_PLUGIN_QUEUE_TIME", "100ms"),
    ];
    let limits = "&limit=cpu_time=300ms&limit=deadline=60s";
    let mut arena = Arena::open(&settings, limits).await;
    let parts = GuestParts {
        before: "(core module $m (memory 1) (table 1 funcref)) (core module $t (table 1 funcref))
            (core instance (instantiate $m)) (core instance (instantiate $m)) (core instance (instantiate $m))
            (core instance (instantiate $t)) (core instance (instantiate $t)) (core instance (instantiate $t))
            (core module $e)
            (core instance (instantiate $e)) (core instance (instantiate $e)) (core instance (instantiate $e))
            (core instance (instantiate $e)) (core instance (instantiate $e)) (core instance (instantiate $e))",
        ..GuestParts::default()
    };
    let component = attacker("(loop $again (br $again))", &parts);
    arena.replace_attacker(&component).await;
    arena.superuser.deploy(&component.rebuilt("second").0, &format!("name=second{limits}")).await.ok();
    arena
        .attack("two plugins with the maximum number of core instances", CountedBy::Limit("cpu_time"), async |arena| {
            let (responses, more) = tokio::join!(arena.flood(24, ""), flood_of(arena, "second", 24));
            let responses: Vec<TestResponse> = responses.into_iter().chain(more).collect();
            let ended = responses.iter().filter(|response| response.status == 504).count();
            assert!(ended > 8, "{ended}");
            for response in responses {
                let code = response.problem()["code"].clone();
                assert!(code == "plugin_cpu_limit" || code == "plugin_busy" || code == "plugin_quarantined", "{code}");
            }
        })
        .await;
    // The call slots ran out, and the pool never did.
    assert!(!arena.process.log().contains("the instance pool is full"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_is_empty_when_it_is_reused() {
    // Enough to write 8 MiB and to read them on a busy machine.
    let mut arena = Arena::open(&[], "&limit=cpu_time=500ms").await;
    for (name, end, status, outcome) in [
        ("a slot after a trap", "trap", 502, "trap"),
        ("a slot after a timeout", "loop", 504, "limit"),
        ("a slot after a response", "return", 204, "success"),
    ] {
        arena
            .attack(name, CountedBy::Outcome(outcome), async |arena| {
                for _ in 0..4 {
                    for response in arena.flood(4, &format!("taint/8?end={end}")).await {
                        assert_eq!(response.status, status, "{response:?}");
                    }
                    for response in arena.flood(4, "scan/8").await {
                        assert_eq!(response.text(), "0", "the slot has bytes of another call");
                    }
                }
            })
            .await;
    }
    arena.superuser.put("/plugins/attacker/limits?limit=deadline=3s", &Value::Null).await.ok();
    arena
        .attack("a slot after a deadline", CountedBy::Limit("deadline"), async |arena| {
            for response in arena.flood(4, "taint/8?end=sleep").await {
                response.has_code(504, "plugin_deadline");
            }
            for response in arena.flood(4, "scan/8").await {
                assert_eq!(response.text(), "0", "the slot has bytes of another call");
            }
        })
        .await;
    // One call after the other, because a component's next call gets the slot that the component used last.
    arena
        .attack("handles of another call", CountedBy::Outcome("trap"), async |arena| {
            for _ in 0..4 {
                assert_eq!(arena.get("standard-handle/3?own=true").await.text(), "0");
                arena.get("standard-handle/3?own=false").await.has_code(502, "plugin_trap");
            }
        })
        .await;
}

/// As few slots as possible, so that a component gets a slot that another component used.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_used_by_another_component_is_empty() {
    let settings = [("WHARF_PLUGIN_CONCURRENCY", "2"), ("WHARF_PLUGIN_TOTAL_CONCURRENCY", "2")];
    let mut arena = Arena::open(&settings, "").await;
    // Checks that the scan finds the bytes.
    arena.replace_attacker(&attacker(&format!("{TAINT} {SCAN}"), &GuestParts::default())).await;
    arena.get("").await.has_code(502, "plugin_trap");
    let taint = attacker(TAINT, &GuestParts::default());
    let scan = attacker(SCAN, &GuestParts::default());
    arena
        .attack("a slot after a new release", CountedBy::Outcome("success"), async |arena| {
            for round in 0..8 {
                arena.replace_attacker(&taint.rebuilt(&format!("taint {round}"))).await;
                for response in arena.flood(2, "").await {
                    assert_eq!(response.status, 200, "{response:?}");
                }
                arena.replace_attacker(&scan.rebuilt(&format!("scan {round}"))).await;
                for response in arena.flood(2, "").await {
                    assert_eq!(response.status, 200, "the slot has bytes of another release: {response:?}");
                }
            }
        })
        .await;
}

async fn flood_of(arena: &Arena, plugin: &str, clients: usize) -> Vec<TestResponse> {
    let calls = (0..clients).map(|_| {
        let (client, path) = (arena.process.client(), format!("/{plugin}/"));
        async move { client.get(&path).await }
    });
    futures_util::future::join_all(calls).await
}
