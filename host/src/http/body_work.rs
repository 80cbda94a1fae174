//! Runs the work on large bodies (decoding, parsing, validation), and long validations of small ones, away from the
//! worker threads, because it has no await and its time grows with the body. A worker thread that is busy for long
//! delays every connection that it drives.
//!
//! Owns the number of such tasks that run at once: one per processor. Further ones wait in order of arrival. Their
//! bodies count as body memory meanwhile, which limits their number.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::error::{Error, Result};

/// Bodies up to this size are handled at once: a switch of threads would usually cost more than the work.
const SMALL: usize = 64 * 1024;

/// Returns whether a body is so small that work that is certainly linear is done at once.
pub(super) fn is_small(bytes: usize) -> bool {
    bytes <= SMALL
}

/// The work on large bodies.
#[derive(Debug, Clone)]
pub struct BodyWork(Arc<Semaphore>);

impl BodyWork {
    /// Allows as many tasks at once as there are processors.
    pub fn new() -> Self {
        Self(Arc::new(Semaphore::new(std::thread::available_parallelism().map_or(1, usize::from))))
    }

    /// Runs `work` on a body of the given size.
    ///
    /// # Errors
    /// It panicked, which is a defect of the host.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        if is_small(bytes) {
            return Ok(work());
        }
        self.run_apart(work).await
    }

    /// Runs `work` on another thread, whatever the size of its body.
    ///
    /// # Errors
    /// It panicked, which is a defect of the host.
    pub(super) async fn run_apart<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let permit = Arc::clone(&self.0).acquire_owned().await.map_err(Error::internal)?;
        // A client that leaves does not end the task, so the permit belongs to the task.
        let task = tokio::task::spawn_blocking(move || {
            let result = work();
            drop(permit);
            result
        });
        task.await.map_err(|error| Error::internal("the work on a body failed").with_source(error))
    }
}

impl Default for BodyWork {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn work_on_a_large_body_does_not_stop_the_worker_thread() {
        // The only worker thread must run the second task before the work can end.
        let (send, receive) = mpsc::channel::<()>();
        let work = BodyWork::new();
        let large = tokio::spawn(async move { work.run(SMALL + 1, move || receive.recv()).await });
        tokio::spawn(async move { send.send(()) });
        assert_eq!(large.await.unwrap().unwrap(), Ok(()));
    }
}
