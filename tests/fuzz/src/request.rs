//! A request's input: path and query texts are parsed to typed values and a body to JSON, and both are validated
//! against an operation. The input is text, one member per line:
//!
//! ```text
//! template /items/{id}
//! schema Item {"type":"object"}
//! operation {"parameters":[…],"requestBody":{…}}
//! param id 5f0b5c3e-58f5-4f7c-8f4e-0c3f7c8b0d11
//! query skip=1&q=a%20b
//! type application/json
//! body {"title":"x"}
//! ```
//!
//! `body` comes last and extends to the end.
//!
//! Properties: only declared parameters are forwarded, with their declared types and without NUL; required parameters
//! are present; every finding has a location in path, query or body, and the rejection can be written as a problem.

use std::borrow::Cow;

use bytes::Bytes;
use serde_json::{Map, Value};
use wharf::error::{Error, Findings, Kind, Loc};
use wharf::http::fuzzing as http;
use wharf::route::scalar::Scalar;
use wharf::route::{BodyKind, Operation, Schemas, Template};

use crate::input::{unescaped, words};

#[derive(Default)]
struct Input {
    template: String,
    schemas: Map<String, Value>,
    operation: Value,
    params: Vec<(String, String)>,
    query: String,
    content_type: String,
    body: Vec<u8>,
}

impl Input {
    fn read(data: &[u8]) -> Self {
        let mut input = Self::default();
        let mut rest = data;
        while !rest.is_empty() {
            if let Some(body) = rest.strip_prefix(b"body ") {
                input.body = body.to_vec();
                break;
            }
            let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
            let line = String::from_utf8_lossy(&rest[..end]).into_owned();
            rest = rest.get(end + 1..).unwrap_or_default();
            let [member, text] = words(&line);
            let [name, value] = words(text);
            match member {
                "template" => input.template = text.to_owned(),
                "schema" => {
                    drop(input.schemas.insert(name.to_owned(), serde_json::from_str(value).unwrap_or_default()))
                }
                "operation" => input.operation = serde_json::from_str(text).unwrap_or_default(),
                "param" => input.params.push((name.to_owned(), unescaped(value))),
                "query" => input.query = text.to_owned(),
                "type" => input.content_type = unescaped(text),
                _ => {}
            }
        }
        input
    }
}

/// Checks one request.
pub fn check(data: &[u8]) {
    let input = Input::read(data);
    for (_, text) in &input.params {
        check_scalars(text);
    }
    let body = read_body(&input);
    let Ok(template) = input.template.parse::<Template>() else { return };
    let Ok(mut schemas) = Schemas::new(input.schemas.clone()) else { return };
    let Ok(operation) = Operation::compile(&input.operation, &mut schemas, &template) else { return };
    let path: Vec<(&str, Cow<'_, str>)> = template
        .params()
        .map(|(_, name)| {
            let text = input.params.iter().find(|(other, _)| other == name).map_or("", |(_, text)| text);
            (name, Cow::from(text.to_owned()))
        })
        .collect();
    // Parsed as the host parses it.
    let query: Vec<(Cow<'_, str>, Cow<'_, str>)> = form_urlencoded::parse(input.query.as_bytes()).collect();
    let (value, suspicious) = match (operation.body_kind(), body) {
        (Some(BodyKind::Json), (json, _)) => json,
        (Some(BodyKind::Form), (_, form)) => form,
        _ => (None, false),
    };
    let mut findings = Findings::default();
    let inputs = operation.check_parameters(&path, &query, &mut findings);
    operation.check_body(value.as_ref(), suspicious, &mut findings);
    if !findings.is_empty() {
        for finding in findings.listed() {
            let place = finding.loc.first();
            let known = ["path", "query", "body"].iter().any(|name| place == Some(&Loc::from(*name)));
            assert!(known && !finding.msg.is_empty() && !finding.kind.is_empty(), "{finding:?}");
        }
        return assert_problem(&Error::invalid(findings));
    }
    let parameters = input.operation["parameters"].as_array().cloned().unwrap_or_default();
    let declared = |name: &str, place: &str| {
        parameters.iter().find(|parameter| parameter["name"] == name && parameter["in"] == place)
    };
    assert!(path.iter().all(|(name, _)| inputs.path.contains_key(*name)), "a path parameter is missing");
    for (place, values) in [("path", &inputs.path), ("query", &inputs.query)] {
        for (name, value) in values {
            assert!(declared(name, place).is_some(), "{name} was never declared");
            let sent = match place {
                "path" => true,
                _ => query.iter().any(|(other, _)| other == name),
            };
            assert!(!sent || !holds_nul(value), "{name} holds a NUL");
        }
    }
    let required = parameters.iter().filter(|parameter| parameter["in"] == "query" && parameter["required"] == true);
    for name in required.filter_map(|parameter| parameter["name"].as_str()) {
        assert!(inputs.query.contains_key(name), "{name} is required and missing");
    }
    // Undeclared members of an object are ignored; any other value is checked as a whole.
    if let Some(value) = value.filter(|value| !value.is_object()) {
        assert!(!holds_nul(&value), "the body holds a NUL: {value}");
    }
}

fn holds_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(list) => list.iter().any(holds_nul),
        Value::Object(object) => object.iter().any(|(name, value)| name.contains('\0') || holds_nul(value)),
        _ => false,
    }
}

