//! The audit log: search, chains, pruning, and the verification by the real program.

use std::process::Output;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _};

use super::metrics::samples;
use crate::support::host::{PASSWORD, SUPERUSER};
use crate::support::polling::until;
use crate::support::postgres;
use crate::support::process::{home, wharf};
use crate::support::{Client, TestHost, both};

both!(
    entries_are_found_by_actor_action_object_time_and_request,
    a_removed_or_changed_entry_shows,
    an_entry_that_the_host_did_not_seal_shows => Setup::default().with(|config| {
        config.plugins.log_audit = 10_000;
        config.plugins.deadline = Duration::from_secs(60);
    }),
    old_entries_are_pruned_and_the_chain_still_verifies => Setup::default().with_manual_clock(),
    nothing_is_deleted_beyond_the_signed_place => Setup::default().with_manual_clock(),
    the_entries_of_a_plugin_have_a_bound_of_their_own => Setup::default().with(|config| {
        config.plugins.audit_entries = 100;
        config.plugins.log_audit = 10_000;
        config.plugins.deadline = Duration::from_secs(60);
    }),
);

/// Runs SQL on the host's database as its owner, past the host.
async fn execute(host: &TestHost, sql: &str) -> Result<(), sqlx::Error> {
    let sql = AssertSqlSafe(sql.to_owned());
    match host.database() {
        Some(database) => {
            let mut connection = postgres::connect(database).await;
            sqlx::query("SET search_path TO wharf").execute(&mut connection).await?;
            sqlx::raw_sql(sql).execute(&mut connection).await?;
        }
        None => {
            let file = format!("sqlite://{}", host.config().server.data_dir.join("wharf.sqlite").display());
            let mut connection = sqlx::SqliteConnection::connect(&file).await?;
            sqlx::raw_sql(sql).execute(&mut connection).await?;
        }
    }
    Ok(())
}

/// Removes the triggers that protect the log, as an attacker with all rights could.
async fn unprotect(host: &TestHost) {
    for trigger in ["audit_appended", "audit_unchanged", "audit_kept"] {
        let table = if host.database().is_some() { " ON audit" } else { "" };
        execute(host, &format!("DROP TRIGGER {trigger}{table}")).await.unwrap();
    }
}

/// Returns the entries that fit a query, newest first.
async fn entries(client: &Client, query: &str) -> Vec<Value> {
    let page = client.get(&format!("/audit/?limit=1000&{query}")).await.ok();
    page["data"].as_array().unwrap().clone()
}

/// Waits until every entry is sealed, and returns the chains.
async fn sealed(client: &Client) -> Vec<Value> {
    until("the sealing of all entries", async || {
        let chains = client.get("/audit/chains").await.ok();
        (chains["unsealed"] == 0).then(|| chains["data"].as_array().unwrap().clone())
    })
    .await
}

/// Returns the number of chains that the host found broken.
async fn broken_chains(client: &Client) -> f64 {
    let samples = samples(client).await;
    samples.iter().find(|(name, _)| name == "wharf_audit_broken_total").unwrap().1
}

/// Verifies the log with the real program.
fn verify(host: &TestHost, client: &Client, arguments: &[&str]) -> Output {
    let home = home();
    let mut command = wharf(home.path());
    command.env("WHARF_URL", format!("http://{}", host.addr())).env("WHARF_TOKEN", client.token());
    command.args(["audit", "verify", "--json"]).args(arguments).output().unwrap()
}

#[track_caller]
fn valid(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["valid"], true);
    report
}

/// Expects that the verification fails with this message, and returns the findings.
#[track_caller]
fn refused(output: &Output, message: &str) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(report["error"]["message"], message);
    report["error"]["details"].to_string()
}

/// Expects that the log was changed, and returns the findings.
#[track_caller]
fn changed(output: &Output) -> String {
    refused(output, "the audit log was changed")
}

