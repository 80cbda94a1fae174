//! A map of plugins in one state. A clone shares its content with the original and costs the same for ten plugins as for
//! ten thousand. The map remembers which plugins were changed, so that a swap looks at those only.

use std::ops::Bound;

use rpds::RedBlackTreeMapSync;

use crate::id::PluginName;

/// See the module.
#[derive(Clone)]
pub struct StateMap<V> {
    plugins: SharedMap<PluginName, V>,
    changed: Vec<PluginName>,
}

impl<V> Default for StateMap<V> {
    fn default() -> Self {
        Self { plugins: SharedMap::default(), changed: Vec::new() }
    }
}

impl<V: Clone> StateMap<V> {
    /// Returns the state of a plugin.
    pub fn get(&self, plugin: &PluginName) -> Option<&V> {
        self.plugins.get(plugin)
    }

    /// Returns whether the plugin is in this state.
    pub fn contains_key(&self, plugin: &PluginName) -> bool {
        self.plugins.get(plugin).is_some()
    }

    /// Returns the number of plugins.
    pub fn len(&self) -> usize {
        self.plugins.len()
    }

    /// Returns whether there is no plugin.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the plugins in order.
    pub fn keys(&self) -> impl Iterator<Item = &PluginName> {
        self.iter().map(|(plugin, _)| plugin)
    }

    /// Returns the states in the order of the plugins.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, state)| state)
    }

    /// Returns the plugins with their states, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&PluginName, &V)> {
        self.plugins.iter()
    }

    /// Puts a plugin into this state.
    pub(super) fn insert(&mut self, plugin: PluginName, state: V) {
        self.changed.push(plugin.clone());
        self.plugins.insert(plugin, state);
    }

    /// Takes a plugin out of this state.
    pub(super) fn remove(&mut self, plugin: &PluginName) {
        self.changed.push(plugin.clone());
        self.plugins.remove(plugin);
    }

    /// Returns the plugins that were changed since the last call, some of them perhaps repeatedly.
    pub(super) fn take_changed(&mut self) -> Vec<PluginName> {
        std::mem::take(&mut self.changed)
    }
}

/// A sorted map whose clones share their content.
#[derive(Clone)]
pub(super) struct SharedMap<K: Ord, V>(RedBlackTreeMapSync<K, V>);

impl<K: Ord, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        Self(RedBlackTreeMapSync::new_sync())
    }
}

impl<K: Ord + Clone, V: Clone> SharedMap<K, V> {
    pub(super) fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: std::borrow::Borrow<Q>,
    {
        self.0.get(key)
    }

    pub(super) fn len(&self) -> usize {
        self.0.size()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.0.iter()
    }

    pub(super) fn insert(&mut self, key: K, value: V) {
        self.0.insert_mut(key, value);
    }

    pub(super) fn remove<Q: Ord + ?Sized>(&mut self, key: &Q)
    where
        K: std::borrow::Borrow<Q>,
    {
        self.0.remove_mut(key);
    }

    /// Returns the first two entries whose keys are not less than `key`.
    pub(super) fn two_from<'a, Q: Ord + ?Sized>(&'a self, key: &Q) -> [Option<(&'a K, &'a V)>; 2]
    where
        K: std::borrow::Borrow<Q>,
    {
        let mut entries = self.0.range((Bound::Included(key), Bound::Unbounded));
        [entries.next(), entries.next()]
    }
}
