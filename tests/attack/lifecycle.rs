//! Lifecycle: malformed uploads, and a plugin that fails as fast as it can. Hostile files for each stage of a deploy
//! are in `plugin::deploy_rejection_under_load`.

use super::{Arena, CountedBy};
use crate::support::Component;

/// Returns a pseudo-random number for each number (SplitMix64).
fn scrambled(number: u64) -> u64 {
    let mixed = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^ (mixed >> 27)
}

/// Nests a component in components the given number of times.
fn nested(mut component: Vec<u8>, times: usize) -> Vec<u8> {
    let head = component[..8].to_vec();
    for _ in 0..times {
        let mut length = component.len();
        let mut outer = head.clone();
        // The id of a component section, and its length in LEB128.
        outer.push(4);
        while length >= 128 {
            outer.push(u8::try_from(length % 128).unwrap() | 128);
            length /= 128;
        }
        outer.push(u8::try_from(length).unwrap());
        outer.append(&mut component);
        component = outer;
    }
    component
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_uploads_do_no_harm() {
    let mut arena = Arena::open(&[("WHARF_PLUGIN_UPLOAD_BYTES", "4MiB")], "").await;
    let hello = Component::hello().0;
    let truncated = [8, 100, hello.len() / 2, hello.len() - 1].map(|length| hello[..length].to_vec());
    let random = (0..6_u64).map(|seed| {
        let mut bytes = hello.clone();
        for flip in 0..40 {
            let at = usize::try_from(scrambled(seed << 8 | flip) % hello.len() as u64).unwrap();
            bytes[at] ^= 1 << (flip % 8);
        }
        bytes
    });
    let files = truncated.into_iter().map(|file| ("truncated", file));
    let files = files
        .chain([("nested", nested(hello.clone(), 99)), ("nested deeply", nested(hello.clone(), 10_000))])
        .chain(random.map(|file| ("random", file)));
    for (name, file) in files.collect::<Vec<_>>() {
        let counted = if name == "random" { CountedBy::Host("wharf_deploys_total") } else { CountedBy::Deploy };
        arena
            .attack(name, counted, async |arena| {
                let response = arena.superuser.deploy(&file, "name=other").await;
                // The flipped bits may lie in a name that is never read; then the file is a valid plugin.
                if name != "random" || response.status != 200 {
                    let reason = response.has_code(422, "invalid_component");
                    assert!(!name.starts_with("nested") || reason.contains("20 levels deep"), "{reason}");
                }
            })
            .await;
    }
    arena
        .attack("huge", CountedBy::Host("wharf_http_requests_total{status=\"4xx\"}"), async |arena| {
            arena.superuser.deploy(&vec![0; 5 << 20], "name=other").await.has_code(413, "body_too_large");
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_loop_is_quarantined() {
    let mut arena = Arena::open(&[], "").await;
    arena.replace_attacker(&crate::plugin::liar(serde_json::json!({ "handle": "trap" }))).await;
    arena
        .attack("a crash loop", CountedBy::Outcome("quarantined"), async |arena| {
            let mut quarantined = 0;
            for _ in 0..20 {
                for _ in 0..8 {
                    let response = arena.client.get("/attacker/").await;
                    if response.status == 503 {
                        response.has_code(503, "plugin_quarantined");
                        quarantined += 1;
                    } else {
                        response.has_code(502, "plugin_trap");
                    }
                }
            }
            assert!(quarantined > 0, "the plugin was never quarantined");
        })
        .await;
}
