//! The machine, the day and the commit of a run.

use std::fs;
use std::process::Command;

/// The lines that name them, as a list in Markdown.
pub(crate) fn description() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split_once(": "));
    let model = model.map_or("unknown CPU", |(_, model)| model.trim());
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let commit = output("git", &["rev-parse", "--short=12", "HEAD"]);
    let changes = if output("git", &["status", "--porcelain"]).is_empty() { "" } else { ", with changes" };
    format!(
        "- CPU: {model}, {cores} cores, which the servers and wrk share\n- Kernel: Linux {}\n- Date: {}\n- Commit: {commit}{changes}\n",
        kernel.trim(),
        output("date", &["-u", "+%Y-%m-%d"]),
    )
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}
