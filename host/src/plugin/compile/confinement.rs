//! The confinement of the compiling process by the kernel. From then on it opens no file and no socket, starts no
//! program, and signals no other process; it only computes, on the streams that it has. Landlock takes the files and
//! seccomp the system calls, so that a hole in one of them is not enough.
//!
//! Not every kernel has both, and a container may forbid them. Then the compiler works without: [`Confinement`] says
//! what holds.

use std::fmt;

/// The means of the kernel that confine a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Confinement {
    /// Landlock refuses files, and from Linux 6.7 TCP connections.
    pub landlock: bool,
    /// seccomp refuses all system calls but those that computing needs.
    pub seccomp: bool,
}

const LANDLOCK: &str = "landlock";
const SECCOMP: &str = "seccomp";

impl Confinement {
    /// Reads the words that [`Confinement`] is displayed as.
    pub(super) fn read(words: &str) -> Self {
        let has = |name: &str| words.split_whitespace().any(|word| word == name);
        Self { landlock: has(LANDLOCK), seccomp: has(SECCOMP) }
    }

    /// Returns whether both means confine the process.
    pub fn is_complete(self) -> bool {
        self.landlock && self.seccomp
    }
}

impl fmt::Display for Confinement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |name, holds| if holds { name } else { "" };
        f.write_str(format!("{} {}", word(LANDLOCK, self.landlock), word(SECCOMP, self.seccomp)).trim())
    }
}

/// Confines this thread and all threads that it starts, for ever. Returns what holds.
pub(super) fn confine() -> Confinement {
    // Landlock first, because it needs system calls that seccomp refuses.
    let landlock = kernel::refuse_files();
    Confinement { landlock, seccomp: kernel::refuse_system_calls() }
}

#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
mod kernel {
    use std::collections::BTreeMap;

    use landlock::{ABI, Access as _, AccessFs, AccessNet, Ruleset, RulesetAttr as _, RulesetStatus, Scope};
    use seccompiler::{
        BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
        TargetArch, apply_filter,
    };

    /// The newest version of Landlock whose rights are known here. An older kernel enforces those that it knows.
    const NEWEST: ABI = ABI::V6;

    /// The system calls of a process that computes with threads and memory, and reads and writes the streams that it
    /// has. All others fail with EPERM.
    const PERMITTED: &[i64] = &[
        libc::SYS_brk,
        libc::SYS_clock_gettime,
        libc::SYS_clock_nanosleep,
        // `refuse_clone3` makes it fail.
        libc::SYS_clone3,
        libc::SYS_close,
        libc::SYS_exit,
        libc::SYS_exit_group,
        libc::SYS_futex,
        libc::SYS_getpid,
        libc::SYS_getrandom,
        libc::SYS_gettid,
        libc::SYS_madvise,
        libc::SYS_membarrier,
        libc::SYS_mmap,
        libc::SYS_mprotect,
        libc::SYS_mremap,
        libc::SYS_munmap,
        libc::SYS_nanosleep,
        libc::SYS_ppoll,
        libc::SYS_prctl,
        libc::SYS_read,
        libc::SYS_readv,
        libc::SYS_restart_syscall,
        libc::SYS_rseq,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_sched_getaffinity,
        libc::SYS_sched_yield,
        libc::SYS_set_robust_list,
        libc::SYS_sigaltstack,
        libc::SYS_sysinfo,
        libc::SYS_write,
        libc::SYS_writev,
    ];

    pub(super) fn refuse_files() -> bool {
        let restricted = Ruleset::default()
            .handle_access(AccessFs::from_all(NEWEST))
            .and_then(|ruleset| ruleset.handle_access(AccessNet::from_all(NEWEST)))
            .and_then(|ruleset| ruleset.scope(Scope::from_all(NEWEST)))
            .and_then(|ruleset| ruleset.create())
            .and_then(|ruleset| ruleset.restrict_self());
        restricted.is_ok_and(|status| status.ruleset != RulesetStatus::NotEnforced)
    }

