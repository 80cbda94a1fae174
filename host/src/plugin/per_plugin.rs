//! A value for each plugin that is in use, such as a lock: created by its first user, shared by those who use it at the same
//! time, and dropped by the last one. Names of plugins that nobody uses take no memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::id::PluginName;

/// The values in use.
#[derive(Debug, Default)]
pub(super) struct PerPlugin<T>(Mutex<HashMap<PluginName, Weak<T>>>);

impl<T: Default> PerPlugin<T> {
    /// Returns the value of a plugin. Creates it if nobody uses it.
    pub(super) fn of(&self, plugin: &PluginName) -> Arc<T> {
        let mut values = self.values();
        values.retain(|_, value| value.strong_count() > 0);
        if let Some(value) = values.get(plugin).and_then(Weak::upgrade) {
            return value;
        }
        let value = Arc::default();
        values.insert(plugin.clone(), Arc::downgrade(&value));
        value
    }

    /// Returns the value of a plugin, if somebody uses it.
    pub(super) fn find(&self, plugin: &PluginName) -> Option<Arc<T>> {
        self.values().get(plugin).and_then(Weak::upgrade)
    }

    fn values(&self) -> MutexGuard<'_, HashMap<PluginName, Weak<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_at_the_same_time_share_a_value_and_the_last_one_drops_it() {
        let values = PerPlugin::<u8>::default();
        let (items, notes): (PluginName, PluginName) = ("items".parse().unwrap(), "notes".parse().unwrap());
        assert!(values.find(&items).is_none());
        let first = values.of(&items);
        assert!(Arc::ptr_eq(&first, &values.of(&items)) && Arc::ptr_eq(&first, &values.find(&items).unwrap()));
        let other = values.of(&notes);
        assert!(!Arc::ptr_eq(&first, &other));
        drop(first);
        assert!(values.find(&items).is_none());
        drop(other);
        let _again = values.of(&items);
        assert_eq!(values.values().len(), 1, "the name of the other one is forgotten");
    }
}
