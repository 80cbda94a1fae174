//! Passkeys: added, used as the first, second and fresh factor, and refused. Most tests use a software authenticator. One
//! uses the virtual authenticator of Chromium, where Chromium is installed.

use std::time::Duration;

use serde_json::{Value, json};

use super::{invalid_token, members, not_authenticated, text};
use crate::support::authenticator::Authenticator;
use crate::support::browser::{self, Browser};
use crate::support::host::PASSWORD;
use crate::support::passkey::{Claims, Passkey};
use crate::support::{Client, TestHost, TestResponse, both};

const JANE: &str = "jane@example.com";
const ADDED: &str = "/users/me/factors/passkeys";

both! {
    a_passkey_is_the_first_the_second_and_a_fresh_factor => Setup::default().with_manual_clock(),
    a_passkey_is_accepted_once_and_only_for_its_account_and_site => Setup::default().with_manual_clock(),
}

/// The statements of an honest browser at the frontend of test hosts.
fn honest() -> Claims {
    Claims {
        origin: "https://shop.example".to_owned(),
        rp_id: "shop.example".to_owned(),
        user_verified: true,
        counter: 0,
    }
}

async fn options(client: &Client) -> Value {
    client.post("/users/me/factors/passkeys/options", &json!({})).await.ok()["options"].clone()
}

/// Adds a passkey for a client who just signed in.
async fn add(client: &Client) -> (Passkey, Value) {
    let (passkey, response) = Passkey::create(&options(client).await, honest());
    let body = json!({ "name": "Laptop", "passkey": response });
    (passkey, client.post(ADDED, &body).await.ok())
}

async fn request(host: &TestHost) -> Value {
    host.anonymous().post("/login/passkey/options", &json!({})).await.ok()["options"].clone()
}

async fn sign_in(host: &TestHost, response: &Value) -> TestResponse {
    host.anonymous().post("/login/passkey", &json!({ "passkey": response })).await
}

#[track_caller]
fn is_refused(response: &TestResponse) {
    response.is_problem(400, "invalid_passkey", "The passkey was not accepted");
}

async fn a_passkey_is_the_first_the_second_and_a_fresh_factor(host: &TestHost) {
    let client = host.user(JANE).await;
    let begun = client.post("/users/me/factors/passkeys/options", &json!({})).await.ok()["options"].clone();
    assert_eq!((text(&begun["rp"], "id"), text(&begun["user"], "name")), ("shop.example", JANE));
    let selection = &begun["authenticatorSelection"];
    assert_eq!((&selection["residentKey"], &selection["userVerification"]), (&json!("required"), &json!("required")));
    let (mut passkey, added) = add(&client).await;
    assert_eq!(members(&added), ["id", "recovery_codes"]);
    assert_eq!(added["recovery_codes"].as_array().unwrap().len(), 10);
    assert!(host.mails().take_note(JANE).await.html.contains("A passkey was added."));
    let factors = client.get("/users/me/factors").await.ok();
    assert_eq!(factors["methods"], json!(["passkey", "recovery_code"]));
    let at = "2027-01-15T08:00:00.123456Z";
    let shown = json!([{ "id": added["id"], "name": "Laptop", "created_at": at, "last_used_at": null }]);
    assert_eq!(factors["passkeys"], shown);

    // The first factor.
    let asked = request(host).await;
    assert_eq!((&asked["userVerification"], &asked["allowCredentials"]), (&json!("required"), &json!([])));
    let signed_in = sign_in(host, &passkey.get(&asked)).await;
    assert_eq!(signed_in.header("cache-control"), Some("no-store"));
    let second = host.anonymous().with_token(text(&signed_in.ok(), "access_token"));
    second.get("/users/me").await.ok();
    assert_eq!(client.get("/users/me/factors").await.ok()["passkeys"][0]["last_used_at"], at);

    // The second factor. The password alone is not enough any more.
    let problem = host.anonymous().sign_in(JANE, PASSWORD).await.problem();
    assert_eq!(
        (text(&problem, "code"), &problem["methods"]),
        ("second_factor_required", &json!(["passkey", "recovery_code"]))
    );
    let proof = passkey.get(&request(host).await);
    let body = json!({ "challenge": problem["challenge"], "passkey": proof });
    host.anonymous().post("/login/second-factor", &body).await.ok();

    // A fresh proof; a counter that grows.
    host.clock().advance(Duration::from_secs(601));
    client.post("/users/me/factors/recovery-codes", &json!({})).await.has_code(403, "step_up_required");
    passkey.claims.counter = 7;
    let proof = json!({ "passkey": passkey.get(&request(host).await) });
    client.post("/login/step-up", &proof).await.ok();
    client.post("/users/me/factors/recovery-codes", &json!({})).await.ok();

    // A second passkey keeps the recovery codes, and an app is a factor next to it.
    let (_, other) = add(&client).await;
    assert_eq!(other["recovery_codes"], json!([]));
    // It ends the other sessions, which somebody else may have begun.
    invalid_token(&second.get("/users/me").await);
    Authenticator::enrol(host, &client).await;
    client.delete("/users/me/factors/totp").await.ok();
    let path = |added: &Value| format!("{ADDED}/{}", text(added, "id"));
    client.delete(&path(&added)).await.has_message("Passkey removed successfully");
    for change in
        ["recovery codes were replaced", "passkey was added", "app was added", "app was removed", "passkey was removed"]
    {
        let note = host.mails().take_note(JANE).await;
        assert!(note.html.contains(change), "{change} in {}", note.html);
    }
    client.delete(&path(&added)).await.has_code(404, "factor_not_found");
    is_refused(&sign_in(host, &passkey.get(&request(host).await)).await);
    host.anonymous().sign_in(JANE, PASSWORD).await.has_code(403, "second_factor_required");
    client.delete(&path(&other)).await.ok();
    let factors = client.get("/users/me/factors").await.ok();
    assert_eq!((&factors["methods"], &factors["recovery_codes"]), (&json!([]), &json!(0)));
    host.anonymous().sign_in(JANE, PASSWORD).await.ok();
    not_authenticated(&host.anonymous().post(ADDED, &json!({ "name": "x", "passkey": {} })).await);
}

