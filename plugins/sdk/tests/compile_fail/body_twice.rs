use wharf_sdk::prelude::*;

#[post("/")]
fn create(Json(_first): Json<String>, _second: Bytes) {}

fn main() {}
