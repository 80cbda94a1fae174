//! The rules of the plugin, tested with the SDK's stand-in for the host.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod deliveries;
mod endpoints;
mod failures;

use crate::PLUGIN;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use wharf_sdk::http::{Error, Response, SentRequest};
use wharf_sdk::prelude::*;
use wharf_sdk::serde_json::{Value, json};
use wharf_sdk::testing::{TestPlugin, TestResponse, superuser, user};

const RECEIVER: &str = "https://hooks.example";

/// The status that stands for a receiver that cannot be reached.
const DOWN: u16 = 0;

/// The plugin, and a receiver that a test controls.
struct Stage {
    plugin: TestPlugin,
    /// The status with which the receiver responds.
    status: Rc<Cell<u16>>,
    seen: Rc<RefCell<Vec<SentRequest>>>,
}

/// A registered endpoint.
struct Endpoint {
    path: String,
    secret: String,
}

impl Stage {
    fn new() -> Self {
        let status = Rc::new(Cell::new(204));
        let seen = Rc::new(RefCell::new(Vec::new()));
        let (current, log) = (Rc::clone(&status), Rc::clone(&seen));
        let plugin = TestPlugin::new(&PLUGIN).server(RECEIVER, move |request| {
            log.borrow_mut().push(request.clone());
            match current.get() {
                DOWN => Err(Error::Unreachable("connection refused by 10.0.0.1".to_owned())),
                status => Ok(Response::new(status, "")),
            }
        });
        Self { plugin, status, seen }
    }

    fn user(&self, email: &str) -> Caller {
        let caller = user(email);
        self.plugin.add_user(&caller, None);
        caller
    }

    fn superuser(&self, email: &str) -> Caller {
        let caller = superuser(email);
        self.plugin.add_user(&caller, None);
        caller
    }

    fn create(&self, caller: &Caller, body: Value) -> TestResponse {
        self.plugin.post("/").by(caller).json(body).send()
    }

    /// Registers an endpoint for these topics.
    fn register(&self, caller: &Caller, topics: &[&str]) -> Endpoint {
        let response = self.create(caller, json!({ "url": format!("{RECEIVER}/in"), "topics": topics }));
        assert_eq!(response.status(), 201);
        let created = response.json();
        let path = format!("/{}", created["endpoint"]["id"].as_str().unwrap());
        Endpoint { path, secret: created["secret"].as_str().unwrap().to_owned() }
    }

    /// Delivers an event to the plugin, without sending it.
    fn publish_as(&self, id: Uuid, topic: &str, audience: Option<Uuid>) {
        let event = Event {
            id,
            topic: topic.to_owned(),
            key: None,
            audience,
            payload: json!({ "id": "i1", "title": "Tea" }),
            published_at: "2026-11-30T08:00:00.5Z".parse().unwrap(),
            attempt: 1,
            request_id: None,
        };
        self.plugin.deliver_event(event).unwrap();
    }

    fn publish(&self, topic: &str, audience: Option<Uuid>) {
        self.publish_as(Uuid::new_v4(), topic, audience);
    }

    /// Returns the number of requests so far.
    fn sent(&self) -> usize {
        self.seen.borrow().len()
    }

    /// Returns the latest request.
    fn latest(&self) -> SentRequest {
        self.seen.borrow().last().unwrap().clone()
    }

    fn show(&self, caller: &Caller, endpoint: &Endpoint) -> Value {
        self.plugin.get(&endpoint.path).by(caller).send().json()
    }

    /// Returns the log of an endpoint, newest first.
    fn log(&self, caller: &Caller, endpoint: &Endpoint) -> Vec<Value> {
        let list = self.plugin.get(&format!("{}/deliveries", endpoint.path)).by(caller).send().json();
        list["data"].as_array().unwrap().clone()
    }

    /// Returns the newest delivery of an endpoint.
    fn newest(&self, caller: &Caller, endpoint: &Endpoint) -> Value {
        self.log(caller, endpoint).swap_remove(0)
    }

    fn retry(&self, caller: &Caller, endpoint: &Endpoint, delivery: &Value) -> TestResponse {
        let path = format!("{}/deliveries/{}/retry", endpoint.path, delivery["id"].as_str().unwrap());
        self.plugin.post(&path).by(caller).send()
    }
}

fn header<'a>(request: &'a SentRequest, name: &str) -> &'a str {
    request.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str()).unwrap()
}

#[track_caller]
fn assert_problem(response: &TestResponse, status: u16, code: &str) {
    let problem = response.problem();
    assert_eq!((problem.status(), problem.code()), (status, code));
}
