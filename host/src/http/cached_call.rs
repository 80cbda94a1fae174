//! Requests to plugin routes: a cached response, or a call of the plugin whose response may be kept. `cache_rules` says
//! what RFC 9111 allows, `cache::response_cache` keeps the responses, `conditional` answers conditional requests.
//!
//! A response is kept for everything that it depends on: its target, the headers in its `vary`, and the caller if the
//! guest asked for one during the call. A route can declare that its responses are the same for all callers.
//!
//! Of the requests that miss one response, one calls the plugin, and the others wait for its response. Bodies of cached
//! responses are shared.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use axum::http::header::{AGE, HOST, IF_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE};
use axum::http::request::Parts;
use axum::http::{HeaderName, Method};
use bytes::Bytes;

use super::cache_rules::{self, RequestDirectives, Storable};
use super::client_origin::ClientOrigin;
use super::plugin_call::{self, PluginCall};
use super::reply::Reply;
use super::{Host, compression, conditional};
use crate::auth::Caller;
use crate::cache::response_cache::{
    CachedResponse, Found, Fresh, ResponseKey, Selecting, Storing, Target, Ticket, Turn, Variance,
};
use crate::clock::Timestamp;
use crate::error::{Error, Result};
use crate::plugin::call_stats::CallOutcome;
use crate::plugin::canary::Assignment;
use crate::plugin::release::{CachedRoute, Prepared, ReleaseRoute};
use crate::plugin::{PluginResponse, Release};
use crate::route::Match;

/// Requests whose response is made for them alone: for a part of the content, or for a version of it.
const SINGULAR: [HeaderName; 4] = [RANGE, IF_RANGE, IF_MATCH, IF_UNMODIFIED_SINCE];

/// Conditions that the plugin evaluates by the present state of its data. A kept response can be older. A client that
/// asks for a part takes the whole, too.
const OF_PLUGIN: [HeaderName; 2] = [IF_MATCH, IF_UNMODIFIED_SINCE];

/// How often a request waits for the response to another one: for one with its target, and for one that is also equal
/// in what the response was then seen to depend on.
const MAX_WAITS: usize = 2;

/// Returns the reply to a request to a plugin route.
pub(super) async fn respond(host: &Arc<Host>, contract: &ReleaseRoute, call: PluginCall<'_>) -> Result<Reply> {
    let parts = call.parts;
    let mut reply = match &contract.cache {
        // A response may depend on a body, and the key does not have it.
        Some(cached) if call.body.is_empty() => respond_cached(host, cached, call).await?,
        _ => respond_uncached(host, call).await?,
    };
    compression::announce(host.config.server.compression, parts, &mut reply);
    Ok(conditional::evaluate(&parts.method, &parts.headers, reply))
}

async fn respond_uncached(host: &Host, call: PluginCall<'_>) -> Result<Reply> {
    let (release, prepared, parts, request_id) = (call.release, call.prepared, call.parts, call.request_id);
    let is_safe = matches!(parts.method, Method::GET | Method::HEAD);
    let mut change = Change { release, prepared, path: parts.uri.path(), may_have_happened: !is_safe };
    let response = plugin_call::run(&host.plugins, &host.body_memory.responses, call).await?;
    let (PluginResponse::Response { status, .. } | PluginResponse::Problem { status, .. }) = &response;
    if (400..500).contains(status) {
        change.may_have_happened = false;
    }
    drop(change);
    plugin_call::reply(response, parts.uri.path(), request_id)
}

/// A call that may change the resource of its path. A call that fails, or whose client leaves, may have changed it
/// before. So every end of the call invalidates the cached responses, except a refusal by the plugin.
struct Change<'a> {
    release: &'a Release,
    prepared: &'a Prepared,
    path: &'a str,
    may_have_happened: bool,
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        if self.may_have_happened {
            invalidate(self.release, self.prepared, self.path);
        }
    }
}

/// Makes the cached responses of a path stale after a request that may have changed the resource.
fn invalidate(release: &Release, prepared: &Prepared, path: &str) {
    let Match::Route(index, _) = prepared.table.find(Method::GET.as_str(), path) else { return };
    if prepared.routes.get(*index).is_some_and(|route| route.cache.is_some()) {
        release.cache.invalidate_path(path);
    }
}

