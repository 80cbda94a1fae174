use wharf_sdk::prelude::*;

#[get("items")]
fn no_slash() {}

#[get("/:id")]
fn colon() {}

#[get("/{id}.json")]
fn half_a_segment() {}

#[get("/items/")]
fn slash_at_the_end() {}

#[get("/{id}/{id}")]
fn twice() {}

fn main() {}
