//! Clients that ask without pause while a test changes what answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use tokio::task::JoinHandle;

use super::Client;
use super::patience::until;

/// Clients at work. Each answer must be a 200 with one of the given texts.
pub(crate) struct Load {
    done: Arc<AtomicBool>,
    answered: Arc<AtomicU32>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    /// Begins to ask a path below `/api/v1`.
    pub(crate) fn begin<const N: usize>(
        client: &Client,
        clients: usize,
        path: &'static str,
        texts: [&'static str; N],
    ) -> Self {
        let (done, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let clients = (0..clients)
            .map(|_| {
                let (client, done, answered) = (client.clone(), Arc::clone(&done), Arc::clone(&answered));
                tokio::spawn(async move {
                    while !done.load(Ordering::Relaxed) {
                        let answer = client.get(path).await;
                        assert!(answer.status == 200 && texts.contains(&&*answer.text()), "{answer:?}");
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        Self { done, answered, clients }
    }

    /// Waits until each client had the time for an answer from now on.
    pub(crate) async fn goes_on(&self) {
        let seen = self.answered.load(Ordering::Relaxed);
        // Each may have had one under way.
        let enough = u32::try_from(2 * self.clients.len()).unwrap();
        until("more answers", async || {
            let more = self.answered.load(Ordering::Relaxed) - seen;
            let broken = self.clients.iter().any(JoinHandle::is_finished);
            assert!(!broken, "a client got an answer that must not be; see above");
            (more >= enough).then_some(())
        })
        .await;
    }

    /// Stops asking. Panics if one answer was not as it must be, or none came.
    pub(crate) async fn end(self) {
        self.done.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.unwrap();
        }
        assert!(self.answered.load(Ordering::Relaxed) > 0);
    }
}
