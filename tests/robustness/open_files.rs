//! A process that may open few files, and clients that try to use them all.

use reqwest::Method;
use tokio::net::TcpStream;

use crate::http::metrics::samples;
use crate::support::host::CHAMELEON;
use crate::support::polling::until;
use crate::support::process::{Process, home};
use crate::support::{Client, Component};

async fn sample(client: &Client, name: &str) -> f64 {
    samples(client).await.into_iter().find(|(sample, _)| sample == name).unwrap().1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_connections_leave_file_descriptors_for_the_rest() {
    // The soft limit is lower than the hard limit.
    let process = Process::start_with_files(home(), 64, 256).await;
    // Later connections wait in the kernel's queue, so the superuser keeps this one.
    let superuser = process.superuser_keeping_its_connection().await;
    assert_eq!(sample(&superuser, "wharf_http_connections_max").await, 128.0);
    let mut idle = Vec::new();
    // And as many as fit into the kernel's queue.
    for _ in 0..180 {
        idle.push(TcpStream::connect(process.addr).await.unwrap());
    }
    until("the connections to be accepted", async || {
        (sample(&superuser, "wharf_http_connections").await >= 128.0).then_some(())
    })
    .await;
    // A request on an accepted connection can still open files, start the compiler and connect to databases.
    superuser.deploy(&Component::chameleon().0, &format!("name=late&{CHAMELEON}")).await.ok();
    for note in 0..4 {
        let response = superuser.request(Method::POST, &format!("/late/notes/{note}")).send().await;
        assert_eq!(response.status, 204, "{response:?}");
    }
    assert!(!process.log().contains("cannot accept"), "{}", process.log());
    drop(idle);
    until("free connections", async || (process.client().get("/late/echo/x").await.status == 200).then_some(())).await;
}
