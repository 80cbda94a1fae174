use wharf_sdk::prelude::*;

struct Page {
    skip: u32,
}

#[get("/")]
fn list(Query(page): Query<Page>) -> Text {
    Text(page.skip.to_string())
}

fn main() {}
