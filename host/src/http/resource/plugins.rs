//! The operator API: deploy, list, show and remove plugins. `operations` has the routes that act on a deployed plugin.

mod deploy_body;
mod operations;
mod view;

use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::deploy_body::DeployBody;
use self::view::{PluginDetail, PluginPublic};
use crate::capability::Grants;
use crate::error::{Error, FieldError, Result};
use crate::http::Host;
use crate::http::call::Call;
use crate::http::host_route::HostRoute;
use crate::http::reply::{Message, Reply};
use crate::id::PluginName;
use crate::permission::HostPermission;
use crate::plugin::canary::{Plan, Share};
use crate::plugin::deploy_job::CompletedStage;
use crate::plugin::generation::Absence;
use crate::plugin::limits::LimitOverrides;
use crate::plugin::refusal::plugin_not_found;
use crate::plugin::signature::MAX_SIGNATURES;
use crate::plugin::upload::Upload;

/// Returns the routes of the operator API.
pub(super) fn routes(upload_bytes: usize) -> Vec<HostRoute<Host>> {
    let mut routes = vec![
        HostRoute::get("/api/v1/plugins/", read_plugins)
            .permission(HostPermission::PluginsRead)
            .named("plugins", "read_plugins", "Read Plugins")
            .replies::<PluginsPublic>(),
        HostRoute::post("/api/v1/plugins/", deploy_plugin)
            .run_to_completion()
            .permission(HostPermission::PluginsDeploy)
            .named("plugins", "deploy_plugin", "Deploy Plugin")
            .described(
                "The body is a component file, or a form with the component and the settings of the plugin. The \
                 imports of the component must be granted by this deploy or by an earlier one. The parameter `grant` needs \
                 the permission `plugins:grant`, and `limit` needs `plugins:operate`.",
            )
            .query::<DeployQuery>()
            .raw("application/wasm", upload_bytes.saturating_add(deploy_body::MAX_ADDITION))
            .or_raw("multipart/form-data", deploy_body::form_schema())
            .replies::<DeployedPublic>(),
        HostRoute::get("/api/v1/plugins/{name}", read_plugin)
            .permission(HostPermission::PluginsRead)
            .named("plugins", "read_plugin", "Read Plugin")
            .path::<PluginName>("name")
            .replies::<PluginDetail>(),
        HostRoute::delete("/api/v1/plugins/{name}", delete_plugin)
            .run_to_completion()
            .permission(HostPermission::PluginsRemove)
            .named("plugins", "delete_plugin", "Remove Plugin")
            .described("Keeps the data for the next deploy, unless `delete_data` is true, which needs `plugins:delete-data`.")
            .path::<PluginName>("name")
            .query::<DeleteQuery>()
            .replies::<Message>(),
    ];
    routes.extend(operations::routes());
    routes
}

#[derive(Deserialize, JsonSchema)]
struct DeployQuery {
    /// The name of the plugin on this host. Default: the declared name.
    #[serde(default)]
    #[schemars(with = "PluginName")]
    name: Option<PluginName>,
    /// The path of its routes. Default: the current path, or `/api/v1/<name>` for a new plugin.
    #[serde(default)]
    #[schemars(with = "String")]
    mount: Option<String>,
    /// A granted capability (`sql`) or one of its parameters (`sql.rows=500`, `sql.rows=default`). Repeatable.
    #[serde(default)]
    grant: Vec<String>,
    /// A limit of its calls (`memory=128MiB`, `memory=default`). Repeatable.
    #[serde(default)]
    limit: Vec<String>,
    /// The id of this deploy. Its progress is at `/api/v1/deploys/<id>`. A retry with the same id deploys only once: if
    /// the first one succeeded, it changes nothing.
    #[serde(default)]
    #[schemars(with = "String", regex(pattern = r"^[A-Za-z0-9-]{1,64}$"))]
    id: Option<String>,
    /// Deploys a canary next to the live release: the share of callers, such as `10%`, or several steps, such as
    /// `5%,25%,100%`. `header` means only requests of superusers with `X-Wharf-Canary: always`.
    #[serde(default)]
    #[schemars(with = "String")]
    canary: Option<String>,
    /// The minimum duration of each of several steps, such as `10m`.
    #[serde(default)]
    #[schemars(with = "String")]
    hold: Option<String>,
    /// The number of calls of the canary before it is judged.
    #[serde(default)]
    #[schemars(with = "u64", range(min = 1))]
    minimum: Option<u64>,
    /// A detached signature in addition to those in the file: a line of a `.sig` file that
    /// `wharf plugin sign --detached` wrote. Repeatable.
    #[serde(default)]
    signature: Vec<String>,
    /// The required SHA-256 of the file in hexadecimal. Any other file is refused.
    #[serde(default)]
    #[schemars(with = "String")]
    digest: Option<String>,
    /// Refused, because URLs are logged and settings can hold secrets. Settings are a part of the multipart form.
    #[serde(default)]
    #[schemars(with = "String", extend("deprecated" = true))]
    settings: Option<String>,
}

