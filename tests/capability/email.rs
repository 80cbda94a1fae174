//! `wharf:email`: mails of plugins, received by a mail server. The guest sends them by the interface itself, so that nothing
//! but the host checks them.

use std::time::Duration;

use serde_json::{Value, json};

use crate::http::metrics::samples;
use crate::support::host::{CHAMELEON, SUPERUSER};
use crate::support::polling::until;
use crate::support::{Component, TestHost, both};

both!(
    a_mail_of_a_plugin_reaches_an_account_and_a_granted_address,
    no_member_of_a_mail_becomes_a_header,
    an_account_without_a_verified_address_gets_no_mail,
    a_mail_belongs_to_the_transaction_of_its_plugin,
    a_mail_with_a_key_is_sent_once_in_a_day => Setup::default().with_manual_clock(),
    a_storm_of_mails_is_refused_and_delays_no_mail_of_the_host => Setup::default().with_manual_clock(),
    a_mail_beyond_its_bound_is_refused,
    an_outage_of_the_mail_server_delays_mails_and_loses_none => Setup::default().with_manual_clock(),
    a_revoked_grant_ends_the_mails_that_wait => Setup::default().with_dead_mail_server(),
    a_host_without_a_mail_server_takes_no_mail => Setup::default().without_mail(),
);

/// Deploys the guest with further grants.
async fn deploy(host: &TestHost, grants: &str) {
    let query = format!("{CHAMELEON}&grant=email.domains=partner.example{grants}");
    host.superuser().deploy(&Component::chameleon().0, &query).await.ok();
}

/// Lets the guest send a mail, and returns the outcome of each attempt.
async fn send(host: &TestHost, letter: Value) -> Vec<Value> {
    let outcomes = host.anonymous().post("/chameleon/mail", &letter).await.ok();
    outcomes.as_array().unwrap().clone()
}

/// Lets the guest send a mail that is refused, and returns the error.
async fn refused(host: &TestHost, letter: Value) -> String {
    let outcome = &send(host, letter).await[0];
    outcome["error"].as_str().unwrap_or_else(|| panic!("{outcome}")).to_owned()
}

/// Returns the mails of the plugin that are in the queue, the oldest first.
async fn queued(host: &TestHost) -> Vec<Value> {
    let page = host.superuser().get("/mails/?plugin=chameleon&order=oldest").await.ok();
    page["data"].as_array().unwrap().clone()
}

/// Waits until a sample of the plugin has a value.
async fn until_counted(host: &TestHost, outcome: &str, count: f64) {
    let name = format!("wharf_plugin_mail_outcomes_total{{plugin=\"chameleon\",outcome=\"{outcome}\"}}");
    until(&format!("{count} mails: {outcome}"), async || {
        samples(host.superuser()).await.into_iter().find(|(sample, value)| *sample == name && *value >= count)
    })
    .await;
}

