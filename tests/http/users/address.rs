//! Email addresses: the case of letters and the form of characters make no difference.

use reqwest::Method;
use serde_json::json;

use crate::http::text;
use crate::support::host::PASSWORD;
use crate::support::{TestHost, both};

both! {
    every_form_of_an_address_finds_its_account,
    an_account_with_a_key_of_an_earlier_version_is_found,
    two_accounts_of_an_earlier_version_with_one_address_do_not_prevent_a_start,
    an_address_keeps_its_case_and_is_compared_without_case,
    only_one_of_two_concurrent_sign_ups_with_one_address_succeeds,
    an_invalid_address_is_422,
}

async fn an_address_keeps_its_case_and_is_compared_without_case(host: &TestHost) {
    let made = host.sign_up("  Jane.Doe+Tag@EXAMPLE.Com ").await.ok();
    assert_eq!(text(&made, "email"), "Jane.Doe+Tag@example.com");
    for form in ["jane.doe+tag@example.com", "JANE.DOE+TAG@EXAMPLE.COM", " Jane.Doe+Tag@example.com "] {
        host.anonymous().sign_in(form, PASSWORD).await.ok();
        assert_eq!(host.sign_up(form).await.status, 400, "{form}");
    }
    // Changing the case of one's own address is not a conflict.
    let client = host.anonymous().signed_in("jane.doe+tag@example.com", PASSWORD).await;
    let changed = client.patch("/users/me", &json!({ "email": "jane.doe+tag@example.com" })).await.ok();
    assert_eq!(text(&changed, "email"), "jane.doe+tag@example.com");
    // Non-ASCII local part and domain.
    let made = host.sign_up("Jörg@MÜNCHEN.example").await.ok();
    assert_eq!(text(&made, "email"), "Jörg@münchen.example");
    assert_eq!(host.sign_up("JÖRG@münchen.example").await.status, 400);
}

/// The forms of one address: composed, decomposed, with a domain in punycode and in full-width letters.
const FORMS: [&str; 4] = [
    "Jörg@münchen.example",
    "jo\u{308}rg@mu\u{308}nchen.example",
    "JÖRG@xn--mnchen-3ya.example",
    "jörg@ＭÜＮＣＨＥＮ。ｅｘａｍｐｌｅ",
];

async fn every_form_of_an_address_finds_its_account(host: &TestHost) {
    for (number, made_as) in FORMS.iter().enumerate() {
        let made = host.sign_up(made_as).await.ok();
        assert!(
            ["Jörg@münchen.example", "jörg@münchen.example", "JÖRG@münchen.example"].contains(&text(&made, "email"))
        );
        for form in FORMS {
            host.anonymous().sign_in(form, PASSWORD).await.ok();
            assert_eq!(host.sign_up(form).await.status, 400, "{form}");
            let preview = format!("/password-recovery-html-content/{form}");
            assert_eq!(host.superuser().request(Method::POST, &preview).send().await.status, 200, "{form}");
            host.anonymous().request(Method::POST, &format!("/password-recovery/{form}")).send().await.ok();
            host.mails().take(text(&made, "email")).await;
        }
        // Another account cannot take the address in any form.
        let other = host.user(&format!("other{number}@example.com")).await;
        for form in FORMS {
            let refused = other.patch("/users/me", &json!({ "email": form })).await;
            refused.is_problem(409, "email_taken", "User with this email already exists");
        }
        let client = host.anonymous().signed_in(FORMS[0], PASSWORD).await;
        client.delete("/users/me").await.ok();
    }
}

const COMPATIBILITY: &str = "\u{f900}@example.com";
const UNIFIED: &str = "\u{8c48}@example.com";

