//! `wharf user import` and `wharf user export`: accounts with their hashes as JSON lines. Both work on the database of
//! the machine, not through a running host: a hash never leaves through HTTP. A host may run meanwhile.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use crate::app::machine::require_database;
use crate::auth::{ImportOptions, ImportReport, Transfer};
use crate::cli::config::Settings;
use crate::cli::failure::Failure;
use crate::cli::terminal::Terminal;
use crate::clock::{Clock, Random};
use crate::config::Config;
use crate::db::Db;
use crate::db::reach::reach;

/// Add accounts with their hashes from JSON lines, on the machine of the host.
#[derive(Debug, Args)]
pub(in crate::cli) struct ImportCommand {
    /// The file with one JSON object per line; - is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Check the lines and add nothing
    #[arg(long)]
    dry_run: bool,
    /// Make superusers of the other system superusers here
    #[arg(long)]
    superusers: bool,
    #[command(flatten)]
    settings: Settings,
}

/// Write all accounts with their hashes as JSON lines, on the machine of the host.
#[derive(Debug, Args)]
pub(in crate::cli) struct ExportCommand {
    /// The file to create, which only its owner can read [default: standard output]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
}

impl ImportCommand {
    pub(in crate::cli) fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        let config = self.settings.load()?.0.config;
        let input: Box<dyn BufRead> = match self.file.as_os_str() == "-" {
            true => Box::new(BufReader::new(std::io::stdin())),
            false => Box::new(BufReader::new(File::open(&self.file).map_err(|error| unusable(&self.file, &error))?)),
        };
        let options = ImportOptions { superusers: self.superusers, dry_run: self.dry_run };
        let report = on_database(&config, async |transfer| {
            transfer.import(input, options).await.map_err(|error| Failure::host(&error))
        })?;
        match terminal.is_json() {
            true => terminal.json(&report),
            false => show(&report, options, terminal),
        }
        if report.refused == 0 {
            return Ok(());
        }
        let mut failure = Failure::new(match report.refused {
            1 => "1 line was refused".to_owned(),
            refused => format!("{refused} lines were refused"),
        });
        failure.details =
            report.findings.iter().map(|found| format!("line {}: {}", found.line, found.reason)).collect();
        Err(failure.next("Correct these lines and import the file again: accounts that exist are skipped."))
    }
}

fn show(report: &ImportReport, options: ImportOptions, terminal: &Terminal) {
    let done = if options.dry_run { "Would import" } else { "Imported" };
    terminal.line(format!("{done} {} accounts; {} exist already", report.imported, report.existing));
    if report.without_password > 0 {
        terminal.note(format!("{} have no password: their owners set one by recovery", report.without_password));
    }
    if report.ordinary > 0 {
        terminal.note(format!("{} superusers became ordinary accounts (see --superusers)", report.ordinary));
    }
}

impl ExportCommand {
    pub(in crate::cli) fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        let config = self.settings.load()?.0.config;
        let Some(path) = self.output else {
            return on_database(&config, async |transfer| {
                let write = |line: &str| writeln!(std::io::stdout(), "{line}");
                transfer.export(write).await.map(drop).map_err(|error| Failure::host(&error))
            });
        };
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let mut file = BufWriter::new(file.map_err(|error| unusable(&path, &error))?);
        let count = on_database(&config, async |transfer| {
            let count =
                transfer.export(|line| writeln!(file, "{line}")).await.map_err(|error| Failure::host(&error))?;
            file.flush().map_err(|error| unusable(&path, &error))?;
            Ok(count)
        })?;
        match terminal.is_json() {
            true => terminal.json(&json!({ "exported": count, "file": path })),
            false => terminal.line(format!("Exported {count} accounts with their hashes to {}", path.display())),
        }
        Ok(())
    }
}

fn unusable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(format!("{}: {error}", path.display()))
}

/// Opens the database, works on it and closes it.
fn on_database<T>(config: &Config, work: impl AsyncFnOnce(&Transfer) -> Result<T, Failure>) -> Result<T, Failure> {
    require_database(config).map_err(|error| Failure::host(&error))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(format!("the runtime cannot start: {error}")))?;
    runtime.block_on(async {
        let failed = |error| Failure::host(&error);
        reach(&config.database, config.database.timeout).await.map_err(failed)?;
        let db = Db::open(&config.database, &config.server.data_dir).await.map_err(failed)?;
        let done = work(&Transfer::new(db.clone(), Clock::default(), Random::default())).await;
        db.close().await;
        done
    })
}
