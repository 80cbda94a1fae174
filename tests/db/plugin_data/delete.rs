//! Deletes all data of a plugin.

use std::pin::pin;

use wharf::db::plugin_data::{DataError, Value};

use super::fixture::{Fixture, count, execute, name, on_both, query};
use crate::support::Backend;

on_both! {
    a_deleted_plugin_starts_empty_again,
    deleting_one_plugin_leaves_the_others,
    an_abandoned_deletion_does_no_harm,
    concurrent_deletions_both_succeed,
}

const INSERT: &str = "INSERT INTO item (id, owner, title) VALUES (1, 'a', 'b')";

async fn assert_nothing_left(fixture: &Fixture, plugin: &str) {
    if fixture.backend == Backend::Sqlite {
        return assert!(!fixture.dir.path().join("plugins").join(plugin).exists());
    }
    let mut superuser = fixture.superuser().await;
    let left: i64 = sqlx::query_scalar(
        "SELECT (SELECT count(*) FROM pg_namespace WHERE nspname = 'plugin_' || $1) \
         + (SELECT count(*) FROM wharf.plugin_database WHERE plugin = $1)
         + (SELECT count(*) FROM pg_roles WHERE rolname LIKE 'wharf\\_' || \
            (SELECT id FROM wharf.plugin_database_instance) || '\\_' || $1)",
    )
    .bind(plugin)
    .fetch_one(&mut superuser)
    .await
    .unwrap();
    assert_eq!(left, 0);
}

async fn a_deleted_plugin_starts_empty_again(fixture: &Fixture) {
    for _ in 0..2 {
        let database = fixture.tables("shop").await;
        execute(&database, INSERT, &[]).await.unwrap();
        fixture.data.delete(&name("shop")).await.unwrap();
        assert_nothing_left(fixture, "shop").await;
        assert_eq!(
            query(&database, "SELECT 1", &[]).await,
            Err(DataError::Unavailable),
            "a handle from before the deletion"
        );
        let error = query(&*fixture.open("shop").await, "SELECT id FROM item", &[]).await.unwrap_err();
        assert!(matches!(error, DataError::Invalid(_)), "{error:?}");
    }
    assert_eq!(count(&*fixture.tables("shop").await).await, Value::Integer(0));
}

async fn deleting_one_plugin_leaves_the_others(fixture: &Fixture) {
    let keep = fixture.tables("shop-2").await;
    execute(&keep, INSERT, &[]).await.unwrap();
    fixture.tables("shop").await;
    fixture.data.delete(&name("shop")).await.unwrap();
    fixture.data.delete(&name("never-made")).await.unwrap();
    assert_nothing_left(fixture, "never-made").await;
    assert_eq!(count(&keep).await, Value::Integer(1));
}

/// The deletion completes by itself, and the plugin can be used again.
async fn an_abandoned_deletion_does_no_harm(fixture: &Fixture) {
    for steps in 0..12 {
        let database = fixture.tables("shop").await;
        execute(&database, INSERT, &[]).await.unwrap();
        let shop = name("shop");
        {
            let mut deletion = pin!(fixture.data.delete(&shop));
            for _ in 0..steps {
                if futures_util::poll!(&mut deletion).is_ready() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        crate::support::polling::until("the plugin's database to be usable", async || {
            let database = fixture.data.plugin(&shop).await.ok()?;
            query(&database, "SELECT 1", &[]).await.ok()
        })
        .await;
        // Waits for the previous deletion.
        fixture.data.delete(&shop).await.unwrap();
    }
}

async fn concurrent_deletions_both_succeed(fixture: &Fixture) {
    for _ in 0..3 {
        execute(&*fixture.tables("shop").await, INSERT, &[]).await.unwrap();
        let shop = name("shop");
        let (one, two) = tokio::join!(fixture.data.delete(&shop), fixture.data.delete(&shop));
        one.unwrap();
        two.unwrap();
        assert_nothing_left(fixture, "shop").await;
    }
}
