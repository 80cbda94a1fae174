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
