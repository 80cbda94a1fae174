//! The error type of the host.
//!
//! An error has a kind, a stable code (for programs), a public text (for clients) and an internal text with a source
//! chain (for operators). It never knows HTTP: only `http::problem` turns an [`Error`] into a response. The internal
//! half only goes to the log and to the terminal of an operator.

pub mod code;
pub mod findings;

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use serde_json::{Map, Value};

pub use code::Code;
pub use findings::{FieldError, Findings, Loc};

/// The result of every fallible function of the host.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The kind of a failure. Each kind has one HTTP status (see `http::problem`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// The request contradicts a rule of the resource.
    BadRequest,
    /// The credentials are missing or not valid.
    Unauthenticated(Challenge),
    /// The caller is known and is not allowed to do this.
    Forbidden,
    /// The resource does not exist.
    NotFound,
    /// The path exists with other methods, which are listed here.
    MethodNotAllowed(Vec<String>),
    /// The current state of the resource forbids the operation.
    Conflict,
    /// A body or an upload exceeds its size limit.
    TooLarge,
    /// The URL exceeds its size limit.
    UrlTooLong,
    /// The body has a content coding that the host does not decode.
    UnsupportedMediaType,
    /// The headers exceed their size limit.
    HeadersTooLarge,
    /// The input is malformed. Each finding names its location. [`Error::omitted_findings`] counts those that are not
    /// listed.
    Invalid(Vec<FieldError>),
    /// Too many attempts were made. The duration is the wait before the next one.
    TooManyRequests(Duration),
    /// The request needs a feature of HTTP that the host does not have.
    NotImplemented,
    /// A plugin violated its contract.
    Plugin,
    /// The host is busy or shutting down, or a service is not reachable. The duration is the wait before the next
    /// attempt.
    Unavailable(Duration),
    /// A plugin or a service exceeded its time limit.
    Timeout,
    /// The host has a defect, or its environment is broken.
    Internal,
}

/// The challenge of a 401 response (RFC 6750).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Challenge {
    /// No credentials were given.
    Missing,
    /// The credentials given are not valid.
    InvalidToken,
}

/// The rate limit that refused an attempt, for the `RateLimit` headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// The name of the limit: lower-case words with hyphens between them.
    pub policy: &'static str,
    /// The number of attempts in a window.
    pub quota: u32,
    /// The window.
    pub window: Duration,
    /// The wait before the next attempt.
    pub wait: Duration,
}

type Source = Box<dyn std::error::Error + Send + Sync>;

/// A failure, with separate texts for clients and for operators.
pub struct Error(Box<Inner>);

struct Inner {
    kind: Kind,
    code: Code,
    public: Cow<'static, str>,
    findings: Vec<FieldError>,
    omitted_findings: usize,
    members: Map<String, Value>,
    rate_limit: Option<RateLimit>,
    internal: Option<String>,
    source: Option<Source>,
}

