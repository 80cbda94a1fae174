//! The targets for the ladder and for many plugins: ratios within one run, with a fresh instance for each request, every limit
//! on, and the default log unless a target names another. The benchmark shows which of them are met and asserts none, because
//! machines differ.

use crate::CONNECTIONS;
use crate::crowd::{CROWD, Crowd};
use crate::ladder::Climb;
use crate::load::Load;
use crate::many::{ALONE, AMONG, Many};
use crate::routes::{route, rung};

/// A target and the figure that was reached.
pub(crate) struct Target {
    pub(crate) text: String,
    pub(crate) reached: String,
    pub(crate) verdict: &'static str,
}

/// Returns all targets.
pub(crate) fn judge(climbs: &[Climb], crowds: &[Crowd]) -> Vec<Target> {
    let ladder = Ladder(climbs);
    let rate = |load: &Load| load.rate;
    let cpu = |load: &Load| load.cpu;
    let share = |figure: f64| format!("{:.1} %", figure * 100.0);
    let ratio = |figure: f64| format!("{figure:.2}");
    let of_plain = |name, route, own, least| {
        let reached = ladder.ratio(route, own, rung::PLAIN, rate);
        at_least(format!("{name} ≥ {least} of the requests per second of plain axum"), reached, least, ratio)
    };
    let logging = ladder.ratio(route::HELLO, rung::LOGGING, rung::WHARF, rate).map(|ratio| 1.0 - ratio);
    let added = ladder.difference(route::HELLO_ALONE, rung::LOGGING, rung::PLAIN, |load| load.p50);
    let login = ladder.ratio(route::LOGIN, rung::WHARF, rung::PLAIN, cpu);
    let workers = ladder.ratio(route::HELLO, rung::WHARF, rung::ONE_WORKER, cpu).map(|ratio| ratio - 1.0);
    let mut targets = vec![
        of_plain("hello with the log at `warn`", route::HELLO, rung::WHARF, 0.45),
        at_most("hello: the default log costs less than 8 % of the requests per second".into(), logging, 0.08, share),
        not_measured("hello ≥ 4 of TrailBase's WebAssembly", "TrailBase is in no registry"),
        at_most("hello: p50 at one connection at most 15 µs above plain axum".into(), added, 15.0, |figure| {
            format!("{figure:.0} µs")
        }),
        of_plain("list with the token check", route::LIST, rung::LOGGING, 0.95),
        of_plain("create with the same durability", route::CREATE, rung::LOGGING, 0.8),
        not_measured("create ≤ 0.95 of the CPU time of TrailBase's native create", "TrailBase is in no registry"),
        of_plain("users/me with the same token check", route::ME, rung::LOGGING, 0.85),
        at_least(
            "a cached response ≥ 0.8 of the requests per second of plain axum's hello".into(),
            ladder.ratio(route::KEPT, rung::LOGGING, rung::PLAIN, rate),
            0.8,
            ratio,
        ),
        at_most(
            "hello with the log at `warn`: the CPU time with a worker per core within 10 % of one worker's".into(),
            workers,
            0.1,
            share,
        ),
        not_measured("10,000 plugins: p99 of hello within 1.5 of that with one", "see `make bench-many`"),
        not_measured("an idle plugin ≤ 32 KiB of anonymous memory", "see `make bench-many`"),
        at_most(
            "login with the log at `warn`: CPU time ≤ 1.1 of the same hash in plain axum (OWASP's recommendation)"
                .into(),
            login,
            1.1,
            ratio,
        ),
    ];
    for crowd in crowds {
        targets.extend(of_crowd(crowd));
    }
    targets
}

/// Returns the targets for many plugins.
pub(crate) fn judge_many(many: &Many) -> Vec<Target> {
    let plugins = many.plugins;
    let kib = |figure: f64| format!("{figure:.1} KiB");
    let mut targets = vec![
        at_most(
            format!("an idle plugin of {plugins}, not called since the start: ≤ 32 KiB of anonymous memory"),
            Some(many.memory_not_called()),
            32.0,
            kib,
        ),
        at_most(
            format!("an idle plugin of {plugins}, called once: ≤ 32 KiB of anonymous memory"),
            Some(many.memory_called()),
            32.0,
            kib,
        ),
    ];
    for climb in many.not_called.climbs.iter().chain(&many.called.climbs) {
        let ratio = climb.compare(AMONG, ALONE, |load| load.p99, |among, alone| among / alone);
        targets.push(at_most(
            format!(
                "{plugins} plugins: p99 within 1.5 of that with one ({}, connections: {})",
                climb.route, climb.connections
            ),
            ratio.map(|ratio| ratio.median()),
            1.5,
            |figure| format!("{figure:.2}"),
        ));
    }
    targets
}

fn of_crowd(crowd: &Crowd) -> [Target; 3] {
    let route = crowd.route;
    let ratio = |figure: f64| format!("{figure:.2}");
    let (rates, p99s) = (crowd.crowd_rate / crowd.few_rate, crowd.crowd_p99 / crowd.few_p99);
    [
        at_most(format!("{route}, {CROWD} clients: none is turned away"), Some(crowd.turned_away), 0.0, |figure| {
            format!("{:.2} %", figure * 100.0)
        }),
        at_least(
            format!("{route}, {CROWD} clients: ≥ 0.8 of the requests per second of {CONNECTIONS}"),
            Some(rates),
            0.8,
            ratio,
        ),
        at_most(
            format!("{route}, {CROWD} clients: the neighbour's p99 within 3 of that with {CONNECTIONS}"),
            Some(p99s),
            3.0,
            ratio,
        ),
    ]
}

/// The measurements by route and rung.
struct Ladder<'a>(&'a [Climb]);

impl Ladder<'_> {
    fn ratio(&self, route: &str, rung: &str, base: &str, of: impl Fn(&Load) -> f64) -> Option<f64> {
        Some(self.route(route)?.compare(rung, base, of, |rung, base| rung / base)?.median())
    }

    fn difference(&self, route: &str, rung: &str, base: &str, of: impl Fn(&Load) -> f64) -> Option<f64> {
        Some(self.route(route)?.compare(rung, base, of, |rung, base| rung - base)?.median())
    }

    fn route(&self, name: &str) -> Option<&Climb> {
        self.0.iter().find(|climb| climb.route == name)
    }
}

fn at_least(text: String, reached: Option<f64>, least: f64, show: impl Fn(f64) -> String) -> Target {
    verdict(text, reached, |figure| figure >= least, show)
}

fn at_most(text: String, reached: Option<f64>, most: f64, show: impl Fn(f64) -> String) -> Target {
    verdict(text, reached, |figure| figure <= most, show)
}

fn verdict(text: String, reached: Option<f64>, is_met: impl Fn(f64) -> bool, show: impl Fn(f64) -> String) -> Target {
    let Some(figure) = reached else { return not_measured(&text, "a rung is missing") };
    Target { text, reached: show(figure), verdict: if is_met(figure) { "met" } else { "missed" } }
}

fn not_measured(text: &str, reason: &str) -> Target {
    Target { text: text.to_owned(), reached: format!("– ({reason})"), verdict: "not measured" }
}
