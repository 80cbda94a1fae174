//! The digest plugin beside the items plugin: an event becomes a row, a schedule becomes jobs, and a job becomes a mail. The
//! host knows neither of the two.

use reqwest::Method;
use serde_json::json;

use super::releases::operate;
use crate::http::metrics::samples;
use crate::support::host::ITEMS;
use crate::support::polling::until;
use crate::support::{Client, Component, TestHost, both};

both!(
    changes_of_items_reach_their_owner_as_one_mail_a_day => Setup::default().with_clock_at("2027-03-01T08:00:00Z"),
    a_digest_that_was_enqueued_before_a_pause_is_sent_after_it,
    a_digest_needs_a_grant_for_the_topics_of_the_other_plugin,
);

/// The grants that the digest plugin needs.
const DIGEST: &str = "grant=auth,email,events,jobs,sql&grant=events.hear=items.*";

async fn deploy(host: &TestHost) {
    host.superuser().deploy(&Component::items().0, ITEMS).await.ok();
    host.superuser().deploy(&Component::digest().0, DIGEST).await.ok();
}

async fn create_item(client: &Client, title: &str) {
    client.post("/items/", &json!({ "title": title })).await.ok();
}

/// Waits until the next digest of a caller has so many changes.
async fn has_changes(client: &Client, count: u64) {
    until(&format!("{count} changes"), async || {
        let changes = client.get("/digest/").await.ok()["changes"].as_u64();
        (changes == Some(count)).then_some(())
    })
    .await;
}

/// Runs the schedule now.
async fn run(host: &TestHost) {
    let enqueued = host.superuser().request(Method::POST, "/schedules/digest/daily/run").send().await.ok();
    let [message, job] = ["message", "job_id"].map(|member| enqueued[member].as_str().unwrap());
    assert!(message.contains(job), "{enqueued}");
}

/// Waits until so many jobs that send a digest have succeeded.
async fn have_sent(host: &TestHost, count: usize) {
    until(&format!("{count} digests to be done"), async || {
        let done = host.superuser().get("/tasks/?plugin=digest&state=done&limit=1000").await.ok();
        let done = done["data"].as_array().unwrap().iter().filter(|task| task["name"] == "send-digest").count();
        (done == count).then_some(())
    })
    .await;
}

/// Waits until the plugin has received so many events.
async fn has_received(host: &TestHost, count: f64) {
    const DELIVERED: &str = r#"wharf_task_outcomes_total{plugin="digest",outcome="delivered"}"#;
    until(&format!("{count} deliveries"), async || {
        let delivered = samples(host.superuser()).await.into_iter().find(|(sample, _)| sample == DELIVERED);
        delivered.filter(|(_, delivered)| *delivered >= count)
    })
    .await;
}

async fn changes_of_items_reach_their_owner_as_one_mail_a_day(host: &TestHost) {
    deploy(host).await;
    let (ann, ben) = (host.verified_user("ann@example.com").await, host.user("ben@example.com").await);
    assert_eq!(ann.request(Method::PUT, "/digest/").send().await.status, 204);
    create_item(&ben, "Not for Ann").await;
    create_item(&ann, "Tea & <b>Milk</b>").await;
    has_changes(&ann, 1).await;
    run(host).await;
    let mail = host.mails().take("ann@example.com").await;
    assert!(mail.subject.starts_with("Your items, "), "{}", mail.subject);
    assert!(mail.html.contains("<li>Tea &#38; &#60;b&#62;Milk&#60;/b&#62;</li>"), "{}", mail.html);
    assert!(!mail.html.contains("Not for Ann"), "{}", mail.html);
    have_sent(host, 1).await;
    has_changes(&ann, 0).await;

    // A second run on the same day sends nothing: a mail and the mark of its changes are one transaction. The changes are for
    // the next day.
    create_item(&ann, "Sugar").await;
    has_changes(&ann, 1).await;
    run(host).await;
    have_sent(host, 2).await;
    assert_eq!(ann.get("/digest/").await.ok()["changes"], 1);
    assert!(host.mails().received().iter().all(|other| other.subject != mail.subject));

    // The plugin hears of the deletion, after three items.
    ann.delete("/users/me").await.ok();
    has_received(host, 4.0).await;
    let root = host.superuser();
    assert_eq!(root.get("/tasks/?plugin=digest&state=dead").await.ok()["data"], json!([]));
    assert_eq!(ben.get("/digest/").await.ok(), json!({ "subscribed": false, "since": null, "changes": 0 }));
}

async fn a_digest_that_was_enqueued_before_a_pause_is_sent_after_it(host: &TestHost) {
    deploy(host).await;
    let ann = host.verified_user("ann@example.com").await;
    ann.request(Method::PUT, "/digest/").send().await;
    operate(host, "digest/pause").await.ok();
    create_item(&ann, "Tea").await;
    operate(host, "digest/resume").await.ok();
    has_changes(&ann, 1).await;
    operate(host, "digest/pause").await.ok();
    run(host).await;
    operate(host, "digest/resume").await.ok();
    assert!(host.mails().take("ann@example.com").await.html.contains("<li>Tea</li>"));
}

async fn a_digest_needs_a_grant_for_the_topics_of_the_other_plugin(host: &TestHost) {
    let refused = host.superuser().deploy(&Component::digest().0, "grant=auth,email,events,jobs,sql").await;
    let detail = refused.has_code(403, "grant_missing");
    assert!(detail.contains("events.hear=items.created items.deleted items.updated"), "{detail}");
}
