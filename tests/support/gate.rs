//! A server on loopback that responds only when the test lets it, so that a call of a plugin can be held in flight.

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::host::CHAMELEON;
use super::patience::PATIENCE;
use super::{Client, TestResponse};

/// The server.
pub(crate) struct Gate {
    addr: SocketAddr,
    arrived: Arc<Semaphore>,
    open: Arc<Semaphore>,
}

impl Gate {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (arrived, open) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let gate = Self { addr, arrived: Arc::clone(&arrived), open: Arc::clone(&open) };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(respond(stream, Arc::clone(&arrived), Arc::clone(&open)));
            }
        });
        gate
    }

    pub(crate) fn origin(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Returns the grants with which the chameleon reaches the gate.
    pub(crate) fn grants(&self) -> String {
        format!("{CHAMELEON}&grant=http.hosts={}&grant=http.networks=127.0.0.1", self.origin())
    }

    /// Begins a call of the chameleon that lasts until the gate opens.
    pub(crate) fn call(&self, client: &Client) -> JoinHandle<TestResponse> {
        let (client, body) = (client.clone(), json!({ "url": format!("{}/", self.origin()) }));
        tokio::spawn(async move { client.post("/chameleon/fetch", &body).await })
    }

    /// Waits until a request has arrived.
    pub(crate) async fn arrived(&self) {
        let arrived = tokio::time::timeout(PATIENCE, self.arrived.acquire()).await;
        arrived.unwrap_or_else(|_| panic!("waited {PATIENCE:?} for a request")).unwrap().forget();
    }

    /// Lets one request get its response.
    pub(crate) fn open(&self) {
        self.open.add_permits(1);
    }
}

async fn respond(mut stream: TcpStream, arrived: Arc<Semaphore>, open: Arc<Semaphore>) {
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else { return };
        read.push(byte);
    }
    arrived.add_permits(1);
    open.acquire().await.unwrap().forget();
    let response = "HTTP/1.1 200 X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    // A call that was ended does not read it.
    let _ = stream.write_all(response.as_bytes()).await;
}
