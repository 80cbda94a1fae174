//! Work on the accounts on the machine itself, while no host runs. Owns the locks of the data directory and the
//! database meanwhile: a running host would go on to accept sessions that are ended here, because it caches them.

use std::time::Duration;

use tokio::time::timeout;

use super::data_dir::DataDir;
use crate::auth::{Auth, HashCost};
use crate::clock::{Clock, Random};
use crate::config::Config;
use crate::db::node_lock::NodeLock;
use crate::db::reach::reach;
use crate::db::{Db, SQLITE_FILE};
use crate::error::{Error, Result};

/// How long to wait for a host that is about to stop.
const PATIENCE: Duration = Duration::from_secs(2);

/// The accounts of this machine's installation.
pub struct Machine {
    /// The accounts.
    pub auth: Auth,
    db: Db,
    lock: Option<NodeLock>,
    // The last field is dropped last: the directory's lock is held while anything may use the directory.
    _data_dir: DataDir,
}

impl Machine {
    /// Opens the database of the configuration and migrates its schema. Never creates one: it would be that of another
    /// directory than the host's.
    ///
    /// # Errors
    /// A host runs, the directory has no database, or the database cannot be reached.
    pub async fn open(config: &Config) -> Result<Self> {
        require_database(config)?;
        let (clock, random) = (Clock::System, Random::System);
        let mut holder = String::new();
        let directory = timeout(PATIENCE, DataDir::open(&config.server.data_dir, |found| holder = found)).await;
        let data_dir = directory.map_err(|_| in_use(&holder))??;
        let description = config.database.description();
        let failed = |error: Error| Error::internal(format!("{description}: {}", error.report()));
        reach(&config.database, config.database.timeout).await.map_err(failed)?;
        let lock = timeout(PATIENCE, NodeLock::acquire(&config.database, &random, || ())).await;
        let mut lock = lock.map_err(|_| in_use(&description))?.map_err(failed)?;
        let db = Db::open_as(&config.database, data_dir.path(), lock.as_ref().map(NodeLock::holder))
            .await
            .map_err(failed)?;
        if let Some(lock) = &mut lock {
            lock.record().await.map_err(failed)?;
        }
        let auth = Auth::open(db.clone(), &config.auth, clock, random, HashCost::default()).await?;
        Ok(Self { auth, db, lock, _data_dir: data_dir })
    }

    /// Closes the database and gives up the locks.
    pub async fn close(self) {
        self.db.close().await;
        if let Some(lock) = self.lock {
            lock.release().await;
        }
    }
}

/// Checks that the data directory has a database, for commands that must not create one.
///
/// # Errors
/// It has none. A database of PostgreSQL is not looked for.
pub fn require_database(config: &Config) -> Result<()> {
    let directory = &config.server.data_dir;
    if config.database.url.is_some() || directory.join(SQLITE_FILE).exists() {
        return Ok(());
    }
    Err(Error::internal(format!(
        "{} has no database of a host; start the host once, or name its directory with --data-dir or WHARF_DATA_DIR",
        directory.display()
    )))
}

fn in_use(used: &str) -> Error {
    Error::internal(format!("{used} is in use by a running wharf; stop it first"))
}
