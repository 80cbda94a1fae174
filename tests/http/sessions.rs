//! Sessions: those of the caller, those of other accounts for operators, and their lifetimes.

use std::time::Duration;

use reqwest::Method;
use serde_json::Value;

use super::{PRIVILEGES, column, invalid_token, is_stamped, members, not_authenticated, text};
use crate::support::host::PASSWORD;
use crate::support::{TestHost, TestResponse, both};

both! {
    sessions_are_listed_newest_first => Setup::default().with_manual_clock(),
    a_session_is_ended_by_its_owner_only,
    all_other_sessions_of_the_caller_end_at_once,
    an_operator_lists_and_ends_the_sessions_of_an_account,
    a_session_ends_at_its_absolute_lifetime_however_often_it_is_refreshed => Setup::default()
        .with_manual_clock()
        .with(|config| {
            config.auth.session_ttl = Duration::from_secs(10 * 3600);
            config.auth.refresh_token_ttl = Duration::from_secs(4 * 3600);
            config.auth.access_token_ttl = Duration::from_secs(3600);
        }),
    a_shorter_absolute_lifetime_holds_for_sessions_that_began_before => Setup::default().with_manual_clock(),
    a_hundredth_and_first_session_ends_the_one_that_was_used_longest_ago => Setup::default().with_manual_clock(),
}

async fn sessions_are_listed_newest_first(host: &TestHost) {
    host.sign_up("jane@example.com").await.ok();
    let form = [("username", "jane@example.com"), ("password", PASSWORD)];
    let sign_in = host.anonymous().request(Method::POST, "/login/access-token").header("user-agent", "Mozilla/5.0 (Ä)");
    let first = sign_in.form(&form).send().await.ok();
    host.clock().advance(Duration::from_secs(60));
    let second = host.anonymous().signed_in("jane@example.com", PASSWORD).await;

    let list = second.get("/users/me/sessions").await.ok();
    assert_eq!(members(&list), ["data", "count"]);
    assert_eq!(list["count"], 2);
    let rows = list["data"].as_array().unwrap();
    for row in rows {
        let expected = ["id", "created_at", "last_used_at", "expires_at", "user_agent", "strength", "is_current"];
        assert_eq!(members(row), expected);
        is_stamped(row);
    }
    assert_eq!(column(&list, "created_at"), ["2027-01-15T08:01:00.123456Z", "2027-01-15T08:00:00.123456Z"]);
    assert_eq!((&rows[0]["is_current"], &rows[1]["is_current"]), (&Value::Bool(true), &Value::Bool(false)));
    assert_eq!(text(&rows[1], "expires_at"), "2027-02-14T08:00:00.123456Z");
    assert_eq!(second.get("/users/me/sessions/").await.ok(), list);

    // The other session is marked as its own current one, and was refreshed.
    host.clock().advance(Duration::from_secs(60));
    let refresh = serde_json::json!({ "refresh_token": first["refresh_token"] });
    let first = host.anonymous().post("/login/refresh-token", &refresh).await.ok();
    let list = host.anonymous().with_token(text(&first, "access_token")).get("/users/me/sessions").await.ok();
    let row = &list["data"][1];
    assert_eq!((text(row, "last_used_at"), &row["is_current"]), ("2027-01-15T08:02:00.123456Z", &Value::Bool(true)));
    assert_eq!(text(row, "expires_at"), "2027-02-14T08:02:00.123456Z");
    // The list has no sessions of other accounts.
    assert_eq!(host.superuser().get("/users/me/sessions").await.ok()["count"], 1);
    not_authenticated(&host.anonymous().get("/users/me/sessions").await);
}

