//! The access matrix: each caller × each route × an object of somebody else. The routes come from the OpenAPI document,
//! so a route without an entry fails. The database makes no difference.
//!
//! A caller who is not admitted names real objects of a victim, so that a gap in the access check would do harm and
//! show. An admitted caller names objects that do not exist, so that nothing happens.

mod entries;

use std::collections::{BTreeMap, BTreeSet};

use reqwest::Method;
use serde_json::{Value, json};

use self::entries::{Access, ENDING, ENTRIES, Entry, Foreign};
use super::text;
use crate::plugin::liar;
use crate::support::host::{PASSWORD, SUPERUSER};
use crate::support::{Client, Setup, TestHost, TestResponse};

const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

/// A documented route with its entry.
struct Route {
    method: Method,
    path: String,
    entry: Entry,
}

/// The objects that requests name, by parameter. The name of a parameter in front of a dot is the tag of the route.
type Objects = BTreeMap<&'static str, String>;

impl Route {
    fn tag(&self) -> &'static str {
        self.entry.0.split('-').next().unwrap()
    }

    fn has_object(&self) -> bool {
        self.path.contains('{')
    }

    /// Sends a request without a body.
    async fn call(&self, client: &Client, objects: &Objects) -> TestResponse {
        let mut path = String::new();
        let mut rest = self.path.as_str();
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) = after.split_once('}').unwrap();
            let object = objects.get(format!("{}.{name}", self.tag()).as_str()).or_else(|| objects.get(name));
            let object = object.unwrap_or_else(|| panic!("{}: the matrix has no object {{{name}}}", self.entry.0));
            path = format!("{path}{before}{object}");
            rest = after;
        }
        client.plain(self.method.clone(), &format!("{path}{rest}")).send().await
    }
}

/// Returns the code of a problem; empty for other responses.
fn code(response: &TestResponse) -> String {
    let problem = serde_json::from_slice::<Value>(&response.bytes).unwrap_or_default();
    problem["code"].as_str().unwrap_or_default().to_owned()
}

/// The codes of the access check.
const REFUSALS: [&str; 7] = [
    "not_authenticated",
    "invalid_token",
    "forbidden",
    "needs_account",
    "needs_session",
    "second_factor_required",
    "exceeds_own_permissions",
];

#[derive(Default)]
struct Report {
    calls: usize,
    wrong: BTreeSet<String>,
}

impl Report {
    fn expect(&mut self, caller: &str, route: &Route, response: &TestResponse, expected: Option<(u16, &str)>) {
        self.calls += 1;
        let code = code(response);
        let is_right = match expected {
            Some((status, expected)) => response.status == status && code == expected,
            None => !REFUSALS.contains(&code.as_str()),
        };
        if !is_right {
            let expected = expected.map_or("admission".to_owned(), |(status, code)| format!("{status} {code}"));
            self.wrong.insert(format!("{caller}: {}: {} {code} instead of {expected}", route.entry.0, response.status));
        }
    }
}

/// Returns the documented routes with their entries. Fails if one has none, or if an entry has no route.
async fn routes(host: &TestHost) -> Vec<Route> {
    let document = host.anonymous().get("/openapi.json").await.ok();
    let mut routes = Vec::new();
    let mut missing = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in METHODS {
            let Some(operation) = item.get(method) else { continue };
            let id = text(operation, "operationId");
            match ENTRIES.iter().find(|entry| entry.0 == id) {
                Some(entry) => {
                    let is_secured = operation.get("security").is_some();
                    assert_eq!(is_secured, entry.1 != Access::Public, "{id}: the document says otherwise");
                    assert_eq!(text(operation, "x-wharf-access"), entry.1.to_string(), "{id}");
                    let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
                    routes.push(Route { method, path: path.clone(), entry: *entry });
                }
                None => {
                    missing.insert(format!("(\"{id}\", …) for {} {path}", method.to_uppercase()));
                }
            }
        }
    }
    assert!(missing.is_empty(), "routes without an entry in tests/http/access_matrix/entries.rs: {missing:#?}");
    let known: BTreeSet<&str> = routes.iter().map(|route| route.entry.0).collect();
    let gone: Vec<_> = ENTRIES.iter().filter(|entry| !known.contains(entry.0)).collect();
    assert!(gone.is_empty(), "entries without a route: {gone:?}");
    routes
}

/// Deploys the items plugin, and a plugin with a route of each kind of access.
async fn deploy(host: &TestHost) {
    let route = |path: &str, access: Value| {
        let operation = json!({ "tags": ["kinds"], "operationId": format!("kinds-{path}") });
        json!({ "method": "GET", "path": format!("/{path}"), "access": access, "operation": operation })
    };
    let component = liar(json!({
        "name": "kinds",
        "permissions": [["look", "Look"]],
        "routes": [
            route("public", json!("public")),
            route("authenticated", json!("authenticated")),
            route("permission", json!("look")),
            route("superuser", json!("superuser")),
        ],
    }));
    host.superuser().deploy(&component.0, "").await.ok();
}

