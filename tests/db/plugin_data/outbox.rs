//! The messages that a plugin leaves in its database: they appear with the commit, in order, and only the host takes
//! them out.

use wharf::config::Config;
use wharf::db::plugin_data::{DataError, PluginData, StatementLimits, Value};

use super::fixture::{Fixture, add, count, migration, name, on_both, sql};
use crate::support::Backend;
use crate::support::polling::until;
use crate::support::postgres::is_lock_waited_for;

on_both! {
    committed_messages_are_there_in_order_until_they_are_forgotten,
    a_transaction_that_is_not_committed_leaves_no_message,
    a_commit_that_a_constraint_refuses_leaves_no_message,
    after_an_error_a_transaction_appends_nothing,
    transactions_of_one_lane_commit_in_the_order_of_their_messages,
    no_id_is_used_twice,
    a_message_may_be_longer_than_a_value_of_the_plugin,
    many_bytes_are_read_in_parts,
    nodes_append_at_the_same_time,
    the_outbox_of_a_plugin_without_a_database_is_empty,
    messages_wait_while_the_plugin_may_not_log_in,
    busy_connections_of_the_plugin_do_not_hold_messages_up => one_connection,
    a_deleted_plugin_has_no_messages,
}

fn one_connection(config: &mut Config) {
    config.plugins.sql_connections = 1;
}

async fn texts(data: &PluginData) -> Vec<String> {
    let messages = data.outbox(&name("shop"), 1_000).await.unwrap();
    assert!(messages.is_sorted_by_key(|message| message.id), "{messages:?}");
    messages.into_iter().map(|message| message.text).collect()
}

async fn ids(data: &PluginData) -> Vec<i64> {
    data.outbox(&name("shop"), 1_000).await.unwrap().into_iter().map(|message| message.id).collect()
}

async fn committed_messages_are_there_in_order_until_they_are_forgotten(fixture: &Fixture) {
    let (shop, database) = (name("shop"), fixture.tables("shop").await);
    assert_eq!(texts(&fixture.data).await, [""; 0], "before the first message");
    let mut transaction = database.begin().await.unwrap();
    transaction.append_message(Some("a"), "one".to_owned()).await.unwrap();
    add(&mut transaction, 1).await.unwrap();
    transaction.append_message(Some("b"), "two".to_owned()).await.unwrap();
    transaction.append_message(None, "three".to_owned()).await.unwrap();
    assert_eq!(texts(&fixture.data).await, [""; 0], "before the commit");
    transaction.commit().await.unwrap();
    assert_eq!(count(&database).await, Value::Integer(1));
    database.append_message(Some("a"), "four".to_owned()).await.unwrap();
    database.append_message(None, "'; é \u{1f980}".to_owned()).await.unwrap();
    let all = ["one", "two", "three", "four", "'; é \u{1f980}"];
    assert_eq!(texts(&fixture.data).await, all);
    assert_eq!(texts(&fixture.data).await, all, "they stay until they are forgotten");
    let first = fixture.data.outbox(&shop, 2).await.unwrap();
    assert_eq!(first.iter().map(|message| message.text.as_str()).collect::<Vec<_>>(), ["one", "two"]);
    let first: Vec<i64> = first.into_iter().map(|message| message.id).collect();
    for _ in 0..2 {
        fixture.data.forget(&shop, &first).await.unwrap();
        assert_eq!(texts(&fixture.data).await, ["three", "four", "'; é \u{1f980}"]);
    }
    fixture.data.close().await;
    assert_eq!(texts(&fixture.data).await, ["three", "four", "'; é \u{1f980}"], "after reopening");
    let rest = ids(&fixture.data).await;
    fixture.data.forget(&shop, &rest).await.unwrap();
    assert_eq!(texts(&fixture.data).await, [""; 0]);
}

