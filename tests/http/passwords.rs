//! The rules of new passwords.

use reqwest::Method;
use serde_json::json;

use super::text;
use crate::support::host::PASSWORD;
use crate::support::{TestHost, TestResponse, both};

both!(a_common_password_is_refused_wherever_one_is_set);

#[track_caller]
fn is_common(response: &TestResponse) {
    let text = "The password is too common. Choose one that is harder to guess";
    response.is_problem(400, "common_password", text);
}

async fn a_common_password_is_refused_wherever_one_is_set(host: &TestHost) {
    let (client, superuser, email) = (host.user("jane@example.com").await, host.superuser(), "jane@example.com");
    for common in ["password1", "qwertyuiop", "Sunshine", "11111111"] {
        let new = json!({ "email": "john@example.com", "password": common });
        is_common(&host.anonymous().post("/users/signup", &new).await);
    }
    is_common(&superuser.post("/users/", &json!({ "email": "john@example.com", "password": "password1" })).await);
    // Others know the address and the name of an account, so they are common for this account.
    for known in ["zofia.k@skarbiec.example", "Zofia.k@Skarbiec.example", "skarbiec", "Kowalczykowska"] {
        let new =
            json!({ "email": "zofia.k@skarbiec.example", "full_name": "Zofia Kowalczykowska", "password": known });
        is_common(&host.anonymous().post("/users/signup", &new).await);
    }
    let id = client.get("/users/me").await.ok();
    let path = format!("/users/{}", text(&id, "id"));
    is_common(&superuser.patch(&path, &json!({ "password": "password1" })).await);
    is_common(&superuser.patch(&path, &json!({ "password": email })).await);
    for common in ["password1", email] {
        let change = json!({ "current_password": PASSWORD, "new_password": common });
        is_common(&client.patch("/users/me/password", &change).await);
    }
    host.anonymous().request(Method::POST, &format!("/password-recovery/{email}")).send().await.ok();
    let token = host.mails().take(email).await.reset_token();
    let reset = async |password: &str| {
        host.anonymous().post("/reset-password/", &json!({ "token": token, "new_password": password })).await
    };
    is_common(&reset("password1").await);
    is_common(&reset(email).await);
    // The refusal changed nothing: the session continues, and the link still works.
    client.get("/users/me").await.ok();
    reset("changethis").await.has_message("Password updated successfully");
    host.anonymous().sign_in(email, "changethis").await.ok();
}
