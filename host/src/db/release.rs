//! Releases and component files in the host's database. A release is only added and, as a whole, deleted; of its row,
//! only the time at which it became the live one and the release that it replaced are changed.

use std::collections::{BTreeSet, HashSet};

use super::intake::publish;
use super::row::row;
use super::{Db, on};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::{PluginName, UserId};
use crate::message::Topic;
use crate::message::host_event::{Cause, HostEvent};

row! {
    /// A release, as stored.
    #[derive(Debug, Clone)]
    pub struct StoredRelease {
        /// The plugin.
        pub plugin: PluginName,
        /// Counts up from 1.
        pub number: i64,
        /// SHA-256 of the component file, in hexadecimal.
        pub digest: String,
        /// The mount path.
        pub mount: String,
        /// The plugin's declaration, as JSON.
        pub declaration: String,
        /// The grants, as JSON.
        pub grants: String,
        /// The settings, as JSON.
        pub settings: String,
        /// The migrations, a JSON list.
        pub migrations: String,
        /// Bytes of the component file.
        pub size: i64,
        /// The time of creation.
        pub created_at: Timestamp,
        /// The user who created the release.
        pub created_by: Option<UserId>,
        /// The trusted keys that had signed the component at that time, a JSON list.
        pub signed_by: String,
        /// The limits of its calls, as JSON.
        pub limits: String,
        /// The interfaces that its component imports, a JSON list.
        pub imports: String,
    }
}

/// The role of a new release.
#[derive(Debug, Clone, Copy)]
pub enum ReleaseRole<'a> {
    /// The live one; holds the number of the release that it replaces.
    Live(Option<i64>),
    /// A canary next to the live one; holds its plan as JSON.
    Canary(&'a str),
}

/// The columns of the plugin that a new release updates; both are JSON lists.
#[derive(Debug, Clone, Copy)]
pub struct PluginRecord<'a> {
    /// Capabilities that stay revoked.
    pub revoked: &'a str,
    /// The migrations that were applied to its database.
    pub schema: &'a str,
}

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT plugin, number, digest, releases.mount, declaration, grants, settings, migrations, size, created_at,
             created_by, signed_by, limits, imports FROM releases ",
            $rest
        )
    };
}

/// Returns one release.
///
/// # Errors
/// The database fails.
pub async fn find(db: &Db, plugin: &PluginName, number: i64) -> Result<Option<StoredRelease>> {
    const SQL: &str = select!("WHERE plugin = $1 AND number = $2");
    Ok(on!(db, pool => {
        sqlx::query_as::<_, StoredRelease>(SQL).bind(plugin.clone()).bind(number).fetch_optional(pool).await
    })?)
}

/// Returns every stored release of a plugin, newest first.
///
/// # Errors
/// The database fails.
pub async fn list(db: &Db, plugin: &PluginName) -> Result<Vec<StoredRelease>> {
    const SQL: &str = select!("WHERE plugin = $1 ORDER BY number DESC");
    Ok(on!(db, pool => sqlx::query_as::<_, StoredRelease>(SQL).bind(plugin.clone()).fetch_all(pool).await)?)
}

/// Returns the live release of each plugin that was not removed, in one query for all. The one that became live last is
/// the first.
///
/// # Errors
/// The database fails.
pub async fn list_live(db: &Db) -> Result<Vec<StoredRelease>> {
    const SQL: &str = select!(
        "JOIN plugins ON name = plugin AND live_release = number WHERE state = 'live'
         ORDER BY COALESCE(live_at, 0) DESC, plugin"
    );
    Ok(on!(db, pool => sqlx::query_as::<_, StoredRelease>(SQL).fetch_all(pool).await)?)
}

/// Returns the release that `number` replaced when it became the live one.
///
/// # Errors
/// The database fails.
pub async fn live_before(db: &Db, plugin: &PluginName, number: i64) -> Result<Option<i64>> {
    const SQL: &str = "SELECT replaced FROM releases WHERE plugin = $1 AND number = $2";
    let replaced: Option<Option<i64>> =
        on!(db, pool => sqlx::query_scalar(SQL).bind(plugin.clone()).bind(number).fetch_optional(pool).await)?;
    Ok(replaced.flatten())
}

