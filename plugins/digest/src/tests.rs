//! The digests, tested with the SDK's stand-in for the host.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use crate::{Digest, PLUGIN, send_digest};
use std::time::Duration;
use wharf_sdk::events::{UserCreated, UserDeleted};
use wharf_sdk::serde_json::{Value, json};
use wharf_sdk::sql::{self, params};
use wharf_sdk::testing::{Recipient, TestMail, TestPlugin, user};
use wharf_sdk::{Caller, Uuid};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Returns a user who opted in.
fn recipient(plugin: &TestPlugin, email: &str) -> Caller {
    let caller = user(email);
    assert_eq!(plugin.put("/").by(&caller).send().status(), 204);
    caller
}

/// Delivers an event of an item.
fn item(plugin: &TestPlugin, kind: &str, owner: &Caller, id: Uuid, title: &str) {
    let payload = match kind {
        "deleted" => json!({ "id": id, "owner_id": owner.id }),
        _ => json!({ "id": id, "owner_id": owner.id, "title": title }),
    };
    plugin.deliver(&format!("items.{kind}"), payload).unwrap();
}

/// Lets it be morning: runs the schedule and everything that follows.
fn morning(plugin: &TestPlugin) {
    plugin.run_schedule("daily").result.unwrap();
    run_due(plugin);
}

fn run_due(plugin: &TestPlugin) {
    for attempt in plugin.run_due() {
        assert!(attempt.result.is_ok(), "{attempt:?}");
    }
}

/// Sends the digest of a day, as its job does.
fn send(plugin: &TestPlugin, caller: &Caller, day: &str) {
    plugin.run(|| send_digest::enqueue(&Digest { day: day.to_owned(), user_id: caller.id })).unwrap();
    run_due(plugin);
}

fn state(plugin: &TestPlugin, caller: &Caller) -> Value {
    plugin.get("/").by(caller).send().json()
}

/// Returns what follows the heading.
fn body(mail: &TestMail) -> &str {
    mail.text.split_once("\n\n").unwrap().1
}

fn rows(plugin: &TestPlugin) -> i64 {
    const ROWS: &str = "SELECT (SELECT COUNT(*) FROM recipient) + (SELECT COUNT(*) FROM item_change)";
    plugin.run(|| sql::query_value(ROWS, params![])).unwrap()
}

#[test]
fn a_user_opts_in_and_out_of_their_own_digest() {
    let plugin = TestPlugin::new(&PLUGIN);
    let (alice, bob) = (user("alice@example.com"), user("bob@example.com"));
    let nothing = json!({ "subscribed": false, "since": null, "changes": 0 });
    assert_eq!(state(&plugin, &alice), nothing);

    let put = || plugin.put("/").by(&alice).send().status();
    assert_eq!(put(), 204);
    let subscribed = state(&plugin, &alice);
    assert_eq!((&subscribed["subscribed"], &subscribed["changes"]), (&json!(true), &json!(0)));
    assert_eq!(put(), 204);
    assert_eq!(state(&plugin, &alice), subscribed, "a repetition changes nothing");
    assert_eq!(state(&plugin, &bob), nothing);

    for _ in 0..2 {
        assert_eq!(plugin.delete("/").by(&alice).send().status(), 204);
        assert_eq!(state(&plugin, &alice), nothing);
    }
    for method in ["GET", "PUT", "DELETE"] {
        assert_eq!(plugin.request(method, "/").send().status(), 401, "{method}");
    }
}

#[test]
fn an_api_key_that_belongs_to_nobody_gets_no_digest() {
    let plugin = TestPlugin::new(&PLUGIN);
    let refused = plugin.put("/").by(&user("")).send();
    assert_eq!((refused.status(), refused.problem().code()), (403, "needs_account"));
}

