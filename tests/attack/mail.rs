//! Mail: a plugin that sends as many mails as it can.

use serde_json::{Value, json};

use super::{Arena, CountedBy};

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
            // The first call fills it. Those that still fit when the database has counted are a few.
            for _ in 0..5 {
                let sent = arena.client.post("/attacker/mail", &letter).await.ok();
                let full = "limit: queue: 65536";
                let refused = |outcome: &Value| outcome["error"].as_str().is_none_or(|error| error == full);
                assert!(sent.as_array().unwrap().iter().all(refused), "{sent}");
            }
            let waiting = arena.superuser.get("/mail-queues").await.ok();
            assert!(waiting["data"][0]["mails"].as_i64() <= Some(500), "{waiting}");
        })
        .await;
}
