//! Floods of sign-ins: checking a password takes a core and 64 MiB, and nobody needs an account to ask for it.

use std::net::{IpAddr, Ipv4Addr};

use super::{Arena, CountedBy};
use crate::support::Client;
use crate::support::host::SUPERUSER;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_sign_ins_delays_no_other_request() {
    let mut arena = Arena::open(&[], "").await;
    let counted = CountedBy::Host("wharf_attempts_refused_total");
    arena
        .attack("a flood of sign-ins", counted, async |arena| {
            // From several networks, to one account and to many.
            let attackers = (2..10_u8).map(|last| {
                let from = IpAddr::V4(Ipv4Addr::new(127, 0, 0, last));
                let client = Client::from_address(arena.process.addr, from);
                tokio::spawn(async move {
                    let mut statuses = Vec::new();
                    for index in 0..3 {
                        statuses.push(client.sign_in(SUPERUSER, &format!("guess {index}")).await.status);
                        let other = format!("user{index}-{last}@example.com");
                        statuses.push(client.sign_in(&other, "guess").await.status);
                    }
                    statuses
                })
            });
            for attacker in attackers.collect::<Vec<_>>() {
                for status in attacker.await.unwrap() {
                    assert!([400, 429].contains(&status), "{status}");
                }
            }
        })
        .await;
}
