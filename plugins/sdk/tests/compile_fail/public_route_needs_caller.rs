use wharf_sdk::prelude::*;

#[get("/", access = public)]
fn list(_caller: Caller) {}

fn main() {}
