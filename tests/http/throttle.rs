//! Throttling: attempts to guess are bounded, and the owner of an account is never locked out.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use reqwest::Method;
use serde_json::json;

use super::text;
use crate::http::metrics::samples;
use crate::plugin::releases::responding_with;
use crate::support::host::{PASSWORD, SUPERUSER};
use crate::support::{Client, TestHost, TestResponse, both};

both! {
    an_owner_signs_in_while_others_guess_the_password => Setup::default().throttled().with_manual_clock(),
    a_recovery_opens_a_new_network_to_the_owner => Setup::default().throttled().with_manual_clock(),
    an_unknown_account_is_throttled_like_a_known_one => Setup::default().throttled().with_manual_clock(),
    a_network_is_throttled_for_all_accounts_together => network_of_five(),
    recoveries_and_sign_ups_are_throttled => Setup::default().throttled().with_manual_clock(),
    requests_for_verification_mails_use_up_no_recovery => Setup::default().throttled().with_manual_clock(),
    secrets_that_nobody_can_guess_work_during_a_flood_of_wrong_ones => network_of_five(),
    what_anybody_may_begin_is_throttled => network_of_five(),
    a_request_to_a_plugin_with_a_canary_counts_an_unknown_key_once => network_of_five(),
    a_session_guesses_no_password => Setup::default().throttled().with_manual_clock(),
    a_user_sends_few_mails_by_changes_of_their_address => Setup::default().throttled().with_manual_clock(),
    a_user_sends_few_mails_to_addresses_that_must_be_verified => Setup::default()
        .throttled()
        .with_manual_clock()
        .with(|config| config.auth.verify_email = true),
}

fn network_of_five() -> crate::support::Setup {
    crate::support::Setup::default().throttled().with_manual_clock().with(|config| config.auth.network_attempts = 5)
}

/// Returns a client from one of the addresses of the loopback network.
fn from(host: &TestHost, last: u8) -> Client {
    Client::from_address(host.addr(), IpAddr::V4(Ipv4Addr::new(127, 0, 0, last)))
}

/// Fails `times` times to sign in.
async fn guess(client: &Client, email: &str, times: usize) {
    for index in 0..times {
        let response = client.sign_in(email, &format!("guess {index}")).await;
        response.is_problem(400, "incorrect_credentials", "Incorrect email or password");
    }
}

#[track_caller]
fn is_throttled(response: &TestResponse, policy: &str, seconds: &str) {
    response.is_problem(429, "too_many_attempts", "Too many attempts. Try again later.");
    assert_eq!(response.header("retry-after"), Some(seconds));
    let header = response.header("ratelimit-policy").unwrap();
    assert!(header.starts_with(&format!("\"{policy}\";q=")), "{header}");
    assert_eq!(response.header("ratelimit"), Some(&*format!("\"{policy}\";r=0;t={seconds}")));
}

async fn an_owner_signs_in_while_others_guess_the_password(host: &mut TestHost) {
    let email = "jane@example.com";
    let jane = host.user(email).await;
    let tokens = host.anonymous().sign_in(email, PASSWORD).await.ok();
    let attacker = from(host, 2);
    guess(&attacker, email, 10).await;
    is_throttled(&attacker.sign_in(email, "guess 10").await, "sign-in-account", "60");
    // The right password is refused too, or else the refusal would tell nothing.
    is_throttled(&attacker.sign_in(email, PASSWORD).await, "sign-in-account", "60");
    // Neither another address nor a forged one helps.
    is_throttled(&from(host, 3).sign_in(email, PASSWORD).await, "sign-in-account", "60");
    let form = [("username", email), ("password", PASSWORD)];
    for header in ["x-forwarded-for", "forwarded", "x-real-ip"] {
        let request = attacker.request(Method::POST, "/login/access-token").header(header, "127.0.0.1").form(&form);
        is_throttled(&request.send().await, "sign-in-account", "60");
    }

    // The owner signs in where they did before, any number of times, and their sessions continue.
    for _ in 0..15 {
        host.anonymous().sign_in(email, PASSWORD).await.ok();
    }
    jane.get("/users/me").await.ok();
    let refresh = json!({ "refresh_token": tokens["refresh_token"] });
    host.anonymous().post("/login/refresh-token", &refresh).await.ok();
    // Also after a restart, which forgets the attempts.
    host.restart().await;
    let attacker = from(host, 2);
    guess(&attacker, email, 10).await;
    is_throttled(&attacker.sign_in(email, PASSWORD).await, "sign-in-account", "60");
    host.anonymous().sign_in(email, PASSWORD).await.ok();

    // A minute later, one guess is free. It is wrong, so the next one is refused.
    host.clock().advance(Duration::from_secs(60));
    guess(&attacker, email, 1).await;
    is_throttled(&attacker.sign_in(email, "guess").await, "sign-in-account", "60");
    // At the place of the owner, guesses have the same bound.
    guess(&host.anonymous(), email, 10).await;
    is_throttled(&host.anonymous().sign_in(email, PASSWORD).await, "sign-in-account", "60");
    host.clock().advance(Duration::from_secs(60));
    host.anonymous().sign_in(email, PASSWORD).await.ok();

    let samples = samples(host.superuser()).await;
    let refused = |action: &str| {
        let name = format!("wharf_attempts_refused_total{{action=\"{action}\"}}");
        samples.iter().find(|(sample, _)| *sample == name).unwrap_or_else(|| panic!("{name}: {samples:?}")).1
    };
    assert!(refused("sign_in") >= 3.0 && refused("recovery") == 0.0, "{samples:?}");
}