async fn entries_are_found_by_actor_action_object_time_and_request(host: &TestHost) {
    let admin = host.superuser();
    let user = host.user("ann@example.com").await;
    let id = user.get("/users/me").await.ok()["id"].as_str().unwrap().to_owned();
    let response =
        admin.patch(&format!("/users/{id}"), &json!({ "full_name": "Ann", "password": "a new secret" })).await;
    let request_id = response.header("x-request-id").unwrap().to_owned();
    response.ok();

    let found = entries(admin, &format!("action=user.update&object=user:{id}")).await;
    assert_eq!(found.len(), 1, "{found:?}");
    let entry = &found[0];
    assert_eq!((&entry["actor_email"], &entry["outcome"]), (&json!(SUPERUSER), &json!("success")));
    assert_eq!((&entry["address"], &entry["request_id"]), (&json!("127.0.0.1"), &json!(request_id)));
    assert_eq!((&entry["before"]["full_name"], &entry["after"]["full_name"]), (&Value::Null, &json!("Ann")));
    let same = [
        format!("request_id={request_id}"),
        format!("actor={SUPERUSER}&action=user.*&object=user:{id}").replace('@', "%40"),
        format!("actor={}&action=user.update", entry["actor"].as_str().unwrap()),
        format!("action=user.update&since={0}", entry["at"].as_str().unwrap()),
        "action=user.update&outcome=success&until=9999-01-01T00:00:00Z".to_owned(),
    ];
    for query in same {
        let ids: Vec<Value> = entries(admin, &query).await.iter().map(|entry| entry["id"].clone()).collect();
        assert_eq!(ids, [entry["id"].clone()], "{query}");
    }
    let none = ["action=user", "action=user.updat", "object=user", "outcome=denied&action=user.*", "plugin=items"];
    for query in none {
        assert!(entries(admin, query).await.is_empty(), "{query}");
    }
    assert!(entries(admin, &format!("action=user.update&until={}", entry["at"].as_str().unwrap())).await.is_empty());

    // Pages have each entry once, in both orders.
    let all: Vec<Value> = entries(admin, "").await.iter().map(|entry| entry["id"].clone()).collect();
    assert!(all.len() >= 3, "{all:?}");
    for order in ["newest", "oldest"] {
        let (mut read, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = admin.get(&format!("/audit/?limit=1&order={order}{cursor}")).await.ok();
            read.extend(page["data"].as_array().unwrap().iter().map(|entry| entry["id"].clone()));
            let Some(next) = page["next"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        if order == "oldest" {
            read.reverse();
        }
        assert_eq!(read, all, "{order}");
    }

    let lines = admin.get("/audit/export?limit=2&action=*").await;
    assert_eq!((lines.status, lines.header("content-type")), (200, Some("application/jsonl")));
    let parsed: Vec<Value> = lines.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(parsed.len(), 2);
    let link = lines.header("link").unwrap().strip_prefix("</api/v1").unwrap().strip_suffix(">; rel=\"next\"").unwrap();
    let next = admin.get(link).await;
    assert!(next.status == 200 && next.text() != lines.text(), "{link}");

    admin.get("/audit/?cursor=1").await.has_code(422, "validation_error");
    admin.get("/audit/?actor=nobody%40example.com").await.has_code(404, "user_not_found");
    admin.get("/audit/?limit=1001").await.has_code(422, "validation_error");
    admin.get("/audit/?since=yesterday").await.has_code(422, "validation_error");

    // Nobody else reads the log, and it contains no secret.
    for (method, path) in [(Method::GET, "/audit/"), (Method::GET, "/audit/chains"), (Method::POST, "/audit/prune")] {
        user.request(method.clone(), path).send().await.has_code(401, "invalid_token");
        let again = host.anonymous().signed_in("ann@example.com", "a new secret").await;
        again.request(method.clone(), path).send().await.has_code(403, "forbidden");
        host.anonymous().request(method, path).send().await.has_code(401, "not_authenticated");
    }
    let text = admin.get("/audit/?limit=1000").await.text();
    for secret in [PASSWORD, "a new secret", "$argon2", admin.token()] {
        assert!(!text.contains(secret), "{secret}");
    }
}

async fn a_removed_or_changed_entry_shows(host: &TestHost) {
    let admin = host.superuser();
    for name in ["ann", "ben", "cleo"] {
        host.sign_up(&format!("{name}@example.com")).await.ok();
    }
    let chains = sealed(admin).await;
    assert_eq!((chains.len(), &chains[0]["chain"]), (1, &json!("host")));
    let last = chains[0]["sequence"].as_i64().unwrap();
    assert!(last >= 4, "{chains:?}");
    let report = valid(&verify(host, admin, &[]));
    let anchor = report["chains"][0]["anchor"].as_str().unwrap();
    valid(&verify(host, admin, &["--contains", anchor]));

    let change = "UPDATE audit SET object = object || 'x' WHERE chain = 'host' AND sequence = 2";
    let undo = "UPDATE audit SET object = substr(object, 1, length(object) - 1) WHERE chain = 'host' AND sequence = 2";
    for refused in [change, "DELETE FROM audit WHERE sequence = 2", "UPDATE audit SET sequence = NULL"] {
        let error = execute(host, refused).await.unwrap_err().to_string();
        assert!(error.contains("an entry of the audit log"), "{error}");
    }
    unprotect(host).await;
    execute(host, change).await.unwrap();
    assert!(changed(&verify(host, admin, &[])).contains("host: entry 2 was changed"));
    execute(host, undo).await.unwrap();
    valid(&verify(host, admin, &[]));

    // A careful attacker cuts off the end and corrects the head. A hash that was kept elsewhere shows it, and so does
    // the next entry, because the running host knows the head.
    let before = last - 1;
    let cut = format!(
        "DELETE FROM audit WHERE chain = 'host' AND sequence = {last};
         UPDATE audit_chains SET sequence = {before},
             hash = (SELECT hash FROM audit WHERE chain = 'host' AND sequence = {before})"
    );
    execute(host, &cut).await.unwrap();
    valid(&verify(host, admin, &[]));
    let found = changed(&verify(host, admin, &["--contains", anchor]));
    assert!(found.contains(&format!("entry {last} is missing: the end was cut off")), "{found}");
    host.sign_up("dora@example.com").await.ok();
    sealed(admin).await;
    let found = changed(&verify(host, admin, &[]));
    assert!(found.contains(&format!("entry {last} is missing")), "{found}");
    assert_eq!(broken_chains(admin).await, 1.0);

    execute(host, "DELETE FROM audit WHERE chain = 'host' AND sequence = 2").await.unwrap();
    assert!(changed(&verify(host, admin, &[])).contains("host: entry 2 is missing: entry 3 follows entry 1"));
    execute(host, "DELETE FROM audit_chains").await.unwrap();
    let found = changed(&verify(host, admin, &["--contains", anchor]));
    assert!(found.contains("host: the chain is missing"), "{found}");
    // Without its chain, no entry has a place.
    let found = changed(&verify(host, admin, &[]));
    assert!(found.contains("was added or moved: the chain has no place 1\""), "{found}");
}

async fn an_entry_that_the_host_did_not_seal_shows(host: &TestHost) {
    let admin = host.superuser();
    host.deploy_chameleon().await;
    // As many as the program reads at once.
    let recorded = host.anonymous().request(Method::POST, "/chameleon/audited/500/10").send().await;
    assert_eq!(recorded.status, 204, "{}", recorded.text());
    let chains = sealed(admin).await;
    let last = |name: &str| chains.iter().find(|chain| chain["chain"] == name).unwrap()["sequence"].as_i64().unwrap();
    assert_eq!(last("plugin:chameleon"), 500);
    let beyond = last("host") + 1000;
    valid(&verify(host, admin, &[]));

    let add = |chain: &str, sequence: i64| {
        format!(
            "INSERT INTO audit (at, action, object, outcome, detail, chain, sequence, node, hash)
             SELECT at, 'test.forged', object, outcome, detail, {chain}, {sequence}, node, hash
             FROM audit WHERE chain = 'host' AND sequence = 1"
        )
    };
    let error = execute(host, &add("'host'", beyond)).await.unwrap_err().to_string();
    assert!(error.contains("an entry of the audit log"), "{error}");
    unprotect(host).await;
    for (chain, sequence, finding) in [
        ("'host'", beyond, format!("was added or moved: the chain has no place {beyond}")),
        ("'host'", 0, "was added or moved: the chain has no place 0".to_owned()),
        ("'plugin:nobody'", 1, "plugin:nobody: the entry with the id".to_owned()),
        ("NULL", 5, "was added or moved: it has the place 5 of no chain".to_owned()),
    ] {
        execute(host, &add(chain, sequence)).await.unwrap();
        assert_eq!(entries(admin, "action=test.forged").await.len(), 1);
        let found = changed(&verify(host, admin, &[]));
        assert!(found.contains(&finding), "{found}");
        execute(host, "DELETE FROM audit WHERE action = 'test.forged'").await.unwrap();
        valid(&verify(host, admin, &[]));
    }
    // An entry of a place that is taken, between two pages of the verification.
    execute(host, "DROP INDEX audit_chain").await.unwrap();
    execute(host, &add("'plugin:chameleon'", 500)).await.unwrap();
    let found = changed(&verify(host, admin, &[]));
    assert!(found.contains("plugin:chameleon: entry 501 is missing: entry 500 follows entry 500"), "{found}");
}

async fn old_entries_are_pruned_and_the_chain_still_verifies(host: &TestHost) {
    const YEAR_AND_A_DAY: Duration = Duration::from_secs(366 * 24 * 3600);
    host.sign_up("ann@example.com").await.ok();
    sealed(host.superuser()).await;
    let old = valid(&verify(host, host.superuser(), &[]))["chains"][0].clone();
    assert_eq!(host.superuser().request(Method::POST, "/audit/prune").send().await.ok(), json!({ "entries": 0 }));

    host.clock().advance(YEAR_AND_A_DAY);
    let admin = host.anonymous().signed_in(SUPERUSER, PASSWORD).await;
    until("the pruning", async || entries(&admin, "action=user.create").await.is_empty().then_some(())).await;
    let pruned = entries(&admin, "action=audit.prune&order=newest").await;
    let deletion = pruned.iter().find(|entry| entry["detail"]["entries"].as_i64() > Some(1)).unwrap();
    assert_eq!((&deletion["object"], &deletion["detail"]["first"]), (&json!("audit:host"), &json!(1)));
    let checkpoint = sealed(&admin).await[0]["checkpoint"].clone();
    assert!(checkpoint["sequence"].as_i64() >= old["sequence"].as_i64(), "{checkpoint}");
    let report = valid(&verify(host, &admin, &[]));
    assert_eq!(report["chains"][0]["pruned"], checkpoint["sequence"]);
    let key = report["chains"][0]["checkpoint_key"].as_str().unwrap();
    valid(&verify(host, &admin, &["--key", key]));
    // Only a key that was kept elsewhere shows that the host itself deleted the entry.
    let anchor = old["anchor"].as_str().unwrap();
    let found = refused(&verify(host, &admin, &["--contains", anchor]), "the audit log cannot be verified");
    assert!(found.contains("was pruned; only --key can show"), "{found}");
    valid(&verify(host, &admin, &["--contains", anchor, "--key", key]));
    assert!(changed(&verify(host, &admin, &["--key", "another"])).contains("another key signed the checkpoint"));

    // Nothing is pruned from a chain that is broken: it is evidence.
    host.sign_up("ben@example.com").await.ok();
    sealed(&admin).await;
    unprotect(host).await;
    execute(host, "UPDATE audit SET outcome = 'denied' WHERE action = 'user.create'").await.unwrap();
    host.clock().advance(YEAR_AND_A_DAY);
    let admin = host.anonymous().signed_in(SUPERUSER, PASSWORD).await;
    until("the next pruning", async || (broken_chains(&admin).await == 1.0).then_some(())).await;
    assert_eq!(entries(&admin, "action=user.create").await.len(), 1);
    assert!(changed(&verify(host, &admin, &[])).contains("was changed"));

    execute(host, "UPDATE audit_chains SET checkpoint = replace(checkpoint, '\"sequence\":', '\"sequence\":1')")
        .await
        .unwrap();
    assert!(changed(&verify(host, &admin, &[])).contains("the signature of the checkpoint is not valid"));
    execute(host, "UPDATE audit_chains SET checkpoint = NULL").await.unwrap();
    assert!(changed(&verify(host, &admin, &[])).contains("host: entry 1 is missing"));
}

async fn nothing_is_deleted_beyond_the_signed_place(host: &TestHost) {
    host.sign_up("ann@example.com").await.ok();
    sealed(host.superuser()).await;
    execute(host, "UPDATE audit_chains SET checkpoint_sequence = 1000000000").await.unwrap();
    host.clock().advance(Duration::from_secs(366 * 24 * 3600));
    let admin = host.anonymous().signed_in(SUPERUSER, PASSWORD).await;
    until("the next pruning", async || (broken_chains(&admin).await == 1.0).then_some(())).await;
    assert!(!entries(&admin, "action=user.create").await.is_empty());
    assert_eq!(admin.request(Method::POST, "/audit/prune").send().await.ok(), json!({ "entries": 0 }));
    valid(&verify(host, &admin, &[]));
}

async fn the_entries_of_a_plugin_have_a_bound_of_their_own(host: &TestHost) {
    let admin = host.superuser();
    host.deploy_chameleon().await;
    let recorded = host.anonymous().request(Method::POST, "/chameleon/audited/150/10").send().await;
    assert_eq!(recorded.status, 204, "{}", recorded.text());
    let chains = until("the bound", async || {
        let chains = sealed(admin).await;
        let plugin = chains.iter().find(|chain| chain["chain"] == "plugin:chameleon")?;
        (plugin["checkpoint"]["sequence"] == 50).then(|| chains.clone())
    })
    .await;
    assert_eq!(chains.len(), 2, "{chains:?}");
    assert!(chains.iter().any(|chain| chain["chain"] == "host" && chain["checkpoint"].is_null()), "{chains:?}");
    let kept = entries(admin, "action=chameleon.often&plugin=chameleon").await;
    let objects: Vec<&str> = kept.iter().map(|entry| entry["object"].as_str().unwrap()).collect();
    let latest: Vec<String> = (50..150).rev().map(|number| number.to_string()).collect();
    assert_eq!(objects, latest);
    let deletions = entries(admin, "action=audit.prune&object=audit:plugin:chameleon").await;
    let deleted: i64 = deletions.iter().filter_map(|entry| entry["detail"]["entries"].as_i64()).sum();
    assert_eq!(deleted, 50, "{deletions:?}");
    assert!(entries(admin, "action=plugin.deploy&plugin=chameleon").await.len() == 1, "the host's entry stays");
    valid(&verify(host, admin, &[]));
}
