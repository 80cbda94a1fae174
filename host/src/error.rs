//! The one error of the host.
//!
//! Owns the vocabulary of failure: a kind (what sort of thing went wrong), a stable code (for programs), a public text
//! (for clients) and an internal text with a source chain (for operators). It never knows HTTP: `http::problem` is the
//! one place that turns an [`Error`] into a response, and the log is the only place the internal half goes to.

pub mod code;

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

pub use code::Code;

/// What every fallible function of the host returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What sort of failure it is; each kind has one HTTP status (see `http::problem`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// The request contradicts the state or the rules of the resource.
    BadRequest,
    /// Who is calling is unknown or no longer valid.
    Unauthenticated(Challenge),
    /// The caller is known and may not do this.
    Forbidden,
    /// There is no such thing.
    NotFound,
    /// The thing exists but not with this method.
    MethodNotAllowed(Vec<String>),
    /// The thing's present state forbids it.
    Conflict,
    /// A body or upload beyond its limit.
    TooLarge,
    /// Headers beyond their limit.
    HeadersTooLarge,
    /// The input is malformed; each finding names its place.
    Invalid(Vec<FieldError>),
    /// Too many attempts; when to try again.
    TooManyRequests(Duration),
    /// A plugin broke its side of the contract.
    Plugin,
    /// Busy, stopping or not reachable now; when to try again.
    Unavailable(Duration),
    /// A plugin or a service ran out of time.
    Timeout,
    /// A bug or a broken environment of the host's own.
    Internal,
}

/// What an unauthenticated caller is told to bring (RFC 6750).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Challenge {
    /// No credentials were given.
    Missing,
    /// The credentials given are not valid.
    InvalidToken,
}

/// One refused input. Serialized as in the reference contract: `{"type":…,"loc":[…],"msg":…}`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct FieldError {
    /// Stable machine word, `string_too_long`.
    #[serde(rename = "type")]
    pub kind: Cow<'static, str>,
    /// Where: `body`, `query` or `path` first, then member names and indexes.
    pub loc: Vec<Loc>,
    /// Text for people.
    pub msg: String,
}

impl FieldError {
    /// A finding at `loc`, outermost place first.
    pub fn new(
        kind: impl Into<Cow<'static, str>>,
        loc: impl IntoIterator<Item = impl Into<Loc>>,
        msg: impl Into<String>,
    ) -> Self {
        Self { kind: kind.into(), loc: loc.into_iter().map(Into::into).collect(), msg: msg.into() }
    }
}

/// One step of a place in the input.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(untagged)]
pub enum Loc {
    /// A member.
    Name(String),
    /// An element of a list, or a byte offset of malformed JSON.
    Index(u64),
}

impl From<&str> for Loc {
    fn from(name: &str) -> Self {
        Self::Name(name.to_owned())
    }
}

impl From<String> for Loc {
    fn from(name: String) -> Self {
        Self::Name(name)
    }
}

impl From<u64> for Loc {
    fn from(index: u64) -> Self {
        Self::Index(index)
    }
}

type Source = Box<dyn std::error::Error + Send + Sync>;

/// A failure: what the client may read and, kept apart, what the operator must read.
pub struct Error(Box<Inner>);

struct Inner {
    kind: Kind,
    code: Code,
    public: Cow<'static, str>,
    findings: Vec<FieldError>,
    internal: Option<String>,
    source: Option<Source>,
}

impl Error {
    /// A failure with its public text. Nothing of the host's inside belongs in `public`.
    pub fn new(kind: Kind, code: Code, public: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner { kind, code, public: public.into(), findings: Vec::new(), internal: None, source: None }))
    }

    /// 400.
    pub fn bad_request(code: Code, public: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::BadRequest, code, public)
    }

    /// 403.
    pub fn forbidden(code: Code, public: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Forbidden, code, public)
    }

    /// 404.
    pub fn not_found(code: Code, public: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::NotFound, code, public)
    }

    /// 409.
    pub fn conflict(code: Code, public: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Conflict, code, public)
    }

    /// 422 with every finding; the public text is the first one's.
    pub fn invalid(findings: Vec<FieldError>) -> Self {
        let public = findings.first().map_or_else(|| "Invalid input".to_owned(), |first| first.msg.clone());
        Self::new(Kind::Invalid(findings), code::VALIDATION_ERROR, public)
    }

    /// 401: the credentials given are malformed, expired, forged, revoked or of nobody.
    pub fn invalid_token() -> Self {
        Self::new(Kind::Unauthenticated(Challenge::InvalidToken), code::INVALID_TOKEN, "Could not validate credentials")
    }

    /// 500: `internal` goes to the log, the client reads a fixed text.
    pub fn internal(internal: impl fmt::Display) -> Self {
        let mut error = Self::new(Kind::Internal, code::INTERNAL, "Internal Server Error");
        error.0.internal = Some(internal.to_string());
        error
    }

    /// Adds findings to an error that is not about malformed input, so that programs need not read its text.
    #[must_use]
    pub fn with_findings(mut self, findings: Vec<FieldError>) -> Self {
        self.0.findings = findings;
        self
    }

    /// Adds what only an operator may read.
    #[must_use]
    pub fn with_internal(mut self, internal: impl fmt::Display) -> Self {
        self.0.internal = Some(internal.to_string());
        self
    }

    /// Adds the cause; it is only ever logged.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// What sort of failure.
    pub fn kind(&self) -> &Kind {
        &self.0.kind
    }

    /// The stable word for programs.
    pub fn code(&self) -> &Code {
        &self.0.code
    }

    /// Every finding, each with its place; none: the error has no list of them.
    pub fn findings(&self) -> Option<&[FieldError]> {
        match &self.0.kind {
            Kind::Invalid(findings) => Some(findings),
            _ => Some(self.0.findings.as_slice()).filter(|findings| !findings.is_empty()),
        }
    }

    /// The text for clients.
    pub fn public(&self) -> &str {
        &self.0.public
    }

    /// Public and internal text and the whole source chain on one line, for the log and the operator's terminal.
    pub fn report(&self) -> String {
        let mut report = self.0.public.to_string();
        if let Some(internal) = &self.0.internal {
            report.push_str(": ");
            report.push_str(internal);
        }
        let mut source = self.0.source.as_deref().map(|source| source as &dyn std::error::Error);
        while let Some(cause) = source {
            report.push_str(": ");
            report.push_str(&cause.to_string());
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
    fn the_public_text_never_carries_the_cause() {
        let error = Error::internal("pool").with_source(std::io::Error::other("password=hunter2"));
        assert_eq!(error.to_string(), "Internal Server Error");
        assert_eq!(error.report(), "Internal Server Error: pool: password=hunter2");
    }

    #[test]
    fn findings_read_as_in_the_reference() {
        let finding = FieldError::new("missing", ["body", "title"], "Field required");
        let json = serde_json::to_string(&finding).unwrap_or_default();
        assert_eq!(json, r#"{"type":"missing","loc":["body","title"],"msg":"Field required"}"#);
    }
}
