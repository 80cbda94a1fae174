//! The rates of messages: how many events or jobs each plugin may hand over in a second, or mails in a minute, and how many
//! bytes of payloads in an hour, so that it does not fill the host's database. A rate spans the releases of a plugin. Owns
//! the counts. Never waits: the plugin learns at once that it is too fast.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::clock::Clock;
use crate::id::PluginName;

/// The rate of one plugin.
#[derive(Debug)]
pub(super) struct MessageRate {
    clock: Clock,
    /// The most messages in one window.
    limit: AtomicU32,
    /// The length of a window in seconds.
    seconds: i64,
    /// The messages of the present window.
    messages: Mutex<Taken>,
    /// The bytes of the present hour.
    bytes: Mutex<Taken>,
}

/// The amount that was taken in one window.
#[derive(Debug, Default)]
struct Taken {
    window: i64,
    amount: u64,
}

impl Taken {
    /// Takes an amount in this window. Returns false, and takes nothing, if it would be more than `most` then.
    fn take(&mut self, window: i64, amount: u64, most: u64) -> bool {
        if self.window != window {
            *self = Self { window, amount: 0 };
        }
        let total = self.amount.saturating_add(amount);
        let fits = total <= most;
        if fits {
            self.amount = total;
        }
        fits
    }
}

impl MessageRate {
    /// Changes the number of messages in a window.
    pub(super) fn set(&self, limit: u32) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Counts a message.
    ///
    /// # Errors
    /// The number of messages in a window, if this one exceeds it.
    pub(super) fn take(&self) -> Result<(), u32> {
        let window = self.clock.now().as_secs().div_euclid(self.seconds);
        let limit = self.limit.load(Ordering::Relaxed);
        let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        if messages.take(window, 1, limit.into()) { Ok(()) } else { Err(limit) }
    }

    /// Counts the bytes of a payload.
    ///
    /// # Errors
    /// `per_hour`, if the payloads of the hour have more bytes with this one.
    pub(super) fn take_bytes(&self, bytes: usize, per_hour: u64) -> Result<(), u64> {
        let hour = self.clock.now().as_secs().div_euclid(3_600);
        let amount = u64::try_from(bytes).unwrap_or(u64::MAX);
        let mut taken = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.take(hour, amount, per_hour) { Ok(()) } else { Err(per_hour) }
    }
}

/// The rates of all plugins, for one kind of message.
#[derive(Debug)]
pub(super) struct MessageRates {
    clock: Clock,
    limit: u32,
    seconds: i64,
    plugins: Mutex<HashMap<PluginName, Arc<MessageRate>>>,
}

impl MessageRates {
    /// Creates the rates per second of plugins without a grant that says otherwise.
    pub(super) fn new(clock: Clock, limit: u32) -> Self {
        Self { clock, limit, seconds: 1, plugins: Mutex::default() }
    }

    /// Creates rates per minute.
    pub(super) fn per_minute(clock: Clock, limit: u32) -> Self {
        Self { seconds: 60, ..Self::new(clock, limit) }
    }

    /// Returns the rate of a plugin.
    pub(super) fn plugin(&self, name: &PluginName) -> Arc<MessageRate> {
        let mut plugins = self.plugins.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || {
            let (clock, limit) = (self.clock.clone(), self.limit.into());
            let (messages, bytes) = (Mutex::default(), Mutex::default());
            Arc::new(MessageRate { clock, limit, seconds: self.seconds, messages, bytes })
        };
        Arc::clone(plugins.entry(name.clone()).or_insert_with(new))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Timestamp;

    #[test]
    fn messages_beyond_the_rate_of_a_second_are_refused() {
        let clock = Clock::manual(Timestamp(0));
        let rates = MessageRates::new(clock.clone(), 2);
        let (plugin, other) = ("items".parse().unwrap(), "other".parse().unwrap());
        let rate = rates.plugin(&plugin);
        assert_eq!([rate.take(), rates.plugin(&plugin).take(), rate.take()], [Ok(()), Ok(()), Err(2)]);
        assert_eq!(rates.plugin(&other).take(), Ok(()));
        clock.advance(Duration::from_secs(1));
        rate.set(1);
        assert_eq!([rate.take(), rate.take()], [Ok(()), Err(1)]);
    }

    #[test]
    fn a_rate_per_minute_is_counted_over_a_minute() {
        let clock = Clock::manual(Timestamp(0));
        let rate = MessageRates::per_minute(clock.clone(), 2).plugin(&"items".parse().unwrap());
        assert_eq!([rate.take(), rate.take(), rate.take()], [Ok(()), Ok(()), Err(2)]);
        clock.advance(Duration::from_secs(59));
        assert_eq!(rate.take(), Err(2));
        clock.advance(Duration::from_secs(1));
        assert_eq!(rate.take(), Ok(()));
    }

    #[test]
    fn payloads_beyond_the_volume_of_an_hour_are_refused() {
        let clock = Clock::manual(Timestamp(0));
        let rate = MessageRates::new(clock.clone(), 2).plugin(&"items".parse().unwrap());
        assert_eq!(
            [600, 401, 400, 1].map(|bytes| rate.take_bytes(bytes, 1_000)),
            [Ok(()), Err(1_000), Ok(()), Err(1_000)]
        );
        clock.advance(Duration::from_secs(3_600));
        assert_eq!(rate.take_bytes(1_000, 1_000), Ok(()));
    }
}
