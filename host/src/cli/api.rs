//! The client of the operator API. Owns requests and the explanation of errors to people. It parses responses
//! leniently, so that an older command works with a newer host.

mod next_step;

use std::io::{Cursor, Read};
use std::path::Path;
use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value};
pub(super) use ureq::http::Method;
use ureq::http::{Request, Response};
use ureq::{Agent, Body, SendBody};
use url::Url;

use self::next_step::next_step;
use super::credentials::Credentials;
use super::failure::Failure;
use crate::clock::Random;
use crate::config::{Secret, source};
use crate::http::pace::MIN_BYTES_PER_SECOND;

/// The largest response to read, in bytes; the operator API sends none that is larger.
const MAX_RESPONSE: u64 = 16 * 1024 * 1024;

/// The timeout of a connect, and of a request that should be quick.
const SHORT_TIMEOUT: Duration = Duration::from_secs(10);

/// The timeout of other requests: a deploy compiles, migrates and smoke-tests the component before the host responds.
const LONG_TIMEOUT: Duration = Duration::from_secs(300);

/// The operator API's path of plugins.
pub(super) const PLUGINS: &str = "/api/v1/plugins/";
/// The operator API's path of the audit log.
pub(super) const AUDIT: &str = "/api/v1/audit/";

/// The most digits that an authenticator app shows. A recovery code is longer.
const MOST_DIGITS: usize = 8;

/// The outcome of a password that was right.
pub(super) enum SignedIn {
    /// The access token.
    Token(Secret),
    /// The account has a second factor; the challenge continues the sign-in.
    SecondFactor(Secret),
}

/// The option that names the host.
#[derive(Debug, Args)]
pub(super) struct Remote {
    /// The host to talk to
    #[arg(long, env = "WHARF_URL", default_value = "http://127.0.0.1:8000")]
    pub(super) url: String,
}

/// A client of one host, with a login or without.
pub(super) struct Api {
    agent: Agent,
    url: String,
    token: Option<Secret>,
}

impl Api {
    /// Creates a client that authenticates by `WHARF_TOKEN`, by the file of `WHARF_TOKEN_FILE`, or else by the login that
    /// `wharf login` stored.
    pub(super) fn open(remote: &Remote) -> Result<Self, Failure> {
        let mut api = Self::without_login(&remote.url)?;
        // There is no flag for the token: every user of the machine can read the arguments of a process.
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        api.token = match (variable("WHARF_TOKEN"), variable("WHARF_TOKEN_FILE")) {
            (Some(_), Some(_)) => return Err(Failure::usage("WHARF_TOKEN and WHARF_TOKEN_FILE are both set")),
            (Some(token), None) => Some(Secret::new(token.trim())),
            (None, Some(file)) => {
                let path = Path::new(file.trim());
                let token = source::read_secret(path).map_err(|reason| match source::may_be_named(path) {
                    true => Failure::usage(format!("WHARF_TOKEN_FILE: {file} {reason}")),
                    false => Failure::usage("WHARF_TOKEN_FILE names no file"),
                })?;
                Some(Secret::new(token))
            }
            (None, None) => Credentials::of_person()?.find(&api.url)?.map(|login| Secret::new(login.access_token)),
        };
        if api.token.is_none() {
            let text = format!("not signed in to {}", api.url);
            return Err(Failure::new(text).next("Run `wharf login`, or set WHARF_TOKEN."));
        }
        Ok(api)
    }

    /// Creates a client without credentials.
    pub(super) fn without_login(url: &str) -> Result<Self, Failure> {
        let usage = |reason: &str| {
            Failure::usage(format!("{url:?} is not the URL of a host: {reason}"))
                .next("Give --url or WHARF_URL, such as http://127.0.0.1:8000.")
        };
        // An empty variable counts as unset.
        let given = if url.is_empty() { "http://127.0.0.1:8000" } else { url };
        let parsed = Url::parse(given).map_err(|error| usage(&error.to_string()))?;
        if !matches!(parsed.scheme(), "http" | "https") {
            return Err(usage("it begins with neither http:// nor https://"));
        }
        if !parsed.username().is_empty() || parsed.password().is_some() || parsed.query().is_some() {
            return Err(usage("it has a user name, a password or a query"));
        }
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            // A redirect would send a component or a password to a server that the operator did not name.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("wharf/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(SHORT_TIMEOUT))
            .timeout_recv_response(Some(LONG_TIMEOUT))
            .timeout_recv_body(Some(LONG_TIMEOUT))
            .timeout_send_body(Some(LONG_TIMEOUT))
            .build()
            .new_agent();
        Ok(Self { agent, url: parsed.as_str().trim_end_matches('/').to_owned(), token: None })
    }

