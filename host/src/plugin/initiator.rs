//! The initiator of a change: an account, or the host itself.

use std::sync::Arc;

use crate::id::UserId;

/// The account and the request that change something, for the audit log.
#[derive(Debug, Clone)]
pub struct Initiator {
    /// The account; `None` means the host itself.
    pub actor: Option<UserId>,
    /// The request id.
    pub request_id: Arc<str>,
}

impl Initiator {
    /// Returns the host itself as the initiator. The audit entry states the reason.
    pub fn host() -> Self {
        Self { actor: None, request_id: "host".into() }
    }
}
