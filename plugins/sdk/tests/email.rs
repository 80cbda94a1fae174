//! Mails, tested through the stand-in for the host.

use askama::Template;
use std::fmt;
use std::time::Duration;
use wharf_sdk::email::{self, Attachment, Message};
use wharf_sdk::prelude::*;
use wharf_sdk::sql;
use wharf_sdk::testing::{Recipient, TestPlugin, user};

plugin! {
    name: "office",
    summary: "Writes letters",
    routes: [write],
    jobs: [greet],
}

#[derive(Template)]
#[template(source = "<p>Dear {{ name }}</p>", ext = "html")]
struct Letter<'a> {
    name: &'a str,
}

#[post("/")]
fn write(caller: Caller, Text(subject): Text) -> Result<()> {
    Message::to_account(caller.id).subject(subject).text("Hello").send()?;
    Ok(())
}

#[job(retries = 0)]
fn greet(job: Job<String>) -> Result<(), email::Error> {
    Message::to_address(&job.payload).subject("Good morning").text("Hello").send().map(|_| ())
}

const ADDRESS: &str = "bob@example.com";

/// Returns the plugin of an operator who allows mails to `example.com`.
fn office() -> TestPlugin {
    TestPlugin::new(&PLUGIN).mail_domain("example.com")
}

fn subjects(plugin: &TestPlugin) -> Vec<String> {
    plugin.mails().into_iter().map(|mail| mail.subject).collect()
}

#[test]
fn a_mail_has_what_the_plugin_put_into_it() {
    let plugin = office();
    let message = Message::to_address(ADDRESS)
        .subject("Letter 1")
        .text("Dear <Bob>")
        .html(Letter { name: "<Bob>" })
        .attach("letter.txt", "text/plain", "Dear Bob")
        .dedup_key(1);
    let id = plugin.run(|| email::send(message)).unwrap();

    let mails = plugin.mails();
    assert_eq!(mails.len(), 1);
    let mail = &mails[0];
    assert_eq!((mail.id, &mail.to), (id, &Recipient::Address(ADDRESS.to_owned())));
    assert_eq!((mail.subject.as_str(), mail.text.as_str()), ("Letter 1", "Dear <Bob>"));
    assert_eq!(mail.html.as_deref(), Some("<p>Dear &#60;Bob&#62;</p>"));
    let attachment = Attachment {
        name: "letter.txt".to_owned(),
        content_type: "text/plain".to_owned(),
        content: b"Dear Bob".to_vec(),
    };
    assert_eq!((mail.attachments.as_slice(), mail.dedup_key.as_deref()), (&[attachment][..], Some("1")));
}

#[test]
fn a_mail_to_an_account_needs_no_domain() {
    let plugin = TestPlugin::new(&PLUGIN);
    let alice = user("alice@example.com");
    let write = |subject: &str| plugin.post("/").by(&alice).body(subject).send();
    assert_eq!(write("Hello").status(), 204);
    assert_eq!(plugin.mails()[0].to, Recipient::Account(alice.id));
    assert_eq!(write("Hello\r\nBcc: eve@example.com").problem().code(), "plugin_error");
    assert!(plugin.log()[0].message.contains("email: subject: "), "{:?}", plugin.log());
    assert_eq!(plugin.mails().len(), 1);
}

#[test]
fn a_mail_to_an_address_needs_a_domain_that_is_allowed() {
    let plugin = office();
    let send = |address: &str| plugin.run(|| Message::to_address(address).subject("Hello").text("Hello").send());
    send("alice@EXAMPLE.com").unwrap();
    for denied in [
        "alice@example.org",
        "alice@mail.example.com",
        "alice@notexample.com",
        "alice%example.org@example.com",
        "example.org!alice@example.com",
    ] {
        assert!(matches!(send(denied), Err(email::Error::Denied(_))), "{denied}");
    }
    for invalid in ["", "alice", "@example.com", "alice@", "alice@example.com\r\nbcc: eve@example.com"] {
        assert!(matches!(send(invalid), Err(email::Error::Invalid(reason)) if reason.starts_with("to: ")), "{invalid}");
    }
    assert_eq!(plugin.mails().len(), 1);
}

