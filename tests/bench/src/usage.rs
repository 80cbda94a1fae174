//! The CPU time and the memory of processes, from /proc (proc(5)).

use std::collections::BTreeSet;
use std::fs;

use crate::Failure;

/// The usage of some processes and their children, with the CPU time of children that have ended.
pub(crate) struct Usage {
    pub(crate) cpu_seconds: f64,
    /// Resident memory in MiB. Memory that several processes share counts for each.
    pub(crate) memory: f64,
}

impl Usage {
    /// Reads the usage of these processes and all their descendants.
    pub(crate) fn of(processes: &[u32]) -> Result<Self, Failure> {
        let mut usage = Self { cpu_seconds: 0.0, memory: 0.0 };
        for pid in with_descendants(processes)? {
            // A child may have ended meanwhile.
            if let (Ok(cpu), Ok(children), Ok(memory)) = (cpu_seconds(pid), ended_children_seconds(pid), resident(pid))
            {
                usage.cpu_seconds += cpu + children;
                usage.memory += memory;
            } else if processes.contains(&pid) {
                return Err(format!("process {pid} has ended").into());
            }
        }
        Ok(usage)
    }
}

/// Returns the user and system time of a process (fields 14 and 15 of /proc/PID/stat).
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64, Failure> {
    Ok(seconds(&stat(pid)?, 14))
}

/// Returns the same of its children that have ended, and of theirs (fields 16 and 17).
pub(crate) fn ended_children_seconds(pid: u32) -> Result<f64, Failure> {
    Ok(seconds(&stat(pid)?, 16))
}

/// Returns the sum of a field and the next one, which are in ticks of 10 ms.
#[allow(clippy::cast_precision_loss, reason = "a count of 10 ms ticks")]
fn seconds(stat: &str, field: usize) -> f64 {
    let fields = stat.split_whitespace().skip(field.saturating_sub(3)).take(2);
    fields.filter_map(|text| text.parse::<u64>().ok()).sum::<u64>() as f64 / 100.0
}

/// Returns the resident memory of a process in MiB.
pub(crate) fn resident(pid: u32) -> Result<f64, Failure> {
    status(pid, "VmRSS:")
}

/// Returns the most resident memory that a process has had so far, in MiB.
pub(crate) fn most_resident(pid: u32) -> Result<f64, Failure> {
    status(pid, "VmHWM:")
}

/// Returns a size of /proc/PID/status in MiB.
fn status(pid: u32, member: &str) -> Result<f64, Failure> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    // A process that has ended and waits for its parent has no memory.
    Ok(kib(&status, member)?.unwrap_or_default() / 1024.0)
}

/// Returns the anonymous memory of a process in KiB: all that the kernel cannot read again from a file.
pub(crate) fn anonymous(pid: u32) -> Result<f64, Failure> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    Ok(kib(&rollup, "Anonymous:")?.ok_or("no anonymous memory in /proc/PID/smaps_rollup")?)
}

/// Returns a member of a file such as /proc/PID/status, which is in KiB.
fn kib(text: &str, member: &str) -> Result<Option<f64>, Failure> {
    let Some(line) = text.lines().find_map(|line| line.strip_prefix(member)) else { return Ok(None) };
    Ok(Some(line.split_whitespace().next().ok_or("no size after a name in /proc")?.parse()?))
}

/// Returns /proc/PID/stat after the name, which may contain spaces: from field 3 on.
fn stat(pid: u32) -> Result<String, Failure> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    Ok(stat.rsplit_once(')').ok_or("no name in /proc/PID/stat")?.1.to_owned())
}

fn with_descendants(processes: &[u32]) -> Result<BTreeSet<u32>, Failure> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let parent = stat(pid).ok().and_then(|stat| stat.split_whitespace().nth(1)?.parse::<u32>().ok());
        parents.extend(parent.map(|parent| (pid, parent)));
    }
    let mut found: BTreeSet<u32> = processes.iter().copied().collect();
    loop {
        let children: Vec<u32> =
            parents.iter().filter(|(_, parent)| found.contains(parent)).map(|(pid, _)| *pid).collect();
        let before = found.len();
        found.extend(children);
        if found.len() == before {
            return Ok(found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_times_of_a_process_and_of_its_ended_children_are_read() {
        // The fields from 3 on, as a process that runs has them.
        let stat = " S 1 2 2 0 -1 4194560 9 8 7 6 100 50 300 200 20 0 4 0";
        assert!((seconds(stat, 14) - 1.5).abs() < f64::EPSILON);
        assert!((seconds(stat, 16) - 5.0).abs() < f64::EPSILON);
    }

    #[test]
    fn sizes_are_read_in_kib() {
        let rollup = "Pss_Anon:            7024 kB\nAnonymous:          8024 kB\n";
        assert_eq!(kib(rollup, "Anonymous:").ok().flatten(), Some(8024.0));
        assert_eq!(kib(rollup, "VmRSS:").ok().flatten(), None);
    }
}
