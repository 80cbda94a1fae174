//! The stage of a deploy: polled while the upload waits for its response, and read once more after an error.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use indicatif::ProgressBar;
use serde_json::{Value, json};

use super::super::view::text;
use crate::cli::api::Api;
use crate::cli::failure::Failure;
use crate::cli::terminal::Terminal;

/// The interval between two polls.
const INTERVAL: Duration = Duration::from_millis(150);

fn ask(api: &Api, id: &str) -> Option<Value> {
    api.get_quickly(&format!("/api/v1/deploys/{id}")).ok()
}

/// Runs `work` and meanwhile shows the stage, if the progress bar is visible. A failed poll is no failure.
pub(super) fn follow<T>(api: &Api, id: &str, bar: &ProgressBar, terminal: &Terminal, work: impl FnOnce() -> T) -> T {
    if bar.is_hidden() {
        return work();
    }
    let (working, ended) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while ended.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                // The record does not exist while the file is sent or while the deploy waits for another one.
                if let Some(deploy) = ask(api, id).filter(|deploy| text(deploy, "state") == "running") {
                    terminal.spin(bar, text(&deploy, "stage"));
                }
            }
        });
        let outcome = work();
        drop(working);
        outcome
    })
}

/// Adds the stage of the deploy to an error. A deploy that was refused before it began has none.
pub(super) fn locate(mut refusal: Failure, api: &Api, id: &str) -> Failure {
    let Some(deploy) = ask(api, id) else { return refusal };
    let stage = text(&deploy, "stage");
    match text(&deploy, "state").as_str() {
        "failed" if !stage.is_empty() => {
            refusal.details.insert(0, format!("stage: {stage}"));
            refusal.members.insert("stage".to_owned(), json!(stage));
        }
        state @ ("running" | "succeeded") => {
            // The response was lost.
            refusal.details.insert(0, format!("the deploy itself: {state}, at stage {stage}"));
            refusal.next = Some("`wharf plugin list` shows the outcome.".to_owned());
        }
        _ => {}
    }
    refusal
}
