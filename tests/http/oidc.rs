//! Sign-in with OpenID Connect, at small issuers that the tests start.

use std::collections::HashMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey};
use reqwest::{Method, Url};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{column, text};
use crate::support::host::{PASSWORD, SUPERUSER};
use crate::support::issuer::{CLIENT_SECRET, Forgery, Issuer, foreign_key};
use crate::support::passkey::{Claims, Passkey};
use crate::support::remote::Reply;
use crate::support::{Client, Component, TestHost, TestResponse, both};

both! {
    a_person_signs_in_at_an_issuer_and_keeps_their_account => Setup::default().with_manual_clock(),
    an_account_with_a_password_is_linked_only_by_its_owner,
    an_address_that_no_issuer_verified_is_never_linked,
    an_identity_of_whoever_signed_up_with_the_address_of_another_person_ends,
    a_response_counts_only_in_the_browser_that_began => Setup::default().with_manual_clock(),
    a_forged_id_token_is_refused => Setup::default().with_manual_clock(),
    errors_of_an_issuer_are_told_in_words,
    a_browser_returns_only_to_a_frontend,
}

const VERIFIER: &str = "a-verifier-of-the-frontend-with-43-characters";

/// Starts issuers, and restarts the host with them.
async fn issuers<const N: usize>(host: &mut TestHost, names: [&'static str; N]) -> [Issuer; N] {
    let mut started = Vec::new();
    for name in names {
        started.push(Issuer::start(name, host.clock()).await);
    }
    let settings = started.iter().map(Issuer::settings).collect();
    host.restart_with(|config| config.issuers = settings).await;
    started.try_into().ok().unwrap()
}

/// A browser at an issuer, with the cookie that the host gave it.
struct Visit {
    url: String,
    cookie: String,
}

fn challenge() -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(VERIFIER))
}

fn cookie_of(response: &TestResponse) -> String {
    let cookie = response.header("set-cookie").unwrap();
    assert!(cookie.ends_with("; Path=/; Secure; HttpOnly; SameSite=Lax"), "{cookie}");
    cookie.split(';').next().unwrap().to_owned()
}

async fn begin(host: &TestHost, issuer: &str, rest: &str) -> TestResponse {
    host.anonymous().get(&format!("/login/oidc/{issuer}?code_challenge={}{rest}", challenge())).await
}

/// Sends a browser to an issuer.
async fn visit(host: &TestHost, issuer: &Issuer) -> Visit {
    let response = begin(host, issuer.name, "").await;
    assert_eq!(response.status, 303, "{}", response.text());
    assert_eq!(response.header("cache-control"), Some("no-store"));
    Visit { url: response.header("location").unwrap().to_owned(), cookie: cookie_of(&response) }
}

async fn come_back(host: &TestHost, issuer: &str, cookie: &str, query: &str) -> TestResponse {
    let request = host.anonymous().request(Method::GET, &format!("/login/oidc/{issuer}/callback?{query}"));
    request.header("cookie", cookie).send().await
}

/// Returns the parameters that the browser brings to the frontend.
#[track_caller]
fn brought(response: &TestResponse) -> HashMap<String, String> {
    assert_eq!(response.status, 303, "{}", response.text());
    assert!(response.header("set-cookie").unwrap().starts_with("__Host-wharf-sign-in=; Max-Age=0;"));
    let url: Url = response.header("location").unwrap().parse().unwrap();
    assert!(url.as_str().starts_with("https://shop.example/login?"), "{url}");
    url.query_pairs().into_owned().collect()
}

/// Lets an issuer approve somebody, and returns what the browser brings to the frontend.
async fn sign_in_as(host: &TestHost, issuer: &Issuer, claims: &Value) -> HashMap<String, String> {
    let visit = visit(host, issuer).await;
    let query = issuer.approve(&visit.url, claims);
    brought(&come_back(host, issuer.name, &visit.cookie, &query).await)
}

async fn exchange(host: &TestHost, code: &str, verifier: &str) -> TestResponse {
    host.anonymous().post("/login/exchange-code", &json!({ "code": code, "code_verifier": verifier })).await
}

/// Signs somebody in and returns their client.
async fn client_of(host: &TestHost, issuer: &Issuer, claims: &Value) -> Client {
    let brought = sign_in_as(host, issuer, claims).await;
    let code = brought.get("code").unwrap_or_else(|| panic!("{brought:?}"));
    let tokens = exchange(host, code, VERIFIER).await.ok();
    host.anonymous().with_token(text(&tokens, "access_token"))
}

