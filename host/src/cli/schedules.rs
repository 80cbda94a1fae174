//! `wharf schedules`: the schedules of plugins.

use clap::{Args, Subcommand};
use serde_json::Value;

use super::api::{Api, Remote};
use super::failure::Failure;
use super::plugin::view::{members, show_response, text, to_the_second};
use super::terminal::Terminal;
use crate::id::PluginName;

const SCHEDULES: &str = "/api/v1/schedules/";

/// List, pause and run the schedules of plugins.
#[derive(Debug, Subcommand)]
pub(super) enum SchedulesCommand {
    /// List the schedules with their next times
    List {
        #[command(flatten)]
        remote: Remote,
    },
    /// Pause a schedule; its job does not run any more
    Pause(NamedSchedule),
    /// Resume a schedule at its next time
    Resume(NamedSchedule),
    /// Enqueue the job of a schedule now
    Run(NamedSchedule),
}

/// One schedule.
#[derive(Debug, Args)]
pub(super) struct NamedSchedule {
    /// The plugin
    plugin: PluginName,
    // Names of schedules have the syntax of those of plugins.
    /// The schedule
    name: PluginName,
    #[command(flatten)]
    remote: Remote,
}

impl SchedulesCommand {
    pub(super) fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        match self {
            Self::List { remote } => {
                show_response(&Api::open(&remote)?.get(SCHEDULES)?, terminal, show);
                Ok(())
            }
            Self::Pause(schedule) => schedule.post("pause", terminal),
            Self::Resume(schedule) => schedule.post("resume", terminal),
            Self::Run(schedule) => schedule.post("run", terminal),
        }
    }
}

impl NamedSchedule {
    fn post(&self, operation: &str, terminal: &Terminal) -> Result<(), Failure> {
        let path = format!("{SCHEDULES}{}/{}/{operation}", self.plugin, self.name);
        let response = Api::open(&self.remote)?.post(&path)?;
        show_response(&response, terminal, |response, terminal| terminal.line(text(response, "message")));
        Ok(())
    }
}

fn show(response: &Value, terminal: &Terminal) {
    let row = |schedule: &Value| {
        let [plugin, name, job, cron, zone] =
            ["plugin", "name", "job", "cron", "time_zone"].map(|name| text(schedule, name));
        let is_paused = schedule.get("paused").and_then(Value::as_bool).unwrap_or_default();
        let [next, last] = ["next_at", "last_at"].map(|name| to_the_second(&text(schedule, name)));
        [plugin, name, job, cron, zone, if is_paused { "paused".to_owned() } else { next }, last]
    };
    let rows: Vec<_> = members(response, "data").map(row).collect();
    if rows.is_empty() {
        terminal.line("No live plugin has a schedule");
    } else {
        terminal.table(["PLUGIN", "NAME", "JOB", "CRON", "TIME ZONE", "NEXT (UTC)", "LAST (UTC)"], &rows);
    }
}