/// A request for a response that may be cached.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    release: &'a Release,
    cached: &'a CachedRoute,
    parts: &'a Parts,
    origin: &'a ClientOrigin,
    /// See [`server`].
    server: &'a str,
    caller: &'a str,
}

/// Returns the server that the client named. A plugin sees it in several headers, so it is part of the key.
fn server(origin: &ClientOrigin, parts: &Parts) -> String {
    let host = || parts.headers.get(HOST).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let named = parts.uri.authority().map_or_else(host, |authority| authority.as_str());
    format!("{}://{} {named}", origin.scheme, origin.host.as_deref().unwrap_or_default())
}

impl Wanted<'_> {
    fn look_up(&self) -> (ResponseKey, Found) {
        self.release.cache.response(&self.target(), self)
    }

    fn target(&self) -> Target<'_> {
        let uri = &self.parts.uri;
        Target {
            release: self.release.record.number,
            server: self.server,
            caller: self.cached.policy.per_caller.then_some(self.caller),
            path: uri.path(),
            query: uri.query().unwrap_or_default(),
        }
    }

    /// Stores a response. Returns `false` if it cannot be cached.
    fn store(&self, response: CachedResponse, storable: Storable, depends_on_caller: bool, ticket: Ticket) -> bool {
        let caller = depends_on_caller && !self.cached.is_shared && !self.cached.policy.per_caller;
        let storing = Storing {
            variance: Variance { caller, headers: storable.vary },
            ttl: storable.lifetime,
            tags: &self.cached.policy.tags,
            ticket,
        };
        // The tags were checked at the deploy. A response that is larger than the cache is not cached.
        self.release.cache.store_response(&self.target(), self, response, storing).is_ok()
    }
}

impl Selecting for Wanted<'_> {
    fn caller(&self) -> &str {
        self.caller
    }

    fn header(&self, name: &str) -> Option<Vec<u8>> {
        // The plugin gets these from the host, whatever the client sent.
        match name {
            "x-forwarded-for" => return Some(self.origin.address.to_string().into_bytes()),
            "x-forwarded-host" => return self.origin.host.as_ref().map(|host| host.clone().into_bytes()),
            "x-forwarded-proto" => return Some(self.origin.scheme.into()),
            _ => {}
        }
        let values: Vec<&[u8]> = self.parts.headers.get_all(name).iter().map(|value| value.as_bytes()).collect();
        (!values.is_empty()).then(|| values.join(&b", "[..]))
    }
}

async fn respond_cached(host: &Arc<Host>, cached: &CachedRoute, mut call: PluginCall<'_>) -> Result<Reply> {
    call.conditions = false;
    let caller = caller_value(call.caller.as_deref());
    let (parts, origin) = (call.parts, call.origin);
    let server = server(origin, parts);
    let wanted = Wanted { release: call.release, cached, parts, origin, server: &server, caller: &caller };
    let directives = RequestDirectives::of(&call.parts.headers);
    let has_any = |names: &[HeaderName]| names.iter().any(|name| call.parts.headers.contains_key(name));
    let (is_singular, is_conditional) = (has_any(&SINGULAR), has_any(&OF_PLUGIN));
    let mut waited_for = Vec::new();
    loop {
        let (key, found) = wanted.look_up();
        match found {
            Found::Response(fresh) if !is_conditional && directives.accept(fresh.age, fresh.left) => {
                return reuse(call.release, &fresh);
            }
            Found::Response(_) | Found::Nothing => {}
            Found::Uncacheable => break,
        }
        // One response of another request is enough to wait for, unless it showed that the two differ.
        let may_wait = waited_for.len() < MAX_WAITS && !waited_for.contains(&key);
        if is_singular || !directives.accept_shared() || !may_wait {
            break;
        }
        match call.release.cache.join(&key) {
            Turn::Lead(lead) => {
                let filling = Filling::new(host, &call, key);
                // Boxed, because the future of the caller would otherwise contain two calls.
                let filled = lead.run(Box::pin(filling.run())).await;
                return filled.unwrap_or_else(|| Err(Error::internal("a call for the cache panicked")));
            }
            Turn::Wait(wait) => {
                let bytes = plugin_call::head_bytes(call.parts);
                let _waiting = host.plugins.admit_waiting(call.release, bytes)?;
                wait.landed().await;
                waited_for.push(key);
            }
        }
    }
    fill(host, wanted, call, !directives.no_store, None).await
}