    pub(super) fn refuse_system_calls() -> bool {
        // In this order, because the second one refuses the system call that adds a filter.
        refuse_clone3() && permitted().is_ok_and(|filter| apply_filter(&filter).is_ok())
    }

    /// The flags of this system call are not in its arguments, so a filter cannot tell a thread from a process. When the
    /// kernel does not know the call, the C library uses `clone`.
    pub(super) fn refuse_clone3() -> bool {
        let filter = || -> Result<BpfProgram, seccompiler::BackendError> {
            let unknown = SeccompAction::Errno(errno(libc::ENOSYS));
            let rules = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
            SeccompFilter::new(rules, SeccompAction::Allow, unknown, target()?)?.try_into()
        };
        filter().is_ok_and(|filter| apply_filter(&filter).is_ok())
    }

    fn permitted() -> Result<BpfProgram, seccompiler::BackendError> {
        let first = |length, operator, value| -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
            Ok(vec![SeccompRule::new(vec![SeccompCondition::new(0, length, operator, value)?])?])
        };
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> = PERMITTED.iter().map(|call| (*call, Vec::new())).collect();
        // The own process, which `abort` ends by a signal to the calling thread.
        let own = u64::from(std::process::id());
        rules.insert(libc::SYS_tgkill, first(SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, own)?);
        // Reading its own limits. The first argument is the process, and 0 is the own one.
        rules.insert(libc::SYS_prlimit64, first(SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, 0)?);
        let thread = u64::try_from(libc::CLONE_THREAD).unwrap_or_default();
        rules.insert(libc::SYS_clone, first(SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(thread), thread)?);
        let refused = SeccompAction::Errno(errno(libc::EPERM));
        SeccompFilter::new(rules, refused, SeccompAction::Allow, target()?)?.try_into()
    }

    fn target() -> Result<TargetArch, seccompiler::BackendError> {
        std::env::consts::ARCH.try_into()
    }

    fn errno(code: i32) -> u32 {
        u32::try_from(code).unwrap_or_default()
    }
}

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
mod kernel {
    pub(super) fn refuse_files() -> bool {
        false
    }

    #[cfg(test)]
    pub(super) fn refuse_clone3() -> bool {
        false
    }

    pub(super) fn refuse_system_calls() -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::net::{TcpListener, UdpSocket};
    use std::process::Command;

    use super::*;
    use crate::plugin::engine;

    #[test]
    fn a_confined_thread_compiles_and_opens_nothing() {
        // The header of a component without any content.
        let component = b"\0asm\x0d\0\x01\0";
        let confined = std::thread::spawn(move || {
            let confinement = confine();
            let engine = engine::compiling().unwrap();
            assert!(!engine.precompile_component(component).unwrap().is_empty());
            assert_eq!(std::thread::spawn(|| 7).join().unwrap(), 7);
            let refused = [
                File::open("/etc/passwd").is_err(),
                File::create(std::env::temp_dir().join("wharf-confined")).is_err(),
                TcpListener::bind("127.0.0.1:0").is_err(),
                UdpSocket::bind("127.0.0.1:0").is_err(),
                Command::new("/bin/true").status().is_err(),
            ];
            (confinement, refused)
        });
        let (confinement, refused) = confined.join().unwrap();
        // A kernel without seccomp, or a container that forbids it, refuses a harmless filter too.
        let takes_filters = std::thread::spawn(kernel::refuse_clone3).join().unwrap();
        assert_eq!(confinement.seccomp, takes_filters);
        if confinement.seccomp {
            assert_eq!(refused, [true; 5]);
        }
        if confinement.landlock {
            assert_eq!(refused[..2], [true; 2]);
        }
        assert_eq!(Confinement::read(&confinement.to_string()), confinement);
        assert!(File::open("/etc/passwd").is_ok(), "another thread is not confined");
    }

    #[test]
    fn the_words_of_a_confinement_are_read_again() {
        for (landlock, seccomp) in [(false, false), (false, true), (true, false), (true, true)] {
            let confinement = Confinement { landlock, seccomp };
            assert_eq!(Confinement::read(&format!("{confinement}\n")), confinement);
        }
    }
}