fn person(subject: &str, email: &str) -> Value {
    json!({ "sub": subject, "email": email, "email_verified": true, "name": "Jane Doe" })
}

#[track_caller]
fn is_refused(brought: &HashMap<String, String>, code: &str) {
    assert_eq!(brought.get("error").map(String::as_str), Some(code), "{brought:?}");
    assert!(!brought.contains_key("code") && brought["error_description"].len() > 10, "{brought:?}");
}

async fn a_person_signs_in_at_an_issuer_and_keeps_their_account(host: &mut TestHost) {
    let [google, company] = issuers(host, ["google", "company"]).await;
    let listed = host.anonymous().get("/login/issuers").await.ok();
    assert_eq!(
        (column(&listed, "name"), column(&listed, "label")),
        (vec!["google", "company"], vec!["GOOGLE", "COMPANY"])
    );
    begin(host, "nobody", "").await.has_code(404, "issuer_not_found");
    host.anonymous().get("/login/oidc/google").await.has_code(422, "validation_error");

    let jane = client_of(host, &google, &person("1", "Jane@Example.com")).await;
    let account = jane.get("/users/me").await.ok();
    assert_eq!((text(&account, "email"), text(&account, "full_name")), ("Jane@example.com", "Jane Doe"));
    assert_eq!(account["is_superuser"], false);
    // The account has no password, and none matches.
    for password in ["!", PASSWORD] {
        host.anonymous().sign_in("jane@example.com", password).await.has_code(400, "incorrect_credentials");
    }
    // The subject is the person, whatever the address is meanwhile.
    let again = client_of(host, &google, &person("1", "doe@example.com")).await;
    assert_eq!(again.get("/users/me").await.ok()["id"], account["id"]);
    let other = client_of(host, &google, &person("2", "other@example.com")).await;
    assert_ne!(other.get("/users/me").await.ok()["id"], account["id"]);
    // The same subject of another issuer is somebody else.
    let third = client_of(host, &company, &person("1", "third@example.com")).await;
    assert_ne!(third.get("/users/me").await.ok()["id"], account["id"]);
    // Two issuers vouch for one address, and the account has no password: they are one person.
    let same = client_of(host, &company, &person("9", "OTHER@example.com")).await;
    assert_eq!(same.get("/users/me").await.ok()["id"], other.get("/users/me").await.ok()["id"]);

    // A code works once, for a minute, with its verifier.
    let code = sign_in_as(host, &google, &person("1", "jane@example.com")).await["code"].clone();
    exchange(host, &code, VERIFIER).await.ok();
    exchange(host, &code, VERIFIER).await.has_code(400, "invalid_login_code");
    let code = sign_in_as(host, &google, &person("1", "jane@example.com")).await["code"].clone();
    exchange(host, &code, &VERIFIER.replace('a', "b")).await.has_code(400, "invalid_login_code");
    exchange(host, &code, VERIFIER).await.has_code(400, "invalid_login_code");
    let code = sign_in_as(host, &google, &person("1", "jane@example.com")).await["code"].clone();
    host.clock().advance(Duration::from_secs(61));
    exchange(host, &code, VERIFIER).await.has_code(400, "invalid_login_code");
    for kind in [jane.token(), "", "x", &"A".repeat(43)] {
        exchange(host, kind, VERIFIER).await.has_code(400, "invalid_login_code");
    }

    // A new key of the issuer is fetched when it is needed.
    let fetched = |issuer: &Issuer| issuer.seen().iter().filter(|request| request.starts_with("GET /jwks ")).count();
    let before = fetched(&google);
    google.rotate();
    client_of(host, &google, &person("1", "jane@example.com")).await;
    client_of(host, &google, &person("1", "jane@example.com")).await;
    assert_eq!(fetched(&google), before + 1);

    // A session that began long ago links nothing, so a stolen token opens no second door.
    host.clock().advance(host.config().auth.step_up_ttl + Duration::from_secs(1));
    let link = json!({ "issuer": "google" });
    host.superuser().post("/users/me/identities", &link).await.has_code(403, "step_up_required");

    // A deactivated account stays so.
    let id = text(&account, "id");
    host.superuser().patch(&format!("/users/{id}"), &json!({ "is_active": false })).await.ok();
    is_refused(&sign_in_as(host, &google, &person("1", "jane@example.com")).await, "inactive_user");
    // Nobody gets an account where the operator says so.
    let mut settings = google.settings();
    settings.create_accounts = Some(false);
    host.restart_with(|config| config.issuers = vec![settings]).await;
    is_refused(&sign_in_as(host, &google, &person("3", "new@example.com")).await, "no_account");
    client_of(host, &google, &person("2", "other@example.com")).await;
}

