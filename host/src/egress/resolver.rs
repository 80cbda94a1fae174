//! Names to addresses, asked of whoever the host was started with: the system, or a test. Bounds nothing and judges
//! nothing: whoever asks does both.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use futures_util::future::BoxFuture;

type Look = dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync;

/// Finds the addresses of names.
#[derive(Clone)]
pub struct Resolver(Arc<Look>);

impl Resolver {
    /// One that answers as `look` does.
    pub fn new<F>(look: impl Fn(String) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = io::Result<Vec<IpAddr>>> + Send + 'static,
    {
        Self(Arc::new(move |name| Box::pin(look(name))))
    }

    /// All addresses of a name.
    pub(super) fn look_up(&self, name: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        (self.0)(name)
    }
}

impl Default for Resolver {
    /// The system's, as every program uses it.
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
