//! The failure of a command: its text, details, next step and exit code.

use std::process::ExitCode;

use serde_json::{Map, Value, json};

use crate::config::InvalidConfig;
use crate::error::Error;

/// A failed command, as it is shown to the operator.
#[derive(Debug)]
pub(super) struct Failure {
    /// The reason, in a sentence.
    pub(super) text: String,
    /// More about it, a line each.
    pub(super) details: Vec<String>,
    /// The next step that the operator can take.
    pub(super) next: Option<String>,
    /// For programs: `code`, `status`, `request_id` … of the host's response.
    pub(super) members: Map<String, Value>,
    usage: bool,
}

impl Failure {
    /// Creates the failure of a command that ran and did not succeed: exit code 1.
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), details: Vec::new(), next: None, members: Map::new(), usage: false }
    }

    /// Creates the failure of a command with wrong arguments: exit code 2.
    pub(super) fn usage(text: impl Into<String>) -> Self {
        Self { usage: true, ..Self::new(text) }
    }

    /// Creates the failure of an invalid configuration: exit code 2.
    pub(super) fn configuration(refused: &InvalidConfig) -> Self {
        let details: Vec<_> = refused.0.iter().map(ToString::to_string).collect();
        let text = match details.len() {
            1 => "the configuration has an error".to_owned(),
            count => format!("the configuration has {count} errors"),
        };
        let next = "`wharf config show` lists every setting once these are fixed".to_owned();
        Self { details, next: Some(next), ..Self::usage(text) }
    }

    /// Creates the failure of the host or one of its parts.
    pub(super) fn host(error: &Error) -> Self {
        // The public text hides the reason from clients. The operator reads the reason itself.
        let report = error.report();
        let reason = report.strip_prefix("Internal Server Error: ").unwrap_or(&report);
        Self::new(reason)
    }

    pub(super) fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }

    pub(super) fn exit_code(&self) -> ExitCode {
        if self.usage { ExitCode::from(2) } else { ExitCode::FAILURE }
    }

    pub(super) fn to_json(&self) -> Value {
        let mut error = self.members.clone();
        error.insert("message".to_owned(), json!(self.text));
        error.insert("details".to_owned(), json!(self.details));
        error.insert("next".to_owned(), json!(self.next));
        json!({ "error": error })
    }
}
