//! Reasons why an exchange fails, in texts that a plugin may see. Never holds an address that a name resolved to: that
//! goes to `Report::detail`, for operators.

/// The reason why there is no response.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The request is invalid.
    #[error("invalid: {0}")]
    Invalid(String),
    /// The grant does not allow the request.
    #[error("denied: {0}")]
    Denied(String),
    /// The name does not exist, nothing listens at the address, or the connection broke.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// A phase took too long.
    #[error("timeout: {0}")]
    Timeout(&'static str),
    /// The exchange hit a limit.
    #[error("limit: {1}")]
    Limit(LimitKind, String),
    /// The server violates HTTP or TLS.
    #[error("protocol: {0}")]
    Protocol(String),
    /// A defect of the host, or of the machine below it.
    #[error("internal: {0}")]
    Internal(String),
}

/// The limit that an exchange hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitKind {
    /// Concurrent requests.
    Requests,
    /// Bytes of a body.
    Bytes,
    /// Memory for the response.
    Memory,
    /// Headers and their bytes: the same for all plugins.
    Headers,
    /// Redirects: the same for all plugins.
    Redirects,
}

/// The parts of an exchange that have a time limit of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Resolve,
    Connect,
    Tls,
    FirstByte,
    Body,
}

impl Phase {
    pub(super) fn timeout(self) -> Failure {
        Failure::Timeout(match self {
            Self::Resolve => "resolve",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::FirstByte => "first byte",
            Self::Body => "body",
        })
    }
}
