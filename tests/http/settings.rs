//! The settings of the host, for callers who may read them.

use serde_json::{Value, json};

use crate::support::host::METRICS_TOKEN;
use crate::support::{TestHost, both};

both! {
    an_operator_reads_the_settings_without_secrets,
}

async fn an_operator_reads_the_settings_without_secrets(host: &TestHost) {
    let operator = host.user("operator@example.com").await;
    operator.get("/settings/").await.has_code(403, "forbidden");
    let id = operator.get("/users/me").await.ok()["id"].clone();
    let path = format!("/users/{}/roles", id.as_str().unwrap());
    host.superuser().put(&path, &json!({ "roles": ["operator"] })).await.ok();

    let response = operator.get("/settings/").await;
    let list = response.ok();
    let settings = list["data"].as_array().unwrap();
    assert_eq!(list["count"], settings.len());
    let find = |key: &str| settings.iter().find(|setting| setting["key"] == key).unwrap_or_else(|| panic!("{key}"));
    let name = json!({ "key": "server.project_name", "variable": "WHARF_PROJECT_NAME", "value": "Shop",
        "origin": "WHARF_PROJECT_NAME" });
    assert_eq!(*find("server.project_name"), name);
    assert_eq!(find("server.listen")["origin"], "default");
    assert_eq!(find("email.smtp_url")["value"], Value::Null);
    let token = find("server.metrics_token");
    assert!(token["value"].is_string() && token["origin"] == "WHARF_METRICS_TOKEN", "{token}");
    assert!(!response.text().contains(METRICS_TOKEN), "{token}");
}
