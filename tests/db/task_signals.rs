//! The commit of a change gives the signal to those that wait for its effect, and to nobody else.

use futures_util::FutureExt as _;
use uuid::Uuid;
use wharf::clock::Timestamp;
use wharf::db::Db;
use wharf::db::task::operator::Filter;
use wharf::db::task::operator::change::{self, Change};
use wharf::db::task::{self, TaskEnd};
use wharf::id::{MailId, UserId};
use wharf::initiator::Initiator;
use wharf::message::{MailRecipient, Message, PluginMail};

use super::tasks::{DELIVERIES, add_plugin, claim, end, event, execute, job, on_both, open, plugin, store};

on_both! {
    messages_wake_only_those_that_work_on_them,
    a_freed_lane_wakes_the_one_that_runs_tasks,
    a_change_by_an_operator_wakes_the_one_that_runs_tasks,
}

/// Returns whether the one that runs tasks was woken since the last time.
fn runs_tasks(db: &Db) -> bool {
    db.signals().tasks_added().now_or_never().is_some()
}

async fn messages_wake_only_those_that_work_on_them(db: &Db) {
    let sends_mails = || db.signals().mails_added().now_or_never().is_some();
    let mail = Message::Mail(PluginMail {
        id: MailId(Uuid::from_u128(1)),
        to: MailRecipient::Account(UserId(Uuid::from_u128(1))),
        subject: "Hello".to_owned(),
        text: "Hello".to_owned(),
        html: None,
        attachments: vec![],
        dedup_key: None,
        request_id: None,
        at: Timestamp(1),
    });
    store(db, "mailer", &[mail]).await;
    assert_eq!((runs_tasks(db), sends_mails()), (false, true));
    store(db, "mailer", &[job(1, None)]).await;
    assert_eq!((runs_tasks(db), sends_mails()), (true, false));
    store(db, "mailer", &[event(1, None)]).await;
    assert_eq!((runs_tasks(db), sends_mails()), (true, false));
}

async fn a_freed_lane_wakes_the_one_that_runs_tasks(db: &Db) {
    add_plugin(db, "mailer").await;
    store(db, "items", &[event(1, Some("a")), event(2, Some("a"))]).await;
    assert!(runs_tasks(db) && !runs_tasks(db));
    execute!(db, "DELETE FROM tasks WHERE state = 'ready' AND lane = $1", "items/a");
    assert_eq!(task::unblock_lanes(db).await.unwrap(), 1);
    assert!(runs_tasks(db));
    assert_eq!(task::unblock_lanes(db).await.unwrap(), 0);
    assert!(!runs_tasks(db));
}

async fn a_change_by_an_operator_wakes_the_one_that_runs_tasks(db: &Db) {
    add_plugin(db, "mailer").await;
    store(db, "items", &[event(1, Some("a")), event(2, Some("a"))]).await;
    let claimed = claim(db, DELIVERIES, 10).await;
    assert!(end(db, &claimed[0], TaskEnd::Dead { reason: "no".to_owned() }).await);
    assert!(runs_tasks(db) && !runs_tasks(db));

    let (by, at) = (Initiator::host(), Timestamp(60));
    change::change_one(db, Change::Retry, (claimed[0].seq, None), &by, at).await.unwrap();
    assert!(runs_tasks(db));
    let filter = Filter { plugin: Some(plugin("mailer")), ..Filter::default() };
    let drop_ready = || change::change_all(db, Change::Drop, &filter, "ready", &by, at);
    assert_eq!(drop_ready().await.unwrap(), 1);
    assert!(runs_tasks(db), "the second delivery is ready now");
    assert_eq!(drop_ready().await.unwrap(), 1);
    assert!(runs_tasks(db));
    assert_eq!(drop_ready().await.unwrap(), 0);
    assert!(!runs_tasks(db));
}
