use wharf_sdk::prelude::*;

#[get("/", cache(per_caller))]
fn list() {}

#[get("/soon", cache(ttl = "soon"))]
fn soon() {}

fn main() {}
