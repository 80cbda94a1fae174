//! The caller of a request: permissions, and how the caller was authenticated.

use wharf_sdk::prelude::*;
use wharf_sdk::serde_json::{Value, json};
use wharf_sdk::testing::{TestPlugin, session, superuser, user};
use wharf_sdk::{Authentication, Strength};

plugin! {
    name: "caller",
    summary: "Tells who calls",
    permissions: { "write-all": "Change all", "read-all": "Read all" },
    routes: [permissions, authentication],
}

#[get("/permissions")]
fn permissions(caller: Caller) -> Json<Vec<String>> {
    Json(caller.permissions())
}

#[get("/authentication")]
fn authentication(caller: Caller) -> Result<Json<Value>> {
    Ok(Json(match caller.authentication()? {
        Authentication::Session { strength: Strength::SingleFactor, .. } => json!("one factor"),
        Authentication::Session { stepped_up_at, .. } => json!(["two factors", stepped_up_at]),
        Authentication::Key { name, .. } => json!({ "key": name }),
    }))
}

#[test]
fn a_caller_has_the_permissions_that_the_test_granted_and_a_superuser_all_declared_ones() {
    let plugin = TestPlugin::new(&PLUGIN);
    let (alice, bob) = (user("alice@example.com"), user("bob@example.com"));
    let of = |caller: &Caller| plugin.get("/permissions").by(caller).send().json();
    plugin.permit(&alice, "read-all");
    assert_eq!(of(&alice), json!(["read-all"]));
    assert_eq!(of(&bob), json!([]));
    assert_eq!(of(&superuser("root@example.com")), json!(["write-all", "read-all"]));
}

#[test]
fn a_caller_has_a_session_of_one_factor_unless_the_test_says_otherwise() {
    let plugin = TestPlugin::new(&PLUGIN);
    let alice = user("alice@example.com");
    let authentication = || plugin.get("/authentication").by(&alice).send().json();
    assert_eq!(authentication(), json!("one factor"));
    plugin.authenticate(&alice, &session(Strength::MultiFactor));
    assert_eq!(authentication(), json!(["two factors", null]));
    plugin.authenticate(&alice, &Authentication::Key { id: Uuid::new_v4(), name: "ci".to_owned() });
    assert_eq!(authentication(), json!({ "key": "ci" }));
}
