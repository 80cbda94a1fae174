//! A guest that does what a test requests: well-behaved, clumsy or hostile, with one route for each behaviour. The host
//! must withstand all of them.

#![allow(missing_docs, clippy::indexing_slicing, clippy::unwrap_used, clippy::panic, reason = "a guest of the tests")]

use serde::Deserialize;
use wharf_sdk::prelude::*;
use wharf_sdk::serde_json::{Value, json};
use wharf_sdk::sql::{self, params};
use wharf_sdk::{Authentication, audit, cache, log};

mod caching;
mod data;
mod directory;
mod mail;
mod requests;
mod standard;
mod waiting;

plugin! {
    name: "chameleon",
    summary: "Does what a test requests",
    permissions: { "read-all": "Read everything" },
    settings: Setting,
    migrations: "migrations",
    routes: [
        echo, echo_body, echo_json, who, me, superuser, permitted, setting, nap,
        trap, panic, exit, endless, grow, grow_gently, sleep, recurse,
        status, header, page, body, late_body, problem, problems, print, print_at_once,
        flood, log_message, count_host_calls, hoard, taint, scan, audited, audited_nul, audit_often,
        caching::cached, caching::cached_body, caching::cached_per_caller, caching::cached_problem, caching::cached_as, caching::change_cached, caching::cached_for, caching::cached_for_all, caching::cached_gate, caching::invalidate, caching::keep, caching::kept, caching::forget, caching::increment, remembered,
        data::notes, data::wrong_notes, data::add_note, data::add_notes, data::leave_transaction, data::statement, data::transactions, data::write_outside, weigh, weigh_settings,
        requests::fetch, requests::must_fetch, requests::standard_at_once, requests::standard_fetch, requests::standard_answers, requests::standard_fields, requests::standard_small_fields, requests::standard_methods,
        requests::standard_handle, waiting::wait_then, numbers, number_of,
        directory::directory, directory::all_users, directory::read_endlessly, mail::send_mail,
    ],
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
struct Setting {
    /// A word.
    #[schemars(length(max = 20))]
    word: Option<String>,
    /// A number.
    times: Option<u32>,
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
fn me(caller: Caller) -> Result<Json<Value>> {
    let mut person = person(&caller);
    person["may_read_all"] = caller.has_permission("read-all").into();
    person["may_undeclared"] = caller.has_permission("undeclared").into();
    person["permissions"] = caller.permissions().into();
    person["authentication"] = match caller.authentication()? {
        Authentication::Session { id, strength, authenticated_at, .. } => {
            json!({ "session": id, "strength": format!("{strength:?}"), "at": authenticated_at })
        }
        Authentication::Key { name, .. } => json!({ "key": name }),
    };
    Ok(Json(person))
}

#[get("/superuser", access = superuser)]
fn superuser() {}

#[get("/permitted", access = permission("read-all"))]
fn permitted() {}

#[get("/setting", access = public)]
fn setting(Settings(setting): Settings<Setting>) -> Json<Option<String>> {
    std::hint::black_box(setting.times);
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

/// Continues without memory if the host refuses it.
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

/// Sleeps the given number of times.
#[get("/naps/{count}/{millis}", access = public)]
fn nap(Path((count, millis)): Path<(u32, u64)>) {
    for _ in 0..count {
        std::thread::sleep(std::time::Duration::from_millis(millis));
    }
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
    #[serde(default)]
    status: Option<u16>,
    #[serde(default)]
    body: String,
}

#[get("/header", access = public)]
fn header(Query(header): Query<Header>) -> Response {
    // A query cannot contain a NUL.
    let [name, value] = [&header.name, &header.value].map(|text| text.replace('␀', "\0"));
    let once = |response: Response, _| response.header(&name, value.clone());
    let empty = Response::new(header.status.unwrap_or(200)).body(header.body);
    (0..header.times.unwrap_or(1)).fold(empty, once)
}

/// Responds with a page that tries to use the origin of the host, and shows the results.
#[get("/page", access = public)]
fn page() -> Response {
    Response::new(200).header("content-type", "text/html").body(include_str!("page.html"))
}

#[get("/body/{bytes}", access = public)]
fn body(Path(bytes): Path<usize>) -> Response {
    Response::new(200).body(vec![b'x'; bytes])
}

/// Responds with the same body after a delay.
#[get("/late-body/{millis}/{bytes}", access = public)]
fn late_body(Path((millis, bytes)): Path<(u64, usize)>) -> Response {
    std::thread::sleep(std::time::Duration::from_millis(millis));
    body(Path(bytes))
}

#[derive(Deserialize, JsonSchema)]
struct Trouble {
    status: u16,
    code: String,
    detail: String,
    #[serde(default)]
    retry_after: Option<String>,
}

#[get("/problem", access = public)]
fn problem(Query(trouble): Query<Trouble>) -> Result<()> {
    let problem = Problem::new(trouble.status, trouble.code, trouble.detail);
    Err(trouble.retry_after.into_iter().fold(problem, |problem, value| problem.header("retry-after", value)))
}

#[derive(Deserialize, serde::Serialize, JsonSchema)]
struct Numbers {
    signed: i64,
    unsigned: u64,
    small: Option<i32>,
    float: f64,
    #[serde(default)]
    list: Vec<u8>,
}

/// Returns the numbers as the guest read them.
#[post("/numbers", access = public)]
fn numbers(Json(numbers): Json<Numbers>) -> Json<Numbers> {
    Json(numbers)
}

#[get("/number/{unsigned}", access = public)]
fn number_of(Path(unsigned): Path<u64>, Query(more): Query<MoreNumbers>) -> Text {
    Text(format!("{unsigned} {} {}", more.unsigned, more.signed))
}

#[derive(Deserialize, JsonSchema)]
struct MoreNumbers {
    unsigned: u64,
    signed: i64,
}

/// Returns the given number of errors. Each has a text and a location of the given number of characters, and each
/// character is six times as long in the response.
#[get("/problems/{errors}/{characters}", access = public)]
fn problems(Path((errors, characters)): Path<(usize, usize)>) -> Result<()> {
    let text = "\u{1}".repeat(characters);
    let error = FieldError::new([text.as_str(), text.as_str()], "value_error", text.clone());
    let errors = std::iter::once(FieldError::body("x", "many")).chain(vec![error; errors]);
    Err(Problem::unprocessable(errors))
}

#[get("/print/{bytes}", access = public)]
#[allow(clippy::print_stdout, clippy::print_stderr, reason = "the tests are about both streams")]
fn print(Path(bytes): Path<usize>) -> Text {
    print!("{}", "o".repeat(bytes));
    eprintln!("{}", "e".repeat(bytes));
    Text("printed".to_owned())
}

/// Prints lines of one letter in one write.
#[get("/print-at-once/{bytes}", access = public)]
fn print_at_once(Path(bytes): Path<usize>) -> Text {
    Text(format!("{:?}", standard::print("o\n".repeat(bytes / 2).as_bytes())))
}

#[get("/log/{bytes}", access = public)]
fn log_message(Path(bytes): Path<usize>) -> Text {
    log::info(&"m".repeat(bytes), &[]);
    Text("logged".to_owned())
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

/// Stores the given number of keys.
#[get("/hoard/{keys}", access = public)]
fn hoard(Path(keys): Path<u32>) -> Text {
    for key in 0..keys {
        let _ = cache::set(&Uuid::new_v4().to_string(), &[0; 100], None, &[]);
        std::hint::black_box(key);
    }
    Text(keys.to_string())
}

/// The byte that `taint` leaves in memory and `scan` looks for.
const TAINT: u8 = 0xa5;

/// Fills memory and ends in the given way.
#[get("/taint/{mebibytes}", access = public)]
fn taint(Path(mebibytes): Path<usize>, Query(tainting): Query<Tainting>) {
    let filled = std::hint::black_box(vec![TAINT; mebibytes << 20]);
    match tainting.end {
        End::Trap => std::process::abort(),
        End::Loop => endless(),
        End::Sleep => std::thread::sleep(std::time::Duration::from_secs(3600)),
        _ => std::mem::forget(filled),
    }
}

#[derive(Deserialize, JsonSchema)]
struct Tainting {
    end: End,
}

/// Counts the bytes of `taint` in memory that this instance has not written.
#[get("/scan/{mebibytes}", access = public)]
#[allow(unsafe_code, reason = "the test is about memory before the first write")]
fn scan(Path(mebibytes): Path<usize>) -> Text {
    let layout = std::alloc::Layout::from_size_align(mebibytes << 20, 16).unwrap();
    // SAFETY: the layout is not empty, and each byte that is read lies within it. WebAssembly's memory is never
    // undefined.
    let found = unsafe {
        let start = std::alloc::alloc(layout);
        (0..layout.size()).filter(|at| start.add(*at).read_volatile() == TAINT).count()
    };
    Text(found.to_string())
}

#[post("/audited")]
fn audited() -> Result<()> {
    audit::record("chameleon.change", "17", audit::Outcome::Success, &[("colour", &"green")])?;
    Ok(())
}

/// Records an action whose texts contain the character NUL.
#[post("/audited-nul", access = public)]
fn audited_nul() -> Result<()> {
    audit::record("chameleon\0nul", "a\0b", audit::Outcome::Success, &[("c\0", &"d\0")])?;
    Ok(())
}

/// Records the given number of audit entries of the given size.
#[post("/audited/{entries}/{bytes}", access = public)]
fn audit_often(Path((entries, bytes)): Path<(u32, usize)>) -> Result<()> {
    let detail = "x".repeat(bytes / 10);
    let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
    let fields = names.map(|name| (name, &detail as &dyn std::fmt::Display));
    for entry in 0..entries {
        audit::record("chameleon.often", &entry.to_string(), audit::Outcome::Success, &fields)?;
    }
    Ok(())
}

/// Counts the calls of this instance. It is 1 for every request unless an instance is reused.
#[get("/remembered", access = public)]
fn remembered() -> Json<u32> {
    static CALLS: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    Json(CALLS.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1)
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

#[derive(Deserialize, JsonSchema)]
struct Weighing {
    /// The call to the host.
    what: HostCall,
    /// The statement of a database call.
    #[serde(default)]
    sql: String,
    /// The size of the value that is passed to the host.
    #[serde(default)]
    bytes: usize,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum HostCall {
    Query,
    Batch,
    Parameter,
    Set,
    Get,
    Log,
    Audit,
}

/// Returns the size of this instance's memory, in bytes, after the call to the host.
#[post("/weigh", access = public)]
fn weigh(Json(weighing): Json<Weighing>) -> Result<Text> {
    let payload = "x".repeat(weighing.bytes);
    match weighing.what {
        HostCall::Query => drop(std::hint::black_box(sql::query::<(String,)>(&weighing.sql, params![])?)),
        HostCall::Batch => drop(std::hint::black_box(sql::batch([sql::statement(weighing.sql, params![])])?)),
        HostCall::Parameter => drop(std::hint::black_box(sql::query::<(i64,)>(&weighing.sql, params![payload])?)),
        HostCall::Set => cache::set("weighed", payload.as_bytes(), None, &[])?,
        HostCall::Log => log::info(&payload, &[("also", &"short")]),
        HostCall::Audit => audit::record("chameleon.weigh", "", audit::Outcome::Success, &[("detail", &payload)])?,
        HostCall::Get => drop(std::hint::black_box(cache::get("weighed")?)),
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
