//! Extractors, responses and capabilities, tested through the stand-in for the host.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;
use wharf_sdk::prelude::*;
use wharf_sdk::serde_json::json;
use wharf_sdk::sql::{self, params};
use wharf_sdk::testing::{TestPlugin, superuser, user, with_sql};
use wharf_sdk::{audit, cache, http, log};

plugin! {
    name: "kit",
    summary: "Uses every part of the SDK",
    permissions: { "read-all": "See everything" },
    settings: Greeting,
    routes: [search, client, literal, pair, named, who, all, admin, greet, echo, raw, hit, csv, gone, broken, note, head],
}

#[derive(Deserialize, JsonSchema)]
struct Greeting {
    #[serde(default)]
    name: String,
}

#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum State {
    Open,
    Done,
}

#[derive(Debug, Deserialize, Serialize, JsonSchema)]
struct Search {
    text: String,
    #[serde(default)]
    page: u32,
    open: Option<bool>,
    ratio: Option<f64>,
    state: Option<State>,
    id: Option<Uuid>,
}

#[get("/search", access = public)]
fn search(Query(search): Query<Search>) -> Json<Search> {
    Json(search)
}

#[get("/client", access = public)]
fn client(request: Request) -> Text {
    Text(format!("{:?} {} {:?}", request.client_address(), request.scheme(), request.host()))
}

#[get("/pairs/best", access = public)]
fn literal() -> Text {
    Text("best".to_owned())
}

#[get("/pairs/{left}", access = public)]
fn named(Path(left): Path<String>) -> Text {
    Text(left)
}

#[get("/pairs/{left}/{right}", access = public)]
fn pair(Path((left, right)): Path<(String, u8)>) -> Text {
    Text(format!("{left} {right}"))
}

#[get("/who", access = public)]
fn who(caller: Option<Caller>) -> Text {
    Text(caller.map_or("nobody".to_owned(), |caller| caller.email))
}

#[get("/all", access = permission("read-all"))]
fn all(caller: Caller) -> Text {
    Text(caller.has_permission("read-all").to_string())
}

#[get("/admin", access = superuser)]
fn admin() -> Text {
    Text("in".to_owned())
}

#[get("/greet", access = public)]
fn greet(Settings(greeting): Settings<Greeting>) -> Text {
    Text(greeting.name)
}

#[post("/echo", access = public)]
fn echo(Json(map): Json<BTreeMap<String, i64>>) -> Json<BTreeMap<String, i64>> {
    Json(map)
}

#[post("/raw", access = public)]
fn raw(Bytes(bytes): Bytes) -> Response {
    Response::new(200).header("Content-Type", "application/x-raw").body(bytes)
}

#[post("/hit", access = public, status = 201)]
fn hit(Text(text): Text) -> Result<Status<Text>> {
    Ok(Status(202, Text(text)))
}

#[get("/csv", access = public, status = 203)]
fn csv() -> Text {
    Text("a,b".to_owned())
}

#[delete("/gone", access = public)]
fn gone() {}

#[get("/broken", access = public)]
fn broken() -> Result<Text> {
    sql::execute("DELETE FROM secrets", params![])?;
    Ok(Text(String::new()))
}

#[put("/note", access = public)]
fn note(Text(text): Text) -> Result<()> {
    cache::set("note", text.as_bytes(), Some(Duration::from_secs(5)), &["notes"])?;
    log::info("noted", &[("length", &text.len())]);
    audit::record("note.put", "note", audit::Outcome::Success, &[])?;
    Ok(())
}

#[get("/head", access = public)]
fn head(request: Request) -> Text {
    Text(format!("{} {} {}", request.method(), request.path(), request.header("accept").unwrap_or_default()))
}

