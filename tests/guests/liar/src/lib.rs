//! A guest whose declaration a test writes: name, routes, schemas, migrations, events and jobs. It can also trap, loop or
//! grow instead of declaring anything.
//!
//! The declaration is a text of fixed length inside the component. A test overwrites it and needs no compiler. The host
//! must not trust any of it.

// It has no use outside the sandbox, and no stand-in for the host.
#![cfg(target_arch = "wasm32")]
#![allow(
    clippy::indexing_slicing,
    unsafe_code,
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a guest of the tests"
)]

use wharf_sdk::__private::http_role;
use wharf_sdk::__private::migrations_role::exports::wharf::sql::migrations;
use wharf_sdk::serde_json::{self, Value};

use http_role::exports::wharf::plugin::{descriptor, http};
use message_roles::exports::wharf::events::{subscriber, topics};
use message_roles::exports::wharf::jobs::worker;

/// The roles about events and jobs.
#[allow(unreachable_pub, dead_code, clippy::all, clippy::expect_used, clippy::string_slice, reason = "generated")]
mod message_roles {
    wit_bindgen::generate!({
        path: "../../../wit",
        inline: "package wharf:liar-messages; world message-roles {
            export wharf:events/topics@0.1.0;
            export wharf:events/subscriber@0.1.0;
            export wharf:jobs/worker@0.1.0;
        }",
        generate_all,
    });
}

/// The length of the text in bytes. A shorter text is padded with blanks.
const LENGTH: usize = 65_536;

