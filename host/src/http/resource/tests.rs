use std::borrow::Cow;
use std::collections::BTreeSet;

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use super::*;
use crate::error::Findings;
use crate::route::{Operation, Schemas, Template};

fn generator() -> SchemaGenerator {
    SchemaSettings::draft2020_12().with(|settings| settings.definitions_path = "/components/schemas".into()).into()
}

/// Returns the compiled operation of the route with the given operation id.
fn operation(id: &str) -> Operation {
    let mut config = Config::default();
    config.server.development = true;
    for route in routes(&config) {
        let mut generator = generator();
        let operation = route.operation(&mut generator);
        if operation["operationId"] == id {
            let mut schemas = Schemas::new(generator.take_definitions(true)).unwrap();
            return Operation::compile(&operation, &mut schemas, &Template::parse(route.path).unwrap()).unwrap();
        }
    }
    panic!("no operation {id}");
}

/// Returns `loc type` of every finding.
fn refused(id: &str, path: &[(&str, &str)], query: &[(&str, &str)], body: Option<Value>) -> Vec<String> {
    let path: Vec<_> = path.iter().map(|(name, text)| (*name, Cow::from(*text))).collect();
    let query: Vec<_> = query.iter().map(|(name, text)| (Cow::from(*name), Cow::from(*text))).collect();
    let (operation, mut found) = (operation(id), Findings::default());
    operation.check_parameters(&path, &query, &mut found);
    operation.check_body(body.as_ref(), false, &mut found);
    let place = |finding: &crate::error::FieldError| serde_json::to_value(&finding.loc).unwrap().to_string();
    found.listed().iter().map(|finding| format!("{} {}", place(finding), finding.kind)).collect()
}

const ID: &str = "5f0b5c3e-58f5-4f7c-8f4e-0c3f7c8b0d11";

#[test]
fn operations_are_named_as_in_the_contract() {
    let ids = |development: bool| -> BTreeSet<String> {
        let mut config = Config::default();
        config.server.development = development;
        let id = |route: HostRoute<Host>| route.operation(&mut generator())["operationId"].as_str().unwrap().to_owned();
        routes(&config).into_iter().filter(|route| route.documented).map(id).collect()
    };
    let contract = "login-login_access_token login-test_token login-recover_password login-reset_password \
        login-recover_password_html_content users-read_users users-create_user users-read_user_me users-delete_user_me \
        users-update_user_me users-update_password_me users-register_user users-read_user_by_id users-update_user \
        users-delete_user utils-test_email utils-health_check";
    let ours = "login-refresh_token login-logout users-read_sessions_me users-delete_session_me plugins-read_plugins \
        login-logout_cookie events-stream_events \
        plugins-deploy_plugin plugins-read_plugin plugins-delete_plugin plugins-read_releases plugins-read_release \
        plugins-read_history plugins-roll_back plugins-pause_plugin plugins-resume_plugin plugins-read_canary \
        plugins-promote_canary plugins-abort_canary plugins-give_grant plugins-revoke_grant plugins-read_deploy \
        plugins-read_limits plugins-set_limits login-second_factor login-step_up users-read_factors_me \
        users-begin_totp_me users-confirm_totp_me users-remove_totp_me users-renew_recovery_codes_me \
        users-read_factors users-delete_factors login-passkey_options login-passkey users-begin_passkey_me \
        users-add_passkey_me users-remove_passkey_me audit-export_audit audit-prune_audit audit-read_audit \
        audit-read_audit_chain audit-read_audit_chains keys-create_key keys-create_key_me keys-delete_key \
        keys-delete_key_me keys-read_keys keys-read_keys_me login-begin_sign_in login-exchange_code \
        login-finish_sign_in login-read_issuers login-refresh_cookie roles-create_role roles-delete_role \
        roles-read_permissions roles-read_role roles-read_roles roles-read_roles_me roles-read_roles_of_user \
        roles-set_roles_of_user roles-update_role signing_keys-read_key_set signing_keys-read_signing_keys \
        signing_keys-rotate_signing_key users-delete_identity_me users-delete_session users-delete_sessions \
        users-delete_sessions_me users-invite_user users-link_identity_me users-read_identities_me \
        settings-read_settings tasks-read_tasks tasks-read_queues tasks-read_task tasks-retry_task tasks-cancel_task \
        tasks-drop_task tasks-retry_tasks tasks-drop_tasks schedules-read_schedules schedules-pause_schedule \
        schedules-resume_schedule schedules-run_schedule mails-read_mails mails-read_mail_queues mails-read_mail \
        mails-retry_mail mails-drop_mail mails-retry_mails mails-drop_mails \
        users-read_sessions users-send_verification users-verify_email";
    let expected: BTreeSet<String> =
        contract.split_whitespace().chain(ours.split_whitespace()).map(str::to_owned).collect();
    assert_eq!(ids(false), expected);
    let private: Vec<String> = ids(true).difference(&expected).cloned().collect();
    assert_eq!(private, ["private-create_user"], "only in development");
}

