use wharf_sdk::prelude::*;

plugin! { name: "shop", summary: "Sells", routes: [list] }

fn list() {}

fn main() {}
