//! `POST /login/access-token` and `/login/test-token`.

use reqwest::Method;
use serde_json::json;

use crate::support::host::{PASSWORD, SUPERUSER};
use crate::support::{TestHost, both};

both!(
    signing_in_gives_tokens_and_tells_no_cache_to_keep_them,
    a_failed_sign_in_does_not_tell_why,
    an_inactive_account_is_told_only_to_whoever_knows_its_password,
    the_address_is_found_in_any_case,
    forms_come_urlencoded_or_as_multipart,
    what_is_missing_or_wrong_in_the_form_is_named,
    a_token_tells_whose_it_is,
    a_request_body_is_no_form,
);

async fn signing_in_gives_tokens_and_tells_no_cache_to_keep_them(host: &TestHost) {
    let answer = host.anonymous().sign_in(SUPERUSER, PASSWORD).await;
    let tokens = answer.ok();
    let members: Vec<&String> = tokens.as_object().unwrap().keys().collect();
    assert_eq!(members, ["access_token", "token_type", "expires_in", "refresh_token"]);
    assert_eq!(tokens["token_type"], "bearer");
    assert_eq!(tokens["expires_in"], host.config().auth.access_token_ttl.as_secs());
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let me = host.anonymous().with_token(tokens["access_token"].as_str().unwrap()).get("/users/me").await;
    assert_eq!(me.ok()["email"], SUPERUSER);
}

async fn a_failed_sign_in_does_not_tell_why(host: &TestHost) {
    for (email, password) in [(SUPERUSER, "wrong horse"), ("nobody@example.com", PASSWORD), ("not an address", "x")] {
        let answer = host.anonymous().sign_in(email, password).await;
        answer.is_problem(400, "incorrect_credentials", "Incorrect email or password");
    }
}

async fn an_inactive_account_is_told_only_to_whoever_knows_its_password(host: &TestHost) {
    let account = json!({ "email": "sleeper@example.com", "password": PASSWORD, "is_active": false });
    host.superuser().post("/users/", &account).await.ok();
    let right = host.anonymous().sign_in("sleeper@example.com", PASSWORD).await;
    right.is_problem(400, "inactive_user", "Inactive user");
    let wrong = host.anonymous().sign_in("sleeper@example.com", "wrong horse").await;
    wrong.is_problem(400, "incorrect_credentials", "Incorrect email or password");
}

async fn the_address_is_found_in_any_case(host: &TestHost) {
    host.anonymous().sign_in("ADMIN@Example.COM", PASSWORD).await.ok();
}

async fn forms_come_urlencoded_or_as_multipart(host: &TestHost) {
    let form = reqwest::multipart::Form::new().text("username", SUPERUSER).text("password", PASSWORD);
    host.anonymous().request(Method::POST, "/login/access-token").multipart(form).send().await.ok();

    // Empty values count as absent, so an empty grant type is as good as none.
    let fields = [
        ("grant_type", ""),
        ("username", SUPERUSER),
        ("password", PASSWORD),
        ("scope", ""),
        ("client_id", "x"),
        ("client_secret", "y"),
    ];
    host.anonymous().request(Method::POST, "/login/access-token").form(&fields).send().await.ok();
    let fields = [("grant_type", "password"), ("username", SUPERUSER), ("password", PASSWORD)];
    host.anonymous().request(Method::POST, "/login/access-token/").form(&fields).send().await.ok();
}

async fn what_is_missing_or_wrong_in_the_form_is_named(host: &TestHost) {
    let send = async |fields: &[(&str, &str)]| {
        host.anonymous().request(Method::POST, "/login/access-token").form(fields).send().await
    };
    send(&[]).await.refuses(&["body.username missing: Field required", "body.password missing: Field required"]);
    send(&[("username", "x"), ("password", "")]).await.refuses(&["body.password missing: Field required"]);
    send(&[("username", "x"), ("password", "y"), ("grant_type", "magic")])
        .await
        .refuses(&["body.grant_type string_pattern_mismatch: String should match pattern '^password$'"]);
}

async fn a_request_body_is_no_form(host: &TestHost) {
    let body = json!({ "username": SUPERUSER, "password": PASSWORD });
    let answer = host.anonymous().post("/login/access-token", &body).await;
    answer.refuses(&["body.username missing: Field required", "body.password missing: Field required"]);
    let broken = host.anonymous().request(Method::POST, "/login/access-token");
    let broken = broken.header("content-type", "multipart/form-data; boundary=x").body("--y\r\n\r\n").send().await;
    assert!((400..500).contains(&broken.status), "{}", broken.text());
    broken.problem();
}

async fn a_token_tells_whose_it_is(host: &TestHost) {
    let user = host.user("someone@example.com").await;
    for path in ["/login/test-token", "/login/test-token/"] {
        let answer = user.request(Method::POST, path).send().await;
        assert_eq!(answer.ok()["email"], "someone@example.com");
        assert_eq!(answer.ok(), user.get("/users/me").await.ok());
    }
    let nobody = host.anonymous().request(Method::POST, "/login/test-token").send().await;
    nobody.is_problem(401, "not_authenticated", "Not authenticated");
}
