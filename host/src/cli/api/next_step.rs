//! The next step that an operator can take after a refusal, by its error code.

/// The codes with a next step that does not depend on the status.
const STEPS: &[(&str, &str)] = &[
    ("email_taken", "`wharf user show EMAIL` shows the account with this address."),
    (
        "exceeds_own_permissions",
        "Ask somebody who has these permissions. `wharf role permissions` shows the roles with each.",
    ),
    ("forbidden", "Ask for a role with the permission; `wharf role list` shows the roles."),
    (
        "key_not_found",
        "`wharf key list` lists the own keys, and `wharf key list --all` all keys; --any revokes any key.",
    ),
    ("last_superuser", "Make another account a superuser first: `wharf user roles EMAIL --give superuser`."),
    ("mail_not_found", "`wharf mail list` lists the mails that wait or are dead."),
    ("mail_off", "Set email.smtp_url and email.from (OPERATING.md, \"Mail\"), or run `wharf user create EMAIL`."),
    ("needs_session", "An API key cannot do this. Sign in with `wharf login`, and unset WHARF_TOKEN."),
    ("plugin_not_found", "`wharf plugin list` lists the plugins."),
    ("release_not_found", "`wharf plugin releases NAME` lists the releases."),
    ("role_exists", "`wharf role edit NAME` changes it."),
    ("role_in_use", "`wharf role delete NAME --take` takes it from its users."),
    ("role_not_found", "`wharf role list` lists the roles."),
    ("schedule_not_found", "`wharf schedules list` lists the schedules."),
    ("second_factor_required", "Enrol a second factor (OPERATING.md, \"Second factors\"), then run `wharf login`."),
    ("session_not_found", "`wharf session list` lists the sessions; --user names another account."),
    ("signup_closed", "`wharf user create EMAIL` creates an account, or change auth.signup."),
    ("step_up_required", "Run `wharf login` again: this needs a recent proof of your second factor."),
    ("task_not_found", "`wharf events list` lists deliveries, and `wharf jobs list` lists jobs."),
    ("too_many_keys", "`wharf key list` lists the keys, and `wharf key revoke ID` revokes one."),
    ("user_not_found", "`wharf user list` lists the accounts."),
];

/// Returns the next step after a refusal with this status and code. `retry_after` is the header of this name.
pub(super) fn next_step(status: u16, code: &str, is_signed_in: bool, retry_after: Option<&str>) -> Option<String> {
    match (status, code) {
        (401, _) if is_signed_in => return Some("Run `wharf login` (or renew WHARF_TOKEN).".to_owned()),
        (403, "grant_missing") => {
            let step =
                "Review the capability, then add it with --grant (or with `wharf plugin grant`, if it was revoked).";
            return Some(step.to_owned());
        }
        _ => {}
    }
    match STEPS.iter().find(|(of, _)| *of == code) {
        Some((_, step)) => Some((*step).to_owned()),
        None if matches!(status, 429 | 503) => retry_after.map(|seconds| format!("Try again in {seconds} seconds.")),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::code;

    #[test]
    fn each_step_is_for_a_code_of_the_host() {
        let words: Vec<&str> = code::ALL.iter().map(|declared| declared.code.as_str()).collect();
        for (of, _) in STEPS {
            assert!(words.contains(of), "{of}");
        }
        assert!(STEPS.is_sorted_by_key(|(of, _)| *of));
    }
}
