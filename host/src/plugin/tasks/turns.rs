//! The turns of tasks: which queue may start its next task. Plugins take turns, however many tasks each has. Of one
//! plugin, the queues of the highest priority come first, and among these the queues take turns. A quarter of all places is
//! for deliveries, because jobs can run for long. Owns the bounds on running tasks and the order; knows neither the database
//! nor a release.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};

use crate::id::PluginName;

/// A queue: the tasks of one plugin with the same name and priority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Queue {
    /// `PLUGIN/NAME/PRIORITY`.
    pub(super) whole: String,
    pub(super) plugin: PluginName,
    /// The topic or the job.
    pub(super) name: String,
    priority: u8,
}

impl Queue {
    /// Reads the name of a queue. Returns `None` for one that only another program can have written.
    pub(super) fn read(whole: String) -> Option<Self> {
        let mut parts = whole.splitn(3, '/');
        let plugin = parts.next()?.parse().ok()?;
        let name = parts.next()?.to_owned();
        let priority = parts.next()?.parse().ok()?;
        Some(Self { plugin, name, priority, whole })
    }

    /// Returns whether its tasks are jobs. The name of a topic has a dot, that of a job has none.
    pub(super) fn is_of_jobs(&self) -> bool {
        !self.name.contains('.')
    }
}

/// How many tasks may run at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    /// Of the plugin.
    pub(super) plugin: usize,
    /// Jobs of the plugin.
    pub(super) jobs: usize,
    /// Of this topic or job.
    pub(super) name: usize,
}

/// A queue that may start a task, with its bounds.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub(super) queue: Queue,
    pub(super) bounds: Bounds,
}

/// The numbers of running tasks.
#[derive(Debug, Clone, Default)]
pub(super) struct Load {
    total: usize,
    all_jobs: usize,
    plugins: HashMap<PluginName, usize>,
    jobs: HashMap<PluginName, usize>,
    names: HashMap<(PluginName, String), usize>,
}

impl Load {
    /// Counts a task that starts.
    pub(super) fn start(&mut self, queue: &Queue) {
        self.total += 1;
        *self.plugins.entry(queue.plugin.clone()).or_default() += 1;
        if queue.is_of_jobs() {
            self.all_jobs += 1;
            *self.jobs.entry(queue.plugin.clone()).or_default() += 1;
        }
        *self.names.entry((queue.plugin.clone(), queue.name.clone())).or_default() += 1;
    }

    /// Counts a task that ended.
    pub(super) fn end(&mut self, queue: &Queue) {
        self.total = self.total.saturating_sub(1);
        count_down(&mut self.plugins, &queue.plugin);
        if queue.is_of_jobs() {
            self.all_jobs = self.all_jobs.saturating_sub(1);
            count_down(&mut self.jobs, &queue.plugin);
        }
        count_down(&mut self.names, &(queue.plugin.clone(), queue.name.clone()));
    }

    /// Returns the number of running tasks.
    pub(super) fn total(&self) -> usize {
        self.total
    }

    /// Returns whether a task of a queue may start if all plugins together run at most `total`.
    fn admits(&self, Candidate { queue, bounds }: &Candidate, total: usize) -> bool {
        let running = |counts: &HashMap<PluginName, usize>| counts.get(&queue.plugin).copied().unwrap_or_default();
        let of_name = self.names.get(&(queue.plugin.clone(), queue.name.clone())).copied().unwrap_or_default();
        running(&self.plugins) < bounds.plugin
            && (!queue.is_of_jobs() || (running(&self.jobs) < bounds.jobs && self.all_jobs < places_of_jobs(total)))
            && of_name < bounds.name
    }
}

/// Returns how many of all places jobs may have.
fn places_of_jobs(total: usize) -> usize {
    total - total / 4
}

/// Counts one less, and forgets a count of zero.
fn count_down<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(key);
        }
    }
}

/// The order: when each plugin and each queue had its latest turn.
#[derive(Debug, Default)]
pub(super) struct Turns {
    turn: u64,
    plugins: HashMap<PluginName, u64>,
    queues: HashMap<String, u64>,
}

impl Turns {
    /// Plans the next tasks to start: for some candidates, by their indexes, how many. `total` bounds the running tasks of
    /// all plugins.
    pub(super) fn plan(&mut self, candidates: &[Candidate], load: &Load, total: usize) -> Vec<(usize, usize)> {
        let mut load = load.clone();
        let mut planned: Vec<(usize, usize)> = Vec::new();
        while load.total < total {
            let admitted = candidates.iter().enumerate().filter(|(_, candidate)| load.admits(candidate, total));
            let Some((index, Candidate { queue, .. })) = admitted.min_by_key(|&(_, candidate)| self.order(candidate))
            else {
                break;
            };
            load.start(queue);
            self.turn += 1;
            self.plugins.insert(queue.plugin.clone(), self.turn);
            self.queues.insert(queue.whole.clone(), self.turn);
            match planned.iter_mut().find(|(planned, _)| *planned == index) {
                Some((_, count)) => *count += 1,
                None => planned.push((index, 1)),
            }
        }
        planned
    }

    /// Forgets the turns of plugins and queues that have no task.
    pub(super) fn keep(&mut self, ready: &[Queue]) {
        let plugins: BTreeSet<&PluginName> = ready.iter().map(|queue| &queue.plugin).collect();
        let queues: BTreeSet<&str> = ready.iter().map(|queue| queue.whole.as_str()).collect();
        self.plugins.retain(|plugin, _| plugins.contains(plugin));
        self.queues.retain(|queue, _| queues.contains(queue.as_str()));
    }