async fn an_account_with_a_key_of_an_earlier_version_is_found(host: &mut TestHost) {
    host.sign_up(COMPATIBILITY).await.ok();
    let old = |table: &str, old_keys: &str| {
        format!(
            "UPDATE {table} SET email = '{COMPATIBILITY}', email_key = '{COMPATIBILITY}' WHERE email = '{UNIFIED}';
             INSERT INTO {old_keys} SELECT id FROM {table} WHERE email = '{COMPATIBILITY}'"
        )
    };
    host.run_sql(&old("users", "old_address_keys"), &old("wharf.users", "wharf.old_address_keys")).await;
    assert_eq!(host.anonymous().sign_in(UNIFIED, PASSWORD).await.status, 400, "the key is an old one");
    host.restart().await;
    for form in [COMPATIBILITY, UNIFIED] {
        host.anonymous().sign_in(form, PASSWORD).await.ok();
        assert_eq!(host.sign_up(form).await.status, 400);
    }
    // A process of the earlier version, which still runs, changes it after the migration.
    let later =
        |table: &str| format!("UPDATE {table} SET email_key = '{COMPATIBILITY}' WHERE email = '{COMPATIBILITY}'");
    host.run_sql(&later("users"), &later("wharf.users")).await;
    assert_eq!(host.anonymous().sign_in(UNIFIED, PASSWORD).await.status, 400, "the key is an old one");
    host.restart().await;
    host.anonymous().sign_in(UNIFIED, PASSWORD).await.ok();
}

async fn two_accounts_of_an_earlier_version_with_one_address_do_not_prevent_a_start(host: &mut TestHost) {
    host.sign_up("first@example.com").await.ok();
    host.sign_up(UNIFIED).await.ok();
    let old = |table: &str, old_keys: &str| {
        format!(
            "UPDATE {table} SET email = '{COMPATIBILITY}', email_key = '{COMPATIBILITY}'
                 WHERE email = 'first@example.com';
             INSERT INTO {old_keys} SELECT id FROM {table}"
        )
    };
    host.run_sql(&old("users", "old_address_keys"), &old("wharf.users", "wharf.old_address_keys")).await;
    host.restart().await;
    let client = host.anonymous().signed_in(UNIFIED, PASSWORD).await;
    assert_eq!(text(&client.get("/users/me").await.ok(), "email"), UNIFIED);
    // An operator can still change the other one.
    let users = host.superuser().get("/users/").await.ok();
    let first = users["data"].as_array().unwrap().iter().find(|user| user["email"] == COMPATIBILITY).unwrap();
    let path = format!("/users/{}", text(first, "id"));
    host.superuser().patch(&path, &json!({ "full_name": "First" })).await.ok();
    host.superuser().patch(&path, &json!({ "email": "first@example.com" })).await.ok();
    host.anonymous().sign_in("first@example.com", PASSWORD).await.ok();
}

async fn only_one_of_two_concurrent_sign_ups_with_one_address_succeeds(host: &TestHost) {
    let (one, two) = tokio::join!(host.sign_up("jane@example.com"), host.sign_up("JANE@example.com"));
    let loser = if one.status == 200 { &two } else { &one };
    loser.is_problem(400, "email_taken", "The user with this email already exists in the system");
    assert_eq!(host.superuser().get("/users/").await.ok()["count"], 2);
}

async fn an_invalid_address_is_422(host: &TestHost) {
    for (email, reason) in [
        ("nobody", "An email address must have an @-sign."),
        ("", "An email address must have an @-sign."),
        ("a@b", "The part after the @-sign is not valid. It should have a period."),
        ("@example.com", "…"),
        ("a b@example.com", "…"),
        ("a@b@example.com", "…"),
        ("a@exa mple.com", "…"),
        ("a@-example.com", "…"),
        ("a@example..com", "…"),
        (
            "a@host.localhost",
            "The part after the @-sign is a special-use or reserved name that cannot be used with email.",
        ),
        ("a@example.test", "…"),
        ("a@x.invalid", "…"),
        ("a@x.local", "…"),
        ("a@x.onion", "…"),
        ("a@x.arpa", "…"),
        ("a@10.0.0.1", "The part after the @-sign is not valid. It is not within a valid top-level domain."),
        ("a@[10.0.0.1]", "The part after the @-sign contains invalid characters."),
    ] {
        eprintln!("{email:?}");
        let expected = format!("body.email value_error: value is not a valid email address: {reason}");
        host.sign_up(email).await.has_findings(&[&expected]);
    }
    let labels = ["b".repeat(60), "c".repeat(60), "d".repeat(60), "e".repeat(20)].join(".");
    host.sign_up(&format!("{}@{labels}.com", "a".repeat(60)))
        .await
        .has_findings(&["body.email value_error: value is not a valid email address: The email address is too long …"]);
}
