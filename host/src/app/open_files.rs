//! The limit of open files: raises it, and keeps half of it from clients. Each client connection is an open file, and
//! so is every connection to a database or another server, every file and every pipe to a compiler.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises this process's limit of open files as far as the system allows. Returns the limit of client connections:
/// `wanted`, or half of the open files if that is less.
pub(super) fn limit_connections(wanted: usize) -> usize {
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
        tracing::warn!(
            files,
            wanted,
            connections = fitting,
            "fewer client connections than configured, because the limit of open files is low"
        );
    }
    fitting
}

/// `None` means no limit of open files.
fn fitting(wanted: usize, files: Option<u64>) -> usize {
    let half = files.map_or(usize::MAX, |files| usize::try_from(files / 2).unwrap_or(usize::MAX));
    wanted.min(half.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_get_at_most_half_of_the_open_files() {
        assert_eq!(fitting(4096, None), 4096);
        assert_eq!(fitting(4096, Some(1 << 20)), 4096);
        assert_eq!(fitting(4096, Some(1024)), 512);
        assert_eq!(fitting(4096, Some(1)), 1);
    }
}
