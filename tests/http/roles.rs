//! Roles and permissions: administration, the limits of what an operator may give, and the effect on requests.

use serde_json::{Value, json};

use super::{PRIVILEGES, column, is_stamped, members, not_authenticated, text};
use crate::plugin::liar;
use crate::support::host::{PASSWORD, SUPERUSER};
use crate::support::{Client, TestHost, both};

both! {
    a_role_is_created_changed_and_deleted,
    a_role_names_only_permissions_that_exist => Setup::default().with_items(),
    a_permission_of_a_plugin_takes_effect_with_the_next_request => Setup::default().with_items(),
    an_operator_deploys_without_being_a_superuser,
    nobody_gives_what_they_do_not_hold,
    nobody_takes_over_an_account_with_more_permissions,
    a_role_in_use_is_not_deleted_by_accident,
    a_permission_that_vanished_has_no_effect_until_it_is_declared_again,
    new_accounts_get_the_default_role,
    superusers_are_made_and_unmade_by_roles,
}

const EXCEEDS: &str = "exceeds_own_permissions";
const ROLE: [&str; 8] = [
    "name",
    "description",
    "permissions",
    "has_all_permissions",
    "is_built_in",
    "is_default",
    "requires_second_factor",
    "created_at",
];

async fn id_of(client: &Client) -> String {
    text(&client.get("/users/me").await.ok(), "id").to_owned()
}

/// Gives an account exactly these roles.
async fn give(by: &Client, to: &Client, roles: &[&str]) -> crate::support::TestResponse {
    by.put(&format!("/users/{}/roles", id_of(to).await), &json!({ "roles": roles })).await
}

/// Returns the client of a new account with a new role that has these permissions.
async fn with_permissions(host: &TestHost, name: &str, permissions: &[&str]) -> Client {
    host.superuser().post("/roles/", &json!({ "name": name, "permissions": permissions })).await.ok();
    let client = host.user(&format!("{name}@example.com")).await;
    give(host.superuser(), &client, &[name]).await.ok();
    client
}

async fn a_role_is_created_changed_and_deleted(host: &TestHost) {
    let root = host.superuser();
    let list = root.get("/roles/").await.ok();
    assert_eq!(column(&list, "name"), ["member", "operator", "superuser"]);
    assert_eq!(list["count"], 3);
    let superuser = &list["data"][2];
    assert_eq!((&superuser["has_all_permissions"], &superuser["is_built_in"]), (&json!(true), &json!(true)));
    assert_eq!(root.get("/roles/superuser").await.ok()["users"], 1);
    assert_eq!(root.get("/roles/?skip=1&limit=1").await.ok()["data"][0]["name"], "operator");

    let body =
        json!({ "name": "auditors", "description": "Read", "permissions": ["users:read", "audit:read"], "x": 1 });
    let role = root.post("/roles/", &body).await.ok();
    assert_eq!(members(&role), ROLE);
    assert_eq!(role["permissions"], json!(["audit:read", "users:read"]));
    assert!(text(&role, "created_at").ends_with('Z'));
    root.post("/roles/", &body).await.is_problem(409, "role_exists", "There is a role 'auditors' already");
    let shown = root.get("/roles/auditors").await.ok();
    assert_eq!((&shown["permissions"], &shown["users"]), (&role["permissions"], &json!(0)));

    let patch = async |body: Value| root.patch("/roles/auditors", &body).await;
    assert_eq!(patch(json!({})).await.ok(), role);
    let changed = patch(json!({ "permissions": ["audit:read"], "requires_second_factor": true })).await.ok();
    assert_eq!((&changed["permissions"], &changed["requires_second_factor"]), (&json!(["audit:read"]), &json!(true)));
    assert_eq!(changed["description"], "Read");
    let permissions = root.get("/permissions/?limit=1000").await.ok();
    let audit = permissions["data"].as_array().unwrap().iter().find(|row| row["name"] == "audit:read").unwrap();
    assert!(audit["roles"].as_array().unwrap().contains(&json!("auditors")), "{audit}");
    assert_eq!((&audit["plugin"], &audit["is_declared"]), (&Value::Null, &json!(true)));

    root.post("/roles/", &json!({ "name": "Not A Name" }))
        .await
        .has_findings(&["body.name string_pattern_mismatch: …"]);
    root.patch("/roles/nothing", &json!({ "description": "x" })).await.is_problem(
        404,
        "role_not_found",
        "Role not found",
    );
    root.delete("/roles/nothing").await.is_problem(404, "role_not_found", "Role not found");
    let fixed = "The role 'superuser' has all permissions, and new accounts cannot get it";
    for body in [json!({ "permissions": [] }), json!({ "is_default": true })] {
        root.patch("/roles/superuser", &body).await.is_problem(409, "role_built_in", fixed);
    }
    for built_in in ["superuser", "operator", "member"] {
        let response = root.delete(&format!("/roles/{built_in}?take=true")).await;
        response.is_problem(409, "role_built_in", "A built-in role cannot be deleted");
    }
    root.delete("/roles/auditors").await.has_message("Role 'auditors' deleted");
    root.get("/roles/auditors").await.is_problem(404, "role_not_found", "Role not found");
    not_authenticated(&host.anonymous().get("/roles/").await);
    host.user("member@example.com").await.get("/roles/").await.is_problem(403, "forbidden", PRIVILEGES);
}

