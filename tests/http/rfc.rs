//! The rules of RFC 9110, 9112 and 9113, case by case. A case is one line of a table. The tables of RFC 9110 run over
//! HTTP/1.1 and HTTP/2; those of the other RFCs send bytes that no client library would send.
//!
//! To add a table, add a module with a `const CASES: &[Case]` and a test that calls [`Site::check`].

mod http1;
mod http2;
mod semantics;

use reqwest::Method;
use tempfile::TempDir;

use crate::support::{Setup, TestHost, TestResponse};

/// The origin of the frontend.
const ORIGIN: &str = "https://shop.example";

/// One request and its response.
pub(super) struct Case {
    /// The rule, beginning with the number of the RFC and the section.
    pub(super) rule: &'static str,
    /// Method and path. `TOKEN` in a header becomes the token of a superuser.
    pub(super) request: &'static str,
    /// Headers, each as `name: value`.
    pub(super) headers: &'static [&'static str],
    pub(super) body: &'static [u8],
    pub(super) status: u16,
    /// Properties of the response: `name: value` of a header, `name:` of one with any value, `!name` of one that is
    /// absent, `= text` for the whole body, `~ text` for a part of it.
    pub(super) expected: &'static [&'static str],
}

/// A host with a static directory, the items plugin and the chameleon.
pub(super) struct Site {
    pub(super) host: TestHost,
    clients: [(&'static str, reqwest::Client); 2],
    _directory: TempDir,
}

impl Site {
    pub(super) async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("dist");
        std::fs::create_dir_all(root.join("assets")).unwrap();
        std::fs::write(root.join("index.html"), "<!doctype html>the page").unwrap();
        std::fs::write(root.join("assets/app.js"), "script()").unwrap();
        let setup = Setup::default().with_items().with(|config| config.server.static_dir = Some(root));
        let host = TestHost::sqlite(setup).await;
        host.deploy_chameleon().await;
        let client = || reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
        let clients = [
            ("HTTP/1.1", client().http1_only().build().unwrap()),
            ("HTTP/2", client().http2_prior_knowledge().build().unwrap()),
        ];
        Self { host, clients, _directory: directory }
    }

    /// Runs a table over both protocols, and reports every case that fails.
    pub(super) async fn check(&self, cases: &[Case]) {
        let mut wrong = Vec::new();
        for (protocol, client) in &self.clients {
            for case in cases {
                let response = self.send(client, case).await;
                let reasons = std::iter::once((response.status != case.status).then(|| response.status.to_string()))
                    .chain(case.expected.iter().map(|property| unlike(&response, property)));
                for reason in reasons.flatten() {
                    wrong.push(format!("{protocol} {}, {}: {reason}", case.rule, case.request));
                }
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    async fn send(&self, client: &reqwest::Client, case: &Case) -> TestResponse {
        let (method, path) = case.request.split_once(' ').unwrap();
        let mut request = client.request(method.parse::<Method>().unwrap(), self.host.anonymous().url(path));
        for header in case.headers {
            let (name, value) = header.split_once(": ").unwrap();
            request = request.header(name, value.replace("TOKEN", self.host.superuser().token()));
        }
        let response = request.body(case.body).send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        TestResponse { status, headers, bytes: response.bytes().await.unwrap().to_vec() }
    }
}

/// Returns what a response has instead of a property.
fn unlike(response: &TestResponse, property: &str) -> Option<String> {
    let text = response.text();
    let (is_right, seen) = if let Some(name) = property.strip_prefix('!') {
        let value = response.header(name).map(ToOwned::to_owned);
        (value.is_none(), value)
    } else if let Some(body) = property.strip_prefix("= ") {
        (text == body, Some(text))
    } else if let Some(part) = property.strip_prefix("~ ") {
        (text.contains(part), Some(text))
    } else {
        let (name, value) = property.split_once(':').unwrap();
        let all: Vec<_> = response.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect();
        let all = all.join(", ");
        (if value.is_empty() { !all.is_empty() } else { all == value.trim() }, Some(all))
    };
    (!is_right).then(|| format!("{property:?}, but it has {seen:?}"))
}
