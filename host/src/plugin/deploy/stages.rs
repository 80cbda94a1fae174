//! The stages of a deploy that follow the proposal: conflicts, migrate, smoke, swap. Each takes the results of the
//! earlier ones; the caller holds the turn of the plugin and records the stages. A stage that changes something first
//! checks that the plugin is as it was when the deploy began. Only the swap holds the change lock.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;

use super::proposal::{PluginState, Proposal};
use crate::capability::{Admitted, Candidate};
use crate::db::plugin as table;
use crate::db::plugin_data::Migration;
use crate::db::release::{self as releases, PluginRecord, ReleaseRole};
use crate::error::{Error, Result};
use crate::id::UserId;
use crate::message::Topic;
use crate::plugin::canary::{Canary, Lot, Plan};
use crate::plugin::declaration::DeclaredMigration;
use crate::plugin::deploy_turn::DeployTurn;
use crate::plugin::generation::MountedRoutes;
use crate::plugin::refusal::{check_grants_kept, migration_failed, plugin_changed};
use crate::plugin::registry::Registry;
use crate::plugin::release::{LinkedComponent, Record, Release, ReleaseRoute};
use crate::plugin::schema_compatibility;

/// The results of the stage `conflicts`.
pub(super) struct Admission {
    linked: LinkedComponent,
    routes: Vec<ReleaseRoute>,
    admitted: Admitted,
    number: i64,
}

/// The state of the plugin that is recorded with the release.
pub(super) struct RecordedState<'a> {
    /// The migrations that its database has, as JSON.
    pub(super) schema: String,
    /// Its revoked grants.
    pub(super) revoked: Vec<String>,
    /// The request of the deploy, if a client made it.
    pub(super) request_id: Option<&'a str>,
}

impl Registry {
    /// The stage `conflicts`: links the component, checks its routes and migrations against the present ones, and
    /// admits it to its grants.
    pub(super) async fn check_conflicts(&self, proposal: &Proposal, turn: &DeployTurn) -> Result<Admission> {
        let Proposal { plugin, mount, grants, steps, .. } = proposal;
        let linked = LinkedComponent::new(&self.engine, &proposal.artifact, grants)?;
        let routes = proposal.schemas.routes(&proposal.declaration, mount);
        self.live.check_routes(MountedRoutes { plugin, mount, routes: &routes })?;
        let applied = proposal.applied_steps()?;
        schema_compatibility::check_back(steps, &applied)?;
        if let Some(live) = &proposal.state.live {
            schema_compatibility::check_forward(steps, &applied, &live.record.migrations)?;
        }
        self.prepare(proposal, turn).await?;
        let number = releases::next_number(&self.db, plugin).await?;
        let candidate = Candidate {
            plugin,
            release: number,
            settings: &proposal.settings,
            permissions: proposal.declaration.permission_names(),
            messages: &proposal.declaration.messages,
        };
        let admitted = self.live.capabilities().admit(&candidate, grants).await?;
        Ok(Admission { linked, routes, admitted, number })
    }

    /// Announces the migrations and opens the resources of the grants. From now on a rollback considers the migrations,
    /// and a rollback from before is a change that ends the deploy.
    async fn prepare(&self, proposal: &Proposal, turn: &DeployTurn) -> Result<()> {
        let Proposal { plugin, grants, state, steps, .. } = proposal;
        let _changing = self.live.lock().await;
        state.check_unchanged(self, plugin).await?;
        turn.announce(steps);
        for capability in grants.names() {
            self.live.capabilities().reopen(plugin, capability).await?;
        }
        Ok(())
    }

    /// The stage `migrate`: applies the migrations, and returns the recorded list of them as JSON. They are recorded before
    /// they are applied: a crash, or a response that the database lost, must not leave tables that no rollback considers.
    pub(super) async fn migrate(&self, proposal: &Proposal) -> Result<String> {
        let Proposal { plugin, migrations, steps, state, .. } = proposal;
        state.check_unchanged(self, plugin).await?;
        let applied = proposal.applied_steps()?;
        let result = if schema_compatibility::first_missing(steps, &applied).is_none() { &applied } else { steps };
        let schema = serde_json::to_string(result).map_err(Error::internal)?;
        if *result != applied {
            table::set_schema(&self.db, plugin, &schema).await?;
        }
        let migrations: Vec<Migration> = migrations.iter().map(DeclaredMigration::to_migration).collect();
        if !migrations.is_empty()
            && let Err(error) = self.data.migrate(plugin, &migrations).await
        {
            if *result != applied && error.is_rolled_back() {
                let before = serde_json::to_string(&applied).map_err(Error::internal)?;
                if let Err(error) = table::set_schema(&self.db, plugin, &before).await {
                    tracing::error!(
                        %plugin, error = error.report(),
                        "migrations that were not applied stay recorded; the next deploy corrects the record"
                    );
                }
            }
            // A revocation also ends the connection that migrates.
            state.check_unchanged(self, plugin).await?;
            return Err(migration_failed(error));
        }
        Ok(schema)
    }

