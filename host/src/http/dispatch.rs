//! Every request's way: route → body → access → validation → handler or plugin → answer.
//!
//! Everything before the handler is the same for the host's routes and the plugins', and none of it needs guest code, so
//! a bad request costs no instance. The order of the checks is the contract's (reference section 1.13): malformed JSON
//! is told before missing credentials, missing credentials before wrong values.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::http::header::{EXPECT, HeaderName, HeaderValue};
use axum::http::request::Parts;
use axum::response::Response;
use bytes::Bytes;
use hyper::body::Body;
use percent_encoding::percent_decode_str;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use super::access;
use super::body::{self, ReadBody};
use super::call::{Call, Payload};
use super::cors::Cors;
use super::host_route::HostRoute;
use super::lingering_close::LingeringBody;
use super::plugin_call::{self, PluginCall};
use super::problem;
use super::reply::Reply;
use super::static_files::StaticFiles;
use super::{Host, openapi};
use crate::capability::Limit;
use crate::error::{Error, Kind, Result, code};
use crate::plugin::Release;
use crate::plugin::canary::Canary;
use crate::plugin::generation::{Absence, Generation, Target};
use crate::route::{BodyKind, Match, Operation, Template};

/// Answers requests.
pub struct Dispatcher {
    host: Arc<Host>,
    routes: Vec<HostRoute<Host>>,
    operations: Vec<Operation>,
    cors: Cors,
    files: Option<StaticFiles>,
}

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// `always` or `never`: takes part in a trial whoever the caller is.
const X_WHARF_CANARY: HeaderName = HeaderName::from_static("x-wharf-canary");
const NOSNIFF: HeaderName = HeaderName::from_static("x-content-type-options");

/// What the registry must know of the host's routes.
///
/// # Errors
/// A path is not a template, which is a defect of the host.
pub fn templates(routes: &[HostRoute<Host>]) -> Result<Vec<(String, Template)>> {
    routes.iter().map(|route| Ok((route.method.to_owned(), route.path.parse().map_err(Error::internal)?))).collect()
}

impl Dispatcher {
    /// Compiles the host's own operations and opens the directory of static files.
    ///
    /// # Errors
    /// The directory cannot be served, or an operation does not compile, which is a defect of the host.
    pub fn new(host: Arc<Host>, routes: Vec<HostRoute<Host>>) -> Result<Self> {
        let server = &host.config.server;
        let cors = Cors::new(&server.frontend_url)?;
        let files = server.static_dir.as_deref().map(|directory| StaticFiles::open(directory, server.connections / 4));
        let files = files.transpose()?;
        // JSON Schema 2020-12, as OpenAPI 3.1 has it, with the definitions where OpenAPI keeps them.
        let mut settings = SchemaSettings::draft2020_12();
        settings.definitions_path = "/components/schemas".into();
        let mut generator = settings.into_generator();
        problem::schema(&mut generator);
        let declared: Vec<Value> = routes.iter().map(|route| route.operation(&mut generator)).collect();
        let schemas: Map<String, Value> = generator.take_definitions(true).into_iter().collect();
        let operations = routes
            .iter()
            .zip(declared)
            .map(|(route, operation)| {
                let template = route.path.parse().map_err(Error::internal)?;
                Operation::compile(operation, &schemas, &template)
                    .map_err(|error| Error::internal(format!("{} {}: {error}", route.method, route.path)))
            })
            .collect::<Result<Vec<_>>>()?;
        let documented = routes.iter().zip(&operations).filter(|(route, _)| route.documented);
        host.openapi.describe_host(openapi::HostDocument::new(
            &host.config.server.project_name,
            schemas,
            documented.map(|(route, operation)| (route.method, route.path, &route.access, operation)),
        ));
        Ok(Self { host, routes, operations, cors, files })
    }

