//! `wharf:http`: requests to other servers, sent by `crate::egress`. The same grant covers the same requests through
//! the standard interface `wasi:http`, see `wasi`.

mod sender;
pub(super) mod wasi;

use std::sync::Arc;
use std::time::Duration;

use wasmtime::component::{HasSelf, Linker};

use self::sender::{CAPABILITY, Sender};
use super::parameter::{ParameterValues, parameters};
use super::{Boot, CallContext, Candidate, Capability, Dependencies, Guest, HostCalls, Usage};
use crate::clock::Random;
use crate::config::kind;
use crate::egress::origin::Origin;
use crate::egress::{Allowlist, Egress, EgressLimits, Failure, LimitKind, ReleaseEgress, Request, Response, Trace};
use crate::error::Result;
use crate::network::Network;

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
    /// The limits that a grant may change, and the servers that it allows.
    Quota {
        time: Duration = http_time,
        bytes: usize = http_bytes,
        requests: usize = http_requests,
    }
    sets {
        /// Servers that the plugin may send requests to.
        hosts: Origin = kind::set(
            "origins such as https://api.example.com, http://10.1.2.3:8080 or https://*.example.com, or https://* for every \
             public server",
        ),
        /// Networks that the plugin may connect to in addition to public addresses.
        networks: Network = kind::set("networks such as 10.1.0.0/16, 127.0.0.1 or fd00:1::/32"),
    }
}

/// The capability.
pub struct Http {
    egress: Egress,
    random: Random,
}

/// The state of one release.
pub struct HttpRelease {
    egress: Arc<ReleaseEgress>,
    bytes: usize,
    random: Random,
}

/// The state of one call.
pub struct HttpCall {
    egress: Arc<ReleaseEgress>,
    bytes: usize,
    random: Random,
    /// The trace of all its requests. The first request begins one if the call carries none.
    trace: Option<Trace>,
}

impl Capability for Http {
    const NAME: &'static str = CAPABILITY;
    const MEANING: &'static str = "may send requests to the servers that you name in http.hosts, and to no others";
    const INTERFACES: &'static [&'static str] =
        &["wharf:http/client@0.1.0", "wasi:http/types@0.2", "wasi:http/outgoing-handler@0.2"];
    type Grant = Quota;
    type Release = HttpRelease;
    type Call = HttpCall;

    fn breadth(given: &ParameterValues) -> Option<&'static str> {
        let is_broad = given.get("hosts")?.split_whitespace().any(|host| host == Origin::EVERY_PUBLIC_SERVER);
        is_broad.then_some("may send requests to every public server, so it can send whatever it knows to anybody")
    }

    async fn open(boot: &Boot) -> Result<Self> {
        Ok(Self { egress: boot.egress.clone(), random: boot.random.clone() })
    }

    fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
        client::add_to_linker::<Guest, HasSelf<Guest>>(linker, |guest| guest)?;
        wasi::link(linker)
    }

    async fn admit(&self, candidate: &Candidate<'_>, quota: Quota) -> Result<HttpRelease> {
        let Quota { time, bytes, requests, hosts, networks } = quota;
        // The first byte of a response may take as long as the whole exchange.
        let limits = EgressLimits { time, first_byte: time, bytes, requests, ..EgressLimits::default() };
        let allowlist = Allowlist { hosts, networks };
        let egress = Arc::new(self.egress.release(candidate.plugin, allowlist, limits));
        Ok(HttpRelease { egress, bytes, random: self.random.clone() })
    }

    fn max_input_bytes(release: &HttpRelease) -> usize {
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
    /// Returns a sender for one request, which may run concurrently with the guest.
    fn sender(
        &mut self,
        context: &Arc<CallContext>,
        usage: &Arc<Usage>,
        dependencies: &Dependencies,
    ) -> wasmtime::Result<Sender> {
        let trace = match &mut self.trace {
            Some(trace) => &*trace,
            none => {
                let begun = Trace::begin(context.request_id.as_deref(), &self.random);
                none.insert(begun.map_err(wasmtime::Error::msg)?)
            }
        };
        let (egress, context, usage) = (Arc::clone(&self.egress), Arc::clone(context), Arc::clone(usage));
        let dependencies = dependencies.clone();
        Ok(Sender { egress, bytes: self.bytes, context, usage, dependencies, trace: trace.clone() })
    }
}

impl client::Host for Guest {
    async fn send(&mut self, request: client::Request) -> wasmtime::Result<Result<client::Response, client::Error>> {
        self.charge(HostCalls::http)?;
        let request = Request::from(request);
        let _reservation = self.reserve(request.weight())?;
        let sender = match self.entered.http()? {
            Ok(call) => call.sender(&self.context, &self.usage, &self.dependencies)?,
            Err(revoked) => return Ok(Err(client::Error::Denied(revoked.to_string()))),
        };
        let mut reservation = self.reserve(0)?;
        match sender.send(request, &mut reservation).await {
            Ok(response) => {
                self.hold_result(reservation);
                Ok(Ok(response.into()))
            }
            Err(failure) => client::Error::try_from(failure).map(Err),
        }
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
            // A trap, as when the guest's own memory is exhausted.
            Failure::Limit(LimitKind::Memory, reason) => return Err(wasmtime::Error::msg(reason)),
            Failure::Limit(_, limit) => Self::Limit(limit),
            Failure::Protocol(reason) => Self::Protocol(reason),
            Failure::Internal(reason) => return Err(wasmtime::Error::msg(reason)),
        })
    }
}
