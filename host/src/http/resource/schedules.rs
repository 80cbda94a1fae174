//! The schedules of plugins: a list, and pause, resume and run-now. `plugin::schedules` owns their times.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};

use crate::clock::Timestamp;
use crate::db::audit::{self, Entry};
use crate::error::{Error, Result, code};
use crate::http::Host;
use crate::http::call::Call;
use crate::http::host_route::HostRoute;
use crate::http::reply::{Message, Reply};
use crate::id::{JobId, PluginName};
use crate::permission::HostPermission;
use crate::plugin::schedules::{EnqueuedJob, Schedule};

const TAG: &str = "schedules";

/// Returns the routes of schedules.
pub(super) fn routes() -> Vec<HostRoute<Host>> {
    let operate = |route: HostRoute<Host>, function: &str, summary: &str| {
        let route = route.run_to_completion().permission(HostPermission::TasksOperate).named(TAG, function, summary);
        // Names of schedules have the syntax of those of plugins.
        route.path::<PluginName>("plugin").path::<PluginName>("name")
    };
    vec![
        HostRoute::get("/api/v1/schedules/", read_schedules)
            .permission(HostPermission::TasksRead)
            .named(TAG, "read_schedules", "Read Schedules")
            .described("Lists the schedules of the live releases, by plugin and name.")
            .replies::<SchedulesPublic>(),
        operate(
            HostRoute::post("/api/v1/schedules/{plugin}/{name}/pause", pause_schedule),
            "pause_schedule",
            "Pause Schedule",
        )
        .described(
            "Its job does not run any more until the schedule is resumed. A job that waits or runs is not stopped.",
        )
        .replies::<Message>(),
        operate(
            HostRoute::post("/api/v1/schedules/{plugin}/{name}/resume", resume_schedule),
            "resume_schedule",
            "Resume Schedule",
        )
        .described("Its job runs at the next time. Those that passed meanwhile are skipped.")
        .replies::<Message>(),
        operate(HostRoute::post("/api/v1/schedules/{plugin}/{name}/run", run_schedule), "run_schedule", "Run Schedule")
            .described(
                "Enqueues its job now, also while the schedule is paused. The next time stays as it is. The job waits while \
                 the plugin is paused or not served.",
            )
            .replies::<Enqueued>(),
    ]
}

/// A schedule of a live release.
#[derive(Serialize, JsonSchema)]
struct SchedulePublic {
    plugin: PluginName,
    name: String,
    /// Five fields: minute, hour, day of the month, month, day of the week.
    cron: String,
    /// A name of the IANA time zone database.
    time_zone: String,
    /// The rule for times that passed while the host did not run or the plugin was paused: `skip` them, or run
    /// `once`.
    missed: &'static str,
    /// The job, and its payload.
    job: String,
    payload: Value,
    /// Whether an operator paused it.
    paused: bool,
    /// The next time; null while it is paused, and if there is none.
    next_at: Option<Timestamp>,
    /// The latest time at which the job was enqueued.
    last_at: Option<Timestamp>,
}

impl From<Schedule> for SchedulePublic {
    fn from(schedule: Schedule) -> Self {
        let Schedule { plugin, declared, next_at, last_at, paused } = schedule;
        let payload = serde_json::from_str(&declared.payload).unwrap_or(Value::String(declared.payload));
        Self {
            plugin,
            name: declared.name,
            cron: declared.cron,
            time_zone: declared.time_zone,
            missed: declared.missed.as_str(),
            job: declared.job,
            payload,
            paused,
            next_at: next_at.filter(|_| !paused),
            last_at,
        }
    }
}

#[derive(Serialize, JsonSchema)]
struct SchedulesPublic {
    data: Vec<SchedulePublic>,
}

async fn read_schedules(host: Arc<Host>, _: Call) -> Result<Reply> {
    let schedules = host.plugins.list_schedules().await?;
    Reply::json(&SchedulesPublic { data: schedules.into_iter().map(SchedulePublic::from).collect() })
}

/// The job that a schedule enqueued.
#[derive(Serialize, JsonSchema)]
struct Enqueued {
    /// The result, for people.
    message: String,
    /// The id of the job.
    job_id: JobId,
}

fn schedule_not_found(plugin: &PluginName, name: &PluginName) -> Error {
    Error::not_found(code::SCHEDULE_NOT_FOUND, format!("'{plugin}' has no schedule '{name}'"))
}

/// Appends the audit entry of a change. If this fails, the change is made and can be repeated.
async fn record(host: &Host, call: &Call, action: &str, (plugin, name): (&PluginName, &PluginName)) -> Result<()> {
    let object = format!("schedule:{plugin}/{name}");
    let entry = Entry::of(&call.initiator(), host.clock.now(), action, object);
    audit::insert(&host.db, &entry.with_detail(json!({ "plugin": plugin, "schedule": name }))).await
}

async fn set_paused(host: &Host, call: &Call, paused: bool) -> Result<Reply> {
    let (plugin, name): (PluginName, PluginName) = (call.path("plugin")?, call.path("name")?);
    if !host.plugins.pause_schedule(&plugin, name.as_str(), paused).await? {
        return Err(schedule_not_found(&plugin, &name));
    }
    let (action, done) = if paused { ("schedule.pause", "is paused") } else { ("schedule.resume", "runs again") };
    record(host, call, action, (&plugin, &name)).await?;
    Reply::message(&format!("Schedule '{name}' of '{plugin}' {done}"))
}

async fn pause_schedule(host: Arc<Host>, call: Call) -> Result<Reply> {
    set_paused(&host, &call, true).await
}

async fn resume_schedule(host: Arc<Host>, call: Call) -> Result<Reply> {
    set_paused(&host, &call, false).await
}

async fn run_schedule(host: Arc<Host>, call: Call) -> Result<Reply> {
    let (plugin, name): (PluginName, PluginName) = (call.path("plugin")?, call.path("name")?);
    let job = host.plugins.run_schedule_now(&plugin, name.as_str()).await?;
    let EnqueuedJob { id, waits_because } = job.ok_or_else(|| schedule_not_found(&plugin, &name))?;
    record(&host, &call, "schedule.run", (&plugin, &name)).await?;
    let waits = waits_because.map(|reason| format!("; it waits, because {reason}")).unwrap_or_default();
    let message = format!("The job {id} of schedule '{name}' of '{plugin}' was enqueued{waits}");
    Reply::json(&Enqueued { message, job_id: id })
}
