//! Operations on a deployed plugin: releases, history, rollback, pause, canary, grants, limits, and the state of a
//! deploy.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::view::{PluginPublic, ReleaseDetail, ReleasePublic, TrialPublic};
use crate::capability::{Grants, Offer};
use crate::clock::Timestamp;
use crate::error::{Error, FieldError, Result, code};
use crate::http::Host;
use crate::http::call::Call;
use crate::http::host_route::HostRoute;
use crate::http::reply::{Message, Reply};
use crate::http::resource::pagination::Page;
use crate::id::{PluginName, UserId};
use crate::permission::HostPermission;
use crate::plugin::deploy_job::CompletedStage;
use crate::plugin::limits::LimitOverrides;
use crate::plugin::refusal::plugin_not_found;

const TAG: &str = "plugins";

/// Returns the routes of one plugin.
pub(super) fn routes() -> Vec<HostRoute<Host>> {
    let of = |route: HostRoute<Host>, function: &str, summary: &str| {
        let route = if route.method == "GET" { route } else { route.run_to_completion() };
        let permission = match route.method {
            "GET" => HostPermission::PluginsRead,
            _ => HostPermission::PluginsOperate,
        };
        route.permission(permission).named(TAG, function, summary).path::<PluginName>("name")
    };
    vec![
        of(HostRoute::get("/api/v1/plugins/{name}/releases", read_releases), "read_releases", "Read Releases")
            .described("Lists every stored release, newest first.")
            .replies::<ReleasesPublic>(),
        of(HostRoute::get("/api/v1/plugins/{name}/releases/{number}", read_release), "read_release", "Read Release")
            .path::<i64>("number")
            .replies::<ReleaseDetail>(),
        of(HostRoute::get("/api/v1/plugins/{name}/history", read_history), "read_history", "Read History")
            .described("Lists the operations of operators and of the host on the plugin, newest first.")
            .query::<Page>()
            .replies::<HistoryPublic>(),
        of(HostRoute::post("/api/v1/plugins/{name}/rollback", roll_back), "roll_back", "Roll Back")
            .permission(HostPermission::PluginsRollBack)
            .described(
                "Serves an earlier release again. The database keeps its current tables, which must be those of the \
                 release. A deploy of the plugin that began before ends with `plugin_changed`.",
            )
            .query::<RollbackQuery>()
            .replies::<PluginPublic>(),
        of(HostRoute::post("/api/v1/plugins/{name}/pause", pause_plugin), "pause_plugin", "Pause Plugin")
            .described(
                "Its routes respond with 503 until it is resumed. Calls in flight end at once; their open transactions \
                 are rolled back. A deploy of the plugin that began before ends with `plugin_changed`.",
            )
            .replies::<PluginPublic>(),
        of(HostRoute::post("/api/v1/plugins/{name}/resume", resume_plugin), "resume_plugin", "Resume Plugin")
            .replies::<PluginPublic>(),
        of(HostRoute::get("/api/v1/plugins/{name}/canary", read_canary), "read_canary", "Read Canary")
            .described("Returns the canary and its comparison with the live release.")
            .replies::<TrialPublic>(),
        of(HostRoute::post("/api/v1/plugins/{name}/promote", promote_canary), "promote_canary", "Promote Canary")
            .described("Makes the canary the live release.")
            .replies::<PluginPublic>(),
        of(HostRoute::post("/api/v1/plugins/{name}/abort", abort_canary), "abort_canary", "Abort Canary")
            .described("Ends the canary. The live release gets all callers again.")
            .replies::<Message>(),
        of(HostRoute::put("/api/v1/plugins/{name}/grants/{capability}", give_grant), "give_grant", "Give Grant")
            .permission(HostPermission::PluginsGrant)
            .described(
                "Restores a revoked grant. With parameters, changes the parameters of a grant that is not revoked, by \
                 a new release of the same file.",
            )
            .path::<String>("capability")
            .query::<GrantParametersQuery>()
            .replies::<Message>(),
        of(
            HostRoute::delete("/api/v1/plugins/{name}/grants/{capability}", revoke_grant),
            "revoke_grant",
            "Revoke Grant",
        )
        .permission(HostPermission::PluginsGrant)
        .described(
            "Revokes a grant immediately. A release that needs it is no longer served, and calls in flight can no longer \
             use the capability. A deploy of the plugin that began before ends with `plugin_changed`. A repetition \
             closes the resources of the capability again.",
        )
        .path::<String>("capability")
        .replies::<Message>(),
        of(HostRoute::get("/api/v1/plugins/{name}/limits", read_limits), "read_limits", "Read Limits")
            .described("Lists the limits of the live release with current usage and hit counts.")
            .replies::<LimitsPublic>(),
        of(HostRoute::put("/api/v1/plugins/{name}/limits", set_limits), "set_limits", "Set Limits")
            .described("Changes the limits of the plugin by a new release of the same file.")
            .query::<LimitsQuery>()
            .replies::<Message>(),
        HostRoute::get("/api/v1/deploys/{id}", read_deploy)
            .permission(HostPermission::PluginsRead)
            .named(TAG, "read_deploy", "Read Deploy")
            .described("Returns the progress or the outcome of a deploy.")
            .path::<String>("id")
            .replies::<DeployPublic>(),
    ]
}

