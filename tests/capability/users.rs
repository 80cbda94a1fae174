//! `wharf:users`: the directory of accounts for plugins.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::host::{CHAMELEON, SUPERUSER};
use crate::support::{Component, TestHost, both};

both!(
    a_plugin_looks_up_accounts_by_id_and_address_and_reads_pages,
    questions_beyond_the_limits_are_errors,
    an_outage_of_the_directory_is_the_plugins_error_and_not_its_fault,
);

async fn ask(host: &TestHost, query: &[(&str, &str)]) -> Value {
    let query = form(query);
    host.anonymous().get(&format!("/chameleon/directory?{query}")).await.ok()
}

fn form(query: &[(&str, &str)]) -> String {
    query.iter().map(|(name, value)| format!("{name}={}", value.replace('@', "%40"))).collect::<Vec<_>>().join("&")
}

async fn id_of(host: &TestHost, email: &str) -> String {
    let users = host.superuser().get("/users/").await.ok();
    let user = users["data"].as_array().unwrap().iter().find(|user| user["email"] == email).unwrap().clone();
    user["id"].as_str().unwrap().to_owned()
}

async fn a_plugin_looks_up_accounts_by_id_and_address_and_reads_pages(host: &TestHost) {
    host.deploy_chameleon().await;
    for email in ["ann@example.com", "ben@example.com"] {
        host.sign_up(email).await.ok();
    }
    let ann = id_of(host, "ann@example.com").await;
    let ben = id_of(host, "ben@example.com").await;
    host.superuser().patch(&format!("/users/{ben}"), &json!({ "full_name": "Ben", "is_active": false })).await.ok();

    let shown_ann = json!({ "id": ann, "name": null, "email": "ann@example.com", "active": true, "superuser": false });
    let shown_ben =
        json!({ "id": ben, "name": "Ben", "email": "ben@example.com", "active": false, "superuser": false });
    // Each account once, in the order of the ids; an unknown id is left out.
    let ids = format!("{ben},{ann},00000000-0000-4000-8000-000000000000,{ann}");
    let mut both = vec![shown_ann.clone(), shown_ben];
    both.sort_by_key(|user| user["id"].as_str().unwrap().to_owned());
    assert_eq!(ask(host, &[("ids", &ids)]).await, json!(both));
    assert_eq!(ask(host, &[("email", "Ann@EXAMPLE.com")]).await, json!([shown_ann]));
    let root = ask(host, &[("email", SUPERUSER)]).await;
    assert_eq!((root.as_array().unwrap().len(), &root[0]["superuser"]), (1, &json!(true)));
    for nobody in ["nobody@example.com", "x", "a␀b@example.com"] {
        assert_eq!(ask(host, &[("email", nobody)]).await, json!([]), "{nobody}");
    }

    let first = ask(host, &[("limit", "2")]).await;
    assert_eq!(first.as_array().unwrap().len(), 2);
    let after = first[1]["id"].as_str().unwrap();
    let second = ask(host, &[("limit", "2"), ("after", after)]).await;
    assert_eq!(second.as_array().unwrap().len(), 1);
    let emails: Vec<&Value> =
        first.as_array().unwrap().iter().chain(second.as_array().unwrap()).map(|u| &u["email"]).collect();
    for email in ["ann@example.com", "ben@example.com", SUPERUSER] {
        assert!(emails.contains(&&json!(email)), "{emails:?}");
    }
    assert_eq!(host.anonymous().get("/chameleon/directory/all").await.ok(), json!(3));
    // Each look-up is counted.
    let metrics = host.superuser().plain(Method::GET, "/metrics").send().await.text();
    let counted = metrics.lines().find(|line| line.contains("host_calls") && line.contains(r#"="users""#)).unwrap();
    assert!(counted.rsplit(' ').next().unwrap().parse::<f64>().unwrap() >= 9.0, "{counted}");
}

async fn questions_beyond_the_limits_are_errors(host: &TestHost) {
    host.deploy_chameleon().await;
    for limit in ["0", "101", "4294967295"] {
        assert_eq!(ask(host, &[("limit", limit)]).await, json!(r#"Error::Invalid("limit: 1 to 100")"#));
    }
    let ids: Vec<String> = (0..101).map(|number| format!("00000000-0000-4000-8000-{number:012}")).collect();
    assert_eq!(ask(host, &[("ids", &ids.join(","))]).await, json!(r#"Error::Invalid("ids: at most 100")"#));
    assert_eq!(ask(host, &[("ids", &ids[1..].join(","))]).await, json!([]));
    // Without the grant, the component is not admitted.
    let grants = CHAMELEON.replace(",users", "");
    let refused = host.superuser().deploy(&Component::chameleon().0, &format!("{grants}&name=other")).await;
    let text = refused.has_code(403, "grant_missing");
    assert!(text.contains("users"), "{text}");
    // A revocation holds at once.
    host.superuser().request(Method::DELETE, "/plugins/chameleon/grants/users").send().await.ok();
    host.anonymous().get("/chameleon/directory").await.has_code(503, "plugin_revoked");
}

async fn an_outage_of_the_directory_is_the_plugins_error_and_not_its_fault(host: &TestHost) {
    host.deploy_chameleon().await;
    assert_eq!(ask(host, &[]).await.as_array().unwrap().len(), 1);
    let rename = |from: &str, to: &str| format!("ALTER TABLE {from} RENAME TO {to}");
    let postgres = |from: &str, to: &str| format!("ALTER TABLE wharf.{from} RENAME TO {to}");
    host.run_sql(&rename("users", "users_away"), &postgres("users", "users_away")).await;
    // More failures than open the circuit breaker of a plugin that is at fault.
    for _ in 0..12 {
        host.anonymous().get("/chameleon/directory/all").await.has_code(503, "users_unavailable");
    }
    host.run_sql(&rename("users_away", "users"), &postgres("users_away", "users")).await;
    assert_eq!(host.anonymous().get("/chameleon/directory/all").await.ok(), json!(1));
}
