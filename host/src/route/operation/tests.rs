use serde_json::json;

use super::*;
use crate::clock::thread_nanos;

fn operation() -> Operation {
    let components = json!({
        "Nested": { "type": "object", "properties": { "n": { "type": "integer" } } },
        "ItemCreate": {
            "type": "object",
            "properties": {
                "title": { "type": "string", "minLength": 1, "maxLength": 5 },
                "description": { "type": ["string", "null"], "maxLength": 5 },
                "email": { "type": "string", "format": "email" },
                "done": { "type": "boolean" },
                "nested": { "$ref": "#/components/schemas/Nested" },
            },
            "required": ["title", "email"],
        },
    });
    let json = json!({
        "parameters": [
            { "name": "id", "in": "path", "required": true, "schema": { "type": "string", "format": "uuid" } },
            { "name": "skip", "in": "query", "schema": { "type": "integer", "minimum": 0, "default": 0 } },
        ],
        "requestBody": { "required": true, "content": { "application/json": {
            "schema": { "$ref": "#/components/schemas/ItemCreate" } } } },
    });
    let mut schemas = Schemas::new(components.as_object().unwrap().clone()).unwrap();
    Operation::compile(&json, &mut schemas, &Template::parse("/items/{id}").unwrap()).unwrap()
}

fn no_components() -> Schemas {
    Schemas::new(Map::new()).unwrap()
}

fn refused(id: &str, query: &[(&str, &str)], body: Value) -> Value {
    let query: Vec<_> = query.iter().map(|(a, b)| (Cow::from(*a), Cow::from(*b))).collect();
    let has_escaped_nul = body.to_string().contains("u0000");
    let (operation, mut found) = (operation(), Findings::default());
    operation.check_parameters(&[("id", id.into())], &query, &mut found);
    operation.check_body(Some(&body), has_escaped_nul, &mut found);
    serde_json::to_value(found.listed()).unwrap()
}

const ID: &str = "5f0b5c3e-58f5-4f7c-8f4e-0c3f7c8b0d11";

#[test]
fn all_findings_are_returned_in_the_order_path_query_body() {
    let found = refused("x", &[("skip", "-1")], json!({ "description": 1, "email": "a@b" }));
    let places: Vec<String> = found.as_array().unwrap().iter().map(|f| format!("{} {}", f["loc"], f["type"])).collect();
    assert_eq!(
        places,
        [
            r#"["path","id"] "uuid_parsing""#,
            r#"["query","skip"] "greater_than_equal""#,
            r#"["body","title"] "missing""#,
            r#"["body","description"] "string_type""#,
            r#"["body","email"] "value_error""#,
        ]
    );
}

#[test]
fn texts_are_those_of_the_http_contract() {
    let body = |title: Value| json!({ "title": title, "email": "a@example.com" });
    let msg = |body| refused(ID, &[], body)[0]["msg"].as_str().unwrap().to_owned();
    assert_eq!(msg(body(json!(""))), "String should have at least 1 character");
    assert_eq!(msg(body(json!("äöüßéx"))), "String should have at most 5 characters");
    assert_eq!(msg(body(json!(null))), "Input should be a valid string");
    assert_eq!(msg(json!([])), "Input should be a valid dictionary or object to extract fields from");
    assert_eq!(
        msg(json!({ "title": "x", "email": "nobody" })),
        "value is not a valid email address: An email address must have an @-sign."
    );
}

#[test]
fn findings_in_nested_members_have_their_location() {
    let body = json!({ "title": "x", "email": "a@example.com", "done": null, "nested": { "n": "x" } });
    let found = refused(ID, &[], body);
    assert_eq!(found[0]["type"], "bool_type");
    assert_eq!(found[1]["loc"], json!(["body", "nested", "n"]));
}

#[test]
fn a_nul_is_refused_only_in_declared_members() {
    let found = refused(ID, &[], json!({ "title": "a\0", "email": "a@example.com", "other": "\0" }));
    assert_eq!(found.as_array().unwrap().len(), 1);
    assert_eq!(found[0]["type"], "value_error");
}

