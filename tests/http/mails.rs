//! The queue of mails, as operators list and change it.

use reqwest::Method;
use serde_json::{Value, json};

use super::metrics::samples;
use super::text;
use crate::support::host::CHAMELEON;
use crate::support::polling::until;
use crate::support::{Component, TestHost, both};

both! {
    mails_are_listed_shown_and_counted => Setup::default().with_dead_mail_server(),
    dead_mails_are_retried_and_dropped_one_by_one_and_many_at_once => Setup::default().with_dead_mail_server(),
    operators_may_change_mails_and_each_change_is_recorded => Setup::default().with_dead_mail_server(),
}

/// Queues a test mail of the host.
async fn test_mail(host: &TestHost, address: &str) {
    let path = format!("/utils/test-email/?email_to={address}");
    assert_eq!(host.superuser().request(Method::POST, &path).send().await.status, 201);
}

/// Deploys a plugin and lets it send a mail.
async fn plugin_mail(host: &TestHost, subject: &str) {
    let letter = json!({
        "address": "jane@partner.example", "subject": subject, "text": "https://shop.example/?token=secret-link",
        "attachments": [{ "name": "a.csv", "content_type": "text/csv", "text": "abc" }], "dedup_key": subject,
    });
    let sent = host.anonymous().post("/chameleon/mail", &letter).await.ok();
    assert!(sent[0]["id"].is_string(), "{sent}");
}

async fn deploy(host: &TestHost) {
    let query = format!("{CHAMELEON}&grant=email.domains=partner.example");
    host.superuser().deploy(&Component::chameleon().0, &query).await.ok();
}

/// Returns the mails that fit a query, the oldest first.
async fn mails(host: &TestHost, query: &str) -> Vec<Value> {
    let page = host.superuser().get(&format!("/mails/?order=oldest&{query}")).await.ok();
    page["data"].as_array().unwrap().clone()
}

/// Waits until there are as many mails.
async fn until_queued(host: &TestHost, count: usize) {
    until("the mails in the queue", async || (mails(host, "").await.len() == count).then_some(())).await;
}

fn number(mail: &Value) -> i64 {
    mail["seq"].as_i64().unwrap()
}

/// Makes all mails dead letters.
async fn bury(host: &TestHost) {
    let bury = |schema: &str| {
        format!(
            "UPDATE {schema}mail_queue SET state = 'dead', reason = 'out of paper', ended_at = 1, repeat_key = NULL"
        )
    };
    host.run_sql(&bury(""), &bury("wharf.")).await;
}

async fn mails_are_listed_shown_and_counted(host: &TestHost) {
    deploy(host).await;
    for number in 0..3 {
        test_mail(host, &format!("user{number}@example.com")).await;
    }
    for subject in ["One", "Two"] {
        plugin_mail(host, subject).await;
    }
    until_queued(host, 5).await;
    for (query, count) in
        [("plugin=chameleon", 2), ("host=true", 3), ("state=waiting", 5), ("state=dead", 0), ("plugin=nobody", 0)]
    {
        assert_eq!(mails(host, query).await.len(), count, "{query}");
    }
    let root = host.superuser();
    let (mut found, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = root.get(&format!("/mails/?limit=2{cursor}")).await.ok();
        found.extend(page["data"].as_array().unwrap().iter().map(number));
        let Some(next) = page["next"].as_i64() else { break };
        cursor = format!("&cursor={next}");
    }
    let newest_first: Vec<i64> = mails(host, "").await.iter().rev().map(number).collect();
    assert_eq!(found, newest_first);

    // The list names no recipient, and nothing shows a text.
    let list = root.get("/mails/").await;
    assert!(!list.text().contains("example.com") && !list.text().contains("partner.example"), "{}", list.text());
    let of_plugin = &mails(host, "plugin=chameleon").await[0];
    let shown = root.get(&format!("/mails/{}", number(of_plugin))).await;
    assert!(!shown.text().contains("secret-link"), "{}", shown.text());
    let shown = shown.ok();
    assert_eq!((text(&shown, "kind"), text(&shown, "subject")), ("plugin", "One"));
    assert_eq!(shown["to"], json!({ "address": "jane@partner.example" }));
    assert_eq!(shown["attachments"], json!([{ "name": "a.csv", "content_type": "text/csv", "bytes": 3 }]));
    assert_eq!(shown["dedup_key"], "One");
    let of_host = &mails(host, "host=true").await[0];
    assert_eq!((&of_host["kind"], &of_host["plugin"]), (&json!("test"), &Value::Null));
    let shown = root.get(&format!("/mails/{}", number(of_host))).await.ok();
    assert_eq!(shown["to"], json!({ "kind": "test", "email": "user0@example.com" }));
    root.get("/mails/999999").await.has_code(404, "mail_not_found");
    for query in ["limit=0", "state=lost", "cursor=x", "host=maybe"] {
        root.get(&format!("/mails/?{query}")).await.has_code(422, "validation_error");
    }

    let counts = root.get("/mail-queues").await.ok();
    let count = |plugin: Value| {
        let counts = counts["data"].as_array().unwrap();
        counts.iter().find(|count| count["plugin"] == plugin).unwrap()["mails"].clone()
    };
    assert_eq!((count(Value::Null), count(json!("chameleon"))), (json!(3), json!(2)));
    let samples = samples(root).await;
    let value = |name: &str| samples.iter().find(|(sample, _)| sample == name).map(|(_, value)| *value);
    assert_eq!(value("wharf_mail_queue"), Some(3.0));
    assert_eq!(value("wharf_mail_dead"), Some(0.0));
    assert_eq!(value("wharf_plugin_mails{plugin=\"chameleon\",state=\"waiting\"}"), Some(2.0));
    assert!(value("wharf_plugin_mails_oldest_seconds{plugin=\"chameleon\"}").is_some(), "{samples:?}");
}

