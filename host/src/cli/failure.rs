//! Why a command did not do what was asked, and what to do next.

use std::process::ExitCode;

use serde_json::{Map, Value, json};

use crate::config::Refused;
use crate::error::Error;

/// What is shown instead of an answer.
#[derive(Debug)]
pub(super) struct Failure {
    /// In a sentence.
    pub(super) text: String,
    /// One line each.
    pub(super) details: Vec<String>,
    /// What to do now.
    pub(super) next: Option<String>,
    /// For programs: `code`, `status`, `request_id` … of the host's answer.
    pub(super) members: Map<String, Value>,
    usage: bool,
}

impl Failure {
    /// The command was understood and did not succeed: exit code 1.
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), details: Vec::new(), next: None, members: Map::new(), usage: false }
    }

    /// The command makes no sense as given: exit code 2.
    pub(super) fn usage(text: impl Into<String>) -> Self {
        Self { usage: true, ..Self::new(text) }
    }

    /// The configuration is refused: exit code 2.
    pub(super) fn configuration(refused: &Refused) -> Self {
        let details: Vec<_> = refused.0.iter().map(ToString::to_string).collect();
        let text = match details.len() {
            1 => "the configuration has an error".to_owned(),
            count => format!("the configuration has {count} errors"),
        };
        let next = "`wharf config show` lists every setting once these are mended".to_owned();
        Self { details, next: Some(next), ..Self::usage(text) }
    }

    /// The host, or a part of it, failed.
    pub(super) fn host(error: &Error) -> Self {
        // What clients read instead of an internal reason says nothing to the operator, who reads the reason.
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
