//! Accounts: administration by superusers, the caller's own account, and signing up.

mod address;
mod mail;
mod me;

use serde_json::{Value, json};

use super::{PRIVILEGES, USER, column, invalid_token, is_stamped, members, not_authenticated, text};
use crate::support::host::{PASSWORD, SUPERUSER};
use crate::support::{TestHost, TestResponse, both};

both! {
    accounts_are_listed_newest_first_and_in_pages => Setup::default().with_manual_clock(),
    invalid_page_parameters_are_422,
    a_superuser_creates_accounts,
    a_new_account_is_validated_member_by_member,
    signing_up_creates_an_ordinary_account,
    an_account_is_read_by_its_owner_and_superusers,
    a_superuser_changes_accounts,
    a_password_set_by_a_superuser_ends_every_session,
    a_superuser_deletes_accounts_but_not_their_own,
    the_last_superuser_cannot_be_removed,
    two_superusers_cannot_demote_each_other_concurrently,
}

const UNKNOWN_ID: &str = "5f0b5c3e-58f5-4f7c-8f4e-0c3f7c8b0d11";

fn id(user: &Value) -> &str {
    text(user, "id")
}

#[track_caller]
fn email_taken(response: &TestResponse, status: u16, detail: &str) {
    response.is_problem(status, "email_taken", detail);
}

async fn accounts_are_listed_newest_first_and_in_pages(host: &TestHost) {
    let admin = host.superuser();
    for email in ["one@example.com", "two@example.com"] {
        host.clock().advance(std::time::Duration::from_secs(1));
        host.sign_up(email).await.ok();
    }
    // Created at the same time as the second account: equal times are ordered by id.
    host.sign_up("three@example.com").await.ok();

    let list = admin.get("/users/").await.ok();
    assert_eq!(members(&list), ["data", "count"]);
    assert_eq!(list["count"], 4);
    list["data"].as_array().unwrap().iter().for_each(|user| {
        assert_eq!(members(user), USER);
        is_stamped(user);
    });
    let emails = column(&list, "email");
    assert_eq!(emails[2..], ["one@example.com", SUPERUSER]);
    let ids = column(&list, "id");
    assert!(ids[0] < ids[1], "equal times by id ascending: {ids:?}");
    assert_eq!(list["data"][0]["created_at"], "2027-01-15T08:00:02.123456Z");

    let part = async |query: &str| admin.get(&format!("/users/?{query}")).await.ok();
    for (query, expected) in [
        ("skip=0&limit=100", &emails[..]),
        ("skip=1&limit=2", &emails[1..3]),
        ("limit=0", &[]),
        ("skip=4", &[]),
        ("skip=9223372036854775807&limit=1000", &[]),
        // The last of a repeated parameter counts and unknown parameters are ignored; blanks and a sign are allowed.
        ("skip=9&skip=3&limit=%20%2B1%20&unknown=1", &emails[3..]),
    ] {
        let part = part(query).await;
        assert_eq!(column(&part, "email"), expected, "{query}");
        assert_eq!(part["count"], 4, "{query}");
    }
    assert_eq!(admin.get("/users").await.ok(), list);
    // A body on GET is ignored.
    let with_body = admin.request(reqwest::Method::GET, "/users/").json_text("{nonsense").send().await;
    assert_eq!(with_body.ok(), list);
}

async fn invalid_page_parameters_are_422(host: &TestHost) {
    const NUMBER: &str = "int_parsing: Input should be a valid integer, unable to parse string as an integer";
    let admin = host.superuser();
    let refused = async |query: &str| admin.get(&format!("/users/?{query}")).await;
    let skip = "query.skip greater_than_equal: Input should be greater than or equal to 0";
    let limit = "query.limit greater_than_equal: Input should be greater than or equal to 0";
    refused("skip=-1").await.has_findings(&[skip]);
    refused("limit=-1&skip=-1").await.has_findings(&[skip, limit]);
    refused("limit=1001")
        .await
        .has_findings(&["query.limit less_than_equal: Input should be less than or equal to 1000"]);
    for text in ["", "x", "1.5", "0x1", "1e1", "9223372036854775808", "-9223372036854775809", "1%00"] {
        let response = refused(&format!("skip={text}")).await;
        let expected =
            if text == "1%00" { "query.skip value_error: …".to_owned() } else { format!("query.skip {NUMBER}") };
        response.has_findings(&[&expected]);
    }
    refused("limit=1000").await.ok();
    not_authenticated(&host.anonymous().get("/users/?skip=-1").await);
}

