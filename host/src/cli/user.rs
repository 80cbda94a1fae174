//! `wharf user`: accounts.

mod transfer;

use clap::Subcommand;

use self::transfer::{ExportCommand, ImportCommand};
use super::failure::Failure;
use super::terminal::Terminal;

/// Import and export accounts.
#[derive(Debug, Subcommand)]
pub(super) enum UserCommand {
    /// Add accounts with their hashes from JSON lines, on the machine of the host
    Import(ImportCommand),
    /// Write all accounts with their hashes as JSON lines, on the machine of the host
    Export(ExportCommand),
}

impl UserCommand {
    pub(super) fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        match self {
            Self::Import(import) => import.run(terminal),
            Self::Export(export) => export.run(terminal),
        }
    }
}
