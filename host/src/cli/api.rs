//! A running host, seen from outside: requests of the operator API and what its refusals mean to a person. Reads answers
//! leniently, so that an older command works with a newer host.

use std::io::Read;
use std::time::Duration;

use serde_json::{Map, Value};
use ureq::http::{Method, Request, Response};
use ureq::{Agent, Body, SendBody};
use url::Url;

use super::Remote;
use super::credentials::Credentials;
use super::failure::Failure;
use crate::config::Secret;

/// No answer of the operator API is larger.
const MAX_ANSWER: u64 = 16 * 1024 * 1024;

/// Connecting, and each part of a call that should be quick.
const QUICK: Duration = Duration::from_secs(10);

/// A deploy compiles, migrates and tries the component before it answers.
const PATIENT: Duration = Duration::from_secs(300);

/// One host and, with a login, one caller.
pub(super) struct Api {
    agent: Agent,
    url: String,
    token: Option<Secret>,
}

impl Api {
    /// Talks to a host with `WHARF_TOKEN` or the login that `wharf login` kept.
    pub(super) fn open(remote: &Remote) -> Result<Self, Failure> {
        let mut api = Self::without_login(&remote.url)?;
        // Only by the environment: an argument can be read by everybody on the machine.
        api.token = match std::env::var("WHARF_TOKEN") {
            Ok(token) if !token.trim().is_empty() => Some(Secret::new(token.trim())),
            _ => Credentials::of_person()?.find(&api.url)?.map(|login| Secret::new(login.access_token)),
        };
        if api.token.is_none() {
            let text = format!("not signed in to {}", api.url);
            return Err(Failure::new(text).next("Run `wharf login`, or set WHARF_TOKEN."));
        }
        Ok(api)
    }

