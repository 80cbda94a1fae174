//! The index of mounts: finds the plugin below whose mount a path lies, and the mount that overlaps with a new one. Its
//! cost depends on the length of the path and hardly on the number of plugins. Knows no release.
//!
//! The mounts of loaded plugins never overlap. A plugin that is not loaded keeps its mount without a right to it, so that
//! its paths can tell why it is not served; several such plugins may have the same one.

use super::state_map::SharedMap;
use crate::id::PluginName;

/// The maximum number of segments of a mount, see `route::template`.
const MAX_SEGMENTS: usize = 32;

/// The mounts of all plugins. A clone shares its content with the original.
#[derive(Clone, Default)]
pub(super) struct Mounts {
    loaded: SharedMap<String, PluginName>,
    absent: SharedMap<String, SharedMap<PluginName, ()>>,
}

impl Mounts {
    /// Returns the loaded plugin below whose mount a path lies.
    pub(super) fn loaded(&self, path: &str) -> Option<&PluginName> {
        prefixes(path).find_map(|prefix| self.loaded.get(prefix))
    }

    /// Returns the plugin that is not loaded below whose mount a path lies: the longest mount wins.
    pub(super) fn absent(&self, path: &str) -> Option<&PluginName> {
        let found = prefixes(path).filter_map(|prefix| self.absent.get(prefix)).last()?;
        found.iter().next().map(|(plugin, ())| plugin)
    }

    /// Returns a mount of another loaded plugin that is equal to `mount`, above it or below it.
    pub(super) fn overlapping(&self, mount: &str, plugin: &PluginName) -> Option<(String, &PluginName)> {
        let above = prefixes(mount).find_map(|prefix| Some((prefix.to_owned(), self.loaded.get(prefix)?)));
        if let Some((_, other)) = &above
            && *other != plugin
        {
            return above;
        }
        // Besides one mount of the plugin itself, the first one below decides.
        let all_below = format!("{mount}/");
        let mut found = self.loaded.two_from(all_below.as_str()).into_iter().flatten();
        let below = found.find(|(mount, other)| mount.starts_with(&all_below) && *other != plugin);
        below.map(|(mount, other)| (mount.clone(), other))
    }

    pub(super) fn insert_loaded(&mut self, mount: String, plugin: PluginName) {
        self.loaded.insert(mount, plugin);
    }

    pub(super) fn remove_loaded(&mut self, mount: &str, plugin: &PluginName) {
        if self.loaded.get(mount) == Some(plugin) {
            self.loaded.remove(mount);
        }
    }

    pub(super) fn insert_absent(&mut self, mount: String, plugin: PluginName) {
        let mut plugins = self.absent.get(mount.as_str()).cloned().unwrap_or_default();
        plugins.insert(plugin, ());
        self.absent.insert(mount, plugins);
    }

    pub(super) fn remove_absent(&mut self, mount: &str, plugin: &PluginName) {
        let Some(mut plugins) = self.absent.get(mount).cloned() else { return };
        plugins.remove(plugin);
        if plugins.len() == 0 {
            self.absent.remove(mount);
        } else {
            self.absent.insert(mount.to_owned(), plugins);
        }
    }
}

/// Returns the texts of which a path is one or lies below one: `/a/b` has `/a` and `/a/b`.
fn prefixes(path: &str) -> impl Iterator<Item = &str> {
    let ends = path.match_indices('/').map(|(at, _)| at).skip(1).chain([path.len()]);
    ends.take(MAX_SEGMENTS).filter_map(|end| path.get(..end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> PluginName {
        text.parse().unwrap()
    }

    #[test]
    fn a_path_belongs_to_the_mount_that_it_is_or_lies_below() {
        let mut mounts = Mounts::default();
        for (mount, plugin) in [("/api/v1/items", "items"), ("/api/v1/items-2", "more"), ("/shop", "shop")] {
            mounts.insert_loaded(mount.to_owned(), name(plugin));
        }
        for (path, plugin) in [
            ("/api/v1/items", Some("items")),
            ("/api/v1/items/", Some("items")),
            ("/api/v1/items/7/x", Some("items")),
            ("/api/v1/items-2/7", Some("more")),
            ("/api/v1/item", None),
            ("/api/v1", None),
            ("/shop", Some("shop")),
            ("/shopping", None),
            ("/", None),
            ("*", None),
        ] {
            assert_eq!(mounts.loaded(path).map(PluginName::as_str), plugin, "{path}");
        }
        mounts.remove_loaded("/shop", &name("another"));
        assert!(mounts.loaded("/shop").is_some());
        mounts.remove_loaded("/shop", &name("shop"));
        assert!(mounts.loaded("/shop").is_none());
    }

    #[test]
    fn a_mount_overlaps_with_those_above_and_below_it_but_not_with_its_own() {
        let mut mounts = Mounts::default();
        mounts.insert_loaded("/a/b".to_owned(), name("own"));
        mounts.insert_loaded("/a/c/d".to_owned(), name("other"));
        let overlapping = |mount: &str| mounts.overlapping(mount, &name("own")).map(|(mount, _)| mount);
        for mount in ["/a/c", "/a/c/d", "/a/c/d/e", "/a"] {
            assert_eq!(overlapping(mount).as_deref(), Some("/a/c/d"), "{mount}");
        }
        for mount in ["/a/b", "/a/b/c", "/a/c/dd", "/b", "/a/c-d"] {
            assert_eq!(overlapping(mount), None, "{mount}");
        }
    }

    #[test]
    fn of_absent_plugins_the_longest_mount_wins_and_then_the_first_name() {
        let mut mounts = Mounts::default();
        for (mount, plugin) in [("/a", "upper"), ("/a/b", "two"), ("/a/b", "one")] {
            mounts.insert_absent(mount.to_owned(), name(plugin));
        }
        let absent = |mounts: &Mounts, path: &str| mounts.absent(path).map(ToString::to_string);
        assert_eq!(absent(&mounts, "/a/b/c").as_deref(), Some("one"));
        mounts.remove_absent("/a/b", &name("one"));
        assert_eq!(absent(&mounts, "/a/b").as_deref(), Some("two"));
        mounts.remove_absent("/a/b", &name("two"));
        assert_eq!(absent(&mounts, "/a/b").as_deref(), Some("upper"));
    }
}