    /// The stage `smoke`: puts the release together and calls it before any client does. Ends as soon as somebody changes
    /// the plugin.
    pub(super) async fn smoke(
        &self,
        proposal: Proposal,
        admission: Admission,
        turn: &DeployTurn,
        created_by: Option<UserId>,
        request_id: &Arc<str>,
    ) -> Result<Arc<Release>> {
        let (artifact, state) = (proposal.artifact, proposal.state);
        state.check_unchanged(self, &proposal.plugin).await?;
        let record = Record {
            plugin: proposal.plugin,
            number: admission.number,
            digest: artifact.digest.clone(),
            mount: proposal.mount,
            declaration: proposal.declaration,
            grants: proposal.grants,
            settings: proposal.settings,
            migrations: proposal.steps,
            created_at: self.clock.now(),
            created_by,
            signed_by: proposal.signed_by,
            limits: proposal.limits,
        };
        let resources = self.release_resources(&record)?;
        let Admission { linked, routes, admitted, .. } = admission;
        let release = Arc::new(Release::new(record, &artifact, linked, admitted, routes, resources)?);
        let smoke = self.live.sandbox().smoke(&release, request_id);
        let passed = turn.interrupted().run_until_cancelled(smoke).await;
        if !matches!(passed, Some(Ok(()))) {
            // The change explains the failure, as when a call lost its capability.
            state.check_unchanged(self, &release.record.plugin).await?;
        }
        match passed {
            Some(passed) => passed?,
            // The change was undone meanwhile, as by a rollback and another one.
            None => return Err(plugin_changed(&release.record.plugin, "it was changed while the deploy ran")),
        }
        Ok(release)
    }

    /// The stage `swap`: records the release and serves it, in place of the live one or as a canary next to it. Holds the
    /// change lock.
    ///
    /// # Errors
    /// The plugin was changed since the deploy began, or another plugin took a route meanwhile.
    pub(super) async fn publish(
        &self,
        release: &Arc<Release>,
        (state, turn): (PluginState, &DeployTurn),
        component: &Bytes,
        plan: Option<Plan>,
        recorded: &RecordedState<'_>,
    ) -> Result<()> {
        let record = &release.record;
        let stored = record.to_stored(release.size, &release.imports)?;
        let subscriptions = record.declaration.messages.subscriptions.iter();
        let topics: Vec<&Topic> = subscriptions.map(|subscription| &subscription.topic).collect();
        let revoked = Value::from(recorded.revoked.clone()).to_string();
        let plugin_record = PluginRecord { revoked: &revoked, schema: &recorded.schema };
        let request = recorded.request_id;
        let _changing = self.live.lock().await;
        let now = state.check_unchanged(self, &record.plugin).await?;
        if turn.interrupted().is_cancelled() {
            return Err(plugin_changed(&record.plugin, "it was changed while the deploy ran"));
        }
        check_grants_kept(release)?;
        self.live.check_routes(MountedRoutes::of(release))?;
        // A plugin that is not loaded has no served release, but a recorded one.
        let served = state.live.as_ref().map(|live| live.record.number);
        let replaced = served.or(state.stored.map(|stored| stored.live_release));
        match (plan, state.live) {
            (Some(plan), Some(live)) => {
                let lot = Lot::draw(&self.random)?;
                let canary = Canary::new(Arc::clone(release), plan, lot, &live, self.clock.now());
                let text = canary.to_json()?;
                let role = ReleaseRole::Canary(&text);
                let inserted = releases::insert(&self.db, &stored, &topics, component, role, &plugin_record, request);
                if let Err(error) = inserted.await {
                    self.check_inserted(record, error).await?;
                }
                self.live.swap(|plugins| {
                    plugins.canaries.insert(record.plugin.clone(), Arc::new(canary));
                });
            }
            _ => {
                let role = ReleaseRole::Live(replaced);
                let inserted = releases::insert(&self.db, &stored, &topics, component, role, &plugin_record, request);
                if let Err(error) = inserted.await {
                    self.check_inserted(record, error).await?;
                }
                self.live.serve(Arc::clone(release), now.is_some_and(|now| now.paused));
                self.start_probation(&record.plugin, record.number, served);
            }
        }
        Ok(())
    }

    /// Checks after a failed insertion that the release is recorded all the same: the database may commit and lose the
    /// connection before it responds.
    ///
    /// # Errors
    /// The error of the insertion, if the release is not recorded or the database still fails.
    async fn check_inserted(&self, record: &Record, error: Error) -> Result<()> {
        match releases::find(&self.db, &record.plugin, record.number).await {
            Ok(Some(stored)) if stored.digest == record.digest.as_str() && stored.created_at == record.created_at => {
                Ok(())
            }
            _ => Err(error),
        }
    }
}
