use wharf_sdk::prelude::*;

#[subscribe("deleted")]
fn without_source(_event: Event<u32>) {}

#[subscribe("user.deleted")]
fn without_event() {}

#[subscribe("user.deleted", deadline = "1s")]
fn unknown_key(_event: Event<u32>) {}

#[job(retries = 5, backoff = "soon")]
fn bad_time() {}

#[job(concurrency = 0)]
fn never() {}

#[job]
fn two_arguments(_first: Job<u32>, _second: Job<u32>) {}

#[job]
async fn asynchronous() {}

#[job]
fn _underscore() {}

#[schedule("0 6 * *")]
fn four_fields() {}

#[schedule("0 6 * * *", missed = twice)]
fn twice() {}

#[schedule("0 6 * * *")]
#[job(retries = 3)]
fn both() {}

#[job(retries = 101)]
fn too_often() {}

#[subscribe("user.deleted", backoff = "2h")]
fn too_slow(_event: Event<u32>) {}

#[job(deadline = "5ms")]
fn too_short() {}

#[subscribe("user.born")]
fn unborn(_event: Event<u32>) {}

#[get("/")]
#[job]
fn route_and_job() {}

#[job]
#[subscribe("user.deleted")]
fn job_and_subscription(_job: Job<u32>) {}

fn main() {}
