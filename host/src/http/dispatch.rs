//! The stages of every request: head → route → body → access → validation → handler or plugin → response.
//!
//! Everything before the handler is the same for routes of the host and of plugins. None of it runs guest code, so a
//! bad request costs no instance. The HTTP API is that of the FastAPI full-stack template
//! (github.com/fastapi/full-stack-fastapi-template), which fixes the order of the checks: malformed JSON is reported
//! before missing credentials, and missing credentials before wrong values. A raw body is the exception: it can be
//! large, so the caller is authorized before it is read. `dispatch` returns no error: every error becomes a problem
//! response.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::body::Body as ResponseBody;
use axum::http::header::{ALLOW, CONNECTION, CONTENT_LENGTH, EXPECT, HeaderName, HeaderValue, VARY};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode, Version};
use axum::response::Response;
use bytes::Bytes;
use hyper::body::Body;
use percent_encoding::percent_decode_str;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::access;
use super::body_stages;
use super::browser_rules::{self, Credential, Source};
use super::cached_call;
use super::call::{Call, Payload};
use super::client_origin::{ClientOrigin, TrustedProxies};
use super::compression::Compression;
use super::cors::{self, Cors};
use super::host_route::{HostRoute, RouteHandler};
use super::lingering_close::LingeringBody;
use super::matched_route::{Handler, MatchedRoute};
use super::plugin_call::PluginCall;
use super::release_choice::{self, ChosenRelease};
use super::reply::Reply;
use super::static_files::{self, Served, StaticFiles};
use super::traffic::InFlight;
use super::{Host, openapi, problem, request_head};
use crate::auth::Caller;
use crate::error::{Error, Findings, Kind, Result, code};
use crate::id::PluginName;
use crate::plugin::Release;
use crate::plugin::call_stats::CallOutcome;
use crate::plugin::release::Prepared;
use crate::route::{BodyKind, Match, Operation, RouteTable, Schemas, Template};

/// Handles requests.
pub struct Dispatcher {
    host: Arc<Host>,
    routes: Vec<CompiledRoute>,
    /// Finds a route of the host by its index.
    table: RouteTable<usize>,
    cors: Cors,
    proxies: TrustedProxies,
    compression: Compression,
    files: Option<StaticFiles>,
}

/// A route of the host with its compiled operation.
struct CompiledRoute {
    route: HostRoute<Host>,
    operation: Arc<Operation>,
}

/// A request that has arrived and has no response yet.
struct Received<'a> {
    request_id: Arc<str>,
    started: Instant,
    peer: SocketAddr,
    in_flight: InFlight<'a>,
}

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Returns method and path template of each route of the host, which the plugin registry needs to detect clashes.
///
/// # Errors
/// A path is not a template, which is a defect of the host.
pub fn templates(routes: &[HostRoute<Host>]) -> Result<Vec<(String, Template)>> {
    routes.iter().map(|route| Ok((route.method.to_owned(), route.path.parse().map_err(Error::internal)?))).collect()
}

impl Dispatcher {
    /// Compiles the operations of the host and opens the directory of static files.
    ///
    /// # Errors
    /// The directory cannot be served, or an operation does not compile, which is a defect of the host.
    pub fn new(host: Arc<Host>, routes: Vec<HostRoute<Host>>) -> Result<Self> {
        let templates = templates(&routes)?.into_iter().enumerate();
        let table = RouteTable::build(templates.map(|(index, (method, template))| (method, template, index)));
        let table = table.map_err(Error::internal)?;
        let server = &host.config.server;
        let cors = Cors::new(&server.frontend_url);
        let proxies = TrustedProxies::new(server);
        let compression = Compression::new(server.compression);
        let open = |directory| StaticFiles::open(directory, server.connections / 4, host.clock.clone());
        let files = server.static_dir.as_deref().map(open).transpose()?;
        // OpenAPI 3.1 uses JSON Schema 2020-12 and keeps the definitions in `components`.
        let mut settings = SchemaSettings::draft2020_12();
        settings.definitions_path = "/components/schemas".into();
        let mut generator = settings.into_generator();
        problem::schema(&mut generator);
        let declared: Vec<Value> = routes.iter().map(|route| route.operation(&mut generator)).collect();
        let components: Map<String, Value> = generator.take_definitions(true).into_iter().collect();
        let mut schemas = Schemas::new(components.clone()).map_err(Error::internal)?;
        let routes = routes
            .into_iter()
            .zip(&declared)
            .map(|(route, operation)| {
                let template = route.path.parse().map_err(Error::internal)?;
                let operation = Operation::compile(operation, &mut schemas, &template)
                    .map_err(|error| Error::internal(format!("{} {}: {error}", route.method, route.path)))?;
                Ok(CompiledRoute { route, operation: Arc::new(operation) })
            })
            .collect::<Result<Vec<_>>>()?;
        let documented = routes.iter().zip(declared).filter(|(compiled, _)| compiled.route.documented);
        host.openapi.describe_host(openapi::HostDocument::new(
            &host.config.server.project_name,
            components,
            documented
                .map(|(CompiledRoute { route, .. }, declared)| (route.method, route.path, &route.access, declared)),
        ));
        Ok(Self { host, routes, table, cors, proxies, compression, files })
    }