async fn a_superuser_creates_accounts(host: &TestHost) {
    let admin = host.superuser();
    let body = json!({
        "email": "Jane.Doe@EXAMPLE.com", "password": PASSWORD, "is_active": false, "is_superuser": true,
        "full_name": "Jörg 👋", "confirm_password": "x", "id": UNKNOWN_ID, "created_at": null,
    });
    let response = admin.post("/users/", &body).await;
    let user = response.ok();
    is_stamped(&user);
    assert_ne!(id(&user), UNKNOWN_ID);
    // Compact JSON, members in order, null members present, UTF-8 unescaped.
    let expected = format!(
        "{{\"email\":\"Jane.Doe@example.com\",\"is_active\":false,\"is_superuser\":true,\"full_name\":\"Jörg 👋\",\
         \"id\":\"{}\",\"created_at\":\"{}\"}}",
        id(&user),
        text(&user, "created_at")
    );
    assert_eq!(response.text(), expected);

    let plain = admin.post("/users", &json!({ "email": "plain@example.com", "password": PASSWORD })).await.ok();
    let defaults = (&plain["is_active"], &plain["is_superuser"], &plain["full_name"]);
    assert_eq!(defaults, (&json!(true), &json!(false), &Value::Null));
    host.anonymous().sign_in("plain@example.com", PASSWORD).await.ok();

    for email in ["plain@example.com", "PLAIN@example.com", " plain@EXAMPLE.com "] {
        let again = admin.post("/users/", &json!({ "email": email, "password": PASSWORD })).await;
        email_taken(&again, 400, "The user with this email already exists in the system.");
    }
    not_authenticated(&host.anonymous().post("/users/", &body).await);
}

async fn a_new_account_is_validated_member_by_member(host: &TestHost) {
    const EMAIL: &str = "body.email missing: Field required";
    const SECRET: &str = "body.password missing: Field required";
    let admin = host.superuser();
    let post = async |body: Value| admin.post("/users/", &body).await;
    post(json!({})).await.has_findings(&[EMAIL, SECRET]);
    // All errors together, in the order of the schema and not of the body.
    post(json!({ "password": "short", "full_name": 1, "is_superuser": null, "is_active": null, "email": "nobody" }))
        .await
        .has_findings(&[
            "body.email value_error: value is not a valid email address: An email address must have an @-sign.",
            "body.is_active bool_type: Input should be a valid boolean",
            "body.is_superuser bool_type: Input should be a valid boolean",
            "body.full_name string_type: Input should be a valid string",
            "body.password string_too_short: String should have at least 8 characters",
        ]);
    post(json!({ "email": null, "password": null, "is_active": "maybe", "is_superuser": [], "full_name": {} }))
        .await
        .has_findings(&[
            "body.email string_type: Input should be a valid string",
            "body.is_active bool_parsing: Input should be a valid boolean, unable to interpret input",
            "body.is_superuser bool_type: Input should be a valid boolean",
            "body.full_name string_type: Input should be a valid string",
            "body.password string_type: Input should be a valid string",
        ]);
    post(json!({ "email": 7, "password": 7, "is_active": 7 })).await.has_findings(&[
        "body.email string_type: Input should be a valid string",
        "body.is_active bool_parsing: Input should be a valid boolean, unable to interpret input",
        "body.password string_type: Input should be a valid string",
    ]);
    let long = "x".repeat(129);
    let response = post(json!({ "email": "a@example.com", "password": long, "full_name": "x".repeat(256) })).await;
    response.has_findings(&[
        "body.full_name string_too_long: String should have at most 255 characters",
        "body.password string_too_long: String should have at most 128 characters",
    ]);
    assert!(!response.text().contains("xxx"), "the input is not echoed");
    post(json!({ "email": "a@example.com", "password": "12345678\0", "full_name": "a\0b" }))
        .await
        .has_findings(&["body.full_name value_error: …", "body.password value_error: …"]);
    // Lengths are counted in code points.
    let emoji =
        post(json!({ "email": "a@example.com", "password": "🔑".repeat(8), "full_name": "👋".repeat(255) })).await;
    assert_eq!(emoji.ok()["full_name"], "👋".repeat(255));
    // Blanks count as characters.
    post(json!({ "email": "b@example.com", "password": " ".repeat(128) })).await.ok();
    host.anonymous().sign_in("b@example.com", &" ".repeat(128)).await.ok();
}

