//! The operator API: deploy, list, show and remove plugins. What is done with one that is there is in `operations`.

mod operations;
mod view;

use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::view::{PluginDetail, PluginPublic};
use crate::capability::Grants;
use crate::error::{Error, FieldError, Result};
use crate::http::Host;
use crate::http::call::Call;
use crate::http::host_route::HostRoute;
use crate::http::reply::{Message, Reply};
use crate::id::PluginName;
use crate::plugin::canary::{Plan, Share};
use crate::plugin::deploy_job::CompletedStage;
use crate::plugin::generation::{Absence, Plugins};
use crate::plugin::initiator::Initiator;
use crate::plugin::limits::Limits;
use crate::plugin::refusal::plugin_not_found;
use crate::plugin::signature::MAX_SIGNATURES;
use crate::plugin::upload::Upload;

/// Routes of the operator API.
pub(super) fn routes(upload_bytes: usize) -> Vec<HostRoute<Host>> {
    let mut routes = vec![
        HostRoute::get("/api/v1/plugins/", read_plugins)
            .superuser()
            .named("plugins", "read_plugins", "Read Plugins")
            .replies::<PluginsPublic>(),
        HostRoute::post("/api/v1/plugins/", deploy_plugin)
            .run_to_completion()
            .superuser()
            .named("plugins", "deploy_plugin", "Deploy Plugin")
            .described("The body is a component file. What it imports must be granted, now or by an earlier deploy.")
            .query::<DeployQuery>()
            .raw("application/wasm", upload_bytes)
            .replies::<DeployedPublic>(),
        HostRoute::get("/api/v1/plugins/{name}", read_plugin)
            .superuser()
            .named("plugins", "read_plugin", "Read Plugin")
            .path::<PluginName>("name")
            .replies::<PluginDetail>(),
        HostRoute::delete("/api/v1/plugins/{name}", delete_plugin)
            .run_to_completion()
            .superuser()
            .named("plugins", "delete_plugin", "Remove Plugin")
            .described("Its data stays, and comes back with the next deploy, unless `delete_data` is true.")
            .path::<PluginName>("name")
            .query::<DeleteQuery>()
            .replies::<Message>(),
    ];
    routes.extend(operations::routes());
    routes
}

/// Who asks.
fn by(call: &Call) -> Result<Initiator> {
    Ok(Initiator { actor: Some(call.caller()?.user.id), request_id: Arc::clone(&call.request_id) })
}

#[derive(Deserialize, JsonSchema)]
struct DeployQuery {
    /// Its name here; without: the one it declares.
    #[serde(default)]
    #[schemars(with = "PluginName")]
    name: Option<PluginName>,
    /// Where its routes are; without: where they were, else `/api/v1/<name>`.
    #[serde(default)]
    #[schemars(with = "String")]
    mount: Option<String>,
    /// Capabilities it may use (`sql`) and what bounds them (`sql.rows=500`, `sql.rows=default`); once for each.
    #[serde(default)]
    grant: Vec<String>,
    /// What bounds its calls (`memory=128MiB`, `memory=default`); once for each.
    #[serde(default)]
    limit: Vec<String>,
    /// Names this deploy, so that it can be followed at `/api/v1/deploys/<id>` and sent again without being done twice.
    #[serde(default)]
    #[schemars(with = "String", regex(pattern = r"^[A-Za-z0-9-]{1,64}$"))]
    id: Option<String>,
    /// Try it beside the live release: the share of callers it gets, such as `10%`, or the shares it goes through, such
    /// as `5%,25%,100%`; `header`: only those who ask for it with `X-Wharf-Canary: always`.
    #[serde(default)]
    #[schemars(with = "String")]
    canary: Option<String>,
    /// How long each of several steps lasts at least, such as `10m`.
    #[serde(default)]
    #[schemars(with = "String")]
    hold: Option<String>,
    /// Calls of the candidate before it is judged.
    #[serde(default)]
    #[schemars(with = "u64", range(min = 1))]
    minimum: Option<u64>,
    /// A signature beside those inside: a line of a `.sig` file of `wharf plugin sign --detached`; once for each.
    #[serde(default)]
    signature: Vec<String>,
    /// The SHA-256 that the file must have, in hexadecimal; any other file is refused.
    #[serde(default)]
    #[schemars(with = "String")]
    digest: Option<String>,
    /// Its settings as a JSON text; without: those it had.
    #[serde(default)]
    #[schemars(with = "String")]
    settings: Option<String>,
}

