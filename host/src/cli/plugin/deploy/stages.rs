//! How far a deploy has come: asked for while the upload waits for its answer, and once more after a refusal.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use indicatif::ProgressBar;
use serde_json::{Value, json};

use super::super::super::api::Api;
use super::super::super::failure::Failure;
use super::super::super::terminal::Terminal;
use super::super::view::text;

/// How often to ask.
const EVERY: Duration = Duration::from_millis(150);

fn ask(api: &Api, id: &str) -> Option<Value> {
    api.get_quickly(&format!("/api/v1/deploys/{id}")).ok()
}

/// Does `work`, and meanwhile shows its stage if anybody watches. That the host cannot be asked is no failure.
pub(super) fn follow<T>(api: &Api, id: &str, bar: &ProgressBar, terminal: &Terminal, work: impl FnOnce() -> T) -> T {
    if bar.is_hidden() {
        return work();
    }
    let (working, ended) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while ended.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                // Not there while the file is sent or another deploy has its turn.
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

/// Adds to a refusal at which stage it came. A deploy that was refused before it began has none.
pub(super) fn locate(mut refusal: Failure, api: &Api, id: &str) -> Failure {
    let Some(deploy) = ask(api, id) else { return refusal };
    let stage = text(&deploy, "stage");
    match text(&deploy, "state").as_str() {
        "failed" if !stage.is_empty() => {
            refusal.details.insert(0, format!("stage: {stage}"));
            refusal.members.insert("stage".to_owned(), json!(stage));
        }
        state @ ("running" | "succeeded") => {
            // The answer was lost on its way.
            refusal.details.insert(0, format!("the deploy itself: {state}, at stage {stage}"));
            refusal.next = Some("`wharf plugin list` shows what came of it.".to_owned());
        }
        _ => {}
    }
    refusal
}
