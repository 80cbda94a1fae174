//! Pagination: `skip` and `limit`, the same for every list of the host, and the order of lists that are read page by page.

use schemars::JsonSchema;
use serde::Deserialize;

/// The query parameters of a list, as in the FastAPI full-stack template.
#[derive(Deserialize, JsonSchema)]
pub(in crate::http::resource) struct Page {
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub(in crate::http::resource) skip: i64,
    #[serde(default = "default_limit")]
    #[schemars(range(min = 0, max = 1000))]
    pub(in crate::http::resource) limit: i64,
}

pub(in crate::http::resource) fn default_limit() -> i64 {
    100
}

/// The order of a list by time.
#[derive(Deserialize, JsonSchema, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(in crate::http::resource) enum Order {
    Newest,
    Oldest,
}
