//! `wharf:auth`: the caller of a request. The plugin sees a verified caller, never a token, a password or a session.
//! Each question about the caller is noted: the response cache keeps such a response for that caller only.

use std::sync::Arc;

use wasmtime::component::{HasSelf, Linker};

use super::{Boot, CallContext, Candidate, Capability, Guest, HostCalls, NoParameters};
use crate::error::Result;

mod bindings {
    #![allow(missing_docs, unreachable_pub, reason = "generated")]
    wasmtime::component::bindgen!({
        inline: "package wharf:host-auth; world imports { import wharf:auth/caller@0.1.0; }",
        path: "../wit",
        imports: { default: trappable },
    });
}
use bindings::wharf::auth::caller;

/// The capability.
pub struct Auth;

impl Capability for Auth {
    const NAME: &'static str = "auth";
    const MEANING: &'static str = "may read the caller's account and email address, never a password or token";
    const INTERFACES: &'static [&'static str] = &["wharf:auth/caller@0.1.0"];
    type Grant = NoParameters;
    type Release = ();
    type Call = Arc<CallContext>;

    async fn open(_: &Boot) -> Result<Self> {
        Ok(Self)
    }

    fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
        caller::add_to_linker::<Guest, HasSelf<Guest>>(linker, |guest| guest)
    }

    async fn admit(&self, _: &Candidate<'_>, _: NoParameters) -> Result<()> {
        Ok(())
    }

    fn enter((): &(), context: &Arc<CallContext>) -> Self::Call {
        Arc::clone(context)
    }
}

impl caller::Host for Guest {
    fn current(&mut self) -> wasmtime::Result<Option<caller::Principal>> {
        self.charge(HostCalls::auth)?;
        self.asked_for_caller = true;
        let context = self.entered.auth()??;
        Ok(context.caller.as_ref().map(|caller| caller::Principal {
            id: caller.id().to_string(),
            email: caller.user.as_ref().map(|user| user.email.clone()).unwrap_or_default(),
            superuser: caller.is_superuser(),
            roles: caller.roles.iter().map(ToString::to_string).collect(),
        }))
    }

    fn has_permission(&mut self, name: String) -> wasmtime::Result<bool> {
        self.charge(HostCalls::auth)?;
        self.asked_for_caller = true;
        let context = self.entered.auth()??;
        Ok(context.caller.as_ref().is_some_and(|caller| caller.has_permission(&context.plugin, &name)))
    }
}
