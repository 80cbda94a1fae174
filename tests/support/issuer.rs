//! A small OpenID Connect issuer on loopback. A test plays the browser: it takes the URL that the host sent it to, lets
//! the issuer approve somebody, and brings the answer back. The issuer checks what a real one checks (client, redirect
//! URI, PKCE), and signs whatever a test wants.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use reqwest::Url;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use wharf::clock::Clock;
use wharf::config::Secret;

use super::remote::{Remote, Reply};

/// The secret of every client.
pub(crate) const CLIENT_SECRET: &str = "canary-client-secret";

/// The issuer. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Issuer {
    pub(crate) name: &'static str,
    remote: Remote,
    clock: Clock,
    state: Arc<Mutex<State>>,
}

struct State {
    keys: Vec<SigningKey>,
    /// The grant of each code that was not used yet.
    codes: HashMap<String, Grant>,
    /// The number of codes so far.
    issued: usize,
    userinfo: Option<Value>,
    /// Replaces the response of a path.
    broken: Option<(&'static str, Reply)>,
}

struct SigningKey {
    kid: String,
    key: KeyPair,
}

struct Grant {
    challenge: String,
    redirect_uri: String,
    id_token: String,
}

/// The ID token of an approval, before it is signed. A test changes it to forge one.
pub(crate) struct Forgery {
    pub(crate) header: Header,
    pub(crate) claims: Value,
    /// Signs in place of the issuer's key.
    pub(crate) key: Option<EncodingKey>,
    /// Replaces the token as a whole.
    pub(crate) token: Option<String>,
}

impl SigningKey {
    fn new(kid: &str) -> Self {
        Self { kid: kid.to_owned(), key: KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap() }
    }

    fn jwk(&self) -> Value {
        // Uncompressed: 4, x, y.
        let point = self.key.public_key_raw();
        let (x, y) = point[1..].split_at(32);
        json!({ "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": self.kid,
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y) })
    }
}

/// Returns a private key that no issuer publishes.
pub(crate) fn foreign_key() -> EncodingKey {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    EncodingKey::from_ec_pem(key.serialize_pem().as_bytes()).unwrap()
}

impl Issuer {
    pub(crate) async fn start(name: &'static str, clock: &Clock) -> Self {
        let state = Arc::new(Mutex::new(State {
            keys: vec![SigningKey::new("first")],
            codes: HashMap::new(),
            issued: 0,
            userinfo: None,
            broken: None,
        }));
        let serving = Arc::clone(&state);
        let remote = Remote::start(move |request| respond(&mut serving.lock().unwrap(), request)).await;
        Self { name, remote, clock: clock.clone(), state }
    }

    pub(crate) fn url(&self) -> String {
        self.remote.origin()
    }

    /// Returns the settings of a host that trusts this issuer.
    pub(crate) fn settings(&self) -> wharf::config::Issuer {
        wharf::config::Issuer {
            name: self.name.parse().unwrap(),
            url: self.url(),
            client_id: format!("wharf-at-{}", self.name),
            client_secret: Some(Secret::new(CLIENT_SECRET)),
            scopes: vec!["email".to_owned(), "profile".to_owned()],
            label: self.name.to_uppercase(),
            create_accounts: None,
        }
    }

    /// Returns the texts of the requests so far.
    pub(crate) fn seen(&self) -> Vec<String> {
        self.remote.seen()
    }

    /// Signs with a new key from now on. The old one is no longer published.
    pub(crate) fn rotate(&self) {
        self.state.lock().unwrap().keys = vec![SigningKey::new("second")];
    }

