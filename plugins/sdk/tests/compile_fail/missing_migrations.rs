use wharf_sdk::prelude::*;

plugin! { name: "shop", summary: "Sells", migrations: "no-such-directory", routes: [] }

fn main() {}
