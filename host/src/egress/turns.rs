//! How many requests a plugin has out at once: turns that are waited for, given back when they are dropped, and whose
//! number may change while some are out.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// A bounded number of turns.
#[derive(Debug)]
pub(super) struct Turns {
    most: AtomicUsize,
    out: AtomicUsize,
    back: Notify,
}

/// One turn; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Turn(Arc<Turns>);

impl Turns {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most: most.into(), out: 0.into(), back: Notify::new() })
    }

    /// At most so many from now on. Those that are out stay out.
    pub(super) fn resize(&self, most: usize) {
        self.most.store(most, Ordering::SeqCst);
        self.back.notify_waiters();
    }

    pub(super) fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }

    /// Waits for one.
    pub(super) async fn take(self: &Arc<Self>) -> Turn {
        loop {
            // Listens before it looks, so that a turn that comes back in between is not missed.
            let mut back = pin!(self.back.notified());
            back.as_mut().enable();
            let taken = self.out.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |out| {
                (out < self.most()).then(|| out.saturating_add(1))
            });
            if taken.is_ok() {
                return Turn(Arc::clone(self));
            }
            back.await;
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.out.fetch_sub(1, Ordering::SeqCst);
        self.0.back.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn there_are_as_many_as_was_said_last() {
        let turns = Turns::new(2);
        let take = || turns.take().now_or_never();
        let (first, second) = (take().unwrap(), take().unwrap());
        assert!(take().is_none());
        turns.resize(3);
        let third = take().unwrap();
        turns.resize(1);
        drop((first, second));
        assert!(take().is_none(), "the third is still out");
        drop(third);
        assert!(take().is_some());
    }

    #[tokio::test]
    async fn who_waits_gets_what_comes_back() {
        let turns = Turns::new(1);
        let turn = turns.take().await;
        let waiting: Vec<_> = (0..20)
            .map(|_| {
                let turns = Arc::clone(&turns);
                tokio::spawn(async move { drop(turns.take().await) })
            })
            .collect();
        tokio::task::yield_now().await;
        drop(turn);
        for waiting in waiting {
            waiting.await.unwrap();
        }
    }
}
