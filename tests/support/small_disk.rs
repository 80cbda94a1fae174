//! A small disk that a test can fill: a file system in memory, in a mount namespace of its own. A shell holds the
//! namespace until the value is dropped, so a host can end and start again on the same disk.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The file that fills the disk.
const FILLER: &str = "filler";

pub(crate) struct SmallDisk {
    holder: Child,
    path: PathBuf,
    with_user: bool,
}

impl SmallDisk {
    /// Mounts a disk of some mebibytes at `path`, which is visible to programs that [`SmallDisk::command`] runs. Returns
    /// `None` if the system does not allow it.
    pub(crate) fn mount(path: &Path, mebibytes: u32) -> Option<Self> {
        std::fs::create_dir_all(path).unwrap();
        let disk = [false, true].into_iter().find_map(|with_user| Self::try_mount(path, mebibytes, with_user));
        if disk.is_none() {
            eprintln!("skipped: this system does not allow a mount namespace");
        }
        disk
    }

    fn try_mount(path: &Path, mebibytes: u32, with_user: bool) -> Option<Self> {
        let script =
            format!("mount -t tmpfs -o size={mebibytes}m,mode=0700 none \"$0\" && echo ready && cat >/dev/null");
        let mut holder = Command::new("unshare")
            .arg(if with_user { "-rUm" } else { "-m" })
            .args(["sh", "-c", &script])
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let disk = Self { holder, path: path.to_owned(), with_user };
        (line == "ready\n").then_some(disk)
    }

    /// Returns a command that runs a program where the disk is mounted.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg("-t").arg(self.holder.id().to_string()).arg("-m");
        if self.with_user {
            command.args(["-U", "--preserve-credentials"]);
        }
        command.arg("--").arg(program);
        command
    }

    /// Takes all the free space.
    pub(crate) fn fill(&self) {
        let filled = Command::new("dd")
            .args(["if=/dev/zero", "bs=4k", "conv=notrunc", "oflag=append"])
            .arg(format!("of={}", self.inside(FILLER).display()))
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(!filled.success(), "the disk never got full");
    }

    /// Gives the space back.
    pub(crate) fn free(&self) {
        std::fs::remove_file(self.inside(FILLER)).unwrap();
    }

    fn inside(&self, file: &str) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.holder.id()));
        root.join(self.path.strip_prefix("/").unwrap()).join(file)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // The shell ends with its input.
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}