async fn a_passkey_is_accepted_once_and_only_for_its_account_and_site(host: &TestHost) {
    let (jane, joe) = (host.user(JANE).await, host.user("joe@example.com").await);
    let post = async |client: &Client, response: &Value| {
        client.post(ADDED, &json!({ "name": "x", "passkey": response })).await
    };
    // A phishing site, another name, no verification of the user; and each request is used up by its first response.
    let bad: [fn(&mut Claims); 4] = [
        |claims| claims.origin = "https://shop.example.evil.example".to_owned(),
        |claims| claims.origin = "http://shop.example".to_owned(),
        |claims| claims.rp_id = "evil.example".to_owned(),
        |claims| claims.user_verified = false,
    ];
    for change in bad {
        let mut claims = honest();
        change(&mut claims);
        let begun = options(&jane).await;
        is_refused(&post(&jane, &Passkey::create(&begun, claims).1).await);
        is_refused(&post(&jane, &Passkey::create(&begun, honest()).1).await);
    }
    // The request of another account, one that has expired, one that the host never sent, and no response at all.
    is_refused(&post(&joe, &Passkey::create(&options(&jane).await, honest()).1).await);
    let mut invented = options(&jane).await;
    invented["challenge"] = json!("AAAAAAAAAAAAAAAAAAAAAA");
    is_refused(&post(&jane, &Passkey::create(&invented, honest()).1).await);
    for nonsense in [json!({}), json!({ "id": "x" }), json!([])] {
        let response = post(&jane, &nonsense).await;
        assert!([400, 422].contains(&response.status), "{}", response.text());
    }
    let late = options(&jane).await;
    host.clock().advance(Duration::from_secs(299));
    let (passkey, added) = add(&jane).await;
    host.clock().advance(Duration::from_secs(2));
    is_refused(&post(&jane, &Passkey::create(&late, honest()).1).await);
    assert_eq!(added["recovery_codes"].as_array().unwrap().len(), 10);

    // The same for the use of a passkey.
    let mut passkey = passkey;
    for change in bad {
        passkey.claims = honest();
        change(&mut passkey.claims);
        let asked = request(host).await;
        is_refused(&sign_in(host, &passkey.get(&asked)).await);
        passkey.claims = honest();
        is_refused(&sign_in(host, &passkey.get(&asked)).await);
    }
    let asked = request(host).await;
    let mut response = passkey.get(&asked);
    response["response"]["signature"] =
        Passkey::create(&options(&joe).await, honest()).0.get(&asked)["response"]["signature"].clone();
    is_refused(&sign_in(host, &response).await);
    // A response works once; of three at a time, one is accepted.
    let response = passkey.get(&request(host).await);
    let (one, two, three) = tokio::join!(sign_in(host, &response), sign_in(host, &response), sign_in(host, &response));
    assert_eq!([one, two, three].iter().filter(|response| response.status == 200).count(), 1);
    is_refused(&sign_in(host, &response).await);
    // A counter that goes back tells of a copy.
    passkey.claims.counter = 9;
    sign_in(host, &passkey.get(&request(host).await)).await.ok();
    passkey.claims.counter = 9;
    is_refused(&sign_in(host, &passkey.get(&request(host).await)).await);
    // The account in the response is not believed.
    let mut response = passkey.get(&request(host).await);
    response["response"]["userHandle"] = options(&joe).await["user"]["id"].clone();
    is_refused(&sign_in(host, &response).await);
    // Refusals are recorded with the account.
    let refused = format!("action=session.refuse&object=user:{}", text(&jane.get("/users/me").await.ok(), "id"));
    let recorded = host.superuser().get(&format!("/audit/?limit=1000&{refused}")).await.ok();
    assert!(!recorded["data"].as_array().unwrap().is_empty(), "{recorded}");
    // Nor is the passkey of one account a factor of another.
    Authenticator::enrol(host, &joe).await;
    let problem = host.anonymous().sign_in("joe@example.com", PASSWORD).await.problem();
    passkey.claims.counter = 10;
    let body = json!({ "challenge": problem["challenge"], "passkey": passkey.get(&request(host).await) });
    host.anonymous().post("/login/second-factor", &body).await.has_code(400, "incorrect_code");
    passkey.claims.counter = 11;
    let proof = json!({ "passkey": passkey.get(&request(host).await) });
    joe.post("/login/step-up", &proof).await.has_code(400, "incorrect_code");
    // An account that is not active, and one that is gone.
    let path = format!("/users/{}", text(&jane.get("/users/me").await.ok(), "id"));
    host.superuser().patch(&path, &json!({ "is_active": false })).await.ok();
    passkey.claims.counter = 12;
    let inactive = sign_in(host, &passkey.get(&request(host).await)).await;
    inactive.is_problem(400, "inactive_user", "Inactive user");
    host.superuser().delete(&path).await.ok();
    passkey.claims.counter = 13;
    is_refused(&sign_in(host, &passkey.get(&request(host).await)).await);
    invalid_token(&jane.get("/users/me").await);
}