/// The default number of calls of a canary before it is judged.
const DEFAULT_MINIMUM_CALLS: u64 = 100;
/// The default duration of each of several steps of a canary.
const DEFAULT_HOLD: Duration = Duration::from_secs(10 * 60);
/// The maximum number of steps of a canary.
const MAX_STEPS: usize = 20;

fn plan(
    steps: &str,
    hold: Option<&str>,
    minimum: Option<u64>,
    refuse: &impl Fn(&str, String) -> Error,
) -> Result<Plan> {
    let steps: Vec<Share> = steps
        .split(',')
        .map(|step| step.trim().parse())
        .collect::<Result<_, String>>()
        .map_err(|reason| refuse("canary", reason))?;
    if steps.len() > MAX_STEPS {
        return Err(refuse("canary", format!("more than {MAX_STEPS} steps")));
    }
    if steps.iter().zip(steps.iter().skip(1)).any(|(one, next)| next <= one) {
        return Err(refuse("canary", "each step must be larger than the one before it".to_owned()));
    }
    let hold = hold.map(humantime::parse_duration).transpose().map_err(|error| refuse("hold", error.to_string()))?;
    Ok(Plan { steps, hold: hold.unwrap_or(DEFAULT_HOLD), minimum: minimum.unwrap_or(DEFAULT_MINIMUM_CALLS).max(1) })
}

#[derive(Deserialize, JsonSchema)]
struct DeleteQuery {
    /// Deletes the plugin's database too.
    #[serde(default)]
    delete_data: bool,
}

#[derive(Serialize, JsonSchema)]
struct PluginsPublic {
    data: Vec<PluginPublic>,
    count: usize,
}

#[derive(Serialize, JsonSchema)]
struct DeployedPublic {
    plugin: PluginPublic,
    /// Notes for the operator, such as unused and very broad grants, and signatures by keys that are not trusted.
    notes: Vec<String>,
    /// The number of the release that was live before.
    replaced: Option<i64>,
    /// Whether nothing changed: the same file with the same grants, mount and settings was already live, or a deploy with
    /// the same id succeeded earlier.
    unchanged: bool,
    /// Whether it is a canary next to the live release, whose number is `replaced`.
    on_trial: bool,
    /// The completed stages with their durations.
    stages: Vec<CompletedStage>,
}

async fn read_plugins(host: Arc<Host>, _: Call) -> Result<Reply> {
    let mut data = Vec::new();
    let mut absent = Vec::new();
    {
        // Not kept while the database is asked: a generation keeps the replaced releases of all plugins.
        let generation = host.plugins.generation();
        let plugins = &generation.plugins;
        for name in plugins.names() {
            match (plugins.current(name), plugins.absent.get(name)) {
                (Some(release), _) => data.push(PluginPublic::of(release, plugins)),
                (None, Some(known)) => absent.push((name.clone(), known.reason)),
                (None, None) => {}
            }
        }
    }
    for (name, reason) in absent {
        data.extend(find_absent(&host, &name, reason).await?);
    }
    data.sort_by(|one, other| one.name().cmp(other.name()));
    Reply::json(&PluginsPublic { count: data.len(), data })
}

