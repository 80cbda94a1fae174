//! The error of a handler of events and jobs. It says whether the host tries again.

use crate::Problem;
use crate::bindings::imports::wharf::{cache, email, events, http, jobs, log, sql, users};
use std::fmt;

/// The failure of a task: the delivery of an event, or a job.
///
/// `?` turns a [`Problem`] and the error of every capability into [`TaskError::Retry`]: most failures of a database or of
/// another server pass.
///
/// ```
/// use wharf_sdk::TaskError;
/// use wharf_sdk::sql::{self, params};
///
/// fn close(order: &str) -> Result<(), TaskError> {
///     match sql::execute("UPDATE orders SET open = FALSE WHERE id = $1", params![order])? {
///         0 => Err(TaskError::reject("there is no such order")),
///         _ => Ok(()),
///     }
/// }
/// # wharf_sdk::testing::with_sql("CREATE TABLE orders (id TEXT, open BOOLEAN)", || {
/// #     assert_eq!(close("a"), Err(TaskError::Reject("there is no such order".to_owned())));
/// # });
/// # assert!(matches!(close("a"), Err(TaskError::Retry(_))));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskError {
    /// The host tries again after a while, as often as the task declares. Then the task becomes a dead letter. The text is
    /// for the operator.
    Retry(String),
    /// Another attempt would not help. The task becomes a dead letter at once. The text is for the operator.
    Reject(String),
}

impl TaskError {
    /// Creates the error of a failure that can pass.
    pub fn retry(reason: impl fmt::Display) -> Self {
        Self::Retry(reason.to_string())
    }

    /// Creates the error of a failure that does not pass, such as a payload that means nothing.
    pub fn reject(reason: impl fmt::Display) -> Self {
        Self::Reject(reason.to_string())
    }
}

impl fmt::Display for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Retry(reason) | Self::Reject(reason)) = self;
        f.write_str(reason)
    }
}

impl std::error::Error for TaskError {}

impl From<Problem> for TaskError {
    fn from(problem: Problem) -> Self {
        Self::retry(problem)
    }
}

macro_rules! errors_that_can_pass {
    ($($error:ty: $capability:literal,)*) => {$(
        impl From<$error> for TaskError {
            fn from(error: $error) -> Self {
                Self::Retry(format!(concat!($capability, ": {}"), error))
            }
        }
    )*};
}
errors_that_can_pass! {
    sql::database::Error: "sql",
    cache::store::Error: "cache",
    http::client::Error: "http",
    users::directory::Error: "users",
    log::audit::Error: "audit",
    events::publisher::Error: "events",
    jobs::queue::Error: "jobs",
    email::outbox::Error: "email",
}
