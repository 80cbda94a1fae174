//! The directory of accounts: a plugin that reads it without pause.

use super::{Arena, CountedBy};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_look_ups_of_accounts_leave_the_database_to_others() {
    let mut arena = Arena::open(&[], "&limit=host_calls=200").await;
    arena
        .attack("endless look-ups of accounts", CountedBy::Limit("host_calls"), async |arena| {
            let flood = arena.flood(8, "directory/endless");
            let (responses, accounts) = tokio::join!(flood, arena.superuser.get("/users/"));
            for response in responses {
                response.has_code(502, "plugin_host_call_limit");
            }
            assert_eq!(accounts.ok()["count"], 1);
        })
        .await;
}
