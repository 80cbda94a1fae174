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

#[test]
fn the_documents_name_the_topics_of_the_host() {
    for (path, before) in [("wit/deps/events/events.wit", ""), ("host/OPERATING.md", "\n| ")] {
        let text = text_of(path);
        for topic in HostTopic::ALL {
            let name = format!("{before}`{}`", topic.as_str());
            assert!(text.contains(&name), "{path} does not name {}", topic.as_str());
        }
    }
}
