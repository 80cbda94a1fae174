//! Files that are rejected because of their format, declaration, grants or mount. A rejection changes nothing: the
//! operator API lists the same plugins, and the old release still responds.

use reqwest::Method;
use serde_json::{Value, json};

use super::{liar, plugins};
use crate::support::host::{CHAMELEON, chameleon_grants, offered_capabilities};
use crate::support::{Component, Setup, TestHost, TestResponse};

/// Deploys to a host that serves a liar and hello, and checks that the rejection changed nothing.
async fn rejection_with(setup: Setup, component: Component, query: &str) -> TestResponse {
    let host = TestHost::sqlite(setup).await;
    host.superuser().deploy(&liar(json!({})).0, "").await.ok();
    host.superuser().deploy(&Component::hello().0, "").await.ok();
    let before = plugins(&host).await;
    let response = host.superuser().deploy(&component.0, query).await;
    assert_ne!(response.status, 200, "{}", response.text());
    assert_eq!(plugins(&host).await, before);
    assert_eq!(host.anonymous().get("/liar/").await.text(), "one");
    assert_eq!(host.anonymous().get("/hello/").await.ok()["message"], "Hello");
    host.stop().await;
    response
}

pub(super) async fn rejection(component: Component, query: &str) -> TestResponse {
    rejection_with(Setup::default(), component, query).await
}

/// Checks that a file is rejected with 422, and returns the reason.
async fn rejected_file(component: Component) -> String {
    let detail = rejection(component, "").await.has_code(422, "invalid_component");
    detail.strip_prefix("The file cannot be deployed: ").unwrap().to_owned()
}

/// Checks the same for a liar with a changed declaration.
async fn rejected_declaration(changes: Value) -> String {
    rejected_file(liar(changes)).await
}

#[tokio::test]
async fn a_file_that_is_not_webassembly_is_rejected() {
    assert_eq!(rejected_file(Component(b"#!/bin/sh\n".to_vec())).await, "it is not WebAssembly");
}

#[tokio::test]
async fn an_empty_file_is_rejected() {
    let response = rejection(Component(Vec::new()), "").await;
    response.is_problem(422, "invalid_component", "The file cannot be deployed: it is empty");
}

#[tokio::test]
async fn a_core_module_is_rejected_and_the_right_build_target_is_named() {
    let reason = rejected_file(Component::text("(module)")).await;
    assert_eq!(reason, "it is a core module, not a component; build it for the target wasm32-wasip2");
}

#[tokio::test]
async fn a_truncated_component_is_rejected() {
    let mut component = Component::hello();
    component.0.truncate(component.0.len() / 2);
    let reason = rejected_file(component).await;
    assert!(reason.starts_with("it does not compile: "), "{reason}");
}

#[tokio::test]
async fn a_component_without_exports_is_rejected() {
    let reason = rejected_file(Component::text("(component)")).await;
    assert_eq!(
        reason,
        "it does not export 'wharf:plugin/descriptor@0.1.0', so it is not a Wharf plugin; it exports nothing"
    );
}

#[tokio::test]
async fn a_component_of_another_world_is_rejected_and_its_exports_are_named() {
    let text = r#"(component (instance $i) (export "other:world/thing@1.0.0" (instance $i)))"#;
    let reason = rejected_file(Component::text(text)).await;
    assert_eq!(
        reason,
        "it does not export 'wharf:plugin/descriptor@0.1.0', so it is not a Wharf plugin; it exports \
         other:world/thing@1.0.0"
    );
}

#[tokio::test]
async fn a_role_of_another_version_is_rejected() {
    let component = liar(json!({})).with_text("wharf:plugin/http@0.1.0", "wharf:plugin/http@0.9.0");
    let reason = rejected_file(component).await;
    assert!(reason.starts_with("it does not export 'wharf:plugin/http@0.1.0'"), "{reason}");
    assert!(reason.contains("wharf:plugin/http@0.9.0"), "{reason}");
}

