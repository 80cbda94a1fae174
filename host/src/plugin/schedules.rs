//! Schedules: adds the job of each schedule when its time comes. Owns the rules for times that were missed, and keeps the
//! table of schedules in step with the live releases. `wharf_schedule_time` finds the times; the job is one like any other.
//!
//! The loop and each operation on schedules compare the table with the live releases first, so that an operator never sees or
//! runs the schedules of the release before.
//!
//! The job and the next time are stored in one transaction, which only one of several processes completes: there is one job
//! for each time. While the job of an earlier time of a schedule waits or runs, none is added, so that they do not pile up.

pub(super) mod synced;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::MutexGuard;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use wharf_schedule_time::ScheduleTime;

use self::synced::Synced;
use super::generation::Absence;
use super::registry::Registry;
use super::release::Record;
use crate::capability::declared_messages::{DeclaredSchedule, MissedTimes};
use crate::clock::Timestamp;
use crate::db::intake;
use crate::db::schedule::{self as table, DueSchedule, StoredSchedule};
use crate::error::{Error, Result};
use crate::id::{JobId, PluginName};
use crate::message::{Message, NewJob, Priority};
use crate::outage::Outage;

/// The time between two looks for schedules whose time has come.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// A time that passed longer ago than this was missed.
const LATE: Duration = Duration::from_secs(60);
/// The most pauses of one plugin that are kept while no release declares their schedules.
const MAX_KEPT_PAUSES: i64 = 100;
/// The most schedules that are read at once.
const BATCH: i64 = 100;
/// The next time of a schedule that has none: the end of the year 9999, the last one that has a text.
const NEVER: Timestamp = Timestamp(253_402_300_799_000_000);

/// A schedule of a live release.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// The plugin.
    pub plugin: PluginName,
    /// Its declaration.
    pub declared: DeclaredSchedule,
    /// The next time; `None` if there is none before the year 10000.
    pub next_at: Option<Timestamp>,
    /// The latest time at which its job was enqueued.
    pub last_at: Option<Timestamp>,
    /// An operator paused it.
    pub paused: bool,
}

impl Schedule {
    fn read(stored: StoredSchedule) -> Result<Self> {
        let declared = read_declared(&stored.declared)?;
        let StoredSchedule { plugin, next_at, last_at, paused, .. } = stored;
        Ok(Self { plugin, declared, next_at: Some(next_at).filter(|next| *next < NEVER), last_at, paused })
    }
}

/// A job that an operator enqueued before its time.
#[derive(Debug, Clone, Copy)]
pub struct EnqueuedJob {
    /// Its id.
    pub id: JobId,
    /// Why it waits; `None` if nothing holds it up.
    pub waits_because: Option<&'static str>,
}

