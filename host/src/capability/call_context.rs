//! The facts about one call that every capability may read. The sandbox fills them in once per call; nothing changes
//! them afterwards.

use std::net::IpAddr;
use std::sync::Arc;

use crate::auth::Caller;
use crate::db::task::Claim;
use crate::egress::Trace;
use crate::id::PluginName;
use crate::initiator::Initiator;

/// The plugin, the request and the caller of one call.
#[derive(Debug, Clone)]
pub struct CallContext {
    /// The plugin.
    pub plugin: PluginName,
    /// The release.
    pub release: i64,
    /// The request that the call serves, or that caused its task; `None` if none did.
    pub request_id: Option<Arc<str>>,
    /// The address of the client; `None` outside of a request.
    pub address: Option<IpAddr>,
    /// The verified caller.
    pub caller: Option<Arc<Caller>>,
    /// The trace context that the request carried.
    pub trace: Option<Trace>,
    /// The delivery or job that the call runs; `None` for a request.
    pub task: Option<RunningTask>,
}

/// The delivery or job that a call runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunningTask {
    /// The claim of the task.
    pub claim: Claim,
    /// Whether it is a job.
    pub is_job: bool,
    /// How many events and jobs caused each other before it.
    pub depth: u32,
}

impl CallContext {
    /// Returns the depth of a message that the call hands over: one more than that of its task.
    pub fn message_depth(&self) -> u32 {
        self.task.map_or(0, |task| task.depth.saturating_add(1))
    }

    /// Returns the initiator of whatever the call changes.
    pub fn initiator(&self) -> Initiator {
        let caller = self.caller.as_deref();
        Initiator {
            actor: caller.and_then(Caller::user_id),
            key: caller.and_then(Caller::key_id),
            address: self.address,
            request_id: self.request_id.clone().unwrap_or_else(|| Initiator::host().request_id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_initiates_a_call_without_a_request() {
        let context = CallContext {
            plugin: "items".parse().unwrap(),
            release: 1,
            request_id: None,
            address: None,
            caller: None,
            trace: None,
            task: None,
        };
        assert!(context.initiator().is_host());
        assert_eq!(context.initiator().request_id, Initiator::host().request_id);
        let caused = CallContext { request_id: Some("r1".into()), ..context };
        assert_eq!(&*caused.initiator().request_id, "r1");
    }
}
