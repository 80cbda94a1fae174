//! The pool of instances: nobody drains it for the others, and what one call leaves in a slot the next does not find.

use super::handwritten_component::{GuestParts, attacker};
use super::{Arena, Counted};
use crate::support::Answer;

/// What `taint` leaves, of a component that is written by hand: eight mebibytes of it.
const TAINT: &str = "(drop (memory.grow (i32.const 128)))
    (memory.fill (i32.const 262144) (i32.const 165) (i32.const 8388608))";
/// Fails if a byte of that is there.
const SCAN: &str = "(drop (memory.grow (i32.const 128)))
    (local.set 0 (i32.const 262144))
    (loop $again
        (if (i32.eq (i32.load8_u (local.get 0)) (i32.const 165)) (then unreachable))
        (local.set 0 (i32.add (local.get 0) (i32.const 64)))
        (br_if $again (i32.lt_u (local.get 0) (i32.const 8650752))))";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_plugin_cannot_take_every_call_slot() {
    // As many as there are for all: what is kept for the neighbour is all that it has.
    // And nobody waits for as long as the attacker stays.
    let settings = [
        ("WHARF_PLUGIN_CONCURRENCY", "16"),
        ("WHARF_PLUGIN_TOTAL_CONCURRENCY", "16"),
        ("WHARF_PLUGIN_QUEUE_TIME", "100ms"),
    ];
    let mut arena = Arena::open(&settings, "&limit=deadline=20s").await;
    arena
        .attack("more calls than there are places", Counted::Limit("concurrency"), async |arena| {
            let answers = arena.flood(60, "sleep/1000").await;
            let busy = answers.iter().filter(|answer| answer.status == 503).count();
            assert!(busy >= 10, "{busy}");
            for answer in answers.iter().filter(|answer| answer.status != 204) {
                answer.has_code(503, "plugin_busy");
                assert!(answer.header("retry-after").is_some(), "{answer:?}");
            }
            assert!(answers.iter().any(|answer| answer.status == 204), "the attacker has places too");
        })
        .await;
}

/// Two plugins, of as many parts as one may have, in every place that they get.
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
    arena.becomes(&component).await;
    arena.superuser.deploy(&component.rebuilt("second").0, &format!("name=second{limits}")).await.ok();
    arena
        .attack("two plugins of as many parts as may be", Counted::Limit("cpu_time"), async |arena| {
            let (answers, more) = tokio::join!(arena.flood(24, ""), flood_of(arena, "second", 24));
            let answers: Vec<Answer> = answers.into_iter().chain(more).collect();
            let ended = answers.iter().filter(|answer| answer.status == 504).count();
            assert!(ended > 8, "{ended}");
            for answer in answers {
                let code = answer.problem()["code"].clone();
                assert!(code == "plugin_cpu_limit" || code == "plugin_busy" || code == "plugin_quarantined", "{code}");
            }
        })
        .await;
    // What was full was the places, and never the pool.
    assert!(!arena.process.log().contains("the instance pool is full"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_is_empty_when_it_is_reused() {
    let mut arena = Arena::open(&[], "&limit=cpu_time=100ms&limit=deadline=3s").await;
    for (name, end, status, outcome) in [
        ("a slot after a trap", "trap", 502, "trap"),
        ("a slot after a timeout", "loop", 504, "limit"),
        ("a slot after an answer", "return", 204, "success"),
    ] {
        arena
            .attack(name, Counted::Outcome(outcome), async |arena| {
                for _ in 0..4 {
                    for answer in arena.flood(4, &format!("taint/8?end={end}")).await {
                        assert_eq!(answer.status, status, "{answer:?}");
                    }
                    for answer in arena.flood(4, "scan/8").await {
                        assert_eq!(answer.text(), "0", "bytes of another call");
                    }
                }
            })
            .await;
    }
    arena
        .attack("a slot after a deadline", Counted::Limit("deadline"), async |arena| {
            for answer in arena.flood(4, "taint/8?end=sleep").await {
                answer.has_code(504, "plugin_deadline");
            }
            for answer in arena.flood(4, "scan/8").await {
                assert_eq!(answer.text(), "0", "bytes of another call");
            }
        })
        .await;
    // One after the other, as what is kept for one component goes to its next call first.
    arena
        .attack("handles of another call", Counted::Outcome("trap"), async |arena| {
            for _ in 0..4 {
                assert_eq!(arena.get("standard-handle/3?own=true").await.text(), "0");
                arena.get("standard-handle/3?own=false").await.has_code(502, "plugin_trap");
            }
        })
        .await;
}

/// As few slots as there can be, so that a component gets one that others had before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_used_by_another_component_is_empty() {
    let settings = [("WHARF_PLUGIN_CONCURRENCY", "2"), ("WHARF_PLUGIN_TOTAL_CONCURRENCY", "2")];
    let mut arena = Arena::open(&settings, "").await;
    // It would see what it looks for.
    arena.becomes(&attacker(&format!("{TAINT} {SCAN}"), &GuestParts::default())).await;
    arena.get("").await.has_code(502, "plugin_trap");
    let taint = attacker(TAINT, &GuestParts::default());
    let scan = attacker(SCAN, &GuestParts::default());
    arena
        .attack("a slot after a swap", Counted::Outcome("success"), async |arena| {
            for round in 0..8 {
                arena.becomes(&taint.rebuilt(&format!("taint {round}"))).await;
                for answer in arena.flood(2, "").await {
                    assert_eq!(answer.status, 200, "{answer:?}");
                }
                arena.becomes(&scan.rebuilt(&format!("scan {round}"))).await;
                for answer in arena.flood(2, "").await {
                    assert_eq!(answer.status, 200, "bytes of another release: {answer:?}");
                }
            }
        })
        .await;
}

async fn flood_of(arena: &Arena, plugin: &str, clients: usize) -> Vec<Answer> {
    let calls = (0..clients).map(|_| {
        let (client, path) = (arena.process.client(), format!("/{plugin}/"));
        async move { client.get(&path).await }
    });
    futures_util::future::join_all(calls).await
}
