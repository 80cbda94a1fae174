//! Mail: a plugin that sends as many mails as it can.

use serde_json::{Value, json};

use super::{Arena, CountedBy};
use crate::support::polling::until;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_mails_ends_at_the_rate_and_the_queue_of_its_plugin() {
    // No mail server listens there, so each mail stays in the queue.
    let settings = [("WHARF_SMTP_URL", "smtp://127.0.0.1:9"), ("WHARF_EMAIL_FROM", "wharf@example.com")];
    let grants = "&grant=email.domains=partner.example&grant=email.queue=64KiB&grant=email.rate=100000";
    let mut arena = Arena::open(&settings, grants).await;
    arena
        .attack("a storm of mails", CountedBy::Limit("email.queue"), async |arena| {
            let letter = json!({
                "address": "a@partner.example", "subject": "Storm", "text": "x".repeat(5_000), "times": 100,
            });
            let refused = |outcome: &Value| outcome["error"] == "limit: queue: 65536";
            // The database counts in the background, and some mails that it has not yet seen still fit.
            until("a full queue", async || {
                let sent = arena.client.post("/attacker/mail", &letter).await.ok();
                let outcomes = sent.as_array().unwrap();
                assert!(outcomes.iter().all(|outcome| outcome["id"].is_string() || refused(outcome)), "{sent}");
                outcomes.iter().all(refused).then_some(())
            })
            .await;
            let waiting = arena.superuser.get("/mail-queues").await.ok();
            assert!(waiting["data"][0]["bytes"].as_i64() <= Some(4 * 65_536), "{waiting}");
        })
        .await;
}
