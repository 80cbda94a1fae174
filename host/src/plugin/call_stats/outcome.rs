//! The outcomes of calls. Owns the rule which outcomes are a plugin's fault, and which say anything about a release.

use crate::error::{Code, Error, Kind, Result, code};
use crate::plugin::response::PluginResponse;

/// The outcome of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallOutcome {
    /// A response below 400.
    Success,
    /// A cached response; no guest ran.
    Cached,
    /// A response of 400 to 499.
    ClientError,
    /// A response of 500 or above from the plugin.
    ServerError,
    /// A trap.
    Trap,
    /// A limit was hit.
    Limit,
    /// An invalid response.
    InvalidResponse,
    /// Failed, or refused before the guest ran, because a service of the host failed. Nobody is blamed.
    Dependency,
    /// Cancelled at the end of the drain time of its release.
    Replaced,
    /// The client disconnected.
    Cancelled,
    /// Refused: no call slot was free.
    Busy,
    /// Refused: the release is quarantined.
    Quarantined,
    /// Ended or refused, because an operator paused the plugin or revoked a grant.
    Stopped,
}

impl CallOutcome {
    /// All outcomes.
    pub const ALL: [Self; 13] = [
        Self::Success,
        Self::Cached,
        Self::ClientError,
        Self::ServerError,
        Self::Trap,
        Self::Limit,
        Self::InvalidResponse,
        Self::Dependency,
        Self::Replaced,
        Self::Cancelled,
        Self::Busy,
        Self::Quarantined,
        Self::Stopped,
    ];

    /// Returns the name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Cached => "kept",
            Self::ClientError => "client_error",
            Self::ServerError => "server_error",
            Self::Trap => "trap",
            Self::Limit => "limit",
            Self::InvalidResponse => "invalid_response",
            Self::Dependency => "dependency",
            Self::Replaced => "replaced",
            Self::Cancelled => "cancelled",
            Self::Busy => "busy",
            Self::Quarantined => "quarantined",
            Self::Stopped => "stopped",
        }
    }

    /// Returns the outcome of a call that ran.
    pub fn of(response: &Result<PluginResponse>) -> Self {
        match response {
            Ok(PluginResponse::Response { status, .. } | PluginResponse::Problem { status, .. }) => match status {
                ..400 => Self::Success,
                400..500 => Self::ClientError,
                _ => Self::ServerError,
            },
            Err(error) => Self::of_error(error),
        }
    }

    /// Returns the outcome of a call without a response.
    pub fn of_error(error: &Error) -> Self {
        const KNOWN: [(Code, CallOutcome); 8] = [
            (code::PLUGIN_BUSY, CallOutcome::Busy),
            (code::OVERLOADED, CallOutcome::Busy),
            (code::PLUGIN_QUARANTINED, CallOutcome::Quarantined),
            (code::PLUGIN_REPLACED, CallOutcome::Replaced),
            (code::PLUGIN_PAUSED, CallOutcome::Stopped),
            (code::PLUGIN_REVOKED, CallOutcome::Stopped),
            (code::PLUGIN_INVALID_RESPONSE, CallOutcome::InvalidResponse),
            (code::PLUGIN_TRAP, CallOutcome::Trap),
        ];
        if let Some((_, outcome)) = KNOWN.iter().find(|(known, _)| known == error.code()) {
            return *outcome;
        }
        match error.kind() {
            Kind::Plugin | Kind::Timeout => Self::Limit,
            Kind::Unavailable(_) | Kind::Internal => Self::Dependency,
            _ => Self::ClientError,
        }
    }

    /// Returns the outcome of a call in which a service of the host failed, or did not. A plugin that coped with the
    /// failure keeps its outcome.
    #[must_use]
    pub fn with_failed_dependency(self, failed: bool) -> Self {
        if failed && self.is_fault() { Self::Dependency } else { self }
    }

    /// Returns whether the call shows how well the release works. Calls that the host or the client ended, and calls
    /// that never ran, do not.
    pub fn is_evidence(self) -> bool {
        matches!(self, Self::Success | Self::ClientError) || self.is_fault()
    }

    /// Returns whether it is the plugin's fault.
    pub fn is_fault(self) -> bool {
        matches!(self, Self::ServerError | Self::Trap | Self::Limit | Self::InvalidResponse)
    }
}