/// Returns what a guest can learn of the caller; empty without one. A response from before a change of the account is
/// not for the caller of today.
fn caller_value(caller: Option<&Caller>) -> String {
    let value = |caller: &Caller| {
        let Caller { user, credential, roles, permissions, withheld: _ } = caller;
        let email = user.as_ref().map(|user| &user.email);
        // Quoted, because a key has one part per line.
        format!("{} {email:?} {credential:?} {roles:?} {permissions:?}", caller.id())
    };
    caller.map(value).unwrap_or_default()
}

/// Calls the plugin, and stores its response if it may be stored. A response that may not is remembered under `key`, if
/// other requests could wait for one.
async fn fill(
    host: &Host,
    wanted: Wanted<'_>,
    call: PluginCall<'_>,
    may_store: bool,
    key: Option<&ResponseKey>,
) -> Result<Reply> {
    let cache = &wanted.release.cache;
    let (ticket, request_id) = (cache.ticket(), call.request_id);
    let response = plugin_call::run(&host.plugins, &host.body_memory.responses, call).await?;
    let mark_uncacheable = |status: u16| {
        // A plugin that fails may respond otherwise the next time.
        if let Some(key) = key.filter(|_| status < 500) {
            cache.mark_uncacheable(key);
        }
    };
    let (status, mut headers, body, depends_on_caller) = match response {
        PluginResponse::Response { status, headers, body, asked_for_caller } => {
            (status, headers, body, asked_for_caller)
        }
        problem => {
            let reply = plugin_call::reply(problem, wanted.parts.uri.path(), request_id)?;
            mark_uncacheable(reply.status.as_u16());
            return Ok(reply);
        }
    };
    if status == 200 && !headers.iter().any(|(name, _)| name == "etag") {
        let tag = conditional::entity_tag(&headers, &body);
        let may_vary = host.config.server.compression
            && plugin_call::response(status, &headers, body.clone()).is_ok_and(|reply| compression::may_vary(&reply));
        headers.push(("etag".to_owned(), if may_vary { format!("W/{tag}") } else { tag }));
    }
    let (now, ttl) = (cache.time(), Duration::from_millis(wanted.cached.policy.ttl_ms.into()));
    let is_stored = match cache_rules::storable(status, &headers, ttl, now) {
        Some(storable) if may_store => {
            let response = to_cache(status, &headers, &body, &storable, now);
            wanted.store(response, storable, depends_on_caller, ticket)
        }
        _ => false,
    };
    if !is_stored {
        mark_uncacheable(status);
    }
    plugin_call::response(status, &headers, body)
}

/// Returns the response to keep. It has the date of its origin; its age is added whenever it is sent.
fn to_cache(
    status: u16,
    headers: &[(String, String)],
    body: &Bytes,
    storable: &Storable,
    now: Timestamp,
) -> CachedResponse {
    let others = headers.iter().filter(|(name, _)| name != "age").cloned();
    let date = ("date".to_owned(), cache_rules::http_date(now));
    CachedResponse {
        status,
        headers: others.chain([date]).collect(),
        body: body.clone(),
        stored: now,
        age: storable.age,
    }
}

/// Returns the reply that a cached response becomes.
fn reuse(release: &Release, fresh: &Fresh) -> Result<Reply> {
    release.stats.count(CallOutcome::Cached);
    let CachedResponse { status, headers, body, .. } = &*fresh.response;
    let reply = plugin_call::response(*status, headers, body.clone())?;
    Ok(reply.with_header(AGE, fresh.age.as_secs().into()))
}

