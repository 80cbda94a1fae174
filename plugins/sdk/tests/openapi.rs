//! The JSON Schema and OpenAPI documents of the types of handlers.

use serde::{Deserialize, Serialize};
use wharf_sdk::prelude::*;
use wharf_sdk::serde_json::{Value, json};
use wharf_sdk::testing::describe;

plugin! {
    name: "shop",
    summary: "Sells things",
    permissions: { "read-all": "See all orders" },
    routes: [list, order, revise, line, item_of, report, hit, drop_all, store_loose],
}

#[derive(Deserialize, JsonSchema)]
#[serde(default)]
struct Filter {
    /// The number of orders to skip.
    #[schemars(range(min = 0))]
    skip: i64,
    #[schemars(range(min = 0, max = 1000))]
    limit: i64,
    page: u32,
    #[schemars(length(min = 3))]
    text: Option<String>,
    only_open: bool,
    state: Option<State>,
}

impl Default for Filter {
    fn default() -> Self {
        Self { skip: 0, limit: 100, page: 1, text: None, only_open: false, state: None }
    }
}

/// The state of an order.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum State {
    Open,
    Sent,
}

#[derive(Deserialize, Serialize, JsonSchema)]
struct Address {
    #[schemars(length(min = 1, max = 255))]
    street: String,
    #[serde(default)]
    note: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
struct OrderCreate {
    lines: Vec<Line>,
    address: Address,
    #[serde(default)]
    #[schemars(length(max = 255))]
    comment: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
struct Line {
    item: Uuid,
    #[schemars(range(min = 1))]
    amount: u16,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
struct OrderUpdate {
    #[schemars(length(min = 1, max = 255))]
    title: Field<String>,
    #[schemars(length(max = 255))]
    comment: Field<Option<String>>,
    address: Field<Address>,
}

#[derive(Serialize, JsonSchema)]
struct OrderPublic {
    id: Uuid,
    comment: Option<String>,
    address: Address,
    created_at: Timestamp,
    state: State,
}

/// List Orders
///
/// Newest first.
/// With `only_open`, open ones only.
#[get("/", cache(ttl = "10s", per_caller, tags = ["orders"]))]
fn list(Query(filter): Query<Filter>) -> Json<Vec<OrderPublic>> {
    let _ = (filter.skip, filter.limit, filter.page, filter.text, filter.only_open, filter.state);
    Json(Vec::new())
}

#[post("/", status = 201)]
fn order(_caller: Caller, Json(new): Json<OrderCreate>) -> Result<Json<OrderPublic>> {
    let _: Vec<_> = new.lines.into_iter().map(|line| (line.item, line.amount)).collect();
    Ok(Json(OrderPublic {
        id: Uuid::nil(),
        comment: new.comment,
        address: new.address,
        created_at: Timestamp::from_unix_micros(0),
        state: State::Open,
    }))
}

#[patch("/{id}", access = permission("read-all"), tag = "desk")]
fn revise(Path(_id): Path<Uuid>, Json(change): Json<OrderUpdate>) -> Result<()> {
    let _ = (change.title.into_option(), change.comment.into_option(), change.address.into_option());
    Ok(())
}

#[get("/{id}/lines/{number}", access = superuser)]
fn line(Path((_id, number)): Path<(Uuid, u8)>) -> Json<u8> {
    Json(number)
}

#[derive(Deserialize, JsonSchema)]
struct ItemOf {
    number: i32,
    order: String,
}

#[get("/by-name/{order}/{number}")]
fn item_of(Path(path): Path<ItemOf>) -> Text {
    Text(format!("{} of {}", path.number, path.order))
}

#[get("/report", access = public)]
fn report() -> Response {
    Response::new(200)
}

#[post("/hit", access = public)]
fn hit(body: Text) -> Status<Text> {
    Status(202, body)
}

#[delete("/")]
fn drop_all() {}

/// Has members of any type, and a default that its schema does not allow.
#[derive(Default, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
struct Loose {
    any: Value,
    maybe: Option<Value>,
    list: Vec<Value>,
    pair: (Value, String),
    #[schemars(with = "String")]
    text: Option<String>,
    #[schemars(with = "State")]
    state: Option<State>,
    #[schemars(length(min = 1))]
    name: String,
    #[schemars(length(min = 1))]
    names: Vec<String>,
    #[schemars(with = "Option<State>")]
    either: Option<State>,
}

#[post("/loose")]
fn store_loose(Json(loose): Json<Loose>) -> Json<Value> {
    Json(loose.any)
}

fn operation(name: &str) -> Value {
    let api = describe(&PLUGIN);
    let routes = api["routes"].as_array().unwrap();
    let ends = |route: &&Value| route["operation"]["operationId"].as_str().unwrap().ends_with(&format!("-{name}"));
    routes.iter().find(ends).unwrap()["operation"].clone()
}

#[test]
fn query_parameters_are_the_members_of_the_struct_in_order() {
    let operation = operation("list");
    assert_eq!(
        operation["parameters"],
        json!([
            { "name": "skip", "in": "query", "required": false, "description": "The number of orders to skip.",
              "schema": { "type": "integer", "format": "int64", "minimum": 0, "default": 0 } },
            { "name": "limit", "in": "query", "required": false,
              "schema": { "type": "integer", "format": "int64", "minimum": 0, "maximum": 1000, "default": 100 } },
            { "name": "page", "in": "query", "required": false,
              "schema": { "type": "integer", "minimum": 0, "maximum": u32::MAX, "default": 1 } },
            { "name": "text", "in": "query", "required": false,
              "schema": { "type": ["string", "null"], "minLength": 3, "default": null } },
            { "name": "only_open", "in": "query", "required": false,
              "schema": { "type": "boolean", "default": false } },
            { "name": "state", "in": "query", "required": false,
              "schema": { "anyOf": [{ "$ref": "#/components/schemas/State" }, { "type": "null" }], "default": null } },
        ])
    );
    assert_eq!(operation["summary"], "List Orders");
    assert_eq!(operation["description"], "Newest first.\nWith `only_open`, open ones only.");
    assert_eq!(operation["tags"], json!(["shop"]));
    let schema = &operation["responses"]["200"]["content"]["application/json"]["schema"];
    assert_eq!(schema, &json!({ "type": "array", "items": { "$ref": "#/components/schemas/OrderPublic" } }));
}

#[test]
fn path_parameters_come_from_one_value_a_tuple_or_a_struct() {
    let uuid = json!({ "type": "string", "format": "uuid" });
    assert_eq!(
        operation("revise")["parameters"],
        json!([{ "name": "id", "in": "path", "required": true, "schema": uuid }])
    );
    assert_eq!(
        operation("line")["parameters"],
        json!([
            { "name": "id", "in": "path", "required": true, "schema": uuid },
            { "name": "number", "in": "path", "required": true,
              "schema": { "type": "integer", "minimum": 0, "maximum": 255 } },
        ])
    );
    assert_eq!(
        operation("item_of")["parameters"],
        json!([
            { "name": "order", "in": "path", "required": true, "schema": { "type": "string" } },
            { "name": "number", "in": "path", "required": true, "schema": { "type": "integer", "format": "int32" } },
        ])
    );
}

#[test]
fn bodies_and_responses_refer_to_components() {
    let order = operation("order");
    assert_eq!(
        order["requestBody"],
        json!({ "required": true, "content": {
            "application/json": { "schema": { "$ref": "#/components/schemas/OrderCreate" } } } })
    );
    assert_eq!(
        order["responses"],
        json!({ "201": { "description": "Successful Response", "content": {
            "application/json": { "schema": { "$ref": "#/components/schemas/OrderPublic" } } } } })
    );
    assert_eq!(order["summary"], "Order", "the summary of a function without documentation is its name");
    let revise = operation("revise");
    assert_eq!((&revise["operationId"], &revise["tags"]), (&json!("desk-revise"), &json!(["desk"])));
    assert_eq!(revise["responses"], json!({ "204": { "description": "Successful Response" } }));
    assert_eq!(operation("hit")["requestBody"]["content"], json!({ "text/plain": {} }));
    assert_eq!(operation("drop_all").get("requestBody"), None);
}

#[test]
fn components_contain_the_rules_that_the_host_validates() {
    let schemas = &describe(&PLUGIN)["schemas"];
    let names: Vec<&String> = schemas.as_object().unwrap().keys().collect();
    assert_eq!(names, ["Address", "Line", "Loose", "OrderCreate", "OrderPublic", "OrderUpdate", "State"]);
    assert_eq!(
        schemas["OrderCreate"],
        json!({
            "type": "object",
            "properties": {
                "lines": { "type": "array", "items": { "$ref": "#/components/schemas/Line" } },
                "address": { "$ref": "#/components/schemas/Address" },
                "comment": { "type": ["string", "null"], "maxLength": 255, "default": null },
            },
            "required": ["lines", "address"],
        })
    );
    assert_eq!(
        schemas["Line"],
        json!({
            "type": "object",
            "properties": {
                "item": { "type": "string", "format": "uuid" },
                "amount": { "type": "integer", "minimum": 1, "maximum": 65535 },
            },
            "required": ["item", "amount"],
        })
    );
    assert_eq!(
        schemas["State"],
        json!({ "type": "string", "enum": ["open", "sent"], "description": "The state of an order." })
    );
}

#[test]
fn members_of_a_partial_update_may_be_left_out_and_only_options_may_be_null() {
    assert_eq!(
        describe(&PLUGIN)["schemas"]["OrderUpdate"],
        json!({
            "type": "object",
            "properties": {
                "title": { "type": "string", "minLength": 1, "maxLength": 255 },
                "comment": { "type": ["string", "null"], "maxLength": 255 },
                "address": { "$ref": "#/components/schemas/Address" },
            },
        })
    );
}

#[test]
fn response_members_are_required_and_types_used_both_ways_have_the_schema_of_an_input() {
    let schemas = &describe(&PLUGIN)["schemas"];
    assert_eq!(schemas["OrderPublic"]["required"], json!(["id", "comment", "address", "created_at", "state"]));
    assert_eq!(schemas["OrderPublic"]["properties"]["created_at"], json!({ "type": "string", "format": "date-time" }));
    assert_eq!(schemas["Address"]["required"], json!(["street"]));
}

#[test]
fn schemas_have_the_form_that_generators_of_clients_accept() {
    let loose = &describe(&PLUGIN)["schemas"]["Loose"]["properties"];
    assert_eq!(loose["any"], json!({ "default": null }));
    assert_eq!(loose["maybe"], json!({ "default": null }));
    assert_eq!(loose["list"], json!({ "type": "array", "items": {}, "default": [] }));
    assert_eq!(loose["pair"]["prefixItems"], json!([{}, { "type": "string" }]));
    assert_eq!(loose["text"], json!({ "type": "string" }));
    assert_eq!(loose["state"], json!({ "$ref": "#/components/schemas/State" }));
    assert_eq!(loose["name"], json!({ "type": "string", "minLength": 1 }));
    assert_eq!(loose["names"].get("default"), None);
    assert_eq!(loose["either"]["anyOf"][1], json!({ "type": "null" }));
    assert_eq!(loose["either"]["default"], Value::Null);
    let response = &operation("store_loose")["responses"]["200"]["content"]["application/json"]["schema"];
    assert_eq!(response, &json!({}));
}
