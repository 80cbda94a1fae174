//! Requests to a plugin under test. They pass the stages of the host in its order: route, access, validation, handler.

use super::TestPlugin;
use crate::bindings::http_role::exports::wharf::plugin::http as wit;
use crate::bindings::imports::wharf::auth::caller::Principal;
use crate::host::stand_in::state;
use crate::plugin::{Access, Route};
use crate::{Caller, Problem};
use serde_json::Value;

impl TestPlugin {
    /// Starts a request with any method to a path below the mount, with its query.
    pub fn request(&self, method: &str, path: &str) -> TestRequest<'_> {
        TestRequest::new(self, method, path)
    }

    /// Starts a `GET` request.
    pub fn get(&self, path: &str) -> TestRequest<'_> {
        self.request("GET", path)
    }

    /// Starts a `POST` request.
    pub fn post(&self, path: &str) -> TestRequest<'_> {
        self.request("POST", path)
    }

    /// Starts a `PUT` request.
    pub fn put(&self, path: &str) -> TestRequest<'_> {
        self.request("PUT", path)
    }

    /// Starts a `PATCH` request.
    pub fn patch(&self, path: &str) -> TestRequest<'_> {
        self.request("PATCH", path)
    }

    /// Starts a `DELETE` request.
    pub fn delete(&self, path: &str) -> TestRequest<'_> {
        self.request("DELETE", path)
    }
}

/// A builder for a request to the plugin; [`TestRequest::send`] sends it.
#[derive(Debug)]
#[must_use]
pub struct TestRequest<'a> {
    plugin: &'a TestPlugin,
    caller: Option<Caller>,
    raw: wit::Request,
}

impl<'a> TestRequest<'a> {
    fn new(plugin: &'a TestPlugin, method: &str, path: &str) -> Self {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let raw = wit::Request {
            id: crate::Uuid::new_v4().to_string(),
            route: 0,
            method: method.to_owned(),
            path: path.to_owned(),
            params: Vec::new(),
            query: query.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
        };
        Self { plugin, caller: None, raw }.from_client("127.0.0.1", "http", "localhost")
    }

    /// Sets the caller.
    pub fn by(mut self, caller: &Caller) -> Self {
        self.caller = Some(caller.clone());
        self
    }

    /// Sets the client's address, and the scheme and the host that it uses. The host takes them from the connection, or from
    /// a trusted proxy.
    pub fn from_client(mut self, address: &str, scheme: &str, host: &str) -> Self {
        for (name, value) in [("x-forwarded-for", address), ("x-forwarded-proto", scheme), ("x-forwarded-host", host)] {
            self.raw.headers.retain(|(known, _)| known != name);
            self.raw.headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    /// Adds a header; the name is lower-cased.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.raw.headers.push((name.to_ascii_lowercase(), value.to_owned()));
        self
    }

    /// Sets a JSON body.
    #[allow(clippy::needless_pass_by_value, reason = "reads well with `json!`")]
    pub fn json(self, body: Value) -> Self {
        self.header("content-type", "application/json").body(body.to_string())
    }

    /// Sets the body.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.raw.body = body.into();
        self
    }

    /// Sends the request to the plugin.
    pub fn send(self) -> TestResponse {
        match self.dispatch() {
            Ok(response) => TestResponse { response, problem: None },
            Err(problem) => {
                let headers = problem.headers().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
                let response = wit::Response { status: problem.status(), headers, body: Vec::new() };
                TestResponse { response, problem: Some(problem) }
            }
        }
    }

    fn dispatch(self) -> Result<wit::Response, Problem> {
        let Self { plugin, caller, mut raw } = self;
        let (index, route, params) = find_route(plugin.plugin.routes, &raw)?;
        raw.route = index;
        raw.params = params;
        check_access(route, plugin, caller.as_ref())?;
        plugin.validators.check(route, index, &raw)?;
        plugin.validators.rewrite_integers(index, &mut raw);
        {
            let mut host = plugin.host.borrow_mut();
            host.caller = caller.map(principal);
            host.request_id = Some(raw.id.clone());
        }
        state::enter(&plugin.host, || plugin.plugin.handle(raw))
    }
}

