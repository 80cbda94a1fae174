//! An HTTP client of a host, like those of frontends and operators. It uses none of Wharf's own code.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use reqwest::Method;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap};
use serde_json::Value;

use super::secret_watch;

/// Sends requests, with or without a token.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: String,
    token: Option<String>,
}

/// A request that is being built.
pub(crate) struct Request(reqwest::RequestBuilder);

/// A response with its whole body.
#[derive(Debug)]
pub(crate) struct TestResponse {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) bytes: Vec<u8>,
}

impl Client {
    /// Creates a client without credentials.
    pub(crate) fn new(addr: SocketAddr) -> Self {
        // Shorter than any idle timeout of a host in the tests, so that no request uses a connection that the host
        // closes.
        Self::with_idle_timeout(addr, Some(Duration::from_millis(500)))
    }

    /// Creates a client without credentials that connects from this address.
    pub(crate) fn from_address(addr: SocketAddr, from: IpAddr) -> Self {
        let http = reqwest::Client::builder().local_address(from).build().unwrap();
        Self { http, base: format!("http://{addr}"), token: None }
    }

    /// Creates a client without credentials that keeps its connection for as long as the host does. It reaches a host
    /// that accepts no further connections.
    pub(crate) fn keeping_its_connection(addr: SocketAddr) -> Self {
        Self::with_idle_timeout(addr, None)
    }

    /// Returns the same client, which speaks HTTP/2 from the first byte.
    pub(crate) fn over_http2(&self) -> Self {
        let http = reqwest::Client::builder()
            .http2_prior_knowledge()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .unwrap();
        Self { http, ..self.clone() }
    }

    fn with_idle_timeout(addr: SocketAddr, idle_timeout: Option<Duration>) -> Self {
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .pool_idle_timeout(idle_timeout)
            .build()
            .unwrap();
        Self { http, base: format!("http://{addr}"), token: None }
    }

    /// Returns the same client with a token.
    pub(crate) fn with_token(&self, token: impl Into<String>) -> Self {
        Self { token: Some(token.into()), ..self.clone() }
    }

    /// Signs in and returns the same client with the token.
    pub(crate) async fn signed_in(&self, email: &str, password: &str) -> Self {
        let tokens = self.sign_in(email, password).await.ok();
        self.with_token(tokens["access_token"].as_str().unwrap())
    }

    /// Signs in and returns the response.
    pub(crate) async fn sign_in(&self, email: &str, password: &str) -> TestResponse {
        let form = [("username", email), ("password", password)];
        self.request(Method::POST, "/login/access-token").form(&form).send().await
    }

    /// Returns the token.
    pub(crate) fn token(&self) -> &str {
        self.token.as_deref().unwrap()
    }

    /// Returns the URL of a path.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// Creates a request to a path below `/api/v1`.
    pub(crate) fn request(&self, method: Method, path: &str) -> Request {
        self.plain(method, &format!("/api/v1{path}"))
    }

    /// Creates a request to any path.
    pub(crate) fn plain(&self, method: Method, path: &str) -> Request {
        let request = self.http.request(method, self.url(path));
        Request(match &self.token {
            Some(token) => request.header(AUTHORIZATION, format!("Bearer {token}")),
            None => request,
        })
    }

