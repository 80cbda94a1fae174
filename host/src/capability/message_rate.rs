//! The rates of messages: how many events, or jobs, each plugin may hand over in a second, and how many bytes of payloads in
//! an hour, so that it does not fill the host's database. A rate spans the releases of a plugin. Owns the counts. Never waits: the plugin learns at once that it is too fast.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::clock::Clock;
use crate::id::PluginName;

/// The rate of one plugin.
#[derive(Debug)]
pub(super) struct MessageRate {
    clock: Clock,
    per_second: AtomicU32,
    window: Mutex<Window>,
    volume: Mutex<Volume>,
}

#[derive(Debug, Default)]
struct Window {
    second: i64,
    count: u32,
}

/// The bytes of one hour.
#[derive(Debug, Default)]
struct Volume {
    hour: i64,
    bytes: u64,
}

impl MessageRate {
    fn new(clock: Clock, per_second: u32) -> Self {
        Self { clock, per_second: per_second.into(), window: Mutex::default(), volume: Mutex::default() }
    }

    /// Changes the number of messages in a second.
    pub(super) fn set(&self, per_second: u32) {
        self.per_second.store(per_second, Ordering::Relaxed);
    }

    /// Counts a message.
    ///
    /// # Errors
    /// The number of messages in a second, if this one exceeds it.
    pub(super) fn take(&self) -> Result<(), u32> {
        let second = self.clock.now().as_secs();
        let per_second = self.per_second.load(Ordering::Relaxed);
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        if window.second != second {
            *window = Window { second, count: 0 };
        }
        if window.count >= per_second {
            return Err(per_second);
        }
        window.count += 1;
        Ok(())
    }

    /// Counts the bytes of a payload.
    ///
    /// # Errors
    /// `per_hour`, if the payloads of the hour have more bytes with this one.
    pub(super) fn take_bytes(&self, bytes: usize, per_hour: u64) -> Result<(), u64> {
        let hour = self.clock.now().as_secs() / 3_600;
        let mut volume = self.volume.lock().unwrap_or_else(PoisonError::into_inner);
        if volume.hour != hour {
            *volume = Volume { hour, bytes: 0 };
        }
        let bytes = volume.bytes.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
        if bytes > per_hour {
            return Err(per_hour);
        }
        volume.bytes = bytes;
        Ok(())
    }
}

/// The rates of all plugins, for one kind of message.
#[derive(Debug)]
pub(super) struct MessageRates {
    clock: Clock,
    per_second: u32,
    plugins: Mutex<HashMap<PluginName, Arc<MessageRate>>>,
}

impl MessageRates {
    /// Creates the rates of plugins without a grant that says otherwise.
    pub(super) fn new(clock: Clock, per_second: u32) -> Self {
        Self { clock, per_second, plugins: Mutex::default() }
    }

    /// Returns the rate of a plugin.
    pub(super) fn plugin(&self, name: &PluginName) -> Arc<MessageRate> {
        let mut plugins = self.plugins.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(MessageRate::new(self.clock.clone(), self.per_second));
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
