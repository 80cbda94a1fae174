//! Checks for operators, named as in the reference.

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

const TAG: &str = "utils";

/// Routes of this resource.
pub(super) fn routes() -> Vec<HostRoute<Host>> {
    vec![
        HostRoute::post("/api/v1/utils/test-email/", create_test_email)
            .superuser()
            .named(TAG, "test_email", "Test Email")
            .described("Sends a mail, to see whether it arrives.")
            .query::<TestEmail>()
            .replies_with::<Message>(201),
        HostRoute::get("/api/v1/utils/health-check/", read_health)
            .public()
            .named(TAG, "health_check", "Health Check")
            .described("Whether the process answers; nothing else is checked.")
            .replies::<bool>(),
    ]
}

#[derive(Deserialize, JsonSchema)]
struct TestEmail {
    email_to: Address,
}

async fn create_test_email(host: Arc<Host>, call: Call) -> Result<Reply> {
    let query: TestEmail = call.query()?;
    host.mail.enqueue(&Mail::Test { email: query.email_to.to_string() }).await?;
    Ok(Reply::message("Test email sent")?.with_status(StatusCode::CREATED))
}

async fn read_health(_: Arc<Host>, _: Call) -> Result<Reply> {
    Reply::json(&true)
}
