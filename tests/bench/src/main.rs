//! `make bench`: the ladder from plain axum up to Wharf with everything on, as ratios (`ladder`, `routes`).
//!
//! Throughput and response times come from wrk. CPU time per request is the server's own, read from /proc, and is the
//! steadier figure. The results are written to `tests/bench/results` (`report`), with the targets that are met (`targets`).
//! The program asserts none of these numbers, because machines differ. It fails if known and unknown accounts can be told
//! apart by time (`identity`). A thousand clients of one plugin are compared with a few (`crowd`). `make bench PEERS=1` adds
//! other servers (`peers`).
//!
//! Other commands measure something else: `make bench-many` ten thousand plugins (`many`), and `make bench-queue` the queue of
//! jobs (`queue`). `make bench-check` counts instructions (`count`).

mod bare;
mod chart;
mod count;
mod crowd;
mod free_address;
mod identity;
mod ladder;
mod load;
mod machine;
mod many;
mod own_server;
mod pause;
mod peers;
mod plain;
mod postgres;
mod queue;
mod report;
mod routes;
mod series;
mod signal;
mod targets;
mod usage;
mod wharf;

use std::path::{Path, PathBuf};

use crate::ladder::{Climb, Route};
use crate::report::Report;
use crate::routes::Servers;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Concurrent connections.
const CONNECTIONS: usize = 32;
/// Items that exist before the first measurement.
const ITEMS: usize = 100;
/// Items in the list that is requested.
const LIST_LIMIT: i64 = 20;

const USAGE: &str = "usage: wharf-bench ladder WHARF [--peers], wharf-bench many WHARF [PLUGINS], wharf-bench queue WHARF, \
                     or wharf-bench check WHARF-COUNTED [--record]";

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let command = arguments.next();
    let (file, flag) = (arguments.next().map(PathBuf::from), arguments.next());
    match (command.as_deref(), file) {
        (Some("plain"), Some(file)) => plain::serve(&file),
        (Some("bare"), None) => bare::serve(),
        (Some("check"), Some(program)) => count::check(&program, flag.as_deref() == Some("--record")),
        (Some("many"), Some(program)) => many::measure(&program, flag.as_deref()),
        (Some("queue"), Some(program)) => queue::measure(&program),
        (Some("ladder"), Some(program)) => measure(&program, flag.as_deref() == Some("--peers")),
        _ => Err(USAGE.into()),
    }
}

/// Measures the ladder, the crowd and the identities.
#[allow(clippy::print_stdout, reason = "the report")]
fn measure(program: &Path, with_peers: bool) -> Result<(), Failure> {
    let directory = tempfile::tempdir()?;
    println!("Starting the servers …");
    let servers = Servers::start(program, directory.path())?;
    let (peers, skipped) = if with_peers { peers::start_all(directory.path()) } else { Default::default() };
    for peers::Skipped { name, reason } in &skipped {
        println!("{name} is skipped: {reason}");
    }
    let mut climbs = Vec::new();
    for route in servers.routes(&peers) {
        servers.empty_log()?;
        climbs.push(climb(&route)?);
    }
    servers.empty_log()?;
    println!("\n{} clients of one plugin …", crowd::CROWD);
    let crowds = crowd::compare(servers.logging())?;
    servers.empty_log()?;
    climbs.push(climb(&servers.create(&peers))?);
    servers.settle()?;
    climbs.push(climb(&servers.login(&peers))?);
    let targets = targets::judge(&climbs, &crowds);
    println!();
    for targets::Target { text, reached, verdict } in &targets {
        println!("{verdict:<14}{text}: {reached}");
    }
    let page = Report { climbs, crowds, skipped, targets }.write()?;
    println!("\nThe results are in {page}");
    drop(servers);
    identity::compare(program, &directory.path().join("identity"))
}

#[allow(clippy::print_stdout, reason = "the report")]
fn climb(route: &Route) -> Result<Climb, Failure> {
    let climb = route.climb()?;
    let mut table = String::new();
    report::write_route(&mut table, &climb)?;
    print!("{table}");
    Ok(climb)
}
