//! The facts about one call that every capability may read. The sandbox fills them in once per call; nothing changes
//! them afterwards.

use std::sync::Arc;

use crate::auth::Caller;
use crate::egress::Trace;
use crate::id::PluginName;

/// The plugin, the request and the caller of one call.
#[derive(Debug, Clone)]
pub struct CallContext {
    /// The plugin.
    pub plugin: PluginName,
    /// The release.
    pub release: i64,
    /// The request's id.
    pub request_id: Arc<str>,
    /// The verified caller.
    pub caller: Option<Arc<Caller>>,
    /// The trace context that the request carried.
    pub trace: Option<Trace>,
}
