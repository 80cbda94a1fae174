//! The ladder: one route on several servers, from plain axum up to Wharf with everything on. The servers run at the same time
//! and are measured alternately, round by round, so that other load on the machine affects all of them. No other server gets
//! requests meanwhile. A server whose own work would slow the others can be stopped meanwhile.

use std::time::Duration;

use crate::Failure;
use crate::load::{Load, Request};
use crate::pause::Pause;
use crate::series::Series;

/// Rounds of each route.
const ROUNDS: usize = 5;
/// The time in which a server that was stopped does the work that waited.
const CATCH_UP: Duration = Duration::from_secs(1);

/// A route with its rungs.
pub(crate) struct Route {
    pub(crate) name: &'static str,
    /// Concurrent connections.
    pub(crate) connections: usize,
    pub(crate) rungs: Vec<Rung>,
}

/// A request to one of the servers.
pub(crate) struct Rung {
    pub(crate) name: &'static str,
    pub(crate) request: Request,
    /// The processes that do the work. Their children count too.
    pub(crate) processes: Vec<u32>,
    /// Processes that are stopped meanwhile.
    pub(crate) stopped: Vec<u32>,
    /// Whether responses that fail are counted; otherwise they end the benchmark.
    pub(crate) may_fail: bool,
}

/// The measurements of a route.
pub(crate) struct Climb {
    pub(crate) route: &'static str,
    pub(crate) connections: usize,
    pub(crate) rungs: Vec<Measured>,
}

/// The measurements of a rung, one for each round.
pub(crate) struct Measured {
    pub(crate) name: &'static str,
    pub(crate) loads: Vec<Load>,
}

impl Route {
    /// Measures all rungs.
    pub(crate) fn climb(&self) -> Result<Climb, Failure> {
        // One unmeasured run fills pools and caches.
        for rung in &self.rungs {
            rung.check()?;
            rung.measure(self.connections)?;
        }
        let mut rungs: Vec<Measured> =
            self.rungs.iter().map(|rung| Measured { name: rung.name, loads: Vec::new() }).collect();
        for _ in 0..ROUNDS {
            for (rung, measured) in self.rungs.iter().zip(&mut rungs) {
                measured.loads.push(rung.measure(self.connections)?);
            }
        }
        Ok(Climb { route: self.name, connections: self.connections, rungs })
    }
}

impl Rung {
    /// A request to a server of one process, whose responses must not fail.
    pub(crate) fn new(name: &'static str, process: u32, request: Request) -> Self {
        Self { name, request, processes: vec![process], stopped: Vec::new(), may_fail: false }
    }

    /// Stops another process while this server is measured.
    pub(crate) fn without(mut self, process: u32) -> Self {
        self.stopped.push(process);
        self
    }

    /// Fails if the request is redirected, which wrk counts as a success.
    fn check(&self) -> Result<(), Failure> {
        let status = self.request.status()?;
        if (300..400).contains(&status) {
            return Err(format!("{}: {} gave {status}", self.name, self.request.url()).into());
        }
        Ok(())
    }

    fn measure(&self, connections: usize) -> Result<Load, Failure> {
        let _pause = Pause::of(&self.stopped)?;
        if !self.stopped.is_empty() {
            std::thread::sleep(CATCH_UP);
        }
        let load = Load::measure(&self.request, &self.processes, connections)?;
        if load.failed > 0.0 && !self.may_fail {
            return Err(format!("{}: {} requests to {} failed", self.name, load.failed, self.request.url()).into());
        }
        Ok(load)
    }
}

impl Climb {
    /// Combines a figure of two rungs, round by round.
    pub(crate) fn compare(
        &self,
        rung: &str,
        base: &str,
        of: impl Fn(&Load) -> f64,
        combine: impl Fn(f64, f64) -> f64,
    ) -> Option<Series> {
        let (rung, base) = (self.rung(rung)?, self.rung(base)?);
        Some(Series::new(rung.loads.iter().zip(&base.loads).map(|(rung, base)| combine(of(rung), of(base)))))
    }

    fn rung(&self, name: &str) -> Option<&Measured> {
        self.rungs.iter().find(|rung| rung.name == name)
    }
}

impl Measured {
    /// Returns a figure in all rounds.
    pub(crate) fn series(&self, of: impl Fn(&Load) -> f64) -> Series {
        Series::new(self.loads.iter().map(of))
    }
}
