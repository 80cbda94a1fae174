//! `wharf:http`: requests to other servers, see `crate::egress`. The same grant is for the same requests by the interfaces
//! that components of any host speak, see `wasi`.

pub(super) mod wasi;

use std::sync::Arc;
use std::time::Duration;

use wasmtime::component::{HasSelf, Linker};

use super::budget::Held;
use super::parameter::parameters;
use super::{Boot, CallContext, Candidate, Capability, Guest, HostCalls, Limit, Usage};
use crate::clock::Random;
use crate::config::kind;
use crate::egress::address::Network;
use crate::egress::origin::Origin;
use crate::egress::{Allowed, Bound, Egress, Failure, Limits, ReleaseEgress, Report, Request, Response, Trace};
use crate::error::Result;

mod bindings {
    #![allow(missing_docs, unreachable_pub, reason = "generated")]
    wasmtime::component::bindgen!({
        inline: "package wharf:host-http; world imports { import wharf:http/client@0.1.0; }",
        path: "../wit",
        imports: { default: async | trappable },
    });
}
use bindings::wharf::http::client;

parameters! {
    /// What a grant may allow and bound.
    Quota {
        /// Time of one exchange.
        time: Duration = kind::duration(Duration::from_millis(10)..=Duration::from_secs(600)), else http_time;
        /// Body of one answer, and of one request.
        bytes: usize = kind::bytes(1 << 10..=1 << 30), else http_bytes;
        /// Requests of the plugin at once.
        requests: usize = kind::count(1..=1_000), else http_requests;
    }
    sets {
        /// Servers that may be spoken to; nobody where there is none.
        hosts: Origin = kind::set("origins such as https://api.example.com, http://10.1.2.3:8080 or https://*.example.com"),
        /// Addresses that may be connected to beside the public ones.
        networks: Network = kind::set("networks such as 10.1.0.0/16, 127.0.0.1 or fd00:1::/32"),
    }
}

/// The capability.
pub struct Http {
    egress: Egress,
    random: Random,
}

/// What a release sends with.
pub struct HttpRelease {
    egress: Arc<ReleaseEgress>,
    bytes: usize,
    random: Random,
}

/// What a call sends with.
pub struct HttpCall {
    egress: Arc<ReleaseEgress>,
    bytes: usize,
    random: Random,
    /// Of all its requests; begun by the first where the call came without one.
    trace: Option<Trace>,
}

impl Capability for Http {
    const NAME: &'static str = "http";
    const INTERFACES: &'static [&'static str] =
        &["wharf:http/client@0.1.0", "wasi:http/types@0.2", "wasi:http/outgoing-handler@0.2"];
    type Grant = Quota;
    type Release = HttpRelease;
    type Call = HttpCall;

    async fn open(boot: &Boot) -> Result<Self> {
        Ok(Self { egress: boot.egress.clone(), random: boot.random.clone() })
    }

    fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
        client::add_to_linker::<Guest, HasSelf<Guest>>(linker, |guest| guest)?;
        wasi::link(linker)
    }

    async fn admit(&self, candidate: &Candidate<'_>, quota: Quota) -> Result<HttpRelease> {
        let Quota { time, bytes, requests, hosts, networks } = quota;
        // An answer may be thought about for as long as the whole may take.
        let limits = Limits { time, first_byte: time, bytes, requests, ..Limits::default() };
        let allowed = Allowed { hosts, networks };
        let egress = Arc::new(self.egress.release(candidate.plugin, allowed, limits));
        Ok(HttpRelease { egress, bytes, random: self.random.clone() })
    }

    fn brings(release: &HttpRelease) -> usize {
        release.bytes
    }

    fn in_use(release: &HttpRelease, parameter: &str) -> Option<u64> {
        (parameter == "requests").then(|| u64::try_from(release.egress.requests()).unwrap_or(u64::MAX))
    }

    fn serve(release: &HttpRelease) {
        release.egress.apply_requests();
    }

    fn enter(release: &HttpRelease, context: &Arc<CallContext>) -> HttpCall {
        let (egress, random) = (Arc::clone(&release.egress), release.random.clone());
        HttpCall { egress, bytes: release.bytes, random, trace: context.trace.clone() }
    }
}

impl HttpCall {
    /// What one request needs to be sent; it may go on beside the guest.
    fn sender(&mut self, context: &Arc<CallContext>, usage: &Arc<Usage>) -> wasmtime::Result<Sender> {
        let trace = match &mut self.trace {
            Some(trace) => &*trace,
            none => none.insert(Trace::begin(&context.request_id, &self.random).map_err(wasmtime::Error::msg)?),
        };
        let (egress, context, usage) = (Arc::clone(&self.egress), Arc::clone(context), Arc::clone(usage));
        Ok(Sender { egress, bytes: self.bytes, context, usage, trace: trace.clone() })
    }
}