#[test]
fn a_handler_sees_the_client() {
    let plugin = TestPlugin::new(&PLUGIN);
    assert_eq!(plugin.get("/client").send().text(), r#"Some(127.0.0.1) http Some("localhost")"#);
    let request = plugin.get("/client").from_client("2001:db8::7", "https", "api.example");
    assert_eq!(request.send().text(), r#"Some(2001:db8::7) https Some("api.example")"#);
}

#[test]
fn query_parameters_become_typed_values() {
    let plugin = TestPlugin::new(&PLUGIN);
    let found = plugin.get("/search?text=a%20b%2Bc&page=7&open=true&ratio=0.5&state=done&x=1").send().json();
    assert_eq!(found, json!({ "text": "a b+c", "page": 7, "open": true, "ratio": 0.5, "state": "done", "id": null }));
    assert_eq!(plugin.get("/search?text=a&text=b").send().json()["text"], "b");
    for (query, parameter) in
        [("", "text"), ("text=a&page=-1", "page"), ("text=a&id=x", "id"), ("text=a&state=x", "state")]
    {
        let response = plugin.get(&format!("/search?{query}")).send();
        assert_eq!(
            (response.status(), &response.problem().errors()[0].loc),
            (422, &vec!["query".to_owned(), parameter.to_owned()])
        );
    }
}

#[test]
fn paths_are_decoded_and_literal_segments_win() {
    let plugin = TestPlugin::new(&PLUGIN);
    assert_eq!(plugin.get("/pairs/best").send().text(), "best");
    assert_eq!(plugin.get("/pairs/b%C3%A9st+/").send().text(), "bést+");
    assert_eq!(plugin.get("/pairs/a/255").send().text(), "a 255");
    assert_eq!(plugin.get("/pairs/a/256").send().status(), 422);
    assert_eq!(plugin.get("/nowhere").send().status(), 404);
    assert_eq!(plugin.post("/who").send().status(), 405);
}

#[test]
fn a_route_admits_only_the_callers_that_it_declares() {
    let plugin = TestPlugin::new(&PLUGIN);
    let (alice, root) = (user("alice@example.com"), superuser("root@example.com"));
    assert_eq!(plugin.get("/who").send().text(), "nobody");
    assert_eq!(plugin.get("/who").by(&alice).send().text(), "alice@example.com");
    assert_eq!(plugin.get("/all").send().status(), 401);
    assert_eq!(plugin.get("/all").by(&alice).send().status(), 403);
    plugin.permit(&alice, "read-all");
    assert_eq!(plugin.get("/all").by(&alice).send().text(), "true");
    assert_eq!(plugin.get("/admin").by(&alice).send().status(), 403);
    assert_eq!(plugin.get("/admin").by(&root).send().text(), "in");
}

#[test]
fn responses_have_the_declared_status_and_content_type() {
    let plugin = TestPlugin::new(&PLUGIN).settings(json!({ "name": "Bob" }));
    let parts = |response: wharf_sdk::testing::TestResponse| {
        (response.status(), response.header("content-type").unwrap_or_default().to_owned(), response.text().to_owned())
    };
    let is = |status, content_type: &str, text: &str| (status, content_type.to_owned(), text.to_owned());
    assert_eq!(parts(plugin.get("/greet").send()), is(200, "text/plain; charset=utf-8", "Bob"));
    assert_eq!(
        parts(plugin.post("/echo").json(json!({ "b": 1, "a": 2 })).send()),
        is(200, "application/json", r#"{"a":2,"b":1}"#)
    );
    assert_eq!(parts(plugin.post("/raw").body("x").send()), is(200, "application/x-raw", "x"));
    assert_eq!(parts(plugin.post("/hit").body("x").send()), is(202, "text/plain; charset=utf-8", "x"));
    assert_eq!(parts(plugin.get("/csv").send()), is(203, "text/plain; charset=utf-8", "a,b"));
    assert_eq!(parts(plugin.delete("/gone").send()), is(204, "", ""));
    assert_eq!(plugin.post("/hit").body([0xff]).send().status(), 422);
    let head = plugin.get("/head/?q").header("Accept", "text/*").send();
    assert_eq!(head.text(), "GET /head/ text/*");
}

#[test]
fn a_defect_of_the_plugin_is_logged_but_not_shown_to_the_client() {
    let plugin = TestPlugin::new(&PLUGIN);
    let response = plugin.get("/broken").send();
    assert_eq!((response.status(), response.problem().code()), (500, "plugin_error"));
    assert!(!response.problem().detail().contains("secrets"));
    assert!(plugin.log()[0].message.contains("no such table: secrets"));
}

#[test]
fn cache_log_and_audit_keep_the_calls_of_the_plugin() {
    let plugin = TestPlugin::new(&PLUGIN);
    assert_eq!(plugin.put("/note").body("hello").send().status(), 204);
    assert_eq!(plugin.run(|| cache::get("note")).unwrap().as_deref(), Some(b"hello".as_slice()));
    plugin.run(|| cache::invalidate("notes")).unwrap();
    assert_eq!(plugin.run(|| cache::get("note")).unwrap(), None);
    assert_eq!(plugin.run(|| cache::increment("n", 2, None).and_then(|_| cache::increment("n", 3, None))).unwrap(), 5);
    assert_eq!(plugin.log()[0].fields, [("length".to_owned(), "5".to_owned())]);
    assert_eq!(plugin.audit()[0].action, "note.put");
}

#[test]
fn a_busy_or_failed_service_is_not_a_defect_of_the_plugin() {
    let status = |problem: Problem| (problem.status(), problem.code().to_owned());
    let busy = http::Error::Limit("requests: 16 at once".to_owned());
    assert_eq!(status(busy.into()), (503, "upstream_busy".to_owned()));
    let large = http::Error::Limit("response body: 8388608 bytes".to_owned());
    assert_eq!(status(large.into()), (500, "plugin_error".to_owned()));
    assert_eq!(status(audit::Error::Unavailable.into()), (503, "audit_unavailable".to_owned()));
}

#[test]
fn a_transaction_is_committed_as_a_whole_or_rolled_back() {
    with_sql("CREATE TABLE n (id BIGINT PRIMARY KEY)", || {
        let insert = |id: i64, fail: bool| {
            sql::transaction(|tx| {
                tx.execute("INSERT INTO n VALUES ($1)", params![id])?;
                if fail { Err(Problem::conflict("no", "No")) } else { Ok(()) }
            })
        };
        assert!(insert(1, true).is_err());
        assert!(insert(2, false).is_ok());
        assert_eq!(insert(2, false).unwrap_err().status(), 409);
        assert_eq!(sql::query::<(i64,)>("SELECT id FROM n", params![]).unwrap(), [(2,)]);
        let failed = sql::batch([
            sql::statement("INSERT INTO n VALUES ($1)", params![3]),
            sql::statement("INSERT INTO n VALUES ($1)", params![2]),
        ]);
        assert_eq!(failed.unwrap_err(), sql::Error::Constraint("n.id".to_owned()));
        assert_eq!(sql::query_value::<i64>("SELECT COUNT(*) FROM n", params![]).unwrap(), 1);
    });
}

#[test]
fn a_write_outside_the_open_transaction_is_refused_as_by_the_host() {
    with_sql("CREATE TABLE n (id BIGINT PRIMARY KEY)", || {
        sql::transaction(|tx| {
            tx.execute("INSERT INTO n VALUES (1)", params![])?;
            let outside = sql::execute("INSERT INTO n VALUES (2)", params![]);
            assert!(matches!(outside, Err(sql::Error::Invalid(text)) if text.contains("open transaction")));
            let outside = sql::batch([sql::statement("INSERT INTO n VALUES (2)", params![])]);
            assert!(matches!(outside, Err(sql::Error::Invalid(text)) if text.contains("open transaction")));
            sql::batch([sql::statement("SELECT id FROM n", params![])])?;
            Ok::<_, Problem>(())
        })
        .unwrap();
        assert_eq!(sql::query::<(i64,)>("SELECT id FROM n", params![]).unwrap(), [(1,)]);
    });
}

#[test]
fn values_are_stored_and_read_unchanged() {
    with_sql("CREATE TABLE v (a TEXT, b BIGINT, c BOOLEAN, d REAL, e BLOB, f TEXT, g TEXT, h TEXT)", || {
        let (id, now) = (Uuid::new_v4(), Timestamp::now());
        sql::execute(
            "INSERT INTO v VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            params!["ü", u32::MAX, true, 2.0, vec![0u8, 255], id, now, None::<String>],
        )
        .unwrap();
        #[derive(Debug, PartialEq, sql::FromRow)]
        struct Values {
            h: Option<String>,
            a: String,
            b: i64,
            c: bool,
            d: f64,
            e: Vec<u8>,
            f: Uuid,
            g: Timestamp,
        }
        let values: Values = sql::query_one("SELECT * FROM v WHERE b = $2 AND a = $1", params!["ü", u32::MAX]).unwrap();
        let expected =
            Values { h: None, a: "ü".to_owned(), b: u32::MAX.into(), c: true, d: 2.0, e: vec![0, 255], f: id, g: now };
        assert_eq!(values, expected);
        let wrong = sql::query_value::<i64>("SELECT a FROM v", params![]).unwrap_err();
        assert_eq!(wrong, sql::Error::Invalid("column `a`: expected an integer, found a text".to_owned()));
        assert!(sql::query::<(String,)>("SELECT a FROM v", params![1]).is_err(), "one parameter too many");
        assert!(sql::execute("CREATE TABLE w (a TEXT)", params![]).is_err(), "only migrations create tables");
    });
}
