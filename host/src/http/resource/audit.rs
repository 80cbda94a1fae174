//! The audit log: a search with filters, the chains for a verification, and pruning on demand.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::http::StatusCode;
use axum::http::header::{HeaderValue, LINK};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::pagination::{self, Order, default_limit};
use crate::audit::{self, Checkpoint};
use crate::clock::Timestamp;
use crate::db::audit::chain::StrayEntry;
use crate::db::audit::link::Link;
use crate::db::audit::search::{Filter, FoundEntry, InvalidCursor, Page};
use crate::error::{Error, FieldError, Result, code};
use crate::http::Host;
use crate::http::call::Call;
use crate::http::host_route::HostRoute;
use crate::http::reply::Reply;
use crate::id::{KeyId, PluginName, UserId};
use crate::permission::HostPermission;

const TAG: &str = "audit";

/// Returns the routes of the audit log.
pub(super) fn routes() -> Vec<HostRoute<Host>> {
    vec![
        HostRoute::get("/api/v1/audit/", read_audit)
            .permission(HostPermission::AuditRead)
            .named(TAG, "read_audit", "Read Audit")
            .described("Lists the entries of the audit log that fit all given filters.")
            .query::<AuditQuery>()
            .replies::<AuditPage>(),
        HostRoute::get("/api/v1/audit/export", export_audit)
            .permission(HostPermission::AuditRead)
            .named(TAG, "export_audit", "Export Audit")
            .described(
                "Returns the same page as JSON lines (`application/jsonl`): one entry as JSON in each line. A `Link` \
                 header with the relation `next` names the next page.",
            )
            .query::<AuditQuery>()
            .replies_text("application/jsonl"),
        HostRoute::get("/api/v1/audit/chains", read_audit_chains)
            .permission(HostPermission::AuditRead)
            .named(TAG, "read_audit_chains", "Read Audit Chains")
            .described(
                "Lists the chains of the audit log in the order of their names: that of the host, and one for each \
                 plugin that recorded entries. Each has its last entry and the signed checkpoint of what was pruned. \
                 Entries that have no place in a chain are listed apart.",
            )
            .query::<ChainsQuery>()
            .replies::<ChainsPage>(),
        HostRoute::get("/api/v1/audit/chains/{chain}", read_audit_chain)
            .permission(HostPermission::AuditRead)
            .named(TAG, "read_audit_chain", "Read Audit Chain")
            .described(
                "Lists the sealed entries of a chain in order, with the texts that their hashes are computed from.",
            )
            .path::<String>("chain")
            .query::<LinksQuery>()
            .replies::<LinksPage>(),
        HostRoute::post("/api/v1/audit/prune", prune_audit)
            .run_to_completion()
            .permission(HostPermission::AuditPrune)
            .named(TAG, "prune_audit", "Prune Audit")
            .described(
                "Deletes the entries that are older than `audit.keep` now, after a signed checkpoint. The host does so \
                 once a day by itself.",
            )
            .replies::<Pruned>(),
    ]
}

#[derive(Deserialize, JsonSchema, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
enum OutcomeFilter {
    Success,
    Denied,
    Failure,
}

#[derive(Deserialize, JsonSchema)]
struct AuditQuery {
    /// The account that acted: its id, or its email address.
    #[serde(default)]
    #[schemars(with = "String", length(max = 320))]
    actor: Option<String>,
    /// The API key that acted.
    #[serde(default)]
    #[schemars(with = "KeyId")]
    key: Option<KeyId>,
    /// The action, such as `user.update`; `user.*` means all actions that begin with `user.`.
    #[serde(default)]
    #[schemars(with = "String", length(max = 200))]
    action: Option<String>,
    /// The object, such as `user:` and the id of the account.
    #[serde(default)]
    #[schemars(with = "String", length(max = 1000))]
    object: Option<String>,
    /// The plugin that recorded the entry, or that the entry is about.
    #[serde(default)]
    #[schemars(with = "PluginName")]
    plugin: Option<PluginName>,
    /// The outcome.
    #[serde(default)]
    #[schemars(with = "OutcomeFilter")]
    outcome: Option<OutcomeFilter>,
    /// The request id.
    #[serde(default)]
    #[schemars(with = "String", length(max = 100))]
    request_id: Option<String>,
    /// The earliest time.
    #[serde(default)]
    #[schemars(with = "Timestamp")]
    since: Option<Timestamp>,
    /// The first time that is too late.
    #[serde(default)]
    #[schemars(with = "Timestamp")]
    until: Option<Timestamp>,
    /// The entries that come first: `newest` (the default) or `oldest`.
    #[serde(default)]
    #[schemars(with = "Order")]
    order: Option<Order>,
    /// The `next` of the page before.
    #[serde(default)]
    #[schemars(with = "String", regex(pattern = r"^-?[0-9]{1,18}\.[0-9]{1,18}$"))]
    cursor: Option<String>,
    #[serde(default = "default_limit")]
    #[schemars(range(min = 1, max = 1000))]
    limit: i64,
}

