//! The queue of mails on the command line.

use reqwest::Method;
use serde_json::json;

use super::{Process, failure, home, json_of, usage};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mails_are_listed_shown_and_dropped_on_the_command_line() {
    // No mail server listens there, so the mails stay in the queue.
    let mail = [("WHARF_SMTP_URL", "smtp://127.0.0.1:9"), ("WHARF_EMAIL_FROM", "wharf@example.com")];
    let process = Process::start_with(home(), &mail).await;
    let superuser = process.superuser().await;
    let run = |arguments: &[&str]| process.command(superuser.token(), arguments);
    let printed = |arguments: &[&str]| {
        let output = run(arguments);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(printed(&["mail", "queues"]), "No mail waits or was given up\n");
    for number in 0..3 {
        let path = format!("/utils/test-email/?email_to=user{number}@example.com");
        assert_eq!(superuser.request(Method::POST, &path).send().await.status, 201);
    }
    let list = json_of(&run(&["mail", "list", "--oldest", "--host", "--json"]));
    let numbers: Vec<i64> = list["data"].as_array().unwrap().iter().map(|mail| mail["seq"].as_i64().unwrap()).collect();
    let [first, second, _] = numbers[..] else { panic!("{list}") };
    let listed = printed(&["mail", "list", "--limit", "1"]);
    assert!(listed.contains("test") && listed.contains("(host)") && !listed.contains("user2"), "{listed}");
    let shown = printed(&["mail", "show", &first.to_string()]);
    assert!(shown.contains("user0@example.com") && shown.contains("waiting"), "{shown}");
    let queues = printed(&["mail", "queues"]);
    assert!(queues.contains("(host)") && queues.contains("waiting"), "{queues}");
    let nothing = failure(&run(&["mail", "show", "999999"]));
    assert!(nothing.contains("code: mail_not_found") && nothing.contains("wharf mail list"), "{nothing}");
    let retried = printed(&["mail", "retry", "--host", "--state", "waiting"]);
    assert!(retried.starts_with("Retried ") && retried.contains(" mail"), "{retried}");

    assert!(usage(&run(&["mail", "show", "first"])).contains("see `wharf mail list`"));
    for verb in ["retry", "drop"] {
        let unnamed = usage(&run(&["mail", verb]));
        assert!(unnamed.contains(&format!("`wharf mail {verb} NUMBER`")) && unnamed.contains("--host"), "{unnamed}");
    }
    usage(&run(&["mail", "retry", &first.to_string(), "--state", "waiting"]));
    usage(&run(&["mail", "drop", &first.to_string(), "--host"]));
    usage(&run(&["mail", "drop", "--host", "--all", "--yes"]));
    let asked = usage(&run(&["mail", "drop", "--host", "--state", "waiting"]));
    assert!(asked.contains("all waiting mails of the host") && asked.contains("--yes"), "{asked}");
    let dropped = json_of(&run(&["mail", "drop", &second.to_string(), "--json"]));
    assert_eq!(dropped, json!({ "message": format!("Mail {second} was dropped") }));
    assert_eq!(printed(&["mail", "retry", "--all"]), "Retried 0 mails\n");
    assert_eq!(printed(&["mail", "drop", "--host", "--yes"]), "Dropped 0 mails\n");
    assert_eq!(printed(&["mail", "drop", "--all", "--state", "waiting", "--yes"]), "Dropped 2 mails\n");
}