#[derive(Serialize, JsonSchema)]
struct ReleasesPublic {
    data: Vec<ReleasePublic>,
    count: usize,
}

#[derive(Deserialize, JsonSchema)]
struct RollbackQuery {
    /// The number of the release. Default: the release that was live before.
    #[serde(default)]
    #[schemars(with = "i64", range(min = 1))]
    release: Option<i64>,
}

#[derive(Deserialize, JsonSchema)]
struct GrantParametersQuery {
    /// A parameter of the grant (`rows=500`), or `rows=default` for the configured value of the host. Repeatable.
    #[serde(default)]
    parameter: Vec<String>,
}

#[derive(Deserialize, JsonSchema)]
struct LimitsQuery {
    /// A limit (`memory=128MiB`), or `memory=default` for the configured value of the host. Repeatable.
    #[schemars(length(min = 1))]
    #[serde(default)]
    limit: Vec<String>,
}

#[derive(Serialize, JsonSchema)]
struct LimitsPublic {
    release: i64,
    data: Vec<LimitPublic>,
}

#[derive(Serialize, JsonSchema)]
struct LimitPublic {
    /// `memory`, or `sql.rows` for a parameter of a grant.
    name: String,
    /// The value as text, such as `64MiB`.
    value: String,
    /// Whether it is set for this plugin rather than for all.
    own: bool,
    /// The current usage, for limits with a usage between calls.
    current: Option<u64>,
    /// The highest usage since the release was loaded, where it is counted.
    peak: Option<u64>,
    /// How often it was hit since then, where it is counted.
    met: Option<u64>,
}

#[derive(Serialize, JsonSchema)]
struct HistoryPublic {
    data: Vec<HistoryEntry>,
    /// The number of entries before pagination.
    count: i64,
}

#[derive(Serialize, JsonSchema)]
struct HistoryEntry {
    at: Timestamp,
    /// The action without the leading `plugin.`.
    action: String,
    /// `success` or `failure`.
    outcome: String,
    /// `None` means the host itself.
    actor: Option<UserId>,
    actor_email: Option<String>,
    request_id: Option<String>,
    /// Values before and after, reasons and evidence.
    detail: Value,
}

#[derive(Serialize, JsonSchema)]
struct DeployPublic {
    id: String,
    plugin: Option<PluginName>,
    digest: String,
    /// `running`, `succeeded`, `failed` or `interrupted`.
    state: String,
    /// The current stage, or the last one of a deploy that ended.
    stage: String,
    /// The completed stages.
    stages: Vec<CompletedStage>,
    release: Option<i64>,
    code: Option<String>,
    reason: Option<String>,
    started_at: Timestamp,
    changed_at: Timestamp,
}

async fn read_releases(host: Arc<Host>, call: Call) -> Result<Reply> {
    let releases = host.plugins.releases(&call.path("name")?).await?;
    let data: Vec<_> = releases.iter().map(|(record, size)| ReleasePublic::of(record, *size)).collect();
    Reply::json(&ReleasesPublic { count: data.len(), data })
}

async fn read_release(host: Arc<Host>, call: Call) -> Result<Reply> {
    let (record, size) = host.plugins.release(&call.path("name")?, call.path("number")?).await?;
    Reply::json(&ReleaseDetail::of(&record, size))
}

async fn read_history(host: Arc<Host>, call: Call) -> Result<Reply> {
    let page: Page = call.query()?;
    let (entries, count) = host.plugins.history(&call.path("name")?, page.skip, page.limit).await?;
    let may_read_users = call.caller()?.may(HostPermission::UsersRead);
    let data = entries
        .into_iter()
        .map(|entry| HistoryEntry {
            at: entry.at,
            action: entry.action.strip_prefix("plugin.").unwrap_or(&entry.action).to_owned(),
            outcome: entry.outcome,
            actor: entry.actor,
            actor_email: entry.actor_email.filter(|_| may_read_users),
            request_id: entry.request_id,
            detail: serde_json::from_str(&entry.detail).unwrap_or_default(),
        })
        .collect();
    Reply::json(&HistoryPublic { data, count })
}

async fn roll_back(host: Arc<Host>, call: Call) -> Result<Reply> {
    let query: RollbackQuery = call.query()?;
    let release = host.plugins.roll_back(&call.path("name")?, query.release, &call.initiator()).await?;
    Reply::json(&PluginPublic::of(&release, &host.plugins.generation().plugins))
}

async fn pause_plugin(host: Arc<Host>, call: Call) -> Result<Reply> {
    let release = host.plugins.pause(&call.path("name")?, &call.initiator()).await?;
    Reply::json(&PluginPublic::of(&release, &host.plugins.generation().plugins))
}