type Read = (Option<Value>, bool);

fn read_body(input: &Input) -> (Read, Read) {
    let bytes = Bytes::from(input.body.clone());
    let refused = |error: Error| {
        assert!(matches!(error.kind(), Kind::BadRequest | Kind::Invalid(_)), "{}", error.report());
        for finding in error.findings().unwrap_or_default() {
            if let Some(Loc::Index(offset)) = finding.loc.get(1) {
                assert!(*offset <= input.body.len() as u64, "byte {offset} of {}", input.body.len());
            }
        }
        assert_problem(&error);
        (None, false)
    };
    let json = http::json(input.content_type.as_bytes(), bytes.clone()).unwrap_or_else(refused);
    let form = http::form(input.content_type.as_bytes(), bytes).unwrap_or_else(refused);
    for (value, suspicious) in [&json, &form] {
        if let Some(value) = value {
            assert!(*suspicious || !holds_nul(value), "a NUL was not reported: {value}");
        }
    }
    let texts = form.0.as_ref().and_then(Value::as_object).into_iter().flat_map(Map::values);
    assert!(
        texts.into_iter().all(|text| text.as_str().is_some_and(|text| !text.is_empty())),
        "a form contains a non-empty text for every field"
    );
    (json, form)
}

fn assert_problem(error: &Error) {
    let reply = http::refusal(error);
    let written: Value = serde_json::from_slice(&reply.body).expect("a problem is JSON");
    assert_eq!(written["status"], reply.status.as_u16());
    assert!(reply.status.is_client_error());
}

/// Compares each type with a naive parser.
fn check_scalars(text: &str) {
    let read = |scalar: Scalar| scalar.read(text, "query", "n").ok();
    assert_eq!(read(Scalar::Text), Some(text.into()));
    let whole = text.trim();
    let digits = whole.strip_prefix(['+', '-']).unwrap_or(whole);
    let is_integer = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    let integer = |value: &Value| value.as_i64().map(i128::from).or_else(|| value.as_u64().map(i128::from));
    let fits = |n: i128| i64::try_from(n).is_ok() || u64::try_from(n).is_ok();
    match read(Scalar::Integer) {
        Some(value) => assert_eq!(whole.parse::<i128>().ok(), integer(&value), "{text:?}"),
        None => assert!(!is_integer || !whole.parse::<i128>().is_ok_and(fits), "{text:?}"),
    }
    match read(Scalar::Number) {
        Some(value) => assert!(value.as_f64().is_some_and(f64::is_finite), "{text:?}"),
        None => assert!(!is_integer || digits.len() > 300, "{text:?}"),
    }
    let word = text.to_ascii_lowercase();
    let expected = match word.as_str() {
        "true" | "t" | "yes" | "y" | "on" | "1" => Some(true),
        "false" | "f" | "no" | "n" | "off" | "0" => Some(false),
        _ => None,
    };
    assert_eq!(read(Scalar::Boolean), expected.map(Value::from), "{text:?}");
    for (name, scalar) in
        [("integer", Scalar::Integer), ("number", Scalar::Number), ("boolean", Scalar::Boolean), (text, Scalar::Text)]
    {
        let known = ["integer", "number", "boolean"].contains(&text);
        if scalar != Scalar::Text || !known {
            assert_eq!(Scalar::of(&serde_json::json!({ "type": name })), scalar);
        }
    }
}
