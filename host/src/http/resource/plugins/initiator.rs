//! The initiator of an operation on a plugin, for the audit log.

use std::sync::Arc;

use crate::error::Result;
use crate::http::call::Call;
use crate::plugin::initiator::Initiator;

/// Returns the initiator of an operation: the caller.
pub(super) fn initiator(call: &Call) -> Result<Initiator> {
    Ok(Initiator { actor: Some(call.caller()?.user.id), request_id: Arc::clone(&call.request_id) })
}
