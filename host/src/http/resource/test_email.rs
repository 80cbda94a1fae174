//! A test mail, by which an operator checks that outgoing mail works. Never waits until the mail is delivered.

use std::sync::Arc;

use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::address::Address;
use crate::email::Mail;
use crate::error::Result;
use crate::http::Host;
use crate::http::call::Call;
use crate::http::host_route::HostRoute;
use crate::http::reply::{Message, Reply};
use crate::permission::HostPermission;

/// Returns the route of the test mail.
pub(super) fn routes() -> Vec<HostRoute<Host>> {
    vec![
        HostRoute::post("/api/v1/utils/test-email/", create_test_email)
            .permission(HostPermission::MailTest)
            .named("utils", "test_email", "Test Email")
            .described(
                "Sends a test mail to the given address. A mail server must be configured, except in development: \
                 without one, the page `/dev/mail` shows the mail.",
            )
            .query::<TestEmail>()
            .replies_with::<Message>(201),
    ]
}

#[derive(Deserialize, JsonSchema)]
struct TestEmail {
    email_to: Address,
}

async fn create_test_email(host: Arc<Host>, call: Call) -> Result<Reply> {
    let query: TestEmail = call.query()?;
    host.mail.require_delivery()?;
    host.mail.enqueue(&Mail::Test { email: query.email_to.to_string() }).await?;
    Ok(Reply::message("Test email sent")?.with_status(StatusCode::CREATED))
}