async fn signing_up_creates_an_ordinary_account(host: &TestHost) {
    let client = host.anonymous();
    let sign_up = async |body: Value| client.post("/users/signup", &body).await;
    let body = json!({
        "email": "new@example.com", "password": PASSWORD, "full_name": "", "is_superuser": true, "is_active": false,
    });
    let user = sign_up(body).await.ok();
    assert_eq!(members(&user), USER);
    is_stamped(&user);
    let made = (&user["is_active"], &user["is_superuser"], &user["full_name"]);
    assert_eq!(made, (&json!(true), &json!(false), &json!("")));

    let again = sign_up(json!({ "email": "NEW@example.com", "password": PASSWORD })).await;
    email_taken(&again, 400, "The user with this email already exists in the system");
    sign_up(json!({ "password": "short" })).await.has_findings(&[
        "body.email missing: Field required",
        "body.password string_too_short: String should have at least 8 characters",
    ]);
    // Credentials are ignored here.
    let body = json!({ "email": "b@example.com", "password": PASSWORD });
    let second = client.with_token("garbage").post("/users/signup/", &body).await.ok();
    assert_eq!(second["full_name"], Value::Null);
    // No mail is sent: the next mail comes first.
    client.request(reqwest::Method::POST, "/password-recovery/b@example.com").send().await.ok();
    host.mails().take("b@example.com").await;
    assert!(host.mails().received().is_empty());
}

async fn an_account_is_read_by_its_owner_and_superusers(host: &TestHost) {
    let client = host.user("jane@example.com").await;
    let me = client.get("/users/me").await.ok();
    let own = format!("/users/{}", id(&me));
    assert_eq!(client.get(&own).await.ok(), me);
    assert_eq!(host.superuser().get(&format!("{own}/")).await.ok(), me);
    for form in [id(&me).to_uppercase(), id(&me).replace('-', "")] {
        assert_eq!(client.get(&format!("/users/{form}")).await.ok(), me, "{form}");
    }
    let admin = host.superuser().get("/users/me").await.ok();
    // The response does not reveal whether the account exists.
    for other in [id(&admin), UNKNOWN_ID] {
        client.get(&format!("/users/{other}")).await.is_problem(403, "forbidden", PRIVILEGES);
    }
    host.superuser().get(&format!("/users/{UNKNOWN_ID}")).await.is_problem(404, "user_not_found", "User not found");
    for path in ["/users/signup", "/users/1", "/users/5f0b5c3e-58f5-4f7c-8f4e-0c3f7c8b0d1g"] {
        client.get(path).await.has_findings(&["path.user_id uuid_parsing: Input should be a valid UUID, …"]);
    }
    not_authenticated(&host.anonymous().get(&own).await);
}

async fn a_superuser_changes_accounts(host: &TestHost) {
    let admin = host.superuser();
    let user = host.sign_up("jane@example.com").await.ok();
    host.sign_up("other@example.com").await.ok();
    let path = format!("/users/{}", id(&user));
    let patch = async |body: Value| admin.patch(&path, &body).await;
    assert_eq!(patch(json!({})).await.ok(), user);

    let changed =
        patch(json!({ "full_name": "Jane", "email": "jane@EXAMPLE.org", "is_superuser": true, "x": 1 })).await.ok();
    assert_eq!(members(&changed), USER);
    let mut expected = user.clone();
    expected["full_name"] = json!("Jane");
    expected["email"] = json!("jane@example.org");
    expected["is_superuser"] = json!(true);
    assert_eq!(changed, expected);
    assert_eq!(patch(json!({ "full_name": null, "is_superuser": false })).await.ok()["full_name"], Value::Null);

    email_taken(&patch(json!({ "email": "Other@example.com" })).await, 409, "User with this email already exists");
    patch(json!({ "email": null, "is_active": null, "is_superuser": null, "password": null })).await.has_findings(&[
        "body.email string_type: Input should be a valid string",
        "body.is_active bool_type: Input should be a valid boolean",
        "body.is_superuser bool_type: Input should be a valid boolean",
        "body.password string_type: Input should be a valid string",
    ]);
    patch(json!({ "password": "short", "full_name": "x".repeat(256) })).await.has_findings(&[
        "body.full_name string_too_long: String should have at most 255 characters",
        "body.password string_too_short: String should have at least 8 characters",
    ]);
    admin.patch("/users/x", &json!({ "email": "x" })).await.has_findings(&[
        "path.user_id uuid_parsing: …",
        "body.email value_error: value is not a valid email address: …",
    ]);
    let unknown = admin.patch(&format!("/users/{UNKNOWN_ID}"), &json!({ "password": PASSWORD })).await;
    unknown.is_problem(404, "user_not_found", "The user with this id does not exist in the system");
    let unknown = admin.patch(&format!("/users/{UNKNOWN_ID}"), &json!({ "full_name": "x" })).await;
    unknown.is_problem(404, "user_not_found", "The user with this id does not exist in the system");
    not_authenticated(&host.anonymous().patch(&path, &json!({})).await);
}

