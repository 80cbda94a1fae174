use super::*;
use crate::clock::thread_nanos;

fn schemas(components: Value) -> Schemas {
    Schemas::new(components.as_object().unwrap().clone()).unwrap()
}

/// Returns the reason why a schema is refused.
fn refused(components: Value, schema: Value) -> String {
    schemas(components).validator(&schema).err().unwrap().to_string()
}

/// Returns the number of errors, and whether the whole value was checked.
fn errors(validator: &Validator, value: &Value) -> (usize, bool) {
    let mut errors = 0;
    let is_complete = validator.errors(value, |_| errors += 1);
    (errors, is_complete)
}

/// A chain of components. Each link is `link` of the name of the next one; the last is a text.
fn chain(length: usize, link: impl Fn(Value) -> Value) -> Value {
    let components = (0..length).map(|number| {
        let next = json!({ "$ref": format!("#/components/schemas/C{}", number + 1) });
        (format!("C{number}"), link(next))
    });
    let last = (format!("C{length}"), json!({ "type": "string" }));
    Value::Object(components.chain([last]).collect())
}

fn first() -> Value {
    json!({ "$ref": "#/components/schemas/C0" })
}

#[test]
fn references_lead_to_components_and_into_the_schema_itself() {
    let components = json!({
        "Text": { "type": "string", "maxLength": 3 },
        "Tree": { "type": "object", "properties": {
            "name": { "$ref": "#/components/schemas/Text" },
            "inside": { "type": "array", "items": { "$ref": "#/components/schemas/Tree" } } } },
    });
    let schema = json!({
        "$defs": { "Own": { "allOf": [{ "$ref": "#/components/schemas/Text" }] } },
        "properties": { "$ref": { "$ref": "#/$defs/Own" }, "tree": { "$ref": "#/components/schemas/Tree" } },
        "not": { "const": { "$ref": "#/components/schemas/Text" } },
    });
    let validator = schemas(components).validator(&schema).unwrap();
    let valid = json!({ "$ref": "abc", "tree": { "inside": [{ "name": "a", "inside": [] }] } });
    assert_eq!(errors(&validator, &valid), (0, true));
    let wrong = json!({ "$ref": "abcd", "tree": { "name": "abcd", "inside": [{ "name": 1 }] } });
    assert_eq!(errors(&validator, &wrong), (3, true));
    assert_eq!(errors(&validator, &json!({ "$ref": "#/components/schemas/Text" })).0, 2, "it is data in `const`");
}

#[test]
fn a_chain_of_doubled_references_is_refused() {
    let doubled = |next: Value| json!({ "allOf": [next.clone(), next] });
    let reason = refused(chain(7, doubled), first());
    assert!(reason.starts_with("more than 500 schemas apply to the same value"), "{reason}");
    let validator = schemas(chain(6, doubled)).validator(&first()).unwrap();
    assert_eq!(errors(&validator, &json!("x")), (0, true));
    let long = refused(chain(300, |next| json!({ "allOf": [next] })), first());
    assert!(long.starts_with("a schema leads to the next one more than 16 times"), "{long}");
}

#[test]
fn a_schema_that_applies_to_the_same_value_as_itself_is_refused() {
    let itself = |schema: Value| refused(json!({ "C0": schema }), first());
    for schema in [json!({ "$ref": "#/components/schemas/C0" }), json!({ "anyOf": [true, { "not": first() }] })] {
        assert!(itself(schema).contains("so it never ends"));
    }
}

#[test]
fn a_schema_that_doubles_with_each_level_of_a_value_takes_bounded_time() {
    let doubled = json!({ "C0": { "properties": { "a": { "allOf": [first(), first()] } }, "required": ["b"] } });
    let validator = schemas(doubled).validator(&first()).unwrap();
    let nested = |levels: usize| (0..levels).fold(json!({}), |inside, _| json!({ "a": inside }));
    assert_eq!(errors(&validator, &nested(3)), (15, true));
    let (found, is_complete) = errors(&validator, &nested(40));
    assert!((1..=60_000).contains(&found) && !is_complete, "{found}");
}

