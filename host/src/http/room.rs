//! Memory for bodies: what requests bring and what answers wait with until somebody has read them, all together. Each is
//! bounded by itself, but no host outlives thousands of connections that are all at that bound. What has come counts, not
//! what was announced: an announcement costs a client nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{Error, Kind, Result, code};

/// What is counted at once.
const UNIT: usize = 1024;
/// Answers below this are not counted: most are, and all of them together are less than what connections take.
const SMALL: usize = 16 * 1024;

/// The memory.
#[derive(Debug)]
pub struct Room {
    left: Arc<Semaphore>,
    units: usize,
    refused: AtomicU64,
}

/// A part of it, given back when it is dropped.
#[derive(Debug, Default)]
pub(super) struct Taken(Option<OwnedSemaphorePermit>);

impl Room {
    /// So many bytes.
    pub fn new(bytes: usize) -> Self {
        let units = bytes.div_ceil(UNIT).min(Semaphore::MAX_PERMITS);
        Self { left: Arc::new(Semaphore::new(units)), units, refused: AtomicU64::new(0) }
    }

    /// Bytes that are taken.
    pub fn taken(&self) -> usize {
        self.units.saturating_sub(self.left.available_permits()).saturating_mul(UNIT)
    }

    /// Requests that there was no room for.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Takes as much as a body of so many bytes needs, beside what is taken for it already.
    ///
    /// # Errors
    /// 503: there is not as much.
    pub(super) fn take(&self, taken: &mut Taken, bytes: usize) -> Result<()> {
        let more = bytes.div_ceil(UNIT).saturating_sub(taken.0.as_ref().map_or(0, OwnedSemaphorePermit::num_permits));
        if more == 0 {
            return Ok(());
        }
        let permits =
            u32::try_from(more).ok().and_then(|more| Arc::clone(&self.left).try_acquire_many_owned(more).ok());
        let Some(permits) = permits else {
            self.refused.fetch_add(1, Ordering::Relaxed);
            let text = "The host holds as many bodies as it may, try again";
            return Err(Error::new(Kind::Unavailable(Duration::from_secs(1)), code::OVERLOADED, text));
        };
        match &mut taken.0 {
            Some(taken) => taken.merge(permits),
            none => *none = Some(permits),
        }
        Ok(())
    }

    /// The body of an answer, which counts until it is written or nobody wants it any more.
    ///
    /// # Errors
    /// As [`Room::take`].
    pub(super) fn keep(&self, body: Bytes) -> Result<Bytes> {
        if body.len() < SMALL {
            return Ok(body);
        }
        let mut taken = Taken::default();
        self.take(&mut taken, body.len())?;
        Ok(Bytes::from_owner(Waiting { body, _taken: taken }))
    }
}

struct Waiting {
    body: Bytes,
    _taken: Taken,
}

impl AsRef<[u8]> for Waiting {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_so_much_room_and_what_is_dropped_comes_back() {
        let room = Room::new(100 * UNIT);
        let mut request = Taken::default();
        room.take(&mut request, 1).unwrap();
        room.take(&mut request, 40 * UNIT).unwrap();
        assert_eq!(room.taken(), 40 * UNIT);
        let answer = room.keep(vec![1; 60 * UNIT].into()).unwrap();
        let (part, refused) = (answer.slice(..10), room.keep(vec![2; SMALL].into()));
        assert_eq!(*refused.unwrap_err().code(), code::OVERLOADED);
        assert_eq!((room.refused(), &*room.keep("small".into()).unwrap()), (1, &b"small"[..]));
        drop((request, answer));
        assert_eq!(room.taken(), 60 * UNIT, "a part of it is not written");
        drop(part);
        assert_eq!(room.taken(), 0);
    }
}
