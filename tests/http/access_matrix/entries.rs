//! The entries of the access matrix: the callers that each route admits, and the response to a caller who names an object
//! of somebody else. A new route needs an entry here, by its operation id.

/// The callers that a route admits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Everybody.
    Public,
    /// Every signed-in caller. On routes of the host, an API key of an account too.
    SignedIn,
    /// A user by a session of their own, never an API key.
    Session,
    /// Callers with this permission, and superusers.
    Permission(&'static str),
    /// Superusers.
    Superuser,
}
use Access::{Permission, Public, Session, SignedIn, Superuser};

impl std::fmt::Display for Access {
    /// Writes it as the OpenAPI document does, in `x-wharf-access`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Public => f.write_str("public"),
            SignedIn => f.write_str("authenticated"),
            Session => f.write_str("session"),
            Permission(name) => write!(f, "permission {name}"),
            Superuser => f.write_str("superuser"),
        }
    }
}

/// The response to a caller who is admitted and names an object of somebody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Foreign {
    /// The route has no object, or its access alone decides about every object.
    Admitted,
    /// A problem with this status and code.
    Refused(u16, &'static str),
}
use Foreign::{Admitted, Refused};

/// One route: its operation id, the callers that it admits, and foreign objects.
pub(super) type Entry = (&'static str, Access, Foreign);

pub(super) const ENTRIES: &[Entry] = &[
    // Sign-in and recovery.
    ("login-login_access_token", Public, Admitted),
    ("login-refresh_token", Public, Admitted),
    ("login-logout", Session, Admitted),
    ("login-test_token", SignedIn, Admitted),
    ("login-recover_password", Public, Admitted),
    ("login-recover_password_html_content", Permission("users:write"), Admitted),
    ("login-reset_password", Public, Admitted),
    ("login-second_factor", Public, Admitted),
    ("login-step_up", Session, Admitted),
    ("login-passkey_options", Public, Admitted),
    ("login-passkey", Public, Admitted),
    ("login-refresh_cookie", Public, Admitted),
    ("login-logout_cookie", Public, Admitted),
    ("login-read_issuers", Public, Admitted),
    ("login-begin_sign_in", Public, Admitted),
    ("login-finish_sign_in", Public, Admitted),
    ("login-exchange_code", Public, Admitted),
    // Accounts.
    ("users-read_users", Permission("users:read"), Admitted),
    ("users-create_user", Permission("users:write"), Admitted),
    ("users-read_user_me", SignedIn, Admitted),
    ("users-update_user_me", Session, Admitted),
    ("users-delete_user_me", Session, Admitted),
    ("users-update_password_me", Session, Admitted),
    ("users-register_user", Public, Admitted),
    ("users-invite_user", Permission("users:invite"), Admitted),
    ("users-verify_email", Public, Admitted),
    ("users-send_verification", Public, Admitted),
    ("users-read_user_by_id", SignedIn, Refused(403, "forbidden")),
    ("users-update_user", Permission("users:write"), Admitted),
    ("users-delete_user", Permission("users:write"), Admitted),
    ("users-read_sessions_me", Session, Admitted),
    ("users-delete_session_me", Session, Refused(404, "session_not_found")),
    ("users-delete_sessions_me", Session, Admitted),
    ("users-read_sessions", Permission("sessions:read"), Admitted),
    ("users-delete_sessions", Permission("sessions:end"), Admitted),
    ("users-delete_session", Permission("sessions:end"), Admitted),
    ("users-read_identities_me", SignedIn, Admitted),
    ("users-link_identity_me", Session, Admitted),
    ("users-delete_identity_me", Session, Refused(404, "identity_not_found")),
    ("users-begin_passkey_me", Session, Admitted),
    ("users-add_passkey_me", Session, Admitted),
    ("users-remove_passkey_me", Session, Admitted),
    ("users-read_factors_me", Session, Admitted),
    ("users-begin_totp_me", Session, Admitted),
    ("users-confirm_totp_me", Session, Admitted),
    ("users-remove_totp_me", Session, Admitted),
    ("users-renew_recovery_codes_me", Session, Admitted),
    ("users-read_factors", Permission("users:read"), Admitted),
    ("users-delete_factors", Permission("users:write"), Admitted),
    // Roles.
    ("roles-read_roles", Permission("roles:read"), Admitted),
    ("roles-create_role", Permission("roles:write"), Admitted),
    ("roles-read_role", Permission("roles:read"), Admitted),
    ("roles-update_role", Permission("roles:write"), Admitted),
    ("roles-delete_role", Permission("roles:write"), Admitted),
    ("roles-read_roles_me", SignedIn, Admitted),
    ("roles-read_roles_of_user", Permission("roles:read"), Admitted),
    ("roles-set_roles_of_user", Permission("roles:write"), Admitted),
    ("roles-read_permissions", Permission("roles:read"), Admitted),
    // API keys and signing keys.
    ("keys-read_keys_me", Session, Admitted),
    ("keys-create_key_me", Session, Admitted),
    ("keys-delete_key_me", Session, Refused(404, "key_not_found")),
    ("keys-read_keys", Permission("keys:read"), Admitted),
    ("keys-create_key", Permission("keys:write"), Admitted),
    ("keys-delete_key", Permission("keys:write"), Admitted),
    ("signing_keys-read_key_set", Public, Admitted),
    ("signing_keys-read_signing_keys", Permission("signing-keys:rotate"), Admitted),
    ("signing_keys-rotate_signing_key", Permission("signing-keys:rotate"), Admitted),
    // The audit log.
    ("audit-read_audit", Permission("audit:read"), Admitted),
    ("audit-export_audit", Permission("audit:read"), Admitted),
    ("audit-read_audit_chains", Permission("audit:read"), Admitted),
    ("audit-read_audit_chain", Permission("audit:read"), Admitted),
    ("audit-prune_audit", Permission("audit:prune"), Admitted),
    // The settings.
    ("settings-read_settings", Permission("settings:read"), Admitted),
    // Plugins.
    ("plugins-read_plugins", Permission("plugins:read"), Admitted),
    ("plugins-deploy_plugin", Permission("plugins:deploy"), Admitted),
    ("plugins-read_plugin", Permission("plugins:read"), Admitted),
    ("plugins-delete_plugin", Permission("plugins:remove"), Admitted),
    ("plugins-read_releases", Permission("plugins:read"), Admitted),
    ("plugins-read_release", Permission("plugins:read"), Admitted),
    ("plugins-read_history", Permission("plugins:read"), Admitted),
    ("plugins-roll_back", Permission("plugins:rollback"), Admitted),
    ("plugins-pause_plugin", Permission("plugins:operate"), Admitted),
    ("plugins-resume_plugin", Permission("plugins:operate"), Admitted),
    ("plugins-read_canary", Permission("plugins:read"), Admitted),
    ("plugins-promote_canary", Permission("plugins:operate"), Admitted),
    ("plugins-abort_canary", Permission("plugins:operate"), Admitted),
    ("plugins-give_grant", Permission("plugins:grant"), Admitted),
    ("plugins-revoke_grant", Permission("plugins:grant"), Admitted),
    ("plugins-read_limits", Permission("plugins:read"), Admitted),
    ("plugins-set_limits", Permission("plugins:operate"), Admitted),
    ("plugins-read_deploy", Permission("plugins:read"), Admitted),
    // Tasks and schedules.
    ("tasks-read_tasks", Permission("tasks:read"), Admitted),
    ("tasks-read_queues", Permission("tasks:read"), Admitted),
    ("tasks-read_task", Permission("tasks:read"), Admitted),
    ("tasks-retry_task", Permission("tasks:operate"), Admitted),
    ("tasks-cancel_task", Permission("tasks:operate"), Admitted),
    ("tasks-drop_task", Permission("tasks:operate"), Admitted),
    ("tasks-retry_tasks", Permission("tasks:operate"), Admitted),
    ("tasks-drop_tasks", Permission("tasks:operate"), Admitted),
    ("schedules-read_schedules", Permission("tasks:read"), Admitted),
    ("schedules-pause_schedule", Permission("tasks:operate"), Admitted),
    ("schedules-resume_schedule", Permission("tasks:operate"), Admitted),
    ("schedules-run_schedule", Permission("tasks:operate"), Admitted),
    // Mails.
    ("mails-read_mails", Permission("mail:read"), Admitted),
    ("mails-read_mail_queues", Permission("mail:read"), Admitted),
    ("mails-read_mail", Permission("mail:read"), Admitted),
    ("mails-retry_mail", Permission("mail:operate"), Admitted),
    ("mails-drop_mail", Permission("mail:operate"), Admitted),
    ("mails-retry_mails", Permission("mail:operate"), Admitted),
    ("mails-drop_mails", Permission("mail:operate"), Admitted),
    // Events. Each topic has an access of its own.
    ("events-stream_events", Public, Admitted),
    // Utilities.
    ("utils-test_email", Permission("mail:test"), Admitted),
    ("utils-health_check", Public, Admitted),
    ("private-create_user", Public, Admitted),
    // The items plugin.
    ("items-read_items", SignedIn, Admitted),
    ("items-create_item", SignedIn, Admitted),
    ("items-read_item", SignedIn, Refused(403, "not_enough_permissions")),
    ("items-update_item", SignedIn, Refused(403, "not_enough_permissions")),
    ("items-delete_item", SignedIn, Refused(403, "not_enough_permissions")),
    // A plugin with a route of each kind of access.
    ("kinds-public", Public, Admitted),
    ("kinds-authenticated", SignedIn, Admitted),
    ("kinds-permission", Permission("kinds:look"), Admitted),
    ("kinds-superuser", Superuser, Admitted),
];

/// Routes whose admitted callers lose their session or their account.
pub(super) const ENDING: &[&str] = &["login-logout", "users-delete_user_me"];