/// Begins with the text that tests search for; `tests/support/component.rs` has the same text.
#[used]
static DECLARATION: [u8; LENGTH] = padded(br#"{"declaration":"liar"}"#);

const fn padded(text: &[u8]) -> [u8; LENGTH] {
    let mut bytes = [b' '; LENGTH];
    let mut at = 0;
    while at < text.len() {
        bytes[at] = text[at];
        at += 1;
    }
    bytes
}

struct Liar;

fn declaration() -> Value {
    serde_json::from_slice(std::hint::black_box(&DECLARATION)).unwrap()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn pairs(value: &Value) -> Vec<(String, String)> {
    list(value).map(|pair| (text(&pair[0]), text(&pair[1]))).collect()
}

fn act(value: &Value) {
    match value.as_str() {
        Some("trap") => std::process::abort(),
        Some("panic") => panic!("the guest panics"),
        Some("print") => (0..50).for_each(|line| println!("line {line}")),
        Some("loop") => loop {
            std::hint::black_box(0);
        },
        Some("sleep") => std::thread::sleep(std::time::Duration::from_secs(3600)),
        Some("grow") => {
            let mut hoard = Vec::new();
            loop {
                hoard.push(std::hint::black_box(vec![1_u8; 1 << 20]));
            }
        }
        _ => {}
    }
}

impl descriptor::Guest for Liar {
    fn describe() -> descriptor::PluginDescriptor {
        let declaration = declaration();
        act(&declaration["describe"]);
        descriptor::PluginDescriptor {
            name: text(&declaration["name"]),
            version: text(&declaration["version"]),
            summary: match declaration["summary_bytes"].as_u64() {
                Some(length) => "x".repeat(usize::try_from(length).unwrap()),
                None => text(&declaration["summary"]),
            },
            permissions: pairs(&declaration["permissions"])
                .into_iter()
                .map(|(name, summary)| descriptor::Permission { name, summary })
                .collect(),
            settings_schema: declaration["settings_schema"].as_str().map(str::to_owned),
        }
    }
}

impl http::Guest for Liar {
    fn routes() -> http::Api {
        let declaration = declaration();
        act(&declaration["list"]);
        let mut routes: Vec<http::Route> = list(&declaration["routes"])
            .map(|route| http::Route {
                method: text(&route["method"]),
                path: text(&route["path"]),
                access: match route["access"].as_str() {
                    Some("public") => http::Access::Public,
                    Some("superuser") => http::Access::Superuser,
                    Some("authenticated") | None => http::Access::Authenticated,
                    Some(permission) => http::Access::Permission(permission.to_owned()),
                },
                operation: match &route["operation"] {
                    Value::String(text) => text.clone(),
                    other => other.to_string(),
                },
                cache: route["ttl_ms"].as_u64().map(|ttl| http::CachePolicy {
                    ttl_ms: u32::try_from(ttl).unwrap(),
                    per_caller: false,
                    tags: Vec::new(),
                }),
            })
            .collect();
        if let Some(count) = declaration["route_count"].as_u64() {
            routes = (0..count)
                .map(|index| http::Route {
                    method: "GET".to_owned(),
                    path: format!("/{index}"),
                    access: http::Access::Public,
                    operation: "{}".to_owned(),
                    cache: None,
                })
                .collect();
        }
        http::Api { routes, schemas: pairs(&declaration["schemas"]) }
    }

    /// Responds with a text of the declaration, so that a test sees which release handled the request.
    fn handle(_: http::Request) -> Result<http::Response, http::Problem> {
        let declaration = declaration();
        act(&declaration["handle"]);
        if let Some(millis) = declaration["millis"].as_u64() {
            std::thread::sleep(std::time::Duration::from_millis(millis));
        }
        Ok(http::Response { status: 200, headers: Vec::new(), body: text(&declaration["answer"]).into_bytes() })
    }
}

impl migrations::Guest for Liar {
    fn migrations() -> Vec<migrations::Migration> {
        let declaration = declaration();
        act(&declaration["migrate"]);
        list(&declaration["migrations"])
            .map(|migration| migrations::Migration {
                name: text(&migration[0]),
                sql: text(&migration[1]),
                oldest: migration[2].as_str().map(str::to_owned),
            })
            .collect()
    }
}

impl topics::Guest for Liar {
    /// `"topics": [[NAME, SCHEMA, ACCESS or null], …]`
    fn topics() -> Vec<topics::Topic> {
        list(&declaration()["topics"])
            .map(|topic| topics::Topic {
                name: text(&topic[0]),
                summary: String::new(),
                schema: topic[1].to_string(),
                access: topic[2].as_str().map(|access| match access {
                    "public" => topics::Access::Public,
                    "authenticated" => topics::Access::Authenticated,
                    "superuser" => topics::Access::Superuser,
                    permission => topics::Access::Permission(permission.to_owned()),
                }),
            })
            .collect()
    }
}

/// Fails as `[how, reason]` says: `["retry", "later"]`.
fn failure<F>(value: &Value, retry: fn(String) -> F, reject: fn(String) -> F) -> Option<F> {
    match value[0].as_str() {
        Some("retry") => Some(retry(text(&value[1]))),
        Some(_) => Some(reject(text(&value[1]))),
        None => None,
    }
}

impl subscriber::Guest for Liar {
    /// `"subscriptions": [TOPIC, …]`
    fn subscriptions() -> Vec<subscriber::Subscription> {
        list(&declaration()["subscriptions"])
            .map(|topic| subscriber::Subscription { topic: text(topic), retries: 3, backoff_ms: 10 })
            .collect()
    }

    fn receive(_: u32, _: subscriber::Event) -> Result<(), subscriber::Failure> {
        let declaration = declaration();
        act(&declaration["receive"]);
        let failure = failure(&declaration["failure"], subscriber::Failure::Retry, subscriber::Failure::Reject);
        failure.map_or(Ok(()), Err)
    }
}

impl worker::Guest for Liar {
    /// `"jobs": [[NAME, SCHEMA or null], …], "schedules": [[NAME, CRON, TIME ZONE, JOB, PAYLOAD], …]`
    fn declare() -> worker::Declaration {
        let declaration = declaration();
        let job = |job: &Value| worker::Job {
            name: text(&job[0]),
            schema: Some(&job[1]).filter(|schema| !schema.is_null()).map(Value::to_string),
            retries: 3,
            backoff_ms: 10,
            deadline_ms: 60_000,
            concurrency: 1,
            keep_ms: 60_000,
        };
        let schedule = |schedule: &Value| worker::Schedule {
            name: text(&schedule[0]),
            cron: text(&schedule[1]),
            time_zone: text(&schedule[2]),
            missed: worker::Missed::Once,
            job: text(&schedule[3]),
            payload: schedule[4].to_string(),
        };
        worker::Declaration {
            jobs: list(&declaration["jobs"]).map(job).collect(),
            schedules: list(&declaration["schedules"]).map(schedule).collect(),
        }
    }

    /// Returns its payload.
    fn run(task: worker::Task) -> Result<Option<String>, worker::Failure> {
        let declaration = declaration();
        act(&declaration["run"]);
        let failure = failure(&declaration["failure"], worker::Failure::Retry, worker::Failure::Reject);
        failure.map_or(Ok(Some(task.payload)), Err)
    }
}

#[cfg(target_arch = "wasm32")]
const _: () = {
    wharf_sdk::__private::export_http!(Liar with_types_in wharf_sdk::__private::http_role);
    wharf_sdk::__private::export_migrations!(Liar with_types_in wharf_sdk::__private::migrations_role);
    message_roles::export!(Liar with_types_in message_roles);
};