type Params = Vec<(String, String)>;
type Found = (u32, &'static Route, Params);

/// Finds the route of a request. Literal segments win over parameters, as in the host.
fn find_route(routes: &'static [Route], request: &wit::Request) -> Result<Found, Problem> {
    let mut best: Option<(Found, Vec<bool>)> = None;
    let mut path_exists = false;
    for (index, route) in (0..).zip(routes) {
        let Some((params, literals)) = match_path(route.path, &request.path) else { continue };
        path_exists = true;
        let better = best.as_ref().is_none_or(|(_, others)| literals > *others);
        if route.method == request.method && better {
            best = Some(((index, route, params), literals));
        }
    }
    match best {
        Some((found, _)) => Ok(found),
        None if path_exists => Err(Problem::new(405, "method_not_allowed", "Method Not Allowed")),
        None => Err(Problem::not_found("not_found", "Not Found")),
    }
}

fn match_path(pattern: &str, path: &str) -> Option<(Params, Vec<bool>)> {
    let (pattern, path) = (pattern.trim_matches('/').split('/'), path.trim_matches('/').split('/'));
    if pattern.clone().count() != path.clone().count() {
        return None;
    }
    let (mut params, mut literals) = (Vec::new(), Vec::new());
    for (wanted, segment) in pattern.zip(path) {
        let name = wanted.strip_prefix('{').and_then(|wanted| wanted.strip_suffix('}'));
        literals.push(name.is_none());
        match name {
            Some(name) if !segment.is_empty() => params.push((name.to_owned(), percent_decode(segment))),
            None if wanted == segment => {}
            _ => return None,
        }
    }
    Some((params, literals))
}

/// Decodes percent-encoding. In a path, `+` is not a space.
fn percent_decode(segment: &str) -> String {
    let segment = segment.replace('+', "%2B");
    form_urlencoded::parse(format!("p={segment}").as_bytes())
        .next()
        .map(|(_, value)| value.into_owned())
        .unwrap_or_default()
}

fn check_access(route: &Route, plugin: &TestPlugin, caller: Option<&Caller>) -> Result<(), Problem> {
    if route.access == Access::Public {
        return Ok(());
    }
    let caller = caller.ok_or_else(|| Problem::new(401, "not_authenticated", "Not authenticated"))?;
    let is_allowed = match route.access {
        Access::Public | Access::Authenticated => true,
        Access::Superuser => caller.superuser,
        Access::Permission(name) => {
            caller.superuser || plugin.host.borrow().permissions.contains(&(caller.id.to_string(), name.to_owned()))
        }
    };
    match is_allowed {
        true => Ok(()),
        false => Err(Problem::forbidden("forbidden", "The user doesn't have enough privileges")),
    }
}

fn principal(caller: Caller) -> Principal {
    Principal { id: caller.id.to_string(), email: caller.email, superuser: caller.superuser, roles: caller.roles }
}

/// The response of a plugin under test.
#[derive(Debug)]
pub struct TestResponse {
    response: wit::Response,
    problem: Option<Problem>,
}

impl TestResponse {
    /// Returns the status, also of a problem.
    pub fn status(&self) -> u16 {
        self.response.status
    }

    /// Returns the first header with a name, given in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.response.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Returns the body.
    pub fn bytes(&self) -> &[u8] {
        &self.response.body
    }

    /// Returns the body of a success as text.
    ///
    /// # Panics
    /// If the response is a problem.
    pub fn text(&self) -> &str {
        if let Some(problem) = &self.problem {
            panic!("the plugin refused: {problem}");
        }
        std::str::from_utf8(&self.response.body).expect("the response is UTF-8")
    }

    /// Returns the body of a success as JSON.
    ///
    /// # Panics
    /// If the response is a problem or its body is not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(self.text()).expect("the response is JSON")
    }

    /// Returns the problem.
    ///
    /// # Panics
    /// If the response is a success.
    pub fn problem(&self) -> &Problem {
        self.problem.as_ref().expect("the plugin did not refuse")
    }
}