    /// Returns the URL of the host, without a trailing slash.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Exchanges an email address and a password for an access token, or for a challenge if the account has a second
    /// factor.
    pub(super) fn sign_in(&self, email: &str, password: &Secret) -> Result<SignedIn, Failure> {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("username", email).append_pair("password", password.expose());
        let request = self.request(Method::POST, "/api/v1/login/access-token")?;
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        match self.send(request.body(form.finish()).map_err(malformed)?) {
            Ok(response) => self.token_of(&response).map(SignedIn::Token),
            Err(failure) => match failure.members.get("challenge").and_then(Value::as_str) {
                Some(challenge) => Ok(SignedIn::SecondFactor(Secret::new(challenge))),
                None => Err(failure),
            },
        }
    }

    /// Completes a sign-in with a code of an authenticator app, or with a recovery code, which is longer.
    pub(super) fn complete_sign_in(&self, challenge: &Secret, code: &Secret) -> Result<Secret, Failure> {
        let digits = code.expose().chars().filter(|c| !c.is_whitespace()).count();
        let proof = if digits > MOST_DIGITS { "recovery_code" } else { "code" };
        let body = serde_json::json!({ "challenge": challenge.expose(), proof: code.expose() });
        let request = self.request(Method::POST, "/api/v1/login/second-factor")?;
        let request = request.header("content-type", "application/json");
        let response = self.send(request.body(body.to_string()).map_err(malformed)?)?;
        self.token_of(&response)
    }

    fn token_of(&self, response: &Value) -> Result<Secret, Failure> {
        let token = response.get("access_token").and_then(Value::as_str);
        token.map(Secret::new).ok_or_else(|| Failure::new(format!("{} sent no token", self.url)))
    }

    /// Sends a `GET`.
    pub(super) fn get(&self, path: &str) -> Result<Value, Failure> {
        self.send(self.request(Method::GET, path)?.body(()).map_err(malformed)?)
    }

    /// Sends a `GET` and returns the body as the host wrote it, which must be JSON.
    pub(super) fn get_text(&self, path: &str) -> Result<String, Failure> {
        self.send_for_text(self.request(Method::GET, path)?.body(()).map_err(malformed)?).map(|(text, _)| text)
    }

    /// Sends a `GET` with a short timeout.
    pub(super) fn get_quickly(&self, path: &str) -> Result<Value, Failure> {
        let request = self.request(Method::GET, path)?.body(()).map_err(malformed)?;
        self.send(self.agent.configure_request(request).timeout_global(Some(SHORT_TIMEOUT)).build())
    }

    /// Sends a `POST` without a body.
    pub(super) fn post(&self, path: &str) -> Result<Value, Failure> {
        self.send(self.request(Method::POST, path)?.body(()).map_err(malformed)?)
    }

    /// Sends a `POST` with a JSON body.
    pub(super) fn post_json(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let request = self.request(Method::POST, path)?.header("content-type", "application/json");
        self.send(request.body(body.to_string()).map_err(malformed)?)
    }

    /// Sends a `PUT` without a body.
    pub(super) fn put(&self, path: &str) -> Result<Value, Failure> {
        self.send(self.request(Method::PUT, path)?.body(()).map_err(malformed)?)
    }

    /// Sends a JSON body by `POST`, `PUT` or `PATCH`.
    pub(super) fn send_json(&self, method: Method, path: &str, body: &Value) -> Result<Value, Failure> {
        let request = self.request(method, path)?.header("content-type", "application/json");
        self.send(request.body(body.to_string()).map_err(malformed)?)
    }