#[tokio::test]
async fn roles_with_other_types_are_rejected_and_the_mismatch_is_named() {
    let text = r#"(component
        (core module $m (func (export "f")))
        (core instance $i (instantiate $m))
        (func $f (canon lift (core func $i "f")))
        (instance $descriptor (export "describe" (func $f)))
        (instance $http (export "routes" (func $f)) (export "handle" (func $f)))
        (export "wharf:plugin/descriptor@0.1.0" (instance $descriptor))
        (export "wharf:plugin/http@0.1.0" (instance $http)))"#;
    let reason = rejected_file(Component::text(text)).await;
    assert!(reason.starts_with("it was built for another version of Wharf's interfaces: "), "{reason}");
    assert!(reason.contains("type mismatch"), "{reason}");
}

#[tokio::test]
async fn an_unknown_import_is_rejected_and_named() {
    let component = Component::chameleon().with_text("wharf:cache/store@0.1.0", "wharf:crime/store@0.1.0");
    assert_eq!(rejected_file(component).await, "it imports 'wharf:crime/store@0.1.0', which this Wharf does not offer");
}

#[tokio::test]
async fn an_import_of_another_version_is_rejected_with_the_offered_version() {
    let component = Component::chameleon().with_text("wharf:cache/store@0.1.0", "wharf:cache/store@0.9.0");
    assert_eq!(
        rejected_file(component).await,
        "it imports 'wharf:cache/store@0.9.0', of which this Wharf offers only wharf:cache/store@0.1.0"
    );
}

#[tokio::test]
async fn sockets_cannot_be_imported() {
    let component = Component::hello().with_text("wasi:random/insecure-seed@", "wasi:sockets/instance-net@");
    let reason = rejected_file(component).await;
    assert!(reason.contains("wasi:sockets/instance-net@"), "{reason}");
}

#[tokio::test]
async fn missing_grants_are_all_named() {
    let response = rejection(Component::chameleon(), "grant=auth").await;
    let needed = chameleon_grants(&[]);
    let missing: Vec<&str> = needed.iter().map(String::as_str).filter(|name| *name != "auth").collect();
    let detail = format!(
        "The component needs capabilities that it was not granted: {}. Deploy it with --grant {}",
        missing.join(", "),
        needed.join(",")
    );
    response.is_problem(403, "grant_missing", &detail);
}

#[tokio::test]
async fn an_unknown_grant_is_rejected_with_the_list_of_known_ones() {
    let response = rejection(Component::chameleon(), "grant=sql,root").await;
    let offered = offered_capabilities();
    response.has_findings(&[&format!("query.grant value_error: there is no capability 'root'; there are: {offered}")]);
}

#[tokio::test]
async fn an_unneeded_grant_is_noted_and_not_recorded() {
    let host = TestHost::sqlite(Setup::default()).await;
    let deployed = host.superuser().deploy(&Component::hello().0, "grant=sql").await.ok();
    assert_eq!(deployed["notes"], json!(["grant 'sql' is not needed: the component does not import it"]));
    assert_eq!(deployed["plugin"]["grants"], json!([]));
}

#[tokio::test]
async fn a_mount_on_a_path_of_the_host_is_rejected() {
    let detail = rejection(Component::chameleon(), &format!("{CHAMELEON}&mount=/api/v1/users")).await;
    assert!(detail.has_code(409, "route_conflict").starts_with("The mount /api/v1/users overlaps with /api/v1/users"));
}

#[tokio::test]
async fn a_mount_above_the_hosts_paths_is_rejected() {
    let response = rejection(Component::chameleon(), &format!("{CHAMELEON}&mount=/api")).await;
    assert!(response.has_code(409, "route_conflict").starts_with("The mount /api overlaps with /api/v1/"));
}

#[tokio::test]
async fn the_root_cannot_be_a_mount() {
    let response = rejection(Component::chameleon(), &format!("{CHAMELEON}&mount=/")).await;
    response.is_problem(409, "route_conflict", "The mount / is not a fixed path below '/'");
}

#[tokio::test]
async fn a_mount_with_a_parameter_is_rejected() {
    let response = rejection(Component::chameleon(), &format!("{CHAMELEON}&mount=/shop/%7Bid%7D")).await;
    response.is_problem(409, "route_conflict", "The mount /shop/{id} is not a fixed path below '/'");
}

#[tokio::test]
async fn a_mount_that_is_not_a_path_is_an_invalid_parameter() {
    let response = rejection(Component::chameleon(), &format!("{CHAMELEON}&mount=shop")).await;
    response.has_findings(&["query.mount value_error: a path begins with '/'"]);
}

