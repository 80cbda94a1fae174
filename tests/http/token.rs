//! Who is let in: credentials on routes for users and for superusers, the host's and the plugins' alike.

use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::host::PASSWORD;
use crate::support::{Answer, TestHost, both};

both!(
    without_credentials_the_answer_names_the_scheme,
    the_name_of_the_scheme_is_in_any_case,
    what_is_no_token_is_refused,
    a_forged_token_is_refused,
    a_token_ends_with_its_time => Setup::default().with_manual_clock().with_items(),
    a_token_ends_with_its_account => Setup::default().with_items(),
    a_token_of_a_deactivated_account_says_so,
    routes_of_superusers_are_closed_to_others,
    a_public_route_ignores_credentials,
);

#[track_caller]
fn challenged(answer: &Answer) {
    answer.is_problem(401, "invalid_token", "Could not validate credentials");
    assert_eq!(answer.header("www-authenticate"), Some("Bearer error=\"invalid_token\""));
}

async fn without_credentials_the_answer_names_the_scheme(host: &TestHost) {
    let basic = host.anonymous().request(Method::GET, "/users/me").header("authorization", "Basic eDp5").send().await;
    let cookie = host.anonymous().request(Method::GET, "/users/me");
    let cookie = cookie.header("cookie", &format!("access_token={}", host.superuser().token())).send().await;
    let query = host.anonymous().get(&format!("/users/me?access_token={}", host.superuser().token())).await;
    for answer in [host.anonymous().get("/users/me").await, basic, cookie, query] {
        answer.is_problem(401, "not_authenticated", "Not authenticated");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    }
}

async fn the_name_of_the_scheme_is_in_any_case(host: &TestHost) {
    for scheme in ["bearer", "BEARER", "Bearer "] {
        let header = format!("{scheme} {}", host.superuser().token());
        host.anonymous().request(Method::GET, "/users/me").header("authorization", &header).send().await.ok();
    }
}

async fn what_is_no_token_is_refused(host: &TestHost) {
    let long = format!("Bearer {}", "a".repeat(20_000));
    for header in ["Bearer", "Bearer ", "Bearer x", "Bearer a.b.c", "bearer ....", "Bearer a b", &long] {
        let answer = host.anonymous().request(Method::GET, "/users/me").header("authorization", header).send().await;
        challenged(&answer);
    }
    let refresh = host.anonymous().sign_in(crate::support::host::SUPERUSER, PASSWORD).await.ok();
    challenged(&host.anonymous().with_token(refresh["refresh_token"].as_str().unwrap()).get("/users/me").await);
}

async fn a_forged_token_is_refused(host: &TestHost) {
    let genuine = host.superuser().token().to_owned();
    let [header, claims, signature] = genuine.split('.').collect::<Vec<_>>().try_into().unwrap();
    let decoded = |part: &str| -> Value {
        let token = format!("{part}.{part}.");
        jsonwebtoken::dangerous::insecure_decode::<Value>(&token).map_or(Value::Null, |data| data.claims)
    };
    // Only to have the genuine claims to forge with, where the library lets one look.
    let known = decoded(claims);
    let claims_of = |change: &dyn Fn(&mut Value)| {
        let mut claims = if known.is_object() {
            known.clone()
        } else {
            json!({ "sub": "5f0b5c3e-58f5-4f7c-8f4e-0c3f7c8b0d11", "exp": 4_000_000_000_u64, "iat": 0, "aud": "wharf" })
        };
        change(&mut claims);
        claims
    };
    let hmac = |key: &[u8]| {
        let claims = claims_of(&|_| {});
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(key)).unwrap()
    };
    let none = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";
    let mut tampered = claims.to_owned();
    let last = if tampered.ends_with('A') { 'B' } else { 'A' };
    tampered.replace_range(tampered.len() / 2..=tampered.len() / 2, &last.to_string());
    for token in [
        hmac(b""),
        hmac(b"changethis"),
        hmac(signature.as_bytes()),
        format!("{none}.{claims}."),
        format!("{none}.{claims}.{signature}"),
        format!("{header}.{claims}."),
        format!("{header}.{tampered}.{signature}"),
        format!("{header}.{claims}.{signature}A"),
        format!("{header}.{claims}"),
    ] {
        challenged(&host.anonymous().with_token(&token).get("/users/me").await);
    }
    host.superuser().get("/users/me").await.ok();
}

