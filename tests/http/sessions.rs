//! The caller's own sessions.

use std::time::Duration;

use reqwest::Method;
use serde_json::Value;

use super::{column, invalid_token, is_stamped, members, not_authenticated, text};
use crate::support::host::PASSWORD;
use crate::support::{TestHost, both};

both! {
    sessions_are_listed_newest_first => Setup::default().with_manual_clock(),
    a_session_is_ended_by_its_owner_only,
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
        let expected = ["id", "created_at", "last_used_at", "expires_at", "user_agent", "is_current"];
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
    // Not even a superuser can end another user's session.
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
