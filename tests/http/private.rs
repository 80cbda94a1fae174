//! The routes that exist in development only.

use serde_json::json;

use super::{USER, is_stamped, members};
use crate::support::host::SUPERUSER;
use crate::support::{TestHost, both};

both! {
    in_development_accounts_are_created_without_credentials => Setup::default().in_development(),
    outside_development_the_route_does_not_exist,
}

async fn in_development_accounts_are_created_without_credentials(host: &TestHost) {
    let post = async |body: serde_json::Value| host.anonymous().post("/private/users/", &body).await;
    let body = json!({ "email": "Dev@EXAMPLE.com", "password": "x", "full_name": "Dev", "is_verified": true });
    let user = post(body.clone()).await.ok();
    assert_eq!(members(&user), USER);
    is_stamped(&user);
    assert_eq!((&user["email"], &user["full_name"]), (&json!("Dev@example.com"), &json!("Dev")));
    assert_eq!((&user["is_active"], &user["is_superuser"]), (&json!(true), &json!(false)));
    // A password may have any length here.
    host.anonymous().sign_in("dev@example.com", "x").await.ok();
    post(body).await.is_problem(409, "email_taken", "User with this email already exists");
    post(json!({ "email": "not-an-address", "password": "x", "full_name": null })).await.has_findings(&[
        "body.email value_error: value is not a valid email address: …",
        "body.full_name string_type: Input should be a valid string",
    ]);
    post(json!({})).await.has_findings(&[
        "body.email missing: Field required",
        "body.password missing: Field required",
        "body.full_name missing: Field required",
    ]);
    // The list of accounts still works.
    assert_eq!(host.superuser().get("/users/").await.ok()["count"], 2);
    let document = host.anonymous().get("/openapi.json").await.ok();
    let operation = &document["paths"]["/api/v1/private/users/"]["post"];
    assert_eq!((&operation["operationId"], &operation["tags"]), (&json!("private-create_user"), &json!(["private"])));
}

async fn outside_development_the_route_does_not_exist(host: &TestHost) {
    let body = json!({ "email": "a@example.com", "password": "x", "full_name": "A" });
    let response = host.anonymous().post("/private/users/", &body).await;
    response.is_problem(404, "route_not_found", "Not Found");
    let response = host.superuser().post("/private/users/", &body).await;
    response.is_problem(404, "route_not_found", "Not Found");
    let document = host.anonymous().get("/openapi.json").await.text();
    assert!(!document.contains("/private"));
    assert_eq!(host.superuser().get("/users/").await.ok()["data"][0]["email"], SUPERUSER);
}