#[test]
fn valid_input_is_typed_and_gets_defaults() {
    let body = json!({ "title": "x", "email": "a@example.com", "unknown": 1 });
    let mut found = Findings::default();
    let inputs = operation().check_parameters(&[("id", ID.into())], &[], &mut found);
    operation().check_body(Some(&body), false, &mut found);
    assert!(found.is_empty());
    assert_eq!(inputs.query["skip"], 0);
    assert_eq!(inputs.path["id"], ID);
}

#[test]
fn a_schema_that_is_invalid_or_refers_outside_its_document_is_refused() {
    let compile = |schema: Value| {
        let json = json!({ "requestBody": { "content": { "application/json": { "schema": schema } } } });
        Operation::compile(&json, &mut no_components(), &Template::parse("/").unwrap()).map(drop)
    };
    assert!(compile(json!({ "$ref": "https://example.com/schema.json" })).is_err());
    assert!(compile(json!({ "$ref": "file:///etc/passwd" })).is_err());
    assert!(compile(json!({ "$ref": "#/components/schemas/Missing" })).is_err());
    assert!(compile(json!({ "type": 7 })).is_err());
    assert!(compile(json!({ "pattern": "(" })).is_err());
    assert!(compile(json!({ "pattern": "(a{1000}){1000}" })).is_err());
    assert!(compile(json!(true)).is_ok());
}

/// Returns an operation whose body is a list of texts, and whose query has a list of numbers.
fn lists() -> Operation {
    let json = json!({
        "parameters": [
            { "name": "n", "in": "query", "schema": { "type": "array", "items": { "type": "integer", "maximum": 9 } } },
        ],
        "requestBody": { "content": { "application/json": {
            "schema": { "type": "array", "items": { "type": "string", "maxLength": 5 } } } } },
    });
    Operation::compile(&json, &mut no_components(), &Template::parse("/").unwrap()).unwrap()
}

fn check_body(operation: &Operation, body: &Value) -> Findings {
    let mut found = Findings::default();
    operation.check_body(Some(body), true, &mut found);
    found
}

#[test]
fn countless_mistakes_are_listed_up_to_a_limit_and_counted() {
    let operation = lists();
    let parts = |body: Value| {
        let (listed, omitted) = check_body(&operation, &body).into_parts();
        (listed.len(), omitted)
    };
    assert_eq!(parts(json!(vec!["\0"; 5_000])), (100, 4_900));
    assert_eq!(parts(json!(vec![1; 5_000])), (100, 4_900));
    assert_eq!(parts(json!(vec![1; 100])), (100, 0));
    let found = check_body(&operation, &json!(["x", 1, "\0", "toolong\0"]));
    let places: Vec<_> = found.listed().iter().map(|finding| finding.loc[1].clone()).collect();
    assert_eq!(places, [1, 3, 2].map(crate::error::Loc::Index), "one finding per location");
    let mut found = Findings::default();
    let query: Vec<_> = (0..5_000).map(|_| (Cow::from("n"), Cow::from("10"))).collect();
    operation.check_parameters(&[], &query, &mut found);
    let (listed, omitted) = found.into_parts();
    assert_eq!((listed.len(), omitted), (100, 4_900));
}

#[test]
fn the_memory_for_findings_does_not_grow_with_the_names_of_members() {
    // Each of 100,000 errors would have a copy of the long name in its path.
    let operation = {
        let schema = json!({ "additionalProperties": { "items": { "type": "string" } } });
        let json = json!({ "requestBody": { "content": { "application/json": { "schema": schema } } } });
        Operation::compile(&json, &mut no_components(), &Template::parse("/").unwrap()).unwrap()
    };
    let name = "n".repeat(1_000_000);
    let (listed, _) = check_body(&operation, &json!({ name.clone(): vec![1; 100_000] })).into_parts();
    assert!((1..100).contains(&listed.len()), "few are looked for: {}", listed.len());
    let (listed, omitted) = check_body(&operation, &json!({ name: vec!["\0"; 100_000] })).into_parts();
    assert_eq!((listed.len(), omitted), (100, 99_900));
    assert!(serde_json::to_string(&listed).unwrap().len() < 200_000);
}

