//! What a plugin cannot do: to the host, to its neighbours, to whoever waits for its answer.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::host::Setup;
use crate::support::patience::until;
use crate::support::{Answer, Component, TestHost, both};

both!(
    a_transaction_that_is_left_open_is_rolled_back => hurried(),
    statements_that_a_plugin_may_not_use_are_refused => hurried(),
    a_statement_that_does_not_end_is_ended => hurried(),
    connections_of_a_plugin_are_its_own => hurried().with(|config| {
        config.plugins.sql_connections = 1;
        config.plugins.deadline = Duration::from_secs(20);
    }),
    what_sql_answers_is_bounded => hurried().with(|config| {
        config.plugins.sql_rows = 10;
        config.plugins.sql_bytes = 10_000;
    }),
);

/// Limits that are soon reached.
fn hurried() -> Setup {
    Setup::default().with(|config| {
        config.plugins.cpu_time = Duration::from_millis(200);
        config.plugins.deadline = Duration::from_secs(2);
        config.plugins.sql_time = Duration::from_millis(500);
        config.plugins.memory_bytes = 8 * 1024 * 1024;
        config.plugins.response_bytes = 256 * 1024;
    })
}

async fn chameleon(setup: Setup) -> TestHost {
    let host = TestHost::sqlite(setup).await;
    host.deploy_chameleon().await;
    host.superuser().deploy(&Component::hello().0, "").await.ok();
    host
}

async fn ask(host: &TestHost, path: &str) -> Answer {
    host.anonymous().get(&format!("/chameleon/{path}")).await
}

