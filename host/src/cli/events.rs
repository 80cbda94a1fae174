//! `wharf events`: the deliveries of events to plugins. `task` has the work.

use clap::Subcommand;

use super::failure::Failure;
use super::task::{DropCommand, Kind, ListCommand, OneCommand, QueuesCommand, RetryCommand};
use super::terminal::Terminal;

/// List and repair the deliveries of events.
#[derive(Debug, Subcommand)]
pub(super) enum EventsCommand {
    /// Count the deliveries by plugin and topic
    Queues(QueuesCommand),
    /// List deliveries without their payloads, newest first
    List(ListCommand),
    /// Show a delivery with its payload
    Show(OneCommand),
    /// Let a dead delivery run again, or all that fit
    Retry(RetryCommand),
    /// Delete a delivery that is dead or waits, or all that fit
    Drop(DropCommand),
}

impl EventsCommand {
    pub(super) fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        match self {
            Self::Queues(queues) => queues.run(Kind::Delivery, terminal),
            Self::List(list) => list.run(Kind::Delivery, terminal),
            Self::Show(one) => one.show(Kind::Delivery, terminal),
            Self::Retry(retry) => retry.run(Kind::Delivery, terminal),
            Self::Drop(drop) => drop.run(Kind::Delivery, terminal),
        }
    }
}
