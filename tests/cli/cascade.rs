//! The items of a deleted user, in the real program: they are deleted too, also if the process is killed between the
//! response to the deletion and the work that follows.

use serde_json::json;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, SqliteConnection};
use tempfile::TempDir;

use super::{Process, home};
use crate::support::host::{ITEMS, PASSWORD};
use crate::support::polling::until;
use crate::support::postgres::{self, TestDatabase};
use crate::support::{Client, Component};

/// The items of one user.
const TITLES: [&str; 3] = ["one", "two", "three"];

struct Host {
    process: Process,
    superuser: Client,
    database: Option<TestDatabase>,
}

impl Host {
    async fn start(home: TempDir, database: Option<TestDatabase>) -> Self {
        let url = database.as_ref().map(|database| ("WHARF_DATABASE_URL", database.url.as_str()));
        let process = Process::start_with(home, url.as_slice()).await;
        let superuser = process.superuser().await;
        Self { process, superuser, database }
    }

    /// Kills the host, and starts it again after some work on its data.
    async fn restart_after_kill(self, work: impl AsyncFnOnce()) -> Self {
        let home = self.process.kill();
        work().await;
        Self::start(home, self.database).await
    }

    /// Creates an account with items. Returns its client and its id.
    async fn owner(&self, name: &str) -> (Client, String) {
        let email = format!("{name}@example.com");
        let body = json!({ "email": email, "password": PASSWORD });
        let account = self.process.client().post("/users/signup", &body).await.ok();
        let client = self.process.client().signed_in(&email, PASSWORD).await;
        for title in TITLES {
            client.post("/items/", &json!({ "title": title })).await.ok();
        }
        (client, account["id"].as_str().unwrap().to_owned())
    }

    async fn delete_user(&self, id: &str) {
        self.superuser.delete(&format!("/users/{id}")).await.has_message("User deleted successfully");
    }

    /// Waits until everybody together has this number of items.
    async fn items_are(&self, count: usize) {
        let is_so = async || (self.superuser.get("/items/").await.ok()["count"] == count).then_some(());
        until("the items to be deleted", is_so).await;
    }

    /// Returns the number of deliveries to the plugin that are in this state.
    async fn deliveries(&self, state: &str) -> usize {
        let list = self.superuser.get(&format!("/tasks/?plugin=items&kind=delivery&state={state}")).await.ok();
        list["data"].as_array().unwrap().len()
    }

    /// Waits until no delivery to the plugin waits or runs.
    async fn is_idle(&self) {
        let is_so = async || {
            let open = self.deliveries("ready").await + self.deliveries("running").await;
            (open == 0).then_some(())
        };
        until("the deliveries to end", is_so).await;
    }
}

/// A lock that lets the host read the items and delete none.
enum Lock {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

impl Lock {
    async fn take(host: &Host) -> Self {
        match &host.database {
            None => {
                let file = host.process.home.path().join("data/plugins/items/data.sqlite");
                let mut connection = SqliteConnection::connect(&format!("sqlite://{}", file.display())).await.unwrap();
                connection.execute("BEGIN IMMEDIATE").await.unwrap();
                Self::Sqlite(connection)
            }
            Some(database) => {
                let mut connection = postgres::connect(database).await;
                connection.execute("BEGIN; LOCK TABLE plugin_items.item IN EXCLUSIVE MODE").await.unwrap();
                Self::Postgres(connection)
            }
        }
    }

    /// Releases the lock of a host that was killed, and returns the number of items.
    async fn release(self) -> i64 {
        match self {
            Self::Sqlite(mut connection) => {
                let count = sqlx::query_scalar("SELECT count(*) FROM item").fetch_one(&mut connection).await.unwrap();
                connection.close().await.unwrap();
                count
            }
            Self::Postgres(mut connection) => {
                // The server goes on with the statement of a client that does not exist any more.
                let end = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity \
                           WHERE application_name = 'wharf-plugin' AND datname = current_database()";
                connection.execute(end).await.unwrap();
                let count = "SELECT count(*) FROM plugin_items.item";
                let count = sqlx::query_scalar(count).fetch_one(&mut connection).await.unwrap();
                connection.close().await.unwrap();
                count
            }
        }
    }
}

async fn items_are_deleted_with_their_user(database: Option<TestDatabase>) {
    let mut host = Host::start(home(), database).await;
    host.superuser.deploy(&Component::items().0, ITEMS).await.ok();
    let (keeper, _) = host.owner("keeper").await;

    // By an operator, and by the user.
    let (_, jane) = host.owner("jane").await;
    host.delete_user(&jane).await;
    host.items_are(TITLES.len()).await;
    let (joe, _) = host.owner("joe").await;
    joe.delete("/users/me").await.has_message("User deleted successfully");
    host.items_are(TITLES.len()).await;

    // The host is killed while it tries to delete the items.
    let (_, ann) = host.owner("ann").await;
    host.is_idle().await;
    let lock = Lock::take(&host).await;
    host.delete_user(&ann).await;
    until("the delivery to run", async || (host.deliveries("running").await == 1).then_some(())).await;
    host = host.restart_after_kill(async || assert_eq!(lock.release().await, 6, "the items were there")).await;
    host.items_are(TITLES.len()).await;

    // The host is killed right after the response, whether or not the work has begun.
    for round in 0..3 {
        let (_, id) = host.owner(&format!("user{round}")).await;
        host.delete_user(&id).await;
        host = host.restart_after_kill(async || ()).await;
        host.items_are(TITLES.len()).await;
    }

    let list = host.process.client().with_token(keeper.token()).get("/items/").await.ok();
    assert_eq!(list["count"], TITLES.len(), "the items of others stay");
    assert_eq!(host.deliveries("dead").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_items_of_a_deleted_user_are_deleted_on_sqlite() {
    items_are_deleted_with_their_user(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_items_of_a_deleted_user_are_deleted_on_postgres() {
    let Some(database) = postgres::database().await else { return };
    items_are_deleted_with_their_user(Some(database)).await;
}

/// SQLite has one writer at a time, so only PostgreSQL runs both at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_item_that_is_created_while_its_user_is_deleted_does_not_stay() {
    let Some(database) = postgres::database().await else { return };
    let mut creating = postgres::connect(&database).await;
    let host = Host::start(home(), Some(database)).await;
    host.superuser.deploy(&Component::items().0, ITEMS).await.ok();
    let (_, ann) = host.owner("ann").await;
    // The plugin does this for a request that was admitted before the deletion.
    let create = format!(
        "BEGIN ISOLATION LEVEL SERIALIZABLE;
        INSERT INTO plugin_items.item (id, title, owner_id, created_at) SELECT 'late', 'late', '{ann}', ''
        WHERE NOT EXISTS (SELECT 1 FROM plugin_items.departed_owner WHERE id = '{ann}')"
    );
    sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut creating).await.unwrap();
    host.delete_user(&ann).await;
    host.items_are(0).await;
    let refused = creating.execute("COMMIT").await.unwrap_err();
    let code = refused.as_database_error().and_then(|error| error.code());
    assert_eq!(code.as_deref(), Some("40001"), "a conflict of serializable transactions: {refused}");
    host.items_are(0).await;
}
