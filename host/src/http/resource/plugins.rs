//! The operator API: deploy, list, show and remove plugins.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::capability::Grants;
use crate::clock::Timestamp;
use crate::error::{Error, FieldError, Result};
use crate::http::Host;
use crate::http::call::Call;
use crate::http::host_route::HostRoute;
use crate::http::reply::{Message, Reply};
use crate::id::{PluginName, UserId};
use crate::plugin::Release;
use crate::plugin::declaration::Permission;
use crate::plugin::deploy::Upload;
use crate::plugin::registry::not_found;
use crate::plugin::signature::MAX_SIGNATURES;

/// Routes of the operator API.
pub(super) fn routes(upload_bytes: usize) -> Vec<HostRoute<Host>> {
    vec![
        HostRoute::get("/api/v1/plugins/", read_plugins)
            .superuser()
            .named("plugins", "read_plugins", "Read Plugins")
            .replies::<PluginsPublic>(),
        HostRoute::post("/api/v1/plugins/", deploy_plugin)
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
            .replies::<PluginPublic>(),
        HostRoute::delete("/api/v1/plugins/{name}", delete_plugin)
            .superuser()
            .named("plugins", "delete_plugin", "Remove Plugin")
            .described("Its data stays, and comes back with the next deploy, unless `delete_data` is true.")
            .path::<PluginName>("name")
            .query::<DeleteQuery>()
            .replies::<Message>(),
    ]
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
    /// Capabilities it may use; once for each.
    #[serde(default)]
    grant: Vec<String>,
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

#[derive(Deserialize, JsonSchema)]
struct DeleteQuery {
    /// Delete the plugin's database too.
    #[serde(default)]
    delete_data: bool,
}

#[derive(Serialize, JsonSchema)]
struct PluginPublic {
    name: PluginName,
    mount: String,
    summary: String,
    state: &'static str,
    release: ReleasePublic,
    grants: Vec<String>,
    imports: Vec<String>,
    permissions: Vec<Permission>,
    routes: Vec<RoutePublic>,
}

#[derive(Serialize, JsonSchema)]
struct ReleasePublic {
    number: i64,
    version: String,
    digest: String,
    /// Bytes of the component.
    size: usize,
    created_at: Timestamp,
    created_by: Option<UserId>,
}

#[derive(Serialize, JsonSchema)]
struct RoutePublic {
    method: String,
    path: String,
    access: String,
    operation_id: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct PluginsPublic {
    data: Vec<PluginPublic>,
    count: usize,
}

#[derive(Serialize, JsonSchema)]
struct DeployedPublic {
    plugin: PluginPublic,
    /// The trusted keys that signed the file.
    signed_by: Vec<String>,
    /// What the operator may want to know: grants that nothing needs, signatures of nobody who is trusted.
    notes: Vec<String>,
    /// The release that was live before.
    replaced: Option<i64>,
    /// The same file with the same grants, mount and settings was live already.
    unchanged: bool,
}

impl PluginPublic {
    fn of(release: &Release) -> Self {
        let record = &release.record;
        Self {
            name: record.plugin.clone(),
            mount: record.mount.to_string(),
            summary: record.declaration.summary.clone(),
            state: "live",
            release: ReleasePublic {
                number: record.number,
                version: record.declaration.version.clone(),
                digest: record.digest.to_string(),
                size: release.size,
                created_at: record.created_at,
                created_by: record.created_by,
            },
            grants: record.grants.names().map(ToOwned::to_owned).collect(),
            imports: release.imports.clone(),
            permissions: record.declaration.permissions.clone(),
            routes: release
                .routes
                .iter()
                .map(|route| RoutePublic {
                    method: route.method.clone(),
                    path: route.template.to_string(),
                    access: route.access.to_string(),
                    operation_id: route
                        .operation
                        .json()
                        .get("operationId")
                        .and_then(Value::as_str)
                        .map(ToOwned::to_owned),
                })
                .collect(),
        }
    }
}

async fn read_plugins(host: Arc<Host>, _: Call) -> Result<Reply> {
    let generation = host.plugins.generation();
    let data: Vec<PluginPublic> = generation.releases.values().map(|release| PluginPublic::of(release)).collect();
    Reply::json(&PluginsPublic { count: data.len(), data })
}

async fn read_plugin(host: Arc<Host>, call: Call) -> Result<Reply> {
    let name: PluginName = call.path("name")?;
    let generation = host.plugins.generation();
    let release = generation.releases.get(&name).ok_or_else(|| not_found(&name))?;
    Reply::json(&PluginPublic::of(release))
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
    let grants = Grants::new(query.grant.iter().flat_map(|list| list.split(',')).filter(|name| !name.is_empty()))
        .map_err(|error| refuse("grant", error.to_string()))?;
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
    let upload = Upload {
        component: call.raw(),
        name: query.name,
        mount,
        grants,
        signatures,
        digest,
        settings,
        actor: Some(call.caller()?.user.id),
        request_id: Arc::clone(&call.request_id),
    };
    // A client that goes away must not leave a deploy half done: it runs to its end in a task of its own.
    let deployed = tokio::spawn(async move { host.plugins.deploy(upload).await })
        .await
        .map_err(|error| Error::internal("a deploy did not come to its end").with_source(error))??;
    Reply::json(&DeployedPublic {
        plugin: PluginPublic::of(&deployed.release),
        signed_by: deployed.signed_by,
        notes: deployed.notes,
        replaced: deployed.replaced,
        unchanged: deployed.unchanged,
    })
}

async fn delete_plugin(host: Arc<Host>, call: Call) -> Result<Reply> {
    let name: PluginName = call.path("name")?;
    let query: DeleteQuery = call.query()?;
    let actor = call.caller()?.user.id;
    host.plugins.remove(&name, query.delete_data, Some(actor), &call.request_id).await?;
    Reply::message(&format!("Plugin '{name}' removed"))
}
