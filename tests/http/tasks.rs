//! Deliveries of events and jobs, as operators list and change them.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::metrics::samples;
use super::text;
use crate::support::intake::Intake;
use crate::support::{Client, Component, TestHost, both};

both!(
    tasks_are_listed_with_filters_and_in_pages,
    dead_tasks_are_retried_one_by_one_and_many_at_once,
    a_retried_delivery_gets_its_old_place_back,
    a_dropped_delivery_lets_the_next_one_start,
    only_a_job_is_cancelled,
    of_the_jobs_with_one_key_one_is_retried,
    a_change_of_many_needs_a_plugin_or_all,
    queues_and_metrics_count_the_tasks,
    operators_may_change_tasks_and_each_change_is_recorded,
);

const TOPIC: &str = "items.changed";

/// Deploys a plugin that subscribes to a topic, and pauses it, so that the host starts none of its tasks.
async fn deploy(host: &TestHost, intake: &Intake, name: &str) {
    host.superuser().deploy(&Component::hello().0, &format!("name={name}")).await.ok();
    post(host.superuser(), &format!("/plugins/{name}/pause")).await;
    intake.subscribe(name, TOPIC).await;
}

/// Sends a `POST` without a body, which must succeed.
async fn post(client: &Client, path: &str) -> Value {
    client.request(Method::POST, path).send().await.ok()
}

/// Returns the tasks that fit a query, oldest first.
async fn tasks(host: &TestHost, query: &str) -> Vec<Value> {
    let page = host.superuser().get(&format!("/tasks/?order=oldest&{query}")).await.ok();
    page["data"].as_array().unwrap().clone()
}

fn number(task: &Value) -> i64 {
    task["seq"].as_i64().unwrap()
}

/// Returns the numbers of the tasks that fit a query, oldest first.
async fn numbers(host: &TestHost, query: &str) -> Vec<i64> {
    tasks(host, query).await.iter().map(number).collect()
}

async fn state(host: &TestHost, task: i64) -> String {
    text(&host.superuser().get(&format!("/tasks/{task}")).await.ok(), "state").to_owned()
}

/// Returns whether a task waits for its start, or has just started because it is due.
async fn is_next(host: &TestHost, task: i64) -> bool {
    ["ready", "running"].contains(&state(host, task).await.as_str())
}