async fn read_plugin(host: Arc<Host>, call: Call) -> Result<Reply> {
    let name: PluginName = call.path("name")?;
    let (current, reason) = {
        let generation = host.plugins.generation();
        let plugins = &generation.plugins;
        let current = plugins.current(&name).map(|release| PluginPublic::of(release, plugins));
        (current, plugins.absent.get(&name).map(|absent| absent.reason))
    };
    let plugin = match (current, reason) {
        (None, Some(reason)) => find_absent(&host, &name, reason).await?,
        (current, _) => current,
    };
    let plugin = plugin.ok_or_else(|| plugin_not_found(&name))?;
    let revoked = host.plugins.revoked(&name).await?;
    Reply::json(&PluginDetail { plugin, revoked })
}

/// Describes a plugin that is not served, unless it was removed.
async fn find_absent(host: &Host, name: &PluginName, reason: Absence) -> Result<Option<PluginPublic>> {
    if reason == Absence::Removed {
        return Ok(None);
    }
    let (record, size) = host.plugins.live_record(name).await?;
    PluginPublic::absent(&record, size, reason)
}

async fn deploy_plugin(host: Arc<Host>, mut call: Call) -> Result<Reply> {
    let query: DeployQuery = call.query()?;
    if !query.grant.is_empty() {
        call.caller()?.require(HostPermission::PluginsGrant)?;
        host.auth.require_step_up(call.caller()?)?;
    }
    if !query.limit.is_empty() {
        call.caller()?.require(HostPermission::PluginsOperate)?;
    }
    let refuse =
        |name: &str, reason: String| Error::invalid(vec![FieldError::new("value_error", ["query", name], reason)]);
    let mount = query
        .mount
        .map(|text| text.parse())
        .transpose()
        .map_err(|error: crate::route::template::InvalidTemplate| refuse("mount", error.to_string()))?;
    let grants = Grants::read(query.grant.iter().flat_map(|list| list.split(',')).filter(|name| !name.is_empty()))
        .map_err(|error| refuse("grant", error.to_string()))?;
    let limits =
        LimitOverrides::read(query.limit.iter().map(String::as_str)).map_err(|error| refuse("limit", error))?;
    if query.signature.len() > MAX_SIGNATURES {
        return Err(refuse("signature", format!("more than {MAX_SIGNATURES} signatures")));
    }
    let signatures = query
        .signature
        .iter()
        .map(|text| text.parse())
        .collect::<Result<_, crate::plugin::signature::Malformed>>()
        .map_err(|error| refuse("signature", format!("not a signature: {error}")))?;
    let digest = query
        .digest
        .map(|text| text.parse())
        .transpose()
        .map_err(|error: crate::plugin::artifact::InvalidDigest| refuse("digest", error.to_string()))?;
    if query.settings.is_some() {
        let text = "settings are not accepted in the URL, where they could be logged; send a multipart form with the \
                    parts 'component' and 'settings'";
        return Err(refuse("settings", text.to_owned()));
    }
    let canary = query.canary.map(|text| plan(&text, query.hold.as_deref(), query.minimum, &refuse)).transpose()?;
    let (headers, body) = (std::mem::take(&mut call.headers), call.raw());
    let DeployBody { component, settings } =
        host.body_work.run(body.len(), move || deploy_body::read(&headers, body)).await??;
    let upload = Upload {
        component,
        name: query.name,
        mount,
        grants,
        limits,
        signatures,
        digest,
        settings,
        by: call.initiator(),
        id: query.id,
        canary,
        redeploys: None,
    };
    let deployed = host.plugins.deploy(upload).await?;
    Reply::json(&DeployedPublic {
        plugin: PluginPublic::of(&deployed.release, &host.plugins.generation().plugins),
        on_trial: deployed.on_trial,
        stages: deployed.stages,
        notes: deployed.notes,
        replaced: deployed.replaced,
        unchanged: deployed.unchanged,
    })
}

async fn delete_plugin(host: Arc<Host>, call: Call) -> Result<Reply> {
    let name: PluginName = call.path("name")?;
    let query: DeleteQuery = call.query()?;
    if query.delete_data {
        call.caller()?.require(HostPermission::PluginsDeleteData)?;
        host.auth.require_step_up(call.caller()?)?;
    }
    host.plugins.remove(&name, query.delete_data, &call.initiator()).await?;
    Reply::message(&format!("Plugin '{name}' removed"))
}
