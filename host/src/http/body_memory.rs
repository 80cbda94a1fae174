//! Memory for bodies: what requests bring, and what answers wait with until somebody has read them. Each is bounded by
//! itself, but no host outlives thousands of connections that are all at that bound. What has come counts, not what was
//! announced: an announcement costs a client nothing. Requests and answers have a part each, so that clients that do not
//! read keep nobody from sending. A quarter of what is for requests is for small ones, such as a login; the answers of the
//! host itself count too and are always given, only plugins are kept from making more.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;

use crate::error::{Error, Kind, Result, code};

/// Bodies of requests up to this may use all of it.
const SMALL_BODY: usize = 16 * 1024;

/// The part of the memory that answers of one plugin may always wait with: so many parts make the whole.
const FREE_SHARES: usize = 16;

/// The memory of one host.
#[derive(Debug)]
pub struct BodyMemory {
    /// What requests bring.
    pub requests: BodyBudget,
    /// What answers wait with.
    pub responses: BodyBudget,
}

impl BodyMemory {
    /// So many bytes together, half for each.
    pub fn new(bytes: usize) -> Self {
        Self { requests: BodyBudget::new(bytes / 2), responses: BodyBudget::new(bytes / 2) }
    }
}

/// A part of the memory.
#[derive(Debug, Clone)]
pub struct BodyBudget(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    size: usize,
    reserved: AtomicUsize,
    refused: AtomicU64,
}

/// What is taken for one body, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    budget: BodyBudget,
    bytes: usize,
}

impl BodyBudget {
    fn new(size: usize) -> Self {
        Self(Arc::new(Shared { size, reserved: AtomicUsize::new(0), refused: AtomicU64::new(0) }))
    }

    /// The most that one body may take: three quarters.
    pub fn largest_body(&self) -> usize {
        self.0.size - self.0.size / 4
    }

    /// Bytes that are taken.
    pub fn reserved(&self) -> usize {
        self.0.reserved.load(Ordering::Relaxed)
    }

    /// Requests that there was no room for.
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }

    /// For a body of which nothing has come.
    pub(super) fn reserve(&self) -> Reservation {
        Reservation { budget: self.clone(), bytes: 0 }
    }

    /// Whether there is room for one more answer, of whatever size, of a plugin of which so many bytes wait. One of which
    /// little waits is let through: who does not read the answers of one plugin does not keep the others from answering.
    ///
    /// # Errors
    /// 503: there is none.
    pub(super) fn admit_response(&self, plugin: &AtomicUsize) -> Result<()> {
        let little = plugin.load(Ordering::Relaxed) <= self.0.size / FREE_SHARES;
        if little || self.reserved() < self.largest_body() { Ok(()) } else { Err(self.overloaded()) }
    }

    /// The body of an answer, and of which plugin it is, if of any. It counts until it is written or nobody wants it any
    /// more. It exists, so it is never refused: the work is done.
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
        let text = "The host holds as many bodies as it may, try again";
        Error::new(Kind::Unavailable(Duration::from_secs(1)), code::OVERLOADED, text)
    }
}

impl Reservation {
    /// Takes so many bytes in all.
    ///
    /// # Errors
    /// 503: there are not as many now. 413: there never are.
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
    fn there_is_so_much_room_and_what_is_dropped_comes_back() {
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
    fn an_answer_that_exists_is_kept_and_the_next_is_not_begun() {
        let budget = BodyBudget::new(4 * UNIT);
        let (plugin, other) = (Arc::default(), AtomicUsize::new(0));
        budget.admit_response(&plugin).unwrap();
        let answer = budget.track_response(Some(&plugin), vec![1; 5 * UNIT].into());
        let part = answer.slice(..10);
        assert_eq!(*budget.admit_response(&plugin).unwrap_err().code(), code::OVERLOADED);
        budget.admit_response(&other).unwrap();
        drop(answer);
        assert_eq!(budget.reserved(), 5 * UNIT, "a part of it is not written");
        drop(part);
        budget.admit_response(&plugin).unwrap();
        let small = budget.track_response(None, "of the host".into());
        assert_eq!((&*small, budget.reserved(), plugin.load(Ordering::Relaxed)), (&b"of the host"[..], small.len(), 0));
    }
}