async fn a_token_ends_with_its_time(host: &TestHost) {
    let ttl = host.config().auth.access_token_ttl;
    host.clock().advance(ttl - Duration::from_secs(1));
    host.superuser().get("/users/me").await.ok();
    host.clock().advance(Duration::from_secs(2));
    for path in ["/users/me", "/users/", "/items/"] {
        challenged(&host.superuser().get(path).await);
    }
}

async fn a_token_ends_with_its_account(host: &TestHost) {
    let user = host.user("leaver@example.com").await;
    let id = user.get("/users/me").await.ok()["id"].as_str().unwrap().to_owned();
    user.get("/items/").await.ok();
    host.superuser().delete(&format!("/users/{id}")).await.says("User deleted successfully");
    for path in ["/users/me", "/items/"] {
        challenged(&user.get(path).await);
    }
}

async fn a_token_of_a_deactivated_account_says_so(host: &TestHost) {
    let user = host.user("sleeper@example.com").await;
    let id = user.get("/users/me").await.ok()["id"].as_str().unwrap().to_owned();
    let path = format!("/users/{id}");
    host.superuser().patch(&path, &json!({ "is_active": false })).await.ok();
    let answer = user.get("/users/me").await;
    answer.is_problem(403, "inactive_user", "Inactive user");
    // Its sessions have ended, so that waking it up does not bring the old token back.
    host.superuser().patch(&path, &json!({ "is_active": true })).await.ok();
    challenged(&user.get("/users/me").await);
    host.anonymous().signed_in("sleeper@example.com", PASSWORD).await.get("/users/me").await.ok();
}

async fn routes_of_superusers_are_closed_to_others(host: &TestHost) {
    let user = host.user("someone@example.com").await;
    let id = "5f0b5c3e-58f5-4f7c-8f4e-0c3f7c8b0d11";
    for (method, path) in [
        (Method::GET, "/users/".to_owned()),
        (Method::POST, "/users/".to_owned()),
        (Method::PATCH, format!("/users/{id}")),
        (Method::DELETE, format!("/users/{id}")),
        (Method::POST, "/utils/test-email/?email_to=a@example.com".to_owned()),
        (Method::POST, "/password-recovery-html-content/a@example.com".to_owned()),
        (Method::GET, "/plugins/".to_owned()),
        (Method::POST, "/plugins/".to_owned()),
        (Method::GET, "/plugins/items".to_owned()),
        (Method::DELETE, "/plugins/items".to_owned()),
        // The privilege is asked for before the input is looked at.
        (Method::GET, "/users/?skip=x".to_owned()),
        (Method::DELETE, "/users/not-a-uuid".to_owned()),
        (Method::POST, "/utils/test-email/".to_owned()),
    ] {
        let denied = user.request(method.clone(), &path).json(&json!({})).send().await;
        denied.is_problem(403, "forbidden", "The user doesn't have enough privileges");
        let unknown = host.anonymous().request(method, &path).json(&json!({})).send().await;
        unknown.is_problem(401, "not_authenticated", "Not authenticated");
    }
}

async fn a_public_route_ignores_credentials(host: &TestHost) {
    let stranger = host.anonymous().with_token("nonsense");
    let body = json!({ "email": "new@example.com", "password": PASSWORD });
    stranger.post("/users/signup", &body).await.ok();
    stranger.get("/utils/health-check/").await.ok();
}