#[test]
fn ten_times_the_wrong_elements_take_at_most_thirty_times_the_time_of_the_processor() {
    let required: Vec<String> = (0..100).map(|number| format!("m{number}")).collect();
    let schema = json!({ "type": "array", "items": { "required": required } });
    let validator = schemas(json!({})).validator(&schema).unwrap();
    let time = |elements: usize| {
        let value = Value::Array(vec![json!({}); elements]);
        let once = || {
            let began = thread_nanos();
            let (found, is_complete) = errors(&validator, &value);
            assert!((1..=60_000).contains(&found) && !is_complete, "{found}");
            thread_nanos() - began
        };
        (0..3).map(|_| once()).min().unwrap()
    };
    let (few, many) = (time(5_000), time(50_000));
    assert!(many < few * 30, "{few} and {many} ns");
}

#[test]
fn a_value_that_is_nested_deeply_needs_little_of_the_stack() {
    // As long a chain as is permitted, at each level of the value.
    let mut components = chain(7, |next| json!({ "allOf": [next] }));
    components["C7"] = json!({ "type": "array", "items": first() });
    let validator = schemas(components).validator(&first()).unwrap();
    let nested = |levels: usize| (0..levels).fold(json!(1), |inside, _| json!([inside]));
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
    let checked = thread.spawn(move || [60, 120].map(|levels| errors(&validator, &nested(levels))));
    assert_eq!(checked.unwrap().join().unwrap(), [(1, true), (0, false)]);
}

#[test]
fn schemas_beyond_the_maximum_weight_are_refused_however_they_are_spread() {
    let options: Vec<usize> = (0..100_000).collect();
    let components = json!({ "C0": { "enum": options } });
    let mut schemas = schemas(components);
    let results: Vec<bool> = (0..3).map(|_| schemas.validator(&first()).is_ok()).collect();
    assert_eq!(results, [true, true, false], "each validator has them once more");
    let text = "x".repeat(20 << 20);
    assert!(refused(json!({}), json!({ "const": text })).contains("more than 250000 values"));
}

#[test]
fn the_number_and_the_size_of_patterns_are_bounded() {
    let patterns = |count: usize, pattern: &dyn Fn(usize) -> String| {
        let members: Map<String, Value> =
            (0..count).map(|number| (number.to_string(), json!({ "pattern": pattern(number) }))).collect();
        json!({ "properties": members })
    };
    let small = |number: usize| format!("^a{number}[bc]+d");
    assert!(schemas(json!({})).validator(&patterns(200, &small)).is_ok());
    assert!(refused(json!({}), patterns(300, &small)).contains("more than 256 patterns"));
    assert!(schemas(json!({})).validator(&patterns(300, &|_| "^a[bc]+d".to_owned())).is_ok(), "they are the same");
    let large = |number: usize| format!("(a{{20}}b|c){{20}}{number}");
    assert!(refused(json!({}), patterns(120, &large)).contains("the patterns take together more than"));
    for pattern in ["(a{1000}){1000}", "^[ab]*a[ab]{6000}c"] {
        assert!(refused(json!({}), json!({ "pattern": pattern })).contains("or is too large"), "{pattern}");
    }
    assert!(refused(json!({}), json!({ "pattern": "x".repeat(5_000) })).contains("longer than 4096 bytes"));
    assert!(refused(json!({}), json!({ "patternProperties": { "(": true } })).contains("not a regular expression"));
}

/// A pattern near the largest size, which looks at each of its states for each character.
fn costly(number: usize) -> String {
    format!("^[ab]*a[ab]{{{}}}c", 600 - number)
}