async fn link(host: &TestHost, client: &Client, issuer: &Issuer, claims: &Value) -> HashMap<String, String> {
    let begun = client.post("/users/me/identities", &json!({ "issuer": issuer.name })).await;
    let cookie = cookie_of(&begun);
    let query = issuer.approve(text(&begun.ok(), "authorization_url"), claims);
    brought(&come_back(host, issuer.name, &cookie, &query).await)
}

async fn an_account_with_a_password_is_linked_only_by_its_owner(host: &mut TestHost) {
    let [google, company] = issuers(host, ["google", "company"]).await;
    let jane = host.user("jane@example.com").await;
    let of_jane = person("1", "jane@example.com");
    // Not even a verified address opens an account that has a password.
    for claims in [&of_jane, &person("2", "JANE@example.com"), &person("3", SUPERUSER)] {
        is_refused(&sign_in_as(host, &google, claims).await, "link_not_confirmed");
    }
    assert_eq!(jane.get("/users/me/identities").await.ok()["count"], 0);

    // Its owner, who is signed in, may link any identity.
    let linked = link(host, &jane, &google, &person("1", "private@example.net")).await;
    assert_eq!(linked.get("linked").map(String::as_str), Some("google"), "{linked:?}");
    let note = host.mails().take_note("jane@example.com").await;
    assert!(note.html.contains("An account at another service was linked"), "{}", note.html);
    let client = client_of(host, &google, &of_jane).await;
    assert_eq!(text(&client.get("/users/me").await.ok(), "email"), "jane@example.com");
    let identities = client.get("/users/me/identities").await.ok();
    assert_eq!((column(&identities, "issuer"), identities["has_password"].clone()), (vec!["google"], json!(true)));
    // An identity belongs to one account.
    let eve = host.user("eve@example.com").await;
    is_refused(&link(host, &eve, &google, &of_jane).await, "identity_taken");
    assert_eq!(eve.get("/users/me/identities").await.ok()["count"], 0);

    // A link that somebody else began links nothing to this browser's user, and ends with its session.
    let begun = eve.post("/users/me/identities", &json!({ "issuer": "company" })).await;
    let url = text(&begun.ok(), "authorization_url").to_owned();
    let query = company.approve(&url, &person("7", "jane@example.com"));
    come_back(host, "company", "", &query).await.has_code(400, "login_expired");
    eve.post("/login/logout", &json!({})).await.ok();
    is_refused(&brought(&come_back(host, "company", &cookie_of(&begun), &query).await), "login_expired");
    host.anonymous()
        .post("/users/me/identities", &json!({ "issuer": "google" }))
        .await
        .has_code(401, "not_authenticated");

    // An invited person accepts at an issuer.
    let invitation = json!({ "email": "invited@example.com", "roles": ["operator"] });
    host.superuser().post("/users/invite", &invitation).await.ok();
    let invited = client_of(host, &google, &person("4", "invited@example.com")).await;
    invited.get("/plugins/").await.ok();
    host.mails().take_note("invited@example.com").await;

    // The last way to sign in cannot be removed.
    let id = text(&identities["data"][0], "id").to_owned();
    let eve = host.anonymous().signed_in("eve@example.com", PASSWORD).await;
    eve.delete(&format!("/users/me/identities/{id}")).await.has_code(404, "identity_not_found");
    jane.delete(&format!("/users/me/identities/{id}")).await.has_message("Identity deleted successfully");
    let note = host.mails().take_note("jane@example.com").await;
    assert!(note.html.contains("The link to an account at another service was removed."), "{}", note.html);
    is_refused(&sign_in_as(host, &google, &of_jane).await, "link_not_confirmed");
    let sam = client_of(host, &company, &person("8", "sam@example.com")).await;
    let identities = sam.get("/users/me/identities").await.ok();
    assert_eq!(identities["has_password"], false);
    let id = text(&identities["data"][0], "id").to_owned();
    sam.delete(&format!("/users/me/identities/{id}")).await.has_code(409, "last_sign_in_method");
    // A passkey is a way to sign in too, until it is the last one.
    let passkeys = "/users/me/factors/passkeys";
    let begun = sam.post(&format!("{passkeys}/options"), &json!({})).await.ok()["options"].clone();
    let claims = Claims {
        origin: "https://shop.example".to_owned(),
        rp_id: "shop.example".to_owned(),
        user_verified: true,
        counter: 0,
    };
    let (_, response) = Passkey::create(&begun, claims);
    let added = sam.post(passkeys, &json!({ "name": "Laptop", "passkey": response })).await.ok();
    sam.delete(&format!("/users/me/identities/{id}")).await.has_message("Identity deleted successfully");
    let last = sam.delete(&format!("{passkeys}/{}", text(&added, "id"))).await;
    last.has_code(409, "last_sign_in_method");
}