/// A call that other requests wait for. It owns what it needs, because its own request may leave.
struct Filling {
    host: Arc<Host>,
    release: Arc<Release>,
    prepared: Arc<Prepared>,
    key: ResponseKey,
    route: usize,
    parts: Parts,
    request_id: Arc<str>,
    origin: ClientOrigin,
    params: Vec<(String, String)>,
    caller: Option<Arc<Caller>>,
    trial: Option<Assignment>,
}

impl Filling {
    fn new(host: &Arc<Host>, call: &PluginCall<'_>, key: ResponseKey) -> Self {
        Self {
            host: Arc::clone(host),
            release: Arc::clone(call.release),
            prepared: Arc::clone(call.prepared),
            key,
            route: call.route,
            parts: call.parts.clone(),
            request_id: Arc::clone(call.request_id),
            origin: call.origin.clone(),
            params: call.params.iter().map(|(name, text)| ((*name).to_owned(), text.clone().into_owned())).collect(),
            caller: call.caller.clone(),
            trial: call.trial.clone(),
        }
    }

    async fn run(self) -> Result<Reply> {
        let Self { host, release, prepared, key, route, parts, request_id, origin, params, caller, trial } = self;
        let cached = prepared.routes.get(route).and_then(|route| route.cache.as_ref());
        let cached = cached.ok_or_else(|| Error::internal("a call for the cache has no cached route"))?;
        let known = caller_value(caller.as_deref());
        let server = server(&origin, &parts);
        let wanted =
            Wanted { release: &release, cached, parts: &parts, origin: &origin, server: &server, caller: &known };
        let params: Vec<(&str, Cow<'_, str>)> =
            params.iter().map(|(name, text)| (name.as_str(), Cow::from(text.as_str()))).collect();
        let call = PluginCall {
            release: &release,
            prepared: &prepared,
            route,
            method: Method::GET.as_str(),
            parts: &parts,
            request_id: &request_id,
            origin: &origin,
            params: &params,
            caller,
            trial,
            body: Bytes::new(),
            conditions: false,
        };
        fill(&host, wanted, call, true, Some(&key)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Credential, SessionCredential, Strength, User};
    use crate::id::{SessionId, UserId};
    use crate::permission::PermissionSet;

    #[test]
    fn a_change_of_what_a_guest_can_learn_is_another_caller() {
        let user = User {
            id: UserId(uuid::Uuid::nil()),
            email: "a@example.com".to_owned(),
            is_active: true,
            is_superuser: true,
            full_name: None,
            created_at: Timestamp(0),
        };
        let session = SessionCredential {
            id: SessionId(uuid::Uuid::nil()),
            strength: Strength::Single,
            authenticated_at: Timestamp(0),
            stepped_up_at: None,
            has_second_factor: false,
        };
        let caller = Caller {
            user: Some(user.clone()),
            credential: Credential::Session(session.clone()),
            roles: vec!["member".parse().unwrap()],
            permissions: PermissionSet::Everything,
            withheld: false,
        };
        let changed = |change: &dyn Fn(&mut Caller)| {
            let mut caller = caller.clone();
            change(&mut caller);
            caller
        };
        let email = |text: &str| Some(User { email: text.to_owned(), ..user.clone() });
        let others = [
            changed(&|caller| caller.permissions = PermissionSet::default()),
            changed(&|caller| caller.permissions = ["items:read-all".parse().unwrap()].into_iter().collect()),
            changed(&|caller| caller.roles.clear()),
            changed(&|caller| caller.user = email("b@example.com")),
            changed(&|caller| {
                caller.credential =
                    Credential::Session(SessionCredential { strength: Strength::Multi, ..session.clone() });
            }),
        ];
        let values: Vec<String> =
            [None, Some(&caller)].into_iter().chain(others.iter().map(Some)).map(caller_value).collect();
        for (index, value) in values.iter().enumerate() {
            assert!(!values.iter().skip(index + 1).any(|other| other == value), "{value:?}");
        }
        let odd = changed(&|caller| caller.user = email("a\nb"));
        assert!(!caller_value(Some(&odd)).contains('\n'));
        let same = changed(&|caller| {
            caller.user = Some(User { full_name: Some("A".to_owned()), ..user.clone() });
        });
        assert_eq!(caller_value(Some(&same)), caller_value(Some(&caller)));
    }
}