async fn a_role_names_only_permissions_that_exist(host: &TestHost) {
    let root = host.superuser();
    let create = async |permissions: &[&str]| {
        root.post("/roles/", &json!({ "name": "readers", "permissions": permissions })).await
    };
    create(&["items:read-all", "items:nothing", "users:nothing", "nonsense"]).await.has_findings(&[
        "body.permissions.1 value_error: No plugin declares this permission now",
        "body.permissions.2 value_error: Not a permission: …",
        "body.permissions.3 value_error: Not a permission: …",
    ]);
    let role = create(&["items:read-all", "items:read-all"]).await.ok();
    assert_eq!(role["permissions"], json!(["items:read-all"]));
    let list = root.get("/permissions/?limit=1000").await.ok();
    let row = list["data"].as_array().unwrap().iter().find(|row| row["name"] == "items:read-all").unwrap();
    assert_eq!((&row["plugin"], &row["roles"]), (&json!("items"), &json!(["readers"])));
    assert_eq!(row["meaning"], "See the items of all users");
    let part = root.get("/permissions/?skip=1&limit=2").await.ok();
    assert_eq!(part["data"].as_array().unwrap(), &list["data"].as_array().unwrap()[1..3]);
    assert_eq!(part["count"], list["count"]);
    let unknown = give(root, root, &["superuser", "nothing"]).await;
    unknown.has_findings(&["body.roles.1 value_error: There is no role 'nothing'"]);
}

async fn a_permission_of_a_plugin_takes_effect_with_the_next_request(host: &TestHost) {
    let owner = host.user("owner@example.com").await;
    let item = owner.post("/items/", &json!({ "title": "Tea" })).await.ok();
    let path = format!("/items/{}", text(&item, "id"));
    let reader = host.user("reader@example.com").await;
    let refused = |response: crate::support::TestResponse| {
        response.is_problem(403, "not_enough_permissions", "Not enough permissions");
    };
    refused(reader.get(&path).await);
    assert_eq!(reader.get("/items/").await.ok()["count"], 0);
    let root = host.superuser();
    root.post("/roles/", &json!({ "name": "readers", "permissions": ["items:read-all"] })).await.ok();
    give(root, &reader, &["member", "readers"]).await.ok();
    assert_eq!(reader.get(&path).await.ok(), item);
    assert_eq!(reader.get("/items/").await.ok()["count"], 1);
    refused(reader.delete(&path).await);

    root.patch("/roles/readers", &json!({ "permissions": ["items:write-all"] })).await.ok();
    refused(reader.get(&path).await);
    reader.put(&path, &json!({ "title": "Coffee" })).await.ok();
    root.delete("/roles/readers?take=true").await.ok();
    refused(reader.put(&path, &json!({ "title": "Tea" })).await);
    // Several roles add up.
    for name in ["one", "two"] {
        let permission = if name == "one" { "items:read-all" } else { "items:write-all" };
        root.post("/roles/", &json!({ "name": name, "permissions": [permission] })).await.ok();
    }
    give(root, &reader, &["one", "two"]).await.ok();
    let own = reader.get("/users/me/roles").await.ok();
    assert_eq!(own["roles"], json!(["one", "two"]));
    assert_eq!((&own["permissions"], &own["withheld"]), (&json!(["items:read-all", "items:write-all"]), &json!(false)));
    reader.get(&path).await.ok();
    reader.delete(&path).await.ok();
}

