//! The headers in which a trusted proxy names the client.

/// The headers of trusted proxies that count. A proxy sets one kind and may pass the other on as a client wrote it, so
/// only one kind counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ProxyHeaders {
    /// `X-Forwarded-For`, `X-Forwarded-Proto` and `X-Forwarded-Host`, as most proxies send them.
    #[default]
    XForwarded,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}
