//! Whether known and unknown accounts can be told apart by the time of a response: at sign-in, recovery and sign-up.
//!
//! The host has mail and requires verified addresses, because otherwise a sign-up reports a taken address.
//!
//! Requests for known and unknown accounts alternate. Their times are compared by the Mann-Whitney statistic: the share
//! of pairs in which the known account took longer, which is one half if the times say nothing. With [`SAMPLES`] pairs,
//! its standard error is about 0.04, so chance alone exceeds [`TOLERANCE`] once in some thousand measurements. A
//! measurement that does is repeated, because a busy machine is uneven too.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;
use ureq::http::StatusCode;

use crate::Failure;
use crate::wharf::{EMAIL, Wharf};

/// The responses of each kind in one measurement.
const SAMPLES: usize = 100;
/// The largest distance of the share from one half.
const TOLERANCE: f64 = 0.15;
/// The measurements of which one must be within the tolerance.
const ATTEMPTS: usize = 3;

/// Mails go to a page of the host.
const SETTINGS: [(&str, &str); 3] =
    [("WHARF_LOG", "warn"), ("WHARF_VERIFY_EMAIL", "true"), ("WHARF_DEVELOPMENT", "true")];

/// Prints a line for each route. The directory gets the data of a host.
#[allow(clippy::print_stdout, reason = "the report")]
pub(crate) fn compare(program: &Path, directory: &Path) -> Result<(), Failure> {
    let wharf = Wharf::start(program, directory, &SETTINGS)?;
    println!("\nKnown and unknown accounts: the share of {SAMPLES} × {SAMPLES} pairs in which the known one is slower");
    let agent = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
    let sign_in = |email: &str| {
        let form = [("username", email), ("password", "a wrong password")];
        timed(|| agent.post(wharf.url("/api/v1/login/access-token")).send_form(form).map(|response| response.status()))
    };
    let recover = |email: &str| {
        let url = wharf.url(&format!("/api/v1/password-recovery/{email}"));
        timed(|| agent.post(url).send_empty().map(|response| response.status()))
    };
    let sign_up = |email: &str| {
        let body = json!({ "email": email, "password": "a new password" });
        timed(|| agent.post(wharf.url("/api/v1/users/signup")).send_json(body).map(|response| response.status()))
    };
    let mut told_apart = Vec::new();
    measure("sign-in", &sign_in, &mut told_apart)?;
    measure("recovery", &recover, &mut told_apart)?;
    measure("sign-up", &sign_up, &mut told_apart)?;
    if told_apart.is_empty() { Ok(()) } else { Err(format!("told apart by time: {}", told_apart.join(", ")).into()) }
}

/// Returns the status of a response and its time.
fn timed(request: impl FnOnce() -> Result<StatusCode, ureq::Error>) -> Result<(StatusCode, Duration), Failure> {
    let began = Instant::now();
    let status = request()?;
    Ok((status, began.elapsed()))
}

#[allow(clippy::print_stdout, reason = "the report")]
fn measure(
    name: &'static str,
    request: &impl Fn(&str) -> Result<(StatusCode, Duration), Failure>,
    told_apart: &mut Vec<&'static str>,
) -> Result<(), Failure> {
    for attempt in 0..ATTEMPTS {
        let (mut known, mut unknown) = (Vec::new(), Vec::new());
        for index in 0..SAMPLES {
            let nobody = format!("nobody-{attempt}-{index}@example.com");
            // Neither kind always comes first.
            let (of_known, of_unknown) = if index % 2 == 0 {
                let of_known = request(EMAIL)?;
                (of_known, request(&nobody)?)
            } else {
                let of_unknown = request(&nobody)?;
                (request(EMAIL)?, of_unknown)
            };
            let (status, other) = (of_known.0, of_unknown.0);
            if status != other || status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
                return Err(format!("{name}: {status} for a known account and {other} for an unknown one").into());
            }
            known.push(of_known.1);
            unknown.push(of_unknown.1);
        }
        let share = share_of_slower(&known, &unknown);
        println!("{name:<12}{share:>8.2}   medians {:?} and {:?}", median(&mut known), median(&mut unknown));
        if (share - 0.5).abs() <= TOLERANCE {
            return Ok(());
        }
    }
    told_apart.push(name);
    Ok(())
}

#[allow(clippy::cast_precision_loss, reason = "some thousand pairs")]
fn share_of_slower(left: &[Duration], right: &[Duration]) -> f64 {
    let mut slower = 0.0;
    for a in left {
        for b in right {
            slower += match a.cmp(b) {
                std::cmp::Ordering::Greater => 1.0,
                std::cmp::Ordering::Equal => 0.5,
                std::cmp::Ordering::Less => 0.0,
            };
        }
    }
    slower / (left.len() * right.len()) as f64
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