async fn a_transaction_that_is_not_committed_leaves_no_message(fixture: &Fixture) {
    let database = fixture.tables("shop").await;
    for by_dropping in [true, false, true, false] {
        let mut transaction = database.begin().await.unwrap();
        transaction.append_message(Some("a"), "gone".to_owned()).await.unwrap();
        add(&mut transaction, 1).await.unwrap();
        if by_dropping {
            drop(transaction);
        } else {
            transaction.rollback().await.unwrap();
        }
        assert_eq!(texts(&fixture.data).await, [""; 0]);
    }
    database.append_message(Some("a"), "there".to_owned()).await.unwrap();
    assert_eq!(texts(&fixture.data).await, ["there"]);
    assert_eq!(count(&database).await, Value::Integer(0));
}

/// On SQLite, the messages and their table were written when the commit fails.
async fn a_commit_that_a_constraint_refuses_leaves_no_message(fixture: &Fixture) {
    const RELATED: &str = "CREATE TABLE parent (id BIGINT PRIMARY KEY);
        CREATE TABLE child (parent BIGINT REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED)";
    fixture.data.migrate(&name("shop"), &[migration("0001_related", RELATED)]).await.unwrap();
    let database = fixture.open("shop").await;
    for _ in 0..2 {
        let mut transaction = database.begin().await.unwrap();
        transaction.execute(sql("INSERT INTO child (parent) VALUES (1)")).await.unwrap();
        transaction.append_message(Some("a"), "gone".to_owned()).await.unwrap();
        let error = transaction.commit().await.unwrap_err();
        assert!(matches!(error, DataError::Constraint(_)), "{error:?}");
        assert_eq!(texts(&fixture.data).await, [""; 0]);
    }
    database.append_message(Some("a"), "there".to_owned()).await.unwrap();
    assert_eq!(texts(&fixture.data).await, ["there"]);
}

async fn after_an_error_a_transaction_appends_nothing(fixture: &Fixture) {
    let database = fixture.tables("shop").await;
    for wrong in ["SELECT nothing", "BEGIN", "INSERT INTO counter (id, n) VALUES ('a', 1)"] {
        let mut transaction = database.begin().await.unwrap();
        transaction.append_message(Some("a"), "gone".to_owned()).await.unwrap();
        transaction.execute(sql(wrong)).await.unwrap_err();
        let error = transaction.append_message(Some("a"), "gone too".to_owned()).await.unwrap_err();
        assert!(matches!(&error, DataError::Invalid(text) if text.contains("rolled back")), "{error:?}");
        assert!(transaction.commit().await.is_err(), "{wrong}");
        assert_eq!(texts(&fixture.data).await, [""; 0], "{wrong}");
    }
}

async fn transactions_of_one_lane_commit_in_the_order_of_their_messages(fixture: &Fixture) {
    let database = fixture.tables("shop").await;
    let mut first = database.begin().await.unwrap();
    first.append_message(Some("a"), "one".to_owned()).await.unwrap();
    let later = async {
        let mut second = database.begin().await.unwrap();
        second.append_message(Some("a"), "three".to_owned()).await.unwrap();
        second.commit().await.unwrap();
        database.append_message(Some("a"), "four".to_owned()).await.unwrap();
    };
    let before = async {
        until_a_lane_is_waited_for(fixture).await;
        first.append_message(Some("a"), "two".to_owned()).await.unwrap();
        first.commit().await.unwrap();
    };
    tokio::join!(later, before);
    assert_eq!(texts(&fixture.data).await, ["one", "two", "three", "four"]);
}

/// On SQLite the second transaction begins after the end of the first.
async fn until_a_lane_is_waited_for(fixture: &Fixture) {
    if fixture.backend == Backend::Sqlite {
        return;
    }
    let mut superuser = fixture.superuser().await;
    until("a transaction to wait for a lane", async || is_lock_waited_for(&mut superuser).await.then_some(())).await;
}

