//! A load generator: clients that send requests without pause while a test changes the plugin.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use tokio::task::JoinHandle;

use super::Client;
use super::polling::until;

/// Running clients. Each response must be a 200 with one of the given texts.
pub(crate) struct Load {
    done: Arc<AtomicBool>,
    responses: Arc<AtomicU32>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts to send requests to a path below `/api/v1`.
    pub(crate) fn begin<const N: usize>(
        client: &Client,
        clients: usize,
        path: &'static str,
        texts: [&'static str; N],
    ) -> Self {
        let (done, responses) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let clients = (0..clients)
            .map(|_| {
                let (client, done, responses) = (client.clone(), Arc::clone(&done), Arc::clone(&responses));
                tokio::spawn(async move {
                    while !done.load(Ordering::Relaxed) {
                        let response = client.get(path).await;
                        assert!(response.status == 200 && texts.contains(&&*response.text()), "{response:?}");
                        responses.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        Self { done, responses, clients }
    }

    /// Waits until each client could have got a response to a request that it sent from now on.
    pub(crate) async fn wait_for_progress(&self) {
        let seen = self.responses.load(Ordering::Relaxed);
        // Each client may have one request in flight.
        let enough = u32::try_from(2 * self.clients.len()).unwrap();
        until("more responses", async || {
            let more = self.responses.load(Ordering::Relaxed) - seen;
            let broken = self.clients.iter().any(JoinHandle::is_finished);
            assert!(!broken, "a client got a wrong response; see above");
            (more >= enough).then_some(())
        })
        .await;
    }

    /// Stops the clients. Panics if a response was wrong, or if there was none.
    pub(crate) async fn end(self) {
        self.done.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.unwrap();
        }
        assert!(self.responses.load(Ordering::Relaxed) > 0);
    }
}