async fn an_address_that_no_issuer_verified_is_never_linked(host: &mut TestHost) {
    let [google, company] = issuers(host, ["google", "company"]).await;
    for verified in [json!(false), json!(null), json!("false")] {
        let claims = json!({ "sub": "1", "email": "jane@example.com", "email_verified": verified });
        is_refused(&sign_in_as(host, &google, &claims).await, "address_not_verified");
    }
    is_refused(&sign_in_as(host, &google, &json!({ "sub": "1" })).await, "address_not_verified");
    is_refused(&sign_in_as(host, &google, &person("1", "no-address")).await, "address_not_verified");
    // The user info counts too, but only that of the same subject.
    google.tell_userinfo(json!({ "sub": "2", "email": "jane@example.com", "email_verified": true }));
    is_refused(&sign_in_as(host, &google, &json!({ "sub": "1" })).await, "issuer_response_invalid");
    let eve = client_of(host, &google, &json!({ "sub": "2" })).await;
    assert_eq!(text(&eve.get("/users/me").await.ok(), "email"), "jane@example.com");

    // Somebody without a password takes the address of a victim. The victim does not end up in that account.
    let eve = client_of(host, &company, &person("1", "eve@example.com")).await;
    eve.patch("/users/me", &json!({ "email": "victim@example.com" })).await.ok();
    is_refused(&sign_in_as(host, &google, &person("5", "victim@example.com")).await, "link_not_confirmed");
}

async fn an_identity_of_whoever_signed_up_with_the_address_of_another_person_ends(host: &mut TestHost) {
    let [google, company] = issuers(host, ["google", "company"]).await;
    let email = "victim@example.com";
    let mallory = host.user(email).await;
    link(host, &mallory, &google, &person("1", "mallory@example.net")).await;
    // This issuer has verified the address.
    link(host, &mallory, &company, &person("2", email)).await;
    host.anonymous().request(Method::POST, &format!("/password-recovery/{email}")).send().await.ok();
    let token = host.mails().take(email).await.reset_token();
    let body = json!({ "token": token, "new_password": "battery staple" });
    host.anonymous().post("/reset-password/", &body).await.ok();
    let somebody = client_of(host, &google, &person("1", "mallory@example.net")).await;
    assert_eq!(text(&somebody.get("/users/me").await.ok(), "email"), "mallory@example.net");
    let owner = client_of(host, &company, &person("2", email)).await;
    assert_eq!(text(&owner.get("/users/me").await.ok(), "email"), email);
}

async fn a_response_counts_only_in_the_browser_that_began(host: &mut TestHost) {
    let [google, company] = issuers(host, ["google", "company"]).await;
    let claims = person("1", "jane@example.com");
    let one = visit(host, &google).await;
    let two = visit(host, &google).await;
    let query = google.approve(&one.url, &claims);
    // In another browser, without a cookie, with the cookie twice, or at the path of another issuer (mix-up).
    for cookie in ["", &two.cookie, &format!("{}; {}", one.cookie, two.cookie), "__Host-wharf-sign-in=x"] {
        come_back(host, "google", cookie, &query).await.has_code(400, "login_expired");
    }
    come_back(host, "company", &one.cookie, &query).await.has_code(400, "login_expired");
    let code = query.split('&').next().unwrap();
    for query in [code.to_owned(), format!("{code}&state="), format!("{code}&state=x"), String::new()] {
        come_back(host, "google", &one.cookie, &query).await.has_code(400, "login_expired");
    }
    // The response names another issuer.
    let named = format!("{query}&iss={}", company.url());
    is_refused(&brought(&come_back(host, "google", &one.cookie, &named).await), "issuer_response_invalid");
    // The code of one sign-in with the state of another one: its PKCE verifier differs.
    let stolen = google.approve(&two.url, &claims);
    let mixed = format!("{}&{}", stolen.split('&').next().unwrap(), query.split('&').nth(1).unwrap());
    is_refused(&brought(&come_back(host, "google", &one.cookie, &mixed).await), "issuer_refused");
    assert!(!google.seen().is_empty() && company.seen().is_empty());

    let named = format!("{query}&iss={}", google.url());
    assert!(brought(&come_back(host, "google", &one.cookie, &named).await).contains_key("code"));
    is_refused(&brought(&come_back(host, "google", &one.cookie, &named).await), "issuer_refused");
    let late = visit(host, &google).await;
    let query = google.approve(&late.url, &claims);
    host.clock().advance(Duration::from_secs(601));
    come_back(host, "google", &late.cookie, &query).await.has_code(400, "login_expired");
}

