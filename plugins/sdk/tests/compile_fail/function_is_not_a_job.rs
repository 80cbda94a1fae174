use wharf_sdk::prelude::*;

plugin! { name: "shop", summary: "Sells", routes: [], jobs: [list] }

fn list() {}

fn main() {}
