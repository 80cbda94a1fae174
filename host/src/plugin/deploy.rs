//! Deploys: from an uploaded file to the release that is served, or to the reason for a refusal.
//!
//! check (size, pinned digest, signatures) → compile → describe (roles, imports, grants) → conflicts (routes, link,
//! admission) → migrate → smoke → swap, each a recorded stage of a [`Job`]. `proposal` combines the upload with the
//! state of the plugin, `stages` holds the stages that follow. No existing data changes before the migrations, and the
//! live release stays live until the swap. (`conflicts` creates the database of a new plugin; if its first deploy
//! fails, the database is deleted.) There is no other way in.
//!
//! One deploy of a plugin runs at a time (`deploy_turn`). Other changes do not wait for it: the change lock is held for
//! moments only, and a deploy whose plugin was changed since it began ends with `plugin_changed`.

mod proposal;
mod stages;
mod start;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::json;

use self::proposal::{PluginState, Proposal};
use super::artifact::{Digest, check_pinned, check_size};
use super::deploy_job::{Begun, Job, JobSpec, Stage};
use super::deploy_turn::{DeployStart, DeployTurn};
use super::inspection::ComponentDescription;
use super::registry::Registry;
use super::signature::VerifiedSignatures;
use super::upload::{Deployed, Upload};
use crate::db::audit::Outcome;
use crate::db::deploy::StoredDeploy;
use crate::error::{Error, Result};

impl Registry {
    /// Deploys a file. The stages that only examine the file run concurrently with everything else, however long they
    /// take. During the later ones, other deploys of the same plugin wait, and no other operation does.
    ///
    /// # Errors
    /// The reason for the refusal. The live release stays live.
    pub async fn deploy(&self, upload: Upload) -> Result<Deployed> {
        let by = upload.by.clone();
        let start = self.turns.start();
        let (requested_name, changes_limits) = (upload.name.clone(), upload.redeploys.is_some());
        let digest = Digest::compute(upload.component.clone()).await?;
        let id = upload.id.clone().unwrap_or_else(|| by.request_id.to_string());
        let spec = JobSpec { id: &id, digest: &digest, actor: by.actor, request_id: &by.request_id, node: &self.node };
        let mut job = match Job::begin(&self.db, &self.clock, spec, self.at_stage).await? {
            Begun::New(job) => job,
            Begun::Earlier(earlier) => return self.deployed_earlier(&earlier).await,
        };
        // Boxed: its state is larger than anything else in the caller's own task.
        let mut turn = None;
        let outcome = Box::pin(self.run_stages(upload, &digest, &mut job, (&start, &mut turn))).await;
        let (stage, plugin) = (job.stage(), job.plugin().or(requested_name));
        let [succeeded, failed] = &self.deploys;
        if outcome.is_ok() { succeeded } else { failed }.fetch_add(1, Ordering::Relaxed);
        let outcome = match outcome {
            Ok(mut deployed) => {
                deployed.stages = job.succeed(deployed.release.record.number).await;
                Ok(deployed)
            }
            Err(error) => {
                self.undo(&job, turn.as_ref()).await;
                job.fail(&error).await;
                Err(error)
            }
        };
        drop(turn);
        let (plugin, result, detail) = match &outcome {
            Ok(deployed) if deployed.unchanged => return outcome,
            Ok(deployed) => {
                let record = &deployed.release.record;
                let detail = json!({ "deploy": id, "before": deployed.replaced, "after": record.number,
                    "digest": record.digest, "grants": record.grants.to_texts(), "limits": record.limits.to_texts(),
                    "canary": deployed.on_trial, "signed_by": record.signed_by });
                (Some(record.plugin.clone()), Outcome::Success, detail)
            }
            Err(error) => {
                let detail = json!({ "deploy": id, "digest": digest, "stage": stage, "code": error.code(),
                    "reason": error.public() });
                (plugin, Outcome::Failure, detail)
            }
        };
        let action = if changes_limits { "plugin.limits" } else { "plugin.deploy" };
        self.audit(action, plugin, &by, result, detail).await;
        if let Ok(deployed) = &outcome {
            let _changing = self.live.lock().await;
            self.collect_releases(&deployed.release.record.plugin).await;
        }
        self.trim_code_cache().await;
        outcome
    }

