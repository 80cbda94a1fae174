//! The client of a sign-in, as sessions and the audit log record it. Never decides whether the client may sign in.

use std::net::IpAddr;
use std::sync::Arc;

use crate::initiator::Initiator;

/// The client that signs in.
#[derive(Debug, Clone)]
pub struct Client {
    /// The `User-Agent`.
    pub user_agent: Option<String>,
    /// The address.
    pub address: IpAddr,
    /// The request.
    pub request_id: Arc<str>,
}

impl Client {
    /// Returns the initiator of a sign-in that has not succeeded yet: nobody who is known.
    pub(super) fn initiator(&self) -> Initiator {
        Initiator { actor: None, key: None, address: Some(self.address), request_id: Arc::clone(&self.request_id) }
    }
}