#[test]
fn a_costly_pattern_takes_steps_for_each_byte_of_a_text_and_of_a_name() {
    let all: Vec<Value> = (0..8).map(|number| json!({ "pattern": costly(number) })).collect();
    let names: Map<String, Value> = (0..8).map(|number| (costly(number), json!(true))).collect();
    let text = "ab".repeat(30_000);
    for (schema, value) in [
        (json!({ "allOf": all }), json!(text)),
        (json!({ "items": { "allOf": all } }), json!(vec![""; 60_000])),
        (json!({ "patternProperties": names }), json!({ text.clone(): 1 })),
        (json!({ "patternProperties": names, "additionalProperties": false }), json!({ text.clone(): 1 })),
        (json!({ "propertyNames": { "allOf": all } }), json!({ text.clone(): 1 })),
    ] {
        let validator = schemas(json!({})).validator(&schema).unwrap();
        assert!(!errors(&validator, &value).1, "{schema}");
        let short = if value.is_object() { json!({ "abab": 1 }) } else { json!("abab") };
        assert!(errors(&validator, &short).1, "{schema}");
    }
}

#[test]
fn an_ordinary_pattern_checks_a_text_of_a_megabyte() {
    let schema = json!({ "type": "string", "minLength": 1, "maxLength": 1 << 20, "pattern": "^[A-Za-z0-9+/]*=*$" });
    let validator = schemas(json!({})).validator(&schema).unwrap();
    assert_eq!(errors(&validator, &json!("Aa0/".repeat(1 << 18))), (0, true));
    assert_eq!(errors(&validator, &json!("Aa0!".repeat(1 << 18))), (1, true));
}

#[test]
fn a_text_that_is_a_regular_expression_is_short() {
    let validator = schemas(json!({})).validator(&json!({ "format": "regex" })).unwrap();
    for (text, expected) in
        [("^a+$".to_owned(), 0), ("(".to_owned(), 1), ("a".repeat(1_024), 0), ("a".repeat(1_025), 1)]
    {
        assert_eq!(errors(&validator, &json!(text)), (expected, true), "{text}");
    }
}

#[test]
fn the_elements_of_a_list_can_be_required_to_differ() {
    let validator = schemas(json!({})).validator(&json!({ "uniqueItems": true })).unwrap();
    assert_eq!(errors(&validator, &json!([[], [[]], [[], []], 1, "1"])), (0, true));
    assert_eq!(errors(&validator, &json!([[[]], 1, [[]]])), (1, true));
}

#[test]
fn keywords_that_change_the_meaning_of_a_reference_are_refused() {
    for keyword in ["$id", "$anchor", "$dynamicRef", "$dynamicAnchor", "$recursiveRef"] {
        let schema = json!({ "items": { keyword: "urn:x" } });
        assert!(refused(json!({}), schema).contains(&format!("it uses '{keyword}'")));
    }
    let version = |uri: &str| schemas(json!({})).validator(&json!({ "$schema": uri, "type": "string" })).is_ok();
    assert!(version("https://json-schema.org/draft/2020-12/schema"));
    assert!(!version("http://json-schema.org/draft-04/schema#") && !version("https://example.com/schema"));
    assert!(schemas(json!({})).validator(&json!({ "properties": { "$id": { "type": "string" } } })).is_ok());
    for reference in ["https://example.com/schema.json", "file:///etc/passwd", "", "Other"] {
        assert!(refused(json!({}), json!({ "$ref": reference })).contains("outside its document"), "{reference}");
    }
    assert!(refused(json!({}), first()).contains("does not exist"));
}

