use wharf_sdk::prelude::*;

#[get("/", access = everybody)]
fn list() {}

fn main() {}
