//! The initiator of a change, for the audit log: an account, an API key, the host itself, or nobody who is known. Never
//! decides whether they may do it.

use std::net::IpAddr;
use std::sync::Arc;

use crate::id::{KeyId, UserId};

/// The account, the credential and the request that change something.
#[derive(Debug, Clone)]
pub struct Initiator {
    /// The account; `None` means the host itself, a caller who is not known, or an API key that belongs to nobody.
    pub actor: Option<UserId>,
    /// The API key that the request used.
    pub key: Option<KeyId>,
    /// The address of the client; `None` without a request.
    pub address: Option<IpAddr>,
    /// The request id; `host` or `terminal` without a request.
    pub request_id: Arc<str>,
}

impl Initiator {
    /// Returns the host itself as the initiator. The audit entry states the reason.
    pub fn host() -> Self {
        Self::without_request("host")
    }

    /// Returns the operator who works on the machine itself, without the server.
    pub fn terminal() -> Self {
        Self::without_request("terminal")
    }

    /// Returns whether no request initiated the change.
    pub fn is_host(&self) -> bool {
        self.actor.is_none() && self.key.is_none() && self.address.is_none()
    }

    /// Returns the request, if a client made it.
    pub fn request(&self) -> Option<&str> {
        self.address.is_some().then_some(&*self.request_id)
    }

    /// Returns an initiator without an account, named by `place`.
    pub fn without_request(place: &str) -> Self {
        Self { actor: None, key: None, address: None, request_id: place.into() }
    }
}