#[tokio::test]
async fn the_mount_of_another_plugin_is_rejected() {
    let response = rejection(Component::chameleon(), &format!("{CHAMELEON}&mount=/api/v1/hello")).await;
    response.is_problem(
        409,
        "route_conflict",
        "The mount /api/v1/hello of 'chameleon' overlaps with /api/v1/hello, the mount of the plugin 'hello'",
    );
}

#[tokio::test]
async fn a_mount_inside_another_plugins_mount_is_rejected() {
    let response = rejection(Component::chameleon(), &format!("{CHAMELEON}&mount=/api/v1/hello/inside")).await;
    assert!(response.has_code(409, "route_conflict").contains("the mount of the plugin 'hello'"));
}

#[tokio::test]
async fn an_invalid_name_is_an_invalid_parameter() {
    let response = rejection(Component::chameleon(), &format!("{CHAMELEON}&name=Not%20A%20Name")).await;
    let problem = response.problem();
    assert_eq!((response.status, &problem["errors"][0]["loc"]), (422, &json!(["query", "name"])), "{problem}");
}

#[tokio::test]
async fn an_invalid_declared_name_is_rejected() {
    let reason = rejected_declaration(json!({ "name": "Not A Name" })).await;
    assert!(reason.starts_with("its name 'Not A Name' is not valid: "), "{reason}");
}

#[tokio::test]
async fn a_version_that_is_not_semantic_is_rejected() {
    let reason = rejected_declaration(json!({ "version": "latest" })).await;
    assert!(reason.starts_with("its version 'latest' is not a semantic version: "), "{reason}");
}

#[tokio::test]
async fn a_permission_declared_twice_is_rejected() {
    let reason = rejected_declaration(json!({ "permissions": [["read", "x"], ["read", "y"]] })).await;
    assert_eq!(reason, "it declares the permission 'read' twice");
}

#[tokio::test]
async fn an_invalid_permission_name_is_rejected() {
    assert_eq!(rejected_declaration(json!({ "permissions": [["*", "x"]] })).await, "'*' is not a permission's name");
}

#[tokio::test]
async fn a_reserved_name_is_rejected() {
    let named = |name: &str| liar(json!({ "name": name, "permissions": [["read", "Read"]] }));
    let detail = rejection(named("audit"), "mount=/api/v1/mine").await.has_code(422, "reserved_name");
    assert_eq!(detail, "The name 'audit' belongs to the host; deploy the plugin under another name");
    rejection(named("mine"), "name=signing-keys").await.has_code(422, "reserved_name");
    // Its events would look like those of the host.
    rejection(named("user"), "mount=/api/v1/mine").await.has_code(422, "reserved_name");
}

#[tokio::test]
async fn a_route_with_an_undeclared_permission_is_rejected() {
    let routes = json!([{ "method": "GET", "path": "/", "access": "write", "operation": {} }]);
    assert_eq!(
        rejected_declaration(json!({ "routes": routes })).await,
        "route GET /: permission 'write' is not declared"
    );
}

#[tokio::test]
async fn an_unsupported_method_is_rejected() {
    let routes = json!([{ "method": "CONNECT", "path": "/", "access": "public", "operation": {} }]);
    assert_eq!(
        rejected_declaration(json!({ "routes": routes })).await,
        "route CONNECT /: the method is not one of GET, POST, PUT, PATCH, DELETE"
    );
}

#[tokio::test]
async fn a_path_that_leaves_the_mount_is_rejected() {
    let routes = json!([{ "method": "GET", "path": "/../users", "access": "public", "operation": {} }]);
    assert_eq!(
        rejected_declaration(json!({ "routes": routes })).await,
        "route GET /../users: clients would remove the segment '..' when they resolve the path"
    );
}

#[tokio::test]
async fn a_route_declared_twice_is_rejected() {
    let route = json!({ "method": "GET", "path": "/x", "access": "public", "operation": {} });
    let response = rejection(liar(json!({ "routes": [route, route] })), "").await;
    response.is_problem(409, "route_conflict", "The route GET /api/v1/liar/x is already served");
}

#[tokio::test]
async fn a_plugin_without_routes_is_rejected() {
    assert_eq!(rejected_declaration(json!({ "routes": [] })).await, "it declares no route");
}

