//! The smallest plugin: two public routes and no capability.

use serde::Serialize;
use wharf_sdk::prelude::*;

plugin! {
    name: "hello",
    summary: "Says hello",
    routes: [hello, hello_name],
}

#[derive(Serialize, JsonSchema)]
struct Greeting {
    message: String,
}

/// Greet everybody
#[get("/", access = public)]
fn hello() -> Json<Greeting> {
    Json(Greeting { message: "Hello".to_owned() })
}

/// Greet somebody
#[get("/{name}", access = public)]
fn hello_name(Path(name): Path<String>) -> Json<Greeting> {
    Json(Greeting { message: format!("Hello {name}") })
}