async fn resume_plugin(host: Arc<Host>, call: Call) -> Result<Reply> {
    let release = host.plugins.resume(&call.path("name")?, &call.initiator()).await?;
    Reply::json(&PluginPublic::of(&release, &host.plugins.generation().plugins))
}

async fn read_canary(host: Arc<Host>, call: Call) -> Result<Reply> {
    let (canary, comparison) = host.plugins.compare(&call.path("name")?)?;
    Reply::json(&TrialPublic::of(&canary, comparison))
}

async fn promote_canary(host: Arc<Host>, call: Call) -> Result<Reply> {
    let release = host.plugins.promote(&call.path("name")?, &call.initiator()).await?;
    Reply::json(&PluginPublic::of(&release, &host.plugins.generation().plugins))
}

async fn abort_canary(host: Arc<Host>, call: Call) -> Result<Reply> {
    let name: PluginName = call.path("name")?;
    host.plugins.abort(&name, &call.initiator()).await?;
    Reply::message(&format!("The canary of '{name}' was aborted"))
}

async fn give_grant(host: Arc<Host>, call: Call) -> Result<Reply> {
    let (name, capability): (PluginName, String) = (call.path("name")?, call.path("capability")?);
    let query: GrantParametersQuery = call.query()?;
    host.auth.require_step_up(call.caller()?)?;
    Grants::read([capability.as_str()]).map_err(|error| Error::not_found(code::GRANT_MISSING, error.to_string()))?;
    if query.parameter.is_empty() {
        host.plugins.grant(&name, &capability, &call.initiator()).await?;
        let meaning = Offer::permission(&capability).map(|offer| format!(": the plugin {}", offer.meaning));
        let meaning = meaning.unwrap_or_default();
        return Reply::message(&format!("'{name}' has the grant '{capability}' again{meaning}"));
    }
    let parameters: Vec<String> = query.parameter.iter().map(|text| format!("{capability}.{text}")).collect();
    let grants = Grants::read(parameters.iter().map(String::as_str)).map_err(|error| {
        Error::invalid(vec![FieldError::new("value_error", ["query", "parameter"], error.to_string())])
    })?;
    let breadth = grants.broad().next().map(|(_, breadth)| format!(": the plugin {breadth}")).unwrap_or_default();
    let deployed = host.plugins.set_limits(&name, grants, LimitOverrides::default(), &call.initiator()).await?;
    let number = deployed.release.record.number;
    Reply::message(&match deployed.unchanged {
        true => format!("'{name}' already has these parameters, release {number}"),
        false => {
            format!("'{name}' has the grant '{capability}' with these parameters from release {number} on{breadth}")
        }
    })
}

async fn read_limits(host: Arc<Host>, call: Call) -> Result<Reply> {
    let name: PluginName = call.path("name")?;
    let generation = host.plugins.generation();
    let release = generation.plugins.current(&name).ok_or_else(|| plugin_not_found(&name))?;
    let data = host.plugins.limit_usage(release)?.into_iter().map(|limit| LimitPublic {
        name: limit.name,
        value: limit.value,
        own: limit.overridden,
        current: limit.current,
        peak: limit.peak,
        met: limit.hits,
    });
    Reply::json(&LimitsPublic { release: release.record.number, data: data.collect() })
}

async fn set_limits(host: Arc<Host>, call: Call) -> Result<Reply> {
    let name: PluginName = call.path("name")?;
    let query: LimitsQuery = call.query()?;
    let refuse = |error| Error::invalid(vec![FieldError::new("value_error", ["query", "limit"], error)]);
    if query.limit.is_empty() {
        return Err(refuse("name at least one limit, such as memory=128MiB".to_owned()));
    }
    let limits = LimitOverrides::read(query.limit.iter().map(String::as_str)).map_err(refuse)?;
    let deployed = host.plugins.set_limits(&name, Grants::default(), limits, &call.initiator()).await?;
    let number = deployed.release.record.number;
    Reply::message(&match deployed.unchanged {
        true => format!("'{name}' already has these limits, release {number}"),
        false => format!("'{name}' has these limits from release {number} on"),
    })
}

async fn revoke_grant(host: Arc<Host>, call: Call) -> Result<Reply> {
    let (name, capability): (PluginName, String) = (call.path("name")?, call.path("capability")?);
    host.plugins.revoke(&name, &capability, &call.initiator()).await?;
    Reply::message(&format!("The grant '{capability}' of '{name}' was revoked"))
}

async fn read_deploy(host: Arc<Host>, call: Call) -> Result<Reply> {
    let id: String = call.path("id")?;
    let deploy = host.plugins.find_deploy(&id).await?;
    Reply::json(&DeployPublic {
        id: deploy.id,
        plugin: deploy.plugin,
        digest: deploy.digest,
        state: deploy.state,
        stage: deploy.stage,
        stages: serde_json::from_str(&deploy.stages).map_err(Error::internal)?,
        release: deploy.release,
        code: deploy.code,
        reason: deploy.reason,
        started_at: deploy.started_at,
        changed_at: deploy.changed_at,
    })
}