async fn a_session_is_ended_by_its_owner_only(host: &TestHost) {
    let first = host.user("jane@example.com").await;
    let second = host.anonymous().signed_in("jane@example.com", PASSWORD).await;
    let list = second.get("/users/me/sessions").await.ok();
    let other = list["data"].as_array().unwrap().iter().find(|row| row["is_current"] == false).unwrap();
    let path = format!("/users/me/sessions/{}", text(other, "id"));
    // It is not among the sessions of a superuser. Operators have a route of their own.
    host.superuser().delete(&path).await.is_problem(404, "session_not_found", "Session not found");
    first.get("/users/me").await.ok();
    second.delete(&path).await.has_message("Session deleted successfully");
    invalid_token(&first.get("/users/me").await);
    second.get("/users/me").await.ok();
    second.delete(&path).await.is_problem(404, "session_not_found", "Session not found");
    second.delete("/users/me/sessions/x").await.has_findings(&["path.session_id uuid_parsing: …"]);
    not_authenticated(&host.anonymous().delete(&path).await);
    // Ending the current session is the same as signing out.
    let own = second.get("/users/me/sessions").await.ok();
    second
        .delete(&format!("/users/me/sessions/{}", text(&own["data"][0], "id")))
        .await
        .has_message("Session deleted successfully");
    invalid_token(&second.get("/users/me").await);
}

async fn all_other_sessions_of_the_caller_end_at_once(host: &TestHost) {
    let first = host.user("jane@example.com").await;
    let second = host.anonymous().signed_in("jane@example.com", PASSWORD).await;
    let tokens = host.anonymous().sign_in("jane@example.com", PASSWORD).await.ok();
    first.get("/users/me").await.ok();
    second.delete("/users/me/sessions").await.has_message("Sessions deleted successfully");
    invalid_token(&first.get("/users/me").await);
    let refresh = serde_json::json!({ "refresh_token": tokens["refresh_token"] });
    invalid_token(&host.anonymous().post("/login/refresh-token", &refresh).await);
    let list = second.get("/users/me/sessions").await.ok();
    assert_eq!((&list["count"], &list["data"][0]["is_current"]), (&Value::from(1), &Value::Bool(true)));
    host.superuser().get("/users/me").await.ok();
    not_authenticated(&host.anonymous().delete("/users/me/sessions").await);
    // The list has pages.
    for _ in 0..3 {
        host.anonymous().sign_in("jane@example.com", PASSWORD).await.ok();
    }
    let page = second.get("/users/me/sessions?skip=1&limit=2").await.ok();
    assert_eq!((page["data"].as_array().unwrap().len(), &page["count"]), (2, &Value::from(4)));
    second.get("/users/me/sessions?limit=1001").await.has_findings(&["query.limit less_than_equal: …"]);
}

async fn an_operator_lists_and_ends_the_sessions_of_an_account(host: &TestHost) {
    let jane = host.user("jane@example.com").await;
    let other = host.anonymous().signed_in("jane@example.com", PASSWORD).await;
    let path = format!("/users/{}/sessions", text(&jane.get("/users/me").await.ok(), "id"));
    let list = host.superuser().get(&path).await.ok();
    assert_eq!(list["count"], 2);
    assert!(list["data"].as_array().unwrap().iter().all(|row| row["is_current"] == false), "{list}");
    // An account without the permission cannot use the route, not even for its own sessions.
    let refused = |response: TestResponse| response.is_problem(403, "forbidden", PRIVILEGES);
    refused(jane.get(&path).await);
    refused(jane.delete(&path).await);
    refused(jane.delete(&format!("{path}/{}", text(&list["data"][0], "id"))).await);

    let own = jane.get("/users/me/sessions").await.ok();
    let current = own["data"].as_array().unwrap().iter().find(|row| row["is_current"] == true).unwrap();
    let one = format!("{path}/{}", text(current, "id"));
    host.superuser().delete(&one).await.has_message("Session deleted successfully");
    host.superuser().delete(&one).await.is_problem(404, "session_not_found", "Session not found");
    invalid_token(&jane.get("/users/me").await);
    other.get("/users/me").await.ok();
    host.superuser().delete(&path).await.has_message("Sessions deleted successfully");
    invalid_token(&other.get("/users/me").await);
    // A session belongs to one account.
    let joe = host.user("joe@example.com").await;
    let session = joe.get("/users/me/sessions").await.ok();
    let foreign = format!("{path}/{}", text(&session["data"][0], "id"));
    host.superuser().delete(&foreign).await.is_problem(404, "session_not_found", "Session not found");
    joe.get("/users/me").await.ok();
    let unknown = format!("/users/{}/sessions", uuid::Uuid::new_v4());
    host.superuser().get(&unknown).await.is_problem(404, "user_not_found", "User not found");
    host.superuser().delete(&unknown).await.is_problem(404, "user_not_found", "User not found");
    host.superuser().get("/users/x/sessions").await.has_findings(&["path.user_id uuid_parsing: …"]);
}

