//! The worker guest of a host, commanded through its routes and watched through the operator API. See `tests/guests/worker`
//! for the steps that it takes.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use super::patience::PATIENCE;
use super::{Client, Component, TestHost, TestResponse};

/// The grants that the worker needs.
pub(crate) const WORKER: &str = "grant=events,jobs,sql";
/// The same, and the topics of the plugin `worker`.
pub(crate) const LISTENER: &str = "grant=events.hear=worker.*,jobs,sql";

/// Returns a worker with some members of its declaration changed. By default it has the topic `said` and the job `work`.
pub(crate) fn worker(changes: Value) -> Component {
    let mut declaration = json!({
        "name": "worker",
        "version": "1.0.0",
        "topics": [["said", {}]],
        "jobs": [{ "name": "work" }],
    });
    for (name, value) in changes.as_object().unwrap() {
        declaration[name] = value.clone();
    }
    Component::worker(&declaration)
}

/// A deployed worker.
#[derive(Clone)]
pub(crate) struct Worker {
    name: String,
    client: Client,
    superuser: Client,
}

impl Worker {
    /// Deploys a worker with the grants that it needs.
    pub(crate) async fn deploy(host: &TestHost, changes: Value) -> Self {
        Self::deploy_with(host, changes, WORKER).await
    }

    /// Deploys a worker that hears the topics of the plugin `worker`.
    pub(crate) async fn deploy_listener(host: &TestHost, name: &str, version: &str) -> Self {
        let changes = json!({ "name": name, "version": version, "subscriptions": [["worker.said"]] });
        Self::deploy_with(host, changes, LISTENER).await
    }

    /// Deploys a worker with a query such as `grant=events,jobs,sql`.
    pub(crate) async fn deploy_with(host: &TestHost, changes: Value, query: &str) -> Self {
        let deployed = host.superuser().deploy(&worker(changes).0, query).await.ok();
        Self::of(host, deployed["plugin"]["name"].as_str().unwrap())
    }

    /// Returns a worker that is deployed.
    pub(crate) fn of(host: &TestHost, name: &str) -> Self {
        Self::new(name, host.anonymous(), host.superuser().clone())
    }

    /// Returns a worker that is deployed on the host of these clients.
    pub(crate) fn new(name: &str, client: Client, superuser: Client) -> Self {
        Self { name: name.to_owned(), client, superuser }
    }

    /// Takes steps and returns the response.
    pub(crate) async fn post(&self, steps: &Value) -> TestResponse {
        self.client.post(&format!("/{}/act", self.name), steps).await
    }

    /// Takes steps and returns their outcomes.
    pub(crate) async fn act(&self, steps: Value) -> Vec<Value> {
        self.post(&steps).await.ok().as_array().unwrap().clone()
    }

    /// Takes one step, which must succeed, and returns its value.
    pub(crate) async fn done(&self, step: Value) -> Value {
        let outcomes = self.act(json!([step])).await;
        outcomes[0].get("ok").unwrap_or_else(|| panic!("{outcomes:?}")).clone()
    }

    /// Takes one step, which must fail, and returns the error.
    pub(crate) async fn refused(&self, step: Value) -> String {
        let outcomes = self.act(json!([step])).await;
        outcomes[0]["error"].as_str().unwrap_or_else(|| panic!("{outcomes:?}")).to_owned()
    }

    /// Publishes an event of the topic `said`, whose subscribers take these steps. Returns its id.
    pub(crate) async fn publish(&self, steps: Value) -> String {
        self.done(json!(["publish", "said", null, { "steps": steps }])).await.as_str().unwrap().to_owned()
    }

    /// Enqueues a job `work`, which takes these steps, with options such as `{ "delay_ms": 1000 }`. Returns its id.
    pub(crate) async fn enqueue(&self, steps: Value, options: Value) -> String {
        self.done(json!(["enqueue", "work", { "steps": steps }, options])).await.as_str().unwrap().to_owned()
    }

    /// Returns the status of a job, or null.
    pub(crate) async fn status(&self, job: &str) -> Value {
        self.done(json!(["status", job])).await
    }

    /// Writes a word that a step `await` waits for.
    pub(crate) async fn flag(&self, word: &str) {
        self.done(json!(["flag", word])).await;
    }

    /// Returns the notes in the order in which they were written.
    pub(crate) async fn notes(&self) -> Vec<String> {
        let notes = self.client.get(&format!("/{}/notes", self.name)).await.ok();
        notes.as_array().unwrap().iter().map(|note| note.as_str().unwrap().to_owned()).collect()
    }

    /// Waits until the notes are these.
    pub(crate) async fn noted(&self, expected: &[&str]) {
        let begun = Instant::now();
        loop {
            let notes = self.notes().await;
            if notes == expected {
                return;
            }
            if begun.elapsed() >= PATIENCE || notes.len() > expected.len() {
                let tasks = self.tasks("").await;
                panic!("expected the notes {expected:?}, found {notes:?}; tasks: {tasks:#?}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until there is this number of notes, and returns them.
    pub(crate) async fn notes_when(&self, count: usize) -> Vec<String> {
        let begun = Instant::now();
        loop {
            let notes = self.notes().await;
            if notes.len() >= count {
                return notes;
            }
            let tasks = self.tasks("").await;
            assert!(begun.elapsed() < PATIENCE, "expected {count} notes, found {notes:?}; tasks: {tasks:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Returns the worker's tasks that fit a query, oldest first.
    pub(crate) async fn tasks(&self, query: &str) -> Vec<Value> {
        let path = format!("/tasks/?order=oldest&limit=1000&plugin={}&{query}", self.name);
        self.superuser.get(&path).await.ok()["data"].as_array().unwrap().clone()
    }

    /// Waits until the worker's tasks, oldest first, are in these states, and returns them.
    pub(crate) async fn states(&self, expected: &[&str]) -> Vec<Value> {
        let begun = Instant::now();
        loop {
            let tasks = self.tasks("").await;
            if tasks.iter().map(|task| task["state"].as_str().unwrap()).eq(expected.iter().copied()) {
                return tasks;
            }
            assert!(begun.elapsed() < PATIENCE, "expected tasks in the states {expected:?}, found {tasks:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Lets a dead task run again.
    pub(crate) async fn retry(&self, task: &Value) {
        let path = format!("/tasks/{}/retry", task["seq"]);
        self.superuser.request(Method::POST, &path).send().await.ok();
    }
}
