//! The stable error codes of problem responses: the only declaration of each code, its HTTP statuses and its meaning.
//!
//! A released code keeps its meaning. To add a code, add one entry here and rewrite the table in `host/ARCHITECTURE.md`:
//! `WHARF_UPDATE_DOCS=1 cargo test -p wharf-tests --test wharf architecture`. Debug builds check in `http::problem` that
//! a code is only sent with a status that is declared here. Plugins add their own codes, which their authors document.

use std::borrow::Cow;
use std::fmt;

/// A stable lower-case word that names one cause.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(transparent)]
pub struct Code(Cow<'static, str>);

impl Code {
    /// Returns a code that a plugin chose. `plugin` has checked it.
    pub fn from_plugin(code: String) -> Self {
        Self(Cow::Owned(code))
    }

    /// Returns the word itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The declaration of one code of the host.
#[derive(Debug)]
pub struct Declaration {
    /// The code.
    pub code: Code,
    /// Every HTTP status that the code is sent with. Where there are several, the meaning says which one is chosen
    /// when.
    pub statuses: &'static [u16],
    meaning: &'static str,
}

impl Declaration {
    /// Returns the meaning, as one line of Markdown.
    pub fn meaning(&self) -> &'static str {
        self.meaning.trim_ascii()
    }
}

macro_rules! codes {
    ($($(#[doc = $meaning:literal])+ $name:ident = $word:literal, $($status:literal)|+;)*) => {
        $($(#[doc = $meaning])+ pub const $name: Code = Code(Cow::Borrowed($word));)*
        /// Every code of the host itself.
        pub const ALL: &[Declaration] =
            &[$(Declaration { code: $name, statuses: &[$($status),+], meaning: concat!($($meaning),+) }),*];
    };
}

codes! {
    /// The input does not fit the schema of the route. `errors` lists every finding.
    VALIDATION_ERROR = "validation_error", 422;
    /// The request has no valid `Host`, or its target or its framing is not valid.
    MALFORMED_REQUEST = "malformed_request", 400;
    /// The body is not UTF-8 text, is not readable, does not fit its content coding, or did not arrive in time.
    MALFORMED_BODY = "malformed_body", 400;
    /// The route requires a caller, and the request has no credentials.
    NOT_AUTHENTICATED = "not_authenticated", 401;
    /// The token is malformed, expired, forged or revoked, or its user was deleted.
    INVALID_TOKEN = "invalid_token", 401;
    /// The account is deactivated: 400 at sign-in and with a reset token, 403 with an access token.
    INACTIVE_USER = "inactive_user", 400 | 403;
    /// The caller lacks the required privilege or permission.
    FORBIDDEN = "forbidden", 403;
    /// The caller would give permissions, or change an account with permissions, that they do not have themselves.
    EXCEEDS_OWN_PERMISSIONS = "exceeds_own_permissions", 403;
    /// The operation concerns the caller's own account, and the API key belongs to nobody.
    NEEDS_ACCOUNT = "needs_account", 403;
    /// The operation requires a signed-in user. An API key cannot do it.
    NEEDS_SESSION = "needs_session", 403;
    /// A second factor is required.
    SECOND_FACTOR_REQUIRED = "second_factor_required", 403;
    /// No role has this name.
    ROLE_NOT_FOUND = "role_not_found", 404;
    /// Another role has this name.
    ROLE_EXISTS = "role_exists", 409;
    /// Accounts have the role, or new accounts get it. The text gives the number of accounts.
    ROLE_IN_USE = "role_in_use", 409;
    /// The role always exists, or always has all permissions.
    ROLE_BUILT_IN = "role_built_in", 409;
    /// No route matches the path.
    ROUTE_NOT_FOUND = "route_not_found", 404;
    /// The plugin that served this path was removed. Its data may still exist.
    PLUGIN_REMOVED = "plugin_removed", 404;
    /// The path exists with other methods. `Allow` lists them.
    METHOD_NOT_ALLOWED = "method_not_allowed", 405;
    /// The body is larger than the limit.
    BODY_TOO_LARGE = "body_too_large", 413;
    /// The URL is longer than the limit.
    URL_TOO_LONG = "url_too_long", 414;
    /// The body has a content coding that the host does not decode. `Accept-Encoding` lists those that it does.
    UNSUPPORTED_CONTENT_ENCODING = "unsupported_content_encoding", 415;
    /// The request has a transfer coding other than `chunked`.
    UNSUPPORTED_TRANSFER_ENCODING = "unsupported_transfer_encoding", 501;
    /// The headers of the request, or those that would be passed to the plugin, are larger than the limit.
    HEADERS_TOO_LARGE = "headers_too_large", 431;
    /// Too many wrong codes of a second factor, or too many passwords of all clients are being checked now. See
    /// `Retry-After`.
    THROTTLED = "throttled", 429;
    /// Too many attempts with this account or from this network. `RateLimit-Policy` names the limit; see `Retry-After`.
    TOO_MANY_ATTEMPTS = "too_many_attempts", 429;
    /// The caller, or the network of a client without credentials, has the maximum number of event streams open. See
    /// `Retry-After`.
    TOO_MANY_STREAMS = "too_many_streams", 429;
    /// A defect of the host. The log entry with the request id describes it.
    INTERNAL = "internal", 500;
    /// The host is shutting down.
    SHUTTING_DOWN = "shutting_down", 503;
    /// The host deploys the plugins that it was started with (`wharf serve --deploy`). Only `/readyz` responds so.
    STARTING = "starting", 503;
    /// The bodies of other requests and responses use all the memory for bodies, or the maximum number of static files or
    /// event streams is being sent. See `Retry-After`.
    OVERLOADED = "overloaded", 503;
    /// The database is not reachable at present, or is locked by another program.
    DATABASE_UNAVAILABLE = "database_unavailable", 503;
    /// Nothing can be stored, because the disk of the database is full or a quota was reached. Reading works.
    STORAGE_FULL = "storage_full", 503;
    /// The maximum number of mails waits to be sent. See `Retry-After`.
    MAIL_QUEUE_FULL = "mail_queue_full", 503;
    /// The operation needs mail, and no mail server is configured.
    MAIL_OFF = "mail_off", 409;

    /// The user is unknown, the password is wrong, or the address must be verified first.
    INCORRECT_CREDENTIALS = "incorrect_credentials", 400;
    /// The given current password is wrong.
    INCORRECT_PASSWORD = "incorrect_password", 400;
    /// The code of the second factor is wrong, was used before, or belongs to a factor that the account does not have.
    INCORRECT_CODE = "incorrect_code", 400;
    /// The sign-in that waited for a second factor is over: completed, expired, tried too often, or begun with a password
    /// that was changed.
    INVALID_CHALLENGE = "invalid_challenge", 400;
    /// The response of the browser fits no request for a passkey, or the passkey is unknown, copied or of another site. Each
    /// request takes one response.
    INVALID_PASSKEY = "invalid_passkey", 400;
    /// Browsers offer no passkeys to the frontend: it has no domain, or neither https nor localhost.
    PASSKEYS_UNAVAILABLE = "passkeys_unavailable", 409;
    /// The operation needs a recent proof that the caller is the user of the session. See `POST /api/v1/login/step-up`.
    STEP_UP_REQUIRED = "step_up_required", 403;
    /// The account has no such second factor, or no enrolment of one was begun.
    FACTOR_NOT_FOUND = "factor_not_found", 404;
    /// The account has this second factor already, or as many passkeys as it may have.
    FACTOR_EXISTS = "factor_exists", 409;
    /// The new password equals the current one.
    SAME_PASSWORD = "same_password", 400;
    /// The new password is one that attackers try first: a common password, a word, a sequence, a
    /// repetition, or the address or name of the account.
    COMMON_PASSWORD = "common_password", 400;
    /// The reset token is unknown, used or expired, or the password or the address was changed after it was issued.
    INVALID_RESET_TOKEN = "invalid_reset_token", 400;
    /// The token of a link that verifies an address is unknown, used or expired, or the account or its address was changed
    /// after it was issued.
    INVALID_VERIFICATION_TOKEN = "invalid_verification_token", 400;
    /// The setting `auth.signup` does not allow it: 400 at sign-up, 409 for an invitation.
    SIGNUP_CLOSED = "signup_closed", 400 | 409;
    /// The email address belongs to another account: 400 at sign-up and when a superuser creates an account, 409
    /// otherwise.
    EMAIL_TAKEN = "email_taken", 400 | 409;
    /// The user does not exist.
    USER_NOT_FOUND = "user_not_found", 404;
    /// The user has no such session.
    SESSION_NOT_FOUND = "session_not_found", 404;
    /// There is no such API key, or the caller does not own it.
    KEY_NOT_FOUND = "key_not_found", 404;
    /// The account, or nobody, has as many API keys as allowed.
    TOO_MANY_KEYS = "too_many_keys", 409;
    /// The newest signing key does not sign yet, or too many replaced keys still verify tokens.
    SIGNING_KEY_OVERLAP = "signing_key_overlap", 409;
    /// Superusers cannot delete their own account.
    SUPERUSER_SELF_DELETION = "superuser_self_deletion", 403;
    /// The last active superuser can be neither deleted, deactivated nor demoted.
    LAST_SUPERUSER = "last_superuser", 409;

    /// No OpenID Connect issuer has this name.
    ISSUER_NOT_FOUND = "issuer_not_found", 404;
    /// The issuer does not respond, or its documents are not usable. See `Retry-After`.
    ISSUER_UNAVAILABLE = "issuer_unavailable", 503;
    /// The issuer did not let the person sign in, or does not know this host.
    ISSUER_REFUSED = "issuer_refused", 400;
    /// The response of the issuer is not valid: a forged or expired ID token, or the response of another issuer.
    ISSUER_RESPONSE_INVALID = "issuer_response_invalid", 400;
    /// The response of the issuer does not belong to this browser, or comes too late.
    LOGIN_EXPIRED = "login_expired", 400;
    /// The issuer has not verified the address of the person.
    ADDRESS_NOT_VERIFIED = "address_not_verified", 403;
    /// An account with the address exists, and its owner has not linked the issuer.
    LINK_NOT_CONFIRMED = "link_not_confirmed", 403;
    /// The person has no account, and nobody gets one by signing in.
    NO_ACCOUNT = "no_account", 403;
    /// The code of a sign-in is unknown, used or expired, or the verifier is not that of the sign-in.
    INVALID_LOGIN_CODE = "invalid_login_code", 400;
    /// The account at the issuer belongs to another account of this host.
    IDENTITY_TAKEN = "identity_taken", 409;
    /// The caller has no such identity.
    IDENTITY_NOT_FOUND = "identity_not_found", 404;
    /// The account has the maximum number of identities.
    TOO_MANY_IDENTITIES = "too_many_identities", 409;
    /// Without this identity or passkey, its owner could not sign in any more.
    LAST_SIGN_IN_METHOD = "last_sign_in_method", 409;
    /// A cookie does not count in this request, because another site may have made the browser send it.
    CROSS_SITE_REQUEST = "cross_site_request", 403;

    /// No plugin declares the topic for clients.
    TOPIC_NOT_FOUND = "topic_not_found", 404;
    /// No plugin has this name.
    PLUGIN_NOT_FOUND = "plugin_not_found", 404;
    /// The release trapped, failed or did not respond when it was called before its first request.
    SMOKE_FAILED = "smoke_failed", 422;
    /// A deploy with this id is running, or was for another file.
    DEPLOY_CONFLICT = "deploy_conflict", 409;
    /// No deploy has this id.
    DEPLOY_NOT_FOUND = "deploy_not_found", 404;
    /// The plugin has no such release, or the release was collected.
    RELEASE_NOT_FOUND = "release_not_found", 404;
    /// The release is already live.
    RELEASE_LIVE = "release_live", 409;
    /// The database schema is newer than the release supports. The text names the migration.
    SCHEMA_TOO_NEW = "schema_too_new", 409;
    /// The state of the plugin does not allow the operation: no canary is running, or the plugin is paused.
    PLUGIN_STATE = "plugin_state", 409;
    /// An operator or the host changed the plugin while the operation ran: a pause, a revocation, a rollback, a removal.
    /// The change stays, and nothing of the operation is served.
    PLUGIN_CHANGED = "plugin_changed", 409;
    /// The name of the plugin is a namespace of the host's permissions or topics. Deploy it under another name.
    RESERVED_NAME = "reserved_name", 422;
    /// The upload is not a component that Wharf can run. The text gives the reason.
    INVALID_COMPONENT = "invalid_component", 422;
    /// Compiling the component exceeds the limit of memory or time. The text names the setting.
    COMPILE_LIMIT = "compile_limit", 422;
    /// A capability is not granted: 403 when the component imports it (`errors` lists each one) or when the release
    /// needs a revoked one, 404 when the plugin does not have the grant that is to be changed or revoked.
    GRANT_MISSING = "grant_missing", 403 | 404;
    /// The file is not signed, and this host accepts only signed files.
    SIGNATURE_MISSING = "signature_missing", 403;
    /// A signature is malformed or does not match the file: one of the two was altered.
    SIGNATURE_INVALID = "signature_invalid", 422;
    /// The file is signed, but not by a key that this host trusts.
    SIGNATURE_UNTRUSTED = "signature_untrusted", 403;
    /// The signature is older than this host allows, or its time is in the future.
    SIGNATURE_EXPIRED = "signature_expired", 403;
    /// The digest of the file is not the pinned one.
    DIGEST_MISMATCH = "digest_mismatch", 422;
    /// The host or another plugin already has the mount path or a route.
    ROUTE_CONFLICT = "route_conflict", 409;
    /// A migration failed, or an applied migration was changed.
    MIGRATION_FAILED = "migration_failed", 422;

    /// The plugin trapped (a panic, an unreachable instruction, a stack overflow).
    PLUGIN_TRAP = "plugin_trap", 502;
    /// The plugin exceeded its memory limit.
    PLUGIN_MEMORY_LIMIT = "plugin_memory_limit", 502;
    /// The plugin exceeded the number of host calls that one call may make.
    PLUGIN_HOST_CALL_LIMIT = "plugin_host_call_limit", 502;
    /// The response of the plugin is not valid (status, header, size).
    PLUGIN_INVALID_RESPONSE = "plugin_invalid_response", 502;
    /// The response of the plugin is larger than the limit.
    PLUGIN_RESPONSE_LIMIT = "plugin_response_limit", 502;
    /// The plugin used up its CPU time.
    PLUGIN_CPU_LIMIT = "plugin_cpu_limit", 504;
    /// The plugin did not respond before the deadline.
    PLUGIN_DEADLINE = "plugin_deadline", 504;
    /// The release of the plugin could not be loaded. The log of the host gives the reason.
    PLUGIN_UNAVAILABLE = "plugin_unavailable", 503;
    /// An operator paused the plugin.
    PLUGIN_PAUSED = "plugin_paused", 503;
    /// An operator revoked a grant that the release of the plugin needs.
    PLUGIN_REVOKED = "plugin_revoked", 503;
    /// The circuit breaker of the plugin is open, because too many calls failed. See `Retry-After`.
    PLUGIN_QUARANTINED = "plugin_quarantined", 503;
    /// The release was replaced, and the call did not end within the drain time, or the data of the plugin were deleted
    /// meanwhile.
    PLUGIN_REPLACED = "plugin_replaced", 503;
    /// A service of the host that the plugin needs failed during the call, such as the audit log. The plugin is not at
    /// fault.
    DEPENDENCY_UNAVAILABLE = "dependency_unavailable", 503;
    /// All call slots that the plugin can use are busy. See `Retry-After`.
    PLUGIN_BUSY = "plugin_busy", 503;

    /// No task has this number, or it was deleted after it had ended.
    TASK_NOT_FOUND = "task_not_found", 404;
    /// The state of the task does not allow the operation, it is of the other kind, or a job with its deduplication key waits
    /// or runs.
    TASK_STATE = "task_state", 409;
    /// The plugin has no schedule of this name.
    SCHEDULE_NOT_FOUND = "schedule_not_found", 404;
    /// No mail of the queue has this number: it was sent or deleted.
    MAIL_NOT_FOUND = "mail_not_found", 404;
    /// The state of the mail does not allow the operation.
    MAIL_STATE = "mail_state", 409;
}

/// Returns whether a response may have this code and this status. A code of a plugin fits any status.
pub fn fits_status(code: &Code, status: u16) -> bool {
    ALL.iter().all(|declared| declared.code != *code || declared.statuses.contains(&status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_words() {
        let mut seen = std::collections::HashSet::new();
        for Declaration { code, .. } in ALL {
            assert!(code.as_str().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{code}");
            assert!(seen.insert(code.as_str()), "{code} is declared twice");
        }
    }

    #[test]
    fn a_code_fits_only_its_declared_statuses() {
        assert!(fits_status(&INACTIVE_USER, 400) && fits_status(&INACTIVE_USER, 403));
        assert!(!fits_status(&INACTIVE_USER, 401));
        assert!(fits_status(&Code::from_plugin("out_of_stock".to_owned()), 418));
    }
}
