//! The utilities: a test mail and the health check.

use reqwest::Method;

use super::not_authenticated;
use crate::support::{TestHost, both};

both! {
    a_test_mail_is_201_for_superusers,
    a_test_mail_needs_a_mail_server => Setup::default().without_mail(),
    the_health_check_is_public_and_returns_true,
}

async fn a_test_mail_is_201_for_superusers(host: &TestHost) {
    let post = async |path: &str| host.superuser().request(Method::POST, path).send().await;
    for path in ["/utils/test-email/?email_to=a@example.com", "/utils/test-email?email_to=x&email_to=a%40example.com"] {
        let response = post(path).await;
        assert_eq!((response.status, response.text().as_str()), (201, r#"{"message":"Test email sent"}"#));
        assert_eq!(response.header("content-type"), Some("application/json"));
        host.mails().take("a@example.com").await;
    }
    post("/utils/test-email/").await.has_findings(&["query.email_to missing: Field required"]);
    post("/utils/test-email/?email_to=nobody")
        .await
        .has_findings(&["query.email_to value_error: value is not a valid email address: …"]);
    // It is not a member of the body.
    let body = serde_json::json!({ "email_to": "a@example.com" });
    host.superuser().post("/utils/test-email/", &body).await.has_findings(&["query.email_to missing: Field required"]);
    let path = "/utils/test-email/?email_to=a@example.com";
    not_authenticated(&host.anonymous().request(Method::POST, path).send().await);
}

async fn a_test_mail_needs_a_mail_server(host: &TestHost) {
    let post = async |path: &str| host.superuser().request(Method::POST, path).send().await;
    let refused = post("/utils/test-email/?email_to=a@example.com").await.has_code(409, "mail_off");
    assert!(refused.contains("email.smtp_url and email.from"), "{refused}");
    post("/utils/test-email/").await.has_findings(&["query.email_to missing: Field required"]);
    assert_eq!(host.superuser().get("/mails/").await.ok()["data"], serde_json::json!([]));
}

async fn the_health_check_is_public_and_returns_true(host: &TestHost) {
    for path in ["/utils/health-check/", "/utils/health-check"] {
        let response = host.anonymous().get(path).await;
        response.ok();
        assert_eq!(response.text(), "true");
        assert_eq!(host.anonymous().with_token("garbage").get(path).await.text(), "true");
    }
}