#[test]
fn a_digest_lists_the_changes_of_its_recipient() {
    let plugin = TestPlugin::new(&PLUGIN);
    let (alice, bob) = (recipient(&plugin, "alice@example.com"), recipient(&plugin, "bob@example.com"));
    let (milk, bread) = (Uuid::new_v4(), Uuid::new_v4());
    item(&plugin, "created", &alice, milk, "Milk");
    item(&plugin, "created", &alice, Uuid::new_v4(), "<b>Fish</b> & Chips");
    item(&plugin, "updated", &alice, milk, "Oat milk");
    item(&plugin, "updated", &alice, bread, "Bread");
    item(&plugin, "deleted", &alice, Uuid::new_v4(), "");
    item(&plugin, "created", &bob, Uuid::new_v4(), "Sugar");
    assert_eq!(state(&plugin, &alice)["changes"], 4);
    assert!(plugin.mails().is_empty(), "nothing is sent before the morning");
    morning(&plugin);

    let mails = plugin.mails();
    assert_eq!(mails.len(), 2);
    let mail = mails.iter().find(|mail| mail.to == Recipient::Account(alice.id)).unwrap();
    let day = mail.subject.strip_prefix("Your items, ").unwrap();
    assert_eq!((day.len(), mail.dedup_key.as_deref()), (10, Some(format!("{}/{day}", alice.id).as_str())));
    assert_eq!(
        mail.text,
        format!(
            "Your items, {day}\n\nCreated:\n- <b>Fish</b> & Chips\n- Oat milk\n\nChanged:\n- Bread\n\nDeleted:\n\
             - An older item\n"
        )
    );
    let html = mail.html.as_deref().unwrap();
    assert!(html.contains("<h2>Created</h2>\n<ul>\n<li>&#60;b&#62;Fish&#60;/b&#62; &#38; Chips</li>\n"), "{html}");
    assert!(!html.contains("Sugar") && mail.attachments.is_empty());
    let other = mails.iter().find(|mail| mail.to == Recipient::Account(bob.id)).unwrap();
    assert_eq!(body(other), "Created:\n- Sugar\n");
    assert_eq!(state(&plugin, &alice)["changes"], 0);
}

#[test]
fn each_digest_has_the_changes_since_the_last_one() {
    let plugin = TestPlugin::new(&PLUGIN);
    let alice = recipient(&plugin, "alice@example.com");
    let milk = Uuid::new_v4();
    item(&plugin, "created", &alice, milk, "Milk");
    morning(&plugin);
    for (kind, title) in [("updated", "Oat milk"), ("deleted", "")] {
        plugin.advance(DAY);
        item(&plugin, kind, &alice, milk, title);
        morning(&plugin);
    }
    let mails = plugin.mails();
    let bodies: Vec<&str> = mails.iter().map(body).collect();
    assert_eq!(bodies, ["Created:\n- Milk\n", "Changed:\n- Oat milk\n", "Deleted:\n- Oat milk\n"]);
}

#[test]
fn a_day_without_changes_has_no_mail() {
    let plugin = TestPlugin::new(&PLUGIN);
    let alice = recipient(&plugin, "alice@example.com");
    morning(&plugin);
    send(&plugin, &alice, "2026-11-30");
    plugin.advance(DAY);
    morning(&plugin);
    assert!(plugin.mails().is_empty());
}

#[test]
fn repeated_ticks_and_jobs_of_a_day_send_one_mail() {
    let plugin = TestPlugin::new(&PLUGIN);
    let alice = recipient(&plugin, "alice@example.com");
    item(&plugin, "created", &alice, Uuid::new_v4(), "Milk");
    plugin.run_schedule("daily").result.unwrap();
    plugin.run_schedule("daily").result.unwrap();
    run_due(&plugin);
    morning(&plugin);
    assert_eq!(plugin.mails().len(), 1);

    // More changes, and an operator who repeats an old job: the next day has them.
    plugin.advance(DAY);
    item(&plugin, "created", &alice, Uuid::new_v4(), "Bread");
    send(&plugin, &alice, "2099-01-01");
    item(&plugin, "created", &alice, Uuid::new_v4(), "Sugar");
    for day in ["2099-01-01", "2098-12-31"] {
        send(&plugin, &alice, day);
    }
    assert_eq!(plugin.mails().len(), 2);
    send(&plugin, &alice, "2099-01-02");
    assert_eq!(body(&plugin.mails()[2]), "Created:\n- Sugar\n");
}

