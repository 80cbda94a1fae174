//! The job that sends a delivery: one request for each attempt. Owns the rules about failures.
//!
//! A failed attempt is repeated by the host's queue, and the last one ends the delivery in the log: a dead letter of the
//! operator would be about somebody else's server. An endpoint that fails rests, for twice as long after each failure, up to
//! an hour. While it rests, its deliveries wait without a request. One that has failed for days is disabled. A receiver can be
//! slow without failing, and its owner can end a rest, so the priority of the deliveries is what keeps the slots free
//! for others.

use crate::rights::{Owners, Scope};
use crate::secret::sign;
use crate::time::seconds_after;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use wharf_sdk::http::{self, Error};
use wharf_sdk::prelude::*;
use wharf_sdk::sql::{self, FromRow, params};

/// The repetitions of the job below. The waits double from 5 seconds to an hour: about a day in all.
const RETRIES: u32 = 60;

/// The time limit of a request.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The longest rest of an endpoint, in seconds.
const LONGEST_REST: i64 = 60 * 60;

/// The time after which an endpoint is disabled that always failed, in seconds.
const PATIENCE: i64 = 5 * 24 * 60 * 60;

/// The payload of the job.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) struct Delivery {
    pub(crate) id: Uuid,
}

/// Sends a delivery. If a crash repeats an attempt, the receiver gets the same `webhook-id` again.
#[job(retries = 60, backoff = "5s", deadline = "30s", concurrency = 8, keep = "1m")]
pub(crate) fn deliver(job: Job<Delivery>) -> Result<(), TaskError> {
    // It has ended, or it was deleted with its endpoint.
    let Some(delivery) = Waiting::find(job.payload.id)? else { return Ok(()) };
    if !delivery.active {
        return Ok(delivery.give_up("The endpoint is disabled")?);
    }
    let owners = Owners::find([delivery.owner_id])?;
    if !owners.may_receive(delivery.owner_id, delivery.scope, delivery.audience) {
        return Ok(delivery.give_up("The owner of the endpoint may not receive the event")?);
    }
    let is_last = job.attempt > RETRIES;
    let now = Timestamp::now();
    if delivery.resting_until.is_some_and(|until| until > now) {
        if is_last {
            return Ok(delivery.give_up("The receiver kept failing")?);
        }
        return Err(TaskError::retry("the endpoint rests after failed attempts"));
    }
    match delivery.attempt(now) {
        Attempt::Delivered { status } => Ok(delivery.record_success(status, now)?),
        Attempt::Failed(failure) => {
            delivery.record_failure(&failure, is_last, now)?;
            if is_last || failure.is_gone { Ok(()) } else { Err(TaskError::Retry(failure.reason)) }
        }
        Attempt::NotMade(reason) if is_last => Ok(delivery.give_up(&reason)?),
        Attempt::NotMade(reason) => Err(TaskError::Retry(reason)),
    }
}

/// A delivery that waits, with its message and its endpoint.
#[derive(FromRow)]
struct Waiting {
    id: Uuid,
    message_id: Uuid,
    audience: Option<Uuid>,
    body: String,
    endpoint_id: Uuid,
    owner_id: Uuid,
    scope: Scope,
    url: String,
    active: bool,
    secret: String,
    previous_secret: Option<String>,
    previous_secret_until: Option<Timestamp>,
    failures: i64,
    failing_since: Option<Timestamp>,
    resting_until: Option<Timestamp>,
}

/// The result of an attempt.
enum Attempt {
    Delivered {
        status: u16,
    },
    Failed(Failure),
    /// Nothing was sent, for a reason that is not the receiver's.
    NotMade(String),
}

struct Failure {
    status: Option<u16>,
    /// For the owner of the endpoint. It tells nothing about the network of the host.
    reason: String,
    /// The receiver wants no more messages.
    is_gone: bool,
}

impl Waiting {
    fn find(id: Uuid) -> Result<Option<Self>, sql::Error> {
        const SQL: &str =
            "SELECT delivery.id AS id, message_id, audience, body, endpoint_id, owner_id, scope, url, active, secret,
                previous_secret, previous_secret_until, failures, failing_since, resting_until
            FROM delivery JOIN message ON message.id = message_id JOIN endpoint ON endpoint.id = endpoint_id
            WHERE delivery.id = $1 AND state = 'waiting'";
        sql::query_optional(SQL, params![id])
    }

    /// Returns the signatures: also that of the earlier secret, as long as it signs.
    fn signatures(&self, timestamp: i64, now: Timestamp) -> String {
        let previous = self.previous_secret.as_ref();
        let previous = previous.filter(|_| self.previous_secret_until.is_some_and(|until| until > now));
        let secrets = std::iter::once(&self.secret).chain(previous);
        let signatures = secrets.filter_map(|secret| sign(secret, self.message_id, timestamp, &self.body));
        signatures.collect::<Vec<_>>().join(" ")
    }

