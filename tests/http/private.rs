//! `POST /private/users/`: there in development only.

use serde_json::{Value, json};

use crate::support::{Answer, TestHost, both};

both!(
    outside_development_it_does_not_exist,
    in_development_accounts_are_made_without_asking => Setup::default().in_development(),
    what_it_makes_is_checked_all_the_same => Setup::default().in_development(),
);

async fn make(host: &TestHost, body: Value) -> Answer {
    host.anonymous().post("/private/users/", &body).await
}

async fn outside_development_it_does_not_exist(host: &TestHost) {
    let body = json!({ "email": "a@example.com", "password": "x", "full_name": "A" });
    make(host, body.clone()).await.is_problem(404, "route_not_found", "Not Found");
    host.superuser().post("/private/users/", &body).await.is_problem(404, "route_not_found", "Not Found");
    let document = host.anonymous().get("/openapi.json").await.ok();
    assert!(document["paths"].as_object().unwrap().keys().all(|path| !path.contains("private")));
}

async fn in_development_accounts_are_made_without_asking(host: &TestHost) {
    let account = make(
        host,
        json!({ "email": "a@Example.com", "password": "x", "full_name": "A", "is_verified": true,
        "is_superuser": true }),
    )
    .await
    .ok();
    assert_eq!(account["email"], "a@example.com");
    assert_eq!(
        (&account["is_active"], &account["is_superuser"], &account["full_name"]),
        (&json!(true), &json!(false), &json!("A"))
    );
    host.anonymous().sign_in("a@example.com", "x").await.ok();
}

async fn what_it_makes_is_checked_all_the_same(host: &TestHost) {
    let account = json!({ "email": "a@example.com", "password": "", "full_name": "" });
    make(host, account.clone()).await.ok();
    make(host, account).await.is_problem(409, "email_taken", "User with this email already exists");
    make(host, json!({ "email": "poison", "password": 1 })).await.refuses(&[
        "body.email value_error: value is not a valid email address: …",
        "body.password string_type: Input should be a valid string",
        "body.full_name missing: Field required",
    ]);
    assert_eq!(host.superuser().get("/users/").await.ok()["count"], 2);
}
