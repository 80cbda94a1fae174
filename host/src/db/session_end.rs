//! Sessions that end before their time, one or all of an account. Owns the SQL that ends several of them, and the events
//! about each. The deletion of an account ends its sessions without events of their own: `user.deleted` says it.

use super::row::row;
use crate::clock::Timestamp;
use crate::id::SessionId;

/// The most events of one transaction, however many sessions it ends. An account has at most a hundred sessions, or more
/// if they are older than that rule.
pub(super) const MOST_EVENTS: usize = 1_000;

row! {
    /// A session that was ended.
    #[derive(Debug)]
    pub(super) struct EndedSession {
        pub(super) id: SessionId,
        pub(super) expires_at: Timestamp,
    }
}

/// Ends all sessions of an account, and returns an [`EndedSession`] for each.
pub(super) const END_SESSIONS: &str = "DELETE FROM sessions WHERE user_id = $1 RETURNING id, expires_at";

/// Ends all sessions of an account but one, and returns an [`EndedSession`] for each.
pub(super) const END_OTHER_SESSIONS: &str =
    "DELETE FROM sessions WHERE user_id = $1 AND id <> $2 RETURNING id, expires_at";

/// Publishes the ends of sessions in the body of `on!`, at the end of the transaction `$tx`. Sessions that had expired are
/// left out.
macro_rules! publish_ends {
    ($db:expr, $tx:expr, $cause:expr, $user:expr, $ended:expr) => {{
        let cause: $crate::message::host_event::Cause<'_> = $cause;
        let ended: &[$crate::db::session_end::EndedSession] = $ended;
        let before_their_time = ended.iter().filter(|session| session.expires_at > cause.at);
        for session in before_their_time.take($crate::db::session_end::MOST_EVENTS) {
            let event = $crate::message::host_event::HostEvent::SessionRevoked { id: session.id, user_id: $user };
            $crate::db::intake::publish!($db, $tx, cause, event);
        }
    }};
}
pub(super) use publish_ends;