async fn an_operator_deploys_without_being_a_superuser(host: &TestHost) {
    let operator = with_permissions(host, "deployers", &["plugins:read", "plugins:deploy"]).await;
    operator.deploy(&crate::support::Component::hello().0, "").await.ok();
    operator.get("/plugins/hello").await.ok();
    // Each refusal names the permission that is lacking.
    let lacks = |response: crate::support::TestResponse, permission: &str| {
        response.is_problem(403, "forbidden", PRIVILEGES);
        assert_eq!(response.problem()["permission"], permission);
    };
    lacks(operator.get("/users/").await, "users:read");
    lacks(operator.post("/plugins/hello/pause", &json!({})).await, "plugins:operate");
    lacks(operator.delete("/plugins/hello").await, "plugins:remove");
    lacks(operator.get("/roles/").await, "roles:read");
    // A deploy gives no grant and no limit by the way, and a removal deletes no data.
    let file = crate::support::Component::items().0;
    lacks(operator.deploy(&file, "grant=auth&grant=sql").await, "plugins:grant");
    lacks(operator.deploy(&file, "limit=memory=1GiB").await, "plugins:operate");
    let remover = with_permissions(host, "removers", &["plugins:remove"]).await;
    lacks(remover.delete("/plugins/hello?delete_data=true").await, "plugins:delete-data");
    let own = operator.get("/users/me/roles").await.ok();
    assert_eq!(own["permissions"], json!(["plugins:deploy", "plugins:read"]));
    let history = host.superuser().get("/plugins/hello/history").await.ok();
    assert_eq!(history["data"][0]["actor_email"], "deployers@example.com");
}

