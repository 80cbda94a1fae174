//! Sends one request of a plugin to another server. Counts the limit that it hit, records when no place was free, and
//! logs the exchange when it ends. `wharf:http` and `wasi:http` both send this way.

use std::sync::Arc;
use std::time::Duration;

use crate::capability::budget::MemoryReservation;
use crate::capability::{CallContext, Dependencies, Dependency, Limit, Usage};
use crate::egress::{Failure, LimitKind, ReleaseEgress, Report, Request, Response, Trace};

/// The name of the capability that both interfaces belong to.
pub(super) const CAPABILITY: &str = "http";

/// Sends one request.
#[derive(Clone)]
pub(super) struct Sender {
    pub(super) egress: Arc<ReleaseEgress>,
    /// Maximum size of a body.
    pub(super) bytes: usize,
    pub(super) context: Arc<CallContext>,
    pub(super) usage: Arc<Usage>,
    pub(super) dependencies: Dependencies,
    pub(super) trace: Trace,
}

impl Sender {
    pub(super) async fn send(self, request: Request, memory: &mut MemoryReservation) -> Result<Response, Failure> {
        // A timeout that the plugin chose itself is not a limit that an operator could raise.
        let own = [request.time, request.connect, request.first_byte, request.idle].iter().any(Option::is_some);
        let mut exchange =
            Exchange { context: self.context, report: Report::default(), failure: Some(GONE.to_owned()) };
        let open = self.dependencies.open_request();
        let outcome = self.egress.send(request, &self.trace, memory, &mut exchange.report).await;
        exchange.failure = outcome.as_ref().err().map(|failure| match failure {
            // Its text quotes the plugin's input.
            Failure::Invalid(_) => "invalid".to_owned(),
            failure => failure.to_string(),
        });
        outcome.inspect_err(|failure| {
            let is_busy = matches!(failure, Failure::Limit(LimitKind::Requests, _)) && open.is_alone();
            if is_busy || matches!(failure, Failure::Internal(_)) {
                self.dependencies.record_failure(Dependency::Egress);
            }
            if let Some(limit) = limit_hit_by(failure).filter(|_| !own || !matches!(failure, Failure::Timeout(_))) {
                self.usage.hit(limit);
            }
        })
    }
}

/// Returns the limit that a request hit, if it hit one.
fn limit_hit_by(failure: &Failure) -> Option<Limit> {
    match failure {
        Failure::Denied(_) => Some(Limit::HttpHosts),
        Failure::Timeout(phase) => Some(match *phase {
            // Shorter than the time of the whole exchange, and the same for every plugin.
            "resolve" | "connect" | "tls" => Limit::HttpConnect,
            _ => Limit::HttpTime,
        }),
        Failure::Limit(bound, _) => Some(match bound {
            LimitKind::Requests => Limit::HttpRequests,
            LimitKind::Bytes => Limit::HttpBytes,
            // The call's budget counts it.
            LimitKind::Memory => return None,
            LimitKind::Headers => Limit::HttpHeaders,
            LimitKind::Redirects => Limit::HttpRedirects,
        }),
        _ => None,
    }
}

/// The failure of an exchange whose call ended before it.
const GONE: &str = "the call ended first";

/// Logs one exchange when it ends, in any way. Never logs a path, a query or a header: those may contain secrets.
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
            request_id = context.request_id.as_deref(),
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