/// An entry of the audit log.
#[derive(Serialize, JsonSchema)]
struct AuditEntry {
    id: i64,
    /// The time of the action.
    at: Timestamp,
    /// The account that acted, or that the API key belongs to.
    actor: Option<UserId>,
    /// Its email address, while it exists.
    actor_email: Option<String>,
    /// The API key that acted.
    key: Option<KeyId>,
    /// The address of the client.
    address: Option<String>,
    /// The plugin that recorded the entry, or that the entry is about.
    plugin: Option<String>,
    action: String,
    object: String,
    /// `success`, `denied` or `failure`.
    outcome: String,
    /// The object before the action.
    before: Value,
    /// The object after the action.
    after: Value,
    detail: Value,
    request_id: Option<String>,
    /// The chain: `host` for entries of the host, `plugin:` and a name for entries that a plugin recorded. Null until
    /// the entry is sealed, about a second after the action.
    chain: Option<String>,
    /// The place in the chain.
    sequence: Option<i64>,
    /// The node that sealed the entry.
    node: Option<String>,
    /// The hash over the entry and the hash of the entry before it in its chain.
    hash: Option<String>,
}

impl From<FoundEntry> for AuditEntry {
    fn from(entry: FoundEntry) -> Self {
        Self {
            id: entry.id,
            at: entry.at,
            actor: entry.actor,
            actor_email: entry.actor_email,
            key: entry.key,
            address: entry.address,
            plugin: entry.plugin,
            action: entry.action,
            object: entry.object,
            outcome: entry.outcome,
            before: entry.before.map(stored_json).unwrap_or_default(),
            after: entry.after.map(stored_json).unwrap_or_default(),
            detail: stored_json(entry.detail),
            request_id: entry.request_id,
            chain: entry.chain,
            sequence: entry.sequence,
            node: entry.node,
            hash: entry.hash,
        }
    }
}

/// Parses stored JSON. A text that somebody changed to something else is shown as it is.
fn stored_json(text: String) -> Value {
    serde_json::from_str(&text).unwrap_or(Value::String(text))
}

#[derive(Serialize, JsonSchema)]
struct AuditPage {
    data: Vec<AuditEntry>,
    /// The `cursor` of the next page; null at the end.
    next: Option<String>,
}

async fn read_audit(host: Arc<Host>, call: Call) -> Result<Reply> {
    Reply::json(&search(&host, &call).await?)
}

async fn search(host: &Host, call: &Call) -> Result<AuditPage> {
    let query: AuditQuery = call.query()?;
    let refuse = |name: &str, text: String| Error::invalid(vec![FieldError::new("value_error", ["query", name], text)]);
    let after = query.cursor.as_deref().map(str::parse).transpose();
    let after = after.map_err(|reason: InvalidCursor| refuse("cursor", reason.to_string()))?;
    let actor = match &query.actor {
        None => None,
        Some(text) => Some(match text.parse::<Uuid>() {
            Ok(id) => UserId(id),
            Err(_) => {
                let unknown = || Error::not_found(code::USER_NOT_FOUND, "No account has this id or email address");
                host.auth.user_by_email(text).await?.ok_or_else(unknown)?.id
            }
        }),
    };
    let outcome = query.outcome.map(|outcome| match outcome {
        OutcomeFilter::Success => "success",
        OutcomeFilter::Denied => "denied",
        OutcomeFilter::Failure => "failure",
    });
    let filter = Filter {
        actor,
        key: query.key,
        action: query.action,
        object: query.object,
        plugin: query.plugin,
        outcome: outcome.map(str::to_owned),
        request_id: query.request_id,
        since: query.since,
        until: query.until,
    };
    let oldest_first = query.order == Some(Order::Oldest);
    let page = Page { after, oldest_first, limit: query.limit };
    let found = host.audit.search(&filter, page).await?;
    let next = pagination::next(&found, query.limit, |entry| entry.cursor().to_string());
    Ok(AuditPage { data: found.into_iter().map(AuditEntry::from).collect(), next })
}

