//! The sessions of the caller.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;

use crate::auth::Session;
use crate::clock::Timestamp;
use crate::error::Result;
use crate::http::Host;
use crate::http::call::Call;
use crate::http::host_route::HostRoute;
use crate::http::reply::{Message, Reply};
use crate::id::SessionId;

const TAG: &str = "users";

/// Returns the routes of sessions.
pub(super) fn routes() -> Vec<HostRoute<Host>> {
    vec![
        HostRoute::get("/api/v1/users/me/sessions", read_sessions)
            .session()
            .named(TAG, "read_sessions_me", "Read Sessions Me")
            .described("Lists the sessions of the caller, newest first.")
            .replies::<SessionsPublic>(),
        HostRoute::delete("/api/v1/users/me/sessions/{session_id}", delete_session)
            .session()
            .named(TAG, "delete_session_me", "Delete Session Me")
            .described("Ends a session of the caller and invalidates its tokens.")
            .path::<SessionId>("session_id")
            .replies::<Message>(),
    ]
}

/// A session as its owner sees it.
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
    /// Whether this request belongs to it.
    is_current: bool,
}

#[derive(Serialize, JsonSchema)]
struct SessionsPublic {
    data: Vec<SessionPublic>,
    count: usize,
}

async fn read_sessions(host: Arc<Host>, call: Call) -> Result<Reply> {
    let caller = call.caller()?;
    let (user, current) = (caller.user()?.id, caller.session()?.id);
    let shown = |session: Session| SessionPublic {
        is_current: session.id == current,
        id: session.id,
        created_at: session.created_at,
        last_used_at: session.last_used_at,
        expires_at: session.expires_at,
        user_agent: session.user_agent,
    };
    let data: Vec<SessionPublic> = host.auth.sessions(user).await?.into_iter().map(shown).collect();
    Reply::json(&SessionsPublic { count: data.len(), data })
}

async fn delete_session(host: Arc<Host>, call: Call) -> Result<Reply> {
    host.auth.end_session(call.caller()?.user()?.id, call.path("session_id")?).await?;
    Reply::message("Session deleted successfully")
}
