//! The chart: for each route, the CPU time of a request on each rung as bars. Each route has its own scale. The colours of the
//! text follow the reader's choice of light or dark.

use std::fmt::{self, Write as _};

use crate::ladder::Climb;
use crate::routes::rung;

const WIDTH: f64 = 760.0;
/// Where the bars begin, and the length of the longest one.
const LEFT: f64 = 190.0;
const LONGEST: f64 = 450.0;
const ROW: f64 = 22.0;
const TITLE: f64 = 34.0;

const STYLE: &str = "
  text { font: 13px system-ui, sans-serif; fill: #1f2328; }
  .title { font-weight: 600; }
  .plain { fill: #8c959f; }
  .wharf { fill: #2f81f7; }
  .other { fill: #bf8700; }
  @media (prefers-color-scheme: dark) { text { fill: #e6edf3; } }
";

/// Draws the chart as SVG.
pub(crate) fn draw(climbs: &[Climb]) -> Result<String, fmt::Error> {
    let mut bars = String::new();
    let mut y = 0.0;
    for climb in climbs {
        y += TITLE;
        writeln!(bars, r#"<text class="title" x="8" y="{:.0}">{}</text>"#, y - 8.0, escaped(climb.route))?;
        let figures = climb.rungs.iter().map(|rung| (rung.name, rung.series(|load| load.cpu).median()));
        let figures: Vec<(&str, f64)> = figures.collect();
        let most = figures.iter().map(|(_, cpu)| *cpu).fold(f64::MIN_POSITIVE, f64::max);
        for (name, cpu) in figures {
            let (length, text) = (cpu / most * LONGEST, y + 15.0);
            let label = escaped(name);
            writeln!(bars, r#"<text x="{:.0}" y="{text:.0}" text-anchor="end">{label}</text>"#, LEFT - 8.0)?;
            let (class, top, height) = (class(name), y + 3.0, ROW - 6.0);
            writeln!(
                bars,
                r#"<rect class="{class}" x="{LEFT:.0}" y="{top:.0}" width="{length:.1}" height="{height:.0}" rx="2"/>"#
            )?;
            let end = LEFT + length + 8.0;
            writeln!(bars, r#"<text x="{end:.1}" y="{text:.0}">{cpu:.1} µs</text>"#)?;
            y += ROW;
        }
    }
    let height = y + 12.0;
    Ok(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH:.0} {height:.0}\" role=\"img\" \
         aria-label=\"CPU time of a request\">\n<style>{STYLE}</style>\n{bars}</svg>\n"
    ))
}

fn class(name: &str) -> &'static str {
    match name {
        rung::PLAIN => "plain",
        rung::WHARF | rung::LOGGING | rung::ONE_WORKER | rung::LAYER => "wharf",
        _ => "other",
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ladder::Measured;
    use crate::load::Load;

    #[test]
    fn the_longest_bar_is_the_most_expensive_rung_of_its_route() {
        let load =
            |cpu| Load { rate: 1.0, p50: 1.0, p99: 1.0, cpu, memory: 1.0, failed: 0.0, requests: 1.0, generator: 0.5 };
        let rungs = vec![
            Measured { name: rung::PLAIN, loads: vec![load(10.0)] },
            Measured { name: rung::WHARF, loads: vec![load(40.0)] },
        ];
        let chart = draw(&[Climb { route: "a & b", connections: 1, rungs }]).unwrap();
        assert!(chart.contains(r#"class="plain" x="190" y="37" width="112.5""#), "{chart}");
        assert!(chart.contains(r#"class="wharf" x="190" y="59" width="450.0""#), "{chart}");
        assert!(chart.contains("a &amp; b"), "{chart}");
    }
}
