//! The commands that `wharf events` and `wharf jobs` share: deliveries of events and jobs are counted, listed, shown, retried
//! and dropped alike.

use std::str::FromStr;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::api::{Api, Remote};
use super::failure::Failure;
use super::plugin::view::{members, printable, show_response, text, to_the_second};
use super::queue::{PageOptions, confirm_drop, hint_at_next, shortened, show_member, show_message, unnamed};
use super::terminal::Terminal;
use crate::id::{JobId, PluginName};
use crate::message::Priority;

/// The operator API's path of tasks.
const TASKS: &str = "/api/v1/tasks/";

/// The kind of tasks that a command is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Delivery,
    Job,
}

impl Kind {
    /// Returns the word of the API.
    fn word(self) -> &'static str {
        match self {
            Self::Delivery => "delivery",
            Self::Job => "job",
        }
    }

    /// Returns the name of the command.
    fn command(self) -> &'static str {
        match self {
            Self::Delivery => "events",
            Self::Job => "jobs",
        }
    }

    /// Refuses a task of the other kind.
    fn check(self, task: &Value) -> Result<(), Failure> {
        let other = match self {
            Self::Delivery => Self::Job,
            Self::Job => Self::Delivery,
        };
        if text(task, "kind") != other.word() {
            return Ok(());
        }
        let number = text(task, "seq");
        Err(Failure::new(format!("Task {number} is a {}: use `wharf {} show {number}`", other.word(), other.command())))
    }

    /// Returns a number of tasks as text.
    fn count(self, number: &str) -> String {
        match (self, number) {
            (_, "1") => format!("1 {}", self.word()),
            (Self::Delivery, _) => format!("{number} deliveries"),
            (Self::Job, _) => format!("{number} jobs"),
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum State {
    Ready,
    Blocked,
    Running,
    Done,
    Dead,
    Cancelled,
}

impl State {
    fn word(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Blocked => "blocked",
            Self::Running => "running",
            Self::Done => "done",
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Count them by plugin and by topic or job.
#[derive(Debug, Args)]
pub(super) struct QueuesCommand {
    #[command(flatten)]
    remote: Remote,
}

/// List them.
#[derive(Debug, Args)]
pub(super) struct ListCommand {
    /// The plugin that runs them
    #[arg(long)]
    plugin: Option<PluginName>,
    /// The topic or the job
    #[arg(long)]
    name: Option<String>,
    /// The state
    #[arg(long)]
    state: Option<State>,
    #[command(flatten)]
    page: PageOptions,
    #[command(flatten)]
    remote: Remote,
}

/// The number of a task, or the id of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reference {
    Number(i64),
    Job(JobId),
}

impl FromStr for Reference {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(number) = text.parse::<i64>().ok().filter(|number| *number > 0) {
            return Ok(Self::Number(number));
        }
        let id = text.parse().map(|id| Self::Job(JobId(id)));
        id.map_err(|_| "neither a number nor the id of a job; see `wharf events list` or `wharf jobs list`")
    }
}

impl Reference {
    /// Returns the number of the task.
    fn number(self, api: &Api) -> Result<i64, Failure> {
        let id = match self {
            Self::Number(number) => return Ok(number),
            Self::Job(id) => id,
        };
        let page = api.get(&format!("{TASKS}?job_id={id}"))?;
        let number = members(&page, "data").next().and_then(|task| task.get("seq")?.as_i64());
        number.ok_or_else(|| {
            let text = format!("There is no job {id}, or it was deleted after it had ended");
            Failure::new(text).next("`wharf jobs list` lists jobs.")
        })
    }
}

/// One task.
#[derive(Debug, Args)]
pub(super) struct OneCommand {
    /// The number, as the list shows it, or the id of a job
    number: Reference,
    #[command(flatten)]
    remote: Remote,
}

/// One task, or all that fit.
#[derive(Debug, Args)]
struct Which {
    /// The number, as the list shows it, or the id of a job
    #[arg(conflicts_with_all = ["plugin", "all", "name"])]
    number: Option<Reference>,
    /// All of this plugin
    #[arg(long, conflicts_with = "all")]
    plugin: Option<PluginName>,
    /// All of all plugins
    #[arg(long)]
    all: bool,
    /// Only those of this topic or job
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

/// Let a dead task run again, or all that fit.
#[derive(Debug, Args)]
pub(super) struct RetryCommand {
    #[command(flatten)]
    which: Which,
}

/// Delete a task that is dead or waits, or all that fit.
#[derive(Debug, Args)]
pub(super) struct DropCommand {
    #[command(flatten)]
    which: Which,
    /// The state of those that are deleted [default: dead]
    #[arg(long, conflicts_with = "number")]
    state: Option<DroppedState>,
    /// Do not ask before many are deleted
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum DroppedState {
    Dead,
    Ready,
    Blocked,
}

impl DroppedState {
    fn word(self) -> &'static str {
        match self {
            Self::Dead => "dead",
            Self::Ready => "ready",
            Self::Blocked => "blocked",
        }
    }
}

impl QueuesCommand {
    pub(super) fn run(self, kind: Kind, terminal: &Terminal) -> Result<(), Failure> {
        let mut response = Api::open(&self.remote)?.get("/api/v1/queues")?;
        if let Some(queues) = response.get_mut("data").and_then(Value::as_array_mut) {
            queues.retain(|queue| text(queue, "kind") == kind.word());
        }
        show_response(&response, terminal, |response, terminal| queues(response, kind, terminal));
        Ok(())
    }
}

fn queues(response: &Value, kind: Kind, terminal: &Terminal) {
    let row = |queue: &Value| {
        let oldest = queue.get("oldest_seconds").and_then(Value::as_u64);
        let oldest = oldest.map(|seconds| format!("{seconds} s")).unwrap_or_default();
        let [ready, blocked, running, dead] = ["ready", "blocked", "running", "dead"].map(|name| text(queue, name));
        let [name, priority] = name_and_priority(text(queue, "queue"));
        [name, priority, ready, blocked, running, dead, oldest]
    };
    let rows: Vec<_> = members(response, "data").map(row).collect();
    if rows.is_empty() {
        terminal.line(match kind {
            Kind::Delivery => "No delivery waits, runs or is dead",
            Kind::Job => "No job waits, runs or is dead",
        });
        return;
    }
    terminal.table(["QUEUE", "PRIORITY", "READY", "BLOCKED", "RUNNING", "DEAD", "OLDEST DUE FOR"], &rows);
}

/// Splits the name of a queue, which ends with the digit of its priority, and returns the word of the priority.
fn name_and_priority(queue: String) -> [String; 2] {
    let of_digit = |text: &str| Priority::ALL.into_iter().find(|priority| text.chars().eq([priority.digit()]));
    match queue.rsplit_once('/').and_then(|(name, digit)| Some((name, of_digit(digit)?))) {
        Some((name, priority)) => [name.to_owned(), priority.as_str().to_owned()],
        // Of a later version of the host.
        None => [queue, String::new()],
    }
}

impl ListCommand {
    /// Returns the path of the page.
    fn path(&self, kind: Kind) -> String {
        let query = self.page.query(&[
            ("kind", Some(kind.word())),
            ("plugin", self.plugin.as_ref().map(PluginName::as_str)),
            ("name", self.name.as_deref()),
            ("state", self.state.map(State::word)),
        ]);
        format!("{TASKS}?{query}")
    }

    pub(super) fn run(self, kind: Kind, terminal: &Terminal) -> Result<(), Failure> {
        let page = Api::open(&self.remote)?.get(&self.path(kind))?;
        show_response(&page, terminal, |page, terminal| list(page, kind, terminal));
        Ok(())
    }
}

fn list(page: &Value, kind: Kind, terminal: &Terminal) {
    let rows: Vec<_> = members(page, "data").map(row).collect();
    terminal.table(["NUMBER", "PLUGIN", "NAME", "STATE", "ATTEMPTS", "ADDED (UTC)", "DUE (UTC)", "REASON"], &rows);
    hint_at_next(page, terminal);
    if rows.iter().any(|[_, _, _, state, ..]| state == "dead") {
        terminal.hint(format!("`wharf {} show NUMBER` shows one in full, and `retry` runs it again", kind.command()));
    }
}

/// Returns whether the task ended without a failure. Its reason then concerns an earlier attempt.
fn ended_without_failure(task: &Value) -> bool {
    matches!(text(task, "state").as_str(), "done" | "cancelled")
}

/// Returns the beginning of the reason of the latest failure, unless the task ended without a failure.
fn reason_in_list(task: &Value) -> String {
    if ended_without_failure(task) { String::new() } else { shortened(text(task, "reason")) }
}

/// Returns the reason of the latest failure, and says so if the task ended without a failure.
fn reason_in_full(task: &Value) -> String {
    let reason = text(task, "reason");
    if reason.is_empty() || !ended_without_failure(task) { reason } else { format!("{reason} (an earlier failure)") }
}

fn row(task: &Value) -> [String; 8] {
    let [created, due] = ["created_at", "due_at"].map(|name| to_the_second(&text(task, name)));
    let state = text(task, "state");
    let due = if matches!(state.as_str(), "ready" | "blocked") { due } else { String::new() };
    let reason = reason_in_list(task);
    [text(task, "seq"), text(task, "plugin"), text(task, "name"), state, text(task, "attempts"), created, due, reason]
}

impl OneCommand {
    /// Shows the task.
    pub(super) fn show(self, kind: Kind, terminal: &Terminal) -> Result<(), Failure> {
        let api = Api::open(&self.remote)?;
        let task = api.get(&format!("{TASKS}{}", self.number.number(&api)?))?;
        kind.check(&task)?;
        show_response(&task, terminal, show);
        Ok(())
    }

    /// Cancels the job.
    pub(super) fn cancel(self, terminal: &Terminal) -> Result<(), Failure> {
        let api = Api::open(&self.remote)?;
        let response = api.post(&format!("{TASKS}{}/cancel", self.number.number(&api)?))?;
        show_response(&response, terminal, show_message);
        Ok(())
    }
}

fn show(task: &Value, terminal: &Terminal) {
    let row = |name: &str, value: String| show_member(name, &value, terminal);
    let title = format!("{} {} of {}", text(task, "kind"), text(task, "name"), text(task, "plugin"));
    terminal.line(terminal.bold(&format!("{} {title}", text(task, "seq"))));
    row("state", text(task, "state"));
    row("reason", reason_in_full(task));
    row("attempts", text(task, "attempts"));
    row("event", text(task, "event_id"));
    row("source", text(task, "source"));
    row("key", text(task, "event_key"));
    row("job", text(task, "job_id"));
    row("schedule", text(task, "schedule"));
    row("added", to_the_second(&text(task, "created_at")));
    row("due", to_the_second(&text(task, "due_at")));
    row("ended", to_the_second(&text(task, "ended_at")));
    row("request", text(task, "request_id"));
    row("run by", text(task, "owner"));
    let progress = [text(task, "progress_done"), text(task, "progress_total")];
    if progress.iter().all(|part| !part.is_empty()) {
        row("progress", progress.join(" of "));
    }
    row("output", text(task, "output"));
    let payload = task.get("payload").filter(|payload| !payload.is_null());
    row("payload", payload.map(|payload| printable(&payload.to_string())).unwrap_or_default());
}

impl Which {
    /// Refuses a command that names no task.
    fn check(&self, kind: Kind, verb: &str) -> Result<(), Failure> {
        if self.number.is_some() || self.plugin.is_some() || self.all {
            return Ok(());
        }
        let command = kind.command();
        let forms = ["NUMBER", "--plugin NAME", "--all"].map(|form| format!("wharf {command} {verb} {form}"));
        Err(unnamed(kind.word(), &forms))
    }

    /// Returns the filter of the API.
    fn filter(&self, kind: Kind) -> Value {
        json!({ "plugin": self.plugin, "all": self.all, "kind": kind.word(), "name": self.name })
    }

    /// Returns the tasks that the filter describes, for a question.
    fn described(&self, kind: Kind, state: &str) -> String {
        let name = self.name.as_ref().map(|name| format!(" '{}'", printable(name))).unwrap_or_default();
        let plugin = self.plugin.as_ref().map_or_else(|| "all plugins".to_owned(), ToString::to_string);
        let tasks = if kind == Kind::Job { "jobs" } else { "deliveries" };
        format!("all {state} {tasks}{name} of {plugin}")
    }
}

/// Prints the result of a change of many.
fn changed(response: &Value, done: &str, kind: Kind, terminal: &Terminal) {
    terminal.line(format!("{done} {}", kind.count(&text(response, "changed"))));
}

impl RetryCommand {
    pub(super) fn run(self, kind: Kind, terminal: &Terminal) -> Result<(), Failure> {
        let which = self.which;
        which.check(kind, "retry")?;
        let api = Api::open(&which.remote)?;
        if let Some(number) = which.number {
            let number = number.number(&api)?;
            show_response(&api.post(&format!("{TASKS}{number}/retry?kind={}", kind.word()))?, terminal, show_message);
            return Ok(());
        }
        let response = api.post_json(&format!("{TASKS}bulk/retry"), &which.filter(kind))?;
        show_response(&response, terminal, |response, terminal| changed(response, "Retried", kind, terminal));
        Ok(())
    }
}

impl DropCommand {
    pub(super) fn run(self, kind: Kind, terminal: &Terminal) -> Result<(), Failure> {
        let Self { which, state, yes } = self;
        which.check(kind, "drop")?;
        let api = Api::open(&which.remote)?;
        if let Some(number) = which.number {
            let number = number.number(&api)?;
            show_response(&api.delete(&format!("{TASKS}{number}?kind={}", kind.word()))?, terminal, show_message);
            return Ok(());
        }
        let state = state.unwrap_or(DroppedState::Dead).word();
        if !yes {
            confirm_drop(&which.described(kind, state), &api, terminal)?;
        }
        let mut filter = which.filter(kind);
        if let Some(filter) = filter.as_object_mut() {
            filter.insert("state".to_owned(), json!(state));
        }
        let response = api.post_json(&format!("{TASKS}bulk/drop"), &filter)?;
        show_response(&response, terminal, |response, terminal| changed(response, "Dropped", kind, terminal));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_the_beginning_of_the_reason_and_the_time_of_a_task_that_waits() {
        let task = json!({ "seq": 7, "plugin": "items", "name": "items.created", "state": "dead", "attempts": 3,
            "created_at": "2026-11-30T08:00:00.5Z", "due_at": "2026-11-30T08:01:00Z", "reason": "é\n".repeat(50) });
        let [number, plugin, name, state, attempts, created, due, reason] = row(&task);
        assert_eq!([number, plugin, name, state, attempts], ["7", "items", "items.created", "dead", "3"]);
        assert_eq!([created.as_str(), due.as_str()], ["2026-11-30 08:00:00", ""]);
        assert!(reason.ends_with('…') && reason.chars().count() < 100 && !reason.contains('\n'), "{reason}");
        let [.., due, reason] = row(&json!({ "state": "ready", "due_at": "2026-11-30T08:01:00Z", "reason": "late" }));
        assert_eq!([due.as_str(), reason.as_str()], ["2026-11-30 08:01:00", "late"]);
    }

    #[test]
    fn the_reason_of_a_job_that_ended_without_a_failure_is_that_of_an_earlier_attempt() {
        let earlier = "late (an earlier failure)";
        for (state, listed, shown) in
            [("running", "late", "late"), ("dead", "late", "late"), ("done", "", earlier), ("cancelled", "", earlier)]
        {
            let task = json!({ "state": state, "reason": "late" });
            let [.., reason] = row(&task);
            assert_eq!((reason.as_str(), reason_in_full(&task).as_str()), (listed, shown), "{state}");
        }
        assert_eq!(reason_in_full(&json!({ "state": "done", "reason": null })), "");
    }

    #[test]
    fn a_queue_is_shown_with_the_word_of_its_priority() {
        let shown = |queue: &str| name_and_priority(queue.to_owned());
        assert_eq!(shown("items/reindex/0"), ["items/reindex", "low"]);
        assert_eq!(shown("items/items.created/1"), ["items/items.created", "normal"]);
        assert_eq!(shown("items/reindex/2"), ["items/reindex", "high"]);
        assert_eq!(shown("items/reindex/21"), ["items/reindex/21", ""]);
    }

    #[test]
    fn a_list_is_asked_for_with_its_filters() {
        let list = ListCommand {
            plugin: Some("items".parse().unwrap()),
            name: Some("user.deleted".to_owned()),
            state: Some(State::Dead),
            page: PageOptions { oldest: true, after: Some(7), limit: 5 },
            remote: Remote { url: String::new() },
        };
        let expected =
            "/api/v1/tasks/?limit=5&order=oldest&kind=delivery&plugin=items&name=user.deleted&state=dead&cursor=7";
        assert_eq!(list.path(Kind::Delivery), expected);
    }

    #[test]
    fn a_task_is_named_by_its_number_and_a_job_by_its_id_too() {
        let id = "5f0b5c3e-58f5-4f7c-8f4e-0c3f7c8b0d11";
        assert_eq!("24".parse::<Reference>(), Ok(Reference::Number(24)));
        assert_eq!(id.parse::<Reference>(), Ok(Reference::Job(JobId(id.parse().unwrap()))));
        for text in ["0", "-1", "x", "99999999999999999999"] {
            assert!(text.parse::<Reference>().unwrap_err().contains("`wharf jobs list`"), "{text}");
        }
    }

    #[test]
    fn numbers_of_tasks_are_words_for_people() {
        let counts =
            [Kind::Delivery.count("1"), Kind::Delivery.count("0"), Kind::Job.count("1"), Kind::Job.count("20")];
        assert_eq!(counts, ["1 delivery", "0 deliveries", "1 job", "20 jobs"]);
    }
}