async fn nobody_gives_what_they_do_not_hold(host: &TestHost) {
    let root = host.superuser();
    let manager = with_permissions(host, "managers", &["roles:read", "roles:write", "plugins:read"]).await;
    root.post("/roles/", &json!({ "name": "strong", "permissions": ["plugins:read", "users:write"] })).await.ok();
    root.post("/roles/", &json!({ "name": "weak", "permissions": ["plugins:read"] })).await.ok();
    let friend = host.user("friend@example.com").await;
    let exceeds = |response: crate::support::TestResponse| {
        response.has_code(403, EXCEEDS);
    };
    // To oneself, to another, as a superuser, by a new role, by a change of one's own role, of the default role.
    exceeds(give(&manager, &manager, &["managers", "strong"]).await);
    exceeds(give(&manager, &friend, &["strong"]).await);
    exceeds(give(&manager, &manager, &["managers", "superuser"]).await);
    exceeds(manager.post("/roles/", &json!({ "name": "own", "permissions": ["users:write"] })).await);
    exceeds(manager.patch("/roles/managers", &json!({ "permissions": ["roles:write", "users:write"] })).await);
    exceeds(manager.patch("/roles/member", &json!({ "permissions": ["users:write"] })).await);
    // A role with more is neither weakened, deleted, made the default, nor taken.
    give(root, &friend, &["strong"]).await.ok();
    exceeds(manager.patch("/roles/strong", &json!({ "permissions": [] })).await);
    exceeds(manager.patch("/roles/strong", &json!({ "is_default": true })).await);
    exceeds(manager.patch("/roles/superuser", &json!({ "requires_second_factor": true })).await);
    exceeds(manager.delete("/roles/strong?take=true").await);
    exceeds(give(&manager, &friend, &[]).await);
    exceeds(give(&manager, root, &[]).await);
    assert_eq!(manager.get("/users/me/roles").await.ok()["roles"], json!(["managers"]));
    assert_eq!(friend.get("/users/me/roles").await.ok()["roles"], json!(["strong"]));
    assert_eq!(root.get("/roles/strong").await.ok()["permissions"], json!(["plugins:read", "users:write"]));
    root.get("/roles/own").await.has_code(404, "role_not_found");

    // Nor do new accounts lose a default role with more.
    root.patch("/roles/strong", &json!({ "is_default": true })).await.ok();
    exceeds(manager.patch("/roles/weak", &json!({ "is_default": true })).await);
    exceeds(manager.post("/roles/", &json!({ "name": "own", "is_default": true })).await);
    assert_eq!(root.get("/roles/strong").await.ok()["is_default"], true);
    root.patch("/roles/member", &json!({ "is_default": true })).await.ok();
    let log = root.get("/audit/?object=role:member&action=role.update").await.ok();
    assert_eq!(log["data"][0]["detail"], json!({ "default_before": "strong" }));

    // Each attempt is in the audit log.
    let denied = root.get("/audit/?actor=managers@example.com&outcome=denied").await.ok();
    let mut actions = column(&denied, "action");
    actions.sort_unstable();
    let (creates, gives, updates) = (["role.create"; 2], ["role.give"; 5], ["role.update"; 6]);
    assert_eq!(actions, [&creates[..], &["role.delete"], &gives, &updates].concat());

    // They give the permissions that they hold: also a role next to one that they could not give.
    give(&manager, &friend, &["strong", "weak"]).await.ok();
    manager.post("/roles/", &json!({ "name": "own", "permissions": ["plugins:read"] })).await.ok();
    assert_eq!(friend.get("/users/me/roles").await.ok()["roles"], json!(["strong", "weak"]));
    // No other route gives roles or the flag.
    let body = json!({ "is_superuser": true, "roles": ["superuser"], "permissions": ["users:write"] });
    friend.patch("/users/me", &body).await.ok();
    let body = json!({ "email": "new@example.com", "password": PASSWORD, "is_superuser": true, "roles": ["strong"] });
    host.anonymous().post("/users/signup", &body).await.ok();
    let new = host.anonymous().signed_in("new@example.com", PASSWORD).await;
    for client in [&friend, &new] {
        assert_eq!(client.get("/users/me").await.ok()["is_superuser"], false);
    }
    assert_eq!(new.get("/users/me/roles").await.ok()["roles"], json!(["member"]));
}

