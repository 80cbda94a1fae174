use wharf_sdk::prelude::*;

#[get("/")]
fn list() -> Vec<String> {
    Vec::new()
}

fn main() {}