/// Returns one entry in each line, and the next page in a `Link` header (RFC 8288).
async fn export_audit(host: Arc<Host>, call: Call) -> Result<Reply> {
    let AuditPage { data, next } = search(&host, &call).await?;
    let mut lines = String::new();
    for entry in &data {
        let line = serde_json::to_string(entry)
            .map_err(|error| Error::internal("an audit entry cannot be serialized").with_source(error))?;
        lines.push_str(&line);
        lines.push('\n');
    }
    let reply = Reply::new(StatusCode::OK, "application/jsonl", lines);
    let Some(next) = next else { return Ok(reply) };
    let mut target = "/api/v1/audit/export?".to_owned();
    for (name, value) in call.inputs.query.iter().filter(|(name, value)| *name != "cursor" && !value.is_null()) {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let pair = form_urlencoded::Serializer::new(String::new()).append_pair(name, &text).finish();
        let _ = write!(target, "{pair}&");
    }
    let link = HeaderValue::from_str(&format!("<{target}cursor={next}>; rel=\"next\""))
        .map_err(|error| Error::internal("a link cannot be written").with_source(error))?;
    Ok(reply.with_header(LINK, link))
}

#[derive(Deserialize, JsonSchema)]
struct ChainsQuery {
    /// The last chain of the page before.
    #[serde(default)]
    #[schemars(length(max = 100))]
    after: String,
    #[serde(default = "default_limit")]
    #[schemars(range(min = 1, max = 1000))]
    limit: i64,
}

/// A chain of the audit log.
#[derive(Serialize, JsonSchema)]
struct AuditChain {
    /// `host`, or `plugin:` and the name of a plugin.
    chain: String,
    /// The place of the last entry.
    sequence: i64,
    /// The hash of the last entry.
    hash: String,
    /// The signed checkpoint: the last entry that was pruned. Null if none was.
    checkpoint: Option<Checkpoint>,
}

#[derive(Serialize, JsonSchema)]
struct ChainsPage {
    data: Vec<AuditChain>,
    /// The number of entries that are not sealed yet.
    unsealed: i64,
    /// Sealed entries that name one of these chains and have no place in it: somebody added or moved them past the
    /// host. The first page also has those of chains that do not exist. At most 100.
    strays: Vec<StrayEntry>,
}

async fn read_audit_chains(host: Arc<Host>, call: Call) -> Result<Reply> {
    let query: ChainsQuery = call.query()?;
    let audit::ChainsPage { chains, unsealed, strays } = host.audit.chains(&query.after, query.limit).await?;
    let data = chains.into_iter().map(|(chain, checkpoint)| AuditChain {
        chain: chain.chain,
        sequence: chain.sequence,
        hash: chain.hash,
        checkpoint,
    });
    Reply::json(&ChainsPage { data: data.collect(), unsealed, strays })
}

#[derive(Deserialize, JsonSchema)]
struct LinksQuery {
    /// The place of the last entry of the page before.
    #[serde(default)]
    #[schemars(range(min = 0))]
    after: i64,
    #[serde(default = "default_limit")]
    #[schemars(range(min = 1, max = 1000))]
    limit: i64,
}

#[derive(Serialize, JsonSchema)]
struct LinksPage {
    data: Vec<Link>,
}

async fn read_audit_chain(host: Arc<Host>, call: Call) -> Result<Reply> {
    let (query, chain): (LinksQuery, String) = (call.query()?, call.path("chain")?);
    Reply::json(&LinksPage { data: host.audit.links(&chain, query.after, query.limit).await? })
}

#[derive(Serialize, JsonSchema)]
struct Pruned {
    /// The number of deleted entries.
    entries: u64,
}

async fn prune_audit(host: Arc<Host>, call: Call) -> Result<Reply> {
    Reply::json(&Pruned { entries: host.audit.prune(&call.initiator()).await? })
}