async fn nobody_takes_over_an_account_with_more_permissions(host: &TestHost) {
    let root = host.superuser();
    let manager = with_permissions(host, "managers", &["users:read", "users:write"]).await;
    let deployer = with_permissions(host, "deployers", &["plugins:deploy"]).await;
    for (target, email) in [(root, SUPERUSER), (&deployer, "deployers@example.com")] {
        let path = format!("/users/{}", id_of(target).await);
        for change in [
            json!({ "password": "battery staple" }),
            json!({ "email": "mine@example.com" }),
            json!({ "is_active": false }),
            json!({ "is_superuser": true }),
        ] {
            manager.patch(&path, &change).await.has_code(403, EXCEEDS);
        }
        manager.delete(&path).await.has_code(403, EXCEEDS);
        let mail = manager.post(&format!("/password-recovery-html-content/{email}"), &json!({})).await;
        mail.has_code(403, EXCEEDS);
        target.get("/users/me").await.ok();
        manager.get(&path).await.ok();
    }
    let body = json!({ "email": "new@example.com", "password": PASSWORD, "is_superuser": true });
    manager.post("/users/", &body).await.has_code(403, EXCEEDS);
    let own = format!("/users/{}", id_of(&manager).await);
    manager.patch(&own, &json!({ "is_superuser": true })).await.has_code(403, EXCEEDS);
    // Each attempt is in the audit log.
    let denied = root.get("/audit/?actor=managers@example.com&outcome=denied").await.ok();
    let mut actions = column(&denied, "action");
    actions.sort_unstable();
    let updates = ["user.update"; 9];
    assert_eq!(actions, [&["password.link"; 2][..], &["user.create"], &["user.delete"; 2], &updates].concat());
    let of_root = format!("/audit/?object=user:{}&action=user.delete", id_of(root).await);
    assert_eq!(column(&root.get(&of_root).await.ok(), "outcome"), ["denied"]);
    // Accounts with the same permissions or fewer are theirs to manage.
    let member = host.user("member@example.com").await;
    let path = format!("/users/{}", id_of(&member).await);
    // A link from before the account got a role does not open it afterwards.
    for gain in ["a role", "a permission of its role"] {
        let mail = manager.post("/password-recovery-html-content/member@example.com", &json!({})).await;
        let html = mail.text();
        let (_, token) = html.split_once("reset-password?token=").unwrap_or_else(|| panic!("{html}"));
        let body = json!({ "token": token.split('"').next().unwrap(), "new_password": "battery staple" });
        if gain == "a role" {
            root.post("/roles/", &json!({ "name": "growing" })).await.ok();
            give(root, &member, &["growing"]).await.ok();
        } else {
            root.patch("/roles/growing", &json!({ "permissions": ["audit:read"] })).await.ok();
        }
        assert_eq!(host.anonymous().post("/reset-password/", &body).await.status, 400, "{gain}");
    }
    give(root, &member, &[]).await.ok();
    manager.patch(&path, &json!({ "full_name": "Member" })).await.ok();
    manager.delete(&path).await.ok();
    let list = manager.get("/users/?email=Deployers@EXAMPLE.com").await.ok();
    assert_eq!((&list["count"], column(&list, "email")), (&json!(1), vec!["deployers@example.com"]));
    for query in ["email=nobody@example.com", "email=x", "email=deployers@example.com&skip=1"] {
        assert_eq!(manager.get(&format!("/users/?{query}")).await.ok()["data"], json!([]), "{query}");
    }
}

async fn a_role_in_use_is_not_deleted_by_accident(host: &TestHost) {
    let root = host.superuser();
    let one = with_permissions(host, "readers", &["users:read"]).await;
    let refused = root.delete("/roles/readers").await;
    refused.is_problem(409, "role_in_use", "The role 'readers' is in use by 1 account");
    let two = host.user("two@example.com").await;
    give(root, &two, &["readers"]).await.ok();
    let refused = root.delete("/roles/readers?take=false").await;
    refused.is_problem(409, "role_in_use", "The role 'readers' is in use by 2 accounts");
    one.get("/users/").await.ok();
    root.delete("/roles/readers?take=true").await.has_message("Role 'readers' deleted");
    for client in [&one, &two] {
        client.get("/users/").await.is_problem(403, "forbidden", PRIVILEGES);
        assert_eq!(client.get("/users/me/roles").await.ok()["roles"], json!([]));
    }
    let log = root.get("/audit/?object=role:readers&action=role.delete").await.ok();
    let mut ids = [id_of(&one).await, id_of(&two).await];
    ids.sort();
    assert_eq!(log["data"][0]["detail"], json!({ "taken_from": 2, "accounts": ids }));
    // An account that is deleted leaves its roles.
    let three = with_permissions(host, "leavers", &["users:read"]).await;
    root.delete(&format!("/users/{}", id_of(&three).await)).await.ok();
    root.delete("/roles/leavers").await.ok();
}