    /// Returns the outcome of a deploy that succeeded earlier. Nothing changes: its release may not be served any more.
    async fn deployed_earlier(&self, earlier: &StoredDeploy) -> Result<Deployed> {
        let (Some(plugin), Some(number)) = (&earlier.plugin, earlier.release) else {
            return Err(Error::internal("the record of a deploy that succeeded names no release"));
        };
        let generation = self.generation();
        let mut loaded = generation.plugins.releases_of(plugin);
        let release = match loaded.find(|release| release.record.number == number) {
            Some(release) => Arc::clone(release),
            None => Arc::new(self.unprepared(&self.stored_release(plugin, number).await?)?),
        };
        let canary = generation.plugins.canaries.get(plugin);
        let on_trial = canary.is_some_and(|canary| canary.release.record.number == number);
        let stages = serde_json::from_str(&earlier.stages).map_err(Error::internal)?;
        Ok(Deployed { on_trial, stages, ..Deployed::unchanged(release) })
    }

    /// Undoes what a failed deploy prepared for its release.
    async fn undo(&self, job: &Job, turn: Option<&DeployTurn>) {
        let (Some(plugin), Some(_)) = (job.plugin(), turn) else { return };
        if job.created_data() {
            self.remove_unreleased_data(&plugin).await;
        }
        let _changing = self.live.lock().await;
        self.close_revoked_again(&plugin).await;
    }

    async fn run_stages(
        &self,
        upload: Upload,
        digest: &Digest,
        job: &mut Job,
        (start, turn): (&DeployStart, &mut Option<DeployTurn>),
    ) -> Result<Deployed> {
        let signatures = self.check_file(&upload, digest).await?;

        job.enter(Stage::Compile).await?;
        let artifact = self.compiler.artifact(digest, upload.component.clone()).await?;

        job.enter(Stage::Describe).await?;
        let sandbox = self.live.sandbox();
        let mut named = None;
        let described =
            ComponentDescription::of(sandbox, &artifact, upload.name.clone(), &upload.by.request_id, &mut named).await;
        // Also for a refusal: it belongs into the history of the plugin.
        named.iter().for_each(|plugin| job.set_plugin(plugin));
        let description = described?;

        let turn: &DeployTurn = turn.insert(self.turns.begin(&description.plugin).await);
        let state = PluginState::read(self, &description.plugin, (start, turn)).await?;
        if upload.by.is_host()
            && let Some(kept) = self.kept_at_start(&upload, digest, &state).await?
        {
            return Ok(kept);
        }
        let proposal = Proposal::new(self, &upload, artifact, description, signatures, state).await?;
        if let Some(live) = proposal.identical_release() {
            let unchanged = Deployed::unchanged(Arc::clone(live));
            return Ok(Deployed { notes: proposal.notes, ..unchanged });
        }
        if upload.canary.is_some() {
            proposal.check_trial()?;
        }
        if proposal.creates_data(&self.data).await? {
            job.mark_created_data();
        }

        job.enter(Stage::Conflicts).await?;
        let admission = match self.check_conflicts(&proposal, turn).await {
            Err(error) if upload.by.is_host() => return self.kept_because_of(error, &proposal.state),
            checked => checked?,
        };

        job.enter(Stage::Migrate).await?;
        let schema = self.migrate(&proposal).await?;

        job.enter(Stage::Smoke).await?;
        let (notes, state) = (proposal.notes.clone(), proposal.state.clone());
        let revoked = proposal.revoked.clone();
        let release = self.smoke(proposal, admission, turn, upload.by.actor, &upload.by.request_id).await?;

        job.enter_swap(release.record.number).await?;
        let replaced = state.live.as_ref().map(|release| release.record.number);
        let on_trial = upload.canary.is_some();
        let record = stages::RecordedState { schema, revoked, request_id: upload.by.request() };
        self.publish(&release, (state, turn), &upload.component, upload.canary, &record).await?;
        let record = &release.record;
        tracing::info!(
            plugin = %record.plugin, release = record.number, replaced, digest = %record.digest, on_trial,
            signed_by = (!record.signed_by.is_empty()).then(|| record.signed_by.join(", ")), "deployed"
        );
        Ok(Deployed { release, notes, replaced, unchanged: false, gave_way: false, on_trial, stages: Vec::new() })
    }

    /// The stage `check`: the size, the pinned digest and the signatures of the file.
    async fn check_file(&self, upload: &Upload, digest: &Digest) -> Result<VerifiedSignatures> {
        check_size(upload.component.len(), self.limits.upload_bytes)?;
        if upload.redeploys.is_some() {
            return Ok(VerifiedSignatures::default());
        }
        check_pinned(digest, upload.digest.as_ref())?;
        let live = self.generation().plugins.has_file(digest);
        let (file, detached) = (upload.component.clone(), upload.signatures.clone());
        VerifiedSignatures::check(&self.limits, file, detached, live, self.clock.now()).await
    }
}