async fn no_id_is_used_twice(fixture: &Fixture) {
    let (shop, database) = (name("shop"), fixture.open("shop").await);
    let mut last = 0;
    for _ in 0..3 {
        database.append_message(None, "x".to_owned()).await.unwrap();
        let new = ids(&fixture.data).await;
        assert!(new.len() == 1 && new[0] > last, "{new:?} after {last}");
        last = new[0];
        fixture.data.forget(&shop, &new).await.unwrap();
        // The host forgets a message again if it lost the response.
        database.append_message(None, "y".to_owned()).await.unwrap();
        fixture.data.forget(&shop, &new).await.unwrap();
        assert_eq!(texts(&fixture.data).await, ["y"]);
        let newer = ids(&fixture.data).await;
        fixture.data.forget(&shop, &newer).await.unwrap();
        last = last.max(newer[0]);
    }
}

async fn a_message_may_be_longer_than_a_value_of_the_plugin(fixture: &Fixture) {
    let database = fixture.tables("shop").await;
    let narrow = database.with_limits(StatementLimits { bytes: 1_000, rows: 1, ..database.limits().clone() });
    let long = "x".repeat(500_000);
    let mut transaction = narrow.begin().await.unwrap();
    transaction.append_message(Some("a"), long.clone()).await.unwrap();
    add(&mut transaction, 1).await.unwrap();
    transaction.append_message(Some("a"), long.clone()).await.unwrap();
    transaction.commit().await.unwrap();
    narrow.append_message(None, long.clone()).await.unwrap();
    let found: Vec<usize> = texts(&fixture.data).await.iter().map(String::len).collect();
    assert_eq!(found, [long.len(); 3]);
    // The limits of the plugin's statements are as before.
    let result = narrow.query(sql("SELECT 1 UNION ALL SELECT 2")).await;
    assert!(matches!(result, Err(DataError::Limit(..))), "{result:?}");
}

async fn many_bytes_are_read_in_parts(fixture: &Fixture) {
    let (shop, database) = (name("shop"), fixture.open("shop").await);
    for number in 0..7 {
        let text = format!("{number}{}", "x".repeat(1 << 20));
        database.append_message(None, text).await.unwrap();
    }
    let mut found = String::new();
    loop {
        let part = fixture.data.outbox(&shop, 1_000).await.unwrap();
        if part.is_empty() {
            break;
        }
        assert!(part.len() <= 4, "{}", part.len());
        found.extend(part.iter().map(|message| message.text.get(..1).unwrap()));
        let ids: Vec<i64> = part.iter().map(|message| message.id).collect();
        fixture.data.forget(&shop, &ids).await.unwrap();
    }
    assert_eq!(found, "0123456");
}

async fn nodes_append_at_the_same_time(fixture: &Fixture) {
    fixture.tables("shop").await;
    let other = fixture.another_node();
    let append = async |data: &PluginData| {
        let database = data.plugin(&name("shop")).await.unwrap();
        for _ in 0..5 {
            database.append_message(Some("a"), "x".to_owned()).await.unwrap();
        }
    };
    tokio::join!(append(&fixture.data), append(&other), append(&fixture.data), append(&other));
    assert_eq!(texts(&fixture.data).await, ["x"; 20]);
    assert_eq!(texts(&other).await, ["x"; 20]);
    other.close().await;
}

async fn the_outbox_of_a_plugin_without_a_database_is_empty(fixture: &Fixture) {
    let shop = name("shop");
    assert_eq!(fixture.data.outbox(&shop, 10).await, Ok(Vec::new()));
    assert_eq!(fixture.data.forget(&shop, &[1, 2]).await, Ok(()));
    assert!(!fixture.data.exists(&shop).await.unwrap());
    fixture.tables("shop").await;
    assert_eq!(fixture.data.outbox(&shop, 10).await, Ok(Vec::new()));
    assert_eq!(fixture.data.forget(&shop, &[1, 2]).await, Ok(()));
}

