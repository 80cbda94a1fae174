//! The steps that a test requests. Each is an array: its name, and its arguments. Its outcome is `{"ok": …}` or
//! `{"error": …}`, and the next one follows, unless the step ends the work.

use std::fmt::Debug;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::roles::wharf::events::publisher;
use crate::roles::wharf::jobs::queue;
use crate::roles::wharf::sql::database::{self, Statement, Transaction, Value as SqlValue};
use crate::{list, text};

/// The cause of the work: a request, the delivery of an event, or a job.
#[derive(Default)]
pub(crate) struct Cause {
    pub(crate) id: String,
    pub(crate) attempt: u32,
    /// The topic or the job.
    pub(crate) name: String,
    pub(crate) key: Option<String>,
    pub(crate) payload: String,
    pub(crate) request: Option<String>,
    pub(crate) scheduled: Option<i64>,
    pub(crate) is_event: bool,
}

/// A step that ended the work.
pub(crate) enum End {
    Retry(String),
    Reject(String),
    Output(String),
}

/// The work of one call. A transaction that it leaves open ends with it.
pub(crate) struct Actor {
    declaration: Value,
    cause: Cause,
    transaction: Option<Transaction>,
    pub(crate) outcomes: Vec<Value>,
}

fn outcome<T: Into<Value>, E: Debug>(result: Result<T, E>) -> Value {
    match result {
        Ok(value) => json!({ "ok": value.into() }),
        Err(error) => json!({ "error": format!("{error:?}") }),
    }
}

/// Returns a text: `{"letters": 3}` is `xxx`.
fn long_text(value: &Value) -> Option<String> {
    match value["letters"].as_u64() {
        Some(letters) => Some("x".repeat(usize::try_from(letters).unwrap())),
        None => value.as_str().map(str::to_owned),
    }
}

/// Returns the JSON of a payload: `{"letters": 3}` is `"xxx"`, and `{"raw": "{"}` is `{`.
fn payload(value: &Value) -> String {
    if let Some(raw) = value["raw"].as_str() {
        return raw.to_owned();
    }
    match value["letters"].as_u64() {
        Some(_) => format!("\"{}\"", long_text(value).unwrap_or_default()),
        None => value.to_string(),
    }
}

fn first_texts(rows: database::Rows) -> Vec<String> {
    let first = |row: Vec<SqlValue>| match row.into_iter().next() {
        Some(SqlValue::Text(text)) => text,
        _ => String::new(),
    };
    rows.values.into_iter().map(first).collect()
}

/// Returns the notes in the order in which they were written.
pub(crate) fn notes() -> Vec<String> {
    let sql = "SELECT text FROM note ORDER BY n, text".to_owned();
    first_texts(database::query(&Statement { sql, params: Vec::new() }).unwrap())
}

impl Actor {
    pub(crate) fn new(declaration: Value, cause: Cause) -> Self {
        Self { declaration, cause, transaction: None, outcomes: Vec::new() }
    }

    /// Does the work of an event or a job: the `steps` of its payload. Without them, as in an event of the host, it is noted.
    pub(crate) fn work(declaration: Value, cause: Cause) -> Result<(), End> {
        let payload: Value = serde_json::from_str(&cause.payload).unwrap();
        let mut actor = Self::new(declaration, cause);
        match &payload["steps"] {
            Value::Null => actor.step(&json!(["note", "{name} {key}"])),
            steps => actor.act(steps),
        }
    }

    pub(crate) fn act(&mut self, steps: &Value) -> Result<(), End> {
        list(steps).try_for_each(|step| self.step(step))
    }

    fn step(&mut self, step: &Value) -> Result<(), End> {
        let done = match step[0].as_str().unwrap_or_default() {
            "begin" => outcome(Transaction::begin().map(|transaction| self.transaction = Some(transaction))),
            "commit" => outcome(Transaction::commit(self.transaction.take().unwrap())),
            "rollback" => outcome(Transaction::rollback(self.transaction.take().unwrap())),
            "forget" => {
                // The host ends it with the call.
                std::mem::forget(self.transaction.take());
                Value::Null
            }
            "sql" => outcome(self.execute(&text(&step[1]), &[])),
            "note" => self.note(&step[1]),
            "flag" => outcome(self.execute("INSERT INTO flag (word) VALUES ($1)", &[text(&step[1])])),
            "await" => self.wait_for(&text(&step[1])),
            "publish" => outcome(publisher::publish(&publisher::Event {
                topic: text(&step[1]),
                key: long_text(&step[2]),
                payload: payload(&step[3]),
                audience: None,
            })),
            "enqueue" => outcome(queue::enqueue(&job(&step[1], &step[2], &step[3]))),
            "cancel" => outcome(queue::cancel(&text(&step[1]))),
            "status" => outcome(queue::status(&text(&step[1])).map(|status| status.map(|status| shown(&status)))),
            "progress" => {
                let [done, total] = [1_usize, 2].map(|index| step[index].as_u64().unwrap());
                outcome(queue::report_progress(done, total))
            }
            "again" => self.again(),
            "times" => self.times(step)?,
            "must" => self.must(&step[1])?,
            "before-attempt" if u64::from(self.cause.attempt) < step[1].as_u64().unwrap() => self.nested(&step[2])?,
            "only" if step[1] == self.declaration["name"] => self.nested(&step[2])?,
            "before-attempt" | "only" => Value::Null,
            "retry" => return Err(End::Retry(self.filled(&step[1]))),
            "reject" => return Err(End::Reject(self.filled(&step[1]))),
            "output" => return Err(End::Output(long_text(&step[1]).unwrap_or_default())),
            "sleep" => {
                std::thread::sleep(Duration::from_millis(step[1].as_u64().unwrap()));
                Value::Null
            }
            "trap" => std::process::abort(),
            "loop" => loop {
                std::hint::black_box(0);
            },
            "grow" => {
                let mut hoard = Vec::new();
                loop {
                    hoard.push(std::hint::black_box(vec![1_u8; 1 << 20]));
                }
            }
            other => panic!("there is no step '{other}'"),
        };
        self.outcomes.push(done);
        Ok(())
    }