/// Returns the number of the newest release that was ever the live one.
///
/// # Errors
/// The database fails.
pub async fn newest_live(db: &Db, plugin: &PluginName) -> Result<Option<i64>> {
    const SQL: &str = "SELECT MAX(number) FROM releases WHERE plugin = $1 AND live_at IS NOT NULL";
    Ok(on!(db, pool => sqlx::query_scalar(SQL).bind(plugin.clone()).fetch_one(pool).await)?)
}

/// Returns whether repeated steps back from the release `from` reach the release `to`.
///
/// # Errors
/// The database fails.
pub async fn leads_back(db: &Db, plugin: &PluginName, from: i64, to: i64) -> Result<bool> {
    // UNION without ALL ends also in a circle.
    const SQL: &str = "WITH RECURSIVE way (number, replaced) AS (
            SELECT number, replaced FROM releases WHERE plugin = $1 AND number = $2
            UNION SELECT r.number, r.replaced FROM releases r JOIN way ON r.number = way.replaced WHERE r.plugin = $1)
        SELECT COUNT(*) FROM way WHERE number = $3";
    let found: i64 = on!(db, pool => {
        sqlx::query_scalar(SQL).bind(plugin.clone()).bind(from).bind(to).fetch_one(pool).await
    })?;
    Ok(found > 0)
}

/// Returns the number of a plugin's next release. Numbers are never reused, because the newest release is never
/// collected.
///
/// # Errors
/// The database fails.
pub async fn next_number(db: &Db, plugin: &PluginName) -> Result<i64> {
    const SQL: &str = "SELECT MAX(number) FROM releases WHERE plugin = $1";
    let newest: Option<i64> = on!(db, pool => sqlx::query_scalar(SQL).bind(plugin.clone()).fetch_one(pool).await)?;
    Ok(newest.unwrap_or(0) + 1)
}

/// Records a release with its subscriptions and gives it its role, in one transaction. Events are delivered to the
/// subscriptions of the release that is live when they are stored. `request_id` names the request that did it.
///
/// # Errors
/// The database fails, or another node took the number.
pub async fn insert(
    db: &Db,
    release: &StoredRelease,
    subscriptions: &[&Topic],
    component: &[u8],
    role: ReleaseRole<'_>,
    record: &PluginRecord<'_>,
    request_id: Option<&str>,
) -> Result<()> {
    const SUBSCRIBE: &str = "INSERT INTO release_subscriptions (plugin, release, topic) VALUES ($1, $2, $3)";
    const LIVE: &str = "INSERT INTO plugins (name, mount, state, live_release) VALUES ($1, $2, 'live', $3)
        ON CONFLICT (name) DO UPDATE SET mount = $2, state = 'live', live_release = $3, canary = NULL";
    let (live_at, replaced) = match role {
        ReleaseRole::Live(replaced) => (Some(release.created_at), replaced),
        ReleaseRole::Canary(_) => (None, None),
    };
    on!(db, pool, begin => {
        let mut transaction = pool.begin_with(begin).await?;
        sqlx::query("INSERT INTO artifacts (digest, component) VALUES ($1, $2) ON CONFLICT (digest) DO NOTHING")
            .bind(&release.digest)
            .bind(component)
            .execute(&mut *transaction)
            .await?;
        match role {
            ReleaseRole::Live(_) => {
                sqlx::query(LIVE)
                    .bind(release.plugin.clone())
                    .bind(&release.mount)
                    .bind(release.number)
                    .execute(&mut *transaction)
                    .await?
            }
            ReleaseRole::Canary(plan) => {
                sqlx::query("UPDATE plugins SET canary = $2 WHERE name = $1")
                    .bind(release.plugin.clone())
                    .bind(plan)
                    .execute(&mut *transaction)
                    .await?
            }
        };
        sqlx::query("UPDATE plugins SET revoked = $2, schema = $3 WHERE name = $1")
            .bind(release.plugin.clone())
            .bind(record.revoked)
            .bind(record.schema)
            .execute(&mut *transaction)
            .await?;
        sqlx::query(
            "INSERT INTO releases (plugin, number, digest, mount, declaration, grants, settings, migrations, size,
             created_at, created_by, live_at, signed_by, limits, replaced, imports)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)",
        )
        .bind(release.plugin.clone())
        .bind(release.number)
        .bind(&release.digest)
        .bind(&release.mount)
        .bind(&release.declaration)
        .bind(&release.grants)
        .bind(&release.settings)
        .bind(&release.migrations)
        .bind(release.size)
        .bind(release.created_at)
        .bind(release.created_by)
        .bind(live_at)
        .bind(&release.signed_by)
        .bind(&release.limits)
        .bind(replaced)
        .bind(&release.imports)
        .execute(&mut *transaction)
        .await?;
        for topic in subscriptions {
            sqlx::query(SUBSCRIBE)
                .bind(release.plugin.clone())
                .bind(release.number)
                .bind(topic.as_str())
                .execute(&mut *transaction)
                .await?;
        }
        if let Some(at) = live_at {
            let activated = HostEvent::ReleaseActivated { plugin: release.plugin.clone(), release: release.number };
            publish!(db, transaction, Cause { at, request_id }, activated);
        }
        transaction.commit().await?;
    });
    Ok(())
}

