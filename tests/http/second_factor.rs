//! Second factors: enrolment, sign-ins that need one, recovery codes, and removal.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::{invalid_token, members, not_authenticated, text};
use crate::support::authenticator::Authenticator;
use crate::support::host::{PASSWORD, SUPERUSER};
use crate::support::{Client, TestHost, TestResponse, both};

const JANE: &str = "jane@example.com";

both! {
    an_authenticator_app_is_enrolled_asked_for_and_removed => Setup::default().with_manual_clock(),
    a_challenge_ends_with_its_attempts_its_time_and_the_password => Setup::default().with_manual_clock(),
    wrong_codes_slow_an_account_down_but_not_its_recovery_codes => Setup::default().with_manual_clock(),
    concurrent_requests_use_a_proof_once => Setup::default().with_manual_clock(),
    a_role_can_require_a_second_factor => Setup::default().with_manual_clock(),
    an_operator_removes_the_factors_of_an_account_that_has_no_more_permissions => Setup::default().with_manual_clock(),
}

/// Waits for the next step of the apps.
fn next_step(host: &TestHost) {
    host.clock().advance(Duration::from_secs(30));
}

/// Signs in with the password and returns the challenge.
#[track_caller]
fn challenge(response: &TestResponse) -> String {
    let problem = response.problem();
    assert_eq!((response.status, text(&problem, "code")), (403, "second_factor_required"), "{problem}");
    assert_eq!(response.header("cache-control"), Some("no-store"));
    text(&problem, "challenge").to_owned()
}

async fn begin(host: &TestHost, email: &str) -> String {
    challenge(&host.anonymous().sign_in(email, PASSWORD).await)
}

async fn complete(host: &TestHost, challenge: &str, proof: (&str, &str)) -> TestResponse {
    let body = json!({ "challenge": challenge, proof.0: proof.1 });
    host.anonymous().post("/login/second-factor", &body).await
}

/// Signs in with both factors.
async fn signed_in(host: &TestHost, email: &str, app: &Authenticator) -> Client {
    let challenge = begin(host, email).await;
    let tokens = complete(host, &challenge, ("code", &app.code(host))).await.ok();
    host.anonymous().with_token(text(&tokens, "access_token"))
}

#[track_caller]
fn is_incorrect(response: &TestResponse) {
    response.is_problem(400, "incorrect_code", "Incorrect code");
}

#[track_caller]
fn is_over(response: &TestResponse) {
    response.is_problem(400, "invalid_challenge", "The sign-in is over or expired; begin again");
}

