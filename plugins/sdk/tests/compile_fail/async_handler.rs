use wharf_sdk::prelude::*;

#[get("/")]
async fn list() {}

fn main() {}
