//! A newer node adds columns to the host's tables while an older one serves: a rolling upgrade. The older node names the
//! columns that it reads, and its prepared statements stay valid.

use crate::support::host::{ITEMS, PASSWORD, SUPERUSER};
use crate::support::{Component, TestHost, both};

both!(new_columns_do_not_disturb_an_older_node);

const TABLES: [&str; 10] = [
    "users",
    "sessions",
    "reset_tokens",
    "signing_keys",
    "mail_queue",
    "plugins",
    "releases",
    "artifacts",
    "audit",
    "deploys",
];

async fn new_columns_do_not_disturb_an_older_node(host: &TestHost) {
    let superuser = host.superuser();
    superuser.deploy(&Component::items().0, &format!("{ITEMS}&id=first")).await.ok();
    let requests = async || {
        // Often enough that each connection of the pool has prepared each statement.
        for _ in 0..8 {
            host.anonymous().sign_in(SUPERUSER, PASSWORD).await.ok();
            for path in
                ["/users/", "/users/me/sessions", "/deploys/first", "/plugins/", "/plugins/items/history", "/items/"]
            {
                superuser.get(path).await.ok();
            }
        }
    };
    requests().await;
    for table in TABLES {
        let add = |schema: &str| format!("ALTER TABLE {schema}{table} ADD COLUMN later TEXT");
        host.run_sql(&add(""), &add("wharf.")).await;
    }
    requests().await;
    superuser.deploy(&Component::hello().0, "id=second").await.ok();
    superuser.get("/deploys/second").await.ok();
}