    fn order<'a>(&self, Candidate { queue, .. }: &'a Candidate) -> (u64, &'a PluginName, Reverse<u8>, u64) {
        let of_plugin = self.plugins.get(&queue.plugin).copied().unwrap_or_default();
        let of_queue = self.queues.get(&queue.whole).copied().unwrap_or_default();
        (of_plugin, &queue.plugin, Reverse(queue.priority), of_queue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { plugin: usize::MAX, jobs: usize::MAX, name: usize::MAX };

    fn candidates(queues: &[&str], bounds: Bounds) -> Vec<Candidate> {
        let read = |whole: &&str| Candidate { queue: Queue::read((*whole).to_owned()).unwrap(), bounds };
        queues.iter().map(read).collect()
    }

    /// Starts tasks one after the other, as if each queue had any number of them, and returns their queues.
    fn started(turns: &mut Turns, candidates: &[Candidate], number: usize) -> Vec<String> {
        let planned = (0..number).flat_map(|_| turns.plan(candidates, &Load::default(), 1));
        planned.map(|(index, _)| candidates[index].queue.whole.clone()).collect()
    }

    #[test]
    fn a_queue_is_readable_from_its_name() {
        let job = Queue::read("items/cleanup/2".to_owned()).unwrap();
        assert_eq!((job.plugin.as_str(), job.name.as_str(), job.priority), ("items", "cleanup", 2));
        assert!(job.is_of_jobs() && !Queue::read("items/user.deleted/1".to_owned()).unwrap().is_of_jobs());
        for other in ["", "items", "items/cleanup", "Items/cleanup/1", "items/cleanup/high"] {
            assert_eq!(Queue::read(other.to_owned()), None, "{other:?}");
        }
    }

    #[test]
    fn plugins_take_turns_however_many_queues_each_has() {
        let both = candidates(&["a/one/1", "a/two/1", "a/three/1", "b/one/1"], BOUNDS);
        let order = started(&mut Turns::default(), &both, 6);
        assert_eq!(order, ["a/one/1", "b/one/1", "a/two/1", "b/one/1", "a/three/1", "b/one/1"]);
    }

    #[test]
    fn the_highest_priority_of_a_plugin_comes_first() {
        let queues = candidates(&["a/low/0", "a/one/1", "a/high/2", "b/low/0"], BOUNDS);
        assert_eq!(started(&mut Turns::default(), &queues, 4), ["a/high/2", "b/low/0", "a/high/2", "b/low/0"]);
        let (mut turns, rest) = (Turns::default(), candidates(&["a/low/0", "a/one/1"], BOUNDS));
        assert_eq!(started(&mut turns, &rest, 2), ["a/one/1", "a/one/1"]);
    }

    #[test]
    fn no_more_tasks_run_than_each_bound_admits() {
        let plan = |queues: &[&str], bounds: Bounds, total: usize| {
            Turns::default().plan(&candidates(queues, bounds), &Load::default(), total)
        };
        assert_eq!(plan(&["a/one/1", "b/one/1"], BOUNDS, 3), [(0, 2), (1, 1)]);
        assert_eq!(plan(&["a/one/1", "a/two/1"], Bounds { plugin: 2, ..BOUNDS }, 8), [(0, 1), (1, 1)]);
        assert_eq!(plan(&["a/one/1", "a/one/2"], Bounds { name: 1, ..BOUNDS }, 8), [(1, 1)]);
        let jobs = Bounds { plugin: 3, jobs: 1, ..BOUNDS };
        assert_eq!(plan(&["a/one/1", "a/two/1", "a/user.deleted/1"], jobs, 8), [(0, 1), (2, 2)]);
    }

    #[test]
    fn jobs_leave_places_for_deliveries() {
        let queues = candidates(&["a/one/2", "b/one/1", "c/user.deleted/1"], BOUNDS);
        let mut load = Load::default();
        (0..6).for_each(|number| load.start(&queues[number % 2].queue));
        assert_eq!(Turns::default().plan(&queues, &load, 8), [(2, 2)]);
        load.end(&queues[0].queue);
        let planned = Turns::default().plan(&queues, &load, 8);
        assert_eq!(planned.iter().map(|(_, count)| count).sum::<usize>(), 3);
        assert_eq!([1, 2, 3, 4, 8, 256].map(places_of_jobs), [1, 2, 3, 3, 6, 192]);
    }

    #[test]
    fn an_ended_task_makes_room() {
        let queues = candidates(&["a/one/1"], Bounds { plugin: 1, ..BOUNDS });
        let (mut turns, mut load) = (Turns::default(), Load::default());
        load.start(&queues[0].queue);
        assert_eq!((load.total(), turns.plan(&queues, &load, 8)), (1, vec![]));
        load.end(&queues[0].queue);
        assert_eq!((load.total(), turns.plan(&queues, &load, 8)), (0, vec![(0, 1)]));
        assert!(load.plugins.is_empty() && load.jobs.is_empty() && load.names.is_empty());
    }

    #[test]
    fn turns_of_queues_without_tasks_are_forgotten() {
        let queues = candidates(&["a/one/1", "b/one/1"], BOUNDS);
        let mut turns = Turns::default();
        started(&mut turns, &queues, 2);
        turns.keep(&[queues[0].queue.clone()]);
        assert_eq!((turns.plugins.len(), turns.queues.len()), (1, 1));
    }
}