/// Sends one request.
#[derive(Clone)]
struct Sender {
    egress: Arc<ReleaseEgress>,
    /// Of one body.
    bytes: usize,
    context: Arc<CallContext>,
    usage: Arc<Usage>,
    trace: Trace,
}

impl Sender {
    async fn send(self, request: Request, memory: &mut Held) -> Result<Response, Failure> {
        // What was said by who asks is no limit that anybody could raise.
        let own = [request.time, request.connect, request.first_byte, request.idle].iter().any(Option::is_some);
        let mut exchange =
            Exchange { context: self.context, report: Report::default(), failure: Some(GONE.to_owned()) };
        let outcome = self.egress.send(request, &self.trace, memory, &mut exchange.report).await;
        exchange.failure = outcome.as_ref().err().map(|failure| match failure {
            // Its text quotes what the plugin wrote.
            Failure::Invalid(_) => "invalid".to_owned(),
            failure => failure.to_string(),
        });
        outcome.inspect_err(|failure| {
            if let Some(limit) = met(failure).filter(|_| !own || !matches!(failure, Failure::Timeout(_))) {
                self.usage.hit(limit);
            }
        })
    }
}

impl client::Host for Guest {
    async fn send(&mut self, request: client::Request) -> wasmtime::Result<Result<client::Response, client::Error>> {
        self.charge(HostCalls::http)?;
        let request = Request::from(request);
        let _held = self.hold(request.weight())?;
        let sender = self.entered.http()?.sender(&self.context, &self.usage)?;
        let mut held = self.hold(0)?;
        match sender.send(request, &mut held).await {
            Ok(response) => {
                self.hand(held);
                Ok(Ok(response.into()))
            }
            Err(failure) => client::Error::try_from(failure).map(Err),
        }
    }
}

/// The limit that a request met, if it met one.
fn met(failure: &Failure) -> Option<Limit> {
    match failure {
        Failure::Denied(_) => Some(Limit::HttpHosts),
        Failure::Timeout(phase) => Some(match *phase {
            // Shorter than the whole, and the same for everybody.
            "resolve" | "connect" | "tls" => Limit::HttpConnect,
            _ => Limit::HttpTime,
        }),
        Failure::Limit(bound, _) => Some(match bound {
            Bound::Requests => Limit::HttpRequests,
            Bound::Bytes => Limit::HttpBytes,
            // Counted with the call.
            Bound::Memory => return None,
            Bound::Headers => Limit::HttpHeaders,
            Bound::Redirects => Limit::HttpRedirects,
        }),
        _ => None,
    }
}

/// Why an exchange ended that nobody waited for any more.
const GONE: &str = "the call ended first";

/// Tells the log of one exchange, however it ends. Never a path, a query or a header: those may hold secrets.
struct Exchange {
    context: Arc<CallContext>,
    report: Report,
    failure: Option<String>,
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let (report, context) = (&self.report, &self.context);
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        tracing::debug!(
            target: "wharf::plugin::http",
            plugin = context.plugin.as_str(),
            release = context.release,
            request_id = &*context.request_id,
            server = report.server.as_ref().map(tracing::field::display),
            status = report.status,
            bytes = report.bytes,
            redirects = report.redirects,
            reused = report.reused,
            resolve_micros = micros(report.resolve),
            connect_micros = micros(report.connect),
            first_byte_micros = micros(report.first_byte),
            body_micros = micros(report.body),
            failure = self.failure.as_deref(),
            detail = report.detail.as_deref(),
            "exchange"
        );
    }
}

impl From<client::Request> for Request {
    fn from(request: client::Request) -> Self {
        Self {
            method: request.method,
            url: request.url,
            headers: request.headers,
            body: request.body.into(),
            time: request.timeout_ms.map(|millis| Duration::from_millis(millis.into())),
            redirects: request.redirects,
            ..Self::default()
        }
    }
}

impl From<Response> for client::Response {
    fn from(response: Response) -> Self {
        let Response { url, status, headers, body } = response;
        Self { url, status, headers, body: body.into() }
    }
}

impl TryFrom<Failure> for client::Error {
    type Error = wasmtime::Error;

    fn try_from(failure: Failure) -> wasmtime::Result<Self> {
        Ok(match failure {
            Failure::Invalid(reason) => Self::Invalid(reason),
            Failure::Denied(reason) => Self::Denied(reason),
            Failure::Unreachable(reason) => Self::Unreachable(reason),
            Failure::Timeout(phase) => Self::Timeout(phase.to_owned()),
            // As when its own memory does not suffice.
            Failure::Limit(Bound::Memory, reason) => return Err(wasmtime::Error::msg(reason)),
            Failure::Limit(_, limit) => Self::Limit(limit),
            Failure::Protocol(reason) => Self::Protocol(reason),
            Failure::Internal(reason) => return Err(wasmtime::Error::msg(reason)),
        })
    }
}