    /// Returns the response to one request. An error becomes a problem response.
    pub async fn dispatch<B>(self: Arc<Self>, request: hyper::Request<B>, peer: SocketAddr) -> Response
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
    {
        let (received, is_numbered) = self.receive(peer);
        let (mut parts, body) = request.into_parts();
        let body = LingeringBody::new(body, !parts.headers.contains_key(EXPECT));
        let checked = is_numbered.and_then(|()| request_head::check(&mut parts));
        let closes = checked.is_err() && parts.version < Version::HTTP_2;
        let origin = self.proxies.origin(&parts, peer);
        let result = match checked {
            Ok(()) => self.respond(&parts, body, &received.request_id, &origin).await,
            Err(error) => Err(error),
        };
        let mut response = self.finish(result, &parts, &origin, received);
        if closes {
            // A client with other ideas about the framing could take the next bytes for another request.
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// Returns the response to a request whose head cannot be parsed. `request` has the parts that were recognized.
    pub fn refuse(&self, error: Error, request: hyper::Request<()>, peer: SocketAddr) -> Response {
        let (received, is_numbered) = self.receive(peer);
        let (parts, ()) = request.into_parts();
        let origin = self.proxies.origin(&parts, peer);
        self.finish(is_numbered.and(Err(error)), &parts, &origin, received)
    }

    fn receive(&self, peer: SocketAddr) -> (Received<'_>, Result<()>) {
        let started = Instant::now();
        let (request_id, result): (Arc<str>, _) = match self.host.random.request_id() {
            Ok(id) => (Arc::from(&*id.simple().encode_lower(&mut Uuid::encode_buffer())), Ok(())),
            Err(error) => ("none".into(), Err(error)),
        };
        (Received { request_id, started, peer, in_flight: self.host.traffic.begin() }, result)
    }

    /// Turns an error into its response, adds the headers of every response, and logs the request.
    fn finish(
        &self,
        result: Result<Response>,
        parts: &Parts,
        origin: &ClientOrigin,
        received: Received<'_>,
    ) -> Response {
        let Received { request_id, started, peer, in_flight } = received;
        let response =
            result.unwrap_or_else(|error| self.send(problem::reply(&error, parts.uri.path(), &request_id), None));
        let mut response = if parts.method == Method::HEAD { without_body(response) } else { response };
        let source = response.extensions_mut().remove::<Source>().unwrap_or(Source::Host);
        let headers = response.headers_mut();
        if let Ok(value) = HeaderValue::from_str(&request_id) {
            headers.insert(X_REQUEST_ID, value);
        }
        let credential = self.credential(parts, origin);
        browser_rules::decorate(headers, source, origin, credential, self.host.config.server.hsts);
        self.cors.decorate(&parts.headers, headers);
        in_flight.ended(response.status());
        tracing::info!(
            target: "wharf::http::request",
            request_id = &*request_id,
            method = parts.method.as_str(),
            path = parts.uri.path(),
            status = response.status().as_u16(),
            micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX),
            client = %origin.address,
            %peer,
            "request"
        );
        response
    }

    async fn respond<B>(
        self: &Arc<Self>,
        parts: &Parts,
        body: B,
        request_id: &Arc<str>,
        origin: &ClientOrigin,
    ) -> Result<Response>
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        if let Some(reply) = self.cors.preflight(&parts.method, &parts.headers) {
            return Ok(self.send(reply, None));
        }
        if parts.uri.path() == "*" {
            // OPTIONS about the host as a whole (RFC 9110, section 9.3.7).
            let headers = [(ALLOW, cors::METHOD_LIST)].into_iter().collect();
            return Ok(self.send(Reply { status: StatusCode::NO_CONTENT, headers, body: Bytes::new() }, None));
        }
        let (method, path) = (parts.method.as_str(), parts.uri.path());
        // The request keeps the release that it calls, and nothing of other plugins: a slow upload would hold up their
        // drains.
        let release;
        let prepared;
        let mut trial = None;
        let mut known = None;
        let (route, raw_params) = match self.table.find(method, path) {
            Match::Route(index, params) => (self.host_route(*index)?, params),
            Match::Methods(methods) => return Err(method_not_allowed(methods)),
            Match::Nothing => {
                let credential = || self.credential(parts, origin);
                let Some(chosen) = release_choice::choose(&self.host, parts, origin, credential).await? else {
                    return self.respond_without_route(parts, request_id).await;
                };
                ChosenRelease { release, prepared, trial, caller: known } = chosen;
                match prepared.table.find(method, path) {
                    Match::Route(index, params) => (plugin_route(&release, &prepared, *index)?, params),
                    Match::Methods(methods) => return Err(method_not_allowed(methods)),
                    Match::Nothing => return self.respond_without_route(parts, request_id).await,
                }
            }
        };
        let params: Vec<(&str, Cow<'_, str>)> =
            raw_params.iter().map(|(name, text)| (&***name, percent_decode_str(text).decode_utf8_lossy())).collect();
        let (read, caller) = if route.body_kind == Some(BodyKind::Raw) {
            // Raw bodies can be large, so authorize before reading.
            let caller = self.authorize(route, parts, origin, known).await?;
            let read = body_stages::read(&self.host, route, &parts.headers, body).await?;
            let caller = match caller {
                Some(_) => self.authorize_again(route, parts, origin).await?,
                None => None,
            };
            (read, caller)
        } else {
            let read = body_stages::read(&self.host, route, &parts.headers, body).await?;
            let caller = match known {
                Some(Ok(_)) => self.authorize_again(route, parts, origin).await?,
                known => self.authorize(route, parts, origin, known).await?,
            };
            (read, caller)
        };
        let query: Vec<(Cow<'_, str>, Cow<'_, str>)> =
            form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()).collect();
        let mut found = Findings::default();
        let inputs = route.operation.check_parameters(&params, &query, &mut found);
        let read = body_stages::check(&self.host, route, read, found).await?;
        match route.handler {
            Handler::Host(host_route) => {
                let (value, bytes, _reservation) = read.into_parts();
                let body = match (route.body_kind, value) {
                    (Some(BodyKind::Raw), _) => Payload::Raw(bytes),
                    (Some(_), Some(value)) => Payload::Json(value),
                    _ => Payload::None,
                };
                let call = Call {
                    request_id: Arc::clone(request_id),
                    address: origin.address,
                    is_from_frontend: browser_rules::is_from_frontend(&parts.headers, origin, &self.cors),
                    caller,
                    inputs,
                    body,
                    headers: parts.headers.clone(),
                };
                match &host_route.handler {
                    RouteHandler::Reply(handler) => {
                        let reply = handler(Arc::clone(&self.host), call).await?;
                        Ok(self.send(self.compression.apply(parts, reply).await, None))
                    }
                    RouteHandler::Stream(handler) => handler(Arc::clone(&self.host), call).await,
                }
            }
            Handler::Plugin { release, prepared, index, contract } => {
                let (_, body, _reservation) = read.into_parts();
                let call = PluginCall {
                    release,
                    prepared,
                    route: index,
                    method: &contract.method,
                    parts,
                    request_id,
                    origin,
                    params: &params,
                    caller,
                    trial,
                    body,
                    conditions: true,
                };
                let reply = cached_call::respond(&self.host, contract, call).await?;
                Ok(self.send(self.compression.apply(parts, reply).await, Some(release)))
            }
        }
    }

