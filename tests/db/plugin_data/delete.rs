//! Removing everything a plugin stored.

use std::pin::pin;

use wharf::db::plugin_data::{DataError, Value};

use super::world::{World, count, execute, name, on_both, query};
use crate::support::Backend;

on_both! {
    a_deleted_plugin_starts_empty_again,
    deleting_one_plugin_leaves_the_others,
    a_deletion_that_nobody_waits_for_harms_nothing,
    deletions_at_once_both_succeed,
}

const INSERT: &str = "INSERT INTO item (id, owner, title) VALUES (1, 'a', 'b')";

async fn nothing_is_left(world: &World, plugin: &str) {
    if world.backend == Backend::Sqlite {
        return assert!(!world.dir.path().join("plugins").join(plugin).exists());
    }
    let mut superuser = world.superuser().await;
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

async fn a_deleted_plugin_starts_empty_again(world: &World) {
    for _ in 0..2 {
        let database = world.tables("shop").await;
        execute(&database, INSERT, &[]).await.unwrap();
        world.data.delete(&name("shop")).await.unwrap();
        nothing_is_left(world, "shop").await;
        assert_eq!(query(&database, "SELECT 1", &[]).await, Err(DataError::Unavailable), "a handle from before");
        let error = query(&*world.open("shop").await, "SELECT id FROM item", &[]).await.unwrap_err();
        assert!(matches!(error, DataError::Invalid(_)), "{error:?}");
    }
    assert_eq!(count(&*world.tables("shop").await).await, Value::Integer(0));
}

async fn deleting_one_plugin_leaves_the_others(world: &World) {
    let keep = world.tables("shop-2").await;
    execute(&keep, INSERT, &[]).await.unwrap();
    world.tables("shop").await;
    world.data.delete(&name("shop")).await.unwrap();
    world.data.delete(&name("never-made")).await.unwrap();
    nothing_is_left(world, "never-made").await;
    assert_eq!(count(&keep).await, Value::Integer(1));
}

/// It comes to its end by itself, and the plugin can be used again.
async fn a_deletion_that_nobody_waits_for_harms_nothing(world: &World) {
    for steps in 0..12 {
        let database = world.tables("shop").await;
        execute(&database, INSERT, &[]).await.unwrap();
        let shop = name("shop");
        {
            let mut deletion = pin!(world.data.delete(&shop));
            for _ in 0..steps {
                if futures_util::poll!(&mut deletion).is_ready() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        crate::support::patience::until("the plugin's database to be usable", async || {
            let database = world.data.plugin(&shop).await.ok()?;
            query(&database, "SELECT 1", &[]).await.ok()
        })
        .await;
        // Waits for the one before.
        world.data.delete(&shop).await.unwrap();
    }
}

async fn deletions_at_once_both_succeed(world: &World) {
    for _ in 0..3 {
        execute(&*world.tables("shop").await, INSERT, &[]).await.unwrap();
        let shop = name("shop");
        let (one, two) = tokio::join!(world.data.delete(&shop), world.data.delete(&shop));
        one.unwrap();
        two.unwrap();
        nothing_is_left(world, "shop").await;
    }
}
