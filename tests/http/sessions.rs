//! Sessions: refreshed, listed, ended, and ended by what happens to their account.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::host::PASSWORD;
use crate::support::{Answer, Client, TestHost, both};

both!(
    a_refresh_gives_new_tokens_of_the_same_session,
    a_refresh_token_used_twice_ends_its_session => Setup::default().with_manual_clock(),
    tabs_that_refresh_at_once_stay_signed_in,
    a_session_ends_when_it_is_not_refreshed => Setup::default().with_manual_clock(),
    signing_out_ends_the_session,
    sessions_are_listed_and_ended_by_their_owner => Setup::default().with_manual_clock(),
    changing_the_password_ends_every_other_session,
    a_password_set_by_somebody_else_ends_every_session,
);

const EMAIL: &str = "someone@example.com";

async fn tokens(host: &TestHost) -> (Client, String) {
    let tokens = host.anonymous().sign_in(EMAIL, PASSWORD).await.ok();
    pair(host, &tokens)
}

fn pair(host: &TestHost, tokens: &Value) -> (Client, String) {
    let client = host.anonymous().with_token(tokens["access_token"].as_str().unwrap());
    (client, tokens["refresh_token"].as_str().unwrap().to_owned())
}

async fn refresh(host: &TestHost, token: &str) -> Answer {
    host.anonymous().post("/login/refresh-token", &json!({ "refresh_token": token })).await
}

#[track_caller]
fn ended(answer: &Answer) {
    answer.is_problem(401, "invalid_token", "Could not validate credentials");
}

async fn a_refresh_gives_new_tokens_of_the_same_session(host: &TestHost) {
    host.sign_up(EMAIL).await.ok();
    let (_, first) = tokens(host).await;
    let answer = refresh(host, &first).await;
    let renewed = answer.ok();
    let members: Vec<&String> = renewed.as_object().unwrap().keys().collect();
    assert_eq!(members, ["access_token", "token_type", "expires_in", "refresh_token"]);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let (client, second) = pair(host, &renewed);
    assert_ne!(first, second);
    assert_eq!(client.get("/users/me").await.ok()["email"], EMAIL);
    assert_eq!(client.get("/users/me/sessions").await.ok()["count"], 1);
    for token in ["", "x", client.token()] {
        ended(&refresh(host, token).await);
    }
    let empty = host.anonymous().post("/login/refresh-token", &json!({})).await;
    empty.refuses(&["body.refresh_token missing: Field required"]);
}

async fn a_refresh_token_used_twice_ends_its_session(host: &TestHost) {
    host.sign_up(EMAIL).await.ok();
    let (_, first) = tokens(host).await;
    let (client, second) = pair(host, &refresh(host, &first).await.ok());
    host.clock().advance(Duration::from_secs(60));
    client.get("/users/me").await.ok();
    // Whoever comes second with it is a thief, or the first one was: both lose the session.
    ended(&refresh(host, &first).await);
    ended(&refresh(host, &second).await);
    ended(&client.get("/users/me").await);
}

async fn tabs_that_refresh_at_once_stay_signed_in(host: &TestHost) {
    host.sign_up(EMAIL).await.ok();
    let (_, token) = tokens(host).await;
    let (one, two) = tokio::join!(refresh(host, &token), refresh(host, &token));
    for answer in [one, two] {
        let (client, next) = pair(host, &answer.ok());
        client.get("/users/me").await.ok();
        refresh(host, &next).await.ok();
    }
}

async fn a_session_ends_when_it_is_not_refreshed(host: &TestHost) {
    host.sign_up(EMAIL).await.ok();
    let (_, token) = tokens(host).await;
    let ttl = host.config().auth.refresh_token_ttl;
    host.clock().advance(ttl - Duration::from_secs(1));
    let (_, token) = pair(host, &refresh(host, &token).await.ok());
    host.clock().advance(ttl + Duration::from_secs(1));
    ended(&refresh(host, &token).await);
}

async fn signing_out_ends_the_session(host: &TestHost) {
    host.sign_up(EMAIL).await.ok();
    let ((one, refresh_token), (other, _)) = (tokens(host).await, tokens(host).await);
    one.request(Method::POST, "/login/logout").send().await.says("Logged out successfully");
    ended(&one.get("/users/me").await);
    ended(&refresh(host, &refresh_token).await);
    other.get("/users/me").await.ok();
}

async fn sessions_are_listed_and_ended_by_their_owner(host: &TestHost) {
    host.sign_up(EMAIL).await.ok();
    let form = [("username", EMAIL), ("password", PASSWORD)];
    let request = host.anonymous().request(Method::POST, "/login/access-token").form(&form);
    let (one, _) = pair(host, &request.header("user-agent", "Phone/1").send().await.ok());
    host.clock().advance(Duration::from_secs(1));
    let (two, _) = tokens(host).await;

    let list = two.get("/users/me/sessions").await.ok();
    assert_eq!(list["count"], 2);
    let (newest, oldest) = (&list["data"][0], &list["data"][1]);
    let members: Vec<&String> = newest.as_object().unwrap().keys().collect();
    assert_eq!(members, ["id", "created_at", "last_used_at", "expires_at", "user_agent", "is_current"]);
    assert_eq!((&newest["is_current"], &oldest["is_current"]), (&json!(true), &json!(false)));
    assert_eq!(oldest["user_agent"], "Phone/1");

    let path = format!("/users/me/sessions/{}", oldest["id"].as_str().unwrap());
    // Somebody else's session does not exist, not even for a superuser.
    host.superuser().delete(&path).await.has_code(404, "session_not_found");
    one.get("/users/me").await.ok();
    two.delete(&path).await.says("Session deleted successfully");
    ended(&one.get("/users/me").await);
    two.delete(&path).await.has_code(404, "session_not_found");
    two.delete("/users/me/sessions/x").await.refuses(&["path.session_id uuid_parsing…"]);
    assert_eq!(two.get("/users/me/sessions").await.ok()["count"], 1);
}

async fn changing_the_password_ends_every_other_session(host: &TestHost) {
    host.sign_up(EMAIL).await.ok();
    let ((one, _), (other, other_refresh)) = (tokens(host).await, tokens(host).await);
    let body = json!({ "current_password": PASSWORD, "new_password": "another horse" });
    one.patch("/users/me/password", &body).await.ok();
    one.get("/users/me").await.ok();
    ended(&other.get("/users/me").await);
    ended(&refresh(host, &other_refresh).await);
}

async fn a_password_set_by_somebody_else_ends_every_session(host: &TestHost) {
    let account = host.sign_up(EMAIL).await.ok();
    let (client, refresh_token) = tokens(host).await;
    let path = format!("/users/{}", account["id"].as_str().unwrap());
    host.superuser().patch(&path, &json!({ "full_name": "Someone" })).await.ok();
    client.get("/users/me").await.ok();
    host.superuser().patch(&path, &json!({ "password": "another horse" })).await.ok();
    ended(&client.get("/users/me").await);
    ended(&refresh(host, &refresh_token).await);
}