    fn host_route(&self, index: usize) -> Result<MatchedRoute<'_>> {
        let compiled = self.routes.get(index).ok_or_else(|| Error::internal("no such host route"))?;
        Ok(MatchedRoute {
            operation: &compiled.operation,
            access: &compiled.route.access,
            // The handler parses a raw body, whatever its content type is.
            body_kind: match compiled.route.body_limit {
                Some(_) => Some(BodyKind::Raw),
                None => compiled.operation.body_kind(),
            },
            max_body_bytes: compiled.route.body_limit.unwrap_or(self.host.config.server.max_body_bytes),
            handler: Handler::Host(&compiled.route),
        })
    }

    /// Turns a reply into the response, and isolates the reply of a plugin. The body counts against the memory for
    /// responses until the client has read it, for replies of plugins and of the host alike.
    fn send(&self, mut reply: Reply, release: Option<&Release>) -> Response {
        if let Some(release) = release {
            browser_rules::isolate(&mut reply.headers, release);
        }
        let unread = release.map(|release| release.bulkhead.unread());
        reply.body = self.host.body_memory.responses.track_response(unread, reply.body);
        let mut response: Response = reply.into();
        response.extensions_mut().insert(if release.is_some() { Source::Plugin } else { Source::Host });
        response
    }

    fn credential<'h>(&self, parts: &'h Parts, origin: &ClientOrigin) -> Credential<'h> {
        browser_rules::credential(&parts.method, &parts.headers, origin, &self.cors)
    }

    /// Checks the access of a route. `known` is the result of the look-up of the caller, if there was one a moment ago. It
    /// counted an unknown API key already.
    async fn authorize(
        &self,
        route: MatchedRoute<'_>,
        parts: &Parts,
        origin: &ClientOrigin,
        known: Option<Result<Arc<Caller>>>,
    ) -> Result<Option<Arc<Caller>>> {
        let plugin = plugin_of(route);
        let checked = match known {
            Some(found) => access::decide_on(found, route.access, plugin),
            None => {
                let (auth, credential) = (&self.host.auth, self.credential(parts, origin));
                access::check(auth, credential, origin.address, route.access, plugin).await
            }
        };
        checked.inspect_err(|error| count_failed_check(route, error))
    }

    /// Checks the access of a route after the body was read. The caller was known before, and can have lost their session or
    /// their rights since: a client can send its body slowly.
    async fn authorize_again(
        &self,
        route: MatchedRoute<'_>,
        parts: &Parts,
        origin: &ClientOrigin,
    ) -> Result<Option<Arc<Caller>>> {
        let found = access::look_up_again(&self.host.auth, self.credential(parts, origin)).await;
        let checked = access::decide_on(found, route.access, plugin_of(route));
        checked.inspect_err(|error| count_failed_check(route, error))
    }

    /// Responds to a path that matches no route: with a static file, or a 404.
    async fn respond_without_route(&self, parts: &Parts, request_id: &str) -> Result<Response> {
        let served = match &self.files {
            Some(files) => files.serve(&parts.method, &parts.uri, &parts.headers).await?,
            None => Served::Nothing,
        };
        let missing = Error::not_found(code::ROUTE_NOT_FOUND, "Not Found");
        match served {
            Served::Response(response) => Ok(response),
            Served::NoPage => {
                let problem = problem::reply(&missing, parts.uri.path(), request_id);
                Ok(self.send(problem.with_header(VARY, static_files::VARY_ACCEPT), None))
            }
            Served::Nothing => Err(missing),
        }
    }
}

