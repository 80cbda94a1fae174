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

/// Returns the cursor of the last row of a page, behind which the next page begins. `None`: the page is not full, so it
/// is the last one.
pub(in crate::http::resource) fn next<T, C>(rows: &[T], limit: i64, cursor: impl Fn(&T) -> C) -> Option<C> {
    let is_full = i64::try_from(rows.len()).is_ok_and(|found| found >= limit);
    rows.last().filter(|_| is_full).map(cursor)
}

/// The order of a list by time.
#[derive(Deserialize, JsonSchema, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(in crate::http::resource) enum Order {
    Newest,
    Oldest,
}
