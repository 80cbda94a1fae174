//! The stable codes of problem responses. A code, once released, keeps its meaning; a test keeps the list in
//! ARCHITECTURE.md complete. Plugins add codes of their own, which their authors document.

use std::borrow::Cow;
use std::fmt;

/// A stable lower-case word that names one cause.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(transparent)]
pub struct Code(Cow<'static, str>);

impl Code {
    /// A code that a plugin chose, already checked by `plugin::answer`.
    pub fn from_plugin(code: String) -> Self {
        Self(Cow::Owned(code))
    }

    /// The word itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $word:literal;)*) => {
        $($(#[$doc])* pub const $name: Code = Code(Cow::Borrowed($word));)*
        /// Every code the host itself answers with.
        pub const ALL: &[Code] = &[$($name),*];
    };
}

codes! {
    /// 422: the input does not fit the route's schema; see `errors`.
    VALIDATION_ERROR = "validation_error";
    /// 400: the body is not text in UTF-8, or not readable at all.
    MALFORMED_BODY = "malformed_body";
    /// 401: the route needs a caller and no credentials came.
    NOT_AUTHENTICATED = "not_authenticated";
    /// 401: the token is malformed, expired, forged, revoked or of a deleted user.
    INVALID_TOKEN = "invalid_token";
    /// 403 (400 at login): the account is deactivated.
    INACTIVE_USER = "inactive_user";
    /// 403: the caller lacks the privilege or permission.
    FORBIDDEN = "forbidden";
    /// 404: no route at this path.
    ROUTE_NOT_FOUND = "route_not_found";
    /// 404: the plugin that served this path was removed; its data may still be there.
    PLUGIN_REMOVED = "plugin_removed";
    /// 405: the path exists with other methods, named in `Allow`.
    METHOD_NOT_ALLOWED = "method_not_allowed";
    /// 413: the body is larger than the limit.
    BODY_TOO_LARGE = "body_too_large";
    /// 431: the headers that the plugin would get are larger than the limit.
    HEADERS_TOO_LARGE = "headers_too_large";
    /// 429: too many attempts; see `Retry-After`.
    THROTTLED = "throttled";
    /// 500: a defect of the host; the request id finds it in the log.
    INTERNAL = "internal";
    /// 503: the host is stopping.
    SHUTTING_DOWN = "shutting_down";
    /// 503: bodies of other requests and answers take all the memory for bodies, or as many files are being sent as may be;
    /// see `Retry-After`.
    OVERLOADED = "overloaded";
    /// 503: the database cannot be reached now.
    DATABASE_UNAVAILABLE = "database_unavailable";

    /// 400: unknown user or wrong password.
    INCORRECT_CREDENTIALS = "incorrect_credentials";
    /// 400: the current password given is wrong.
    INCORRECT_PASSWORD = "incorrect_password";
    /// 400: the new password is the current one.
    SAME_PASSWORD = "same_password";
    /// 400: the reset token is unknown, used, expired or outlived by a password change.
    INVALID_RESET_TOKEN = "invalid_reset_token";
    /// 400 or 409: the email address belongs to another account.
    EMAIL_TAKEN = "email_taken";
    /// 404: no such user.
    USER_NOT_FOUND = "user_not_found";
    /// 404: no such session of this user.
    SESSION_NOT_FOUND = "session_not_found";
    /// 403: superusers do not delete themselves.
    SUPERUSER_SELF_DELETION = "superuser_self_deletion";
    /// 409: the last active superuser stays.
    LAST_SUPERUSER = "last_superuser";

    /// 404: no plugin of that name.
    PLUGIN_NOT_FOUND = "plugin_not_found";
    /// 422: the release trapped, failed or did not answer when it was tried before its first request.
    SMOKE_FAILED = "smoke_failed";
    /// 409: a deploy of this id runs, or was of another file.
    DEPLOY_CONFLICT = "deploy_conflict";
    /// 404: no deploy of this id.
    DEPLOY_NOT_FOUND = "deploy_not_found";
    /// 404: the plugin has no such release, or it was collected.
    RELEASE_NOT_FOUND = "release_not_found";
    /// 409: the release is the live one already.
    RELEASE_LIVE = "release_live";
    /// 409: the database has moved on to where the release cannot follow; the text names the migration.
    SCHEMA_TOO_NEW = "schema_too_new";
    /// 409: the plugin's state does not allow it: nothing is on trial, or it is paused.
    PLUGIN_STATE = "plugin_state";
    /// 422: the upload is not a component that Wharf can run; the text says why.
    INVALID_COMPONENT = "invalid_component";
    /// 422: compiling the component takes more memory or time than it may; the text names the setting.
    COMPILE_LIMIT = "compile_limit";
    /// 403: the component imports a capability that was not granted; see `errors`.
    GRANT_MISSING = "grant_missing";
    /// 403: the file is not signed, and this host takes only signed ones.
    SIGNATURE_MISSING = "signature_missing";
    /// 422: a signature is malformed or does not fit the file: one of the two was altered.
    SIGNATURE_INVALID = "signature_invalid";
    /// 403: the file is signed, and by nobody whom this host trusts.
    SIGNATURE_UNTRUSTED = "signature_untrusted";
    /// 403: the signature is older than this host allows, or says it was made in the future.
    SIGNATURE_EXPIRED = "signature_expired";
    /// 422: the file is another one than was pinned.
    DIGEST_MISMATCH = "digest_mismatch";
    /// 409: a mount path or route belongs to somebody else already.
    ROUTE_CONFLICT = "route_conflict";
    /// 422: a migration failed or an applied one was changed.
    MIGRATION_FAILED = "migration_failed";

    /// 502: the plugin trapped (a panic, an unreachable instruction, a stack overflow).
    PLUGIN_TRAP = "plugin_trap";
    /// 502: the plugin asked for more memory than it may have.
    PLUGIN_MEMORY_LIMIT = "plugin_memory_limit";
    /// 502: the plugin called into the host more often than it may in one call.
    PLUGIN_HOST_CALL_LIMIT = "plugin_host_call_limit";
    /// 502: the plugin's answer is not valid (status, header, size).
    PLUGIN_INVALID_RESPONSE = "plugin_invalid_response";
    /// 502: the plugin's answer is larger than it may be.
    PLUGIN_RESPONSE_LIMIT = "plugin_response_limit";
    /// 504: the plugin used up its CPU time.
    PLUGIN_CPU_LIMIT = "plugin_cpu_limit";
    /// 504: the plugin did not answer in time.
    PLUGIN_DEADLINE = "plugin_deadline";
    /// 503: the plugin's release could not be loaded; the operator's log says why.
    PLUGIN_UNAVAILABLE = "plugin_unavailable";
    /// 503: an operator paused the plugin.
    PLUGIN_PAUSED = "plugin_paused";
    /// 503: an operator took back a grant that the plugin's release needs.
    PLUGIN_REVOKED = "plugin_revoked";
    /// 503: the plugin failed too often and is left alone for a while; see `Retry-After`.
    PLUGIN_QUARANTINED = "plugin_quarantined";
    /// 503: the release was replaced and the call did not end within the drain time.
    PLUGIN_REPLACED = "plugin_replaced";
    /// 503: as many calls as the plugin or the host may run are running; see `Retry-After`.
    PLUGIN_BUSY = "plugin_busy";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_words() {
        let mut seen = std::collections::HashSet::new();
        for code in ALL {
            assert!(code.as_str().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{code}");
            assert!(seen.insert(code.as_str()), "{code} stands twice");
        }
    }
}