async fn a_forged_id_token_is_refused(host: &mut TestHost) {
    let [google] = issuers(host, ["google"]).await;
    type Forge = Box<dyn Fn(&mut Forgery)>;
    let claim = |name: &'static str, value: Value| -> Forge {
        Box::new(move |it: &mut Forgery| it.claims[name] = value.clone())
    };
    let now = host.clock().now().as_secs();
    let unsigned = |alg: &'static str| -> Forge {
        Box::new(move |it: &mut Forgery| {
            let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
            it.token = Some(format!("{}.{}.", part(&json!({ "alg": alg, "typ": "JWT" })), part(&it.claims)));
        })
    };
    let with_secret = |secret: &'static str| -> Forge {
        Box::new(move |it: &mut Forgery| {
            it.header.alg = Algorithm::HS256;
            it.key = Some(EncodingKey::from_secret(secret.as_bytes()));
        })
    };
    let forgeries: Vec<(&str, Forge)> = vec![
        ("no signature", unsigned("none")),
        ("an empty signature", unsigned("ES256")),
        ("the client's secret", with_secret(CLIENT_SECRET)),
        ("another secret", with_secret("")),
        ("a foreign key", Box::new(|it: &mut Forgery| it.key = Some(foreign_key()))),
        (
            "an unknown key",
            Box::new(|it: &mut Forgery| (it.key, it.header.kid) = (Some(foreign_key()), Some("unknown".into()))),
        ),
        ("no key id", Box::new(|it: &mut Forgery| (it.key, it.header.kid) = (Some(foreign_key()), None))),
        (
            "a key by URL",
            Box::new(|it: &mut Forgery| (it.key, it.header.jku) = (Some(foreign_key()), Some("http://evil/".into()))),
        ),
        ("another issuer", claim("iss", json!("https://evil.example"))),
        ("another audience", claim("aud", json!("another-client"))),
        ("a further audience", claim("aud", json!(["wharf-at-google", "another-client"]))),
        ("another nonce", claim("nonce", json!("x"))),
        ("no nonce", claim("nonce", json!(null))),
        ("expired", claim("exp", json!(now))),
        ("issued later", claim("iat", json!(now + 3600))),
        ("issued long ago", claim("iat", json!(now - 3600))),
        ("no subject", claim("sub", json!(""))),
        ("a long subject", claim("sub", json!("x".repeat(256)))),
        ("no token", Box::new(|it: &mut Forgery| it.token = Some("x".to_owned()))),
    ];
    for (name, forge) in forgeries {
        let visit = visit(host, &google).await;
        let query = google.approve_with(&visit.url, &person("1", "jane@example.com"), forge);
        let brought = brought(&come_back(host, "google", &visit.cookie, &query).await);
        assert_eq!(brought.get("error").map(String::as_str), Some("issuer_response_invalid"), "{name}: {brought:?}");
    }
    let all = host.superuser().get("/users/").await.ok();
    assert_eq!(column(&all, "email"), [SUPERUSER]);
    client_of(host, &google, &person("1", "jane@example.com")).await;
}