#[test]
fn an_address_is_one_that_the_host_takes() {
    // Also if an operator allowed these domains.
    let plugin = office().mail_domain("localhost").mail_domain("example.test").mail_domain("a..com");
    let send = |address: &str| plugin.run(|| Message::to_address(address).subject("Hello").text("Hello").send());
    for invalid in ["al@localhost", "al@example.test", "al@a..com", ".al@example.com", "a..l@example.com"] {
        assert!(matches!(send(invalid), Err(email::Error::Invalid(_))), "{invalid}");
    }
    assert!(matches!(send(&format!("{}@example.com", "x".repeat(65))), Err(email::Error::Invalid(_))));
    assert!(plugin.mails().is_empty());
    send("o'neil+1@example.com").unwrap();
}

#[test]
fn no_member_of_a_mail_begins_another_header() {
    let plugin = office();
    let refused = |message: Message| match plugin.run(|| message.send()) {
        Err(email::Error::Invalid(reason)) => reason,
        other => panic!("{other:?}"),
    };
    let letter = || Message::to_address(ADDRESS).subject("Hello").text("Hello");
    for text in ["Hello\r\nBcc: eve@example.com", "Hello\nthere", "Hello\rthere", "Hello\0", "\u{85}"] {
        assert!(refused(letter().subject(text)).starts_with("subject: "), "{text:?}");
        assert!(refused(letter().attach(text, "text/plain", "")).starts_with("attachments.0.name: "), "{text:?}");
        assert!(refused(letter().attach("a", text, "")).starts_with("attachments.0.content-type: "), "{text:?}");
    }
    assert!(refused(letter().dedup_key("k".repeat(201))).starts_with("dedup-key: "));
    assert!(plugin.mails().is_empty());
}

#[test]
fn a_mail_that_the_host_refuses_is_refused_in_a_test() {
    let plugin = office();
    let letter = || Message::to_address(ADDRESS).subject("Hello").text("Hello");
    let attached = |name: &str, content_type: &str| letter().attach(name, content_type, "");
    let name = "attachments.0.name: ";
    let content_type = "attachments.0.content-type: ";
    for (message, reason) in [
        (letter().subject(" "), "subject: empty"),
        (letter().subject("x".repeat(251)), "subject: longer than 250 characters"),
        (letter().subject("Hello\u{2028}there"), "subject: contains a line break"),
        (letter().text("\0"), "text: contains the character U+0000"),
        (letter().html("\0"), "html: contains the character U+0000"),
        (attached("", "text/plain"), &format!("{name}empty")),
        (attached("..", "text/plain"), &format!("{name}empty")),
        (attached("../letter.txt", "text/plain"), &format!("{name}has a path")),
        (attached("C:\\letter.txt", "text/plain"), &format!("{name}has a path")),
        (attached(&"x".repeat(151), "text/plain"), &format!("{name}longer than 150 characters")),
        (attached("invoice\u{202e}fdp.exe", "text/plain"), &format!("{name}contains a character that changes")),
        (attached("a", "text"), &format!("{content_type}not a media type")),
        (attached("a", "text/csv; name=\"a\""), &format!("{content_type}not a media type")),
        (attached("a", " text/csv"), &format!("{content_type}not a media type")),
        (attached("a", "text/csv ; a=b"), &format!("{content_type}not a media type")),
        (attached("a", "text/csv; a=b "), &format!("{content_type}not a media type")),
        (attached("a", "text/csv;"), &format!("{content_type}not a media type")),
        (attached("a", "Message/rfc822"), &format!("{content_type}Message/rfc822 is for mails")),
        ((0..17).fold(letter(), |message, _| message.attach("a", "text/csv", "")), "attachments: more than 16"),
        (Message::to_address("Jane <jane@example.com>").subject("Hello"), "to: "),
        (Message::to_address("jane@example.com,eve@example.com").subject("Hello"), "to: "),
    ] {
        let refused = plugin.run(|| message.send());
        assert!(matches!(&refused, Err(email::Error::Invalid(text)) if text.starts_with(reason)), "{refused:?}");
    }
    let large = letter().attach("a", "text/csv", vec![0_u8; 1024 * 1024]);
    assert_eq!(plugin.run(|| large.send()), Err(email::Error::Limit("bytes: 1048576".to_owned())));
    plugin.run(|| attached("Übersicht (1).csv", "text/csv; charset=utf-8").send()).unwrap();
    assert_eq!(plugin.mails().len(), 1);
}

