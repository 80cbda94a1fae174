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
use crate::plugin::compiled_schemas::CompiledSchemas;
use crate::plugin::declaration::{Declaration, DeclaredMigration};
use crate::plugin::deploy_turn::{DeployStart, DeployTurn};
use crate::plugin::inspection::ComponentDescription;
use crate::plugin::limits::LimitOverrides;
use crate::plugin::refusal::{plugin_changed, state_conflict};
use crate::plugin::registry::Registry;
use crate::plugin::release::{Record, Release};
use crate::plugin::schema_compatibility::MigrationStep;
use crate::plugin::signature::VerifiedSignatures;
use crate::plugin::upload::Upload;
use crate::route::Template;

/// The state of a plugin when its deploy begins, recorded and served, read at one moment.
#[derive(Clone)]
pub(super) struct PluginState {
    /// The release that is live or paused.
    pub(super) live: Option<Arc<Release>>,
    /// The release that is live and not paused, next to which a canary can run.
    served: Option<Arc<Release>>,
    /// The mount of a plugin that is known but not loaded.
    former_mount: Option<Template>,
    /// The recorded state.
    pub(super) stored: Option<StoredPlugin>,
}

impl PluginState {
    /// Reads the state under the change lock. The publication of another deploy before this one does not interrupt it.
    ///
    /// # Errors
    /// 409 `plugin_changed`: another operation changed the plugin since the deploy began. The upload cannot know that
    /// change, and would undo it, as by giving back a grant that was revoked meanwhile.
    pub(super) async fn read(
        registry: &Registry,
        plugin: &PluginName,
        (start, turn): (&DeployStart, &DeployTurn),
    ) -> Result<Self> {
        let _changing = registry.live.lock().await;
        if start.is_before_change_of(plugin) {
            return Err(plugin_changed(plugin, "it was changed while the deploy ran"));
        }
        turn.restart();
        let stored = table::find(&registry.db, plugin).await?;
        let plugins = &registry.generation().plugins;
        Ok(Self {
            live: plugins.current(plugin).cloned(),
            served: plugins.live.get(plugin).cloned(),
            former_mount: plugins.absent.get(plugin).map(|absent| absent.mount.clone()),
            stored,
        })
    }

    /// Checks that nobody changed the plugin since. Returns its recorded state.
    ///
    /// # Errors
    /// 409 `plugin_changed`.
    pub(super) async fn check_unchanged(
        &self,
        registry: &Registry,
        plugin: &PluginName,
    ) -> Result<Option<StoredPlugin>> {
        let now = table::find(&registry.db, plugin).await?;
        let change = match (&self.stored, &now) {
            (Some(before), Some(now)) => now.change_since(before),
            (None, None) => None,
            // Another host on the same database did that.
            _ => Some("it was deployed or deleted"),
        };
        change.map_or(Ok(now), |change| Err(plugin_changed(plugin, change)))
    }
}

/// A release that a deploy proposes.
pub(super) struct Proposal {
    pub(super) plugin: PluginName,
    pub(super) artifact: Artifact,
    pub(super) declaration: Declaration,
    pub(super) schemas: CompiledSchemas,
    pub(super) migrations: Vec<DeclaredMigration>,
    pub(super) steps: Vec<MigrationStep>,
    pub(super) mount: Template,
    pub(super) grants: Grants,
    pub(super) settings: Value,
    pub(super) limits: LimitOverrides,
    pub(super) signed_by: Vec<String>,
    /// Remarks for the operator.
    pub(super) notes: Vec<String>,
    /// The state of the plugin that it was combined with.
    pub(super) state: PluginState,
    /// Grants that stay revoked.
    pub(super) revoked: Vec<String>,
}

impl Proposal {
    /// Combines an upload with the state of its plugin.
    ///
    /// # Errors
    /// A grant is missing, the settings do not fit, the plugin was changed since the upload was prepared, or the upload
    /// only changes limits and one of them belongs to a revoked grant.
    pub(super) async fn new(
        registry: &Registry,
        upload: &Upload,
        artifact: Artifact,
        description: ComponentDescription,
        signatures: VerifiedSignatures,
        state: PluginState,
    ) -> Result<Self> {
        let PluginState { live, stored, former_mount, .. } = &state;
        let ComponentDescription { plugin, declaration, schemas, migrations, steps, needs } = description;
        let revoked = stored.as_ref().map(StoredPlugin::revoked).transpose()?.unwrap_or_default();
        let (granted_again, revoked): (Vec<String>, Vec<String>) =
            revoked.into_iter().partition(|name| upload.grants.contains(name));
        if upload.redeploys.is_some()
            && let Some(name) = granted_again.first()
        {
            return Err(state_conflict(format!(
                "'{name}' is revoked from '{plugin}', and a parameter does not give it back; grant '{name}' first"
            )));
        }
        let before = match (live, stored) {
            // The response of the database to the deploy of another release was lost. That one is redeployed.
            (Some(release), Some(stored))
                if upload.redeploys == Some(stored.live_release) && stored.live_release != release.record.number =>
            {
                record_before(registry, stored).await
            }
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
        notes.extend(grants.broad().map(|(name, breadth)| format!("grant '{name}': the plugin {breadth}")));
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
        schemas.check_settings(&settings)?;
        let limits = before.map(|before| before.limits).unwrap_or_default().merged(upload.limits.clone());
        let mount = match (&upload.mount, live, former_mount) {
            (Some(mount), _, _) => mount.clone(),
            (None, Some(release), _) => release.record.mount.clone(),
            (None, None, Some(mount)) => mount.clone(),
            (None, None, None) => format!("/api/v1/{plugin}").parse().map_err(Error::internal)?,
        };
        Ok(Self {
            plugin,
            artifact,
            declaration,
            schemas,
            migrations,
            steps,
            mount,
            grants,
            settings,
            limits,
            signed_by,
            notes,
            state,
            revoked,
        })
    }

    /// Returns the current release if it already is the proposed one, and the recorded one: another is recorded if the
    /// database lost its response to a change.
    pub(super) fn identical_release(&self) -> Option<&Arc<Release>> {
        self.state.live.as_ref().filter(|live| {
            let record = &live.record;
            self.state.stored.as_ref().is_some_and(|stored| stored.live_release == record.number)
                && record.digest == self.artifact.digest
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
        check_canary(&self.plugin, self.state.served.as_ref(), &self.mount)
    }

    /// Checks whether this deploy creates the database of the plugin.
    pub(super) async fn creates_data(&self, data: &PluginData) -> Result<bool> {
        Ok(self.state.stored.is_none() && self.grants.contains(Sql::NAME) && !data.exists(&self.plugin).await?)
    }

    /// Returns the migrations that were applied to the plugin's database.
    pub(super) fn applied_steps(&self) -> Result<Vec<MigrationStep>> {
        Ok(self.state.stored.as_ref().map(StoredPlugin::steps).transpose()?.unwrap_or_default())
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
