//! The input and output of one exchange: the plugin's request, the server's response, the memory for it, and the report
//! for the log. Plain data, checked elsewhere.

use std::time::Duration;

use bytes::Bytes;

use super::origin::Server;

/// A plugin's request, not checked yet.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// In upper case.
    pub method: String,
    /// `http` or `https`.
    pub url: String,
    /// In order.
    pub headers: Vec<(String, String)>,
    /// Empty for a request without a body.
    pub body: Bytes,
    /// A shorter limit than the plugin's on the whole exchange.
    pub time: Option<Duration>,
    /// A shorter limit than the plugin's on connecting, TLS included.
    pub connect: Option<Duration>,
    /// A shorter limit than the plugin's on the time from sending the request to the response's head.
    pub first_byte: Option<Duration>,
    /// The limit on the time between two pieces of the response's body.
    pub idle: Option<Duration>,
    /// Redirects to follow; `None` means the maximum.
    pub redirects: Option<u32>,
}

impl Request {
    /// Returns the bytes that the request takes in memory.
    pub fn weight(&self) -> usize {
        let headers = self.headers.iter().flat_map(|(name, value)| [name.len(), value.len()]);
        headers.fold(self.url.len().saturating_add(self.body.len()), usize::saturating_add)
    }
}

/// A server's response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The URL of the response, after redirects.
    pub url: String,
    /// 200 to 999.
    pub status: u16,
    /// Names are in lower case. Headers of the connection are left out.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: Bytes,
}

/// The source of the memory for a response.
pub trait ResponseMemory: Send {
    /// Reserves `bytes` in total, and returns whether they are available.
    fn grow(&mut self, bytes: usize) -> bool;
}

/// No limit.
impl ResponseMemory for () {
    fn grow(&mut self, _: usize) -> bool {
        true
    }
}

/// The facts about an exchange that go to the log: never a path, a query or a header.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The last server of the exchange, even if the request did not reach it.
    pub server: Option<Server>,
    /// Redirects that were followed.
    pub redirects: u32,
    /// The response's status.
    pub status: Option<u16>,
    /// Bytes of the response's body.
    pub bytes: usize,
    /// Connections that were reused.
    pub reused: u32,
    /// The time to look up names.
    pub resolve: Duration,
    /// The time to connect.
    pub connect: Duration,
    /// The time until the heads of the responses arrived.
    pub first_byte: Duration,
    /// The time to read the body.
    pub body: Duration,
    /// A detail of a failure that an operator may know and the plugin may not.
    pub detail: Option<String>,
}
