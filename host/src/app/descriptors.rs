//! Open files: how many this process may have, and how many of them are for clients. Each connection is one, and so is
//! every connection to a database or another server, every file and every pipe to a compiler: clients must not have them all.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// As many connections of clients as are `wanted`, or half of the files that this process may have open, whichever is less.
/// It has as many from now on as the system lets it have.
pub(super) fn connections(wanted: usize) -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let files = match raised {
        Ok(()) => maximum,
        Err(error) => {
            tracing::warn!(%error, "the limit of open files cannot be raised");
            current
        }
    };
    let fitting = fitting(wanted, files);
    if fitting < wanted {
        let files = files.unwrap_or(u64::MAX);
        tracing::warn!(files, wanted, connections = fitting, "fewer connections, as there are too few open files");
    }
    fitting
}

/// None: as many files as one likes.
fn fitting(wanted: usize, files: Option<u64>) -> usize {
    let half = files.map_or(usize::MAX, |files| usize::try_from(files / 2).unwrap_or(usize::MAX));
    wanted.min(half.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_files_are_not_for_clients() {
        assert_eq!(fitting(4096, None), 4096);
        assert_eq!(fitting(4096, Some(1 << 20)), 4096);
        assert_eq!(fitting(4096, Some(1024)), 512);
        assert_eq!(fitting(4096, Some(1)), 1);
    }
}
