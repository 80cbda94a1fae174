//! Sessions: those of the caller, and those of any account for operators.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;

use super::pagination::Page;
use crate::auth::Session;
use crate::clock::Timestamp;
use crate::error::Result;
use crate::http::Host;
use crate::http::call::Call;
use crate::http::host_route::HostRoute;
use crate::http::reply::{Message, Reply};
use crate::id::{SessionId, UserId};
use crate::permission::HostPermission;

const TAG: &str = "users";

/// Returns the routes of sessions.
pub(super) fn routes() -> Vec<HostRoute<Host>> {
    vec![
        HostRoute::get("/api/v1/users/me/sessions", read_sessions_me)
            .session()
            .named(TAG, "read_sessions_me", "Read Sessions Me")
            .described("Lists the sessions of the caller, newest first.")
            .query::<Page>()
            .replies::<SessionsPublic>(),
        HostRoute::delete("/api/v1/users/me/sessions", delete_sessions_me)
            .session()
            .named(TAG, "delete_sessions_me", "Delete Sessions Me")
            .described("Ends all sessions of the caller but the current one.")
            .replies::<Message>(),
        HostRoute::delete("/api/v1/users/me/sessions/{session_id}", delete_session_me)
            .session()
            .named(TAG, "delete_session_me", "Delete Session Me")
            .described("Ends a session of the caller and invalidates its tokens.")
            .path::<SessionId>("session_id")
            .replies::<Message>(),
        HostRoute::get("/api/v1/users/{user_id}/sessions", read_sessions)
            .permission(HostPermission::SessionsRead)
            .named(TAG, "read_sessions", "Read Sessions")
            .described("Lists the sessions of an account, newest first.")
            .path::<UserId>("user_id")
            .query::<Page>()
            .replies::<SessionsPublic>(),
        HostRoute::delete("/api/v1/users/{user_id}/sessions", delete_sessions)
            .permission(HostPermission::SessionsEnd)
            .named(TAG, "delete_sessions", "Delete Sessions")
            .described("Ends all sessions of an account and invalidates their tokens.")
            .path::<UserId>("user_id")
            .replies::<Message>(),
        HostRoute::delete("/api/v1/users/{user_id}/sessions/{session_id}", delete_session)
            .permission(HostPermission::SessionsEnd)
            .named(TAG, "delete_session", "Delete Session")
            .described("Ends a session of an account and invalidates its tokens.")
            .path::<UserId>("user_id")
            .path::<SessionId>("session_id")
            .replies::<Message>(),
    ]
}

/// A session without its secrets.
#[derive(Serialize, JsonSchema)]
struct SessionPublic {
    id: SessionId,
    /// When the user signed in.
    created_at: Timestamp,
    /// When it was last refreshed.
    last_used_at: Timestamp,
    /// When it expires unless it is refreshed.
    expires_at: Timestamp,
    /// The `User-Agent` of the client.
    user_agent: Option<String>,
    /// `single` or `multi`: how many factors the sign-in had.
    strength: &'static str,
    /// Whether this request belongs to it.
    is_current: bool,
}

/// A page of sessions.
#[derive(Serialize, JsonSchema)]
struct SessionsPublic {
    data: Vec<SessionPublic>,
    /// The number of sessions before pagination.
    count: i64,
}

async fn read(host: &Host, call: &Call, user: UserId) -> Result<Reply> {
    let page: Page = call.query()?;
    let current = call.caller()?.session().ok().map(|session| session.id);
    let shown = |session: Session| SessionPublic {
        is_current: current == Some(session.id),
        id: session.id,
        created_at: session.created_at,
        last_used_at: session.last_used_at,
        expires_at: session.expires_at,
        user_agent: session.user_agent,
        strength: session.strength.as_str(),
    };
    let (sessions, count) = host.auth.sessions(user, page.skip, page.limit).await?;
    Reply::json(&SessionsPublic { data: sessions.into_iter().map(shown).collect(), count })
}

async fn delete_one(host: &Host, call: &Call, user: UserId) -> Result<Reply> {
    host.auth.end_session(&call.initiator(), user, call.path("session_id")?).await?;
    Reply::message("Session deleted successfully")
}

async fn delete_all(host: &Host, call: &Call, user: UserId, kept: Option<SessionId>) -> Result<Reply> {
    host.auth.end_sessions(&call.initiator(), user, kept).await?;
    Reply::message("Sessions deleted successfully")
}

async fn read_sessions_me(host: Arc<Host>, call: Call) -> Result<Reply> {
    read(&host, &call, call.caller()?.user()?.id).await
}

async fn delete_session_me(host: Arc<Host>, call: Call) -> Result<Reply> {
    delete_one(&host, &call, call.caller()?.user()?.id).await
}

async fn delete_sessions_me(host: Arc<Host>, call: Call) -> Result<Reply> {
    let caller = call.caller()?;
    delete_all(&host, &call, caller.user()?.id, Some(caller.session()?.id)).await
}

async fn read_sessions(host: Arc<Host>, call: Call) -> Result<Reply> {
    let user: UserId = call.path("user_id")?;
    // An unknown account is reported.
    host.auth.user(user).await?;
    read(&host, &call, user).await
}

async fn delete_session(host: Arc<Host>, call: Call) -> Result<Reply> {
    let user: UserId = call.path("user_id")?;
    call.caller()?.require_session_for_own(user)?;
    delete_one(&host, &call, user).await
}

async fn delete_sessions(host: Arc<Host>, call: Call) -> Result<Reply> {
    let user: UserId = call.path("user_id")?;
    call.caller()?.require_session_for_own(user)?;
    delete_all(&host, &call, user, None).await
}
