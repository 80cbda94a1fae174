use wharf_sdk::prelude::*;

plugin! { name: "shop", summary: "Sells", routes: [], topics: [Created] }

#[topic("created", access = permission("read-all"))]
#[derive(serde::Serialize, JsonSchema)]
struct Created;

fn main() {}