async fn messages_wait_while_the_plugin_may_not_log_in(fixture: &Fixture) {
    let (shop, database) = (name("shop"), fixture.tables("shop").await);
    database.append_message(Some("a"), "x".to_owned()).await.unwrap();
    let ids = ids(&fixture.data).await;
    fixture.data.forbid_login(&shop).await.unwrap();
    // A file has no logins.
    if fixture.backend == Backend::Postgres {
        for _ in 0..2 {
            assert_eq!(texts(&fixture.data).await, [""; 0]);
            assert_eq!(fixture.data.forget(&shop, &ids).await, Err(DataError::Unavailable));
        }
    }
    fixture.data.allow_login(&shop).await.unwrap();
    assert_eq!(texts(&fixture.data).await, ["x"]);
    fixture.data.forget(&shop, &ids).await.unwrap();
    assert_eq!(texts(&fixture.data).await, [""; 0]);
}

async fn busy_connections_of_the_plugin_do_not_hold_messages_up(fixture: &Fixture) {
    let (shop, database) = (name("shop"), fixture.tables("shop").await);
    let mut transaction = database.begin().await.unwrap();
    // Creates the table while the transaction holds the only connection.
    transaction.append_message(Some("a"), "one".to_owned()).await.unwrap();
    transaction.commit().await.unwrap();
    let mut transaction = database.begin().await.unwrap();
    transaction.append_message(Some("a"), "two".to_owned()).await.unwrap();
    assert_eq!(texts(&fixture.data).await, ["one"]);
    let ids = ids(&fixture.data).await;
    // A file has one writer.
    if fixture.backend == Backend::Postgres {
        fixture.data.forget(&shop, &ids).await.unwrap();
        transaction.commit().await.unwrap();
    } else {
        let (forgotten, committed) = tokio::join!(fixture.data.forget(&shop, &ids), transaction.commit());
        assert_eq!((forgotten, committed), (Ok(()), Ok(())));
    }
    assert_eq!(texts(&fixture.data).await, ["two"]);
}

async fn a_deleted_plugin_has_no_messages(fixture: &Fixture) {
    let (shop, database) = (name("shop"), fixture.tables("shop").await);
    database.append_message(Some("a"), "old".to_owned()).await.unwrap();
    assert_eq!(texts(&fixture.data).await, ["old"]);
    fixture.data.delete(&shop).await.unwrap();
    assert_eq!(texts(&fixture.data).await, [""; 0]);
    assert!(!fixture.data.exists(&shop).await.unwrap());
    assert_eq!(database.append_message(None, "lost".to_owned()).await, Err(DataError::Unavailable));
    fixture.open("shop").await.append_message(Some("a"), "new".to_owned()).await.unwrap();
    assert_eq!(texts(&fixture.data).await, ["new"]);
}

/// Lanes share a fixed number of locks, because the server has one table of locks for all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_transactions_of_the_same_lane_wait_for_each_other() {
    let Some(fixture) = Fixture::new(Backend::Postgres, |_| ()).await else { return };
    let (database, other) = (fixture.tables("shop").await, fixture.tables("other").await);
    let mut first = database.begin().await.unwrap();
    first.append_message(Some("a"), "x".to_owned()).await.unwrap();
    database.append_message(Some("b"), "of another lane".to_owned()).await.unwrap();
    database.append_message(None, "of no lane".to_owned()).await.unwrap();
    other.append_message(Some("a"), "of another plugin".to_owned()).await.unwrap();
    assert_eq!(texts(&fixture.data).await, ["of another lane", "of no lane"]);
    for lane in 0..400 {
        first.append_message(Some(&lane.to_string()), "x".to_owned()).await.unwrap();
    }
    let held = "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) \
                WHERE locktype = 'advisory' AND application_name = 'wharf-plugin' AND a.datname = current_database()";
    let held: i64 = sqlx::query_scalar(held).fetch_one(&mut fixture.superuser().await).await.unwrap();
    assert!((1..=128).contains(&held), "{held}");
    first.commit().await.unwrap();
    assert_eq!(texts(&fixture.data).await.len(), 403);
    fixture.stop().await;
}