    /// Answers one request. Never fails: what goes wrong is a problem response.
    pub async fn dispatch<B>(self: Arc<Self>, request: hyper::Request<B>, peer: SocketAddr) -> Response
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
    {
        let started = Instant::now();
        let in_flight = self.host.traffic.begin();
        let (parts, body) = request.into_parts();
        let body = LingeringBody::new(body, !parts.headers.contains_key(EXPECT));
        let request_id: Arc<str> = match self.host.random.uuid() {
            Ok(id) => id.simple().to_string().into(),
            Err(error) => {
                return self.send(problem::reply(&error, parts.uri.path(), "none"), None);
            }
        };
        let mut response = match self.answer(&parts, body, &request_id, peer).await {
            Ok(response) => response,
            Err(error) => self.send(problem::reply(&error, parts.uri.path(), &request_id), None),
        };
        let headers = response.headers_mut();
        if let Ok(value) = HeaderValue::from_str(&request_id) {
            headers.insert(X_REQUEST_ID, value);
        }
        headers.entry(NOSNIFF).or_insert(HeaderValue::from_static("nosniff"));
        self.cors.decorate(&parts.headers, headers);
        in_flight.ended(response.status());
        tracing::info!(
            target: "wharf::http::request",
            request_id = &*request_id,
            method = parts.method.as_str(),
            path = parts.uri.path(),
            status = response.status().as_u16(),
            micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX),
            %peer,
            "request"
        );
        response
    }

    async fn answer<B>(
        self: &Arc<Self>,
        parts: &Parts,
        body: B,
        request_id: &Arc<str>,
        peer: SocketAddr,
    ) -> Result<Response>
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        if let Some(reply) = self.cors.preflight(&parts.method, &parts.headers) {
            return Ok(self.send(reply, None));
        }
        let path = parts.uri.path();
        let generation = self.host.plugins.generation();
        let table = match generation.trial(path) {
            Some((canary, table)) if self.takes_part(canary, parts, peer).await => table,
            _ => generation.table(),
        };
        let (target, raw_params) = match table.find(parts.method.as_str(), path) {
            Match::Route(target, params) => (target, params),
            Match::Methods(methods) => {
                let methods = methods.into_iter().map(ToOwned::to_owned).collect();
                let kind = Kind::MethodNotAllowed(methods);
                return Err(Error::new(kind, code::METHOD_NOT_ALLOWED, "Method Not Allowed"));
            }
            Match::Nothing => return self.answer_elsewhere(parts, &generation).await,
        };
        let params: Vec<(&str, Cow<'_, str>)> =
            raw_params.iter().map(|(name, text)| (&***name, percent_decode_str(text).decode_utf8_lossy())).collect();
        let (operation, access, plugin) = match target {
            Target::Host(index) => {
                let route = self.routes.get(*index).ok_or_else(|| Error::internal("no such host route"))?;
                let operation = self.operations.get(*index).ok_or_else(|| Error::internal("no such operation"))?;
                (operation, &route.access, None)
            }
            Target::Plugin(release, index) => {
                let route = release.routes.get(*index).ok_or_else(|| Error::internal("no such plugin route"))?;
                (&route.operation, &route.access, Some(&release.record.plugin))
            }
        };
        let (read, caller) = if operation.body_kind() == Some(BodyKind::Raw) {
            // Raw bodies may be large: nobody sends one before he may.
            let caller = access::check(&self.host.auth, &parts.headers, access, plugin).await?;
            (self.read(operation, target, parts, body).await?, caller)
        } else {
            let read = self.read(operation, target, parts, body).await?;
            (read, access::check(&self.host.auth, &parts.headers, access, plugin).await?)
        };
        let query: Vec<(Cow<'_, str>, Cow<'_, str>)> =
            form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()).collect();
        let inputs =
            operation.check(&params, &query, read.value.as_ref(), read.may_contain_nul).map_err(Error::invalid)?;
        match target {
            Target::Host(index) => {
                let route = self.routes.get(*index).ok_or_else(|| Error::internal("no such host route"))?;
                let (value, bytes, _taken) = read.into_parts();
                let body = match (operation.body_kind(), value) {
                    (Some(BodyKind::Raw), _) => Payload::Raw(bytes),
                    (Some(_), Some(value)) => Payload::Json(value),
                    _ => Payload::None,
                };
                let call =
                    Call { request_id: Arc::clone(request_id), caller, inputs, body, headers: parts.headers.clone() };
                Ok(self.send((route.handler)(Arc::clone(&self.host), call).await?, None))
            }
            Target::Plugin(release, index) => {
                let contract = release.routes.get(*index).ok_or_else(|| Error::internal("no such plugin route"))?;
                // The plugin reads the bytes itself.
                let (body, _taken) = read.into_raw();
                let call = PluginCall { release, route: *index, parts, request_id, params: &params, caller, body };
                let reply =
                    plugin_call::answer(&self.host.plugins, &self.host.body_memory.responses, contract, call).await?;
                Ok(self.send(reply, Some(release.as_ref())))
            }
        }
    }

    /// An answer on its way to its client. Whoever made it, its body takes memory until it is read.
    fn send(&self, mut reply: Reply, release: Option<&Release>) -> Response {
        reply.body = self
            .host
            .body_memory
            .responses
            .track_response(release.map(|release| release.bulkhead.unread()), reply.body);
        reply.into()
    }

    /// Whether a request goes to the release on trial: as its header asks, else as its caller was chosen. Who he is
    /// matters before his credentials are checked, so bad ones count as none.
    async fn takes_part(&self, canary: &Canary, parts: &Parts, peer: SocketAddr) -> bool {
        match parts.headers.get(X_WHARF_CANARY).map(HeaderValue::as_bytes) {
            Some(b"always") => return true,
            Some(b"never") => return false,
            _ => {}
        }
        let caller = access::identify(&self.host.auth, &parts.headers).await;
        let caller = caller.map_or_else(|| peer.ip().to_string(), |caller| caller.user.id.to_string());
        canary.chooses(&caller)
    }

    async fn read<B>(&self, operation: &Operation, target: &Target, parts: &Parts, body: B) -> Result<ReadBody>
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let server = &self.host.config.server;
        let Some(kind) = operation.body_kind() else { return Ok(ReadBody::default()) };
        let most = match target {
            Target::Host(index) => self.routes.get(*index).and_then(|route| route.body_limit),
            Target::Plugin(release, _) => Some(release.limits.request_bytes),
        };
        let most = most.unwrap_or(server.max_body_bytes);
        let read =
            body::read_raw(&parts.headers, body, most, server.body_timeout, &self.host.body_memory.requests).await;
        if let (Err(error), Target::Plugin(release, _)) = (&read, target)
            && *error.kind() == Kind::TooLarge
        {
            release.usage.hit(Limit::RequestBytes);
        }
        match kind {
            BodyKind::Json => body::parse_json(&parts.headers, read?),
            BodyKind::Form => body::parse_form(&parts.headers, read?).await,
            BodyKind::Raw => read,
        }
    }

    /// Paths that no route has: the document and the static files, or a 404 that says what it can.
    async fn answer_elsewhere(&self, parts: &Parts, generation: &Generation) -> Result<Response> {
        let path = parts.uri.path();
        match generation.absence(path) {
            Some(Absence::Removed) => return Err(Error::not_found(code::PLUGIN_REMOVED, "Not Found")),
            Some(reason) => {
                let code = match reason {
                    Absence::Paused => code::PLUGIN_PAUSED,
                    Absence::Revoked => code::PLUGIN_REVOKED,
                    Absence::Broken | Absence::Removed => code::PLUGIN_UNAVAILABLE,
                };
                let kind = Kind::Unavailable(std::time::Duration::from_secs(30));
                return Err(Error::new(kind, code, "The plugin is not available"));
            }
            None => {}
        }
        if let Some(files) = &self.files
            && let Some(response) = files.serve(&parts.method, path, &parts.headers).await?
        {
            return Ok(response);
        }
        Err(Error::not_found(code::ROUTE_NOT_FOUND, "Not Found"))
    }
}
