use wharf_sdk::prelude::*;

#[get("/")]
fn read(Path(_id): Path<Uuid>) {}

fn main() {}
