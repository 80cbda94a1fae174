//! The host as `make bench-check` counts it, with the settings of its environment. It differs from `wharf serve` where that
//! does not work under valgrind, or would make the counts differ from run to run:
//!
//! - It compiles components in this process. Valgrind does not start the child of `wharf serve`, whose program is
//!   `/proc/self/exe`. A child outside of valgrind could use instructions that valgrind does not have (AVX-512).
//! - Requests run on one thread, so that the counts do not depend on the thread that takes a task.
//! - Passwords have cheap hashes.

use std::path::PathBuf;

use wharf::app::{App, Deployment, Environment};
use wharf::auth::HashCost;
use wharf::config::{Config, Sources};
use wharf::error::Error;
use wharf::plugin::Compile;
use wharf::telemetry;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let grants = arguments.next().ok_or("usage: wharf-counted GRANT,... FILE...")?;
    let grants: Vec<String> = grants.split(',').map(str::to_owned).collect();
    let deployments = arguments.map(|file| Deployment { file: PathBuf::from(file), grants: grants.clone() }).collect();
    let mut sources = Sources::default();
    sources.add_environment(std::env::vars_os(), &[]);
    let config = wharf::config::load(&sources)?.config;
    telemetry::start(&config.log, false).map_err(|error| text(&error))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(config, deployments))
}

async fn serve(config: Config, deployments: Vec<Deployment>) -> Result<(), Failure> {
    let compile = Compile::in_process().map_err(|error| text(&error))?;
    let environment = Environment { compile, passwords: HashCost::Minimal, ..Environment::default() };
    let app = App::start(config, environment).await.map_err(|error| text(&error))?;
    for deployment in &deployments {
        app.deploy(deployment).await.map_err(|error| text(&error))?;
    }
    app.wait().await.map_err(|error| text(&error))
}

fn text(error: &Error) -> Failure {
    error.report().into()
}
