//! `wharf:config`.

use serde_json::{Value, json};

use crate::plugin::deploy_with_settings;
use crate::support::host::CHAMELEON;
use crate::support::{Component, Setup, TestHost};

#[tokio::test]
async fn without_settings_a_plugin_uses_its_defaults() {
    let host = TestHost::sqlite(Setup::default()).await;
    host.deploy_chameleon().await;
    assert_eq!(host.anonymous().get("/chameleon/setting").await.ok(), Value::Null);
}

#[tokio::test]
async fn a_plugin_reads_its_own_settings_only() {
    let host = TestHost::sqlite(Setup::default()).await;
    let settings = json!({ "word": "blue" });
    let grants = CHAMELEON.trim_start_matches("grant=");
    deploy_with_settings(host.superuser(), &Component::chameleon(), grants, &settings).await.ok();
    let twin = format!("{grants}&name=twin");
    deploy_with_settings(host.superuser(), &Component::chameleon(), &twin, &json!({ "word": "red" })).await.ok();
    assert_eq!(host.anonymous().get("/chameleon/setting").await.ok(), "blue");
    assert_eq!(host.anonymous().get("/twin/setting").await.ok(), "red");
}

#[tokio::test]
async fn new_settings_create_a_new_release_and_apply_at_once() {
    let host = TestHost::sqlite(Setup::default()).await;
    let grants = CHAMELEON.trim_start_matches("grant=");
    for (number, word) in [(1, "blue"), (2, "grün \u{1f308}")] {
        let settings = json!({ "word": word });
        let deployed = deploy_with_settings(host.superuser(), &Component::chameleon(), grants, &settings).await.ok();
        assert_eq!(deployed["plugin"]["release"]["number"], number);
        assert_eq!(host.anonymous().get("/chameleon/setting").await.ok(), word);
    }
}
