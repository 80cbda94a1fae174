//! `wharf:auth`: the caller of a request. The plugin sees a verified caller, never a token, a password or a key.
//! Each question about the caller is noted: the response cache keeps such a response for that caller only.

use std::sync::Arc;

use wasmtime::component::{HasSelf, Linker};

use super::{Boot, CallContext, Candidate, Capability, Guest, HostCalls, NoParameters};
use crate::auth::{Caller, Credential, Strength};
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

/// The permissions that a release declares, without the plugin's name.
type Declared = Arc<[String]>;

/// The state of one call.
pub struct AuthCall {
    context: Arc<CallContext>,
    declared: Declared,
}

impl AuthCall {
    /// Returns whether the caller has a permission. One that the release does not declare is nobody's but a superuser's: a
    /// role can still name it from an earlier release.
    fn has_permission(&self, name: &str) -> bool {
        self.context.caller.as_ref().is_some_and(|caller| {
            let is_declared = || self.declared.iter().any(|declared| declared == name);
            caller.is_superuser() || (is_declared() && caller.has_permission(&self.context.plugin, name))
        })
    }
}

impl Capability for Auth {
    const NAME: &'static str = "auth";
    const MEANING: &'static str =
        "may read the caller's account, email address, roles and kind of sign-in, never a password or token";
    const INTERFACES: &'static [&'static str] = &["wharf:auth/caller@0.1.0"];
    type Grant = NoParameters;
    type Release = Declared;
    type Call = AuthCall;

    async fn open(_: &Boot) -> Result<Self> {
        Ok(Self)
    }

    fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
        caller::add_to_linker::<Guest, HasSelf<Guest>>(linker, |guest| guest)
    }

    async fn admit(&self, candidate: &Candidate<'_>, _: NoParameters) -> Result<Declared> {
        Ok(candidate.permissions.clone().into())
    }

    fn enter(declared: &Declared, context: &Arc<CallContext>) -> AuthCall {
        AuthCall { context: Arc::clone(context), declared: Arc::clone(declared) }
    }
}

impl Guest {
    /// Counts a question about the caller and notes that the response may depend on the answer.
    fn ask_for_caller(&mut self) -> wasmtime::Result<&mut AuthCall> {
        self.charge(HostCalls::auth)?;
        self.asked_for_caller = true;
        Ok(self.entered.auth()??)
    }
}

impl caller::Host for Guest {
    fn current(&mut self) -> wasmtime::Result<Option<caller::Principal>> {
        Ok(self.ask_for_caller()?.context.caller.as_ref().map(|caller| caller::Principal {
            id: caller.id().to_string(),
            email: caller.user.as_ref().map(|user| user.email.clone()).unwrap_or_default(),
            superuser: caller.is_superuser(),
            roles: caller.roles.iter().map(ToString::to_string).collect(),
        }))
    }

    fn has_permission(&mut self, name: String) -> wasmtime::Result<bool> {
        Ok(self.ask_for_caller()?.has_permission(&name))
    }

    fn permissions(&mut self) -> wasmtime::Result<Vec<String>> {
        let call = self.ask_for_caller()?;
        Ok(call.declared.iter().filter(|name| call.has_permission(name)).cloned().collect())
    }

    fn authentication(&mut self) -> wasmtime::Result<Option<caller::AuthenticatedBy>> {
        Ok(self.ask_for_caller()?.context.caller.as_deref().map(authenticated_by))
    }
}

fn authenticated_by(caller: &Caller) -> caller::AuthenticatedBy {
    match &caller.credential {
        Credential::Session(session) => caller::AuthenticatedBy::Session(caller::Session {
            id: session.id.to_string(),
            strength: match session.strength {
                Strength::Single => caller::Strength::SingleFactor,
                Strength::Multi => caller::Strength::MultiFactor,
            },
            authenticated_at: session.authenticated_at.0,
            stepped_up_at: session.stepped_up_at.map(|at| at.0),
        }),
        Credential::Key { id, name } => {
            caller::AuthenticatedBy::ApiKey(caller::ApiKey { id: id.to_string(), name: name.clone() })
        }
    }
}