#[test]
fn every_operation_compiles_and_declares_its_responses() {
    let mut config = Config::default();
    config.server.development = true;
    for route in routes(&config).into_iter().filter(|route| route.documented) {
        let json = route.operation(&mut generator());
        operation(json["operationId"].as_str().unwrap());
        let html = json["operationId"] == "login-recover_password_html_content";
        assert!(html || json["responses"].is_object(), "{}", json["operationId"]);
    }
}

#[test]
fn a_login_form_is_validated() {
    let id = "login-login_access_token";
    let both = [r#"["body","username"] missing"#, r#"["body","password"] missing"#];
    assert_eq!(refused(id, &[], &[], Some(json!({}))), both);
    let form = |grant: &str| Some(json!({ "grant_type": grant, "username": "a", "password": "b", "client_id": "c" }));
    assert!(refused(id, &[], &[], form("password")).is_empty());
    assert_eq!(refused(id, &[], &[], form("passwords")), [r#"["body","grant_type"] string_pattern_mismatch"#]);
    assert!(refused(id, &[], &[], Some(json!({ "username": "a", "password": "b" }))).is_empty());
}

#[test]
fn a_new_user_is_validated_member_by_member() {
    let id = "users-create_user";
    let body = json!({ "email": "x", "is_active": null, "is_superuser": [], "full_name": 1, "password": "1234567" });
    let found = [
        r#"["body","email"] value_error"#,
        r#"["body","is_active"] bool_type"#,
        r#"["body","is_superuser"] bool_type"#,
        r#"["body","full_name"] string_type"#,
        r#"["body","password"] string_too_short"#,
    ];
    assert_eq!(refused(id, &[], &[], Some(body)), found);
    let good = json!({ "email": "a@example.com", "password": "12345678", "full_name": null, "confirm_password": 1 });
    assert!(refused(id, &[], &[], Some(good)).is_empty());
    let long = json!({ "email": "a@example.com", "password": "x".repeat(129), "full_name": "x".repeat(256) });
    let found = [r#"["body","full_name"] string_too_long"#, r#"["body","password"] string_too_long"#];
    assert_eq!(refused(id, &[], &[], Some(long)), found);
}

#[test]
fn a_partial_update_distinguishes_absent_null_and_value() {
    let id = [("user_id", ID)];
    assert!(refused("users-update_user", &id, &[], Some(json!({}))).is_empty());
    assert!(refused("users-update_user", &id, &[], Some(json!({ "full_name": null }))).is_empty());
    let nulls = json!({ "email": null, "is_active": null, "is_superuser": null, "password": null });
    let found = [
        r#"["body","email"] string_type"#,
        r#"["body","is_active"] bool_type"#,
        r#"["body","is_superuser"] bool_type"#,
        r#"["body","password"] string_type"#,
    ];
    assert_eq!(refused("users-update_user", &id, &[], Some(nulls)), found);
    assert_eq!(
        refused("users-update_user_me", &[], &[], Some(json!({ "email": null, "full_name": "x".repeat(256) }))),
        [r#"["body","full_name"] string_too_long"#, r#"["body","email"] string_type"#]
    );
    assert_eq!(refused("users-update_user_me", &[], &[], None), [r#"["body"] missing"#]);
    let change =
        |json: Value| serde_json::from_value::<partial_update::Change<Option<String>>>(json).unwrap().into_option();
    assert_eq!(change(Value::Null), Some(None));
    assert_eq!(change(json!("x")), Some(Some("x".to_owned())));
    assert_eq!(partial_update::Change::<String>::default().into_option(), None);
}

#[test]
fn pagination_and_ids_are_validated() {
    let id = "users-read_users";
    assert!(refused(id, &[], &[("skip", "0"), ("limit", "1000")], None).is_empty());
    assert_eq!(
        refused(id, &[], &[("skip", "-1"), ("limit", "1001")], None),
        [r#"["query","skip"] greater_than_equal"#, r#"["query","limit"] less_than_equal"#]
    );
    assert_eq!(refused(id, &[], &[("skip", "9223372036854775808")], None), [r#"["query","skip"] int_parsing"#]);
    assert_eq!(
        refused("users-read_user_by_id", &[("user_id", "signup")], &[], None),
        [r#"["path","user_id"] uuid_parsing"#]
    );
    assert_eq!(refused("utils-test_email", &[], &[], None), [r#"["query","email_to"] missing"#]);
    assert_eq!(refused("utils-test_email", &[], &[("email_to", "x")], None), [r#"["query","email_to"] value_error"#]);
}
