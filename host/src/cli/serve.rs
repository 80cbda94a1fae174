//! `wharf serve`: loads the configuration, starts the host, prints the banner and waits for the shutdown.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::banner::{Banner, show_first_superuser};
use super::config::Settings;
use super::failure::Failure;
use super::terminal::Terminal;
use crate::app::{App, Deployment, Environment};
use crate::config::Loaded;
use crate::{shutdown, telemetry};

/// How long the process waits for threads that still run after the shutdown.
const THREAD_TIMEOUT: Duration = Duration::from_secs(2);

/// After so many rounds of its loop, a worker thread looks for input and for timers that have run out. tokio's default of 61
/// suits polls of some microseconds. A call of a plugin runs within one poll, and one round has up to four polls, so a thread
/// would notice a client only after up to 244 calls of others.
const EVENT_INTERVAL: u32 = 13;

/// Run the host.
#[derive(Debug, Args)]
pub(super) struct ServeCommand {
    /// Components to deploy at the start, unless they are live already
    #[arg(long, value_name = "FILE", num_args = 1..)]
    deploy: Vec<PathBuf>,
    /// Capabilities to grant to the deployed components
    #[arg(long, value_name = "CAPABILITY,…", value_delimiter = ',', requires = "deploy")]
    grant: Vec<String>,
    #[command(flatten)]
    settings: Settings,
}

impl ServeCommand {
    pub(super) fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        let (loaded, file) = self.settings.load()?;
        telemetry::start(&loaded.config.log, terminal.error_colours()).map_err(|error| Failure::host(&error))?;
        let deployments =
            self.deploy.into_iter().map(|file| Deployment { file, grants: self.grant.clone() }).collect::<Vec<_>>();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .event_interval(EVENT_INTERVAL)
            .build()
            .map_err(|error| Failure::new(format!("the runtime cannot start: {error}")))?;
        let served = runtime.block_on(serve(loaded, file, deployments, terminal));
        // Without the timeout, a thread that is stuck in a plugin's SQL statement would delay the exit without limit.
        runtime.shutdown_timeout(THREAD_TIMEOUT);
        telemetry::flush();
        served
    }
}

async fn serve(
    loaded: Loaded,
    file: Option<String>,
    deployments: Vec<Deployment>,
    terminal: &Terminal,
) -> Result<(), Failure> {
    let Loaded { config, settings } = loaded;
    if config.server.development {
        tracing::warn!("development mode: /api/v1/private is open to everybody");
    }
    let environment = Environment { awaits_deployments: !deployments.is_empty(), settings, ..Environment::default() };
    let app = App::start(config.clone(), environment).await.map_err(|error| Failure::host(&error))?;
    shutdown::on_signal(app.shutdown().clone()).map_err(|error| Failure::host(&error))?;
    tracing::info!(address = %app.addr(), "listening");
    let people = telemetry::is_text(&config.log) && !terminal.is_json();
    show_first_superuser(&app, terminal, people);

    let mut deployed = Vec::new();
    for deployment in &deployments {
        let stopping = app.shutdown().clone();
        match stopping.run_until_cancelled(app.deploy(deployment)).await {
            None => break,
            Some(Ok(done)) => deployed.push(done),
            Some(Err(error)) => {
                // The start fails: the host must not serve without a plugin that the operator named.
                let failure = Failure::host(&error);
                app.stop().await.map_err(|error| Failure::host(&error))?;
                let text = format!("{} could not be deployed: {}", deployment.file.display(), failure.text);
                return Err(Failure::new(text));
            }
        }
    }

    app.set_ready();
    Banner { config: &config, file: file.as_deref(), app: &app, deployed: &deployed }.show(terminal, people);
    app.wait().await.map_err(|error| Failure::host(&error))?;
    tracing::info!("stopped");
    Ok(())
}