    /// Talks to a host as nobody.
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
            return Err(usage("it holds more than a place"));
        }
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            // A redirect would carry a component, or a password, to a place that nobody named.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("wharf/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(QUICK))
            .timeout_recv_response(Some(PATIENT))
            .timeout_recv_body(Some(PATIENT))
            .timeout_send_body(Some(PATIENT))
            .build()
            .new_agent();
        Ok(Self { agent, url: parsed.as_str().trim_end_matches('/').to_owned(), token: None })
    }

    /// The host, without a trailing slash.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Exchanges an email address and a password for an access token.
    pub(super) fn sign_in(&self, email: &str, password: &Secret) -> Result<Secret, Failure> {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("username", email).append_pair("password", password.expose());
        let request = self.request(Method::POST, "/api/v1/login/access-token")?;
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        let answer = self.send(request.body(form.finish()).map_err(malformed)?)?;
        let token = answer.get("access_token").and_then(Value::as_str);
        token.map(Secret::new).ok_or_else(|| Failure::new(format!("{} answered without a token", self.url)))
    }

    /// `GET`.
    pub(super) fn get(&self, path: &str) -> Result<Value, Failure> {
        self.send(self.request(Method::GET, path)?.body(()).map_err(malformed)?)
    }

    /// `GET` of something that is worth no waiting.
    pub(super) fn get_quickly(&self, path: &str) -> Result<Value, Failure> {
        let request = self.request(Method::GET, path)?.body(()).map_err(malformed)?;
        self.send(self.agent.configure_request(request).timeout_global(Some(QUICK)).build())
    }

    /// `POST` without a body.
    pub(super) fn post(&self, path: &str) -> Result<Value, Failure> {
        self.send(self.request(Method::POST, path)?.body(()).map_err(malformed)?)
    }

    /// `PUT` without a body.
    pub(super) fn put(&self, path: &str) -> Result<Value, Failure> {
        self.send(self.request(Method::PUT, path)?.body(()).map_err(malformed)?)
    }

    /// `DELETE`.
    pub(super) fn delete(&self, path: &str) -> Result<Value, Failure> {
        self.send(self.request(Method::DELETE, path)?.body(()).map_err(malformed)?)
    }

    /// `POST` of `length` bytes of a component.
    pub(super) fn upload(&self, path: &str, body: impl Read + 'static, length: u64) -> Result<Value, Failure> {
        let request = self
            .request(Method::POST, path)?
            .header("content-type", "application/wasm")
            .header("content-length", length)
            // Lets the host refuse a caller before the component is sent.
            .header("expect", "100-continue");
        self.send(request.body(SendBody::from_owned_reader(body)).map_err(malformed)?)
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
        let mut response = self.agent.run(request).map_err(|error| self.unreachable(&error))?;
        let text = response.body_mut().with_config().limit(MAX_ANSWER).read_to_string();
        let text = text.map_err(|error| self.unreachable(&error))?;
        let value = serde_json::from_str::<Value>(&text).ok();
        match value {
            Some(value) if response.status().is_success() => Ok(value),
            Some(Value::Object(problem)) => Err(self.refused(&response, problem)),
            _ => Err(Failure::new(format!(
                "{} answered {} and nothing that Wharf would say",
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
        Failure::new(format!("no answer from {}: {error}", self.url)).next(next)
    }

    fn refused(&self, response: &Response<Body>, problem: Map<String, Value>) -> Failure {
        let status = response.status();
        let text = |name: &str| problem.get(name).and_then(Value::as_str).map(str::to_owned);
        let detail = text("detail").unwrap_or_else(|| status.to_string());
        let mut failure = Failure::new(format!("{detail} ({status})"));
        for finding in problem.get("errors").and_then(Value::as_array).into_iter().flatten() {
            failure.details.push(describe(finding));
        }
        // The code is for searching the documentation, the id for searching the host's log.
        for name in ["code", "request_id"] {
            if let Some(value) = text(name).filter(|value| !value.is_empty()) {
                failure.details.push(format!("{}: {value}", name.replace('_', " ")));
            }
        }
        let retry = response.headers().get("retry-after").and_then(|value| value.to_str().ok());
        failure.next = match (status.as_u16(), text("code").as_deref()) {
            (401, _) if self.token.is_some() => Some("Run `wharf login` (or renew WHARF_TOKEN).".to_owned()),
            (403, Some("grant_missing")) => Some(
                "Read what it asks for, then add it with --grant (or `wharf plugin grant`, if it was taken back)."
                    .to_owned(),
            ),
            (_, Some("forbidden")) => Some("Sign in as a superuser with `wharf login`.".to_owned()),
            (_, Some("release_not_found")) => Some("`wharf plugin releases NAME` shows what is kept.".to_owned()),
            (_, Some("plugin_not_found")) => Some("`wharf plugin list` shows what there is.".to_owned()),
            (429 | 503, _) => retry.map(|seconds| format!("Try again in {seconds} seconds.")),
            _ => None,
        };
        failure.members = problem;
        failure
    }
}

fn malformed(error: ureq::http::Error) -> Failure {
    Failure::usage(format!("the request cannot be written: {error}"))
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

    /// A host that gives one answer, and what it was asked.
    fn answering(status: &'static str, body: &'static str) -> (Api, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut api = Api::without_login(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
        api.token = Some(Secret::new("secret"));
        let asked = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = Vec::new();
            while !asked.windows(4).any(|end| end == b"\r\n\r\n") {
                let mut bytes = [0; 1024];
                let read = stream.read(&mut bytes).unwrap();
                asked.extend_from_slice(&bytes[..read]);
            }
            let length = body.len();
            let head = format!("HTTP/1.1 {status}\r\nretry-after: 3\r\ncontent-length: {length}\r\nconnection: close");
            stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).unwrap();
            String::from_utf8(asked).unwrap()
        });
        (api, asked)
    }

    #[test]
    fn an_answer_is_read_and_the_caller_is_named() {
        let (api, asked) = answering("200 OK", r#"{"count":1,"new":{}}"#);
        assert_eq!(api.get("/api/v1/plugins/").unwrap()["count"], 1);
        let asked = asked.join().unwrap();
        assert!(asked.starts_with("GET /api/v1/plugins/ HTTP/1.1\r\n"), "{asked}");
        assert!(asked.contains("authorization: Bearer secret"), "{asked}");
    }

    #[test]
    fn a_refusal_says_what_why_and_what_next() {
        let problem = r#"{"detail":"Bad mount","code":"validation_error","request_id":"r1",
            "errors":[{"loc":["query","mount",0],"type":"x","msg":"must begin with /"}]}"#;
        let (api, _) = answering("422 Unprocessable Entity", problem);
        let failure = api.get("/").unwrap_err();
        assert_eq!(failure.text, "Bad mount (422 Unprocessable Entity)");
        let details = ["query.mount.0: must begin with /", "code: validation_error", "request id: r1"];
        assert_eq!(failure.details, details);
        assert_eq!(failure.to_json()["error"]["code"], "validation_error");

        let next = |status, body| answering(status, body).0.get("/").unwrap_err().next.unwrap();
        assert_eq!(next("401 Unauthorized", r#"{"detail":"x"}"#), "Run `wharf login` (or renew WHARF_TOKEN).");
        assert_eq!(next("503 Service Unavailable", r#"{"detail":"x"}"#), "Try again in 3 seconds.");
        assert!(next("403 Forbidden", r#"{"detail":"x","code":"grant_missing"}"#).contains("--grant"));
        assert!(next("502 Bad Gateway", "<html>").contains("Is another server"));
    }

    #[test]
    fn an_upload_states_its_length_and_waits_to_be_let_in() {
        let (api, asked) = answering("401 Unauthorized", r#"{"detail":"x"}"#);
        assert!(api.upload("/", std::io::repeat(0).take(1 << 20), 1 << 20).is_err());
        let asked = asked.join().unwrap();
        assert!(asked.contains("content-length: 1048576") && asked.contains("expect: 100-continue"), "{asked}");
    }
}