async fn a_recovery_opens_a_new_network_to_the_owner(host: &TestHost) {
    let email = "jane@example.com";
    host.user(email).await;
    guess(&from(host, 2), email, 10).await;
    let away = from(host, 3);
    is_throttled(&away.sign_in(email, PASSWORD).await, "sign-in-account", "60");
    let mail = host.superuser().post(&format!("/password-recovery-html-content/{email}"), &json!({})).await;
    let html = mail.text();
    let (_, token) = html.split_once("reset-password?token=").unwrap_or_else(|| panic!("{html}"));
    let body = json!({ "token": token.split('"').next().unwrap(), "new_password": "battery staple" });
    away.post("/reset-password/", &body).await.ok();
    away.sign_in(email, "battery staple").await.ok();
    is_throttled(&from(host, 4).sign_in(email, "battery staple").await, "sign-in-account", "60");
}

async fn an_unknown_account_is_throttled_like_a_known_one(host: &TestHost) {
    host.user("jane@example.com").await;
    let attacker = from(host, 2);
    let mut responses = Vec::new();
    for email in ["jane@example.com", "nobody@example.com"] {
        guess(&attacker, email, 10).await;
        // In any form of the address.
        let response = attacker.sign_in(&email.to_uppercase(), "guess").await;
        is_throttled(&response, "sign-in-account", "60");
        let mut problem = response.json();
        problem["request_id"] = json!(null);
        let headers = ["ratelimit", "ratelimit-policy", "retry-after"];
        let headers = headers.map(|name| response.header(name).map(str::to_owned));
        responses.push((problem, headers));
    }
    assert_eq!(responses[0], responses[1]);
}

async fn a_network_is_throttled_for_all_accounts_together(host: &TestHost) {
    host.user("jane@example.com").await;
    for index in 0..5 {
        guess(&host.anonymous(), &format!("user{index}@example.com"), 1).await;
    }
    let next = host.anonymous().sign_in("user5@example.com", "guess").await;
    is_throttled(&next, "sign-in-network", "3");
    let nonsense = host.anonymous().sign_in("no address", "guess").await;
    is_throttled(&nonsense, "sign-in-network", "3");
    // Another network is not concerned, and neither is an account that was used from this one.
    guess(&from(host, 2), "user5@example.com", 1).await;
    host.anonymous().sign_in("jane@example.com", PASSWORD).await.ok();
    host.clock().advance(Duration::from_secs(3));
    guess(&host.anonymous(), "user5@example.com", 1).await;
}

async fn recoveries_and_sign_ups_are_throttled(host: &TestHost) {
    let client = host.anonymous();
    let recover = async |email: &str| client.request(Method::POST, &format!("/password-recovery/{email}")).send().await;
    for email in [SUPERUSER, "nobody@example.com"] {
        for _ in 0..3 {
            assert_eq!(recover(email).await.status, 200);
        }
        is_throttled(&recover(email).await, "recovery-account", "300");
        is_throttled(&recover(&email.to_uppercase()).await, "recovery-account", "300");
    }
    assert_eq!(recover("other@example.com").await.status, 200);

    for _ in 0..5 {
        let response = host.sign_up(SUPERUSER).await;
        assert_eq!(response.status, 400);
    }
    is_throttled(&host.sign_up(SUPERUSER).await, "sign-up-account", "300");
    for index in 0..55 {
        host.sign_up(&format!("user{index}@example.com")).await.ok();
    }
    is_throttled(&host.sign_up("last@example.com").await, "sign-up-network", "20");
}

async fn requests_for_verification_mails_use_up_no_recovery(host: &TestHost) {
    let attacker = from(host, 2);
    let verify = async || attacker.post("/users/verify-email/send", &json!({ "email": SUPERUSER })).await;
    for _ in 0..3 {
        verify().await.ok();
    }
    is_throttled(&verify().await, "verification-account", "300");
    // None of them sent a mail, because the address is verified. The owner still gets one.
    let recover = format!("/password-recovery/{SUPERUSER}");
    host.anonymous().request(Method::POST, &recover).send().await.ok();
    host.mails().take(SUPERUSER).await.reset_token();
}

