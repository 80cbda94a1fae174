use wharf_sdk::prelude::*;

#[get("/{id}")]
fn read(_caller: Caller) {}

fn main() {}