impl Registry {
    /// Adds the jobs of schedules until `stopping`. Any number of processes may do this on one database.
    pub async fn run_schedules(&self, stopping: &CancellationToken) {
        let mut outage = Outage::of("running schedules");
        let mut ticks = interval(LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stopping.run_until_cancelled(ticks.tick()).await.is_some() {
            let step = async {
                drop(self.sync_schedules().await?);
                self.run_due_schedules().await
            };
            match stopping.run_until_cancelled(step).await {
                None => return,
                Some(Ok(())) => outage.over(),
                Some(Err(error)) => outage.failed(&error),
            }
        }
    }

    /// Returns the schedules of the live releases, in the order of plugins and names.
    ///
    /// # Errors
    /// The database fails.
    pub async fn list_schedules(&self) -> Result<Vec<Schedule>> {
        drop(self.sync_schedules().await?);
        table::list(&self.db).await?.into_iter().map(Schedule::read).collect()
    }

    /// Pauses a schedule, or resumes it at its next time from now: times that passed meanwhile were not missed. Returns
    /// whether the plugin has a schedule of this name.
    ///
    /// # Errors
    /// There is no such plugin (404), or the database fails.
    pub async fn pause_schedule(&self, plugin: &PluginName, name: &str, paused: bool) -> Result<bool> {
        self.present(plugin).await?;
        // Held, so that the end of the declaration does not come in between.
        let _synced = self.sync_schedules().await?;
        let Some(stored) = table::find(&self.db, plugin, name).await? else { return Ok(false) };
        if stored.paused == paused {
            return Ok(true);
        }
        let next_at = match paused {
            true => stored.next_at,
            false => next_time(&read_declared(&stored.declared)?, self.clock.now())?,
        };
        table::set_paused(&self.db, plugin, name, paused, next_at).await
    }

    /// Adds the job of a schedule now, also if the schedule is paused or its job waits or runs. Its times stay as they are.
    /// Returns the job, or `None` if the plugin has no schedule of this name.
    ///
    /// # Errors
    /// There is no such plugin (404), or the database fails.
    pub async fn run_schedule_now(&self, plugin: &PluginName, name: &str) -> Result<Option<EnqueuedJob>> {
        // Most of the work is done before the change lock is taken, and what changed until then is synced under it.
        drop(self.sync_schedules().await?);
        // The plugin is neither removed nor another release of it served in between.
        let _changing = self.live.lock().await;
        let waits_because = if self.present(plugin).await?.paused {
            Some("the plugin is paused")
        } else {
            self.is_absent(plugin).then_some("the plugin is not served")
        };
        drop(self.sync_schedules().await?);
        let Some(stored) = table::find(&self.db, plugin, name).await? else { return Ok(None) };
        let now = self.clock.now();
        let job = self.scheduled_job(read_declared(&stored.declared)?, now, now)?;
        let job = NewJob { dedup_key: None, ..job };
        let id = job.id;
        intake::store(&self.db, plugin, &[Message::Job(job)]).await?;
        Ok(Some(EnqueuedJob { id, waits_because }))
    }

    /// Brings the table in step with the live releases, if another generation is served than the last time. A plugin that is
    /// not served for a while, such as during a revocation, keeps its schedules. A caller that needs the change lock too takes
    /// that one first. The future may be dropped: the next one compares all that is not noted as synced again.
    async fn sync_schedules(&self) -> Result<MutexGuard<'_, Synced>> {
        let mut guard = self.synced_schedules.lock().await;
        let synced = &mut *guard;
        // In a block, because the generation must not be kept while a statement runs.
        let (number, changed) = {
            let generation = self.generation();
            if synced.generation == Some(generation.number) {
                return Ok(guard);
            }
            // The schedules of a removed plugin are deleted below, whichever of its releases comes back.
            synced.releases.retain(|plugin, _| generation.plugins.current(plugin).is_some());
            let releases = generation.plugins.loaded().map(|(release, _)| release);
            let changed = releases.filter(|release| !synced.has(release));
            let changed = changed.map(|of| {
                let Record { plugin, declaration, .. } = &of.record;
                (plugin.clone(), Arc::downgrade(of), declaration.messages.schedules.clone())
            });
            (generation.number, changed.collect::<Vec<_>>())
        };
        table::delete_of_removed(&self.db).await?;
        // One statement instead of one for each plugin.
        let mut all = match synced.generation {
            None => Some(by_plugin(table::list(&self.db).await?)),
            Some(_) => None,
        };
        for (plugin, release, declared) in changed {
            let stored = match &mut all {
                Some(all) => all.remove(&plugin).unwrap_or_default(),
                None => table::of_plugin(&self.db, &plugin).await?,
            };
            self.sync_plugin(&plugin, &declared, &stored).await?;
            synced.releases.insert(plugin, release);
        }
        synced.generation = Some(number);
        Ok(guard)
    }

    async fn sync_plugin(
        &self,
        plugin: &PluginName,
        declared: &[DeclaredSchedule],
        stored: &[StoredSchedule],
    ) -> Result<()> {
        for name in not_declared(declared, stored) {
            if table::keep_pause(&self.db, plugin, name, MAX_KEPT_PAUSES).await? {
                tracing::info!(%plugin, schedule = name, "the live release lacks a paused schedule; the pause is kept");
            } else {
                table::delete(&self.db, plugin, name).await?;
            }
        }
        for (schedule, text) in not_stored(declared, stored)? {
            match next_time(schedule, self.clock.now()) {
                Ok(next_at) => table::set(&self.db, plugin, &schedule.name, &text, next_at).await?,
                // It was valid at the deploy, with another database of time zones.
                Err(error) => {
                    tracing::error!(%plugin, schedule = schedule.name, error = error.report(), "a schedule cannot run");
                }
            }
        }
        Ok(())
    }

    async fn run_due_schedules(&self) -> Result<()> {
        loop {
            let now = self.clock.now();
            let due = table::due(&self.db, now, BATCH).await?;
            let is_last = i64::try_from(due.len()).is_ok_and(|found| found < BATCH);
            for schedule in due {
                self.run_due_schedule(&schedule, now).await?;
            }
            if is_last {
                return Ok(());
            }
        }
    }

    /// Adds the job of a schedule whose time has come, unless the time was missed and nothing happens then.
    async fn run_due_schedule(&self, schedule: &DueSchedule, now: Timestamp) -> Result<()> {
        let DueSchedule { plugin, name, next_at: due, .. } = schedule;
        let failed = |error: &Error| {
            tracing::error!(%plugin, schedule = name, error = error.report(), "a schedule cannot run");
        };
        let declared = match read_declared(&schedule.declared) {
            Ok(declared) => declared,
            Err(error) => {
                failed(&error);
                return table::delete(&self.db, plugin, name).await;
            }
        };
        let is_served = schedule.state == "live" && !schedule.plugin_paused && !self.is_absent(plugin);
        let is_missed = !is_served || now.since(*due) > LATE;
        let next = next_time(&declared, if is_missed { now } else { *due });
        let next = next.inspect_err(failed).unwrap_or(NEVER);
        // The job of a plugin that is not served now waits for it, and no second one is added meanwhile.
        let runs = schedule.state == "live" && (!is_missed || declared.missed == MissedTimes::Once);
        let job = if runs { Some(self.scheduled_job(declared, *due, now)?) } else { None };
        intake::store_scheduled(&self.db, plugin, name, (*due, next), job.as_ref()).await?;
        Ok(())
    }

