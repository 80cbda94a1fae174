//! The memory limit of all bodies together: request bodies, and response bodies that clients have not read yet.
//!
//! Each body has its own size limit, but thousands of connections at that limit would exhaust the memory of any host.
//! Only received bytes count, because announcing a length costs a client nothing. Requests and responses have separate
//! budgets, so clients that do not read cannot block clients that send. A quarter of the request budget is reserved for
//! small bodies such as a login. Responses of the host itself count too, but are never refused: only plugins are
//! stopped from producing more responses.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;

use crate::error::{Error, Kind, Result, code};

/// Request bodies up to this size may use the whole budget.
const SMALL_BODY: usize = 16 * 1024;

/// Divides the response budget: unread responses of one plugin may always use one of this number of shares.
const FREE_SHARES: usize = 16;

/// The memory for bodies of one host.
#[derive(Debug)]
pub struct BodyMemory {
    /// The budget for request bodies.
    pub requests: BodyBudget,
    /// The budget for unread response bodies.
    pub responses: BodyBudget,
}

impl BodyMemory {
    /// Splits the given number of bytes into two budgets of equal size.
    pub fn new(bytes: usize) -> Self {
        Self { requests: BodyBudget::new(bytes / 2), responses: BodyBudget::new(bytes / 2) }
    }
}

/// A budget of memory that bodies share.
#[derive(Debug, Clone)]
pub struct BodyBudget(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    size: usize,
    reserved: AtomicUsize,
    refused: AtomicU64,
}

/// The memory reserved for one body, released when dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    budget: BodyBudget,
    bytes: usize,
}

impl BodyBudget {
    fn new(size: usize) -> Self {
        Self(Arc::new(Shared { size, reserved: AtomicUsize::new(0), refused: AtomicU64::new(0) }))
    }

    /// Returns the largest size of one body: three quarters of the budget.
    pub fn largest_body(&self) -> usize {
        self.0.size - self.0.size / 4
    }

    /// Returns the reserved bytes.
    pub fn reserved(&self) -> usize {
        self.0.reserved.load(Ordering::Relaxed)
    }

    /// Returns the number of requests refused because the budget was used up.
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }

    /// Returns a reservation for a body of which nothing has arrived yet.
    pub(super) fn reserve(&self) -> Reservation {
        Reservation { budget: self.clone(), bytes: 0 }
    }

    /// Checks that a plugin may produce one more response of any size. `plugin` holds the bytes of its unread
    /// responses. A plugin with few unread bytes always passes, so clients that do not read one plugin's responses
    /// cannot block others.
    ///
    /// # Errors
    /// 503: the budget is used up.
    pub(super) fn admit_response(&self, plugin: &AtomicUsize) -> Result<()> {
        let little = plugin.load(Ordering::Relaxed) <= self.0.size / FREE_SHARES;
        if little || self.reserved() < self.largest_body() { Ok(()) } else { Err(self.overloaded()) }
    }

    /// Counts a response body until it is written or dropped. `plugin` is the count of the plugin that produced it, if
    /// any. Never refuses, because the body already exists and the work is done.
    pub(super) fn track_response(&self, plugin: Option<&Arc<AtomicUsize>>, body: Bytes) -> Bytes {
        if body.is_empty() {
            return body;
        }
        self.0.reserved.fetch_add(body.len(), Ordering::Relaxed);
        if let Some(plugin) = plugin {
            plugin.fetch_add(body.len(), Ordering::Relaxed);
        }
        let (plugin, reservation) = (plugin.map(Arc::clone), Reservation { budget: self.clone(), bytes: body.len() });
        Bytes::from_owner(UnreadBody { body, plugin, _reservation: reservation })
    }

    fn overloaded(&self) -> Error {
        self.0.refused.fetch_add(1, Ordering::Relaxed);
        let text = "The memory for bodies is used up, try again";
        Error::new(Kind::Unavailable(Duration::from_secs(1)), code::OVERLOADED, text)
    }
}

impl Reservation {
    /// Returns the reserved bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Changes the reservation to the given number of bytes.
    ///
    /// # Errors
    /// 503: the budget is used up at present. 413: the body can never fit.
    pub(super) fn resize(&mut self, bytes: usize) -> Result<()> {
        if bytes > self.budget.largest_body() {
            return Err(Error::new(Kind::TooLarge, code::BODY_TOO_LARGE, "Request body too large"));
        }
        let most = if bytes <= SMALL_BODY { self.budget.0.size } else { self.budget.largest_body() };
        let before = self.bytes;
        let changed = |taken: usize| {
            let after = taken.saturating_sub(before).saturating_add(bytes);
            Some(after).filter(|after| *after <= most || bytes <= before)
        };
        match self.budget.0.reserved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, changed) {
            Ok(_) => {
                self.bytes = bytes;
                Ok(())
            }
            Err(_) => Err(self.budget.overloaded()),
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.0.reserved.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

struct UnreadBody {
    body: Bytes,
    plugin: Option<Arc<AtomicUsize>>,
    _reservation: Reservation,
}

impl Drop for UnreadBody {
    fn drop(&mut self) {
        if let Some(plugin) = &self.plugin {
            plugin.fetch_sub(self.body.len(), Ordering::Relaxed);
        }
    }
}

impl AsRef<[u8]> for UnreadBody {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIT: usize = SMALL_BODY + 1;

    #[test]
    fn the_budget_is_limited_and_dropped_reservations_are_released() {
        let budget = BodyBudget::new(100 * UNIT);
        let (mut one, mut other) = (budget.reserve(), budget.reserve());
        one.resize(10).unwrap();
        one.resize(40 * UNIT).unwrap();
        assert_eq!(*other.resize(40 * UNIT).unwrap_err().code(), code::OVERLOADED);
        assert_eq!(*other.resize(80 * UNIT).unwrap_err().code(), code::BODY_TOO_LARGE, "it never fits");
        other.resize(35 * UNIT).unwrap();
        assert_eq!((budget.reserved(), budget.refused()), (75 * UNIT, 1));
        let mut small = budget.reserve();
        small.resize(SMALL_BODY).unwrap();
        small.resize(UNIT).unwrap_err();
        one.resize(10 * UNIT).unwrap();
        small.resize(UNIT).unwrap();
        drop((one, other, small));
        assert_eq!(budget.reserved(), 0);
    }

    #[test]
    fn an_existing_response_is_kept_and_the_next_one_is_refused() {
        let budget = BodyBudget::new(4 * UNIT);
        let (plugin, other) = (Arc::default(), AtomicUsize::new(0));
        budget.admit_response(&plugin).unwrap();
        let response = budget.track_response(Some(&plugin), vec![1; 5 * UNIT].into());
        let part = response.slice(..10);
        assert_eq!(*budget.admit_response(&plugin).unwrap_err().code(), code::OVERLOADED);
        budget.admit_response(&other).unwrap();
        drop(response);
        assert_eq!(budget.reserved(), 5 * UNIT, "part of it is not written yet");
        drop(part);
        budget.admit_response(&plugin).unwrap();
        let small = budget.track_response(None, "of the host".into());
        assert_eq!((&*small, budget.reserved(), plugin.load(Ordering::Relaxed)), (&b"of the host"[..], small.len(), 0));
    }
}