    /// Sends a `DELETE`.
    pub(super) fn delete(&self, path: &str) -> Result<Value, Failure> {
        self.send(self.request(Method::DELETE, path)?.body(()).map_err(malformed)?)
    }

    /// Uploads a component of `length` bytes by `POST`, with the settings of the plugin as JSON if they are given.
    pub(super) fn upload(
        &self,
        path: &str,
        component: impl Read + 'static,
        length: u64,
        settings: Option<&str>,
    ) -> Result<Value, Failure> {
        let boundary = format!("wharf-{}", Random::System.uuid().map_err(|error| Failure::host(&error))?.simple());
        let (content_type, before, after) = match settings {
            None => ("application/wasm".to_owned(), String::new(), String::new()),
            Some(settings) => (
                format!("multipart/form-data; boundary={boundary}"),
                format!(
                    "--{boundary}\r\ncontent-disposition: form-data; name=\"settings\"\r\n\
                     content-type: application/json\r\n\r\n{settings}\r\n--{boundary}\r\n\
                     content-disposition: form-data; name=\"component\"; filename=\"component.wasm\"\r\n\
                     content-type: application/wasm\r\n\r\n"
                ),
                format!("\r\n--{boundary}--\r\n"),
            ),
        };
        let framing = u64::try_from(before.len().saturating_add(after.len())).unwrap_or(u64::MAX);
        let length = length.saturating_add(framing);
        let request = self
            .request(Method::POST, path)?
            .header("content-type", content_type)
            .header("content-length", length)
            // Lets the host refuse a caller before the component is sent.
            .header("expect", "100-continue");
        let body = Cursor::new(before).chain(component).chain(Cursor::new(after));
        let request = request.body(SendBody::from_owned_reader(body)).map_err(malformed)?;
        // The host refuses a slower upload.
        let time = LONG_TIMEOUT.saturating_add(Duration::from_secs(length / MIN_BYTES_PER_SECOND));
        self.send(self.agent.configure_request(request).timeout_send_body(Some(time)).build())
    }

    fn request(&self, method: Method, path: &str) -> Result<ureq::http::request::Builder, Failure> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.url));
        request = request.header("accept", "application/json");
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {}", token.expose()));
        }
        Ok(request)
    }

    fn send(&self, request: Request<impl ureq::AsSendBody>) -> Result<Value, Failure> {
        self.send_for_text(request).map(|(_, value)| value)
    }

    /// Sends a request and returns the body of a successful response, as text and parsed.
    fn send_for_text(&self, request: Request<impl ureq::AsSendBody>) -> Result<(String, Value), Failure> {
        let mut response = self.agent.run(request).map_err(|error| self.unreachable(&error))?;
        let text = response.body_mut().with_config().limit(MAX_RESPONSE).read_to_string();
        let text = text.map_err(|error| self.unreachable(&error))?;
        let value = serde_json::from_str::<Value>(&text).ok();
        match value {
            Some(value) if response.status().is_success() => Ok((text, value)),
            Some(Value::Object(problem)) => Err(self.refused(&response, problem)),
            _ => Err(Failure::new(format!(
                "{} responded with {} and a body that is not Wharf's",
                self.url,
                response.status()
            ))
            .next("Is another server, or a proxy, at this URL? Set --url or WHARF_URL.")),
        }
    }

    fn unreachable(&self, error: &ureq::Error) -> Failure {
        let next = match error {
            ureq::Error::Timeout(_) => "The host is slow or unreachable; try again, or look at its log.",
            _ => "Is it running (`wharf serve`), and is the URL right (--url, WHARF_URL)?",
        };
        Failure::new(format!("no response from {}: {error}", self.url)).next(next)
    }

    fn refused(&self, response: &Response<Body>, problem: Map<String, Value>) -> Failure {
        let status = response.status();
        let text = |name: &str| problem.get(name).and_then(Value::as_str).map(str::to_owned);
        let detail = text("detail").unwrap_or_else(|| status.to_string());
        let mut failure = Failure::new(format!("{detail} ({status})"));
        for finding in problem.get("errors").and_then(Value::as_array).into_iter().flatten() {
            failure.details.push(describe(finding));
        }
        if let Some(omitted) = problem.get("errors_omitted").and_then(Value::as_u64) {
            failure.details.push(format!("and {omitted} more"));
        }
        // The code can be looked up in the documentation, and the id in the host's log.
        for name in ["permission", "code", "request_id"] {
            if let Some(value) = text(name).filter(|value| !value.is_empty()) {
                failure.details.push(format!("{}: {value}", name.replace('_', " ")));
            }
        }
        let retry = response.headers().get("retry-after").and_then(|value| value.to_str().ok());
        let code = text("code").unwrap_or_default();
        failure.next = next_step(status.as_u16(), &code, self.token.is_some(), retry);
        failure.members = problem;
        failure
    }
}

