use wharf_sdk::prelude::*;

#[get("/", acess = public)]
fn list() {}

fn main() {}
