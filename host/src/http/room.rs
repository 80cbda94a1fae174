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
const SMALL: usize = 16 * 1024;

/// The part of the memory that answers of one plugin may always wait with: so many parts make the whole.
const LITTLE: usize = 16;

/// The memory of one host.
#[derive(Debug)]
pub struct Rooms {
    /// What requests bring.
    pub requests: Room,
    /// What answers wait with.
    pub answers: Room,
}

impl Rooms {
    /// So many bytes together, half for each.
    pub fn new(bytes: usize) -> Self {
        Self { requests: Room::new(bytes / 2), answers: Room::new(bytes / 2) }
    }
}

/// A part of the memory.
#[derive(Debug, Clone)]
pub struct Room(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    size: usize,
    taken: AtomicUsize,
    refused: AtomicU64,
}

/// What is taken for one body, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Taken {
    room: Room,
    bytes: usize,
}

impl Room {
    fn new(size: usize) -> Self {
        Self(Arc::new(Shared { size, taken: AtomicUsize::new(0), refused: AtomicU64::new(0) }))
    }

    /// The most that one body may take: three quarters.
    pub fn largest(&self) -> usize {
        self.0.size - self.0.size / 4
    }

    /// Bytes that are taken.
    pub fn taken(&self) -> usize {
        self.0.taken.load(Ordering::Relaxed)
    }

    /// Requests that there was no room for.
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }

    /// For a body of which nothing has come.
    pub(super) fn enter(&self) -> Taken {
        Taken { room: self.clone(), bytes: 0 }
    }

    /// Whether there is room for one more answer, of whatever size, of a plugin of which so many bytes wait. One of which
    /// little waits is let through: who does not read the answers of one plugin does not keep the others from answering.
    ///
    /// # Errors
    /// 503: there is none.
    pub(super) fn check(&self, plugin: &AtomicUsize) -> Result<()> {
        let little = plugin.load(Ordering::Relaxed) <= self.0.size / LITTLE;
        if little || self.taken() < self.largest() { Ok(()) } else { Err(self.overloaded()) }
    }

    /// The body of an answer, and of which plugin it is, if of any. It counts until it is written or nobody wants it any
    /// more. It exists, so it is never refused: the work is done.
    pub(super) fn keep(&self, plugin: Option<&Arc<AtomicUsize>>, body: Bytes) -> Bytes {
        if body.is_empty() {
            return body;
        }
        self.0.taken.fetch_add(body.len(), Ordering::Relaxed);
        if let Some(plugin) = plugin {
            plugin.fetch_add(body.len(), Ordering::Relaxed);
        }
        let (plugin, taken) = (plugin.map(Arc::clone), Taken { room: self.clone(), bytes: body.len() });
        Bytes::from_owner(Waiting { body, plugin, _taken: taken })
    }

    fn overloaded(&self) -> Error {
        self.0.refused.fetch_add(1, Ordering::Relaxed);
        let text = "The host holds as many bodies as it may, try again";
        Error::new(Kind::Unavailable(Duration::from_secs(1)), code::OVERLOADED, text)
    }
}

impl Taken {
    /// Takes so many bytes in all.
    ///
    /// # Errors
    /// 503: there are not as many now. 413: there never are.
    pub(super) fn resize(&mut self, bytes: usize) -> Result<()> {
        if bytes > self.room.largest() {
            return Err(Error::new(Kind::TooLarge, code::BODY_TOO_LARGE, "Request body too large"));
        }
        let most = if bytes <= SMALL { self.room.0.size } else { self.room.largest() };
        let before = self.bytes;
        let changed = |taken: usize| {
            let after = taken.saturating_sub(before).saturating_add(bytes);
            Some(after).filter(|after| *after <= most || bytes <= before)
        };
        match self.room.0.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, changed) {
            Ok(_) => {
                self.bytes = bytes;
                Ok(())
            }
            Err(_) => Err(self.room.overloaded()),
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.room.0.taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

struct Waiting {
    body: Bytes,
    plugin: Option<Arc<AtomicUsize>>,
    _taken: Taken,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(plugin) = &self.plugin {
            plugin.fetch_sub(self.body.len(), Ordering::Relaxed);
        }
    }
}

impl AsRef<[u8]> for Waiting {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIT: usize = SMALL + 1;

    #[test]
    fn there_is_so_much_room_and_what_is_dropped_comes_back() {
        let room = Room::new(100 * UNIT);
        let (mut one, mut other) = (room.enter(), room.enter());
        one.resize(10).unwrap();
        one.resize(40 * UNIT).unwrap();
        assert_eq!(*other.resize(40 * UNIT).unwrap_err().code(), code::OVERLOADED);
        assert_eq!(*other.resize(80 * UNIT).unwrap_err().code(), code::BODY_TOO_LARGE, "it never fits");
        other.resize(35 * UNIT).unwrap();
        assert_eq!((room.taken(), room.refused()), (75 * UNIT, 1));
        let mut small = room.enter();
        small.resize(SMALL).unwrap();
        small.resize(UNIT).unwrap_err();
        one.resize(10 * UNIT).unwrap();
        small.resize(UNIT).unwrap();
        drop((one, other, small));
        assert_eq!(room.taken(), 0);
    }

    #[test]
    fn an_answer_that_exists_is_kept_and_the_next_is_not_begun() {
        let room = Room::new(4 * UNIT);
        let (plugin, other) = (Arc::default(), AtomicUsize::new(0));
        room.check(&plugin).unwrap();
        let answer = room.keep(Some(&plugin), vec![1; 5 * UNIT].into());
        let part = answer.slice(..10);
        assert_eq!(*room.check(&plugin).unwrap_err().code(), code::OVERLOADED);
        room.check(&other).unwrap();
        drop(answer);
        assert_eq!(room.taken(), 5 * UNIT, "a part of it is not written");
        drop(part);
        room.check(&plugin).unwrap();
        let small = room.keep(None, "of the host".into());
        assert_eq!((&*small, room.taken(), plugin.load(Ordering::Relaxed)), (&b"of the host"[..], small.len(), 0));
    }
}