/// Checks that ten times the input takes at most thirty times the time of the processor, in nanoseconds. The shortest of
/// several runs is compared, because other load on the machine only adds time.
fn grows_linearly(name: &str, run: impl Fn(usize) -> u64) {
    let shortest = |size: usize| (0..7).map(|_| run(size)).min().unwrap();
    let (small, large) = (shortest(2_000), shortest(20_000));
    assert!(large < small * 30, "{name}: {small} ns for a tenth of the input, and then {large} ns");
}

#[test]
fn the_time_for_refusing_an_input_grows_with_its_size_only() {
    let (operation, members) = (lists(), self::operation());
    let timed = |work: &dyn Fn()| {
        let began = thread_nanos();
        work();
        thread_nanos() - began
    };
    let body = |name: &str, value: &dyn Fn(usize) -> Value| {
        grows_linearly(name, |size| {
            let value = value(size);
            timed(&|| assert!(!check_body(&operation, &value).is_empty()))
        });
    };
    body("texts with NUL", &|size| json!(vec!["\0"; size]));
    body("values of the wrong type", &|size| json!(vec![1; size]));
    body("nested lists", &|size| json!(vec![json!([["\0"]]); size]));
    body("names with NUL", &|size| {
        json!([(0..size).map(|number| (format!("{number}\0"), Value::Null)).collect::<Map<String, Value>>()])
    });
    grows_linearly("parameters", |size| {
        let query: Vec<_> = (0..size).map(|_| (Cow::from("n"), Cow::from("10"))).collect();
        timed(&|| drop(operation.check_parameters(&[], &query, &mut Findings::default())))
    });
    grows_linearly("members that are not declared", |size| {
        let body: Map<String, Value> = (0..size).map(|number| (format!("x{number}"), "\0".into())).collect();
        let body = Value::Object(body);
        timed(&|| drop(check_body(&members, &body)))
    });
}

/// Returns an operation whose texts have a pattern that looks at each of its states for each character.
fn with_costly_pattern() -> Operation {
    let schema = json!({ "type": "string", "pattern": "^[ab]*a[ab]{600}c" });
    let json = json!({
        "parameters": [
            { "name": "p", "in": "query", "schema": schema },
            { "name": "q", "in": "query", "schema": schema },
        ],
        "requestBody": { "content": { "application/json": { "schema": schema } } },
    });
    Operation::compile(&json, &mut no_components(), &Template::parse("/").unwrap()).unwrap()
}

#[test]
fn a_body_that_takes_many_steps_is_not_checked_on_the_thread_of_its_connection() {
    let operation = with_costly_pattern();
    let briefly = |body: &Value| {
        let mut found = Findings::default();
        (operation.check_body_briefly(Some(body), false, &mut found), found.listed().len())
    };
    assert_eq!(briefly(&json!("ab")), (true, 1));
    assert_eq!(briefly(&json!("ab".repeat(2_000))), (false, 0));
    let mut found = Findings::default();
    operation.check_body(Some(&json!("ab".repeat(2_000))), false, &mut found);
    assert_eq!(found.listed()[0].kind, "string_pattern_mismatch", "the whole check takes the time");
}

#[test]
fn all_parameters_share_their_steps() {
    let operation = with_costly_pattern();
    let kinds = |length: usize| -> Vec<String> {
        let query = ["p", "q"].map(|name| (Cow::from(name), Cow::from("ab".repeat(length / 2))));
        let mut found = Findings::default();
        operation.check_parameters(&[], &query, &mut found);
        found.listed().iter().map(|finding| finding.kind.to_string()).collect()
    };
    assert_eq!(kinds(100), ["string_pattern_mismatch", "string_pattern_mismatch"]);
    assert_eq!(kinds(1_000), ["string_pattern_mismatch", "value_error"], "the first one took most steps");
}
