//! Values and counters in the cache, and responses that the host caches.

use serde::Deserialize;
use wharf_sdk::cache;
use wharf_sdk::prelude::*;

use crate::body;

/// Returns a different text for every call, so that a cached response is recognised.
fn fresh() -> Text {
    Text(Uuid::new_v4().to_string())
}

#[get("/cached", access = public, cache(ttl = "1h", tags = ["leaf"]))]
pub(crate) fn cached() -> Text {
    fresh()
}

#[get("/cached-body/{bytes}", access = public, cache(ttl = "1h"))]
pub(crate) fn cached_body(Path(bytes): Path<usize>) -> Response {
    body(Path(bytes))
}

#[get("/cached-per-caller", cache(ttl = "1h", per_caller))]
pub(crate) fn cached_per_caller() -> Text {
    fresh()
}

#[get("/cached-problem", access = public, cache(ttl = "1h"))]
pub(crate) fn cached_problem() -> Result<Text> {
    Err(Problem::conflict("never_kept", Uuid::new_v4().to_string()))
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct Headers {
    status: Option<u16>,
    cache_control: Option<String>,
    vary: Option<String>,
    expires: Option<String>,
    age: Option<String>,
    etag: Option<String>,
    last_modified: Option<String>,
    content_type: Option<String>,
    /// Whether the body is the same for every call.
    same: bool,
}

/// Responds with a text and headers of the test's choice. The header `x-seen` has those of the request that matter.
#[get("/cached-as/{name}", access = public, cache(ttl = "1h"))]
pub(crate) fn cached_as(request: Request, Path(name): Path<String>, Query(headers): Query<Headers>) -> Response {
    let seen =
        ["if-none-match", "if-modified-since", "accept-language"].map(|name| request.header(name).unwrap_or("-"));
    let mut response = Response::new(headers.status.unwrap_or(200)).header("x-seen", seen.join(" "));
    for (name, value) in [
        ("cache-control", headers.cache_control),
        ("vary", headers.vary),
        ("expires", headers.expires),
        ("age", headers.age),
        ("etag", headers.etag),
        ("last-modified", headers.last_modified),
        ("content-type", Some(headers.content_type.unwrap_or_else(|| "text/plain".to_owned()))),
    ] {
        response = value.into_iter().fold(response, |response, value| response.header(name, value));
    }
    response.body(if headers.same { name } else { Uuid::new_v4().to_string() })
}

/// Changes nothing. The host cannot know that.
#[put("/cached-as/{name}", access = public)]
pub(crate) fn change_cached(Path(name): Path<String>) -> Result<()> {
    match name.as_str() {
        "refused" => Err(Problem::conflict("refused", "Refused")),
        "trapped" => std::process::abort(),
        _ => Ok(()),
    }
}

/// Greets the caller.
#[get("/cached-for", access = public, cache(ttl = "1h"))]
pub(crate) fn cached_for(caller: Option<Caller>) -> Text {
    Text(caller.map_or_else(|| "nobody".to_owned(), |caller| caller.email))
}

/// Says that it is the same for all, and is not.
#[get("/cached-for-all", cache(ttl = "1h", shared))]
pub(crate) fn cached_for_all(caller: Caller) -> Text {
    Text(caller.email)
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct Gated {
    url: String,
    /// Whether the response is a problem.
    #[serde(default)]
    fail: bool,
    /// Whether it asks for the caller.
    #[serde(default)]
    ask: bool,
}

/// Waits for a server before it responds.
#[get("/cached-gate", access = public, cache(ttl = "1h"))]
pub(crate) fn cached_gate(Query(gated): Query<Gated>, request: Request) -> Result<Text> {
    let _ = wharf_sdk::http::request("GET", &gated.url).send();
    if gated.fail {
        return Err(Problem::conflict("failed", "Failed"));
    }
    let caller = if gated.ask { caller_of(&request) } else { String::new() };
    Ok(Text(format!("{caller} {}", Uuid::new_v4())))
}

fn caller_of(request: &Request) -> String {
    let mut request = request.clone();
    let caller = <Option<Caller> as wharf_sdk::FromRequest>::from_request(&mut request);
    caller.ok().flatten().map(|caller| caller.email).unwrap_or_default()
}

#[post("/invalidate/{tag}", access = public)]
pub(crate) fn invalidate(Path(tag): Path<String>) -> Result<()> {
    Ok(cache::invalidate(&tag)?)
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct Keeping {
    #[serde(default)]
    ttl_ms: Option<u64>,
    #[serde(default)]
    tag: Option<String>,
}

#[put("/kept/{key}", access = public)]
pub(crate) fn keep(Path(key): Path<String>, Query(keeping): Query<Keeping>, value: Bytes) -> Json<Option<String>> {
    let ttl = keeping.ttl_ms.map(std::time::Duration::from_millis);
    let tags: Vec<&str> = keeping.tag.iter().map(String::as_str).collect();
    Json(cache::set(&key, &value.0, ttl, &tags).err().map(|error| format!("{error:?}")))
}

#[delete("/kept/{key}", access = public)]
pub(crate) fn forget(Path(key): Path<String>) -> Result<()> {
    Ok(cache::delete(&key)?)
}

#[get("/kept/{key}", access = public)]
pub(crate) fn kept(Path(key): Path<String>) -> Result<Json<Option<String>>> {
    Ok(Json(cache::get(&key)?.map(|value| String::from_utf8_lossy(&value).into_owned())))
}

#[post("/increment/{key}", access = public)]
pub(crate) fn increment(Path(key): Path<String>) -> Result<Json<i64>> {
    Ok(Json(cache::increment(&key, 1, None)?))
}
