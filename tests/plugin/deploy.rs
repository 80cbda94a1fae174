//! A deploy that succeeds: what the operator is told, what clients see.

use reqwest::Method;
use serde_json::json;

use crate::support::host::{ITEMS, Setup};
use crate::support::{Component, TestHost, both};

both!(a_deploy_tells_what_is_live, the_same_file_again_changes_nothing, grants_stay_with_the_plugin,);

async fn a_deploy_tells_what_is_live(host: &TestHost) {
    let component = Component::items();
    let deployed = host.superuser().deploy(&component.0, ITEMS).await.ok();
    let members: Vec<&String> = deployed.as_object().unwrap().keys().collect();
    assert_eq!(members, ["plugin", "notes", "replaced", "unchanged"]);
    assert_eq!(
        (&deployed["notes"], &deployed["replaced"], &deployed["unchanged"]),
        (&json!([]), &json!(null), &json!(false))
    );
    let plugin = &deployed["plugin"];
    assert_eq!(
        (&plugin["name"], &plugin["mount"], &plugin["state"]),
        (&json!("items"), &json!("/api/v1/items"), &json!("live"))
    );
    assert_eq!(plugin["grants"], json!(["auth", "sql"]));
    let release = &plugin["release"];
    assert_eq!((&release["number"], &release["size"]), (&json!(1), &json!(component.0.len())));
    assert_eq!(release["digest"].as_str().unwrap().len(), 64);
    let me = host.superuser().get("/users/me").await.ok();
    assert_eq!(release["created_by"], me["id"]);
    let routes: Vec<String> = plugin["routes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|route| {
            format!(
                "{} {} {}",
                route["method"].as_str().unwrap(),
                route["path"].as_str().unwrap(),
                route["access"].as_str().unwrap()
            )
        })
        .collect();
    assert_eq!(
        routes,
        [
            "GET /api/v1/items authenticated",
            "POST /api/v1/items authenticated",
            "GET /api/v1/items/{id} authenticated",
            "PUT /api/v1/items/{id} authenticated",
            "DELETE /api/v1/items/{id} authenticated",
        ]
    );
    assert!(plugin["imports"].as_array().unwrap().contains(&json!("wharf:sql/database@0.1.0")));
    assert_eq!(host.superuser().get("/plugins/items").await.ok(), *plugin);
    assert_eq!(host.superuser().get("/plugins/").await.ok(), json!({ "data": [plugin], "count": 1 }));
    host.superuser().get("/plugins/nothing").await.is_problem(404, "plugin_not_found", "There is no plugin 'nothing'");
    let odd = host.superuser().get("/plugins/Not%20A%20Name").await;
    assert_eq!(odd.status, 422);
    odd.problem();
}

async fn the_same_file_again_changes_nothing(host: &TestHost) {
    host.deploy_items().await;
    let again = host.superuser().deploy(&Component::items().0, "").await.ok();
    assert_eq!(
        (&again["unchanged"], &again["replaced"], &again["plugin"]["release"]["number"]),
        (&json!(true), &json!(null), &json!(1))
    );
    let other = host.superuser().deploy(&Component::items().rebuilt("b").0, "").await.ok();
    assert_eq!(
        (&other["unchanged"], &other["replaced"], &other["plugin"]["release"]["number"]),
        (&json!(false), &json!(1), &json!(2))
    );
}

async fn grants_stay_with_the_plugin(host: &TestHost) {
    host.deploy_items().await;
    // Asked for again with less, it keeps what it was granted; what it never needs is noted and not kept.
    let deployed = host.superuser().deploy(&Component::items().rebuilt("b").0, "grant=cache").await.ok();
    assert_eq!(deployed["plugin"]["grants"], json!(["auth", "sql"]));
    let notes = deployed["notes"].as_array().unwrap();
    assert!(notes.len() == 1 && notes[0].as_str().unwrap().contains("'cache'"), "{notes:?}");
}

#[tokio::test]
async fn a_plugin_may_be_deployed_under_another_name_and_mount() {
    let host = TestHost::sqlite(Setup::default()).await;
    let hello = Component::hello();
    host.superuser().deploy(&hello.0, "").await.ok();
    let second = host.superuser().deploy(&hello.0, "name=greeter&mount=/greet/everybody").await.ok();
    assert_eq!(
        (&second["plugin"]["name"], &second["plugin"]["mount"]),
        (&json!("greeter"), &json!("/greet/everybody"))
    );
    for path in ["/api/v1/hello/Ann", "/greet/everybody/Ann", "/greet/everybody/Ann/"] {
        let answer = host.anonymous().plain(Method::GET, path).send().await;
        assert_eq!(answer.ok()["message"], "Hello Ann");
    }
    // The mount stays where it was put.
    let third = host.superuser().deploy(&hello.rebuilt("b").0, "name=greeter").await.ok();
    assert_eq!(third["plugin"]["mount"], "/greet/everybody");
    let moved = host.superuser().deploy(&hello.rebuilt("b").0, "name=greeter&mount=/welcome").await.ok();
    assert_eq!(moved["plugin"]["mount"], "/welcome");
    host.anonymous().plain(Method::GET, "/greet/everybody/Ann").send().await.has_code(404, "route_not_found");
    assert_eq!(host.anonymous().plain(Method::GET, "/welcome/Ann").send().await.status, 200);
    host.stop().await;
}

#[tokio::test]
async fn settings_reach_the_plugin_once_they_fit_its_schema() {
    let host = TestHost::sqlite(Setup::default()).await;
    let deploy = async |settings: &str| {
        let component = Component::chameleon();
        host.superuser().deploy(&component.0, &format!("{}&settings={settings}", crate::support::host::CHAMELEON)).await
    };
    let word = async || host.anonymous().get("/chameleon/setting").await.ok();
    deploy("%7B%22word%22%3A%22green%22%7D").await.ok();
    assert_eq!(word().await, "green");
    for (settings, code) in [
        ("%7B%22word%22%3A7%7D", "invalid_component"),
        ("%7B%22word%22%3A%22a+word+that+is+much+too+long%22%7D", "invalid_component"),
        ("nonsense", "validation_error"),
        ("%5B%5D", "invalid_component"),
    ] {
        deploy(settings).await.has_code(422, code);
        assert_eq!(word().await, "green");
    }
    // Without any it keeps those it had.
    host.superuser().deploy(&Component::chameleon().rebuilt("b").0, "").await.ok();
    assert_eq!(word().await, "green");
    let none = host.superuser().deploy(&Component::hello().0, "settings=%7B%22a%22%3A1%7D").await;
    assert!(none.has_code(422, "invalid_component").contains("settings"), "{}", none.text());
    host.stop().await;
}
