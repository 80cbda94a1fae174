//! How the host may cache the responses of a handler.

use wharf_sdk::prelude::*;

plugin! {
    name: "cached",
    summary: "Has cached handlers",
    routes: [anonymous, of_caller, of_perhaps, shared, explicit],
}

#[get("/anonymous", access = public, cache(ttl = "1s"))]
fn anonymous() {}

#[get("/caller", cache(ttl = "1s"))]
fn of_caller(_caller: Caller) {}

#[get("/perhaps", access = public, cache(ttl = "1s"))]
fn of_perhaps(_caller: Option<Caller>) {}

#[get("/shared", cache(ttl = "1s", shared))]
fn shared(_caller: Caller) {}

#[get("/explicit", cache(ttl = "1s", per_caller))]
fn explicit() {}

#[test]
fn a_handler_that_takes_a_caller_is_cached_for_each_caller_unless_it_says_otherwise() {
    let per_caller = |path: &str| {
        let route = PLUGIN.routes.iter().find(|route| route.path == path).unwrap();
        route.cache.as_ref().unwrap().per_caller
    };
    for (path, expected) in
        [("/anonymous", false), ("/caller", true), ("/perhaps", true), ("/shared", false), ("/explicit", true)]
    {
        assert_eq!(per_caller(path), expected, "{path}");
    }
    let described = wharf_sdk::testing::describe(&PLUGIN);
    let operation = |index: usize| described["routes"][index]["operation"]["x-wharf-cache"].clone();
    assert_eq!((operation(1), operation(3)), (wharf_sdk::serde_json::Value::Null, "shared".into()));
}