#[test]
fn an_identifier_in_a_part_that_no_schema_refers_to_is_refused() {
    let chain =
        |number: usize| (format!("n{number}"), json!({ "allOf": [{ "$ref": format!("#/$defs/n{}", number + 1) }] }));
    let mut inside: Map<String, Value> = (0..3_000).map(chain).collect();
    inside.insert("n3000".to_owned(), json!(true));
    inside.insert("b".to_owned(), json!({ "$ref": "#/$defs/n0" }));
    let schema = |container: &str, keyword: &str| {
        json!({ "$ref": format!("#/{container}/a/$defs/b"), "$defs": { "n0": true },
            container: { "n0": true, "a": { keyword: "urn:x", "$defs": inside.clone() } } })
    };
    for container in ["$defs", "definitions", "contentSchema", "const", "default", "x-other"] {
        assert!(refused(json!({}), schema(container, "$id")).starts_with("it uses '$id'"), "{container}");
    }
    assert!(refused(json!({}), schema("$defs", "$anchor")).starts_with("it uses '$anchor'"));
    assert!(refused(json!({}), schema("$defs", "$schema")).contains("is not a version"));
    let components = json!({ "Unused": { "$defs": { "a": { "$id": "urn:x" } } } });
    assert!(Schemas::new(components.as_object().unwrap().clone()).is_err());
    let named = json!({ "$ref": "#/$defs/a", "$defs": { "n0": true,
        "a": { "properties": { "$id": { "type": "string" }, "n": { "$ref": "#/$defs/n0" } } } } });
    let validator = schemas(json!({})).validator(&named).unwrap();
    assert_eq!(errors(&validator, &json!({ "$id": 1, "n": 1 })), (1, true));
}

#[test]
fn a_reference_that_readers_understand_differently_is_refused() {
    let refers = |reference: &str| json!({ "$ref": reference, "$defs": { "~/": true, "~~1": false, "a/b~": true } });
    for reference in ["#/$defs/~~1", "#/$defs/%7E~1", "#/$defs/~", "#%2F$defs%2Fa", "#/$defs/%FF"] {
        assert!(refused(json!({}), refers(reference)).starts_with("it refers to"), "{reference}");
    }
    for reference in ["#/$defs/a~1b~0", "#/%24defs/a~1b%7E0", "#/$defs/~0~1"] {
        let validator = schemas(json!({})).validator(&refers(reference)).unwrap();
        assert_eq!(errors(&validator, &json!(1)), (0, true), "{reference}");
    }
    assert!(
        refused(json!({}), json!({ "$schema": "urn:x:json-schema.org/draft-07/schema" })).contains("not a version")
    );
}

#[test]
fn errors_that_copy_large_parts_of_a_schema_or_of_the_value_are_few() {
    let options: Vec<String> = (0..1_000).map(|number| number.to_string()).collect();
    let copies = [
        json!({ "items": { "not": { "not": { "enum": options } } } }),
        json!({ "items": { "required": ["x".repeat(100_000)] } }),
        json!({ "items": { "dependencies": { "a": ["x".repeat(100_000)] } } }),
        json!({ "items": { "pattern": "x{1}".repeat(1_000) } }),
        json!({ "items": { "properties": { "z": true }, "additionalProperties": false } }),
        json!({ "items": { "unevaluatedProperties": false } }),
    ];
    // Long names, so that a list of them is large.
    let member = |number: usize| (format!("{number:0>40}"), json!(1));
    let object = || Value::Object((0..100).map(member).chain([("a".to_owned(), json!(1))]).collect());
    let values = Value::Array((0..10_000).map(|number| if number % 2 == 0 { json!("y") } else { object() }).collect());
    for schema in copies {
        let validator = schemas(json!({})).validator(&schema).unwrap();
        let (found, is_complete) = errors(&validator, &values);
        assert!((1..5_000).contains(&found) && !is_complete, "{found} of {schema}");
    }
    let elements = json!({ "allOf": vec![json!({ "unevaluatedItems": false }); 100] });
    let validator = schemas(json!({})).validator(&elements).unwrap();
    let (found, is_complete) = errors(&validator, &json!(["x".repeat(1 << 20)]));
    assert!((1..30).contains(&found) && !is_complete, "{found}");
}

/// Half of the stack of a worker thread.
const STACK_BYTES: usize = 1 << 20;
