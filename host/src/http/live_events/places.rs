//! The places of event streams: how many may be open, in all and for each caller.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::error::{Error, Kind, Result, code};

/// The wait that is proposed to a client that gets no place.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// See the module.
pub(in crate::http) struct Places {
    all: usize,
    of_caller: usize,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Default)]
struct Taken {
    all: usize,
    by_caller: HashMap<String, usize>,
}

/// One place, given back when it is dropped.
pub(in crate::http) struct Place {
    caller: String,
    taken: Arc<Mutex<Taken>>,
}

impl Places {
    pub(in crate::http) fn new(all: usize, of_caller: usize) -> Self {
        Self { all, of_caller, taken: Arc::default() }
    }

    /// Takes a place.
    ///
    /// # Errors
    /// 429 `too_many_streams`: the caller has the maximum number of streams. 503 `overloaded`: all places are taken.
    pub(in crate::http) fn take(&self, caller: String) -> Result<Place> {
        let mut taken = lock(&self.taken);
        let own = taken.by_caller.get(&caller).copied().unwrap_or_default();
        if own >= self.of_caller {
            let text = "You have the maximum number of event streams open";
            return Err(Error::new(Kind::TooManyRequests(RETRY_AFTER), code::TOO_MANY_STREAMS, text));
        }
        if taken.all >= self.all {
            let text = "The host has the maximum number of event streams open, try again";
            return Err(Error::new(Kind::Unavailable(RETRY_AFTER), code::OVERLOADED, text));
        }
        taken.all += 1;
        taken.by_caller.insert(caller.clone(), own + 1);
        Ok(Place { caller, taken: Arc::clone(&self.taken) })
    }

    /// Returns the number of places.
    pub(in crate::http) fn all(&self) -> usize {
        self.all
    }

    /// Returns the number of places that are taken.
    pub(in crate::http) fn taken(&self) -> usize {
        lock(&self.taken).all
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        taken.all = taken.all.saturating_sub(1);
        let own = taken.by_caller.get(&self.caller).map_or(0, |own| own.saturating_sub(1));
        if own == 0 {
            taken.by_caller.remove(&self.caller);
        } else {
            taken.by_caller.insert(self.caller.clone(), own);
        }
    }
}

fn lock(taken: &Mutex<Taken>) -> MutexGuard<'_, Taken> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_after_its_stream() {
        let places = Places::new(3, 2);
        let take = |caller: &str| places.take(caller.to_owned()).map_err(|error| error.code().as_str().to_owned());
        let (first, _second, third) = (take("a").unwrap(), take("a").unwrap(), take("b").unwrap());
        assert_eq!(take("a").err().as_deref(), Some("too_many_streams"));
        assert_eq!(take("c").err().as_deref(), Some("overloaded"));
        drop(third);
        assert_eq!(take("a").err().as_deref(), Some("too_many_streams"));
        let other = take("c").unwrap();
        drop(first);
        drop(other);
        assert_eq!((places.taken(), lock(&places.taken).by_caller.len()), (1, 1));
        let _again = take("a").unwrap();
    }
}
