//! The releases of this process whose schedules are in the table.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use tokio::sync::Mutex;

use crate::id::PluginName;
use crate::plugin::release::Release;

/// The synced releases. While the lock is held, this process changes no declaration in the table.
pub(in crate::plugin) type SyncedSchedules = Mutex<Synced>;

/// The generation and the releases whose schedules are in the table. A release that was removed and is served again is
/// another one here, although it has the same number: the removal deleted its schedules.
#[derive(Debug, Default)]
pub(in crate::plugin) struct Synced {
    pub(super) generation: Option<u64>,
    pub(super) releases: BTreeMap<PluginName, Weak<Release>>,
}

impl Synced {
    pub(super) fn has(&self, release: &Arc<Release>) -> bool {
        let known = self.releases.get(&release.record.plugin);
        known.is_some_and(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(release)))
    }
}