async fn dead_mails_are_retried_and_dropped_one_by_one_and_many_at_once(host: &TestHost) {
    deploy(host).await;
    for number in 0..3 {
        test_mail(host, &format!("user{number}@example.com")).await;
    }
    for subject in ["One", "Two", "Three"] {
        plugin_mail(host, subject).await;
    }
    until_queued(host, 6).await;
    let root = host.superuser();
    let all: Vec<i64> = mails(host, "").await.iter().map(number).collect();
    // One that waits for another attempt is due at once, unless an attempt runs.
    let retry = format!("/mails/{}/retry", all[0]);
    until("a wait for another attempt", async || {
        let response = root.request(Method::POST, &retry).send().await;
        (response.status == 200).then(|| response.has_message(&format!("Mail {} is due now", all[0])))
    })
    .await;
    let due = json!({ "all": true, "state": "waiting" });
    assert!(root.post("/mails/bulk/retry", &due).await.ok()["changed"].as_i64().unwrap() <= 6);
    // Drops one that waits.
    root.delete(&format!("/mails/{}", all[5])).await.has_message(&format!("Mail {} was dropped", all[5]));
    bury(host).await;
    assert_eq!(mails(host, "state=dead").await.len(), 5);

    root.request(Method::POST, &retry).send().await.has_message(&format!("Mail {} is due now", all[0]));
    assert_eq!(root.get(&format!("/mails/{}", all[0])).await.ok()["state"], "waiting");
    root.request(Method::POST, "/mails/999999/retry").send().await.has_code(404, "mail_not_found");
    for body in [json!({}), json!({ "plugin": "chameleon", "all": true }), json!({ "host": true, "all": true })] {
        root.post("/mails/bulk/retry", &body).await.has_code(422, "validation_error");
        root.post("/mails/bulk/drop", &body).await.has_code(422, "validation_error");
    }
    for path in ["/mails/bulk/retry", "/mails/bulk/drop"] {
        root.post(path, &json!({ "plugin": "nobody" })).await.has_code(404, "plugin_not_found");
    }
    let changed =
        |path: &'static str, filter: Value| async move { root.post(path, &filter).await.ok()["changed"].clone() };
    assert_eq!(changed("/mails/bulk/retry", json!({ "plugin": "chameleon" })).await, 2);
    assert_eq!(changed("/mails/bulk/retry", json!({ "plugin": "chameleon" })).await, 0);
    assert_eq!(changed("/mails/bulk/drop", json!({ "host": true })).await, 2);
    assert_eq!(
        changed("/mails/bulk/drop", json!({ "all": true })).await,
        0,
        "unless the state is named, dead ones are dropped"
    );
    assert_eq!(changed("/mails/bulk/drop", json!({ "all": true, "state": "waiting" })).await, 3);
    assert!(mails(host, "").await.is_empty());
}

async fn operators_may_change_mails_and_each_change_is_recorded(host: &TestHost) {
    let (reader, operator) = (host.user("reader@example.com").await, host.user("operator@example.com").await);
    host.superuser().post("/roles/", &json!({ "name": "readers", "permissions": ["mail:read"] })).await.ok();
    for (client, role) in [(&reader, "readers"), (&operator, "operator")] {
        let id = client.get("/users/me").await.ok()["id"].clone();
        let path = format!("/users/{}/roles", id.as_str().unwrap());
        host.superuser().put(&path, &json!({ "roles": [role] })).await.ok();
        client.get("/mails/").await.ok();
    }
    for number in 0..3 {
        test_mail(host, &format!("user{number}@example.com")).await;
    }
    until_queued(host, 3).await;
    bury(host).await;
    let first = number(&mails(host, "").await[0]);
    reader.delete(&format!("/mails/{first}")).await.has_code(403, "forbidden");
    reader.post("/mails/bulk/drop", &json!({ "all": true })).await.has_code(403, "forbidden");
    operator.request(Method::POST, &format!("/mails/{first}/retry")).send().await.ok();
    operator.post("/mails/bulk/drop", &json!({ "host": true })).await.ok();

    let response = host.superuser().get("/audit/?action=mail.*&order=oldest").await;
    assert!(!response.text().contains("user0@example.com"), "{}", response.text());
    let entries = response.ok()["data"].as_array().unwrap().clone();
    let found: Vec<_> =
        entries.iter().map(|entry| (text(entry, "action"), text(entry, "object"), &entry["detail"])).collect();
    let retried = json!({ "plugin": null, "kind": "test", "state": "dead" });
    let dropped = json!({ "source": "the host", "state": "dead", "mails": 2 });
    let object = format!("mail:{first}");
    assert_eq!(found, [("mail.retry", object.as_str(), &retried), ("mail.drop", "mails", &dropped)]);
    assert!(entries.iter().all(|entry| entry["actor_email"] == "operator@example.com"), "{entries:?}");
}
