//! The pool of instances: nobody drains it for the others, and what one call leaves in a slot the next does not find.

use super::{Arena, Counted};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_plugin_does_not_take_every_place() {
    // As many as there are for all: what is kept for the neighbour is all that it has.
    // And nobody waits for as long as the attacker stays.
    let settings = [
        ("WHARF_PLUGIN_CONCURRENCY", "16"),
        ("WHARF_PLUGIN_TOTAL_CONCURRENCY", "16"),
        ("WHARF_PLUGIN_QUEUE_TIME", "100ms"),
    ];
    let mut arena = Arena::open(&settings, "&limit=deadline=2s").await;
    arena
        .attack("more calls than there are places", Counted::Limit("concurrency"), async |arena| {
            let answers = arena.flood(60, "sleep/1000").await;
            let busy = answers.iter().filter(|answer| answer.status == 503).count();
            assert!(busy >= 10, "{busy}");
            for answer in answers.iter().filter(|answer| answer.status != 204) {
                answer.has_code(503, "plugin_busy");
            }
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_comes_back_empty() {
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
    for answer in arena.flood(4, "taint/8?end=return").await {
        assert_eq!(answer.status, 204);
    }
    arena.becomes(&crate::support::Component::chameleon().rebuilt("swapped")).await;
    arena
        .attack("a slot after a swap", Counted::Outcome("success"), async |arena| {
            for answer in arena.flood(8, "scan/8").await {
                assert_eq!(answer.text(), "0", "bytes of another release");
            }
        })
        .await;
}
