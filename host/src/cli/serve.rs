//! `wharf serve`: loads, starts, says how to reach it, waits for the end.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::banner::Banner;
use super::config::Settings;
use super::failure::Failure;
use super::terminal::Terminal;
use crate::app::{Ambient, App, Deployment};
use crate::config::Config;
use crate::{shutdown, telemetry};

/// How long the threads that still run are waited for when all has ended.
const LAST_THREADS: Duration = Duration::from_secs(2);

/// Run the host.
#[derive(Debug, Args)]
pub(super) struct Serve {
    /// Components to deploy at start, unless they are live already
    #[arg(long, value_name = "FILE", num_args = 1..)]
    deploy: Vec<PathBuf>,
    /// Capabilities to grant to the deployed components
    #[arg(long, value_name = "CAPABILITY,…", value_delimiter = ',', requires = "deploy")]
    grant: Vec<String>,
    #[command(flatten)]
    settings: Settings,
}

impl Serve {
    pub(super) fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        let (loaded, file) = self.settings.load()?;
        let config = loaded.config;
        telemetry::start(&config.log, terminal.error_colours()).map_err(|error| Failure::host(&error))?;
        let deployments =
            self.deploy.into_iter().map(|file| Deployment { file, grants: self.grant.clone() }).collect::<Vec<_>>();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::new(format!("the runtime cannot start: {error}")))?;
        let served = runtime.block_on(serve(config, file, deployments, terminal));
        // Else a thread that does not come to its end, in a statement of a plugin, would be waited for without limit.
        runtime.shutdown_timeout(LAST_THREADS);
        served
    }
}

async fn serve(
    config: Config,
    file: Option<String>,
    deployments: Vec<Deployment>,
    terminal: &Terminal,
) -> Result<(), Failure> {
    if config.server.development {
        tracing::warn!("development mode: /api/v1/private is open to everybody and mail is logged, not sent");
    }
    let app = App::start(config.clone(), Ambient::default()).await.map_err(|error| Failure::host(&error))?;
    shutdown::on_signal(app.shutdown().clone()).map_err(|error| Failure::host(&error))?;
    tracing::info!(address = %app.addr(), "listening");

    let mut deployed = Vec::new();
    for deployment in &deployments {
        let stopping = app.shutdown().clone();
        match stopping.run_until_cancelled(app.deploy(deployment)).await {
            None => break,
            Some(Ok(done)) => deployed.push(done),
            Some(Err(error)) => {
                // Refused at once rather than serving without what was asked for.
                let failure = Failure::host(&error);
                app.stop().await.map_err(|error| Failure::host(&error))?;
                let text = format!("{} could not be deployed: {}", deployment.file.display(), failure.text);
                return Err(Failure::new(text));
            }
        }
    }

    let people = telemetry::is_text(&config.log) && !terminal.is_json();
    Banner { config: &config, file: file.as_deref(), app: &app, deployed: &deployed }.show(terminal, people);
    app.wait().await.map_err(|error| Failure::host(&error))?;
    tracing::info!("stopped");
    Ok(())
}
