use wharf_sdk::prelude::*;

mod unknown {
    wharf_sdk::plugin! { name: "shop", sumary: "Sells", routes: [] }
}
mod without_routes {
    wharf_sdk::plugin! { name: "shop", summary: "Sells" }
}
mod bad_name {
    wharf_sdk::plugin! { name: "Web Shop", summary: "Sells", routes: [] }
}

fn main() {
    let _: Option<Text> = None;
}
