//! Tasks, which are deliveries of events and jobs: lists with filters, counts, and changes of one or of many. A payload can
//! be personal data, so only the route of a single task has it.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::pagination::{self, Order, default_limit};
use crate::db::plugin as plugins;
use crate::db::task::operator::change::{self, Change};
use crate::db::task::operator::{self, Filter, Page, Queue, Task};
use crate::error::{Error, FieldError, Result};
use crate::http::Host;
use crate::http::call::Call;
use crate::http::host_route::HostRoute;
use crate::http::reply::{Changed, Message, Reply};
use crate::id::{JobId, PluginName};
use crate::permission::HostPermission;
use crate::plugin::refusal::plugin_not_found;

const TAG: &str = "tasks";

/// Returns the routes of tasks.
pub(super) fn routes() -> Vec<HostRoute<Host>> {
    let read = |route: HostRoute<Host>| route.permission(HostPermission::TasksRead);
    let operate = |route: HostRoute<Host>| route.permission(HostPermission::TasksOperate).run_to_completion();
    vec![
        read(HostRoute::get("/api/v1/tasks/", read_tasks))
            .named(TAG, "read_tasks", "Read Tasks")
            .described("Lists the deliveries of events and the jobs that fit all given filters, without their payloads.")
            .query::<TasksQuery>()
            .replies::<TasksPage>(),
        read(HostRoute::get("/api/v1/queues", read_queues))
            .named(TAG, "read_queues", "Read Queues")
            .described("Counts the tasks that have not ended well, by plugin and by topic or job.")
            .replies::<QueuesPublic>(),
        read(HostRoute::get("/api/v1/tasks/{seq}", read_task))
            .named(TAG, "read_task", "Read Task")
            .described("Returns a task with its payload.")
            .path::<i64>("seq")
            .replies::<TaskDetail>(),
        operate(HostRoute::post("/api/v1/tasks/{seq}/retry", retry_task))
            .named(TAG, "retry_task", "Retry Task")
            .described(
                "Makes a dead task wait again, with all its attempts. A delivery gets its old place among those with its \
                 key: later ones wait for it.",
            )
            .path::<i64>("seq")
            .query::<OfKind>()
            .replies::<Message>(),
        operate(HostRoute::post("/api/v1/tasks/{seq}/cancel", cancel_task))
            .named(TAG, "cancel_task", "Cancel Task")
            .described("Stops a job that waits or runs. Its status stays for a day.")
            .path::<i64>("seq")
            .replies::<Message>(),
        operate(HostRoute::delete("/api/v1/tasks/{seq}", drop_task))
            .named(TAG, "drop_task", "Drop Task")
            .described("Deletes a task that is dead or waits. The next delivery with its key can then start.")
            .path::<i64>("seq")
            .query::<OfKind>()
            .replies::<Message>(),
        operate(HostRoute::post("/api/v1/tasks/bulk/retry", retry_tasks))
            .named(TAG, "retry_tasks", "Retry Tasks")
            .described(
                "Makes all dead tasks that fit wait again. A job stays dead if one with its deduplication key waits or \
                 runs. The plugin must exist or have tasks.",
            )
            .json::<ManyTasks>()
            .replies::<Changed>(),
        operate(HostRoute::post("/api/v1/tasks/bulk/drop", drop_tasks))
            .named(TAG, "drop_tasks", "Drop Tasks")
            .described(
                "Deletes all tasks that fit, unless `state` says otherwise the dead ones. The plugin must exist or have \
                 tasks.",
            )
            .json::<TasksDrop>()
            .replies::<Changed>(),
    ]
}

#[derive(Deserialize, JsonSchema, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
enum Kind {
    Delivery,
    Job,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Delivery => "delivery",
            Self::Job => "job",
        }
    }
}

#[derive(Deserialize, JsonSchema, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
enum State {
    Ready,
    Blocked,
    Running,
    Done,
    Dead,
    Cancelled,
}