fn malformed(error: ureq::http::Error) -> Failure {
    Failure::usage(format!("the request is malformed: {error}"))
}

/// `query.mount: msg`
fn describe(finding: &Value) -> String {
    let place: Vec<_> = finding
        .get("loc")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|step| step.as_str().map_or_else(|| step.to_string(), str::to_owned))
        .collect();
    let msg = finding.get("msg").and_then(Value::as_str).unwrap_or("refused");
    format!("{}: {msg}", place.join("."))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::TcpListener;

    use super::*;

    /// Starts a host that gives one response. The thread returns the request.
    fn responding(status: &'static str, body: &'static str) -> (Api, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut api = Api::without_login(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
        api.token = Some(Secret::new("secret"));
        let request = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                let mut bytes = [0; 1024];
                let read = stream.read(&mut bytes).unwrap();
                request.extend_from_slice(&bytes[..read]);
            }
            let length = body.len();
            let head = format!("HTTP/1.1 {status}\r\nretry-after: 3\r\ncontent-length: {length}\r\nconnection: close");
            stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).unwrap();
            String::from_utf8(request).unwrap()
        });
        (api, request)
    }

    #[test]
    fn a_request_carries_the_token_and_its_response_is_parsed() {
        let (api, request) = responding("200 OK", r#"{"count":1,"new":{}}"#);
        assert_eq!(api.get("/api/v1/plugins/").unwrap()["count"], 1);
        let request = request.join().unwrap();
        assert!(request.starts_with("GET /api/v1/plugins/ HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("authorization: Bearer secret"), "{request}");
    }

    #[test]
    fn an_error_is_shown_with_its_details_and_the_next_step() {
        let problem = r#"{"detail":"Bad mount","code":"validation_error","request_id":"r1",
            "errors":[{"loc":["query","mount",0],"type":"x","msg":"must begin with /"}]}"#;
        let (api, _) = responding("422 Unprocessable Entity", problem);
        let failure = api.get("/").unwrap_err();
        assert_eq!(failure.text, "Bad mount (422 Unprocessable Entity)");
        let details = ["query.mount.0: must begin with /", "code: validation_error", "request id: r1"];
        assert_eq!(failure.details, details);
        assert_eq!(failure.to_json()["error"]["code"], "validation_error");

        let next = |status, body| responding(status, body).0.get("/").unwrap_err().next.unwrap();
        assert_eq!(next("401 Unauthorized", r#"{"detail":"x"}"#), "Run `wharf login` (or renew WHARF_TOKEN).");
        assert_eq!(next("503 Service Unavailable", r#"{"detail":"x"}"#), "Try again in 3 seconds.");
        assert!(next("403 Forbidden", r#"{"detail":"x","code":"grant_missing"}"#).contains("--grant"));
        assert!(next("502 Bad Gateway", "<html>").contains("Is another server"));
    }

    #[test]
    fn an_upload_states_its_length_and_expects_100_continue() {
        let (api, request) = responding("401 Unauthorized", r#"{"detail":"x"}"#);
        assert!(api.upload("/", std::io::repeat(0).take(1 << 20), 1 << 20, None).is_err());
        let request = request.join().unwrap();
        assert!(request.contains("content-length: 1048576") && request.contains("expect: 100-continue"), "{request}");
    }
}
