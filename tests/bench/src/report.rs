//! The results: a page in Markdown and a chart below `tests/bench/results`. The last run replaces them.

use std::fmt::{self, Write as _};
use std::fs;
use std::path::Path;

use crate::chart;
use crate::crowd::{CROWD, Crowd};
use crate::ladder::{Climb, Measured};
use crate::load::{Load, TIME};
use crate::machine;
use crate::peers::Skipped;
use crate::routes::rung;
use crate::targets::Target;
use crate::{CONNECTIONS, Failure, ITEMS, LIST_LIMIT};

pub(crate) const DIRECTORY: &str = "tests/bench/results";
const CHART: &str = "ladder.svg";
const PAGE: &str = "ladder.md";

/// Everything that a run measured.
pub(crate) struct Report {
    pub(crate) climbs: Vec<Climb>,
    pub(crate) crowds: Vec<Crowd>,
    pub(crate) skipped: Vec<Skipped>,
    pub(crate) targets: Vec<Target>,
}

impl Report {
    /// Writes the page and the chart. Returns the path of the page.
    pub(crate) fn write(&self) -> Result<String, Failure> {
        let directory = Path::new(DIRECTORY);
        fs::create_dir_all(directory)?;
        fs::write(directory.join(CHART), chart::draw(&self.climbs)?)?;
        let page = directory.join(PAGE);
        fs::write(&page, self.page()?)?;
        Ok(page.display().to_string())
    }

    fn page(&self) -> Result<String, fmt::Error> {
        let mut page = String::from("# The ladder\n\n`make bench` writes this page.\n\n");
        writeln!(page, "{}", machine::description())?;
        write_legend(&mut page)?;
        writeln!(page, "A list has {LIST_LIMIT} of {ITEMS} items.\n")?;
        writeln!(page, "![CPU time of a request]({CHART})\n\n## Targets\n")?;
        writeln!(page, "They are for the default log, unless one names another.\n")?;
        write_targets(&mut page, &self.targets)?;
        for climb in &self.climbs {
            write_route(&mut page, climb)?;
        }
        self.write_crowds(&mut page)?;
        if !self.skipped.is_empty() {
            writeln!(page, "\n## Skipped\n")?;
            for Skipped { name, reason } in &self.skipped {
                writeln!(page, "- {name}: {reason}")?;
            }
        }
        Ok(page)
    }

    fn write_crowds(&self, page: &mut String) -> fmt::Result {
        writeln!(page, "\n## {CROWD} clients of one plugin\n")?;
        writeln!(page, "A client of another plugin sends one request after the other meanwhile.\n")?;
        writeln!(
            page,
            "| plugin | req/s of {CONNECTIONS} | req/s of {CROWD} | ratio | turned away | neighbour's p99, idle | with {CONNECTIONS} | with {CROWD} |"
        )?;
        writeln!(page, "|---|--:|--:|--:|--:|--:|--:|--:|")?;
        for crowd in &self.crowds {
            writeln!(
                page,
                "| {} | {:.0} | {:.0} | {:.2} | {:.2} % | {:.2} ms | {:.2} ms | {:.2} ms |",
                crowd.route,
                crowd.few_rate,
                crowd.crowd_rate,
                crowd.crowd_rate / crowd.few_rate,
                crowd.turned_away * 100.0,
                crowd.idle_p99,
                crowd.few_p99,
                crowd.crowd_p99,
            )?;
        }
        Ok(())
    }
}

/// Writes the meaning of the figures in the tables of routes.
pub(crate) fn write_legend(page: &mut String) -> fmt::Result {
    writeln!(
        page,
        "Each figure is the median of rounds of {} s, in which the rungs take turns. ± is half the distance between the \
         least and the greatest round. The ratios are medians of the ratios within a round. Responses that fail do not \
         count as requests per second. The last column is the share of one core that wrk used: near 100 %, wrk is the \
         limit and the server is not.\n",
        TIME.as_secs()
    )
}

/// Writes the table of the targets.
pub(crate) fn write_targets(page: &mut String, targets: &[Target]) -> fmt::Result {
    writeln!(page, "| target | reached | |\n|---|---|---|")?;
    for Target { text, reached, verdict } in targets {
        writeln!(page, "| {text} | {reached} | {verdict} |")?;
    }
    Ok(())
}

/// Writes the table of a route, with ratios to its first rung.
pub(crate) fn write_route(page: &mut String, climb: &Climb) -> fmt::Result {
    let plural = if climb.connections == 1 { "" } else { "s" };
    writeln!(page, "\n## {}, {} connection{plural}\n", climb.route, climb.connections)?;
    let base = climb.rungs.first().map_or(rung::PLAIN, |first| first.name);
    writeln!(page, "| rung | req/s | ± | of {base} | p50 | p99 | CPU | ± | of {base} | memory | wrk |")?;
    writeln!(page, "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|")?;
    for measured in &climb.rungs {
        let (rate, cpu) = (measured.series(|load| load.rate), measured.series(|load| load.cpu));
        let of_base = |of: fn(&Load) -> f64| {
            let ratio = climb.compare(measured.name, base, of, |own, base| own / base);
            ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{:.2}", ratio.median()))
        };
        writeln!(
            page,
            "| {}{} | {:.0} | {:.0} % | {} | {} | {} | {:.1} µs | {:.0} % | {} | {:.0} MiB | {:.0} % |",
            measured.name,
            failed(measured),
            rate.median(),
            rate.spread() * 100.0,
            of_base(|load| load.rate),
            time(measured.series(|load| load.p50).median()),
            time(measured.series(|load| load.p99).median()),
            cpu.median(),
            cpu.spread() * 100.0,
            of_base(|load| load.cpu),
            measured.series(|load| load.memory).median(),
            measured.series(|load| load.generator).median() * 100.0,
        )?;
    }
    Ok(())
}

/// Returns a note if responses of a peer failed.
fn failed(measured: &Measured) -> String {
    let failed: f64 = measured.loads.iter().map(|load| load.failed).sum();
    if failed > 0.0 { format!(" ({failed:.0} failed)") } else { String::new() }
}

/// Shows microseconds.
fn time(micros: f64) -> String {
    if micros < 1e3 { format!("{micros:.0} µs") } else { format!("{:.1} ms", micros / 1e3) }
}
