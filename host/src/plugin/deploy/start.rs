//! Deploys at the start of a host (`wharf serve --deploy`), which repeat at each start. Owns the rule that such a deploy
//! gives way to every change by somebody else: a revocation, a removal, a rollback, a deploy by an operator. Otherwise a
//! restart, perhaps in the middle of an emergency, would undo them.

use std::sync::Arc;

use super::proposal::PluginState;
use crate::db::plugin::StoredPlugin;
use crate::db::release as releases;
use crate::error::{Error, Result, code};
use crate::plugin::artifact::Digest;
use crate::plugin::registry::Registry;
use crate::plugin::release::Release;
use crate::plugin::upload::{Deployed, Upload};

impl Registry {
    /// Returns the recorded release of a plugin if a deploy at the start must not change the plugin.
    pub(super) async fn kept_at_start(
        &self,
        upload: &Upload,
        digest: &Digest,
        state: &PluginState,
    ) -> Result<Option<Deployed>> {
        let Some(stored) = &state.stored else { return Ok(None) };
        let Some(change) = self.change_by_others(stored).await? else { return Ok(None) };
        let is_recorded = |live: &&Arc<Release>| live.record.number == stored.live_release;
        let release = match state.live.as_ref().filter(is_recorded) {
            Some(live) => Arc::clone(live),
            None => Arc::new(self.unprepared(&self.stored_release(&stored.name, stored.live_release).await?)?),
        };
        let record = &release.record;
        let has = record.grants.to_texts();
        let is_same = record.digest == *digest && upload.grants.to_texts().iter().all(|grant| has.contains(grant));
        if state.live.is_some() && is_same {
            return Ok(Some(Deployed::unchanged(release)));
        }
        tracing::warn!(
            plugin = %record.plugin, release = record.number, change, file = %digest,
            "the plugin stays as it is, because it was changed since the last deploy at a start; if you want this file, \
             deploy it with 'wharf plugin deploy'"
        );
        Ok(Some(Deployed { gave_way: true, ..Deployed::unchanged(release) }))
    }

    /// Returns the change of a plugin by an operator, or by the host while it ran, that a deploy at the start would undo.
    async fn change_by_others(&self, stored: &StoredPlugin) -> Result<Option<&'static str>> {
        if stored.state != "live" {
            return Ok(Some("it was removed"));
        }
        if !stored.revoked()?.is_empty() {
            return Ok(Some("a grant was revoked"));
        }
        if stored.canary.is_some() {
            return Ok(Some("a release is on trial"));
        }
        let live = releases::find(&self.db, &stored.name, stored.live_release).await?;
        if live.is_some_and(|live| live.created_by.is_some()) {
            return Ok(Some("an operator deployed its release"));
        }
        let newest = releases::newest_live(&self.db, &stored.name).await?;
        Ok(newest.filter(|newest| *newest > stored.live_release).map(|_| "it was rolled back"))
    }

    /// Returns the live release after the conflict of a file at the start that is older than the tables of its plugin. An
    /// older image does not keep the host from starting.
    ///
    /// # Errors
    /// Every other conflict.
    pub(super) fn kept_because_of(&self, error: Error, state: &PluginState) -> Result<Deployed> {
        let Some(live) = state.live.as_ref().filter(|_| *error.code() == code::SCHEMA_TOO_NEW) else {
            return Err(error);
        };
        tracing::warn!(
            plugin = %live.record.plugin, release = live.record.number, error = error.report(),
            "the live release stays, because the plugin's tables are too new for the file of this start"
        );
        Ok(Deployed { gave_way: true, ..Deployed::unchanged(Arc::clone(live)) })
    }
}
