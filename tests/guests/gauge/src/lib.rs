//! A guest of `make bench`: the routes that the plugins of this repository do not have.

#![allow(missing_docs, reason = "a guest of the benchmark")]

use serde::Serialize;
use wharf_sdk::prelude::*;

plugin! {
    name: "gauge",
    summary: "Has a cached response, and counts the bytes of a body",
    routes: [kept, length],
}

#[derive(Serialize, JsonSchema)]
struct Greeting {
    message: &'static str,
}

#[get("/kept", access = public, cache(ttl = "1h"))]
fn kept() -> Json<Greeting> {
    Json(Greeting { message: "Hello" })
}

#[post("/length", access = public)]
fn length(body: Bytes) -> Text {
    Text(body.0.len().to_string())
}
