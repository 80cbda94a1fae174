//! `wharf compile-component`: the child process in which the host compiles a component; people never run it. It reads
//! the component from standard input and writes machine code to standard output. It reads neither the environment nor
//! the configuration.

use std::process::ExitCode;

use clap::Args;

use super::terminal::Terminal;
use crate::plugin::compile::program::{self, ChildLimits};

/// Compile the component on standard input to standard output.
#[derive(Debug, Args)]
pub(super) struct CompileCommand {
    /// Limit of this process's address space
    #[arg(long, default_value_t = u64::MAX)]
    memory_bytes: u64,
    /// Limit of this process's CPU time, in seconds
    #[arg(long, default_value_t = u64::MAX)]
    cpu_seconds: u64,
    /// Length of the component; the end of standard input after it ends this process
    #[arg(long, default_value_t = 0)]
    component_bytes: u64,
    /// Compile nothing, and write the confinement that holds
    #[arg(long)]
    report_confinement: bool,
}

impl CompileCommand {
    pub(super) fn run(self, terminal: &Terminal) -> ExitCode {
        let Self { memory_bytes, cpu_seconds, component_bytes, report_confinement } = self;
        let done = if report_confinement {
            program::report_confinement()
        } else {
            program::run(&ChildLimits { memory_bytes, cpu_seconds, component_bytes })
        };
        match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(ended) => {
                terminal.note(ended.to_string());
                ExitCode::from(ended.status())
            }
        }
    }
}