async fn id_of(client: &Client) -> String {
    text(&client.get("/users/me").await.ok(), "id").to_owned()
}

/// The victim: an account with an object of each kind.
async fn victim(host: &TestHost) -> (Client, Objects) {
    let client = host.user("victim@example.com").await;
    let session = text(&client.get("/users/me/sessions").await.ok()["data"][0], "id").to_owned();
    let item = text(&client.post("/items/", &json!({ "title": "Tea" })).await.ok(), "id").to_owned();
    let key = key(host.superuser(), "users:read").await;
    let objects = BTreeMap::from([
        ("user_id", id_of(&client).await),
        ("session_id", session),
        ("email", "victim@example.com".to_owned()),
        ("plugins.name", "items".to_owned()),
        ("plugins.id", "nothing".to_owned()),
        ("roles.name", "shared".to_owned()),
        ("schedules.plugin", "items".to_owned()),
        ("schedules.name", "nothing".to_owned()),
        ("seq", "1".to_owned()),
        ("number", "1".to_owned()),
        ("capability", "sql".to_owned()),
        ("chain", "nothing".to_owned()),
        ("issuer", "nothing".to_owned()),
        ("key_id", text(&key, "id").to_owned()),
        ("identity_id", NOBODY.to_owned()),
        ("passkey_id", NOBODY.to_owned()),
        ("id", item),
    ]);
    host.superuser().post("/roles/", &json!({ "name": "shared" })).await.ok();
    host.superuser().put(&format!("/users/{}/roles", objects["user_id"]), &json!({ "roles": ["shared"] })).await.ok();
    (client, objects)
}

/// Creates an API key of the caller with one permission.
async fn key(owner: &Client, permission: &str) -> Value {
    let key = owner.post("/users/me/keys", &json!({ "name": "matrix", "permissions": [permission] })).await;
    assert_eq!(key.status, 200, "{}", key.text());
    key.json()
}

/// The id of no object.
const NOBODY: &str = "5f0b5c3e-58f5-4f7c-8f4e-0c3f7c8b0d11";

/// Objects that do not exist.
fn nothing() -> Objects {
    let names = ["name", "plugin", "capability", "chain", "issuer"];
    let mut nothing: Objects = names.into_iter().map(|name| (name, "nothing".to_owned())).collect();
    let ids = ["user_id", "session_id", "id", "key_id", "identity_id", "passkey_id"];
    nothing.extend(ids.map(|name| (name, NOBODY.to_owned())));
    let others = [("number", "9"), ("seq", "999999"), ("email", "nobody@example.com")];
    nothing.extend(others.map(|(name, value)| (name, value.to_owned())));
    nothing
}