#[tokio::test]
async fn a_cached_post_is_rejected() {
    let routes = json!([{ "method": "POST", "path": "/", "access": "public", "operation": {}, "ttl_ms": 1000 }]);
    assert_eq!(
        rejected_declaration(json!({ "routes": routes })).await,
        "route POST /: only responses to GET can be cached"
    );
}

#[tokio::test]
async fn an_operation_that_is_not_json_is_rejected() {
    let routes = json!([{ "method": "GET", "path": "/", "access": "public", "operation": "{" }]);
    let reason = rejected_declaration(json!({ "routes": routes })).await;
    assert!(reason.starts_with("route GET /: its operation is not JSON: "), "{reason}");
}

#[tokio::test]
async fn an_invalid_schema_is_rejected() {
    let operation = json!({ "requestBody": { "required": true, "content": {
        "application/json": { "schema": { "type": 17 } },
    } } });
    let routes = json!([{ "method": "POST", "path": "/", "access": "public", "operation": operation }]);
    let reason = rejected_declaration(json!({ "routes": routes })).await;
    assert!(reason.starts_with("route POST /: "), "{reason}");
}

#[tokio::test]
async fn a_reference_to_an_undeclared_schema_is_rejected() {
    let operation = json!({ "requestBody": { "required": true, "content": {
        "application/json": { "schema": { "$ref": "#/components/schemas/Nowhere" } },
    } } });
    let routes = json!([{ "method": "POST", "path": "/", "access": "public", "operation": operation }]);
    let reason = rejected_declaration(json!({ "routes": routes })).await;
    assert!(reason.starts_with("route POST /: ") && reason.contains("Nowhere"), "{reason}");
}

#[tokio::test]
async fn a_remote_schema_is_not_fetched() {
    let operation = json!({ "requestBody": { "required": true, "content": {
        "application/json": { "schema": { "$ref": "http://127.0.0.1:1/schema.json" } },
    } } });
    let routes = json!([{ "method": "POST", "path": "/", "access": "public", "operation": operation }]);
    let reason = rejected_declaration(json!({ "routes": routes })).await;
    assert!(reason.starts_with("route POST /: "), "{reason}");
}