/// Drops the body of the response to HEAD, and keeps its length (RFC 9110, section 9.3.2).
fn without_body(response: Response) -> Response {
    let (mut parts, body) = response.into_parts();
    let has_length = ![StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&parts.status);
    if has_length && let Some(length) = body.size_hint().exact() {
        parts.headers.entry(CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
    Response::from_parts(parts, ResponseBody::empty())
}

fn plugin_route<'a>(release: &'a Arc<Release>, prepared: &'a Arc<Prepared>, index: usize) -> Result<MatchedRoute<'a>> {
    let contract = prepared.routes.get(index).ok_or_else(|| Error::internal("no such plugin route"))?;
    Ok(MatchedRoute {
        operation: &contract.operation,
        access: &contract.access,
        body_kind: contract.operation.body_kind(),
        max_body_bytes: release.limits.request_bytes,
        handler: Handler::Plugin { release, prepared, index, contract },
    })
}

/// Returns the plugin of a route; `None` if it is one of the host.
fn plugin_of(route: MatchedRoute<'_>) -> Option<&PluginName> {
    route.handler.release().map(|release| &release.record.plugin)
}

/// Counts a request for its release as one that a service of the host failed, if the host could not check the access, for
/// example because its database does not respond.
fn count_failed_check(route: MatchedRoute<'_>, error: &Error) {
    if let Some(release) = route.handler.release()
        && CallOutcome::of_error(error) == CallOutcome::Dependency
    {
        release.stats.count(CallOutcome::Dependency);
    }
}

fn method_not_allowed(methods: Vec<&str>) -> Error {
    let methods = methods.into_iter().map(ToOwned::to_owned).collect();
    Error::new(Kind::MethodNotAllowed(methods), code::METHOD_NOT_ALLOWED, "Method Not Allowed")
}
