use wharf_sdk::prelude::*;

#[get("/")]
fn list(page: u32) -> Text {
    Text(page.to_string())
}

fn main() {}
