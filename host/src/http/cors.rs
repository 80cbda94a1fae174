//! stub
use super::reply::Reply;
use axum::http::{HeaderMap, Method};
pub(super) fn preflight(_: &str, _: &Method, _: &HeaderMap) -> Option<Reply> {
    None
}
pub(super) fn decorate(_: &str, _: &HeaderMap, _: &mut HeaderMap) {}