async fn an_authenticator_app_is_enrolled_asked_for_and_removed(host: &TestHost) {
    let client = host.user(JANE).await;
    let factors = client.get("/users/me/factors").await.ok();
    assert_eq!(factors, json!({ "totp_since": null, "passkeys": [], "recovery_codes": 0, "methods": [] }));
    let verify = async |code: &str| client.post("/users/me/factors/totp/verify", &json!({ "code": code })).await;
    verify("123456").await.has_code(404, "factor_not_found");
    let renew = async || client.post("/users/me/factors/recovery-codes", &json!({})).await;
    renew().await.has_code(404, "factor_not_found");

    // The first key is replaced, because it was never confirmed.
    let first = client.post("/users/me/factors/totp", &json!({})).await;
    assert_eq!(first.header("cache-control"), Some("no-store"));
    let first = Authenticator::new(text(&first.ok(), "secret"));
    let begun = client.post("/users/me/factors/totp", &json!({})).await.ok();
    assert_eq!(members(&begun), ["secret", "uri"]);
    let uri = text(&begun, "uri");
    let key = text(&begun, "secret");
    assert!(uri.starts_with("otpauth://totp/Test%20%26%20Co:jane%40example%2Ecom?secret="), "{uri}");
    assert!(uri.contains(&format!("?secret={key}&issuer=Test%20%26%20Co&")), "{uri}");
    let app = Authenticator::new(key);
    is_incorrect(&verify(&app.wrong_code(host)).await);
    is_incorrect(&verify(&first.code(host)).await);
    // Without its first code, the app is no factor.
    host.anonymous().sign_in(JANE, PASSWORD).await.ok();
    let confirmed = verify(&app.code(host)).await;
    assert_eq!(confirmed.header("cache-control"), Some("no-store"));
    let confirmed = confirmed.ok();
    let codes: Vec<&str> = confirmed["recovery_codes"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert_eq!(codes.len(), 10);
    let factors = client.get("/users/me/factors").await.ok();
    let since = "2027-01-15T08:00:00.123456Z";
    let expected =
        json!({ "totp_since": since, "passkeys": [], "recovery_codes": 10, "methods": ["totp", "recovery_code"] });
    assert_eq!(factors, expected);
    client.post("/users/me/factors/totp", &json!({})).await.has_code(409, "factor_exists");
    next_step(host);
    verify(&app.code(host)).await.has_code(404, "factor_not_found");

    // The password alone begins no session. The code of each step works once, also across sign-ins.
    host.anonymous().sign_in(JANE, "wrong password").await.has_code(400, "incorrect_credentials");
    let refused = host.anonymous().sign_in(JANE, PASSWORD).await;
    assert_eq!(refused.problem()["methods"], json!(["totp", "recovery_code"]));
    let first = challenge(&refused);
    next_step(host);
    is_incorrect(&complete(host, &first, ("code", &app.wrong_code(host))).await);
    let code = app.code(host);
    let tokens = complete(host, &first, ("code", &code)).await;
    assert_eq!(tokens.header("cache-control"), Some("no-store"));
    assert_eq!(members(&tokens.ok()), ["access_token", "token_type", "expires_in", "refresh_token"]);
    is_over(&complete(host, &first, ("code", &code)).await);
    let second = begin(host, JANE).await;
    is_incorrect(&complete(host, &second, ("code", &code)).await);

    // A recovery code works once, however it is typed.
    let recovery = ("recovery_code", format!(" {} ", codes[0].to_uppercase()));
    let other = complete(host, &second, (recovery.0, &recovery.1)).await.ok();
    let third = begin(host, JANE).await;
    is_incorrect(&complete(host, &third, (recovery.0, &recovery.1)).await);
    is_incorrect(&complete(host, &third, ("recovery_code", "")).await);
    assert_eq!(client.get("/users/me/factors").await.ok()["recovery_codes"], 9);
    let none = host.anonymous().post("/login/second-factor", &json!({ "challenge": third })).await;
    none.has_findings(&["body value_error: Send exactly one of code, recovery_code, passkey"]);
    let both = json!({ "challenge": third, "code": "1", "recovery_code": "2" });
    host.anonymous().post("/login/second-factor", &both).await.has_code(422, "validation_error");

    // New recovery codes replace the old ones.
    let renewed = renew().await.ok();
    assert_eq!(renewed["recovery_codes"].as_array().unwrap().len(), 10);
    is_incorrect(&complete(host, &third, ("recovery_code", codes[1])).await);

    client.delete("/users/me/factors/totp").await.has_message("Authenticator app removed successfully");
    client.delete("/users/me/factors/totp").await.has_code(404, "factor_not_found");
    let factors = client.get("/users/me/factors").await.ok();
    assert_eq!(factors, json!({ "totp_since": null, "passkeys": [], "recovery_codes": 0, "methods": [] }));
    host.anonymous().sign_in(JANE, PASSWORD).await.ok();
    // The other sessions go on.
    host.anonymous().with_token(text(&other, "access_token")).get("/users/me").await.ok();

    for path in ["/users/me/factors/totp", "/users/me/factors/totp/verify", "/users/me/factors/recovery-codes"] {
        not_authenticated(&host.anonymous().post(path, &json!({ "code": "1" })).await);
    }
    not_authenticated(&host.anonymous().get("/users/me/factors").await);
}

async fn a_challenge_ends_with_its_attempts_its_time_and_the_password(host: &TestHost) {
    let client = host.user(JANE).await;
    let id = text(&client.get("/users/me").await.ok(), "id").to_owned();
    let (app, codes) = Authenticator::enrol(host, &client).await;
    for bad in ["", "x", "AAAA", &"A".repeat(43), &"A".repeat(64)] {
        is_over(&complete(host, bad, ("code", "123456")).await);
    }
    complete(host, &"A".repeat(65), ("code", "1")).await.has_code(422, "validation_error");
    // Five attempts, of whatever kind.
    let tried = begin(host, JANE).await;
    for _ in 0..5 {
        is_incorrect(&complete(host, &tried, ("recovery_code", "x")).await);
    }
    is_over(&complete(host, &tried, ("recovery_code", &codes[0])).await);
    // Ten minutes.
    let late = begin(host, JANE).await;
    host.clock().advance(Duration::from_secs(601));
    is_over(&complete(host, &late, ("code", &app.code(host))).await);
    // The password with which it began, also if the new one is the same text.
    let old = begin(host, JANE).await;
    let recover = host.anonymous().request(Method::POST, &format!("/password-recovery/{JANE}")).send().await;
    assert_eq!(recover.status, 200);
    let token = host.mails().take(JANE).await.reset_token();
    let reset = json!({ "token": token, "new_password": PASSWORD });
    host.anonymous().post("/reset-password/", &reset).await.ok();
    is_over(&complete(host, &old, ("code", &app.code(host))).await);
    // A reset does not remove the second factor.
    let new = begin(host, JANE).await;
    // The account.
    host.superuser().patch(&format!("/users/{id}"), &json!({ "is_active": false })).await.ok();
    complete(host, &new, ("code", &app.code(host))).await.is_problem(400, "inactive_user", "Inactive user");
    host.superuser().patch(&format!("/users/{id}"), &json!({ "is_active": true })).await.ok();
    complete(host, &new, ("code", &app.code(host))).await.ok();
    // A challenge is no token of another kind.
    let open = begin(host, JANE).await;
    invalid_token(&host.anonymous().with_token(&open).get("/users/me").await);
    invalid_token(&host.anonymous().post("/login/refresh-token", &json!({ "refresh_token": open })).await);
    let reset = json!({ "token": open, "new_password": "another password" });
    host.anonymous().post("/reset-password/", &reset).await.has_code(400, "invalid_reset_token");
    host.superuser().delete(&format!("/users/{id}")).await.ok();
    is_over(&complete(host, &open, ("code", &app.code(host))).await);
}

async fn wrong_codes_slow_an_account_down_but_not_its_recovery_codes(host: &TestHost) {
    let client = host.user(JANE).await;
    let (app, codes) = Authenticator::enrol(host, &client).await;
    next_step(host);
    // Across challenges, so that new ones give no further attempts.
    let (first, second) = (begin(host, JANE).await, begin(host, JANE).await);
    for challenge in [&first, &first, &first, &second, &second] {
        is_incorrect(&complete(host, challenge, ("code", &app.wrong_code(host))).await);
    }
    let third = begin(host, JANE).await;
    // Tries during the wait use up no attempt of the challenge.
    for _ in 0..6 {
        let throttled = complete(host, &third, ("code", &app.code(host))).await;
        throttled.has_code(429, "throttled");
        assert_eq!(throttled.header("retry-after"), Some("30"));
    }
    complete(host, &third, ("recovery_code", &codes[0])).await.ok();
    // The wait ends, doubles with the next wrong code, and is forgotten after a right one.
    let fourth = begin(host, JANE).await;
    host.clock().advance(Duration::from_secs(30));
    is_incorrect(&complete(host, &fourth, ("code", &app.wrong_code(host))).await);
    let throttled = complete(host, &fourth, ("code", &app.code(host))).await;
    assert_eq!((throttled.status, throttled.header("retry-after")), (429, Some("60")));
    host.clock().advance(Duration::from_secs(60));
    complete(host, &fourth, ("code", &app.code(host))).await.ok();
    let fifth = begin(host, JANE).await;
    is_incorrect(&complete(host, &fifth, ("code", &app.wrong_code(host))).await);
    next_step(host);
    complete(host, &fifth, ("code", &app.code(host))).await.ok();
}

async fn concurrent_requests_use_a_proof_once(host: &TestHost) {
    let client = host.user(JANE).await;
    let (app, codes) = Authenticator::enrol(host, &client).await;
    next_step(host);
    let (one, two, three) = (begin(host, JANE).await, begin(host, JANE).await, begin(host, JANE).await);
    let succeeded = |responses: [TestResponse; 3]| responses.iter().filter(|response| response.status == 200).count();
    // One code for three challenges.
    let code = app.code(host);
    let proof = ("code", code.as_str());
    let (a, b, c) =
        tokio::join!(complete(host, &one, proof), complete(host, &two, proof), complete(host, &three, proof));
    assert_eq!(succeeded([a, b, c]), 1);
    // One recovery code for three challenges.
    let (one, two, three) = (begin(host, JANE).await, begin(host, JANE).await, begin(host, JANE).await);
    let proof = ("recovery_code", codes[0].as_str());
    let (a, b, c) =
        tokio::join!(complete(host, &one, proof), complete(host, &two, proof), complete(host, &three, proof));
    assert_eq!(succeeded([a, b, c]), 1);
    // Three recovery codes for one challenge.
    let one = begin(host, JANE).await;
    let proof = |index: usize| ("recovery_code", codes[index].as_str());
    let (a, b, c) =
        tokio::join!(complete(host, &one, proof(1)), complete(host, &one, proof(2)), complete(host, &one, proof(3)));
    assert_eq!(succeeded([a, b, c]), 1);
}

async fn a_role_can_require_a_second_factor(host: &TestHost) {
    let sql = |table: &str| format!("UPDATE {table} SET requires_second_factor = {{}} WHERE name = 'superuser'");
    host.run_sql(&sql("roles").replace("{}", "1"), &sql("wharf.roles").replace("{}", "true")).await;
    let client = host.anonymous().signed_in(SUPERUSER, PASSWORD).await;
    // The account itself is open, so that the factor can be enrolled.
    client.get("/users/me").await.ok();
    client.get("/users/").await.has_code(403, "second_factor_required");
    let (app, _) = Authenticator::enrol(host, &client).await;
    client.get("/users/").await.ok();
    let key = client.post("/users/me/keys", &json!({ "name": "ci", "permissions": ["users:read"] })).await.ok();
    let machine = host.anonymous().with_token(text(&key, "key"));
    machine.get("/users/").await.ok();
    next_step(host);
    let second = signed_in(host, SUPERUSER, &app).await;
    second.get("/users/").await.ok();
    // Without a factor, no session has two, and neither has a key that such a session created.
    client.delete("/users/me/factors/totp").await.ok();
    machine.get("/users/").await.has_code(403, "forbidden");
    for client in [&client, &second] {
        client.get("/users/").await.has_code(403, "second_factor_required");
        client.get("/users/me").await.ok();
    }
}

async fn an_operator_removes_the_factors_of_an_account_that_has_no_more_permissions(host: &TestHost) {
    let jane = host.user(JANE).await;
    let (app, _) = Authenticator::enrol(host, &jane).await;
    next_step(host);
    let open = begin(host, JANE).await;
    let path = format!("/users/{}/factors", text(&jane.get("/users/me").await.ok(), "id"));
    let own = format!("/users/{}/factors", text(&host.superuser().get("/users/me").await.ok(), "id"));
    for client in [&jane, &host.user("joe@example.com").await] {
        client.get(&path).await.has_code(403, "forbidden");
        client.delete(&path).await.has_code(403, "forbidden");
    }
    let factors = host.superuser().get(&path).await.ok();
    assert_eq!(factors["methods"], json!(["totp", "recovery_code"]));
    host.superuser().delete(&path).await.has_message("Factors removed successfully");
    host.superuser().delete(&path).await.has_code(404, "factor_not_found");
    host.superuser().delete(&own).await.has_code(404, "factor_not_found");
    let unknown = "/users/5f0b5c3e-58f5-4f7c-8f4e-0c3f7c8b0d11/factors";
    host.superuser().delete(unknown).await.has_code(404, "user_not_found");
    host.superuser().get(unknown).await.has_code(404, "user_not_found");
    invalid_token(&jane.get("/users/me").await);
    is_over(&complete(host, &open, ("code", &app.code(host))).await);
    host.anonymous().sign_in(JANE, PASSWORD).await.ok();
    // A person who may change accounts has fewer permissions than a superuser.
    let joe = host.anonymous().signed_in("joe@example.com", PASSWORD).await;
    let give = |roles: &str, users: &str, permissions: &str| {
        format!(
            "INSERT INTO {roles} (name, description, is_default, requires_second_factor, created_at) \
             SELECT 'helper', '', is_default, requires_second_factor, 0 FROM {roles} WHERE name = 'operator'; \
             INSERT INTO {permissions} (role, permission) VALUES ('helper', 'users:write'); \
             INSERT INTO user_roles (user_id, role) SELECT id, 'helper' FROM {users} WHERE email = 'joe@example.com'"
        )
    };
    let postgres =
        give("wharf.roles", "wharf.users", "wharf.role_permissions").replace("INTO user_", "INTO wharf.user_");
    host.run_sql(&give("roles", "users", "role_permissions"), &postgres).await;
    drop(joe);
    let joe = host.anonymous().signed_in("joe@example.com", PASSWORD).await;
    Authenticator::enrol(host, &host.anonymous().signed_in(SUPERUSER, PASSWORD).await).await;
    joe.delete(&own).await.has_code(403, "exceeds_own_permissions");
    joe.delete(&path).await.has_code(404, "factor_not_found");
}
