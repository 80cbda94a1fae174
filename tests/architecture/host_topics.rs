//! Compares the lists of the host's topics in other crates and documents with the host's own.

use syn::{Expr, ExprLit, Item, Lit};
use wharf::message::HostTopic;

use crate::support::component::workspace;

/// Returns the text of a file of the repository.
fn text_of(path: &str) -> String {
    std::fs::read_to_string(workspace().join(path)).unwrap()
}

/// Returns `HOST_TOPICS` of the macros, which a plugin compiles with and which cannot import the host.
fn topics_of_the_macros() -> Vec<String> {
    let file = syn::parse_file(&text_of("plugins/sdk-macros/src/task.rs")).unwrap();
    let expression = file.items.into_iter().find_map(|item| match item {
        Item::Const(declared) if declared.ident == "HOST_TOPICS" => Some(*declared.expr),
        _ => None,
    });
    let Some(Expr::Array(topics)) = expression else { panic!("the macros have no array HOST_TOPICS") };
    let topic = |element: &Expr| match element {
        Expr::Lit(ExprLit { lit: Lit::Str(topic), .. }) => topic.value(),
        _ => panic!("HOST_TOPICS has an element that is no string"),
    };
    topics.elems.iter().map(topic).collect()
}

#[test]
fn the_macros_know_the_topics_of_the_host() {
    assert_eq!(topics_of_the_macros(), HostTopic::ALL.map(HostTopic::as_str));
}

/// Returns the topics at the top of the WIT package, which lists them in one sentence.
fn topics_of_the_interface() -> Vec<String> {
    let text = text_of("wit/deps/events/events.wit");
    let (head, _) = text.split_once("\npackage ").unwrap();
    let (_, sentence) = head.split_once("The host publishes ").unwrap();
    sentence.split('`').skip(1).step_by(2).map(ToOwned::to_owned).collect()
}

/// Returns the topics in the first column of the table for operators.
fn topics_of_the_table() -> Vec<String> {
    let text = text_of("host/OPERATING.md");
    let (_, section) = text.split_once("\n### Events of the host\n").unwrap();
    let (section, _) = section.split_once("\n#").unwrap();
    section.lines().filter_map(|line| line.strip_prefix("| `")).map(name_before_backtick).collect()
}

/// Returns the topics of the SDK's payloads, each with the name of its type.
fn payloads_of_the_sdk() -> Vec<(String, String)> {
    let text = text_of("plugins/sdk/src/events/host_topics.rs");
    let topics = text.lines().filter_map(|line| line.strip_prefix("/// `")).map(name_before_backtick);
    let types = text.lines().filter_map(|line| line.strip_prefix("pub struct ")?.strip_suffix(" {"));
    let (topics, types): (Vec<_>, Vec<_>) = (topics.collect(), types.map(ToOwned::to_owned).collect());
    assert_eq!(topics.len(), types.len(), "{topics:?} {types:?}");
    topics.into_iter().zip(types).collect()
}

fn name_before_backtick(text: &str) -> String {
    text.split('`').next().unwrap_or_default().to_owned()
}

#[test]
fn the_documents_have_the_topics_of_the_host() {
    let topics = HostTopic::ALL.map(HostTopic::as_str);
    assert_eq!(topics_of_the_interface(), topics);
    assert_eq!(topics_of_the_table(), topics);
}

#[test]
fn the_sdk_has_a_payload_for_each_topic_of_the_host() {
    let payloads = HostTopic::ALL.map(|topic| (topic.as_str().to_owned(), format!("{topic:?}")));
    assert_eq!(payloads_of_the_sdk(), payloads);
}