/// Returns every permission that exists.
async fn all_permissions(host: &TestHost) -> Vec<String> {
    let list = host.superuser().get("/permissions/?limit=1000").await.ok();
    super::column(&list, "name").into_iter().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_admits_exactly_the_callers_of_its_entry() {
    let host = TestHost::sqlite(Setup::default().with_items().in_development()).await;
    deploy(&host).await;
    let routes = routes(&host).await;
    let (victim, objects) = victim(&host).await;
    let nothing = nothing();
    let mut report = Report::default();

    callers_without_permissions(&host, &routes, &objects, &nothing, &mut report).await;
    callers_with_permissions(&host, &routes, &objects, &nothing, &mut report).await;
    an_api_key(&host, &routes, &objects, &nothing, &mut report).await;

    assert!(report.wrong.is_empty(), "{} of {} calls: {:#?}", report.wrong.len(), report.calls, report.wrong);
    assert!(report.calls > 5 * routes.len(), "{}", report.calls);
    // Nothing of the victim changed.
    assert_eq!(victim.get("/users/me/sessions").await.ok()["count"], 1);
    assert_eq!(victim.get(&format!("/items/{}", objects["id"])).await.ok()["title"], "Tea");
    assert_eq!(victim.get("/users/me/roles").await.ok()["roles"], json!(["shared"]));
}

/// Nobody, a forged token, and a member of the default role.
async fn callers_without_permissions(
    host: &TestHost,
    routes: &[Route],
    objects: &Objects,
    nothing: &Objects,
    report: &mut Report,
) {
    let member = host.user("member@example.com").await;
    for route in routes {
        let (_, access, foreign) = route.entry;
        let anonymous = route.call(&host.anonymous(), if access == Access::Public { nothing } else { objects }).await;
        let expected = (access != Access::Public).then_some((401, "not_authenticated"));
        report.expect("nobody", route, &anonymous, expected);
        if access != Access::Public {
            let forged = route.call(&host.anonymous().with_token("forged"), objects).await;
            report.expect("a forged token", route, &forged, Some((401, "invalid_token")));
        }
        match (access, foreign) {
            (Access::Permission(_) | Access::Superuser, _) => {
                let response = route.call(&member, objects).await;
                report.expect("a member", route, &response, Some((403, "forbidden")));
            }
            (Access::SignedIn | Access::Session, Foreign::Refused(status, code)) => {
                assert!(route.has_object(), "{} has no object", route.entry.0);
                let response = route.call_with_body(&member, objects).await;
                report.expect("a member with a foreign object", route, &response, Some((status, code)));
            }
            (Access::SignedIn | Access::Session, Foreign::Admitted) => {
                let client = if ENDING.contains(&route.entry.0) { &throwaway(host).await } else { &member };
                report.expect("a member", route, &route.call(client, nothing).await, None);
            }
            (Access::Public, _) => {}
        }
    }
}

/// An API key of a superuser with one permission: it has no other, and it is no session.
async fn an_api_key(host: &TestHost, routes: &[Route], objects: &Objects, nothing: &Objects, report: &mut Report) {
    const PERMISSION: &str = "users:read";
    let key = host.anonymous().with_token(text(&key(host.superuser(), PERMISSION).await, "key"));
    for route in routes {
        let of_plugin = ["items", "kinds"].contains(&route.tag());
        let expected = match route.entry.1 {
            Access::Public | Access::Permission(PERMISSION) => None,
            // A key needs `routes:call` for the routes of plugins that any caller may call.
            Access::SignedIn => of_plugin.then_some((403, "forbidden")),
            Access::Session => Some((403, "needs_session")),
            Access::Permission(_) | Access::Superuser => Some((403, "forbidden")),
        };
        let with = if expected.is_some() { objects } else { nothing };
        report.expect("an API key", route, &route.call(&key, with).await, expected);
    }
}

/// Returns a client of an account that may be deleted.
async fn throwaway(host: &TestHost) -> Client {
    let email = format!("throwaway-{}@example.com", uuid::Uuid::new_v4());
    host.user(&email).await
}

/// Superusers, operators, and for each permission a caller with it alone and a caller with all others.
async fn callers_with_permissions(
    host: &TestHost,
    routes: &[Route],
    objects: &Objects,
    nothing: &Objects,
    report: &mut Report,
) {
    let root = host.superuser();
    let (narrow, others) = (host.user("narrow@example.com").await, host.user("others@example.com").await);
    let operator = host.user("operator@example.com").await;
    for (client, role) in [(&narrow, "only"), (&others, "all-but"), (&operator, "operator")] {
        if role != "operator" {
            root.post("/roles/", &json!({ "name": role })).await.ok();
        }
        let path = format!("/users/{}/roles", id_of(client).await);
        root.put(&path, &json!({ "roles": [role] })).await.ok();
    }
    let of_operators = root.get("/roles/operator").await.ok()["permissions"].clone();
    let all = all_permissions(host).await;
    let mut current = "";
    let mut sorted: Vec<&Route> = routes.iter().collect();
    sorted.sort_by_key(|route| match route.entry.1 {
        Access::Permission(name) => name,
        _ => "",
    });
    for route in sorted {
        if ENDING.contains(&route.entry.0) {
            let superuser = host.anonymous().signed_in(SUPERUSER, PASSWORD).await;
            report.expect("a superuser", route, &route.call(&superuser, nothing).await, None);
            continue;
        }
        if route.entry.1 != Access::Public {
            report.expect("a superuser", route, &route.call(root, nothing).await, None);
        }
        match route.entry.1 {
            Access::Permission(permission) => {
                if permission != current {
                    assert!(all.iter().any(|known| known == permission), "{permission} does not exist");
                    let but: Vec<&String> = all.iter().filter(|known| *known != permission).collect();
                    root.patch("/roles/only", &json!({ "permissions": [permission] })).await.ok();
                    root.patch("/roles/all-but", &json!({ "permissions": but })).await.ok();
                    current = permission;
                }
                report.expect("the permission alone", route, &route.call(&narrow, nothing).await, None);
                let refused = route.call(&others, objects).await;
                report.expect("all other permissions", route, &refused, Some((403, "forbidden")));
                assert_eq!(refused.problem()["permission"], permission, "{}", route.entry.0);
                let holds = of_operators.as_array().unwrap().iter().any(|held| *held == permission);
                let expected = (!holds).then_some((403, "forbidden"));
                let with = if holds { nothing } else { objects };
                report.expect("an operator", route, &route.call(&operator, with).await, expected);
            }
            Access::Superuser => {
                for (caller, client) in [("an operator", &operator), ("all other permissions", &others)] {
                    report.expect(caller, route, &route.call(client, objects).await, Some((403, "forbidden")));
                }
            }
            Access::Public | Access::SignedIn | Access::Session => {}
        }
    }
}

impl Route {
    /// Sends a request that fits the schema, so that the object decides. Only routes with foreign objects need it.
    async fn call_with_body(&self, client: &Client, objects: &Objects) -> TestResponse {
        if self.method == Method::PUT || self.method == Method::PATCH {
            let path = self.path.split('{').next().unwrap();
            let object = &objects["id"];
            let request = client.plain(self.method.clone(), &format!("{path}{object}"));
            return request.json(&json!({ "title": "stolen" })).send().await;
        }
        self.call(client, objects).await
    }
}
