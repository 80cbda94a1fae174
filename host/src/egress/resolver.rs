//! Resolves names to addresses, with the system's resolver or a test's. Has no limits and does not check addresses: the
//! caller does both.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use futures_util::future::BoxFuture;

type LookupFn = dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync;

/// Resolves names to addresses.
#[derive(Clone)]
pub struct Resolver(Arc<LookupFn>);

impl Resolver {
    /// Creates a resolver that calls `lookup`.
    pub fn new<F>(lookup: impl Fn(String) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = io::Result<Vec<IpAddr>>> + Send + 'static,
    {
        Self(Arc::new(move |name| Box::pin(lookup(name))))
    }

    /// Returns all addresses of a name.
    pub(super) fn look_up(&self, name: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        (self.0)(name)
    }
}

impl Default for Resolver {
    /// Creates the system's resolver.
    fn default() -> Self {
        Self::new(
            |name| async move { Ok(tokio::net::lookup_host((name, 0)).await?.map(|address| address.ip()).collect()) },
        )
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resolver")
    }
}