    pub(crate) async fn get(&self, path: &str) -> TestResponse {
        self.request(Method::GET, path).send().await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> TestResponse {
        self.request(Method::POST, path).json(body).send().await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> TestResponse {
        self.request(Method::PUT, path).json(body).send().await
    }

    pub(crate) async fn patch(&self, path: &str, body: &Value) -> TestResponse {
        self.request(Method::PATCH, path).json(body).send().await
    }

    pub(crate) async fn delete(&self, path: &str) -> TestResponse {
        self.request(Method::DELETE, path).send().await
    }

    /// Deploys a component through the operator API, with a `query` such as `grant=sql&grant=auth`.
    pub(crate) async fn deploy(&self, component: &[u8], query: &str) -> TestResponse {
        let request = self.request(Method::POST, &format!("/plugins/?{query}"));
        request.header("content-type", "application/wasm").body(component.to_vec()).send().await
    }

    /// Deploys a component with settings, which are JSON, in a multipart form.
    pub(crate) async fn deploy_with_settings(&self, component: &[u8], query: &str, settings: &str) -> TestResponse {
        let part = |head: &str, content: &[u8]| {
            let head = format!("--boundary\r\ncontent-disposition: form-data; name={head}\r\n\r\n");
            [head.as_bytes(), content, b"\r\n"].concat()
        };
        let component = part("\"component\"; filename=\"x.wasm\"\r\ncontent-type: application/wasm", component);
        let body = [part("\"settings\"", settings.as_bytes()), component, b"--boundary--\r\n".to_vec()].concat();
        let request = self.request(Method::POST, &format!("/plugins/?{query}")).body(body);
        request.header("content-type", "multipart/form-data; boundary=boundary").send().await
    }
}

impl Request {
    pub(crate) fn header(self, name: &str, value: &str) -> Self {
        Self(self.0.header(name, value))
    }

    pub(crate) fn json(self, body: &Value) -> Self {
        Self(self.0.json(body))
    }

    pub(crate) fn form(self, fields: &[(&str, &str)]) -> Self {
        Self(self.0.form(fields))
    }

    pub(crate) fn multipart(self, form: reqwest::multipart::Form) -> Self {
        Self(self.0.multipart(form))
    }

    pub(crate) fn body(self, body: impl Into<reqwest::Body>) -> Self {
        Self(self.0.body(body))
    }

    /// Sets a body with the content type of JSON, even if the text is not JSON.
    pub(crate) fn json_text(self, text: impl Into<reqwest::Body>) -> Self {
        self.header(CONTENT_TYPE.as_str(), "application/json").body(text)
    }

    /// Sends the request and returns the response.
    pub(crate) async fn send(self) -> TestResponse {
        self.try_send().await.unwrap_or_else(|error| panic!("no response: {error:?}"))
    }

    /// Sends the request and returns the response, whose body is still to be read.
    pub(crate) async fn open(self) -> reqwest::Response {
        self.0.send().await.unwrap_or_else(|error| panic!("no response: {error:?}"))
    }

    /// Sends the request and returns the response, or the error of the connection.
    pub(crate) async fn try_send(self) -> reqwest::Result<TestResponse> {
        let response = self.0.send().await?;
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let path = response.url().path().to_owned();
        let bytes = response.bytes().await?.to_vec();
        secret_watch::see_response(&path, status, &bytes);
        Ok(TestResponse { status, headers, bytes })
    }
}

/// The members of a problem, in order.
const PROBLEM: [&str; 7] = ["type", "title", "status", "detail", "instance", "code", "request_id"];

impl TestResponse {
    /// Returns the body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// Returns the body as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes)
            .unwrap_or_else(|error| panic!("{} is not JSON ({error}): {}", self.status, self.text()))
    }

    /// Returns a header, if it is there.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// Expects a 200 and returns its JSON.
    #[track_caller]
    pub(crate) fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text());
        assert_eq!(self.header("content-type"), Some("application/json"));
        self.json()
    }

    /// Expects a 200 with this message.
    #[track_caller]
    pub(crate) fn has_message(&self, message: &str) {
        assert_eq!(self.status, 200, "{}", self.text());
        assert_eq!(self.text(), serde_json::json!({ "message": message }).to_string());
    }

    /// Expects a problem (RFC 9457) and returns it. Checks the content type, the order of the members, and that the
    /// header has the same request id.
    #[track_caller]
    pub(crate) fn problem(&self) -> Value {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{} {}", self.status, self.text());
        let problem = self.json();
        let members: Vec<&str> = problem.as_object().unwrap().keys().map(String::as_str).collect();
        let (common, errors) = members.split_at(PROBLEM.len().min(members.len()));
        assert_eq!(common, PROBLEM, "{problem}");
        let continuation = &["challenge", "methods"];
        let permission = &["permission"];
        let known: [&[&str]; 5] = [&[], &["errors"], &["errors", "errors_omitted"], continuation, permission];
        assert!(known.contains(&errors), "{problem}");
        assert!(!errors.contains(&"errors") || problem["errors"].is_array(), "{problem}");
        assert_eq!(problem["status"], self.status);
        assert!(problem["detail"].is_string() && problem["title"].is_string(), "{problem}");
        assert_eq!(problem["request_id"].as_str(), self.header("x-request-id"), "{problem}");
        problem
    }

    /// Expects exactly this problem.
    #[track_caller]
    pub(crate) fn is_problem(&self, status: u16, code: &str, detail: &str) {
        let problem = self.problem();
        assert_eq!(
            (self.status, problem["code"].as_str(), problem["detail"].as_str()),
            (status, Some(code), Some(detail)),
            "{problem}"
        );
    }

    /// Expects a problem with this status and code, and returns its text.
    #[track_caller]
    pub(crate) fn has_code(&self, status: u16, code: &str) -> String {
        let problem = self.problem();
        assert_eq!((self.status, problem["code"].as_str()), (status, Some(code)), "{problem}");
        problem["detail"].as_str().unwrap().to_owned()
    }

    /// Expects a 422 with exactly these findings, each `loc type: msg` with `loc` joined by dots. An expected text that
    /// ends in `…` is a prefix.
    #[track_caller]
    pub(crate) fn has_findings(&self, expected: &[&str]) {
        let problem = self.problem();
        assert_eq!((self.status, problem["code"].as_str()), (422, Some("validation_error")), "{problem}");
        let found: Vec<String> = problem["errors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|finding| {
                let members: Vec<&str> = finding.as_object().unwrap().keys().map(String::as_str).collect();
                assert_eq!(members, ["type", "loc", "msg"]);
                let loc: Vec<String> = finding["loc"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|part| part.as_str().map_or_else(|| part.to_string(), str::to_owned))
                    .collect();
                format!("{} {}: {}", loc.join("."), finding["type"].as_str().unwrap(), finding["msg"].as_str().unwrap())
            })
            .collect();
        let fits = |found: &String, expected: &&str| match expected.strip_suffix('…') {
            Some(beginning) => found.starts_with(beginning),
            None => found == expected,
        };
        assert!(
            found.len() == expected.len() && found.iter().zip(expected).all(|(found, expected)| fits(found, expected)),
            "expected {expected:#?}\nfound {found:#?}"
        );
        assert_eq!(problem["detail"], problem["errors"][0]["msg"]);
    }
}