#[test]
fn a_repeated_event_is_listed_once() {
    let plugin = TestPlugin::new(&PLUGIN);
    let alice = recipient(&plugin, "alice@example.com");
    let created = |id: Uuid| {
        let payload = json!({ "id": "00000000-0000-4000-8000-000000000001", "owner_id": alice.id, "title": "Milk" });
        plugin.deliver_as(id, "items.created", payload).unwrap();
    };
    let event = Uuid::new_v4();
    created(event);
    created(event);
    assert_eq!(state(&plugin, &alice)["changes"], 1);
    send(&plugin, &alice, "2026-11-29");
    created(event);
    assert_eq!(state(&plugin, &alice)["changes"], 0, "the digest before had it");
    send(&plugin, &alice, "2026-11-30");
    assert_eq!(plugin.mails().len(), 1);
}

#[test]
fn an_event_that_comes_after_the_deletion_of_its_item_changes_nothing() {
    let plugin = TestPlugin::new(&PLUGIN);
    let alice = recipient(&plugin, "alice@example.com");
    let milk = Uuid::new_v4();
    item(&plugin, "created", &alice, milk, "Milk");
    item(&plugin, "deleted", &alice, milk, "");
    // An operator retried a dead letter.
    item(&plugin, "updated", &alice, milk, "Oat milk");
    send(&plugin, &alice, "2026-11-29");
    assert_eq!(body(&plugin.mails()[0]), "Deleted:\n- Milk\n");
    item(&plugin, "updated", &alice, milk, "Oat milk");
    assert_eq!(state(&plugin, &alice)["changes"], 0);
}

#[test]
fn a_title_does_not_look_like_another_part_of_the_mail() {
    let plugin = TestPlugin::new(&PLUGIN);
    let alice = recipient(&plugin, "alice@example.com");
    item(&plugin, "created", &alice, Uuid::new_v4(), "Milk\r\n\nDeleted:\n- Everything\u{2028}");
    morning(&plugin);
    assert_eq!(body(&plugin.mails()[0]), "Created:\n- Milk Deleted: - Everything\n");
}

#[test]
fn a_mail_that_is_refused_marks_nothing_as_sent() {
    let plugin = TestPlugin::new(&PLUGIN);
    let alice = recipient(&plugin, "alice@example.com");
    item(&plugin, "created", &alice, Uuid::new_v4(), "Milk");
    // The key of the mail is too long with it.
    let digest = Digest { day: "1".repeat(200), user_id: alice.id };
    plugin.run(|| send_digest::enqueue(&digest)).unwrap();
    assert!(plugin.run_due()[0].result.is_err());
    assert_eq!(state(&plugin, &alice)["changes"], 1);
    send(&plugin, &alice, "2026-11-30");
    assert_eq!((plugin.mails().len(), &state(&plugin, &alice)["changes"]), (1, &json!(0)));
}

#[test]
fn nothing_is_stored_about_users_who_did_not_opt_in() {
    let plugin = TestPlugin::new(&PLUGIN);
    for kind in ["created", "updated", "deleted"] {
        item(&plugin, kind, &user("bob@example.com"), Uuid::new_v4(), "Milk");
    }
    assert_eq!(rows(&plugin), 0);
    morning(&plugin);
    assert!(plugin.mails().is_empty());
}

#[test]
fn users_who_leave_take_their_rows_with_them() {
    let plugin = TestPlugin::new(&PLUGIN);
    let (alice, bob) = (recipient(&plugin, "alice@example.com"), recipient(&plugin, "bob@example.com"));
    for caller in [&alice, &bob] {
        item(&plugin, "created", caller, Uuid::new_v4(), "Milk");
    }
    // Their digests are enqueued, but not sent.
    plugin.run_schedule("daily").result.unwrap();
    for user_id in [alice.id, bob.id] {
        plugin.run(|| send_digest::enqueue(&Digest { day: "2026-11-30".to_owned(), user_id })).unwrap();
    }
    for _ in 0..2 {
        plugin.deliver("user.deleted", UserDeleted { id: alice.id }).unwrap();
    }
    assert_eq!(rows(&plugin), 2);
    plugin.delete("/").by(&bob).send();
    assert_eq!(rows(&plugin), 0);
    // An event about an item may arrive after its owner is gone.
    item(&plugin, "deleted", &alice, Uuid::new_v4(), "");
    run_due(&plugin);
    assert_eq!((rows(&plugin), plugin.mails().len()), (0, 0));
}