async fn a_mail_of_a_plugin_reaches_an_account_and_a_granted_address(host: &TestHost) {
    deploy(host, "").await;
    let jane = host.verified_user("jane@shop.example").await.get("/users/me").await.ok()["id"].clone();
    let file = json!({ "name": "übersicht \"1\".csv", "content_type": "text/csv", "text": "a\n.\nb\n" });
    let letter = json!({
        "account": jane, "subject": "Ihre Übersicht", "text": "Drei Dinge\r.\rmehr", "html": "<p>Drei Dinge</p>",
        "attachments": [file],
    });
    let sent = send(host, letter).await;
    let mail = host.mails().take("jane@shop.example").await;
    assert_eq!((mail.subject.as_str(), mail.to.as_str()), ("Ihre Übersicht", "jane@shop.example"));
    assert!(mail.from.contains("<noreply@shop.example>"), "{}", mail.from);
    assert_eq!(mail.message_id, format!("<{}@shop.example>", sent[0]["id"].as_str().unwrap()));
    assert!(mail.html.contains("<p>Drei Dinge</p>"), "{}", mail.html);
    assert_eq!(mail.text.lines().collect::<Vec<_>>(), ["Drei Dinge", ".", "mehr"]);
    let [(_, content)] = mail.attachments.as_slice() else { panic!("{:?}", mail.attachments) };
    assert_eq!(content, b"a\n.\nb\n");
    assert!(mail.headers.iter().any(|name| name == "Auto-Submitted"), "{:?}", mail.headers);
    // The plugin has learnt nothing of the account.
    assert_eq!(sent[0].as_object().unwrap().len(), 1);

    let to = |address: &str| json!({ "address": address, "subject": "Order", "text": "One piece" });
    assert!(send(host, to("Orders@PARTNER.example")).await[0]["id"].is_string());
    assert_eq!(host.mails().take("Orders@partner.example").await.text.trim(), "One piece");
    for address in ["jane@shop.example", "a@sub.partner.example", "a@partner.example.evil.example"] {
        let error = refused(host, to(address)).await;
        assert!(error.starts_with("denied: to: the grant does not allow the domain "), "{error}");
    }
    // An account that does not exist looks like any other.
    let nobody = json!({ "account": "5f0b5c3e-58f5-4f7c-8f4e-0c3f7c8b0d11", "subject": "Hello" });
    assert!(send(host, nobody).await[0]["id"].is_string());
    until_counted(host, "undeliverable", 1.0).await;
    assert!(host.mails().received().is_empty());
}

async fn no_member_of_a_mail_becomes_a_header(host: &TestHost) {
    deploy(host, "").await;
    let good = || json!({ "address": "a@partner.example", "subject": "Order" });
    let file = |name: &str, content_type: &str| json!([{ "name": name, "content_type": content_type }]);
    for (member, value, expected) in [
        ("subject", json!("Order\r\nBcc: evil@evil.example"), "invalid: subject: "),
        ("subject", json!("Order\nX: y"), "invalid: subject: "),
        ("subject", json!("Order\rX: y"), "invalid: subject: "),
        ("subject", json!("Order\u{2028}X: y"), "invalid: subject: "),
        ("address", json!("a@partner.example\r\nBcc: evil@evil.example"), "invalid: to: "),
        ("address", json!("a@partner.example>, <evil@evil.example"), "invalid: to: "),
        ("address", json!("\"a\r\nRCPT TO:<evil@evil.example>\"@partner.example"), "invalid: to: "),
        ("account", json!("5f0b5c3e-58f5-4f7c-8f4e-0c3f7c8b0d11\r\n"), "invalid: to: "),
        ("attachments", file("a\r\nBcc: evil@evil.example", "text/csv"), "invalid: attachments.0.name: "),
        ("attachments", file("a\"\r\n\r\n<script>", "text/csv"), "invalid: attachments.0.name: "),
        ("attachments", file("../../a", "text/csv"), "invalid: attachments.0.name: "),
        ("attachments", file("a", "text/csv\r\nX: y"), "invalid: attachments.0.content-type: "),
        ("attachments", file("a", "text/csv; name=\"a\r\nX: y\""), "invalid: attachments.0.content-type: "),
        ("attachments", file("a", "multipart/mixed; boundary=x"), "invalid: attachments.0.content-type: "),
    ] {
        let mut letter = good();
        letter[member] = value;
        let error = refused(host, letter).await;
        assert!(error.starts_with(expected), "{error}");
    }
    // A body is no header, whatever it contains.
    let mut letter = good();
    letter["text"] = json!("\r\n.\r\nMAIL FROM:<evil@evil.example>\r\nBcc: evil@evil.example");
    send(host, letter).await;
    let mail = host.mails().take("a@partner.example").await;
    assert!(mail.text.contains("MAIL FROM:<evil@evil.example>"), "{}", mail.text);
    assert!(!mail.headers.iter().any(|name| name.eq_ignore_ascii_case("bcc")), "{:?}", mail.headers);
    assert!(host.mails().received().is_empty());
}

