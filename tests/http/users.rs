//! Accounts: made by superusers and by their owners, read, changed, removed.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::host::{PASSWORD, SUPERUSER};
use crate::support::patience::until;
use crate::support::{TestHost, both};

both!(
    a_superuser_makes_accounts,
    signing_up_makes_an_ordinary_account,
    inputs_of_an_account_are_checked_together_and_in_order,
    an_address_is_taken_whatever_its_case,
    addresses_are_kept_as_given_but_for_their_domain,
    lists_are_newest_first_and_paged => Setup::default().with_manual_clock(),
    pages_have_limits,
    the_last_value_of_a_repeated_parameter_counts,
    an_account_is_read_by_its_owner_and_by_superusers,
    own_accounts_are_changed_in_part,
    nobody_promotes_himself,
    superusers_change_accounts_in_part,
    null_is_refused_where_there_is_always_a_value,
    passwords_are_changed_by_whoever_knows_them,
    passwords_have_8_to_128_characters,
    accounts_are_removed_by_their_owners,
    accounts_are_removed_by_superusers,
    items_go_with_their_owner => Setup::default().with_items(),
    the_last_superuser_stays,
    of_two_superusers_who_remove_each_other_one_stays,
    texts_that_no_database_can_hold_are_refused,
    two_who_sign_up_with_one_address_at_once_make_one_account,
);

const NOBODY: &str = "5f0b5c3e-58f5-4f7c-8f4e-0c3f7c8b0d11";

fn id(account: &Value) -> &str {
    account["id"].as_str().unwrap()
}

async fn a_superuser_makes_accounts(host: &TestHost) {
    let body = json!({ "password": PASSWORD, "email": "zoë@example.com", "confirm_password": "ignored" });
    let answer = host.superuser().post("/users/", &body).await;
    let account = answer.ok();
    let members: Vec<&String> = account.as_object().unwrap().keys().collect();
    assert_eq!(members, ["email", "is_active", "is_superuser", "full_name", "id", "created_at"]);
    let (id, created_at) = (id(&account), account["created_at"].as_str().unwrap());
    // Compact, null members there, characters as they are.
    let expected = format!(
        r#"{{"email":"zoë@example.com","is_active":true,"is_superuser":false,"full_name":null,"id":"{id}","created_at":"{created_at}"}}"#
    );
    assert_eq!(answer.text(), expected);
    let uuid: uuid::Uuid = id.parse().unwrap();
    assert_eq!((uuid.get_version_num(), uuid.to_string().as_str()), (4, id));
    assert!(created_at.ends_with('Z') && created_at.parse::<wharf::clock::Timestamp>().is_ok(), "{created_at}");

    let full = json!({ "email": "boss@example.com", "is_active": false, "is_superuser": true, "full_name": "B",
        "password": PASSWORD, "id": NOBODY, "created_at": null });
    let boss = host.superuser().post("/users", &full).await.ok();
    assert_eq!(
        (&boss["is_active"], &boss["is_superuser"], &boss["full_name"]),
        (&json!(false), &json!(true), &json!("B"))
    );
    assert_ne!(boss["id"], NOBODY);

    let again = host.superuser().post("/users/", &body).await;
    again.is_problem(400, "email_taken", "The user with this email already exists in the system.");
}

async fn signing_up_makes_an_ordinary_account(host: &TestHost) {
    let body = json!({ "email": "new@example.com", "password": PASSWORD, "full_name": "",
        "is_superuser": true, "is_active": false });
    let account = host.anonymous().post("/users/signup", &body).await.ok();
    assert_eq!(
        (&account["is_active"], &account["is_superuser"], &account["full_name"]),
        (&json!(true), &json!(false), &json!(""))
    );
    host.anonymous().signed_in("new@example.com", PASSWORD).await.get("/users/me").await.ok();
    let again = host.anonymous().post("/users/signup/", &body).await;
    again.is_problem(400, "email_taken", "The user with this email already exists in the system");
}

