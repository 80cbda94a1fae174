//! The tests of the plugin SDK: one program, because each program of its own would be linked once more.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs, unnameable_test_items, reason = "tests")]

mod caching;
mod caller;
mod compile_fail;
mod component;
mod consistency;
mod email;
mod events;
mod jobs;
mod openapi;
mod requests;