#[test]
fn a_template_that_fails_makes_the_mail_invalid() {
    struct Fails;
    impl fmt::Display for Fails {
        fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
            Err(fmt::Error)
        }
    }
    let plugin = office();
    let send = || Message::to_address(ADDRESS).subject("Hello").text("Hello").html(Fails).send();
    assert_eq!(plugin.run(send), Err(email::Error::Invalid("html: writing the text failed".to_owned())));
    assert!(plugin.mails().is_empty());
}

#[test]
fn a_mail_belongs_to_the_open_transaction() {
    let plugin = office();
    let send = |subject: &str, then_fails: bool| {
        plugin.run(|| {
            sql::transaction(|_| {
                Message::to_address(ADDRESS).subject(subject).text("Hello").dedup_key("daily").send()?;
                if then_fails { Err(Problem::internal("no")) } else { Ok(()) }
            })
        })
    };
    send("first", true).unwrap_err();
    assert!(plugin.mails().is_empty());
    send("second", false).unwrap();
    assert_eq!(subjects(&plugin), ["second"], "the mail that was rolled back does not count for the key");
}

#[test]
fn a_mail_with_a_key_is_queued_once_in_a_day() {
    let plugin = office();
    let send = |subject: &str, key: &str| {
        let message = Message::to_address(ADDRESS).subject(subject).text("Hello").dedup_key(key);
        plugin.run(|| message.send()).unwrap()
    };
    send("first", "a");
    send("dropped", "a");
    send("other", "b");
    plugin.advance(Duration::from_secs(24 * 60 * 60 - 1));
    send("dropped", "a");
    plugin.advance(Duration::from_secs(1));
    send("next", "a");
    assert_eq!(subjects(&plugin), ["first", "other", "next"]);
}

#[test]
fn a_failure_of_a_job_names_the_capability() {
    let plugin = office();
    plugin.run(|| greet::enqueue(&"eve@example.org".to_owned())).unwrap();
    let result = &plugin.run_due()[0].result;
    assert!(matches!(result, Err(TaskError::Retry(reason)) if reason.starts_with("email: ")), "{result:?}");
    assert!(plugin.mails().is_empty());
}

#[test]
fn an_error_becomes_a_problem_that_tells_the_client_how_to_react() {
    let plugin = office();
    let problem = |error: email::Error| {
        let problem = plugin.run(|| Problem::from(error));
        (problem.status(), problem.code().to_owned())
    };
    let text = || "60".to_owned();
    assert_eq!(problem(email::Error::Invalid(text())), (500, "plugin_error".to_owned()));
    assert_eq!(problem(email::Error::Denied(text())), (500, "plugin_error".to_owned()));
    assert_eq!(problem(email::Error::Limit(text())), (503, "email_limit".to_owned()));
    for load in ["rate: 60", "queue: 60"] {
        assert_eq!(problem(email::Error::Limit(load.to_owned())), (429, "email_limit".to_owned()), "{load}");
    }
    assert_eq!(problem(email::Error::Conflict), (409, "transaction_conflict".to_owned()));
    assert_eq!(problem(email::Error::Unavailable), (503, "email_unavailable".to_owned()));
    assert!(plugin.log().iter().all(|entry| entry.message.contains("60")), "{:?}", plugin.log());
}