/// The host admitted the request before it deleted the user.
#[test]
fn a_request_of_a_deleted_user_opts_nobody_in() {
    let plugin = TestPlugin::new(&PLUGIN);
    let alice = recipient(&plugin, "alice@example.com");
    // The host may deliver an event more than once.
    for _ in 0..2 {
        plugin.deliver("user.deleted", UserDeleted { id: alice.id }).unwrap();
        let late = plugin.put("/").by(&alice).send();
        assert_eq!((late.status(), late.problem().code()), (404, "user_not_found"));
    }
    recipient(&plugin, "bob@example.com");
    assert_eq!(rows(&plugin), 1);
}

#[test]
fn an_account_that_an_import_brings_back_opts_in_again() {
    let plugin = TestPlugin::new(&PLUGIN);
    let alice = user("alice@example.com");
    plugin.deliver("user.deleted", UserDeleted { id: alice.id }).unwrap();
    plugin.deliver("user.created", UserCreated { id: alice.id }).unwrap();
    assert_eq!(plugin.put("/").by(&alice).send().status(), 204);
    assert_eq!(state(&plugin, &alice)["subscribed"], true);
}

#[test]
fn a_long_list_is_cut_and_its_rest_counted() {
    let plugin = TestPlugin::new(&PLUGIN);
    let alice = recipient(&plugin, "alice@example.com");
    for number in 0..103 {
        item(&plugin, "created", &alice, Uuid::new_v4(), &format!("Item {number:03}"));
    }
    morning(&plugin);
    let mail = &plugin.mails()[0];
    let lines: Vec<&str> = mail.text.lines().filter(|line| line.starts_with("- ")).collect();
    assert_eq!((lines.len(), lines[0], lines[99]), (100, "- Item 000", "- Item 099"));
    assert!(mail.text.ends_with("- Item 099\n\nAnd 3 more.\n"), "{}", mail.text);
    assert!(mail.html.as_deref().unwrap().contains("<p>And 3 more.</p>"));
    assert_eq!(state(&plugin, &alice)["changes"], 0, "the rest is not sent later");
}

#[test]
fn many_recipients_are_served_in_pages() {
    let plugin = TestPlugin::new(&PLUGIN);
    for number in 0..250 {
        let caller = recipient(&plugin, &format!("user{number}@example.com"));
        item(&plugin, "created", &caller, Uuid::new_v4(), "Milk");
    }
    plugin.run_schedule("daily").result.unwrap();
    let waits: Vec<u64> = plugin.jobs().iter().map(|page| page.due_in.as_secs()).collect();
    assert_eq!(waits, [0, 1, 2]);
    run_due(&plugin);
    assert_eq!(plugin.mails().len(), 100);
    plugin.advance(Duration::from_secs(2));
    run_due(&plugin);
    assert_eq!(plugin.mails().len(), 250);
}

#[test]
fn very_many_recipients_are_divided_until_few_are_left() {
    const NUMBERED: &str = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 12000)";
    const ID: &str = "printf('%08x-0000-4000-8000-000000000000', i * 300000)";
    let plugin = TestPlugin::new(&PLUGIN);
    plugin.run(|| {
        let recipients = format!("INSERT INTO recipient (user_id, since) SELECT {ID}, '2026-11-30T06:00:00Z' FROM n");
        sql::execute(&format!("{NUMBERED} {recipients}"), params![]).unwrap();
        let changes = format!(
            "INSERT INTO item_change (user_id, item_id, kind, title, event_id)
            SELECT {ID}, 'i', 'created', 'Milk', 'e' FROM n WHERE i % 2400 = 0"
        );
        sql::execute(&format!("{NUMBERED} {changes}"), params![]).unwrap();
    });
    plugin.run_schedule("daily").result.unwrap();
    let parts = plugin.jobs();
    assert_eq!(parts.len(), 100, "the host bounds the jobs that are enqueued in a second");
    assert_eq!((parts[0].due_in.as_secs(), parts[99].due_in.as_secs()), (0, 198));
    for _ in 0..200 {
        run_due(&plugin);
        assert!(plugin.jobs().len() <= 101);
        plugin.advance(Duration::from_secs(1));
    }
    assert_eq!(plugin.mails().len(), 5);
    assert!(plugin.jobs().is_empty());
}