/// Asks, and the neighbour meanwhile; the answer to the first.
async fn beside_a_neighbour(host: &TestHost, path: &str) -> Answer {
    let neighbour = async {
        for _ in 0..10 {
            assert_eq!(host.anonymous().get("/hello/Ann").await.ok()["message"], "Hello Ann");
        }
    };
    let (answer, ()) = tokio::join!(ask(host, path), neighbour);
    // And it serves again itself.
    assert_eq!(ask(host, "echo/x").await.status, 200);
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_fails_is_a_502() {
    let host = chameleon(hurried()).await;
    for path in ["trap", "panic", "exit/1", "exit/0", "recurse"] {
        let answer = beside_a_neighbour(&host, path).await;
        answer.is_problem(502, "plugin_trap", "The plugin failed");
        assert!(!answer.text().contains("hunter2"));
    }
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_does_not_end_is_a_504() {
    let host = chameleon(hurried()).await;
    let answer = beside_a_neighbour(&host, "endless").await;
    answer.is_problem(504, "plugin_cpu_limit", "The plugin used up its CPU time");
    // Sleeping takes no CPU time, so only the clock on the wall ends it.
    let answer = beside_a_neighbour(&host, "sleep/3600000").await;
    answer.is_problem(504, "plugin_deadline", "The plugin did not answer in time");
    assert_eq!(ask(&host, "sleep/10").await.status, 204);
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_wants_too_much_memory_is_a_502() {
    let host = chameleon(hurried()).await;
    for mebibytes in [9, 100, 3000] {
        let answer = beside_a_neighbour(&host, &format!("grow/{mebibytes}")).await;
        answer.is_problem(502, "plugin_memory_limit", "The plugin needs more memory than it may have");
    }
    assert_eq!(ask(&host, "grow/4").await.text(), "4");
    host.stop().await;
}

#[tokio::test]
async fn an_answer_that_is_none_is_a_502() {
    let host = chameleon(hurried()).await;
    let invalid = |answer: Answer| {
        answer.is_problem(502, "plugin_invalid_response", "The plugin gave an invalid answer");
        assert_eq!(answer.header("x-evil"), None);
    };
    for status in [0, 1, 99, 100, 101, 199, 600, 999, 65535] {
        invalid(ask(&host, &format!("status/{status}")).await);
    }
    for header in [
        "name=set-cookie&value=a%3Db",
        "name=content-length&value=0",
        "name=transfer-encoding&value=chunked",
        "name=connection&value=close",
        "name=upgrade&value=h2c",
        "name=date&value=x",
        "name=server&value=x",
        "name=x-request-id&value=x",
        "name=access-control-allow-origin&value=*",
        "name=strict-transport-security&value=x",
        "name=x%20y&value=x",
        "name=&value=x",
        "name=x%3A&value=x",
        "name=x%0D%0Ax-evil&value=x",
        "name=x-%C3%BC&value=x",
        "name=x&value=a%0D%0Ax-evil%3A%201",
        "name=x&value=a%0Ab",
        "name=x&value=%7F",
        "name=x&value=x&times=1000",
    ] {
        invalid(ask(&host, &format!("header?{header}")).await);
    }
    let long = "y".repeat(17_000);
    invalid(ask(&host, &format!("header?name=x&value={long}")).await);
    invalid(ask(&host, "body/262145").await);
    assert_eq!(ask(&host, "body/262144").await.bytes.len(), 262_144);
    for problem in ["status=418&code=Not+A+Code&detail=x", "status=418&code=&detail=x"] {
        invalid(ask(&host, &format!("problem?{problem}")).await);
    }
    host.stop().await;
}

#[tokio::test]
async fn calls_into_the_host_are_counted() {
    let host = chameleon(hurried().with(|config| config.plugins.host_calls = 50)).await;
    assert_eq!(ask(&host, "host-calls/40").await.text(), "40");
    let answer = ask(&host, "host-calls/60").await;
    answer.is_problem(502, "plugin_host_call_limit", "The plugin used up its calls into the host");
    host.stop().await;
}

#[tokio::test]
async fn a_flood_of_log_lines_does_not_stop_the_call() {
    let host = chameleon(hurried()).await;
    assert_eq!(ask(&host, "flood/2000").await.text(), "2000");
    assert_eq!(ask(&host, "print/100000").await.text(), "printed");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_that_is_busy_says_when_to_try_again() {
    let host = chameleon(hurried().with(|config| {
        config.plugins.concurrency = 2;
        config.plugins.queue_time = Duration::from_millis(50);
    }))
    .await;
    // Two sleep, two wait in vain, the rest is turned away.
    let (answers, neighbour) =
        tokio::join!(futures_util::future::join_all((0..8).map(|_| ask(&host, "sleep/1000"))), async {
            let mut statuses = Vec::new();
            for _ in 0..10 {
                statuses.push(host.anonymous().get("/hello/Ann").await.status);
            }
            statuses
        });
    assert_eq!(neighbour, [200; 10]);
    let busy: Vec<&Answer> = answers.iter().filter(|answer| answer.status != 204).collect();
    assert!(!busy.is_empty() && busy.len() < answers.len(), "{}", busy.len());
    for answer in busy {
        answer.is_problem(503, "plugin_busy", "The plugin is busy, try again");
        assert!(answer.header("retry-after").unwrap().parse::<u32>().unwrap() >= 1);
    }
    assert_eq!(ask(&host, "echo/x").await.status, 200);
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_calls_than_the_pool_holds_wait_or_are_turned_away() {
    let host = chameleon(hurried().with(|config| {
        config.plugins.concurrency = 64;
        config.plugins.total_concurrency = 4;
        config.plugins.queue_time = Duration::from_millis(100);
    }))
    .await;
    let answers = futures_util::future::join_all((0..24).map(|_| ask(&host, "sleep/1000"))).await;
    for answer in &answers {
        if answer.status != 204 {
            answer.has_code(503, "plugin_busy");
        }
    }
    assert!(answers.iter().any(|answer| answer.status == 204));
    assert_eq!(ask(&host, "echo/x").await.status, 200);
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_away_leaves_nothing_behind() {
    let host = chameleon(hurried().with(|config| {
        config.plugins.concurrency = 1;
        config.plugins.deadline = Duration::from_secs(3600);
        config.plugins.queue_time = Duration::from_millis(50);
    }))
    .await;
    let client = host.anonymous();
    let sleeping = tokio::spawn(async move { client.get("/chameleon/sleep/3600000").await });
    until("the call to run", async || (ask(&host, "echo/x").await.status == 503).then_some(())).await;
    sleeping.abort();
    until("its place to be free again", async || (ask(&host, "echo/x").await.status == 200).then_some(())).await;
    host.stop().await;
}

async fn leave(host: &TestHost, end: &str) -> Answer {
    let path = format!("/chameleon/transaction?end={end}&text=left");
    host.anonymous().request(Method::POST, &path).send().await
}

async fn a_transaction_that_is_left_open_is_rolled_back(host: &TestHost) {
    host.deploy_chameleon().await;
    for (end, status) in [("fail", 409), ("return", 502), ("trap", 502), ("loop", 504), ("sleep", 504)] {
        assert_eq!(leave(host, end).await.status, status, "{end}");
        // Nothing is kept, and nothing is locked.
        assert_eq!(ask(host, "notes").await.ok(), json!([]), "{end}");
        let path = format!("/chameleon/notes/after-{end}");
        assert_eq!(host.anonymous().request(Method::POST, &path).send().await.status, 204, "{end}");
        statement(host, "DELETE FROM note").await;
    }
}

async fn statement(host: &TestHost, statement: &str) -> Value {
    let request = host.anonymous().request(Method::POST, "/chameleon/statement");
    request.header("content-type", "application/octet-stream").body(statement.to_owned()).send().await.ok()
}

async fn statements_that_a_plugin_may_not_use_are_refused(host: &TestHost) {
    host.deploy_chameleon().await;
    for hostile in [
        "ATTACH DATABASE '/tmp/wharf-escape.db' AS other",
        "DETACH DATABASE main",
        "PRAGMA journal_mode = DELETE",
        "PRAGMA writable_schema = 1",
        "VACUUM INTO '/tmp/wharf-escape.db'",
        "SELECT load_extension('x')",
        "BEGIN",
        "COMMIT",
        "ROLLBACK",
        "SAVEPOINT a",
        "END",
        "CREATE TABLE evil (a TEXT)",
        "DROP TABLE note",
        "ALTER TABLE note ADD COLUMN a TEXT",
        "SET ROLE postgres",
        "RESET ROLE",
        "SET SESSION AUTHORIZATION postgres",
        "SET statement_timeout = 0",
        "COPY note TO '/tmp/wharf-escape'",
        "COPY note FROM PROGRAM 'id'",
        "DO $$ BEGIN END $$",
        "LISTEN x",
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT pg_sleep(3600)",
        "SELECT set_config('role', 'postgres', false)",
        "SELECT 1; SELECT 2",
        "SELECT 1; DROP TABLE note",
        "",
        ";",
        "nonsense",
        "SELECT * FROM nothing",
        "SELECT $1",
        "SELECT '\0'",
        "EXPLAIN SELECT 1",
        "LOCK TABLE note",
        "GRANT ALL ON note TO PUBLIC",
    ] {
        let outcome = statement(host, hostile).await;
        assert!(!outcome["error"].is_null(), "{hostile}: {outcome}");
        assert_eq!(ask(host, "notes").await.ok(), json!([]), "{hostile}");
    }
    for friendly in ["SELECT 1", "VALUES (1)", "WITH a AS (SELECT 1 AS b) SELECT b FROM a", "SELECT 1;"] {
        let outcome = statement(host, friendly).await;
        assert_eq!(outcome["error"], Value::Null, "{friendly}");
    }
    assert!(!std::path::Path::new("/tmp/wharf-escape.db").exists());
    host.superuser().get("/users/").await.ok();
}

async fn a_statement_that_does_not_end_is_ended(host: &TestHost) {
    host.deploy_chameleon().await;
    let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT COUNT(*) FROM n";
    let outcome = statement(host, endless).await;
    assert!(outcome["error"].as_str().unwrap().contains("Limit"), "{outcome}");
    assert_eq!(ask(host, "notes").await.ok(), json!([]));
}

async fn connections_of_a_plugin_are_its_own(host: &TestHost) {
    host.deploy_chameleon().await;
    host.deploy_items().await;
    let hold = || host.anonymous().request(Method::POST, "/chameleon/transactions/500").send();
    let (first, second, third, neighbour) = tokio::join!(hold(), hold(), hold(), host.superuser().get("/items/"));
    neighbour.ok();
    for answer in [first, second, third] {
        assert!(matches!(answer.status, 204 | 503), "{}", answer.text());
    }
    assert_eq!(ask(host, "notes").await.ok(), json!([]));
}

async fn what_sql_answers_is_bounded(host: &TestHost) {
    host.deploy_chameleon().await;
    let rows = |count: u32| {
        format!("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) SELECT i FROM n")
    };
    assert_eq!(statement(host, &rows(10)).await["error"], Value::Null);
    let outcome = statement(host, &rows(11)).await;
    assert!(outcome["error"].as_str().unwrap().contains("Limit"), "{outcome}");
    let long = format!("SELECT '{}'", "x".repeat(20_000));
    let outcome = statement(host, &long).await;
    assert!(outcome["error"].as_str().unwrap().contains("Limit"), "{outcome}");
}
