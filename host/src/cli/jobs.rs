//! `wharf jobs`: the jobs of plugins. `task` has the work.

use clap::Subcommand;

use super::failure::Failure;
use super::task::{DropCommand, Kind, ListCommand, OneCommand, QueuesCommand, RetryCommand};
use super::terminal::Terminal;

/// List, stop and repair the jobs of plugins.
#[derive(Debug, Subcommand)]
pub(super) enum JobsCommand {
    /// Count the jobs by plugin and name
    Queues(QueuesCommand),
    /// List jobs without their payloads, newest first
    List(ListCommand),
    /// Show a job with its payload
    Show(OneCommand),
    /// Let a dead job run again, or all that fit
    Retry(RetryCommand),
    /// Stop a job that waits or runs
    Cancel(OneCommand),
    /// Delete a job that is dead or waits, or all that fit
    Drop(DropCommand),
}

impl JobsCommand {
    pub(super) fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        match self {
            Self::Queues(queues) => queues.run(Kind::Job, terminal),
            Self::List(list) => list.run(Kind::Job, terminal),
            Self::Show(one) => one.show(Kind::Job, terminal),
            Self::Retry(retry) => retry.run(Kind::Job, terminal),
            Self::Cancel(one) => one.cancel(terminal),
            Self::Drop(drop) => drop.run(Kind::Job, terminal),
        }
    }
}