    /// Returns whether the plugin is known and cannot be served. A plugin that another process deployed is not known.
    fn is_absent(&self, plugin: &PluginName) -> bool {
        let generation = self.generation();
        generation.plugins.absent.get(plugin).is_some_and(|absent| absent.reason != Absence::Removed)
    }

    /// Returns the job of a schedule for a time.
    fn scheduled_job(&self, declared: DeclaredSchedule, time: Timestamp, now: Timestamp) -> Result<NewJob> {
        let DeclaredSchedule { name, job, payload, .. } = declared;
        Ok(NewJob {
            id: JobId(self.random.uuid()?),
            name: job,
            payload,
            due_at: time,
            priority: Priority::Normal,
            dedup_key: Some(format!("schedule {name}")),
            scheduled: Some((name, time)),
            depth: 0,
            request_id: None,
            at: now,
        })
    }
}

fn by_plugin(schedules: Vec<StoredSchedule>) -> BTreeMap<PluginName, Vec<StoredSchedule>> {
    let mut all: BTreeMap<PluginName, Vec<StoredSchedule>> = BTreeMap::new();
    for schedule in schedules {
        all.entry(schedule.plugin.clone()).or_default().push(schedule);
    }
    all
}

/// Returns the names of stored schedules that are not declared any more.
fn not_declared<'a>(declared: &'a [DeclaredSchedule], stored: &'a [StoredSchedule]) -> impl Iterator<Item = &'a str> {
    let names = stored.iter().map(|stored| stored.name.as_str());
    names.filter(move |name| !declared.iter().any(|declared| declared.name == *name))
}

/// Returns the schedules that are not stored as they are declared, with their declarations as JSON.
fn not_stored<'a>(
    declared: &'a [DeclaredSchedule],
    stored: &[StoredSchedule],
) -> Result<Vec<(&'a DeclaredSchedule, String)>> {
    let mut found = Vec::new();
    for schedule in declared {
        let text = serde_json::to_string(schedule)
            .map_err(|error| Error::internal("a schedule does not become JSON").with_source(error))?;
        if !stored.iter().any(|stored| stored.name == schedule.name && stored.declared == text) {
            found.push((schedule, text));
        }
    }
    Ok(found)
}

fn read_declared(text: &str) -> Result<DeclaredSchedule> {
    serde_json::from_str(text).map_err(|error| Error::internal("a stored schedule is not readable").with_source(error))
}

/// Returns the first time of a schedule after another time.
fn next_time(declared: &DeclaredSchedule, after: Timestamp) -> Result<Timestamp> {
    let time = ScheduleTime::parse(&declared.cron, &declared.time_zone)
        .map_err(|error| Error::internal(format!("its times are not valid: {error}")))?;
    Ok(time.next_after(after.0).map_or(NEVER, Timestamp))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared(name: &str, cron: &str) -> DeclaredSchedule {
        DeclaredSchedule {
            name: name.to_owned(),
            cron: cron.to_owned(),
            time_zone: "UTC".to_owned(),
            missed: MissedTimes::Skip,
            job: "cleanup".to_owned(),
            payload: "{}".to_owned(),
        }
    }

    fn stored(schedule: &DeclaredSchedule) -> StoredSchedule {
        StoredSchedule {
            plugin: "items".parse().unwrap(),
            name: schedule.name.clone(),
            declared: serde_json::to_string(schedule).unwrap(),
            next_at: Timestamp(0),
            last_at: None,
            paused: false,
        }
    }

    #[test]
    fn only_differences_to_the_live_release_are_stored() {
        let before = [declared("same", "0 6 * * *"), declared("changed", "0 6 * * *"), declared("gone", "0 6 * * *")];
        let before = before.each_ref().map(stored);
        let now = [declared("same", "0 6 * * *"), declared("changed", "0 7 * * *"), declared("new", "0 6 * * *")];
        assert_eq!(not_declared(&now, &before).collect::<Vec<_>>(), ["gone"]);
        let names: Vec<_> =
            not_stored(&now, &before).unwrap().into_iter().map(|(schedule, _)| schedule.name.as_str()).collect();
        assert_eq!(names, ["changed", "new"]);
    }

    #[test]
    fn a_schedule_without_a_next_time_is_readable() {
        let declared = declared("a", "0 6 * * *");
        let schedule = Schedule::read(StoredSchedule { next_at: NEVER, ..stored(&declared) }).unwrap();
        assert_eq!((schedule.declared, schedule.next_at), (declared, None));
        assert_eq!(NEVER.to_string(), "9999-12-31T23:59:59Z");
    }

    #[test]
    fn the_next_time_comes_after_the_given_one() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let daily = declared("a", "0 6 * * *");
        assert_eq!(next_time(&daily, at("2026-11-30T05:59:59Z")).unwrap(), at("2026-11-30T06:00:00Z"));
        assert_eq!(next_time(&daily, at("2026-11-30T06:00:00Z")).unwrap(), at("2026-12-01T06:00:00Z"));
        assert!(next_time(&declared("a", "every day"), Timestamp(0)).is_err());
    }
}
