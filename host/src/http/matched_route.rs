//! The route that a request matched: one of the host or one of a plugin, with everything that the stages before the
//! handler need.

use std::sync::Arc;

use super::Host;
use super::host_route::HostRoute;
use crate::plugin::Release;
use crate::plugin::release::{Prepared, ReleaseRoute};
use crate::route::{Access, BodyKind, Operation};

/// The route that a request matched, looked up once.
#[derive(Clone, Copy)]
pub(super) struct MatchedRoute<'a> {
    pub(super) operation: &'a Arc<Operation>,
    pub(super) access: &'a Access,
    /// How the body is read; `None` means that a body is ignored.
    pub(super) body_kind: Option<BodyKind>,
    pub(super) max_body_bytes: usize,
    pub(super) handler: Handler<'a>,
}

#[derive(Clone, Copy)]
pub(super) enum Handler<'a> {
    Host(&'a HostRoute<Host>),
    Plugin { release: &'a Arc<Release>, prepared: &'a Arc<Prepared>, index: usize, contract: &'a ReleaseRoute },
}

impl<'a> Handler<'a> {
    /// Returns the release that handles the request, unless the host does.
    pub(super) fn release(self) -> Option<&'a Release> {
        match self {
            Self::Host(_) => None,
            Self::Plugin { release, .. } => Some(release),
        }
    }
}
