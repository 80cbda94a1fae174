//! The host's interfaces, one for each capability. Only this module knows which side handles a call.
//!
//! A component calls the imports of [`crate::bindings`]. Native tests (the feature `testing`) call a stand-in in their
//! own process, which has the same functions over the same types. A native build without that feature has no
//! host: there the generated imports panic.
//!
//! The capability modules build on this module, and `testing` builds on both. Nothing below imports them.

#[cfg(not(all(feature = "testing", not(target_arch = "wasm32"))))]
mod component;
#[cfg(all(feature = "testing", not(target_arch = "wasm32")))]
pub(crate) mod stand_in;

#[cfg(not(all(feature = "testing", not(target_arch = "wasm32"))))]
pub(crate) use component::{audit, auth, cache, diagnostic, email, events, http, jobs, log, now, settings, sql, users};
#[cfg(all(feature = "testing", not(target_arch = "wasm32")))]
pub(crate) use stand_in::{audit, auth, cache, diagnostic, email, events, http, jobs, log, now, settings, sql, users};
