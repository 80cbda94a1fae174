//! Requests to other servers, by Wharf's interface and by that of WASI.

use serde::Deserialize;
use wharf_sdk::http;
use wharf_sdk::prelude::*;
use wharf_sdk::serde_json::{Value, json};

use crate::standard;

#[derive(Deserialize, JsonSchema)]
pub(crate) struct Fetching {
    pub(crate) url: String,
    #[serde(default)]
    pub(crate) method: Option<String>,
    #[serde(default)]
    pub(crate) headers: Vec<(String, String)>,
    #[serde(default)]
    pub(crate) body: String,
    #[serde(default)]
    pub(crate) timeout_ms: Option<u64>,
    #[serde(default)]
    pub(crate) redirects: Option<u32>,
    /// How often, one after the other; the last answer counts.
    #[serde(default)]
    pub(crate) times: Option<u32>,
}

/// Any request to another server; the outcome as the guest sees it.
#[post("/fetch", access = public)]
pub(crate) fn fetch(Json(fetching): Json<Fetching>) -> Json<Value> {
    let send = || {
        let request = http::request(fetching.method.as_deref().unwrap_or("GET"), &fetching.url);
        let mut request = request.body(fetching.body.clone());
        for (name, value) in &fetching.headers {
            request = request.header(name, value);
        }
        if let Some(millis) = fetching.timeout_ms {
            request = request.timeout(std::time::Duration::from_millis(millis));
        }
        if let Some(most) = fetching.redirects {
            request = request.redirects(most);
        }
        request.send()
    };
    for _ in 1..fetching.times.unwrap_or(1) {
        let _ = send();
    }
    Json(match send() {
        Ok(answer) => json!({
            "url": answer.url(),
            "status": answer.status(),
            "headers": answer.headers().collect::<Vec<_>>(),
            "body": answer.text(),
        }),
        Err(error) => json!({ "error": format!("{error:?}") }),
    })
}

/// The same by `wasi:http`.
#[post("/standard-fetch", access = public)]
pub(crate) fn standard_fetch(Json(fetching): Json<Fetching>) -> Json<Value> {
    for _ in 1..fetching.times.unwrap_or(1) {
        let _ = standard::fetch(&fetching);
    }
    Json(standard::fetch(&fetching).unwrap_or_else(|error| json!({ "error": error })))
}

/// Keeps every answer.
#[post("/standard-answers", access = public)]
pub(crate) fn standard_answers(Json(fetching): Json<Fetching>) -> Json<Value> {
    Json(match standard::hoard_answers(&fetching) {
        Ok(count) => json!({ "kept": count }),
        Err(error) => json!({ "error": error }),
    })
}

/// Keeps headers that are never sent.
#[get("/standard-fields/{count}/{bytes}", access = public)]
pub(crate) fn standard_fields(Path((count, bytes)): Path<(usize, usize)>) -> Text {
    Text(standard::hoard_fields(count, bytes).to_string())
}

/// The same, with as many small ones in each as there may be.
#[get("/standard-small-fields/{count}", access = public)]
pub(crate) fn standard_small_fields(Path(count): Path<usize>) -> Text {
    Text(standard::hoard_small_fields(count).to_string())
}

/// Keeps requests that are never sent.
#[get("/standard-methods/{count}/{bytes}", access = public)]
pub(crate) fn standard_methods(Path((count, bytes)): Path<(usize, usize)>) -> Text {
    Text(standard::hoard_methods(count, bytes).to_string())
}

/// Uses a handle that it may have made, or may never have got.
#[get("/standard-handle/{number}", access = public)]
pub(crate) fn standard_handle(Path(number): Path<u32>, Query(handle): Query<Handle>) -> Text {
    Text(standard::use_handle(number, handle.own).to_string())
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct Handle {
    own: bool,
}
