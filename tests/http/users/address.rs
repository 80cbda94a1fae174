//! Email addresses: the case of letters makes no difference.

use serde_json::json;

use crate::http::text;
use crate::support::host::PASSWORD;
use crate::support::{TestHost, both};

both! {
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