/// Returns the component file with a digest.
///
/// # Errors
/// The database fails.
pub async fn component(db: &Db, digest: &str) -> Result<Option<Vec<u8>>> {
    Ok(on!(db, pool => {
        sqlx::query_scalar("SELECT component FROM artifacts WHERE digest = $1").bind(digest).fetch_optional(pool).await
    })?)
}

/// The releases of a plugin that [`collect`] keeps.
#[derive(Debug, Clone, Copy)]
pub struct Retention<'a> {
    /// The number of newest releases that are kept at any age.
    pub newest: usize,
    /// Younger releases are kept.
    pub since: Timestamp,
    /// The maximum size of the components of all kept releases; the oldest are deleted first.
    pub bytes: u64,
    /// Numbers of releases that are kept in any case.
    pub spared: &'a [i64],
}

/// Deletes the releases of a plugin that `retention` does not keep, and the components that no release uses any more.
/// The newest release stays, because its number must not be used again, and so does each release that a spared one
/// replaced. Returns the numbers of the deleted releases.
///
/// # Errors
/// The database fails.
pub async fn collect(db: &Db, plugin: &PluginName, retention: &Retention<'_>) -> Result<Vec<i64>> {
    const RELEASES: &str =
        "SELECT number, created_at, replaced, digest, size FROM releases WHERE plugin = $1 ORDER BY number DESC";
    // A step back over a deleted release leads to the one before it.
    const STEP_OVER: &str = "UPDATE releases
        SET replaced = (SELECT gone.replaced FROM releases gone WHERE gone.plugin = $1 AND gone.number = $2)
        WHERE plugin = $1 AND replaced = $2";
    const UNUSED: &str = "DELETE FROM artifacts WHERE digest = $1
        AND NOT EXISTS (SELECT 1 FROM releases WHERE releases.digest = artifacts.digest)";
    let (mut collected, mut digests) = (Vec::new(), BTreeSet::new());
    on!(db, pool, begin => {
        let mut transaction = pool.begin_with(begin).await?;
        let all: Vec<KeptRelease> =
            sqlx::query_as(RELEASES).bind(plugin.clone()).fetch_all(&mut *transaction).await?;
        for KeptRelease { number, digest, .. } in superfluous(&all, retention) {
            sqlx::query(STEP_OVER).bind(plugin.clone()).bind(*number).execute(&mut *transaction).await?;
            sqlx::query("DELETE FROM releases WHERE plugin = $1 AND number = $2")
                .bind(plugin.clone())
                .bind(*number)
                .execute(&mut *transaction)
                .await?;
            collected.push(*number);
            digests.insert(digest.as_str());
        }
        // Only the files of these releases, because the others may be many.
        for digest in &digests {
            sqlx::query(UNUSED).bind(*digest).execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
    });
    Ok(collected)
}

row! {
    /// A release as the retention policy sees it.
    #[derive(Debug, Clone)]
    struct KeptRelease {
        number: i64,
        created_at: Timestamp,
        replaced: Option<i64>,
        digest: String,
        size: i64,
    }
}

/// Returns the releases that are not kept. `all` has the newest first.
fn superfluous<'a>(all: &'a [KeptRelease], retention: &Retention<'_>) -> Vec<&'a KeptRelease> {
    let to_go_back_to = |release: &KeptRelease| release.replaced.filter(|_| retention.spared.contains(&release.number));
    let previous: Vec<i64> = all.iter().filter_map(to_go_back_to).collect();
    let is_spared = |at: usize, number| at == 0 || previous.contains(&number) || retention.spared.contains(&number);
    let mut components = HashSet::new();
    let mut bytes: u64 = 0;
    let mut take = |release: &'a KeptRelease| {
        if components.insert(release.digest.as_str()) {
            bytes = bytes.saturating_add(u64::try_from(release.size).unwrap_or(0));
        }
        bytes <= retention.bytes
    };
    let (spared, others): (Vec<_>, Vec<_>) =
        all.iter().enumerate().partition(|(at, release)| is_spared(*at, release.number));
    for (_, release) in spared {
        take(release);
    }
    let mut gone = Vec::new();
    for (at, release) in others {
        let is_kept = (at < retention.newest || release.created_at >= retention.since) && take(release);
        if !is_kept {
            gone.push(release);
        }
    }
    gone
}

