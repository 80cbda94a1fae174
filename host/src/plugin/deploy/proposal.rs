//! The proposal of a deploy: the uploaded component with everything that the host decided for it (name, mount, grants,
//! settings, limits), combined from the upload and the present state of the plugin. Changes nothing.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::capability::sql::Sql;
use crate::capability::{Capability as _, Grants, Offer};
use crate::db::plugin::{self as table, StoredPlugin};
use crate::db::plugin_data::PluginData;
use crate::error::{Error, Result};
use crate::id::PluginName;
use crate::plugin::artifact::{Artifact, check_grants};
use crate::plugin::canary_rollout::check_canary;
use crate::plugin::declaration::{Declaration, DeclaredMigration};
use crate::plugin::inspection::ComponentDescription;
use crate::plugin::limits::LimitOverrides;
use crate::plugin::refusal::state_conflict;
use crate::plugin::registry::Registry;
use crate::plugin::release::{Record, Release};
use crate::plugin::schema_compatibility::MigrationStep;
use crate::plugin::signature::VerifiedSignatures;
use crate::plugin::upload::Upload;
use crate::route::Template;

/// A release that a deploy proposes, with the state of its plugin under the change lock.
pub(super) struct Proposal {
    pub(super) plugin: PluginName,
    pub(super) artifact: Artifact,
    pub(super) declaration: Declaration,
    pub(super) migrations: Vec<DeclaredMigration>,
    pub(super) steps: Vec<MigrationStep>,
    pub(super) mount: Template,
    pub(super) grants: Grants,
    pub(super) settings: Value,
    pub(super) limits: LimitOverrides,
    pub(super) signed_by: Vec<String>,
    /// Remarks for the operator.
    pub(super) notes: Vec<String>,
    /// The release that is live or paused.
    pub(super) live: Option<Arc<Release>>,
    /// The release that is live and not paused, next to which a canary can run.
    served: Option<Arc<Release>>,
    /// The recorded state of the plugin.
    pub(super) stored: Option<StoredPlugin>,
    /// Grants that stay revoked.
    pub(super) revoked: Vec<String>,
}

impl Proposal {
    /// Combines an upload with the state of its plugin. The caller holds the change lock.
    ///
    /// # Errors
    /// A grant is missing, the settings do not fit, or the plugin was changed since the upload was prepared.
    pub(super) async fn new(
        registry: &Registry,
        upload: &Upload,
        artifact: Artifact,
        description: ComponentDescription,
        signatures: VerifiedSignatures,
    ) -> Result<Self> {
        let ComponentDescription { plugin, declaration, migrations, steps, needs } = description;
        let generation = registry.generation();
        let live = generation.plugins.current(&plugin).cloned();
        let stored = table::find(&registry.db, &plugin).await?;
        let revoked = stored.as_ref().map(StoredPlugin::revoked).transpose()?.unwrap_or_default();
        let revoked: Vec<String> = revoked.into_iter().filter(|name| !upload.grants.contains(name)).collect();
        let before = match (&live, &stored) {
            (Some(release), _) => Some(release.record.clone()),
            // Not loaded, because a grant is revoked or the release is broken. Its options carry over all the same.
            (None, Some(stored)) if stored.state == "live" => record_before(registry, stored).await,
            _ => None,
        };
        if upload.redeploys.is_some() && upload.redeploys != before.as_ref().map(|before| before.number) {
            return Err(state_conflict(format!("'{plugin}' was changed meanwhile; look at it and try again")));
        }
        let granted = before
            .as_ref()
            .map(|record| record.grants.clone())
            .unwrap_or_default()
            .retaining(|name| !revoked.iter().any(|gone| gone == name))
            .merged(upload.grants.clone());
        let mut notes = signatures.notes;
        notes.extend(check_grants(&needs, &granted)?);
        let grants = granted.retaining(|name| needs.contains(name) || Offer::permission(name).is_some());
        // The live file again, for example with other grants: detached signatures of the earlier deploy still count.
        let signed_by = match &before {
            Some(before) if signatures.signed_by.is_empty() && before.digest == artifact.digest => {
                before.signed_by.clone()
            }
            _ => signatures.signed_by,
        };
        let settings = match (&upload.settings, &before) {
            (Some(settings), _) => settings.clone(),
            (None, Some(before)) => before.settings.clone(),
            (None, None) => Value::Object(Map::new()),
        };
        declaration.check_settings(&settings)?;
        let limits = before.map(|before| before.limits).unwrap_or_default().merged(upload.limits.clone());
        let mount = match (&upload.mount, &live, generation.plugins.absent.get(&plugin)) {
            (Some(mount), _, _) => mount.clone(),
            (None, Some(release), _) => release.record.mount.clone(),
            (None, None, Some(absent)) => absent.mount.clone(),
            (None, None, None) => format!("/api/v1/{plugin}").parse().map_err(Error::internal)?,
        };
        let served = generation.plugins.live.get(&plugin).cloned();
        Ok(Self {
            plugin,
            artifact,
            declaration,
            migrations,
            steps,
            mount,
            grants,
            settings,
            limits,
            signed_by,
            notes,
            live,
            served,
            stored,
            revoked,
        })
    }

    /// Returns the current release if it already is the proposed one.
    pub(super) fn identical_release(&self) -> Option<&Arc<Release>> {
        self.live.as_ref().filter(|live| {
            let record = &live.record;
            record.digest == self.artifact.digest
                && record.mount == self.mount
                && record.grants == self.grants
                && record.settings == self.settings
                && record.limits == self.limits
        })
    }

    /// Checks that the release can be tried next to the live one.
    ///
    /// # Errors
    /// See [`check_canary`].
    pub(super) fn check_trial(&self) -> Result<()> {
        check_canary(&self.plugin, self.served.as_ref(), &self.mount)
    }

    /// Checks whether this deploy creates the database of the plugin.
    pub(super) async fn creates_data(&self, data: &PluginData) -> Result<bool> {
        Ok(self.stored.is_none() && self.grants.contains(Sql::NAME) && !data.exists(&self.plugin).await?)
    }

    /// Returns the migrations that were applied to the plugin's database.
    pub(super) fn applied_steps(&self) -> Result<Vec<MigrationStep>> {
        Ok(self.stored.as_ref().map(StoredPlugin::steps).transpose()?.unwrap_or_default())
    }
}

/// Returns the record of a release that is live but not loaded.
async fn record_before(registry: &Registry, stored: &StoredPlugin) -> Option<Record> {
    let release = registry.stored_release(&stored.name, stored.live_release).await;
    match release.and_then(|release| Record::from_stored(&release)) {
        Ok(record) => Some(record),
        Err(error) => {
            tracing::warn!(
                plugin = %stored.name, error = error.report(),
                "the record of the release before is not readable; its options do not carry over"
            );
            None
        }
    }
}