/// The page of a frontend.
const PAGE: &str = "<!doctype html><title>Frontend</title>";

/// Adds a passkey and signs in with it, as a frontend does. Returns the status of a request with the new token.
const SCRIPT: &str = r#"(async () => {
    const call = async (path, body, token) => {
        const headers = { "content-type": "application/json" };
        if (token) headers.authorization = `Bearer ${token}`;
        const response = await fetch(`/api/v1${path}`, { method: "POST", headers, body: JSON.stringify(body) });
        const json = await response.json();
        if (!response.ok) throw new Error(`${path}: ${JSON.stringify(json)}`);
        return json;
    };
    const made = await call("/users/me/factors/passkeys/options", {}, TOKEN);
    const created = await navigator.credentials.create({
        publicKey: PublicKeyCredential.parseCreationOptionsFromJSON(made.options),
    });
    const added = await call("/users/me/factors/passkeys", { name: "Chromium", passkey: created.toJSON() }, TOKEN);
    const asked = await call("/login/passkey/options", {});
    const used = await navigator.credentials.get({
        publicKey: PublicKeyCredential.parseRequestOptionsFromJSON(asked.options),
    });
    const tokens = await call("/login/passkey", { passkey: used.toJSON() });
    const me = await fetch("/api/v1/users/me", { headers: { authorization: `Bearer ${tokens.access_token}` } });
    return { codes: added.recovery_codes.length, me: (await me.json()).email };
})()"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chromium_adds_a_passkey_and_signs_in_with_it() {
    let Some(program) = browser::installed() else {
        eprintln!("skipped: no chromium-headless-shell, chromium or google-chrome in PATH");
        return;
    };
    let frontend = tempfile::tempdir().unwrap();
    std::fs::write(frontend.path().join("index.html"), PAGE).unwrap();
    let directory = frontend.path().to_owned();
    let setup = crate::support::Setup::default().with(|config| config.server.static_dir = Some(directory));
    let mut host = TestHost::sqlite(setup).await;
    // A page of this host is a frontend for passkeys only at a name, not at an address.
    let (addr, url) = (host.addr(), format!("http://localhost:{}", host.addr().port()));
    let frontend_url = url.parse::<wharf::config::FrontendUrls>().unwrap();
    host.restart_with(|config| {
        config.server.listen = addr;
        config.server.frontend_url = frontend_url;
    })
    .await;
    let jane = host.user(JANE).await;
    let script = SCRIPT.replace("TOKEN", &format!("{:?}", jane.token()));
    let outcome = tokio::task::spawn_blocking(move || {
        let mut browser = Browser::start(program);
        browser.call("WebAuthn.enable", json!({}));
        let authenticator = json!({ "options": {
            "protocol": "ctap2",
            "transport": "internal",
            "hasResidentKey": true,
            "hasUserVerification": true,
            "isUserVerified": true,
            "automaticPresenceSimulation": true,
        } });
        browser.call("WebAuthn.addVirtualAuthenticator", authenticator);
        browser.open(&format!("{url}/"));
        browser.evaluate(&script)
    });
    assert_eq!(outcome.await.unwrap(), json!({ "codes": 10, "me": JANE }));
    host.stop().await;
}