async fn a_permission_that_vanished_has_no_effect_until_it_is_declared_again(host: &TestHost) {
    let root = host.superuser();
    let route = json!([{ "method": "GET", "path": "/", "access": "look", "operation": {} }]);
    let with = liar(json!({ "permissions": [["look", "Look"]], "routes": route }));
    let without = liar(json!({ "permissions": [], "version": "2.0.0" }));
    root.deploy(&with.0, "").await.ok();
    let client = with_permissions(host, "lookers", &["liar:look"]).await;
    assert_eq!(client.get("/liar/").await.status, 200);
    root.deploy(&without.0, "").await.ok();

    let row = async || {
        let list = root.get("/permissions/?limit=1000").await.ok();
        list["data"].as_array().unwrap().iter().find(|row| row["name"] == "liar:look").cloned()
    };
    let kept = row().await.unwrap();
    assert_eq!((&kept["is_declared"], &kept["roles"]), (&json!(false), &json!(["lookers"])));
    assert_eq!(root.get("/roles/lookers").await.ok()["permissions"], json!(["liar:look"]));
    assert_eq!(client.get("/users/me/roles").await.ok()["permissions"], json!([]));
    // Another role can get it as long as a role names it.
    root.post("/roles/", &json!({ "name": "others", "permissions": ["liar:look"] })).await.ok();
    root.post("/plugins/liar/rollback", &json!({})).await.ok();
    assert_eq!(client.get("/liar/").await.status, 200);
    assert_eq!(row().await.unwrap()["is_declared"], true);

    root.deploy(&without.0, "").await.ok();
    for name in ["others", "lookers"] {
        root.delete(&format!("/roles/{name}?take=true")).await.ok();
    }
    assert_eq!(row().await, None);
    let refused = root.post("/roles/", &json!({ "name": "late", "permissions": ["liar:look"] })).await;
    refused.has_findings(&["body.permissions.0 value_error: No plugin declares this permission now"]);
}

async fn new_accounts_get_the_default_role(host: &TestHost) {
    let root = host.superuser();
    let first = host.user("first@example.com").await;
    assert_eq!(first.get("/users/me/roles").await.ok()["roles"], json!(["member"]));
    root.post("/roles/", &json!({ "name": "guests", "is_default": true })).await.ok();
    let default = |list: &Value| -> Vec<String> {
        let rows = list["data"].as_array().unwrap().iter().filter(|row| row["is_default"] == true);
        rows.map(|row| text(row, "name").to_owned()).collect()
    };
    assert_eq!(default(&root.get("/roles/").await.ok()), ["guests"]);
    let second = host.user("second@example.com").await;
    assert_eq!(second.get("/users/me/roles").await.ok()["roles"], json!(["guests"]));
    let text = "New accounts get the role 'guests'; make another role the default first";
    root.delete("/roles/guests?take=true").await.is_problem(409, "role_in_use", text);
    root.patch("/roles/member", &json!({ "is_default": true })).await.ok();
    assert_eq!(default(&root.get("/roles/").await.ok()), ["member"]);
    root.delete("/roles/guests?take=true").await.ok();
    // Without a default role, new accounts get none.
    root.patch("/roles/member", &json!({ "is_default": false })).await.ok();
    let third = host.user("third@example.com").await;
    assert_eq!(third.get("/users/me/roles").await.ok()["roles"], json!([]));
    let body = json!({ "email": "made@example.com", "password": PASSWORD });
    is_stamped(&root.post("/users/", &body).await.ok());
}

async fn superusers_are_made_and_unmade_by_roles(host: &TestHost) {
    let root = host.superuser();
    let last = |response: crate::support::TestResponse| {
        response.is_problem(409, "last_superuser", "The last superuser cannot be removed");
    };
    last(give(root, root, &["member"]).await);
    let other = host.user("other@example.com").await;
    let roles = give(root, &other, &["superuser", "member"]).await.ok();
    assert_eq!(roles, json!({ "roles": ["member", "superuser"] }));
    assert_eq!(other.get("/users/me").await.ok()["is_superuser"], true);
    assert_eq!(root.get("/roles/superuser").await.ok()["users"], 2);
    assert_eq!(give(&other, root, &[]).await.ok(), json!({ "roles": [] }));
    root.get("/users/").await.is_problem(403, "forbidden", PRIVILEGES);
    last(give(&other, &other, &[]).await);
    let unknown = "/users/5f0b5c3e-58f5-4f7c-8f4e-0c3f7c8b0d11/roles";
    other.get(unknown).await.is_problem(404, "user_not_found", "User not found");
    other.put(unknown, &json!({ "roles": [] })).await.is_problem(404, "user_not_found", "User not found");
    other.put(unknown, &json!({ "roles": ["superuser"] })).await.is_problem(404, "user_not_found", "User not found");
}