async fn tasks_are_listed_with_filters_and_in_pages(host: &TestHost) {
    let intake = Intake::of(host).await;
    deploy(host, &intake, "hello").await;
    deploy(host, &intake, "other").await;
    for round in 1..=3 {
        intake.enqueue("hello", "reindex", None, &json!({ "round": round }).to_string()).await;
    }
    intake.enqueue("other", "cleanup", None, "{}").await;
    intake.publish(TOPIC, Some("42"), r#"{"title":"Tea"}"#).await;
    intake.publish(TOPIC, Some("42"), r#"{"title":"Coffee"}"#).await;

    let all = tasks(host, "").await;
    let of = |kind: &str| all.iter().filter(|task| task["kind"] == kind).count();
    assert_eq!((of("job"), of("delivery"), all.len()), (4, 4, 8));
    assert!(all.is_sorted_by_key(number), "{all:?}");
    for (query, count) in [
        ("plugin=hello", 5),
        ("plugin=hello&kind=job", 3),
        ("name=cleanup", 1),
        ("name=items.changed&plugin=other", 2),
        ("state=blocked", 2),
        ("state=dead", 0),
        ("plugin=nobody", 0),
    ] {
        assert_eq!(tasks(host, query).await.len(), count, "{query}");
    }
    let first = &tasks(host, "plugin=hello&kind=delivery").await[0];
    let members = ["plugin", "name", "queue", "state", "event_key"].map(|member| text(first, member));
    assert_eq!(members, ["hello", TOPIC, "hello/items.changed/1", "ready", "42"]);
    assert_eq!((&first["attempts"], &first["job_id"], &first["reason"]), (&json!(0), &Value::Null, &Value::Null));

    let job = &tasks(host, "kind=job").await[2];
    assert_eq!(numbers(host, &format!("job_id={}", text(job, "job_id"))).await, [number(job)]);

    // The newest first, in pages.
    let root = host.superuser();
    let (mut found, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = root.get(&format!("/tasks/?limit=3{cursor}")).await.ok();
        found.extend(page["data"].as_array().unwrap().iter().map(number));
        let Some(next) = page["next"].as_i64() else { break };
        cursor = format!("&cursor={next}");
    }
    let newest_first: Vec<i64> = all.iter().rev().map(number).collect();
    assert_eq!(found, newest_first);

    // Only the route of one task has the payload.
    assert!(!root.get("/tasks/").await.text().contains("Coffee"));
    let delivery = root.get(&format!("/tasks/{}", number(first))).await.ok();
    assert_eq!((&delivery["payload"], &delivery["source"]), (&json!({ "title": "Tea" }), &json!("items")));
    let job = root.get(&format!("/tasks/{}", numbers(host, "kind=job").await[1])).await.ok();
    assert_eq!((&job["payload"], &job["source"]), (&json!({ "round": 2 }), &Value::Null));
    root.get("/tasks/999999").await.has_code(404, "task_not_found");
    root.get("/tasks/x").await.has_code(422, "validation_error");
    for query in ["limit=0", "state=lost", "kind=event", "name=A%20B", "cursor=x", "job_id=x"] {
        root.get(&format!("/tasks/?{query}")).await.has_code(422, "validation_error");
    }
    intake.close().await;
}

async fn dead_tasks_are_retried_one_by_one_and_many_at_once(host: &TestHost) {
    let intake = Intake::of(host).await;
    deploy(host, &intake, "hello").await;
    deploy(host, &intake, "other").await;
    for plugin in ["hello", "other"] {
        for name in ["reindex", "cleanup", "cleanup", "cleanup"] {
            intake.enqueue(plugin, name, None, "{}").await;
        }
    }
    let root = host.superuser();
    let all = numbers(host, "").await;
    root.request(Method::POST, &format!("/tasks/{}/retry", all[0])).send().await.has_code(409, "task_state");
    intake.bury(&all).await;
    let dead = &tasks(host, "state=dead").await[0];
    assert_eq!((&dead["attempts"], &dead["reason"]), (&json!(3), &json!("out of paper")));

    let retry = format!("/tasks/{}/retry", all[0]);
    root.request(Method::POST, &retry)
        .send()
        .await
        .has_message(&format!("Job reindex of hello ({}) waits again", all[0]));
    root.request(Method::POST, &retry).send().await.has_code(409, "task_state");
    root.request(Method::POST, "/tasks/999999/retry").send().await.has_code(404, "task_not_found");
    assert!(is_next(host, all[0]).await);
    let retried = root.get(&format!("/tasks/{}", all[0])).await.ok();
    assert!(retried["attempts"].as_i64() <= Some(1) && retried["ended_at"].is_null(), "{retried}");
    assert_eq!(retried["reason"], "out of paper");

    let changed = |filter: Value| async move { root.post("/tasks/bulk/retry", &filter).await.ok()["changed"].clone() };
    assert_eq!(changed(json!({ "plugin": "hello", "kind": "delivery" })).await, 0);
    assert_eq!(changed(json!({ "plugin": "hello", "name": "cleanup" })).await, 3);
    assert_eq!(changed(json!({ "plugin": "hello" })).await, 0);
    assert_eq!(numbers(host, "state=dead").await, all[4..]);
    assert_eq!(changed(json!({ "all": true })).await, 4);
    assert!(numbers(host, "state=dead").await.is_empty());
    intake.close().await;
}

async fn a_retried_delivery_gets_its_old_place_back(host: &TestHost) {
    let intake = Intake::of(host).await;
    deploy(host, &intake, "hello").await;
    for _ in 0..3 {
        intake.publish(TOPIC, Some("42"), "{}").await;
    }
    intake.publish(TOPIC, Some("43"), "{}").await;
    let all = numbers(host, "").await;
    let [one, two, three, other]: [i64; 4] = all.try_into().unwrap();
    // The first one died, so the second one may start.
    intake.bury(&[one]).await;
    intake.execute(&format!("UPDATE tasks SET state = 'ready' WHERE seq = {two}")).await;
    post(host.superuser(), &format!("/tasks/{one}/retry")).await;
    assert!(is_next(host, one).await);
    assert_eq!(
        [state(host, two).await, state(host, three).await, state(host, other).await],
        ["blocked", "blocked", "ready"]
    );

    // The second one has begun already, so the first one waits for it.
    intake.bury(&[one]).await;
    intake.run_elsewhere(two).await;
    assert_eq!(host.superuser().post("/tasks/bulk/retry", &json!({ "plugin": "hello" })).await.ok()["changed"], 1);
    assert_eq!(
        [state(host, one).await, state(host, two).await, state(host, three).await],
        ["blocked", "running", "blocked"]
    );
    intake.close().await;
}

async fn a_dropped_delivery_lets_the_next_one_start(host: &TestHost) {
    let intake = Intake::of(host).await;
    deploy(host, &intake, "hello").await;
    for _ in 0..5 {
        intake.publish(TOPIC, Some("42"), "{}").await;
    }
    let all = numbers(host, "").await;
    let [one, two, three, four, five]: [i64; 5] = all.try_into().unwrap();
    let root = host.superuser();
    let as_job = root.delete(&format!("/tasks/{one}?kind=job")).await.has_code(409, "task_state");
    assert_eq!(as_job, format!("Task {one} is a delivery: use `wharf events drop {one}`"));
    let dropped = root.delete(&format!("/tasks/{one}?kind=delivery")).await;
    dropped.has_message(&format!("Delivery of {TOPIC} to hello ({one}) was dropped"));
    root.get(&format!("/tasks/{one}")).await.has_code(404, "task_not_found");
    root.delete(&format!("/tasks/{one}")).await.has_code(404, "task_not_found");
    assert_eq!([state(host, two).await, state(host, three).await], ["ready", "blocked"]);
    // A blocked one is not next, whichever is dropped.
    root.delete(&format!("/tasks/{four}")).await.ok();
    assert_eq!([state(host, two).await, state(host, three).await], ["ready", "blocked"]);

    intake.run_elsewhere(two).await;
    root.delete(&format!("/tasks/{two}")).await.has_code(409, "task_state");
    let drop = |filter: Value| async move { root.post("/tasks/bulk/drop", &filter).await.ok()["changed"].clone() };
    assert_eq!(drop(json!({ "plugin": "hello" })).await, 0, "unless the state is named, dead ones are dropped");
    assert_eq!(drop(json!({ "plugin": "hello", "state": "ready" })).await, 0);
    intake.execute(&format!("UPDATE tasks SET state = 'ready', owner = NULL WHERE seq = {two}")).await;
    assert_eq!(drop(json!({ "plugin": "hello", "state": "ready" })).await, 1);
    assert_eq!(state(host, three).await, "ready");
    assert_eq!(drop(json!({ "all": true, "state": "blocked" })).await, 1);
    intake.bury(&[three]).await;
    assert_eq!(drop(json!({ "all": true, "kind": "delivery" })).await, 1);
    assert!(numbers(host, "").await.is_empty(), "{five} was the last one");
    intake.close().await;
}

async fn only_a_job_is_cancelled(host: &TestHost) {
    let intake = Intake::of(host).await;
    deploy(host, &intake, "hello").await;
    for _ in 0..2 {
        intake.enqueue("hello", "reindex", None, "{}").await;
    }
    intake.publish(TOPIC, None, "{}").await;
    let all = numbers(host, "").await;
    let [waiting, running, delivery]: [i64; 3] = all.try_into().unwrap();
    intake.run_elsewhere(running).await;
    for job in [waiting, running] {
        post(host.superuser(), &format!("/tasks/{job}/cancel")).await;
        let cancelled = host.superuser().get(&format!("/tasks/{job}")).await.ok();
        assert_eq!((text(&cancelled, "state"), &cancelled["owner"]), ("cancelled", &Value::Null));
    }
    for task in [waiting, delivery] {
        let again = host.superuser().request(Method::POST, &format!("/tasks/{task}/cancel")).send().await;
        let refused = again.has_code(409, "task_state");
        let next =
            if task == waiting { format!("wharf jobs show {task}") } else { format!("wharf events drop {task}") };
        assert!(refused.contains(&next), "{refused}");
    }
    assert_eq!(state(host, delivery).await, "ready");
    host.superuser().delete(&format!("/tasks/{waiting}")).await.has_code(409, "task_state");
    intake.close().await;
}

async fn of_the_jobs_with_one_key_one_is_retried(host: &TestHost) {
    let intake = Intake::of(host).await;
    deploy(host, &intake, "hello").await;
    for key in ["a", "a", "b", "b"] {
        intake.enqueue("hello", "reindex", Some(key), "{}").await;
        let waiting = numbers(host, "state=ready").await;
        if numbers(host, "").await.len() < 4 {
            intake.bury(&waiting).await;
        }
    }
    let all = numbers(host, "").await;
    let [first, second, third, fourth]: [i64; 4] = all.try_into().unwrap();
    // The fourth one waits, so the third one would only repeat its work.
    let refused = host.superuser().request(Method::POST, &format!("/tasks/{third}/retry")).send().await;
    assert!(refused.has_code(409, "task_state").contains("deduplication key"));
    assert_eq!(host.superuser().post("/tasks/bulk/retry", &json!({ "plugin": "hello" })).await.ok()["changed"], 1);
    assert!(is_next(host, first).await);
    assert_eq!(
        [state(host, second).await, state(host, third).await, state(host, fourth).await],
        ["dead", "dead", "ready"]
    );
    intake.close().await;
}

async fn a_change_of_many_needs_a_plugin_or_all(host: &TestHost) {
    let root = host.superuser();
    for path in ["/tasks/bulk/retry", "/tasks/bulk/drop"] {
        for filter in [json!({}), json!({ "all": false, "kind": "job" }), json!({ "all": true, "plugin": "hello" })] {
            let text = "body.plugin value_error: Name a plugin, or set all to true for those of all plugins";
            root.post(path, &filter).await.has_findings(&[text]);
        }
        assert_eq!(root.post(path, &json!({ "all": true, "plugin": null })).await.ok(), json!({ "changed": 0 }));
    }
    root.post("/tasks/bulk/drop", &json!({ "all": true, "state": "running" })).await.has_code(422, "validation_error");
    // A plugin that is not recorded exists for this if it has tasks.
    let nobody = json!({ "plugin": "nobody" });
    for path in ["/tasks/bulk/retry", "/tasks/bulk/drop"] {
        root.post(path, &nobody).await.has_code(404, "plugin_not_found");
    }
    let intake = Intake::of(host).await;
    intake.enqueue("nobody", "reindex", None, "{}").await;
    assert_eq!(root.post("/tasks/bulk/retry", &nobody).await.ok(), json!({ "changed": 0 }));
    intake.close().await;
}

async fn queues_and_metrics_count_the_tasks(host: &TestHost) {
    let intake = Intake::of(host).await;
    deploy(host, &intake, "hello").await;
    for _ in 0..3 {
        intake.enqueue("hello", "reindex", None, "{}").await;
        intake.publish(TOPIC, Some("42"), "{}").await;
    }
    intake.enqueue("nobody", "reindex", None, "{}").await;
    let jobs = numbers(host, "kind=job&plugin=hello").await;
    intake.bury(&jobs[..1]).await;
    // Its attempts were postponed since then.
    let an_hour_ago = host.clock().now().minus(Duration::from_secs(3600)).0;
    intake.execute(&format!("UPDATE tasks SET first_due_at = {an_hour_ago} WHERE seq = {}", jobs[1])).await;

    let queues = host.superuser().get("/queues").await.ok();
    let counts = |name: &str| {
        let queues = queues["data"].as_array().unwrap();
        let queue = queues.iter().find(|queue| queue["queue"] == name).unwrap_or_else(|| panic!("{name}: {queues:?}"));
        let counts = ["ready", "blocked", "running", "dead"].map(|state| queue[state].as_i64().unwrap());
        (counts, queue["oldest_seconds"].as_u64())
    };
    let (of_jobs, oldest) = counts("hello/reindex/1");
    assert_eq!(of_jobs, [2, 0, 0, 1]);
    assert!((3600..7200).contains(&oldest.unwrap()), "{oldest:?}");
    assert_eq!(counts("hello/items.changed/1"), ([1, 2, 0, 0], None));
    assert_eq!(counts("nobody/reindex/1"), ([1, 0, 0, 0], None));

    let samples = samples(host.superuser()).await;
    let value = |name: &str| samples.iter().find(|(sample, _)| sample == name).map(|(_, value)| *value);
    let tasks = |labels: &str| value(&format!("wharf_tasks{{plugin=\"hello\",{labels}}}"));
    assert_eq!(tasks("kind=\"job\",state=\"ready\""), Some(2.0));
    assert_eq!(tasks("kind=\"job\",state=\"dead\""), Some(1.0));
    assert_eq!(tasks("kind=\"delivery\",state=\"blocked\""), Some(2.0));
    assert!(value("wharf_tasks_oldest_seconds{plugin=\"hello\",kind=\"job\"}") >= Some(3600.0));
    assert_eq!(value("wharf_tasks_oldest_seconds{plugin=\"hello\",kind=\"delivery\"}"), Some(0.0));
    // Only plugins that exist have samples, so their number is bounded.
    assert!(samples.iter().all(|(sample, _)| !sample.contains("nobody")), "{samples:?}");
    intake.close().await;
}

async fn operators_may_change_tasks_and_each_change_is_recorded(host: &TestHost) {
    let intake = Intake::of(host).await;
    deploy(host, &intake, "hello").await;
    for _ in 0..4 {
        intake.enqueue("hello", "reindex", None, r#"{"address":"jane@example.com"}"#).await;
    }
    let all = numbers(host, "").await;
    intake.bury(&all[..3]).await;

    let (reader, operator) = (host.user("reader@example.com").await, host.user("operator@example.com").await);
    host.superuser().post("/roles/", &json!({ "name": "readers", "permissions": ["tasks:read"] })).await.ok();
    for (client, role) in [(&reader, "readers"), (&operator, "operator")] {
        let id = client.get("/users/me").await.ok()["id"].clone();
        let path = format!("/users/{}/roles", id.as_str().unwrap());
        host.superuser().put(&path, &json!({ "roles": [role] })).await.ok();
        client.get("/tasks/").await.ok();
    }
    reader.delete(&format!("/tasks/{}", all[0])).await.has_code(403, "forbidden");
    reader.post("/tasks/bulk/drop", &json!({ "all": true })).await.has_code(403, "forbidden");
    reader.post("/tasks/bulk/retry", &json!({ "all": true })).await.has_code(403, "forbidden");

    operator.delete(&format!("/tasks/{}", all[0])).await.ok();
    operator.post("/tasks/bulk/drop", &json!({ "plugin": "hello", "name": "reindex" })).await.ok();
    post(&operator, &format!("/tasks/{}/cancel", all[3])).await;
    operator.post("/tasks/bulk/drop", &json!({ "plugin": "hello" })).await.ok();

    let response = host.superuser().get("/audit/?action=task.*&order=oldest").await;
    assert!(!response.text().contains("jane@example.com"), "{}", response.text());
    let entries = response.ok()["data"].as_array().unwrap().clone();
    let described = |task: i64, state: &str| {
        let detail = json!({ "plugin": "hello", "kind": "job", "name": "reindex", "state": state });
        (format!("task:{task}"), detail)
    };
    let many = json!({ "plugin": "hello", "kind": null, "name": "reindex", "state": "dead", "tasks": 2 });
    let (dropped, cancelled) = (described(all[0], "dead"), described(all[3], "ready"));
    let expected = [
        ("task.drop", dropped.0.as_str(), &dropped.1),
        ("task.drop", "tasks", &many),
        ("task.cancel", cancelled.0.as_str(), &cancelled.1),
    ];
    let found: Vec<_> =
        entries.iter().map(|entry| (text(entry, "action"), text(entry, "object"), &entry["detail"])).collect();
    assert_eq!(found, expected);
    assert!(entries.iter().all(|entry| entry["actor_email"] == "operator@example.com"), "{entries:?}");
    intake.close().await;
}