async fn errors_of_an_issuer_are_told_in_words(host: &mut TestHost) {
    let [google] = issuers(host, ["google"]).await;
    let state = |visit: &Visit| {
        let url: Url = visit.url.parse().unwrap();
        url.query_pairs().find(|(name, _)| name == "state").unwrap().1.into_owned()
    };
    let at = visit(host, &google).await;
    for (error, code) in [
        ("access_denied", "issuer_refused"),
        ("login_required", "issuer_refused"),
        ("<script>", "issuer_refused"),
        ("server_error", "issuer_unavailable"),
    ] {
        let query = format!("error={error}&error_description=<b>canary</b>&state={}", state(&at));
        let brought = brought(&come_back(host, "google", &at.cookie, &query).await);
        is_refused(&brought, code);
        // The text of the issuer, which anybody could have written, goes no further.
        assert!(!brought["error_description"].contains(['<', '>']), "{brought:?}");
    }
    // The back channel.
    let refused =
        |error: &str| Reply::with(401, "content-type: application/json\r\n", &json!({ "error": error }).to_string());
    for (reply, code, words) in [
        (refused("invalid_client"), "issuer_refused", "client id and secret"),
        (refused("other"), "issuer_refused", "in the log"),
        (Reply::of(500, "canary"), "issuer_unavailable", "try again later"),
        (Reply::with(200, "content-type: application/json\r\n", "{}"), "issuer_response_invalid", "start again"),
        (Reply::Close(String::new()), "issuer_unavailable", "try again later"),
        (Reply::with(307, "location: http://127.0.0.1:1/\r\n", ""), "issuer_unavailable", "try again later"),
    ] {
        google.break_path(Some(("/token", reply)));
        let brought = sign_in_as(host, &google, &person("1", "jane@example.com")).await;
        is_refused(&brought, code);
        assert!(brought["error_description"].contains(words), "{brought:?}");
    }
    google.break_path(None);
    client_of(host, &google, &person("1", "jane@example.com")).await;

    // Discovery: an outage, and a document of another issuer.
    for reply in [Reply::of(503, ""), Reply::with(200, "content-type: application/json\r\n", "{}")] {
        google.break_path(Some(("/.well-known/openid-configuration", reply)));
        host.restart().await;
        let response = begin(host, "google", "").await;
        response.has_code(503, "issuer_unavailable");
        assert_eq!(response.header("retry-after"), Some("5"));
    }
}

async fn a_browser_returns_only_to_a_frontend(host: &mut TestHost) {
    let [google] = issuers(host, ["google"]).await;
    host.superuser().deploy(&Component::hello().0, "mount=/greetings").await.ok();
    for url in [
        // A plugin would get the code.
        "/greetings",
        "/greetings/x",
        "https://shop.example/greetings/",
        "/x/../greetings",
        "/%2567reetings",
        "/x%252F..%252Fgreetings",
        "/x//greetings",
        "/api",
        "/api/v1/users/me",
        "https://evil.example/",
        "//evil.example/",
        "https://shop.example.evil.example/",
        "https://shop.example@evil.example/",
        "https://user@shop.example/",
        "http://shop.example/",
        "https://shop.example:8443/",
        "javascript:alert(1)",
        "data:text/html,x",
        "%5C%5Cevil.example",
        "%09//evil.example",
        "",
    ] {
        let response = begin(host, "google", &format!("&return_to={url}")).await;
        // An empty text is the frontend itself.
        assert_eq!(response.status, if url.is_empty() { 303 } else { 422 }, "{url}: {}", response.text());
    }
    for url in ["/greetings-to-all", "/login/api", "/x%2520y"] {
        assert_eq!(begin(host, "google", &format!("&return_to={url}")).await.status, 303, "{url}");
    }
    let begun = begin(host, "google", "&return_to=/account%3Ftab%3Dlogin").await;
    let cookie = cookie_of(&begun);
    let query = google.approve(begun.header("location").unwrap(), &person("1", "jane@example.com"));
    let back = come_back(host, "google", &cookie, &query).await;
    let location = back.header("location").unwrap();
    assert!(location.starts_with("https://shop.example/account?tab=login&code="), "{location}");
    // The URL in the cookie is not trusted either.
    let value = cookie.split_once('=').unwrap().1;
    let mut state: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(value).unwrap()).unwrap();
    state["return_to"] = json!("https://evil.example/");
    let forged = format!("__Host-wharf-sign-in={}", URL_SAFE_NO_PAD.encode(state.to_string()));
    let query = google.approve(begun.header("location").unwrap(), &person("1", "jane@example.com"));
    come_back(host, "google", &forged, &query).await.has_code(422, "validation_error");

    // Anybody may have a host below the domain of a pattern.
    let urls = "https://shop.example, https://*.shop.example";
    host.restart_with(|config| config.server.frontend_url = urls.parse().unwrap()).await;
    for (url, status) in [("https://evil.shop.example/", 422), ("https://shop.example/login", 303)] {
        assert_eq!(begin(host, "google", &format!("&return_to={url}")).await.status, status, "{url}");
    }
}
