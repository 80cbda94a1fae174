//! Revocations: the capabilities that loaded releases may no longer use. Owns one flag for each grant of each loaded
//! release, and finds all loaded releases of a plugin, also those that drain or are not served yet.
//!
//! A revocation is final for a loaded release: after the grant was restored, the release is loaded again. So a call that
//! was in flight never gets its capability back.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::id::PluginName;

/// The error of a function of a revoked capability. A function whose interface has no error ends the call with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the grant '{0}' was revoked")]
pub struct Revoked(pub &'static str);

/// The grants of one loaded release, each with whether it was revoked.
#[derive(Debug, Default)]
pub struct Revocations(Vec<(String, AtomicBool)>);

impl Revocations {
    fn new<'a>(granted: impl Iterator<Item = &'a str>) -> Self {
        Self(granted.map(|name| (name.to_owned(), AtomicBool::new(false))).collect())
    }

    /// Returns whether a grant of the release was revoked.
    pub fn any(&self) -> bool {
        self.0.iter().any(|(_, revoked)| revoked.load(Ordering::SeqCst))
    }

    /// Checks that this grant was not revoked.
    ///
    /// # Errors
    /// It was.
    pub fn check(&self, capability: &'static str) -> Result<(), Revoked> {
        let revoked = self.0.iter().any(|(name, revoked)| name == capability && revoked.load(Ordering::SeqCst));
        if revoked { Err(Revoked(capability)) } else { Ok(()) }
    }
}

/// The loaded releases of each plugin.
#[derive(Debug, Default)]
pub(super) struct LoadedReleases(Mutex<HashMap<PluginName, Vec<Weak<Revocations>>>>);

impl LoadedReleases {
    /// Adds a release with these grants.
    pub(super) fn add<'a>(&self, plugin: &PluginName, granted: impl Iterator<Item = &'a str>) -> Arc<Revocations> {
        let revocations = Arc::new(Revocations::new(granted));
        let mut loaded = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let releases = loaded.entry(plugin.clone()).or_default();
        releases.retain(|release| release.strong_count() > 0);
        releases.push(Arc::downgrade(&revocations));
        revocations
    }

    /// Revokes a grant from all loaded releases of a plugin.
    pub(super) fn revoke(&self, plugin: &PluginName, capability: &str) {
        let loaded = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for release in loaded.get(plugin).into_iter().flatten().filter_map(Weak::upgrade) {
            for (_, revoked) in release.0.iter().filter(|(name, _)| name == capability) {
                revoked.store(true, Ordering::SeqCst);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revocation_reaches_every_loaded_release_that_has_the_grant() {
        let (loaded, plugin, other) = (LoadedReleases::default(), "one".parse().unwrap(), "other".parse().unwrap());
        let old = loaded.add(&plugin, ["cache", "sql"].into_iter());
        let modest = loaded.add(&plugin, ["cache"].into_iter());
        let neighbour = loaded.add(&other, ["sql"].into_iter());
        loaded.revoke(&plugin, "sql");
        assert_eq!(old.check("sql"), Err(Revoked("sql")));
        assert!(old.any() && old.check("cache").is_ok());
        assert!(!modest.any() && !neighbour.any());
        let later = loaded.add(&plugin, ["sql"].into_iter());
        assert!(!later.any() && old.any(), "a restored grant is for releases that are loaded again");
        drop((old, modest, later));
        loaded.add(&plugin, std::iter::empty());
        assert_eq!(loaded.0.lock().unwrap()[&plugin].len(), 1, "unloaded releases are forgotten");
    }
}