async fn inputs_of_an_account_are_checked_together_and_in_order(host: &TestHost) {
    let body = json!({ "password": "short", "full_name": "x".repeat(256), "is_superuser": null, "is_active": [],
        "email": "nobody" });
    host.superuser().post("/users/", &body).await.refuses(&[
        "body.email value_error: value is not a valid email address: …",
        "body.is_active bool_type: Input should be a valid boolean",
        "body.is_superuser bool_type: Input should be a valid boolean",
        "body.full_name string_too_long: String should have at most 255 characters",
        "body.password string_too_short: String should have at least 8 characters",
    ]);
    host.superuser()
        .post("/users/", &json!({}))
        .await
        .refuses(&["body.email missing: Field required", "body.password missing: Field required"]);
    let body = json!({ "email": 7, "password": 12345678, "is_active": "maybe", "full_name": false });
    host.superuser().post("/users/", &body).await.refuses(&[
        "body.email string_type: Input should be a valid string",
        "body.is_active bool_parsing: Input should be a valid boolean, unable to interpret input",
        "body.full_name string_type: Input should be a valid string",
        "body.password string_type: Input should be a valid string",
    ]);
    for email in ["x", "@example.com", "x@", "x@localhost", "a b@example.com", "x@example..com", "", "x@y@example.com"]
    {
        let answer = host.anonymous().post("/users/signup", &json!({ "email": email, "password": PASSWORD })).await;
        answer.refuses(&["body.email value_error: value is not a valid email address: …"]);
        // The input is not echoed, least of all a password.
        assert!(!answer.text().contains(PASSWORD));
    }
    // Length is counted in characters, not bytes.
    let name = "🦀".repeat(255);
    let body = json!({ "email": "long@example.com", "password": PASSWORD, "full_name": name });
    assert_eq!(host.anonymous().post("/users/signup", &body).await.ok()["full_name"], name.as_str());
}

async fn an_address_is_taken_whatever_its_case(host: &TestHost) {
    let user = host.user("Someone@example.com").await;
    host.sign_up("sOMEONE@Example.com").await.has_code(400, "email_taken");
    let mine = user.patch("/users/me", &json!({ "email": "ADMIN@example.com" })).await;
    mine.is_problem(409, "email_taken", "User with this email already exists");
    let account = user.get("/users/me").await.ok();
    let theirs = host.superuser().patch(&format!("/users/{}", id(&account)), &json!({ "email": SUPERUSER })).await;
    theirs.is_problem(409, "email_taken", "User with this email already exists");
    // One's own address in another case is nobody else's.
    assert_eq!(
        user.patch("/users/me", &json!({ "email": "someone@example.com" })).await.ok()["email"],
        "someone@example.com"
    );
}

async fn addresses_are_kept_as_given_but_for_their_domain(host: &TestHost) {
    let account = host.sign_up("  Mixed.Case+Tag@EXAMPLE.Com ").await.ok();
    assert_eq!(account["email"], "Mixed.Case+Tag@example.com");
}