impl Error {
    /// Creates an error. `public` must not contain internals of the host.
    pub fn new(kind: Kind, code: Code, public: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            kind,
            code,
            public: public.into(),
            findings: Vec::new(),
            omitted_findings: 0,
            members: Map::new(),
            rate_limit: None,
            internal: None,
            source: None,
        }))
    }

    /// Creates a 400.
    pub fn bad_request(code: Code, public: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::BadRequest, code, public)
    }

    /// Creates a 403.
    pub fn forbidden(code: Code, public: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Forbidden, code, public)
    }

    /// Creates a 404.
    pub fn not_found(code: Code, public: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::NotFound, code, public)
    }

    /// Creates a 409.
    pub fn conflict(code: Code, public: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Conflict, code, public)
    }

    /// Creates a 422 with findings. The public text is that of the first one.
    pub fn invalid(findings: impl Into<Findings>) -> Self {
        let (listed, omitted) = findings.into().into_parts();
        let public = listed.first().map_or_else(|| "Invalid input".to_owned(), |first| first.msg.clone());
        let mut error = Self::new(Kind::Invalid(listed), code::VALIDATION_ERROR, public);
        error.0.omitted_findings = omitted;
        error
    }

    /// Creates a 401: the token is malformed, expired, forged or revoked, or its user does not exist.
    pub fn invalid_token() -> Self {
        Self::new(Kind::Unauthenticated(Challenge::InvalidToken), code::INVALID_TOKEN, "Could not validate credentials")
    }

    /// Creates a 500. `internal` goes to the log, and the client gets a fixed text.
    pub fn internal(internal: impl fmt::Display) -> Self {
        let mut error = Self::new(Kind::Internal, code::INTERNAL, "Internal Server Error");
        error.0.internal = Some(internal.to_string());
        error
    }

    /// Creates a 503: the disk is full, or a quota or a limit on the size of files was reached.
    pub fn storage_full() -> Self {
        let kind = Kind::Unavailable(Duration::from_secs(10));
        Self::new(kind, code::STORAGE_FULL, "Nothing can be stored now, because the disk is full")
    }

    /// Creates the error of a failed file operation: [`Error::storage_full`] if the disk is full, otherwise a 500.
    pub fn io(internal: impl fmt::Display, error: std::io::Error) -> Self {
        use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        let failed = match error.kind() {
            StorageFull | QuotaExceeded | FileTooLarge => Self::storage_full().with_internal(internal),
            _ => Self::internal(internal),
        };
        failed.with_source(error)
    }

    /// Adds findings to an error of another kind than [`Kind::Invalid`], so that programs need not parse its text.
    #[must_use]
    pub fn with_findings(mut self, findings: Vec<FieldError>) -> Self {
        self.0.findings = findings;
        self
    }

    /// Adds a member to the problem that the client gets, so that a program can continue or tell what is missing. It may be a
    /// secret of this client: it is never logged.
    #[must_use]
    pub fn with_member(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.members.insert(name.to_owned(), value.into());
        self
    }

    /// Adds the rate limit that refused the attempt.
    #[must_use]
    pub fn with_rate_limit(mut self, rate_limit: RateLimit) -> Self {
        self.0.rate_limit = Some(rate_limit);
        self
    }

    /// Adds a text that only operators may read.
    #[must_use]
    pub fn with_internal(mut self, internal: impl fmt::Display) -> Self {
        self.0.internal = Some(internal.to_string());
        self
    }

    /// Adds the cause, which is only logged.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Returns the kind.
    pub fn kind(&self) -> &Kind {
        &self.0.kind
    }

    /// Returns the stable word for programs.
    pub fn code(&self) -> &Code {
        &self.0.code
    }

    /// Returns the number of findings that are not listed.
    pub fn omitted_findings(&self) -> usize {
        self.0.omitted_findings
    }

    /// Returns the members that the problem has in addition to the usual ones.
    pub fn members(&self) -> &Map<String, Value> {
        &self.0.members
    }

    /// Returns the listed findings. `None` means that the error has no list of findings.
    pub fn findings(&self) -> Option<&[FieldError]> {
        match &self.0.kind {
            Kind::Invalid(findings) => Some(findings),
            _ => Some(self.0.findings.as_slice()).filter(|findings| !findings.is_empty()),
        }
    }

    /// Returns the rate limit that refused the attempt.
    pub fn rate_limit(&self) -> Option<&RateLimit> {
        self.0.rate_limit.as_ref()
    }

    /// Returns the text for clients.
    pub fn public(&self) -> &str {
        &self.0.public
    }

    /// Returns public text, internal text and source chain on one line, for the log and the operator's terminal. The text of
    /// a cause that the one before it ends with is not repeated.
    pub fn report(&self) -> String {
        let mut report = self.0.public.to_string();
        if let Some(internal) = &self.0.internal {
            report.push_str(": ");
            report.push_str(internal);
        }
        let mut source = self.0.source.as_deref().map(|source| source as &dyn std::error::Error);
        while let Some(cause) = source {
            let text = cause.to_string();
            if !report.ends_with(&text) {
                report.push_str(": ");
                report.push_str(&text);
            }
            source = cause.source();
        }
        report
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.public)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} ({}): {}", self.0.kind, self.0.code, self.report())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_public_text_never_contains_the_cause() {
        let error = Error::internal("pool").with_source(std::io::Error::other("password=hunter2"));
        assert_eq!(error.to_string(), "Internal Server Error");
        assert_eq!(error.report(), "Internal Server Error: pool: password=hunter2");
    }

    #[test]
    fn findings_are_serialized_as_in_the_contract() {
        let finding = FieldError::new("missing", ["body", "title"], "Field required");
        let json = serde_json::to_string(&finding).unwrap_or_default();
        assert_eq!(json, r#"{"type":"missing","loc":["body","title"],"msg":"Field required"}"#);
    }
}