async fn an_account_without_a_verified_address_gets_no_mail(host: &TestHost) {
    deploy(host, "").await;
    // Anybody can sign up with any address.
    let client = host.user("victim@shop.example").await;
    let id = client.get("/users/me").await.ok()["id"].clone();
    let letter = json!({ "account": id, "subject": "Hello" });
    send(host, letter.clone()).await;
    until_counted(host, "undeliverable", 1.0).await;
    assert!(host.mails().received().is_empty() && queued(host).await.is_empty());

    // A person who sets the password by the link of a mail reads the mail of the address.
    host.anonymous().request(reqwest::Method::POST, "/password-recovery/victim@shop.example").send().await.ok();
    let token = host.mails().take("victim@shop.example").await.reset_token();
    let body = json!({ "token": token, "new_password": "battery staple" });
    host.anonymous().post("/reset-password/", &body).await.ok();
    send(host, letter.clone()).await;
    assert_eq!(host.mails().take("victim@shop.example").await.subject, "Hello");

    let path = format!("/users/{}", id.as_str().unwrap());
    host.superuser().patch(&path, &json!({ "is_active": false })).await.ok();
    send(host, letter.clone()).await;
    until_counted(host, "undeliverable", 2.0).await;
    host.superuser().delete(&path).await.ok();
    send(host, letter).await;
    until_counted(host, "undeliverable", 3.0).await;
    assert!(host.mails().received().is_empty() && queued(host).await.is_empty());
}

async fn a_mail_belongs_to_the_transaction_of_its_plugin(host: &TestHost) {
    deploy(host, "").await;
    let letter =
        |subject: &str, commit: bool| json!({ "address": "a@partner.example", "subject": subject, "commit": commit });
    assert!(send(host, letter("rolled back", false)).await[0]["id"].is_string());
    assert!(send(host, letter("committed", true)).await[0]["id"].is_string());
    // The outbox keeps the order, so the first one would have come before.
    let mail = host.mails().take("a@partner.example").await;
    assert_eq!(mail.subject, "committed");
    assert_eq!(host.anonymous().get("/chameleon/notes").await.ok().as_array().unwrap().len(), 1);
    assert!(host.mails().received().is_empty() && queued(host).await.is_empty());
}

async fn a_mail_with_a_key_is_sent_once_in_a_day(host: &TestHost) {
    deploy(host, "").await;
    let letter =
        |subject: &str, key: &str| json!({ "address": "a@partner.example", "subject": subject, "dedup_key": key });
    for (subject, key) in [("first", "2027-01-15"), ("second", "2027-01-15"), ("third", "2027-01-16")] {
        assert!(send(host, letter(subject, key)).await[0]["id"].is_string());
    }
    for expected in ["first", "third"] {
        assert_eq!(host.mails().take("a@partner.example").await.subject, expected);
    }
    host.clock().advance(Duration::from_secs(24 * 60 * 60));
    send(host, letter("fourth", "2027-01-15")).await;
    assert_eq!(host.mails().take("a@partner.example").await.subject, "fourth");
    assert!(host.mails().received().is_empty());
}

async fn a_storm_of_mails_is_refused_and_delays_no_mail_of_the_host(host: &TestHost) {
    deploy(host, "&grant=email.rate=5").await;
    let storm = json!({ "address": "a@partner.example", "subject": "Storm", "times": 50 });
    let outcomes = send(host, storm.clone()).await;
    let accepted = outcomes.iter().filter(|outcome| outcome["id"].is_string()).count();
    let refused = outcomes.iter().filter(|outcome| outcome["error"] == "limit: rate: 5").count();
    assert_eq!((accepted, refused), (5, 45));
    let test = format!("/utils/test-email/?email_to={SUPERUSER}");
    assert_eq!(host.superuser().request(reqwest::Method::POST, &test).send().await.status, 201);
    host.mails().take(SUPERUSER).await;
    for _ in 0..5 {
        host.mails().take("a@partner.example").await;
    }
    let met = "wharf_plugin_limit_hits_total{plugin=\"chameleon\",release=\"1\",limit=\"email.rate\"}";
    let samples = samples(host.superuser()).await;
    let hits = samples.iter().find(|(name, _)| name == met).map(|(_, value)| *value);
    assert_eq!(hits, Some(45.0), "{samples:?}");
    host.clock().advance(Duration::from_secs(60));
    assert!(send(host, storm).await[0]["id"].is_string());
}