    /// Runs a statement in the open transaction, if there is one.
    fn execute(&self, sql: &str, params: &[String]) -> Result<u64, database::Error> {
        let params = params.iter().cloned().map(SqlValue::Text).collect();
        let statement = Statement { sql: sql.to_owned(), params };
        match &self.transaction {
            Some(transaction) => transaction.execute(&statement),
            None => database::execute(&statement),
        }
    }

    /// `["note", TEXT]`
    fn note(&self, template: &Value) -> Value {
        const SQL: &str = "INSERT INTO note (n, text) SELECT COALESCE(MAX(n), 0) + 1, CAST($1 AS text) FROM note";
        outcome(self.execute(SQL, &[self.filled(template)]))
    }

    /// Returns a text with the words in braces replaced by facts about the work.
    fn filled(&self, template: &Value) -> String {
        let Cause { id, attempt, name, key, request, scheduled, .. } = &self.cause;
        text(template)
            .replace("{id}", id)
            .replace("{attempt}", &attempt.to_string())
            .replace("{name}", name)
            .replace("{key}", key.as_deref().unwrap_or("none"))
            .replace("{request}", request.as_deref().unwrap_or("none"))
            .replace("{scheduled}", &scheduled.map_or_else(|| "none".to_owned(), |at| at.to_string()))
            .replace("{version}", &text(&self.declaration["version"]))
    }

    /// `["await", WORD]` waits for a `flag` with the word.
    fn wait_for(&self, word: &str) -> Value {
        let sql = "SELECT word FROM flag WHERE word = $1".to_owned();
        let statement = Statement { sql, params: vec![SqlValue::Text(word.to_owned())] };
        loop {
            match database::query(&statement) {
                Ok(rows) if rows.values.is_empty() => std::thread::sleep(Duration::from_millis(20)),
                found => return outcome(found.map(|_| ())),
            }
        }
    }

    /// `["again"]` publishes or enqueues the cause of the work once more.
    fn again(&self) -> Value {
        let Cause { name, key, payload, is_event, .. } = &self.cause;
        if *is_event {
            let topic = name.rsplit('.').next().unwrap_or_default().to_owned();
            let (key, payload) = (key.clone(), payload.clone());
            return outcome(publisher::publish(&publisher::Event { topic, key, payload, audience: None }));
        }
        outcome(queue::enqueue(&job(&json!(name), &json!({ "raw": payload }), &Value::Null)))
    }

    /// `["times", NUMBER, STEP]` returns how often each outcome came.
    fn times(&mut self, step: &Value) -> Result<Value, End> {
        let mut counts = Map::new();
        for _ in 0..step[1].as_u64().unwrap() {
            self.step(&step[2])?;
            let outcome = self.outcomes.pop().unwrap_or_default();
            let kind = outcome["error"].as_str().unwrap_or("ok").to_owned();
            let count = counts.get(&kind).and_then(Value::as_u64).unwrap_or_default();
            counts.insert(kind, (count + 1).into());
        }
        Ok(counts.into())
    }

    /// `["must", STEP]` rejects the work if the step fails.
    fn must(&mut self, step: &Value) -> Result<Value, End> {
        self.step(step)?;
        let outcome = self.outcomes.pop().unwrap_or_default();
        match outcome["error"].as_str() {
            Some(error) => Err(End::Reject(error.to_owned())),
            None => Ok(outcome),
        }
    }

    fn nested(&mut self, steps: &Value) -> Result<Value, End> {
        self.act(steps)?;
        Ok(Value::Null)
    }
}

/// `["enqueue", NAME, PAYLOAD, { "delay_ms", "priority", "dedup_key" }]`
fn job(name: &Value, content: &Value, options: &Value) -> queue::Job {
    queue::Job {
        name: text(name),
        payload: payload(content),
        delay_ms: options["delay_ms"].as_u64().unwrap_or_default(),
        priority: match options["priority"].as_str() {
            Some("low") => queue::Priority::Low,
            Some("high") => queue::Priority::High,
            _ => queue::Priority::Normal,
        },
        dedup_key: long_text(&options["dedup_key"]),
    }
}

fn shown(status: &queue::JobStatus) -> Value {
    let state = match status.state {
        queue::State::Waiting => "waiting",
        queue::State::Running => "running",
        queue::State::Succeeded => "succeeded",
        queue::State::Failed => "failed",
        queue::State::Cancelled => "cancelled",
    };
    json!({
        "state": state,
        "attempts": status.attempts,
        "progress": status.progress,
        "output": status.output,
        "reason": status.reason,
    })
}
