//! Invitations, and the settings of `auth.signup`.

use serde_json::{Value, json};

use super::{PRIVILEGES, USER, members, not_authenticated, text};
use crate::support::host::PASSWORD;
use crate::support::{Client, TestHost, TestResponse, both};
use wharf::config::SignUp;

both! {
    an_invited_person_sets_a_password_and_has_the_account => Setup::default().with_manual_clock(),
    nobody_invites_somebody_with_more_permissions_than_their_own,
    an_invited_superuser_who_has_not_accepted_does_not_count_as_one,
    a_host_for_invited_people_has_no_sign_up => Setup::default().with(|config| config.auth.signup = SignUp::Invite),
    a_host_with_sign_up_off_takes_no_invitations => Setup::default().with(|config| config.auth.signup = SignUp::Off),
    an_invitation_needs_mail => Setup::default().without_mail(),
}

async fn invite(client: &Client, email: &str, roles: Value) -> TestResponse {
    client.post("/users/invite", &json!({ "email": email, "full_name": "Jane", "roles": roles })).await
}

async fn accept(host: &TestHost, token: &str) -> TestResponse {
    host.anonymous().post("/reset-password/", &json!({ "token": token, "new_password": PASSWORD })).await
}

async fn an_invited_person_sets_a_password_and_has_the_account(host: &TestHost) {
    let admin = host.superuser();
    let user = invite(admin, "Jane@example.com", json!(["operator"])).await.ok();
    assert_eq!(members(&user), USER);
    assert_eq!((&user["email"], &user["full_name"]), (&json!("Jane@example.com"), &json!("Jane")));
    // Nobody can sign in before.
    for password in [PASSWORD, "!", "!!!!!!!!"] {
        let refused = host.anonymous().sign_in("jane@example.com", password).await;
        refused.is_problem(400, "incorrect_credentials", "Incorrect email or password");
    }
    let mail = host.mails().take("Jane@example.com").await;
    assert_eq!(mail.subject, "Test & Co - You are invited");
    assert!(mail.html.contains("168 hours"), "{}", mail.html);

    // An expired invitation is sent again, for the same account.
    host.clock().advance(host.config().auth.invitation_ttl);
    accept(host, &mail.reset_token()).await.has_code(400, "invalid_reset_token");
    assert_eq!(invite(admin, "jane@example.com", json!([])).await.ok(), user);
    let token = host.mails().take("Jane@example.com").await.reset_token();
    accept(host, &token).await.has_message("Password updated successfully");
    let client = host.anonymous().signed_in("jane@example.com", PASSWORD).await;
    assert_eq!(client.get("/users/me").await.ok(), user);
    // The role came with the first invitation.
    client.get("/plugins/").await.ok();
    accept(host, &token).await.has_code(400, "invalid_reset_token");

    let again = invite(admin, "JANE@example.com", json!([])).await;
    again.is_problem(409, "email_taken", "User with this email already exists");
}

async fn nobody_invites_somebody_with_more_permissions_than_their_own(host: &TestHost) {
    not_authenticated(&invite(&host.anonymous(), "new@example.com", json!([])).await);
    let client = host.user("jane@example.com").await;
    invite(&client, "new@example.com", json!([])).await.is_problem(403, "forbidden", PRIVILEGES);

    let id = text(&client.get("/users/me").await.ok(), "id").to_owned();
    let role = |schema: &str| {
        format!(
            "INSERT INTO {schema}roles (name, description, is_default, requires_second_factor, created_at) \
             SELECT 'inviter', '', is_default, requires_second_factor, 0 FROM {schema}roles WHERE name = 'operator'; \
             INSERT INTO {schema}role_permissions (role, permission) VALUES ('inviter', 'users:invite'); \
             INSERT INTO {schema}user_roles (user_id, role) VALUES ('{id}', 'inviter');"
        )
    };
    host.run_sql(&role(""), &role("wharf.")).await;
    // Another session, because the host did not see the change of the role.
    let client = host.anonymous().signed_in("jane@example.com", PASSWORD).await;
    for role in ["operator", "superuser"] {
        let refused = invite(&client, "new@example.com", json!([role])).await;
        refused.has_code(403, "exceeds_own_permissions");
    }
    let denied = host.superuser().get("/audit/?action=invitation.create&outcome=denied").await.ok();
    assert_eq!(
        (&denied["data"][0]["actor"], &denied["data"][0]["detail"]),
        (&json!(id), &json!({ "email": "new@example.com", "roles": ["superuser"] }))
    );
    // A superuser has every permission, and yet gives no role that does not exist.
    let unknown = invite(host.superuser(), "new@example.com", json!(["superuser", "nonsense"])).await;
    unknown.has_findings(&["body.roles.1 value_error: There is no such role"]);
    let unknown = invite(&client, "new@example.com", json!(["member", "nonsense"])).await;
    unknown.has_findings(&["body.roles.1 value_error: There is no such role"]);
    invite(&client, "new@example.com", json!(["Not a name"])).await.has_code(422, "validation_error");
    invite(&client, "new@example.com", json!(["member", "inviter"])).await.ok();
    // Roles of the body and flags of an account are not mixed up.
    let body = json!({ "email": "more@example.com", "is_superuser": true, "password": PASSWORD });
    assert_eq!(client.post("/users/invite", &body).await.ok()["is_superuser"], false);
    assert_eq!(host.anonymous().sign_in("more@example.com", PASSWORD).await.status, 400);
}

async fn an_invited_superuser_who_has_not_accepted_does_not_count_as_one(host: &TestHost) {
    let admin = host.superuser();
    let me = admin.get("/users/me").await.ok();
    let path = format!("/users/{}", text(&me, "id"));
    assert_eq!(invite(admin, "jane@example.com", json!(["superuser"])).await.ok()["is_superuser"], true);
    let demotion = json!({ "is_superuser": false });
    admin.patch(&path, &demotion).await.has_code(409, "last_superuser");
    accept(host, &host.mails().take("jane@example.com").await.reset_token()).await.ok();
    admin.patch(&path, &demotion).await.ok();
}

async fn a_host_for_invited_people_has_no_sign_up(host: &TestHost) {
    host.sign_up("jane@example.com").await.is_problem(400, "signup_closed", "Sign-up needs an invitation");
    invite(host.superuser(), "jane@example.com", json!([])).await.ok();
    let token = host.mails().take("jane@example.com").await.reset_token();
    accept(host, &token).await.ok();
    host.anonymous().sign_in("jane@example.com", PASSWORD).await.ok();
}

async fn a_host_with_sign_up_off_takes_no_invitations(host: &TestHost) {
    host.sign_up("jane@example.com").await.is_problem(400, "signup_closed", "Sign-up is closed");
    invite(host.superuser(), "jane@example.com", json!([])).await.has_code(409, "signup_closed");
    let body = json!({ "email": "jane@example.com", "password": PASSWORD });
    host.superuser().post("/users/", &body).await.ok();
}

async fn an_invitation_needs_mail(host: &TestHost) {
    invite(host.superuser(), "jane@example.com", json!([])).await.has_code(409, "mail_off");
}