async fn a_mail_beyond_its_bound_is_refused(host: &TestHost) {
    deploy(host, "&grant=email.bytes=4KiB").await;
    let with = |bytes: usize, files: usize| {
        let file = json!({ "name": "a.bin", "content_type": "application/octet-stream", "bytes": bytes });
        json!({ "address": "a@partner.example", "subject": "Files", "attachments": vec![file; files] })
    };
    for letter in [with(5_000, 1), with(1_500, 3), json!({ "subject": "Text", "text": "x".repeat(5_000) })] {
        assert_eq!(refused(host, letter).await, "limit: bytes: 4096");
    }
    assert_eq!(refused(host, with(1, 17)).await, "invalid: attachments: more than 16");
    send(host, with(1_900, 2)).await;
    let mail = host.mails().take("a@partner.example").await;
    let sizes: Vec<usize> = mail.attachments.iter().map(|(_, content)| content.len()).collect();
    assert_eq!(sizes, [1_900, 1_900]);
}

async fn an_outage_of_the_mail_server_delays_mails_and_loses_none(host: &mut TestHost) {
    deploy(host, "").await;
    host.mails().set_down(true);
    for number in 0..3 {
        let letter = json!({ "address": format!("a{number}@partner.example"), "subject": "Order", "commit": true });
        send(host, letter).await;
    }
    let test = format!("/utils/test-email/?email_to={SUPERUSER}");
    assert_eq!(host.superuser().request(reqwest::Method::POST, &test).send().await.status, 201);
    until("an attempt for each mail", async || {
        let page = host.superuser().get("/mails/").await.ok();
        let mails = page["data"].as_array().unwrap();
        let tried = |mail: &Value| mail["attempts"].as_i64() >= Some(1) && mail["reason"].is_string();
        (mails.len() == 4 && mails.iter().all(tried)).then_some(())
    })
    .await;
    // Not even a restart loses one.
    host.restart().await;
    host.mails().set_down(false);
    host.clock().advance(Duration::from_secs(60 * 60));
    for receiver in ["a0@partner.example", "a1@partner.example", "a2@partner.example", SUPERUSER] {
        host.mails().take(receiver).await;
    }
    until("an empty queue", async || {
        host.superuser().get("/mails/").await.ok()["data"].as_array().unwrap().is_empty().then_some(())
    })
    .await;
    assert!(host.mails().received().is_empty());
}

async fn a_revoked_grant_ends_the_mails_that_wait(host: &TestHost) {
    deploy(host, "").await;
    send(host, json!({ "address": "a@partner.example", "subject": "Order" })).await;
    until("the mail in the queue", async || (queued(host).await.len() == 1).then_some(())).await;
    host.superuser().delete("/plugins/chameleon/grants/email").await.ok();
    let mail = &queued(host).await[0];
    assert_eq!((&mail["state"], &mail["reason"]), (&json!("dead"), &json!("the grant 'email' was revoked")));
    host.superuser().delete("/plugins/chameleon?delete_data=true").await.ok();
    assert!(queued(host).await.is_empty());
}

async fn a_host_without_a_mail_server_takes_no_mail(host: &TestHost) {
    deploy(host, "").await;
    let letter = json!({ "address": "a@partner.example", "subject": "Order" });
    assert_eq!(refused(host, letter).await, "unavailable");
}
