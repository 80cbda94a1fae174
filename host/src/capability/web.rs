//! `web`: lets the pages of a plugin belong to the origin of the host. Has no functions, so no component imports it: only
//! an operator can ask for it. `http::plugin_call` and `plugin::response_header` read the grant.

use std::sync::Arc;

use wasmtime::component::Linker;

use super::{Boot, CallContext, Candidate, Capability, Guest, NoParameters};
use crate::error::Result;

/// The capability.
pub struct Web;

impl Capability for Web {
    const NAME: &'static str = "web";
    const MEANING: &'static str = "may show pages on the origin of this host: their scripts can read everything that \
                                   other pages of this origin store, such as the tokens of signed-in users, and act \
                                   for these users, superusers included";
    const INTERFACES: &'static [&'static str] = &[];
    type Grant = NoParameters;
    type Release = ();
    type Call = ();

    async fn open(_: &Boot) -> Result<Self> {
        Ok(Self)
    }

    fn link(_: &mut Linker<Guest>) -> wasmtime::Result<()> {
        Ok(())
    }

    async fn admit(&self, _: &Candidate<'_>, _: NoParameters) -> Result<()> {
        Ok(())
    }

    fn enter((): &(), _: &Arc<CallContext>) {}
}