    /// Makes an attempt. The time in the header is that of the attempt, which receivers compare with their clock.
    fn attempt(&self, now: Timestamp) -> Attempt {
        let timestamp = now.unix_micros().div_euclid(1_000_000);
        let request = http::post(self.url.as_str())
            .header("content-type", "application/json")
            .header("webhook-id", self.message_id.to_string())
            .header("webhook-timestamp", timestamp.to_string())
            .header("webhook-signature", self.signatures(timestamp, now))
            .body(self.body.as_str())
            .timeout(TIMEOUT)
            .redirects(0);
        match request.send() {
            Ok(response) => match response.status() {
                status @ 200..=299 => Attempt::Delivered { status },
                status => Attempt::Failed(Failure::of_status(status)),
            },
            Err(Error::Limit(limit)) if limit.starts_with("requests:") => {
                Attempt::NotMade(format!("Too many requests were being sent at once ({limit})"))
            }
            Err(error) => Attempt::Failed(Failure::of_error(&error)),
        }
    }

    fn record_success(&self, status: u16, now: Timestamp) -> Result<(), sql::Error> {
        const SUCCEED: &str = "UPDATE delivery SET state = 'delivered', attempts = attempts + 1, response_status = $2,
            error = NULL, attempted_at = $3 WHERE id = $1";
        const RECOVER: &str =
            "UPDATE endpoint SET failures = 0, failing_since = NULL, resting_until = NULL WHERE id = $1";
        sql::execute(SUCCEED, params![self.id, status, now])?;
        if self.failures > 0 {
            sql::execute(RECOVER, params![self.endpoint_id])?;
        }
        Ok(())
    }

    fn record_failure(&self, failure: &Failure, is_last: bool, now: Timestamp) -> Result<(), sql::Error> {
        const FAIL: &str = "UPDATE delivery SET state = $2, attempts = attempts + 1, response_status = $3, error = $4,
            attempted_at = $5 WHERE id = $1";
        // Attempts at the same time count once.
        const REST: &str = "UPDATE endpoint SET failures = failures + 1, failing_since = $3, resting_until = $4
            WHERE id = $1 AND failures = $2";
        const DISABLE: &str = "UPDATE endpoint SET active = FALSE, disabled_reason = $2 WHERE id = $1 AND active";
        let state = if is_last || failure.is_gone { "failed" } else { "waiting" };
        sql::execute(FAIL, params![self.id, state, failure.status, &failure.reason, now])?;
        let failing_since = self.failing_since.unwrap_or(now);
        let resting_until = seconds_after(now, rest_after(self.failures));
        sql::execute(REST, params![self.endpoint_id, self.failures, failing_since, resting_until])?;
        let reason = if failure.is_gone {
            "The receiver responded with status 410: it wants no more messages"
        } else if seconds_after(failing_since, PATIENCE) <= now {
            "All attempts have failed for five days"
        } else {
            return Ok(());
        };
        sql::execute(DISABLE, params![self.endpoint_id, reason])?;
        Ok(())
    }

    /// Ends the delivery without an attempt.
    fn give_up(&self, reason: &str) -> Result<(), sql::Error> {
        const SQL: &str = "UPDATE delivery SET state = 'failed', error = $2 WHERE id = $1";
        sql::execute(SQL, params![self.id, reason])?;
        Ok(())
    }
}

impl Failure {
    fn of_status(status: u16) -> Self {
        let reason = match status {
            300..=399 => format!("The receiver redirects (status {status}), which is not followed: change the URL"),
            _ => format!("The receiver responded with status {status}"),
        };
        Self { status: Some(status), reason, is_gone: status == 410 }
    }

    fn of_error(error: &Error) -> Self {
        let reason = match error {
            Error::Invalid(_) => "The URL is not valid",
            Error::Denied(_) => "The operator does not allow requests to this server",
            Error::Unreachable(_) => "The receiver cannot be reached",
            Error::Timeout(_) => "The receiver did not respond in time",
            Error::Limit(_) => "The response of the receiver is too large",
            Error::Protocol(_) => "The receiver violates HTTP or TLS, or its certificate is not trusted",
        };
        Self { status: None, reason: reason.to_owned(), is_gone: false }
    }
}

/// Returns the rest of an endpoint in seconds after its next failure in a row: 1, 2, 4, …
fn rest_after(failures: i64) -> i64 {
    let doublings = u32::try_from(failures).unwrap_or(u32::MAX);
    2_i64.saturating_pow(doublings).min(LONGEST_REST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rest_doubles_up_to_an_hour() {
        assert_eq!([0, 1, 5, 11, 12, 1_000_000].map(rest_after), [1, 2, 32, 2_048, 3_600, 3_600]);
    }

    #[test]
    fn the_job_knows_its_last_attempt() {
        let retries: Vec<u32> = crate::PLUGIN.jobs.iter().map(|job| job.retries).collect();
        assert_eq!(retries, [RETRIES]);
    }
}