#[tokio::test]
async fn an_invalid_settings_schema_is_rejected() {
    let reason = rejected_declaration(json!({ "settings_schema": r#"{"type":17}"# })).await;
    assert!(reason.starts_with("its settings schema is not a JSON Schema: "), "{reason}");
}

#[tokio::test]
async fn a_plugin_that_traps_in_describe_is_rejected() {
    let reason = rejected_declaration(json!({ "describe": "trap" })).await;
    assert_eq!(reason, "it fails when it is asked for its declaration: The plugin failed");
}

#[tokio::test]
async fn a_plugin_that_panics_in_routes_is_rejected() {
    let reason = rejected_declaration(json!({ "list": "panic" })).await;
    assert_eq!(reason, "it fails when it is asked for its declaration: The plugin failed");
}

#[tokio::test]
async fn a_plugin_that_traps_in_migrations_is_rejected() {
    let reason = rejected_declaration(json!({ "migrate": "trap" })).await;
    assert_eq!(reason, "it fails when it is asked for its declaration: The plugin failed");
}

#[tokio::test]
async fn a_plugin_that_loops_in_describe_is_rejected() {
    // CPU limit and deadline are equal here; which one expires first depends on scheduling.
    let reason = rejected_declaration(json!({ "describe": "loop" })).await;
    assert!(
        reason.ends_with("The plugin used up its CPU time") || reason.ends_with("The plugin did not respond in time"),
        "{reason}"
    );
}

#[tokio::test]
async fn a_plugin_that_sleeps_in_routes_is_rejected() {
    let reason = rejected_declaration(json!({ "list": "sleep" })).await;
    assert_eq!(reason, "it fails when it is asked for its declaration: The plugin did not respond in time");
}

#[tokio::test]
async fn a_plugin_that_takes_all_memory_in_describe_is_rejected() {
    let reason = rejected_declaration(json!({ "describe": "grow" })).await;
    assert_eq!(reason, "it fails when it is asked for its declaration: The plugin needs more memory than its limit");
}

#[tokio::test]
async fn a_huge_descriptor_is_rejected() {
    let reason = rejected_declaration(json!({ "summary_bytes": 20 << 20 })).await;
    assert!(reason.starts_with("it fails when it is asked for its declaration: "), "{reason}");
}

#[tokio::test]
async fn a_long_summary_is_rejected() {
    assert_eq!(rejected_declaration(json!({ "summary_bytes": 1025 })).await, "its summary is longer than 1024 bytes");
}

#[tokio::test]
async fn too_many_routes_are_rejected() {
    let reason = rejected_declaration(json!({ "route_count": 257 })).await;
    assert_eq!(reason, "it declares more than 256 routes or 1024 schemas");
}

/// A chain of schemas in which each applies the next one `times` times to the same value.
fn chain_of_schemas(length: usize, times: usize) -> Value {
    let links = (0..length).map(|number| {
        let next = json!({ "$ref": format!("#/components/schemas/C{}", number + 1) });
        json!([format!("C{number}"), json!({ "allOf": vec![next; times] }).to_string()])
    });
    links.chain([json!([format!("C{length}"), "{}"])]).collect()
}

/// A route whose body has the schema `C0`.
fn route_with_first_schema() -> Value {
    let content = json!({ "application/json": { "schema": { "$ref": "#/components/schemas/C0" } } });
    json!([{ "method": "POST", "path": "/", "access": "public", "operation": { "requestBody": { "content": content } } }])
}

#[tokio::test]
async fn schemas_that_would_take_the_hosts_time_or_memory_are_rejected() {
    let host = TestHost::sqlite(Setup::default()).await;
    let rejected = async |changes: Value| {
        let mut changes = changes;
        if changes["schemas"].is_array() {
            changes["routes"] = route_with_first_schema();
        }
        host.superuser().deploy(&liar(changes).0, "").await.has_code(422, "invalid_component")
    };
    let component = |schema: Value| json!({ "schemas": [["C0", schema.to_string()]] });
    let patterns: Value =
        (0..300).map(|number| (format!("m{number}"), json!({ "pattern": format!("a{number}+") }))).collect();
    let options: Vec<usize> = (0..8_000).collect();
    let parameters: Vec<Value> = (0..40)
        .map(|number| {
            json!({ "name": format!("p{number}"), "in": "query",
            "schema": { "$ref": "#/components/schemas/C0" } })
        })
        .collect();
    let mut many = component(json!({ "enum": options }));
    let path = json!([{ "method": "GET", "path": "/", "access": "public", "operation": { "parameters": parameters } }]);
    for (changes, reason) in [
        (json!({ "schemas": chain_of_schemas(7, 2) }), "more than 500 schemas apply to the same value"),
        (json!({ "schemas": chain_of_schemas(100, 1) }), "a schema leads to the next one more than 16 times"),
        (component(json!({ "not": { "$ref": "#/components/schemas/C0" } })), "so it never ends"),
        (component(json!({ "properties": patterns })), "there are more than 256 patterns"),
        (component(json!({ "pattern": "(a{1000}){1000}" })), "or is too large"),
        (component(json!({ "pattern": "^[ab]*a[ab]{6000}c" })), "or is too large"),
        (component(json!({ "$dynamicRef": "#x" })), "it uses '$dynamicRef'"),
        (json!({ "settings_schema": json!({ "allOf": [{ "$ref": "#" }] }).to_string() }), "so it never ends"),
    ] {
        let detail = rejected(changes).await;
        assert!(detail.contains(reason), "{detail}");
    }
    many["routes"] = path;
    let detail = host.superuser().deploy(&liar(many).0, "").await.has_code(422, "invalid_component");
    assert!(detail.contains("more than 250000 values"), "{detail}");
    // A schema that refers to itself for the parts of a value is a tree, and a request cannot make it explode.
    let tree = json!({ "properties": { "a": { "allOf": vec![json!({ "$ref": "#/components/schemas/C0" }); 2] } } });
    let mut changes = component(tree);
    changes["routes"] = route_with_first_schema();
    host.superuser().deploy(&liar(changes).0, "").await.ok();
    let nested = |levels: usize| (0..levels).fold(json!({}), |inside, _| json!({ "a": inside }));
    let post = async |levels| host.anonymous().request(Method::POST, "/liar").json(&nested(levels)).send().await;
    assert_eq!(post(5).await.status, 200);
    // Without a budget, this takes 2^60 steps.
    let answer = post(60).await;
    assert!([200, 422].contains(&answer.status), "{}", answer.text());
    host.stop().await;
}
