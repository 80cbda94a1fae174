use wharf_sdk::prelude::*;

plugin! { name: "shop", summary: "Sells", permissions: { "read-all": "See all orders" }, routes: [list] }

#[get("/", access = permission("read-everything"))]
fn list() {}

fn main() {}
