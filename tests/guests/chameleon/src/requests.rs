//! Requests to other servers, with Wharf's interface and with that of WASI.

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
    /// The number of requests, one after the other. The last response is returned.
    #[serde(default)]
    pub(crate) times: Option<u32>,
}

/// Sends any request to another server and returns the outcome that the guest sees.
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
        if let Some(limit) = fetching.redirects {
            request = request.redirects(limit);
        }
        request.send()
    };
    for _ in 1..fetching.times.unwrap_or(1) {
        let _ = send();
    }
    Json(match send() {
        Ok(response) => json!({
            "url": response.url(),
            "status": response.status(),
            "headers": response.headers().collect::<Vec<_>>(),
            "body": response.text(),
        }),
        Err(error) => json!({ "error": format!("{error:?}") }),
    })
}

/// Sends a request and fails if there is no response.
#[post("/must-fetch", access = public)]
pub(crate) fn must_fetch(Json(fetching): Json<Fetching>) -> Result<Text> {
    Ok(Text(http::get(&fetching.url).send()?.text()))
}

/// Begins several requests at once with `wasi:http` and responds 500 if one of them gets no response.
#[post("/standard-at-once", access = public)]
pub(crate) fn standard_at_once(Json(fetching): Json<Fetching>) -> Response {
    Response::new(if standard::hoard_responses(&fetching).is_ok() { 200 } else { 500 })
}

/// Does the same with `wasi:http`.
#[post("/standard-fetch", access = public)]
pub(crate) fn standard_fetch(Json(fetching): Json<Fetching>) -> Json<Value> {
    for _ in 1..fetching.times.unwrap_or(1) {
        let _ = standard::fetch(&fetching);
    }
    Json(standard::fetch(&fetching).unwrap_or_else(|error| json!({ "error": error })))
}

/// Keeps every response without reading it.
#[post("/standard-answers", access = public)]
pub(crate) fn standard_answers(Json(fetching): Json<Fetching>) -> Json<Value> {
    Json(match standard::hoard_responses(&fetching) {
        Ok(count) => json!({ "kept": count }),
        Err(error) => json!({ "error": error }),
    })
}

/// Keeps headers that it never sends.
#[get("/standard-fields/{count}/{bytes}", access = public)]
pub(crate) fn standard_fields(Path((count, bytes)): Path<(usize, usize)>) -> Text {
    Text(standard::hoard_fields(count, bytes).to_string())
}

/// Does the same with the maximum number of small headers in each.
#[get("/standard-small-fields/{count}", access = public)]
pub(crate) fn standard_small_fields(Path(count): Path<usize>) -> Text {
    Text(standard::hoard_small_fields(count).to_string())
}

/// Keeps requests that it never sends.
#[get("/standard-methods/{count}/{bytes}", access = public)]
pub(crate) fn standard_methods(Path((count, bytes)): Path<(usize, usize)>) -> Text {
    Text(standard::hoard_methods(count, bytes).to_string())
}

/// Uses a handle that it created or never got.
#[get("/standard-handle/{number}", access = public)]
pub(crate) fn standard_handle(Path(number): Path<u32>, Query(handle): Query<Handle>) -> Text {
    Text(standard::use_handle(number, handle.own).to_string())
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct Handle {
    own: bool,
}