async fn lists_are_newest_first_and_paged(host: &TestHost) {
    let mut newest_first = vec![SUPERUSER.to_owned()];
    for name in ["a", "b", "c"] {
        host.clock().advance(std::time::Duration::from_micros(1));
        let email = format!("{name}@example.com");
        host.sign_up(&email).await.ok();
        newest_first.insert(0, email);
    }
    let list = async |query: &str| {
        let answer = host.superuser().get(&format!("/users/{query}")).await;
        let page = answer.ok();
        assert!(answer.text().starts_with(r#"{"data":["#) && answer.text().ends_with(r#"],"count":4}"#));
        let emails = page["data"].as_array().unwrap().iter();
        emails.map(|user| user["email"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(list("").await, newest_first);
    assert_eq!(list("?skip=0&limit=100").await, newest_first);
    assert_eq!(list("?skip=1&limit=2").await, newest_first[1..3]);
    assert_eq!(list("?limit=0").await, [""; 0]);
    assert_eq!(list("?skip=9").await, [""; 0]);
    assert_eq!(list("?skip=9223372036854775807&limit=1000").await, [""; 0]);

    // Equal times are told apart by the identifier.
    for name in ["d", "e", "f", "g"] {
        host.sign_up(&format!("{name}@example.com")).await.ok();
    }
    let page = host.superuser().get("/users/?limit=5").await.ok();
    let ids: Vec<&str> = page["data"].as_array().unwrap().iter().map(id).collect();
    let mut sorted = ids.clone();
    sorted.sort_unstable();
    assert_eq!(ids, sorted);
}

async fn pages_have_limits(host: &TestHost) {
    for (query, finding) in [
        ("skip=-1", "query.skip greater_than_equal: Input should be greater than or equal to 0"),
        ("limit=-1", "query.limit greater_than_equal: Input should be greater than or equal to 0"),
        ("limit=1001", "query.limit less_than_equal: Input should be less than or equal to 1000"),
        ("skip=x", "query.skip int_parsing: Input should be a valid integer, unable to parse string as an integer"),
        ("skip=1.5", "query.skip int_parsing: Input should be a valid integer, unable to parse string as an integer"),
        ("limit=", "query.limit int_parsing: Input should be a valid integer, unable to parse string as an integer"),
        ("limit=0x1", "query.limit int_parsing: Input should be a valid integer, unable to parse string as an integer"),
        ("skip=9223372036854775808", "query.skip int_parsing…"),
        ("skip=-9223372036854775809", "query.skip int_parsing…"),
        ("limit=99999999999999999999999999", "query.limit int_parsing…"),
    ] {
        host.superuser().get(&format!("/users/?{query}")).await.refuses(&[finding]);
    }
    host.superuser().get("/users/?skip=x&limit=-1").await.refuses(&["query.skip int_parsing…", "query.limit greater…"]);
    host.superuser().get("/users/?limit=1000&skip=%2B1").await.ok();
}

async fn the_last_value_of_a_repeated_parameter_counts(host: &TestHost) {
    let page = host.superuser().get("/users/?limit=x&limit=0&unknown=1").await.ok();
    assert_eq!(page, json!({ "data": [], "count": 1 }));
}

async fn an_account_is_read_by_its_owner_and_by_superusers(host: &TestHost) {
    let user = host.user("someone@example.com").await;
    let account = user.get("/users/me").await.ok();
    let other = host.superuser().get("/users/me").await.ok();
    let mine = format!("/users/{}", id(&account));
    assert_eq!(user.get(&mine).await.ok(), account);
    assert_eq!(host.superuser().get(&mine).await.ok(), account);
    assert_eq!(host.superuser().get(&mine.to_uppercase().replace("/USERS", "/users")).await.ok(), account);
    assert_eq!(host.superuser().get(&mine.replace('-', "")).await.ok(), account);
    // Nobody learns which identifiers there are.
    for path in [format!("/users/{}", id(&other)), format!("/users/{NOBODY}")] {
        user.get(&path).await.is_problem(403, "forbidden", "The user doesn't have enough privileges");
    }
    host.superuser().get(&format!("/users/{NOBODY}")).await.is_problem(404, "user_not_found", "User not found");
    for path in ["/users/signup", "/users/7", "/users/5f0b5c3e-58f5-4f7c-8f4e-0c3f7c8b0d1"] {
        user.get(path).await.refuses(&["path.user_id uuid_parsing: Input should be a valid UUID, …"]);
    }
}

async fn own_accounts_are_changed_in_part(host: &TestHost) {
    let user = host.user("someone@example.com").await;
    let change = async |body: Value| {
        let account = user.patch("/users/me", &body).await.ok();
        assert_eq!(account, user.get("/users/me").await.ok());
        (account["email"].as_str().unwrap().to_owned(), account["full_name"].clone())
    };
    let old = || "someone@example.com".to_owned();
    assert_eq!(change(json!({ "full_name": "Some One" })).await, (old(), json!("Some One")));
    assert_eq!(change(json!({})).await, (old(), json!("Some One")));
    assert_eq!(
        change(json!({ "email": "Other@EXAMPLE.com" })).await,
        ("Other@example.com".to_owned(), json!("Some One"))
    );
    assert_eq!(change(json!({ "full_name": null })).await, ("Other@example.com".to_owned(), Value::Null));
    host.anonymous().sign_in("someone@example.com", PASSWORD).await.has_code(400, "incorrect_credentials");
    host.anonymous().sign_in("other@example.com", PASSWORD).await.ok();
    user.patch("/users/me", &json!({ "full_name": "x".repeat(256), "email": "x" })).await.refuses(&[
        "body.full_name string_too_long: String should have at most 255 characters",
        "body.email value_error: value is not a valid email address: …",
    ]);
    user.patch("/users/me", &json!([]))
        .await
        .refuses(&["body model_attributes_type: Input should be a valid dictionary or object to extract fields from"]);
}

async fn nobody_promotes_himself(host: &TestHost) {
    let user = host.user("someone@example.com").await;
    let body = json!({ "is_superuser": true, "is_active": false, "password": "another horse", "id": NOBODY });
    let account = user.patch("/users/me", &body).await.ok();
    assert_eq!((&account["is_superuser"], &account["is_active"]), (&json!(false), &json!(true)));
    host.anonymous().sign_in("someone@example.com", PASSWORD).await.ok();
}

async fn superusers_change_accounts_in_part(host: &TestHost) {
    let account = host.sign_up("someone@example.com").await.ok();
    let path = format!("/users/{}/", id(&account));
    assert_eq!(host.superuser().patch(&path, &json!({})).await.ok(), account);
    let body = json!({ "full_name": "N", "is_superuser": true, "email": "n@example.com" });
    let changed = host.superuser().patch(&path, &body).await.ok();
    for (member, value) in [
        ("full_name", json!("N")),
        ("is_superuser", json!(true)),
        ("email", json!("n@example.com")),
        ("is_active", json!(true)),
        ("created_at", account["created_at"].clone()),
    ] {
        assert_eq!(changed[member], value, "{member}");
    }
    let changed = host.superuser().patch(&path, &json!({ "full_name": null, "is_superuser": false })).await.ok();
    assert_eq!((&changed["full_name"], &changed["is_superuser"]), (&Value::Null, &json!(false)));
    host.superuser().patch(&path, &json!({ "password": "another horse" })).await.ok();
    host.anonymous().sign_in("n@example.com", PASSWORD).await.has_code(400, "incorrect_credentials");
    host.anonymous().sign_in("n@example.com", "another horse").await.ok();
    let unknown = host.superuser().patch(&format!("/users/{NOBODY}"), &json!({ "password": PASSWORD })).await;
    unknown.is_problem(404, "user_not_found", "The user with this id does not exist in the system");
}

async fn null_is_refused_where_there_is_always_a_value(host: &TestHost) {
    let account = host.sign_up("someone@example.com").await.ok();
    let body = json!({ "email": null, "is_active": null, "is_superuser": null, "password": null });
    host.superuser().patch(&format!("/users/{}", id(&account)), &body).await.refuses(&[
        "body.email string_type: Input should be a valid string",
        "body.is_active bool_type: Input should be a valid boolean",
        "body.is_superuser bool_type: Input should be a valid boolean",
        "body.password string_type: Input should be a valid string",
    ]);
    let mine = host.superuser().patch("/users/me", &json!({ "email": null })).await;
    mine.refuses(&["body.email string_type: Input should be a valid string"]);
}

async fn passwords_are_changed_by_whoever_knows_them(host: &TestHost) {
    let user = host.user("someone@example.com").await;
    let change = async |current: &str, new: &str| {
        let body = json!({ "current_password": current, "new_password": new, "confirm_password": new });
        user.patch("/users/me/password", &body).await
    };
    change("wrong horse", "wrong horse").await.is_problem(400, "incorrect_password", "Incorrect password");
    let same = change(PASSWORD, PASSWORD).await;
    same.is_problem(400, "same_password", "New password cannot be the same as the current one");
    change(PASSWORD, "another horse").await.says("Password updated successfully");
    host.anonymous().sign_in("someone@example.com", PASSWORD).await.has_code(400, "incorrect_credentials");
    host.anonymous().sign_in("someone@example.com", "another horse").await.ok();
    user.get("/users/me").await.ok();
}

async fn passwords_have_8_to_128_characters(host: &TestHost) {
    let user = host.user("someone@example.com").await;
    let body = json!({ "current_password": "short", "new_password": "x".repeat(129) });
    user.patch("/users/me/password", &body).await.refuses(&[
        "body.current_password string_too_short: String should have at least 8 characters",
        "body.new_password string_too_long: String should have at most 128 characters",
    ]);
    // All blank, and counted in characters.
    for (name, password) in [("blank", " ".repeat(8)), ("long", "🦀".repeat(128))] {
        let email = format!("{name}@example.com");
        host.anonymous().post("/users/signup", &json!({ "email": email, "password": password })).await.ok();
        host.anonymous().sign_in(&email, &password).await.ok();
    }
    for length in [7, 129] {
        let body = json!({ "email": "x@example.com", "password": "🦀".repeat(length) });
        assert_eq!(host.anonymous().post("/users/signup", &body).await.status, 422);
    }
}

async fn accounts_are_removed_by_their_owners(host: &TestHost) {
    let user = host.user("someone@example.com").await;
    user.delete("/users/me").await.says("User deleted successfully");
    user.get("/users/me").await.has_code(401, "invalid_token");
    host.anonymous().sign_in("someone@example.com", PASSWORD).await.has_code(400, "incorrect_credentials");
    host.sign_up("someone@example.com").await.ok();
    let superuser = host.superuser().delete("/users/me").await;
    superuser.is_problem(403, "superuser_self_deletion", "Super users are not allowed to delete themselves");
}

async fn accounts_are_removed_by_superusers(host: &TestHost) {
    let account = host.sign_up("someone@example.com").await.ok();
    let path = format!("/users/{}", id(&account));
    host.superuser().delete(&path).await.says("User deleted successfully");
    host.superuser().delete(&path).await.is_problem(404, "user_not_found", "User not found");
    let own = host.superuser().get("/users/me").await.ok();
    let answer = host.superuser().delete(&format!("/users/{}", id(&own))).await;
    answer.is_problem(403, "superuser_self_deletion", "Super users are not allowed to delete themselves");
}

async fn items_go_with_their_owner(host: &TestHost) {
    let (leaver, stayer) = (host.user("leaver@example.com").await, host.user("stayer@example.com").await);
    leaver.post("/items/", &json!({ "title": "gone" })).await.ok();
    stayer.post("/items/", &json!({ "title": "kept" })).await.ok();
    leaver.delete("/users/me").await.ok();
    until("the items to disappear", async || {
        let page = host.superuser().get("/items/").await.ok();
        (page["count"] == 1 && page["data"][0]["title"] == "kept").then_some(())
    })
    .await;
}

async fn the_last_superuser_stays(host: &TestHost) {
    let own = host.superuser().get("/users/me").await.ok();
    let path = format!("/users/{}", id(&own));
    let last = "The last superuser cannot be removed";
    for change in [
        json!({ "is_superuser": false }),
        json!({ "is_active": false }),
        json!({ "is_superuser": false, "full_name": "x" }),
    ] {
        host.superuser().patch(&path, &change).await.is_problem(409, "last_superuser", last);
    }
    // Nothing of a refused change is kept, and an inactive superuser does not count.
    assert_eq!(host.superuser().get("/users/me").await.ok(), own);
    let body = json!({ "email": "second@example.com", "password": PASSWORD, "is_superuser": true, "is_active": false });
    let second = host.superuser().post("/users/", &body).await.ok();
    host.superuser().patch(&path, &json!({ "is_active": false })).await.is_problem(409, "last_superuser", last);

    host.superuser().patch(&format!("/users/{}", id(&second)), &json!({ "is_active": true })).await.ok();
    let demoted = host.superuser().patch(&path, &json!({ "is_superuser": false })).await.ok();
    assert_eq!(demoted["is_superuser"], false);
    host.superuser().get("/users/").await.has_code(403, "forbidden");
    let second_client = host.anonymous().signed_in("second@example.com", PASSWORD).await;
    second_client.delete(&path).await.says("User deleted successfully");
}

async fn of_two_superusers_who_remove_each_other_one_stays(host: &TestHost) {
    let body = json!({ "email": "second@example.com", "password": PASSWORD, "is_superuser": true });
    let second = host.superuser().post("/users/", &body).await.ok();
    let first = host.superuser().get("/users/me").await.ok();
    let second_client = host.anonymous().signed_in("second@example.com", PASSWORD).await;
    let (first_path, second_path) = (format!("/users/{}", id(&first)), format!("/users/{}", id(&second)));
    let demote = json!({ "is_superuser": false });
    let (one, two) =
        tokio::join!(host.superuser().patch(&second_path, &demote), second_client.patch(&first_path, &demote));
    let mut statuses = [one.status, two.status];
    statuses.sort_unstable();
    // The slower one is either the last superuser's enemy or no superuser any more.
    assert!(statuses == [200, 409] || statuses == [200, 403], "{statuses:?}");
    let left = [host.superuser().get("/users/").await.status, second_client.get("/users/").await.status];
    assert!(left.contains(&200) && left.contains(&403), "{left:?}");
}

async fn texts_that_no_database_can_hold_are_refused(host: &TestHost) {
    let send = async |text: &str| {
        let body = format!(r#"{{"email":"x@example.com","password":"{PASSWORD}","full_name":"{text}"}}"#);
        host.anonymous().request(Method::POST, "/users/signup").json_text(body).send().await
    };
    send(r"a\u0000b").await.refuses(&["body.full_name value_error: …"]);
    for surrogate in [r"\ud800", r"\udc00x", r"\ud83d\ud83d"] {
        let answer = send(surrogate).await;
        let problem = answer.problem();
        assert_eq!((answer.status, &problem["errors"][0]["type"]), (422, &json!("value_error")), "{problem}");
    }
    assert_eq!(send(r"\ud83e\udd80").await.ok()["full_name"], "🦀");
    let path = host.superuser().get("/users/%00").await;
    path.refuses(&["path.user_id uuid_parsing…"]);
}

async fn two_who_sign_up_with_one_address_at_once_make_one_account(host: &TestHost) {
    let (one, two) = tokio::join!(host.sign_up("twin@example.com"), host.sign_up("TWIN@example.com"));
    let mut statuses = [one.status, two.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 400], "{} {}", one.text(), two.text());
    assert_eq!(host.superuser().get("/users/").await.ok()["count"], 2);
}