    /// Responds to a path in another way, or again as before.
    pub(crate) fn break_path(&self, broken: Option<(&'static str, Reply)>) {
        self.state.lock().unwrap().broken = broken;
    }

    /// Sets the claims of the user info endpoint.
    pub(crate) fn tell_userinfo(&self, claims: Value) {
        self.state.lock().unwrap().userinfo = Some(claims);
    }

    /// Approves the sign-in of somebody with these claims, and returns the query that the browser brings back.
    pub(crate) fn approve(&self, authorization_url: &str, claims: &Value) -> String {
        self.approve_with(authorization_url, claims, |_| ())
    }

    /// Does the same with a forged ID token.
    pub(crate) fn approve_with(
        &self,
        authorization_url: &str,
        claims: &Value,
        forge: impl FnOnce(&mut Forgery),
    ) -> String {
        let url: Url = authorization_url.parse().unwrap();
        let query: HashMap<String, String> = url.query_pairs().into_owned().collect();
        let of = |name: &str| query.get(name).unwrap_or_else(|| panic!("no {name} in {url}")).clone();
        assert!(authorization_url.starts_with(&format!("{}/authorize?", self.url())), "{url}");
        assert_eq!((of("response_type").as_str(), of("code_challenge_method").as_str()), ("code", "S256"));
        assert_eq!(of("client_id"), format!("wharf-at-{}", self.name));
        assert_eq!(of("scope"), "openid email profile");
        let now = self.clock.now().as_secs();
        let mut state = self.state.lock().unwrap();
        let signer = state.keys.last().unwrap();
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(signer.kid.clone());
        let mut all = json!({ "iss": self.url(), "aud": of("client_id"), "iat": now, "exp": now + 300,
            "nonce": of("nonce") });
        all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        let own = EncodingKey::from_ec_pem(signer.key.serialize_pem().as_bytes()).unwrap();
        let mut forgery = Forgery { header, claims: all, key: None, token: None };
        forge(&mut forgery);
        let key = forgery.key.unwrap_or(own);
        let sign = || jsonwebtoken::encode(&forgery.header, &forgery.claims, &key).unwrap();
        let id_token = forgery.token.unwrap_or_else(sign);
        state.issued += 1;
        let code = format!("code-{}-{}", self.name, state.issued);
        let grant = Grant { challenge: of("code_challenge"), redirect_uri: of("redirect_uri"), id_token };
        state.codes.insert(code.clone(), grant);
        format!("code={code}&state={}", of("state"))
    }
}

fn respond(state: &mut State, request: &str) -> Reply {
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let mut line = head.split(' ');
    let (method, path) = (line.next().unwrap(), line.next().unwrap());
    if let Some((broken, reply)) = &state.broken
        && *broken == path
    {
        return reply.clone();
    }
    let host = head.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    let base = format!("http://{host}");
    match (method, path) {
        ("GET", "/.well-known/openid-configuration") => json_reply(
            200,
            &json!({
                "issuer": base,
                "authorization_endpoint": format!("{base}/authorize"),
                "token_endpoint": format!("{base}/token"),
                "userinfo_endpoint": format!("{base}/userinfo"),
                "jwks_uri": format!("{base}/jwks"),
                "response_types_supported": ["code"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["ES256", "HS256", "none"],
            }),
        ),
        ("GET", "/jwks") => {
            json_reply(200, &json!({ "keys": state.keys.iter().map(SigningKey::jwk).collect::<Vec<_>>() }))
        }
        ("GET", "/userinfo") => {
            assert!(head.lines().any(|line| line == "authorization: Bearer of-the-issuer"), "{head}");
            match &state.userinfo {
                Some(claims) => json_reply(200, claims),
                None => json_reply(403, &json!({})),
            }
        }
        ("POST", "/token") => token(state, head, body),
        _ => json_reply(404, &json!({})),
    }
}

fn token(state: &mut State, head: &str, body: &str) -> Reply {
    let form: Url = format!("http://form/?{body}").parse().unwrap();
    let form: HashMap<String, String> = form.query_pairs().into_owned().collect();
    let credentials = head.lines().find_map(|line| line.strip_prefix("authorization: Basic ")).unwrap();
    let credentials = String::from_utf8(STANDARD.decode(credentials).unwrap()).unwrap();
    assert!(credentials.ends_with(&format!(":{CLIENT_SECRET}")), "{credentials}");
    assert_eq!(form["grant_type"], "authorization_code");
    let Some(grant) = state.codes.remove(&form["code"]) else {
        return json_reply(400, &json!({ "error": "invalid_grant", "error_description": "used" }));
    };
    let verifier = form.get("code_verifier").map(String::as_str).unwrap_or_default();
    if URL_SAFE_NO_PAD.encode(Sha256::digest(verifier)) != grant.challenge || form["redirect_uri"] != grant.redirect_uri
    {
        return json_reply(400, &json!({ "error": "invalid_grant", "error_description": "PKCE" }));
    }
    let tokens = json!({ "access_token": "of-the-issuer", "token_type": "Bearer", "id_token": grant.id_token });
    json_reply(200, &tokens)
}

fn json_reply(status: u16, body: &Value) -> Reply {
    Reply::with(status, "content-type: application/json\r\n", &body.to_string())
}