async fn a_session_ends_at_its_absolute_lifetime_however_often_it_is_refreshed(host: &TestHost) {
    let hour = Duration::from_secs(3600);
    let refresh = async |tokens: &Value| {
        let body = serde_json::json!({ "refresh_token": tokens["refresh_token"] });
        host.anonymous().post("/login/refresh-token", &body).await
    };
    host.sign_up("jane@example.com").await.ok();
    let mut tokens = host.anonymous().sign_in("jane@example.com", PASSWORD).await.ok();
    assert_eq!(tokens["expires_in"], 3600);
    for _ in 0..3 {
        host.clock().advance(hour * 3);
        tokens = refresh(&tokens).await.ok();
    }
    host.clock().advance(hour / 2);
    tokens = refresh(&tokens).await.ok();
    assert_eq!(tokens["expires_in"], 1800, "no token outlives the session");
    let jane = host.anonymous().with_token(text(&tokens, "access_token"));
    let list = jane.get("/users/me/sessions").await.ok();
    assert_eq!(text(&list["data"][0], "expires_at"), "2027-01-15T18:00:00.123456Z");
    host.clock().advance(hour / 2);
    invalid_token(&jane.get("/users/me").await);
    invalid_token(&refresh(&tokens).await);
    // A session that is not refreshed ends earlier.
    let idle = host.anonymous().sign_in("jane@example.com", PASSWORD).await.ok();
    host.clock().advance(hour * 4);
    invalid_token(&refresh(&idle).await);
}

async fn a_shorter_absolute_lifetime_holds_for_sessions_that_began_before(host: &mut TestHost) {
    host.sign_up("jane@example.com").await.ok();
    let tokens = host.anonymous().sign_in("jane@example.com", PASSWORD).await.ok();
    host.restart_with(|config| config.auth.session_ttl = Duration::from_secs(3600)).await;
    let jane = host.anonymous().with_token(text(&tokens, "access_token"));
    jane.get("/users/me").await.ok();
    host.clock().advance(Duration::from_secs(3600));
    invalid_token(&jane.get("/users/me").await);
}

async fn a_hundredth_and_first_session_ends_the_one_that_was_used_longest_ago(host: &TestHost) {
    let email = "jane@example.com";
    host.sign_up(email).await.ok();
    let sign_in = async || {
        host.clock().advance(Duration::from_secs(1));
        host.anonymous().sign_in(email, PASSWORD).await.ok()
    };
    let client = |tokens: &Value| host.anonymous().with_token(text(tokens, "access_token"));
    let (first, second) = (sign_in().await, sign_in().await);
    for _ in 2..100 {
        sign_in().await;
    }
    // A refresh is a use.
    host.clock().advance(Duration::from_secs(1));
    let refresh = serde_json::json!({ "refresh_token": first["refresh_token"] });
    host.anonymous().post("/login/refresh-token", &refresh).await.ok();
    client(&first).get("/users/me").await.ok();
    client(&second).get("/users/me").await.ok();
    let last = sign_in().await;
    invalid_token(&client(&second).get("/users/me").await);
    client(&first).get("/users/me").await.ok();
    assert_eq!(client(&last).get("/users/me/sessions").await.ok()["count"], 100);
    // The other accounts keep theirs.
    host.superuser().get("/users/me").await.ok();
}
