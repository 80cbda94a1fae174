//! The real program with a log that nobody reads: standard error is a pipe, and the pipe is full.

use std::net::SocketAddr;
use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{ChildStderr, Command};

use crate::http::metrics::samples;
use crate::support::host::{CHAMELEON, PASSWORD, SUPERUSER};
use crate::support::polling::until;
use crate::support::process::{home, serving, wharf};
use crate::support::{Client, Component};

/// Reads the log until a line has this message.
async fn read_until(log: &mut Lines<BufReader<ChildStderr>>, message: &str) -> Value {
    loop {
        let line = log.next_line().await.unwrap().unwrap();
        let entry: Value = serde_json::from_str(&line).unwrap();
        if entry["message"] == message {
            return entry;
        }
    }
}

async fn dropped(superuser: &Client) -> f64 {
    let samples = samples(superuser).await;
    samples.into_iter().find(|(name, _)| name == "wharf_log_lines_dropped_total").unwrap().1
}

/// Lets a plugin log until more lines than `before` are dropped.
async fn flood(superuser: &Client, before: f64) -> f64 {
    until("dropped lines", async || {
        assert_eq!(superuser.get("/chameleon/flood/2000").await.status, 200);
        let now = dropped(superuser).await;
        (now > before).then_some(now)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_nobody_reads_delays_neither_requests_nor_the_shutdown() {
    let home = home();
    let mut command = wharf(home.path());
    serving(&mut command, home.path()).stderr(Stdio::piped());
    let mut child = Command::from(command).kill_on_drop(true).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
    let address = read_until(&mut log, "listening").await["address"].as_str().unwrap().to_owned();
    let superuser = Client::new(address.parse::<SocketAddr>().unwrap()).signed_in(SUPERUSER, PASSWORD).await;
    superuser.deploy(&Component::chameleon().0, &format!("{CHAMELEON}&grant=log.rate=1000000")).await.ok();
    assert_eq!(dropped(&superuser).await, 0.0);

    let lost = flood(&superuser, 0.0).await;
    let report = "log lines were dropped because standard error did not take them in time";
    let reported = read_until(&mut log, report).await;
    assert!(reported["lines"].as_f64().unwrap() >= lost, "{reported}");

    flood(&superuser, lost).await;
    let process = child.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &process]).status().unwrap().success());
    let ended = until("the end of the process", async || child.try_wait().unwrap()).await;
    assert!(ended.success());
}