impl State {
    fn as_str(self) -> &'static str {
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

#[derive(Deserialize, JsonSchema)]
struct TasksQuery {
    /// The plugin that runs them.
    #[serde(default)]
    #[schemars(with = "PluginName")]
    plugin: Option<PluginName>,
    /// `delivery` or `job`.
    #[serde(default)]
    #[schemars(with = "Kind")]
    kind: Option<Kind>,
    /// The state.
    #[serde(default)]
    #[schemars(with = "State")]
    state: Option<State>,
    /// The topic, such as `items.created`, or the job.
    #[serde(default)]
    #[schemars(with = "String", regex(pattern = r"^[a-z0-9.-]{1,81}$"))]
    name: Option<String>,
    /// The id of a job.
    #[serde(default)]
    #[schemars(with = "JobId")]
    job_id: Option<JobId>,
    /// The tasks that come first: `newest` (the default) or `oldest`.
    #[serde(default)]
    #[schemars(with = "Order")]
    order: Option<Order>,
    /// The `next` of the page before.
    #[serde(default)]
    #[schemars(with = "i64")]
    cursor: Option<i64>,
    #[serde(default = "default_limit")]
    #[schemars(range(min = 1, max = 1000))]
    limit: i64,
}

#[derive(Serialize, JsonSchema)]
struct TasksPage {
    data: Vec<Task>,
    /// The `cursor` of the next page; null at the end.
    next: Option<i64>,
}

/// A task with its payload.
#[derive(Serialize, JsonSchema)]
struct TaskDetail {
    #[serde(flatten)]
    task: Task,
    /// The plugin that published the event of a delivery; null: the host.
    source: Option<String>,
    /// The payload of the event or of the job.
    payload: Value,
    /// The output of a job that succeeded.
    output: Option<String>,
    /// The process that runs it, as `NODE/RUN`.
    owner: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct QueuePublic {
    #[serde(flatten)]
    queue: Queue,
    /// How many seconds the oldest of those that have not ended has been due; null: none is due.
    oldest_seconds: Option<u64>,
}

#[derive(Serialize, JsonSchema)]
struct QueuesPublic {
    data: Vec<QueuePublic>,
}

/// The kind that a task must have to be changed.
#[derive(Deserialize, JsonSchema)]
struct OfKind {
    /// `delivery` or `job`: a task of the other kind is not changed.
    #[serde(default)]
    #[schemars(with = "Kind")]
    kind: Option<Kind>,
}

/// The tasks that a change of many is about.
#[derive(Deserialize, JsonSchema)]
struct ManyTasks {
    /// The plugin that runs them. Required unless `all` is true.
    #[serde(default)]
    plugin: Option<PluginName>,
    /// Those of all plugins.
    #[serde(default)]
    all: bool,
    /// `delivery` or `job`.
    #[serde(default)]
    kind: Option<Kind>,
    /// The topic or the job.
    #[serde(default)]
    #[schemars(regex(pattern = r"^[a-z0-9.-]{1,81}$"))]
    name: Option<String>,
}

/// The tasks to delete.
#[derive(Deserialize, JsonSchema)]
struct TasksDrop {
    #[serde(flatten)]
    tasks: ManyTasks,
    /// The state: `dead` (the default), `ready` or `blocked`.
    #[serde(default)]
    state: Option<DroppedState>,
}

#[derive(Deserialize, JsonSchema, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
enum DroppedState {
    Dead,
    Ready,
    Blocked,
}

impl ManyTasks {
    /// Returns the filter. A body that names nothing must not change all tasks.
    fn filter(self) -> Result<Filter> {
        let Self { plugin, all, kind, name } = self;
        if plugin.is_some() == all {
            let text = "Name a plugin, or set all to true for those of all plugins";
            return Err(Error::invalid(vec![FieldError::new("value_error", ["body", "plugin"], text)]));
        }
        Ok(Filter { plugin, kind: kind.map(Kind::as_str), name, job: None })
    }
}

async fn read_tasks(host: Arc<Host>, call: Call) -> Result<Reply> {
    let query: TasksQuery = call.query()?;
    let TasksQuery { plugin, name, job_id: job, .. } = query;
    let filter = Filter { plugin, kind: query.kind.map(Kind::as_str), name, job };
    let oldest_first = query.order == Some(Order::Oldest);
    let page = Page { after: query.cursor, oldest_first, limit: query.limit };
    let data = operator::list(&host.db, &filter, query.state.map(State::as_str), page).await?;
    let next = pagination::next(&data, query.limit, |task| task.seq);
    Reply::json(&TasksPage { data, next })
}

async fn read_queues(host: Arc<Host>, _: Call) -> Result<Reply> {
    let now = host.clock.now();
    let queues = operator::queues(&host.db).await?;
    let data = queues.into_iter().map(|queue| {
        let oldest_seconds = queue.oldest(now).map(|age| age.as_secs());
        QueuePublic { queue, oldest_seconds }
    });
    Reply::json(&QueuesPublic { data: data.collect() })
}

async fn read_task(host: Arc<Host>, call: Call) -> Result<Reply> {
    let (task, content) = operator::find(&host.db, call.path("seq")?).await?;
    // It was checked when it was stored.
    let payload = content.payload.map(|text| serde_json::from_str(&text).unwrap_or(Value::String(text)));
    Reply::json(&TaskDetail {
        task,
        source: content.source,
        payload: payload.unwrap_or_default(),
        output: content.output,
        owner: content.owner,
    })
}

async fn change_one(host: &Host, call: &Call, change: Change, kind: Option<Kind>, done: &str) -> Result<Reply> {
    let task = (call.path("seq")?, kind.map(Kind::as_str));
    let title = change::change_one(&host.db, change, task, &call.initiator(), host.clock.now()).await?;
    Reply::message(&format!("{title} {done}"))
}

async fn retry_task(host: Arc<Host>, call: Call) -> Result<Reply> {
    let OfKind { kind } = call.query()?;
    change_one(&host, &call, Change::Retry, kind, "waits again").await
}

async fn cancel_task(host: Arc<Host>, call: Call) -> Result<Reply> {
    change_one(&host, &call, Change::Cancel, None, "was cancelled").await
}

async fn drop_task(host: Arc<Host>, call: Call) -> Result<Reply> {
    let OfKind { kind } = call.query()?;
    change_one(&host, &call, Change::Drop, kind, "was dropped").await
}

async fn change_all(host: &Host, call: &Call, change: Change, filter: &Filter, state: &'static str) -> Result<Reply> {
    let changed = change::change_all(&host.db, change, filter, state, &call.initiator(), host.clock.now()).await?;
    if changed == 0
        && let Some(plugin) = &filter.plugin
        && plugins::find(&host.db, plugin).await?.is_none()
    {
        // Tasks can outlive the record of their plugin.
        let of_plugin = Filter { plugin: Some(plugin.clone()), ..Filter::default() };
        let page = Page { after: None, oldest_first: false, limit: 1 };
        if operator::list(&host.db, &of_plugin, None, page).await?.is_empty() {
            return Err(plugin_not_found(plugin));
        }
    }
    Reply::json(&Changed { changed })
}

async fn retry_tasks(host: Arc<Host>, mut call: Call) -> Result<Reply> {
    let tasks: ManyTasks = call.json()?;
    change_all(&host, &call, Change::Retry, &tasks.filter()?, "dead").await
}

async fn drop_tasks(host: Arc<Host>, mut call: Call) -> Result<Reply> {
    let TasksDrop { tasks, state } = call.json()?;
    let state = match state {
        None | Some(DroppedState::Dead) => "dead",
        Some(DroppedState::Ready) => "ready",
        Some(DroppedState::Blocked) => "blocked",
    };
    change_all(&host, &call, Change::Drop, &tasks.filter()?, state).await
}
