//! Does whatever a test asks for: well-behaved, clumsy or hostile, one route for each. The host must stay unmoved.

#![allow(missing_docs, clippy::indexing_slicing, clippy::unwrap_used, clippy::panic, reason = "a guest of the tests")]

use serde::{Deserialize, Serialize};
use wharf_sdk::prelude::*;
use wharf_sdk::serde_json::{Value, json};
use wharf_sdk::sql::{self, params};
use wharf_sdk::{audit, cache, http, log};

mod standard;

plugin! {
    name: "chameleon",
    summary: "Does what it is asked for",
    permissions: { "read-all": "Read everything" },
    settings: Setting,
    migrations: "migrations",
    routes: [
        echo, echo_body, echo_json, who, me, superuser, permitted, setting,
        trap, panic, exit, endless, grow, grow_gently, sleep, recurse,
        status, header, body, problem, print,
        flood, count_host_calls, hoard, taint, scan, audited, audit_often,
        cached, cached_per_caller, cached_problem, invalidate, keep, kept, forget, increment, remembered,
        notes, add_note, add_notes, leave_transaction, statement, transactions, weigh, weigh_settings,
        fetch, standard_fetch, standard_answers, standard_fields, standard_methods,
    ],
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
struct Setting {
    /// A word.
    #[schemars(length(max = 20))]
    word: Option<String>,
}

fn seen(request: &Request, body: &[u8]) -> Value {
    json!({
        "id": request.id(),
        "method": request.method(),
        "path": request.path(),
        "query": request.query(),
        "headers": request.headers().collect::<Vec<_>>(),
        "body": String::from_utf8_lossy(body),
        "environment": std::env::vars().collect::<Vec<_>>(),
        "arguments": std::env::args().collect::<Vec<_>>(),
        "files": std::fs::read_dir("/").map(|files| files.count()).ok(),
    })
}

#[get("/echo/{word}", access = public)]
fn echo(request: Request, Path(word): Path<String>) -> Json<Value> {
    let mut seen = seen(&request, &[]);
    seen["word"] = word.into();
    Json(seen)
}

#[post("/echo", access = public)]
fn echo_body(request: Request, body: Bytes) -> Json<Value> {
    Json(seen(&request, &body.0))
}

#[post("/json", access = public)]
fn echo_json(Json(value): Json<Value>) -> Json<Value> {
    Json(value)
}

fn person(caller: &Caller) -> Value {
    json!({ "id": caller.id, "email": caller.email, "superuser": caller.superuser, "roles": caller.roles })
}

#[get("/who", access = public)]
fn who(caller: Option<Caller>) -> Json<Value> {
    Json(caller.as_ref().map_or(Value::Null, person))
}

#[get("/me")]
fn me(caller: Caller) -> Json<Value> {
    let mut person = person(&caller);
    person["may_read_all"] = caller.has_permission("read-all").into();
    Json(person)
}

#[get("/superuser", access = superuser)]
fn superuser() {}

#[get("/permitted", access = permission("read-all"))]
fn permitted() {}

#[get("/setting", access = public)]
fn setting(Settings(setting): Settings<Setting>) -> Json<Option<String>> {
    Json(setting.word)
}

#[get("/trap", access = public)]
fn trap() {
    std::process::abort()
}

#[get("/panic", access = public)]
fn panic() {
    panic!("the guest panics with a secret: hunter2")
}

#[get("/exit/{code}", access = public)]
fn exit(Path(code): Path<i32>) {
    std::process::exit(code)
}

#[get("/endless", access = public)]
fn endless() {
    loop {
        std::hint::black_box(0);
    }
}

#[get("/grow/{mebibytes}", access = public)]
fn grow(Path(mebibytes): Path<usize>) -> Text {
    let hoard: Vec<Vec<u8>> = (0..mebibytes).map(|_| std::hint::black_box(vec![1; 1 << 20])).collect();
    Text(hoard.len().to_string())
}

/// Goes on without the memory that it does not get.
#[get("/grow-gently/{mebibytes}", access = public)]
fn grow_gently(Path(mebibytes): Path<usize>) -> Text {
    let mut hoard: Vec<u8> = Vec::new();
    Text(if hoard.try_reserve_exact(mebibytes << 20).is_ok() { "given" } else { "refused" }.to_owned())
}

#[get("/sleep/{millis}", access = public)]
fn sleep(Path(millis): Path<u64>) {
    log::info("asleep", &[]);
    std::thread::sleep(std::time::Duration::from_millis(millis));
}

#[get("/recurse", access = public)]
fn recurse() -> Text {
    fn deeper(depth: u64) -> u64 {
        let here = std::hint::black_box([depth; 64]);
        if depth == u64::MAX { 0 } else { deeper(depth + 1) + here[0] }
    }
    Text(deeper(0).to_string())
}

#[get("/status/{status}", access = public)]
fn status(Path(status): Path<u16>) -> Response {
    Response::new(status)
}

#[derive(Deserialize, JsonSchema)]
struct Header {
    name: String,
    value: String,
    #[serde(default)]
    times: Option<u32>,
}

#[get("/header", access = public)]
fn header(Query(header): Query<Header>) -> Response {
    let once = |response: Response, _| response.header(&header.name, header.value.clone());
    (0..header.times.unwrap_or(1)).fold(Response::new(200), once)
}

#[get("/body/{bytes}", access = public)]
fn body(Path(bytes): Path<usize>) -> Response {
    Response::new(200).body(vec![b'x'; bytes])
}

#[derive(Deserialize, JsonSchema)]
struct Trouble {
    status: u16,
    code: String,
    detail: String,
}

#[get("/problem", access = public)]
fn problem(Query(trouble): Query<Trouble>) -> Result<()> {
    Err(Problem::new(trouble.status, trouble.code, trouble.detail))
}

#[get("/print/{bytes}", access = public)]
#[allow(clippy::print_stdout, clippy::print_stderr, reason = "both are what is tested")]
fn print(Path(bytes): Path<usize>) -> Text {
    print!("{}", "o".repeat(bytes));
    eprintln!("{}", "e".repeat(bytes));
    Text("printed".to_owned())
}

#[get("/flood/{lines}", access = public)]
fn flood(Path(lines): Path<u32>) -> Text {
    for line in 0..lines {
        log::info("flood", &[("line", &line)]);
    }
    Text(lines.to_string())
}

#[get("/host-calls/{calls}", access = public)]
fn count_host_calls(Path(calls): Path<u32>) -> Text {
    for _ in 0..calls {
        let _ = cache::get("nothing");
    }
    Text(calls.to_string())
}

/// As many keys as it is told.
#[get("/hoard/{keys}", access = public)]
fn hoard(Path(keys): Path<u32>) -> Text {
    for key in 0..keys {
        let _ = cache::set(&Uuid::new_v4().to_string(), &[0; 100], None, &[]);
        std::hint::black_box(key);
    }
    Text(keys.to_string())
}

/// What `taint` leaves behind, and `scan` looks for.
const TAINT: u8 = 0xa5;

/// Fills memory, and ends.
#[get("/taint/{mebibytes}", access = public)]
fn taint(Path(mebibytes): Path<usize>, Query(tainting): Query<Tainting>) {
    let filled = std::hint::black_box(vec![TAINT; mebibytes << 20]);
    match tainting.end {
        End::Trap => std::process::abort(),
        End::Loop => endless(),
        _ => std::mem::forget(filled),
    }
}

#[derive(Deserialize, JsonSchema)]
struct Tainting {
    end: End,
}

/// How many bytes of memory that nobody filled are what `taint` leaves.
#[get("/scan/{mebibytes}", access = public)]
#[allow(unsafe_code, reason = "what lies in memory before anybody writes is what is tested")]
fn scan(Path(mebibytes): Path<usize>) -> Text {
    let layout = std::alloc::Layout::from_size_align(mebibytes << 20, 16).unwrap();
    // SAFETY: the layout is not empty, and each byte that is read lies within it. WebAssembly's memory is never undefined.
    let found = unsafe {
        let start = std::alloc::alloc(layout);
        (0..layout.size()).filter(|at| start.add(*at).read_volatile() == TAINT).count()
    };
    Text(found.to_string())
}

#[post("/audited")]
fn audited() {
    audit::record("chameleon.change", "17", audit::Outcome::Success, &[("colour", &"green")]);
}

/// So many entries of so many bytes.
#[post("/audited/{entries}/{bytes}", access = public)]
fn audit_often(Path((entries, bytes)): Path<(u32, usize)>) {
    let detail = "x".repeat(bytes / 10);
    let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
    let fields = names.map(|name| (name, &detail as &dyn std::fmt::Display));
    for entry in 0..entries {
        audit::record("chameleon.often", &entry.to_string(), audit::Outcome::Success, &fields);
    }
}

/// Different with every call, so that a kept answer is seen.
fn fresh() -> Text {
    Text(Uuid::new_v4().to_string())
}

#[get("/cached", access = public, cache(ttl = "1h", tags = ["leaf"]))]
fn cached() -> Text {
    fresh()
}

#[get("/cached-per-caller", cache(ttl = "1h", per_caller))]
fn cached_per_caller() -> Text {
    fresh()
}

#[get("/cached-problem", access = public, cache(ttl = "1h"))]
fn cached_problem() -> Result<Text> {
    Err(Problem::conflict("never_kept", Uuid::new_v4().to_string()))
}

#[post("/invalidate/{tag}", access = public)]
fn invalidate(Path(tag): Path<String>) -> Result<()> {
    Ok(cache::invalidate(&tag)?)
}

#[derive(Deserialize, JsonSchema)]
struct Keeping {
    #[serde(default)]
    ttl_ms: Option<u64>,
    #[serde(default)]
    tag: Option<String>,
}

#[put("/kept/{key}", access = public)]
fn keep(Path(key): Path<String>, Query(keeping): Query<Keeping>, value: Bytes) -> Json<Option<String>> {
    let ttl = keeping.ttl_ms.map(std::time::Duration::from_millis);
    let tags: Vec<&str> = keeping.tag.iter().map(String::as_str).collect();
    Json(cache::set(&key, &value.0, ttl, &tags).err().map(|error| format!("{error:?}")))
}

#[delete("/kept/{key}", access = public)]
fn forget(Path(key): Path<String>) -> Result<()> {
    Ok(cache::delete(&key)?)
}

#[get("/kept/{key}", access = public)]
fn kept(Path(key): Path<String>) -> Result<Json<Option<String>>> {
    Ok(Json(cache::get(&key)?.map(|value| String::from_utf8_lossy(&value).into_owned())))
}

#[post("/increment/{key}", access = public)]
fn increment(Path(key): Path<String>) -> Result<Json<i64>> {
    Ok(Json(cache::increment(&key, 1, None)?))
}

/// How often this instance was called, if it had a memory.
#[get("/remembered", access = public)]
fn remembered() -> Json<u32> {
    static CALLS: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    Json(CALLS.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1)
}

#[get("/notes", access = public)]
fn notes() -> Result<Json<Vec<String>>> {
    let rows: Vec<(String,)> = sql::query("SELECT text FROM note ORDER BY text", params![])?;
    Ok(Json(rows.into_iter().map(|(text,)| text).collect()))
}

const INSERT: &str = "INSERT INTO note (id, text) VALUES ($1, $2)";

#[post("/notes/{text}", access = public)]
fn add_note(Path(text): Path<String>) -> Result<()> {
    sql::execute(INSERT, params![Uuid::new_v4(), text])?;
    Ok(())
}

/// All or nothing.
#[post("/notes", access = public)]
fn add_notes(Json(texts): Json<Vec<String>>) -> Result<()> {
    let statements: Vec<_> =
        texts.into_iter().map(|text| sql::statement(INSERT, params![Uuid::new_v4(), text])).collect();
    sql::batch_all(&statements)?;
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum End {
    Return,
    Trap,
    Sleep,
    Loop,
    Fail,
    Query,
}

/// A statement that does not end.
const ENDLESS: &str =
    "WITH RECURSIVE endless (n) AS (SELECT 1 UNION ALL SELECT 1 FROM endless WHERE n = 1) SELECT count(*) FROM endless";

#[derive(Deserialize, JsonSchema)]
struct Leaving {
    end: End,
    text: String,
}

/// Writes in a transaction that it does not commit.
#[post("/transaction", access = public)]
fn leave_transaction(Query(leaving): Query<Leaving>) -> Result<()> {
    sql::transaction(|transaction| {
        transaction.execute(INSERT, params![Uuid::new_v4(), leaving.text.clone()])?;
        match leaving.end {
            End::Trap => std::process::abort(),
            End::Sleep => std::thread::sleep(std::time::Duration::from_secs(3600)),
            End::Loop => endless(),
            End::Return => std::process::exit(0),
            End::Fail => {}
            End::Query => {
                transaction.query_value::<i64>(ENDLESS, params![])?;
            }
        }
        Err(Problem::conflict("left", "The transaction was left"))
    })
}

#[derive(Serialize, JsonSchema)]
struct Outcome {
    /// Whether there were any.
    rows: bool,
    error: Option<String>,
}

/// Any statement; the outcome as the guest sees it.
#[post("/statement", access = public)]
fn statement(statement: Bytes) -> Json<Outcome> {
    let text = String::from_utf8_lossy(&statement.0).into_owned();
    Json(match sql::batch([sql::statement(text, params![])]) {
        Ok([rows]) => Outcome { rows: !rows.is_empty(), error: None },
        Err(error) => Outcome { rows: false, error: Some(format!("{error:?}")) },
    })
}

/// Holds a connection while it sleeps.
#[post("/transactions/{millis}", access = public)]
fn transactions(Path(millis): Path<u64>) -> Result<()> {
    sql::transaction(|transaction| {
        let _: i64 = transaction.query_value("SELECT COUNT(*) FROM note", params![])?;
        std::thread::sleep(std::time::Duration::from_millis(millis));
        Ok::<_, Problem>(())
    })
}

#[derive(Deserialize, JsonSchema)]
struct Weighing {
    /// What is asked of the host.
    what: What,
    /// A statement, or the bytes of what is handed over.
    #[serde(default)]
    sql: String,
    #[serde(default)]
    bytes: usize,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum What {
    Query,
    Batch,
    Parameter,
    Set,
    Get,
    Audit,
}

/// The bytes of this instance's memory when the host has answered.
#[post("/weigh", access = public)]
fn weigh(Json(weighing): Json<Weighing>) -> Result<Text> {
    let handed = "x".repeat(weighing.bytes);
    match weighing.what {
        What::Query => drop(std::hint::black_box(sql::query::<(String,)>(&weighing.sql, params![])?)),
        What::Batch => drop(std::hint::black_box(sql::batch([sql::statement(weighing.sql, params![])])?)),
        What::Parameter => drop(std::hint::black_box(sql::query::<(i64,)>(&weighing.sql, params![handed])?)),
        What::Set => cache::set("weighed", handed.as_bytes(), None, &[])?,
        What::Audit => audit::record("chameleon.weigh", "", audit::Outcome::Success, &[("detail", &handed)]),
        What::Get => drop(std::hint::black_box(cache::get("weighed")?)),
    }
    Ok(weight())
}

#[get("/weigh", access = public)]
fn weigh_settings(Settings(setting): Settings<Setting>) -> Text {
    drop(std::hint::black_box(setting));
    weight()
}

#[cfg(target_arch = "wasm32")]
fn weight() -> Text {
    Text((core::arch::wasm32::memory_size::<0>() << 16).to_string())
}

#[cfg(not(target_arch = "wasm32"))]
fn weight() -> Text {
    Text(String::new())
}

#[derive(Deserialize, JsonSchema)]
struct Fetching {
    url: String,
    #[serde(default)]
    method: Option<String>,
    #[serde(default)]
    headers: Vec<(String, String)>,
    #[serde(default)]
    body: String,
    #[serde(default)]
    timeout_ms: Option<u64>,
    #[serde(default)]
    redirects: Option<u32>,
    /// How often, one after the other; the last answer counts.
    #[serde(default)]
    times: Option<u32>,
}

/// Any request to another server; the outcome as the guest sees it.
#[post("/fetch", access = public)]
fn fetch(Json(fetching): Json<Fetching>) -> Json<Value> {
    let send = || {
        let request = http::request(fetching.method.as_deref().unwrap_or("GET"), &fetching.url);
        let mut request = request.body(fetching.body.clone());
        for (name, value) in &fetching.headers {
            request = request.header(name, value);
        }
        if let Some(millis) = fetching.timeout_ms {
            request = request.timeout(std::time::Duration::from_millis(millis));
        }
        if let Some(most) = fetching.redirects {
            request = request.redirects(most);
        }
        request.send()
    };
    for _ in 1..fetching.times.unwrap_or(1) {
        let _ = send();
    }
    Json(match send() {
        Ok(answer) => json!({
            "url": answer.url(),
            "status": answer.status(),
            "headers": answer.headers().collect::<Vec<_>>(),
            "body": answer.text(),
        }),
        Err(error) => json!({ "error": format!("{error:?}") }),
    })
}

/// The same by `wasi:http`.
#[post("/standard-fetch", access = public)]
fn standard_fetch(Json(fetching): Json<Fetching>) -> Json<Value> {
    for _ in 1..fetching.times.unwrap_or(1) {
        let _ = standard::fetch(&fetching);
    }
    Json(standard::fetch(&fetching).unwrap_or_else(|error| json!({ "error": error })))
}

/// Keeps every answer.
#[post("/standard-answers", access = public)]
fn standard_answers(Json(fetching): Json<Fetching>) -> Json<Value> {
    Json(match standard::hoard_answers(&fetching) {
        Ok(count) => json!({ "kept": count }),
        Err(error) => json!({ "error": error }),
    })
}

/// Keeps headers that are never sent.
#[get("/standard-fields/{count}/{bytes}", access = public)]
fn standard_fields(Path((count, bytes)): Path<(usize, usize)>) -> Text {
    Text(standard::hoard_fields(count, bytes).to_string())
}

/// Keeps requests that are never sent.
#[get("/standard-methods/{count}/{bytes}", access = public)]
fn standard_methods(Path((count, bytes)): Path<(usize, usize)>) -> Text {
    Text(standard::hoard_methods(count, bytes).to_string())
}
