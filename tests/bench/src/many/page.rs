//! The results of `make bench-many` as a page in Markdown. The last run replaces it.

use std::fmt::{self, Write as _};
use std::fs;
use std::path::Path;

use super::{ALONE, AMONG, Both, CLIENTS, Many, STARTS};
use crate::report::{DIRECTORY, write_legend, write_route, write_targets};
use crate::series::Series;
use crate::targets::Target;
use crate::{Failure, machine};

const PAGE: &str = "many.md";
/// The KiB of a MiB.
const MIB: f64 = 1024.0;

/// Writes the page and returns its path.
pub(super) fn write(many: &Many, targets: &[Target]) -> Result<String, Failure> {
    let directory = Path::new(DIRECTORY);
    fs::create_dir_all(directory)?;
    let page = directory.join(PAGE);
    fs::write(&page, text(many, targets)?)?;
    Ok(page.display().to_string())
}

fn text(many: &Many, targets: &[Target]) -> Result<String, fmt::Error> {
    let plugins = many.plugins;
    let mut page = String::from("# Many plugins\n\n`make bench-many` writes this page.\n\n");
    writeln!(page, "{}", machine::description())?;
    writeln!(
        page,
        "One host has the plugin hello. The other host also has {plugins} tiny plugins, each of them different. Both have \
         the default settings and the default log, but no limits on sign-ins (`WHARF_THROTTLE=false`). While one host is \
         measured by requests, the other one is stopped.\n"
    )?;
    writeln!(page, "## Targets\n")?;
    write_targets(&mut page, targets)?;
    write_hosts(&mut page, many)?;
    writeln!(page, "\n## Deploys and first calls\n\n{CLIENTS} at a time.\n")?;
    writeln!(page, "| of {plugins} plugins | the first tenth | the last tenth |\n|---|--:|--:|")?;
    for (name, rates) in [("deploys per second", &many.deploys), ("first calls per second", &many.first_calls)] {
        let rate = |rate: Option<&f64>| rate.copied().unwrap_or_default();
        writeln!(page, "| {name} | {:.1} | {:.1} |", rate(rates.first()), rate(rates.last()))?;
    }
    writeln!(page, "\n## Requests\n")?;
    write_legend(&mut page)?;
    for climb in many.not_called.climbs.iter().chain(&many.called.climbs) {
        write_route(&mut page, climb)?;
    }
    Ok(page)
}

fn write_hosts(page: &mut String, many: &Many) -> fmt::Result {
    writeln!(page, "\n## Hosts\n")?;
    writeln!(
        page,
        "The figures of a start are medians of {STARTS}. A start ends with the first response of hello. The memory is \
         anonymous memory. Idle slots of the instance pool do not count as memory of a plugin that was called.\n"
    )?;
    writeln!(page, "| | {ALONE} | {AMONG} |\n|---|--:|--:|")?;
    let mut row = |name: &str, Both { alone, among }: Both<String>| writeln!(page, "| {name} | {alone} | {among} |");
    let spread = |of: &Series, unit: &str, divisor: f64| {
        format!("{:.1} {unit} ± {:.0} %", of.median() / divisor, of.spread() * 100.0)
    };
    let time = many.series(|start| start.time);
    row("start", both(&time, |time| spread(time, "ms", 1.0)))?;
    let memory = many.series(|start| start.anonymous);
    row("memory after a start", both(&memory, |memory| spread(memory, "MiB", MIB)))?;
    let mib = |kib: &f64| format!("{:.1} MiB", kib / MIB);
    row("memory after a call of each plugin", both(&many.after_calls, mib))?;
    row("idle slots of the instance pool then", both(&many.pool, mib))?;
    row("loaded releases then", both(&many.loaded, |loaded| format!("{loaded:.0}")))?;
    row("memory after the deploys, before the first restart", both(&many.after_deploys, mib))?;
    let cpu = |millis: &f64| format!("{millis:.1} ms");
    row("CPU time per second without requests", both(&many.not_called.idle_cpu, cpu))?;
    row("CPU time per second without requests, after the calls", both(&many.called.idle_cpu, cpu))
}

fn both<T>(figures: &Both<T>, show: impl Fn(&T) -> String) -> Both<String> {
    Both { alone: show(&figures.alone), among: show(&figures.among) }
}