/// Calls of a candidate before it is judged, unless said otherwise.
const MINIMUM: u64 = 100;
/// How long each of several steps of a trial lasts, unless said otherwise.
const HOLD: Duration = Duration::from_secs(10 * 60);
/// The most steps of a trial.
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
    Ok(Plan { steps, hold: hold.unwrap_or(HOLD), minimum: minimum.unwrap_or(MINIMUM).max(1) })
}

#[derive(Deserialize, JsonSchema)]
struct DeleteQuery {
    /// Delete the plugin's database too.
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
    /// What the operator may want to know: grants that nothing needs, signatures of nobody who is trusted.
    notes: Vec<String>,
    /// The release that was live before.
    replaced: Option<i64>,
    /// The same file with the same grants, mount and settings was live already.
    unchanged: bool,
    /// It is on trial beside the live release, which `replaced` names.
    on_trial: bool,
    /// What was done and how long it took.
    stages: Vec<CompletedStage>,
}

async fn read_plugins(host: Arc<Host>, _: Call) -> Result<Reply> {
    let generation = host.plugins.generation();
    let plugins = &generation.plugins;
    let mut data = Vec::new();
    for name in plugins.names() {
        data.extend(find(&host, plugins, name).await?);
    }
    Reply::json(&PluginsPublic { count: data.len(), data })
}

async fn read_plugin(host: Arc<Host>, call: Call) -> Result<Reply> {
    let name: PluginName = call.path("name")?;
    let generation = host.plugins.generation();
    let plugin = find(&host, &generation.plugins, &name).await?.ok_or_else(|| plugin_not_found(&name))?;
    let revoked = host.plugins.revoked(&name).await?;
    Reply::json(&PluginDetail { plugin, revoked })
}

/// A plugin that was not removed.
async fn find(host: &Host, plugins: &Plugins, name: &PluginName) -> Result<Option<PluginPublic>> {
    if let Some(release) = plugins.current(name) {
        return Ok(Some(PluginPublic::of(release, plugins)));
    }
    let Some(absent) = plugins.absent.get(name).filter(|absent| absent.reason != Absence::Removed) else {
        return Ok(None);
    };
    let (record, size) = host.plugins.live_record(name).await?;
    PluginPublic::absent(&record, size, absent.reason)
}

async fn deploy_plugin(host: Arc<Host>, mut call: Call) -> Result<Reply> {
    let query: DeployQuery = call.query()?;
    let refuse =
        |name: &str, reason: String| Error::invalid(vec![FieldError::new("value_error", ["query", name], reason)]);
    let mount = query
        .mount
        .map(|text| text.parse())
        .transpose()
        .map_err(|error: crate::route::template::InvalidTemplate| refuse("mount", error.to_string()))?;
    let grants = Grants::read(query.grant.iter().flat_map(|list| list.split(',')).filter(|name| !name.is_empty()))
        .map_err(|error| refuse("grant", error.to_string()))?;
    let limits = Limits::read(query.limit.iter().map(String::as_str)).map_err(|error| refuse("limit", error))?;
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
    let settings = query
        .settings
        .map(|text| serde_json::from_str(&text))
        .transpose()
        .map_err(|error| refuse("settings", format!("not JSON: {error}")))?;
    let canary = query.canary.map(|text| plan(&text, query.hold.as_deref(), query.minimum, &refuse)).transpose()?;
    let upload = Upload {
        component: call.raw(),
        name: query.name,
        mount,
        grants,
        limits,
        signatures,
        digest,
        settings,
        actor: Some(call.caller()?.user.id),
        request_id: Arc::clone(&call.request_id),
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
    host.plugins.remove(&name, query.delete_data, &by(&call)?).await?;
    Reply::message(&format!("Plugin '{name}' removed"))
}
