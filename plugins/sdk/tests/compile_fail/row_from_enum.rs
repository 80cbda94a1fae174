use wharf_sdk::sql::FromRow;

#[derive(FromRow)]
enum State {
    Open,
}

fn main() {}
