//! A guest that publishes events and runs jobs as a test requests: well-behaved, clumsy or hostile.
//!
//! Its declaration is a text of fixed length inside the component, which a test overwrites without a compiler: name,
//! version, topics, subscriptions, jobs, schedules and migrations. Its work is a list of steps (`actor`): the body of a
//! request, or the member `steps` of the payload of an event or a job.

// It has no use outside the sandbox, and no stand-in for the host.
#![cfg(target_arch = "wasm32")]
#![allow(
    clippy::indexing_slicing,
    unsafe_code,
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a guest of the tests"
)]

mod actor;

use serde_json::Value;

use actor::{Actor, Cause, End};
use roles::exports::wharf::events::{subscriber, topics};
use roles::exports::wharf::jobs::worker;
use roles::exports::wharf::plugin::{descriptor, http};
use roles::exports::wharf::sql::migrations;

/// The imports and the roles.
#[allow(unreachable_pub, dead_code, clippy::all, clippy::expect_used, clippy::string_slice, reason = "generated")]
mod roles {
    wit_bindgen::generate!({
        path: "../../../wit",
        inline: "package wharf:worker-guest; world worker-guest {
            import wharf:sql/database@0.1.0;
            import wharf:events/publisher@0.1.0;
            import wharf:jobs/queue@0.1.0;
            export wharf:plugin/descriptor@0.1.0;
            export wharf:plugin/http@0.1.0;
            export wharf:sql/migrations@0.1.0;
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
static DECLARATION: [u8; LENGTH] = padded(br#"{"declaration":"worker"}"#);

const fn padded(text: &[u8]) -> [u8; LENGTH] {
    let mut bytes = [b' '; LENGTH];
    let mut at = 0;
    while at < text.len() {
        bytes[at] = text[at];
        at += 1;
    }
    bytes
}

/// The notes that steps write, and the words that they wait for.
const TABLES: &str =
    "CREATE TABLE note (n BIGINT NOT NULL, text TEXT NOT NULL); CREATE TABLE flag (word TEXT NOT NULL)";

/// The position of the route that takes steps.
const ACT: u32 = 0;

struct Worker;

fn declaration() -> Value {
    serde_json::from_slice(std::hint::black_box(&DECLARATION)).unwrap()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn number(value: &Value, default: u32) -> u32 {
    value.as_u64().map_or(default, |number| u32::try_from(number).unwrap())
}

impl descriptor::Guest for Worker {
    fn describe() -> descriptor::PluginDescriptor {
        let declaration = declaration();
        descriptor::PluginDescriptor {
            name: text(&declaration["name"]),
            version: text(&declaration["version"]),
            summary: String::new(),
            permissions: Vec::new(),
            settings_schema: None,
        }
    }
}

impl http::Guest for Worker {
    /// `POST /act` takes steps and returns their outcomes, `GET /notes` returns the notes.
    fn routes() -> http::Api {
        const STEPS: &str = r#"{"requestBody":{"content":{"application/json":{"schema":{"type":"array"}}}}}"#;
        let route = |method: &str, path: &str, operation: &str| http::Route {
            method: method.to_owned(),
            path: path.to_owned(),
            access: http::Access::Public,
            operation: operation.to_owned(),
            cache: None,
        };
        http::Api { routes: vec![route("POST", "/act", STEPS), route("GET", "/notes", "{}")], schemas: Vec::new() }
    }

    fn handle(request: http::Request) -> Result<http::Response, http::Problem> {
        let body: Value = if request.route == ACT {
            let steps = serde_json::from_slice(&request.body).unwrap();
            let mut actor = Actor::new(declaration(), Cause { request: Some(request.id), ..Cause::default() });
            // A request has no attempts, so such an end of the work only ends it.
            let _ = actor.act(&steps);
            actor.outcomes.into()
        } else {
            actor::notes().into()
        };
        let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
        Ok(http::Response { status: 200, headers, body: body.to_string().into_bytes() })
    }
}

impl migrations::Guest for Worker {
    /// `"migrations": [[NAME, SQL], …]` follow the first one.
    fn migrations() -> Vec<migrations::Migration> {
        let migration = |name: String, sql: String| migrations::Migration { name, sql, oldest: None };
        let declaration = declaration();
        let further = list(&declaration["migrations"]).map(|one| migration(text(&one[0]), text(&one[1])));
        std::iter::once(migration("0001".to_owned(), TABLES.to_owned())).chain(further).collect()
    }
}

impl topics::Guest for Worker {
    /// `"topics": [[NAME, SCHEMA], …]`
    fn topics() -> Vec<topics::Topic> {
        let topic = |topic: &Value| topics::Topic {
            name: text(&topic[0]),
            summary: String::new(),
            schema: topic[1].to_string(),
            access: None,
        };
        list(&declaration()["topics"]).map(topic).collect()
    }
}

impl subscriber::Guest for Worker {
    /// `"subscriptions": [[TOPIC, RETRIES, BACKOFF IN MS], …]`; without numbers 3 and 1.
    fn subscriptions() -> Vec<subscriber::Subscription> {
        let subscription = |one: &Value| subscriber::Subscription {
            topic: text(&one[0]),
            retries: number(&one[1], 3),
            backoff_ms: number(&one[2], 1),
        };
        list(&declaration()["subscriptions"]).map(subscription).collect()
    }

    fn receive(_: u32, event: subscriber::Event) -> Result<(), subscriber::Failure> {
        let cause = Cause {
            id: event.id,
            attempt: event.attempt,
            name: event.topic,
            key: event.key,
            payload: event.payload,
            request: event.request_id,
            scheduled: None,
            is_event: true,
        };
        match Actor::work(declaration(), cause) {
            Ok(()) | Err(End::Output(_)) => Ok(()),
            Err(End::Retry(reason)) => Err(subscriber::Failure::Retry(reason)),
            Err(End::Reject(reason)) => Err(subscriber::Failure::Reject(reason)),
        }
    }
}

impl worker::Guest for Worker {
    /// `"jobs": [{ "name": … }, …], "schedules": [{ "name", "cron", "job", "payload" }, …]`, each with other members of the
    /// interface, or their defaults.
    fn declare() -> worker::Declaration {
        let declaration = declaration();
        let job = |job: &Value| worker::Job {
            name: text(&job["name"]),
            schema: Some(&job["schema"]).filter(|schema| !schema.is_null()).map(Value::to_string),
            retries: number(&job["retries"], 3),
            backoff_ms: number(&job["backoff_ms"], 1),
            deadline_ms: number(&job["deadline_ms"], 60_000),
            concurrency: number(&job["concurrency"], 8),
            keep_ms: number(&job["keep_ms"], 60_000).into(),
        };
        let schedule = |schedule: &Value| worker::Schedule {
            name: text(&schedule["name"]),
            cron: text(&schedule["cron"]),
            time_zone: schedule["time_zone"].as_str().unwrap_or("UTC").to_owned(),
            missed: match schedule["missed"].as_str() {
                Some("once") => worker::Missed::Once,
                _ => worker::Missed::Skip,
            },
            job: text(&schedule["job"]),
            payload: schedule["payload"].to_string(),
        };
        worker::Declaration {
            jobs: list(&declaration["jobs"]).map(job).collect(),
            schedules: list(&declaration["schedules"]).map(schedule).collect(),
        }
    }

    fn run(task: worker::Task) -> Result<Option<String>, worker::Failure> {
        let declaration = declaration();
        let name = text(&declaration["jobs"][usize::try_from(task.job).unwrap()]["name"]);
        let cause = Cause {
            id: task.id,
            attempt: task.attempt,
            name,
            key: None,
            payload: task.payload,
            request: task.request_id,
            scheduled: task.scheduled_at,
            is_event: false,
        };
        match Actor::work(declaration, cause) {
            Ok(()) => Ok(None),
            Err(End::Output(output)) => Ok(Some(output)),
            Err(End::Retry(reason)) => Err(worker::Failure::Retry(reason)),
            Err(End::Reject(reason)) => Err(worker::Failure::Reject(reason)),
        }
    }
}

const _: () = {
    roles::export!(Worker with_types_in roles);
};
