use wharf_sdk::prelude::*;

#[get("/")]
fn list(Json(_text): Json<String>) {}

fn main() {}