async fn a_password_set_by_a_superuser_ends_every_session(host: &TestHost) {
    let first = host.user("jane@example.com").await;
    let second = host.anonymous().sign_in("jane@example.com", PASSWORD).await.ok();
    let path = format!("/users/{}", id(&first.get("/users/me").await.ok()));
    // Any other change ends no session.
    host.superuser().patch(&path, &json!({ "full_name": "Jane" })).await.ok();
    assert_eq!(first.get("/users/me").await.ok()["full_name"], "Jane");

    host.superuser().patch(&path, &json!({ "password": "battery staple" })).await.ok();
    invalid_token(&first.get("/users/me").await);
    invalid_token(&host.anonymous().with_token(text(&second, "access_token")).get("/users/me").await);
    let refresh = json!({ "refresh_token": second["refresh_token"] });
    invalid_token(&host.anonymous().post("/login/refresh-token", &refresh).await);
    assert_eq!(host.anonymous().sign_in("jane@example.com", PASSWORD).await.status, 400);
    host.anonymous().sign_in("jane@example.com", "battery staple").await.ok();
}

async fn a_superuser_deletes_accounts_but_not_their_own(host: &TestHost) {
    let admin = host.superuser();
    let me = admin.get("/users/me").await.ok();
    let own = "Super users are not allowed to delete themselves";
    admin.delete(&format!("/users/{}", id(&me))).await.is_problem(403, "superuser_self_deletion", own);
    admin.delete("/users/me").await.is_problem(403, "superuser_self_deletion", own);
    admin.delete(&format!("/users/{UNKNOWN_ID}")).await.is_problem(404, "user_not_found", "User not found");
    admin.delete("/users/x").await.has_findings(&["path.user_id uuid_parsing: …"]);

    // Another superuser can be deleted.
    let body = json!({ "email": "second@example.com", "password": PASSWORD, "is_superuser": true });
    let second = admin.post("/users/", &body).await.ok();
    let path = format!("/users/{}", id(&second));
    admin.delete(&path).await.has_message("User deleted successfully");
    admin.delete(&path).await.is_problem(404, "user_not_found", "User not found");
    assert_eq!(host.anonymous().sign_in("second@example.com", PASSWORD).await.status, 400);
    // The address can be used again.
    host.sign_up("second@example.com").await.ok();
}

async fn the_last_superuser_cannot_be_removed(host: &TestHost) {
    let admin = host.superuser();
    let path = format!("/users/{}", id(&admin.get("/users/me").await.ok()));
    let last =
        |response: TestResponse| response.is_problem(409, "last_superuser", "The last superuser cannot be removed");
    last(admin.patch(&path, &json!({ "is_superuser": false })).await);
    last(admin.patch(&path, &json!({ "is_active": false })).await);
    // An inactive superuser does not count.
    let body = json!({ "email": "second@example.com", "password": PASSWORD, "is_superuser": true, "is_active": false });
    let second = format!("/users/{}", id(&admin.post("/users/", &body).await.ok()));
    last(admin.patch(&path, &json!({ "is_superuser": false })).await);
    admin.patch(&path, &json!({ "is_superuser": true, "is_active": true })).await.ok();

    admin.patch(&second, &json!({ "is_active": true })).await.ok();
    assert_eq!(admin.patch(&path, &json!({ "is_superuser": false })).await.ok()["is_superuser"], false);
    admin.get("/users/").await.is_problem(403, "forbidden", PRIVILEGES);
    let other = host.anonymous().signed_in("second@example.com", PASSWORD).await;
    last(other.patch(&second, &json!({ "is_active": false })).await);
}

async fn two_superusers_cannot_demote_each_other_concurrently(host: &TestHost) {
    let admin = host.superuser();
    let body = json!({ "email": "second@example.com", "password": PASSWORD, "is_superuser": true });
    let second = format!("/users/{}", id(&admin.post("/users/", &body).await.ok()));
    let first = format!("/users/{}", id(&admin.get("/users/me").await.ok()));
    let other = host.anonymous().signed_in("second@example.com", PASSWORD).await;
    let demotion = json!({ "is_superuser": false });
    let (one, two) = tokio::join!(admin.patch(&second, &demotion), other.patch(&first, &demotion));
    let statuses = [one.status, two.status];
    // The losing request came from the last superuser, or from an account that was no longer a superuser when it was
    // authenticated.
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
    assert!(statuses.iter().any(|status| [403, 409].contains(status)), "{statuses:?}");
    let listed = [admin.get("/users/").await.status, other.get("/users/").await.status];
    assert_eq!(listed.iter().filter(|status| **status == 200).count(), 1, "{listed:?}");
}
