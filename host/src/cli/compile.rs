//! `wharf compile-component`: what the host runs to compile a component, never typed by people. Standard input and output
//! are for the component and its machine code; nothing is read from the environment or the configuration.

use std::process::ExitCode;

use clap::Args;

use super::terminal::Terminal;
use crate::plugin::compile::program::{self, Bounds};

/// Compile the component on standard input to standard output.
#[derive(Debug, Args)]
pub(super) struct Compile {
    /// Address space of this process
    #[arg(long)]
    memory_bytes: u64,
    /// CPU seconds of this process
    #[arg(long)]
    cpu_seconds: u64,
    /// Length of the component; what follows it is not read, but its end ends this process
    #[arg(long)]
    component_bytes: u64,
}

impl Compile {
    pub(super) fn run(self, terminal: &Terminal) -> ExitCode {
        let Self { memory_bytes, cpu_seconds, component_bytes } = self;
        match program::run(&Bounds { memory_bytes, cpu_seconds, component_bytes }) {
            Ok(()) => ExitCode::SUCCESS,
            Err(ended) => {
                terminal.note(ended.to_string());
                ExitCode::from(ended.status())
            }
        }
    }
}