async fn secrets_that_nobody_can_guess_work_during_a_flood_of_wrong_ones(host: &TestHost) {
    let client = host.anonymous();
    let tokens = client.sign_in(SUPERUSER, PASSWORD).await.ok();
    let refresh = async |token: &str| client.post("/login/refresh-token", &json!({ "refresh_token": token })).await;
    let reset = async |token: &str| {
        client.post("/reset-password/", &json!({ "token": token, "new_password": "battery staple" })).await
    };
    for _ in 0..5 {
        super::invalid_token(&refresh(&"A".repeat(64)).await);
        reset(&"A".repeat(43)).await.is_problem(400, "invalid_reset_token", "Invalid token");
    }
    // Links of both kinds have one bound.
    let verify = json!({ "token": "A".repeat(43) });
    is_throttled(&client.post("/users/verify-email", &verify).await, "reset-network", "3");
    is_throttled(&refresh(&"A".repeat(64)).await, "refresh-network", "1");
    is_throttled(&reset(&"A".repeat(43)).await, "reset-network", "3");
    let mut token = text(&tokens, "refresh_token").to_owned();
    for _ in 0..30 {
        token = text(&refresh(&token).await.ok(), "refresh_token").to_owned();
    }
    // A session itself has a bound.
    is_throttled(&refresh(&token).await, "refresh-session", "2");
    client.request(Method::POST, &format!("/password-recovery/{SUPERUSER}")).send().await.ok();
    let link = host.mails().take(SUPERUSER).await.reset_token();
    reset(&link).await.has_message("Password updated successfully");
}

async fn what_anybody_may_begin_is_throttled(host: &TestHost) {
    let client = host.anonymous();
    for _ in 0..5 {
        client.post("/login/passkey/options", &json!({})).await.ok();
    }
    is_throttled(&client.post("/login/passkey/options", &json!({})).await, "passkey-network", "1");
    let path = format!("/login/oidc/nobody?code_challenge={}", "A".repeat(43));
    for _ in 0..5 {
        client.get(&path).await.has_code(404, "issuer_not_found");
    }
    is_throttled(&client.get(&path).await, "issuer-network", "3");
    // Another network is not concerned.
    from(host, 2).post("/login/passkey/options", &json!({})).await.ok();
    from(host, 2).get(&path).await.has_code(404, "issuer_not_found");
}

async fn a_request_to_a_plugin_with_a_canary_counts_an_unknown_key_once(host: &TestHost) {
    host.superuser().deploy(&responding_with("live").0, "").await.ok();
    host.superuser().deploy(&responding_with("candidate").0, "canary=header").await.ok();
    let key = json!({ "name": "k", "permissions": ["routes:call"] });
    let key = host.superuser().post("/keys/", &key).await.ok();
    host.superuser().delete(&format!("/keys/{}", text(&key, "id"))).await.ok();
    let client = host.anonymous().with_token(text(&key, "key"));
    for _ in 0..4 {
        assert_eq!(client.get("/liar").await.text(), "live", "an unknown caller may call a public route");
    }
    super::invalid_token(&client.get("/users/me").await);
    is_throttled(&client.get("/users/me").await, "key-network", "1");
}

async fn a_session_guesses_no_password(host: &TestHost) {
    let client = host.user("jane@example.com").await;
    let change = async |current: &str| {
        let body = json!({ "current_password": current, "new_password": "battery staple" });
        client.patch("/users/me/password", &body).await
    };
    // Others cannot use up the attempts of the session.
    guess(&from(host, 2), "jane@example.com", 10).await;
    for _ in 0..10 {
        change("wrong password").await.is_problem(400, "incorrect_password", "Incorrect password");
    }
    is_throttled(&change(PASSWORD).await, "password-account", "60");
    host.clock().advance(Duration::from_secs(60));
    change(PASSWORD).await.has_message("Password updated successfully");
}

async fn a_user_sends_few_mails_by_changes_of_their_address(host: &TestHost) {
    let client = host.user("jane@example.com").await;
    let change = async |email: &str| client.patch("/users/me", &json!({ "email": email })).await;
    // The mail about each change goes to the address before, which the user chose too.
    for index in 0..5 {
        change(&format!("victim{index}@example.com")).await.ok();
    }
    is_throttled(&change("victim5@example.com").await, "address-account", "300");
    // Other changes, and other letters of the same address, send no mail.
    client.patch("/users/me", &json!({ "full_name": "Jane" })).await.ok();
    change("Victim4@example.com").await.ok();
    // Other accounts are not concerned.
    let joan = host.user("joan@example.com").await;
    joan.patch("/users/me", &json!({ "email": "joan.doe@example.com" })).await.ok();
    host.clock().advance(Duration::from_secs(300));
    change("victim5@example.com").await.ok();
    is_throttled(&change("victim6@example.com").await, "address-account", "300");
}

async fn a_user_sends_few_mails_to_addresses_that_must_be_verified(host: &TestHost) {
    // Nobody has proven to read these addresses, and each mail goes to another one.
    let client = host.superuser();
    for index in 0..5 {
        client.patch("/users/me", &json!({ "email": format!("victim{index}@example.com") })).await.ok();
    }
    let refused = client.patch("/users/me", &json!({ "email": "victim5@example.com" })).await;
    is_throttled(&refused, "address-account", "300");
}