/// Returns the digests of the live release of each plugin that was not removed, and of the one that it replaced.
///
/// # Errors
/// The database fails.
pub async fn digests_to_serve(db: &Db) -> Result<Vec<String>> {
    const SQL: &str = "SELECT DISTINCT kept.digest FROM plugins
        JOIN releases live ON live.plugin = plugins.name AND live.number = plugins.live_release
        JOIN releases kept ON kept.plugin = live.plugin AND (kept.number = live.number OR kept.number = live.replaced)
        WHERE plugins.state = 'live'";
    Ok(on!(db, pool => sqlx::query_scalar(SQL).fetch_all(pool).await)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release(number: i64, replaced: Option<i64>, size: i64) -> KeptRelease {
        KeptRelease { number, created_at: Timestamp(number), replaced, digest: format!("d{number}"), size }
    }

    fn gone(all: &[KeptRelease], newest: usize, since: i64, bytes: u64) -> Vec<i64> {
        let retention = Retention { newest, since: Timestamp(since), bytes, spared: &[2] };
        superfluous(all, &retention).into_iter().map(|release| release.number).collect()
    }

    #[test]
    fn releases_stay_by_number_and_age_within_the_bytes() {
        let all: Vec<_> = (1..=6).rev().map(|number| release(number, None, 10)).collect();
        assert_eq!(gone(&all, 3, 100, 1_000), [3, 1], "the three newest and the spared one stay");
        assert_eq!(gone(&all, 3, 3, 1_000), [1], "and those that are young enough");
        assert_eq!(gone(&all, 3, 0, 40), [3, 1], "within the bytes");
        assert_eq!(gone(&all, 3, 0, 1), [5, 4, 3, 1], "the newest and the spared one stay in any case");
    }

    #[test]
    fn the_release_that_a_spared_one_replaced_stays_in_any_case() {
        let mut all: Vec<_> = (1..=6).rev().map(|number| release(number, Some(number - 1), 10)).collect();
        assert_eq!(gone(&all, 1, 100, 1), [5, 4, 3]);
        // Release 2 was made live again, after release 5.
        all[4].replaced = Some(5);
        assert_eq!(gone(&all, 1, 100, 1), [4, 3, 1]);
    }

    #[test]
    fn a_component_of_several_releases_counts_once() {
        let mut all: Vec<_> = (1..=6).rev().map(|number| release(number, None, 10)).collect();
        for release in &mut all {
            release.digest = "same".to_owned();
        }
        assert_eq!(gone(&all, 6, 0, 10), Vec::<i64>::new());
    }
}
