//! `wharf config`: checks and shows the configuration. Owns the flags that set settings, which `wharf serve` shares.

use std::ffi::OsString;
use std::path::Path;

use clap::builder::OsStringValueParser;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::failure::Failure;
use super::terminal::Terminal;
use crate::config::{Flag, Loaded, Origin, Sources, load, source};

/// Variables that the command line itself uses; every other `WHARF_*` is a setting of the host.
const NOT_SETTINGS: &[&str] = &["WHARF_CONFIG", "WHARF_URL", "WHARF_TOKEN", "WHARF_TOKEN_FILE"];

/// Settings on the command line. Values are text here; `config` checks them together with all others.
#[derive(Debug, Args)]
pub(super) struct Settings {
    /// The configuration file [default: ./wharf.toml if there is one]
    #[arg(long, value_name = "FILE", env = "WHARF_CONFIG", value_parser = OsStringValueParser::new())]
    config: Option<OsString>,
    /// Address and port to listen on
    #[arg(long, value_name = "ADDRESS", help_heading = "Settings")]
    listen: Option<String>,
    /// The directory of SQLite files, keys and caches
    #[arg(long, value_name = "DIR", help_heading = "Settings")]
    data_dir: Option<String>,
    /// Open /api/v1/private, and show mails at /dev/mail if no mail server is configured
    #[arg(long, help_heading = "Settings")]
    development: bool,
    /// The URLs of the frontends: the allowed CORS origins; the first one is the base of links in mails
    #[arg(long, value_name = "URLS", help_heading = "Settings")]
    frontend_url: Option<String>,
    /// The directory of a built frontend to serve
    #[arg(long, value_name = "DIR", help_heading = "Settings")]
    static_dir: Option<String>,
    /// The format of log lines: auto, text or json
    #[arg(long, value_name = "FORMAT", help_heading = "Settings")]
    log_format: Option<String>,
    /// The log filter, such as info,wharf::plugin=debug
    #[arg(long, value_name = "FILTER", help_heading = "Settings")]
    log: Option<String>,
}

impl Settings {
    /// Loads and checks the whole configuration. Returns it with the path of the file that was read.
    pub(super) fn load(self) -> Result<(Loaded, Option<String>), Failure> {
        // An empty variable counts as unset, as with every setting.
        let file = self.config.filter(|path| !path.is_empty());
        let given = [
            ("server.listen", "--listen", self.listen),
            ("server.data_dir", "--data-dir", self.data_dir),
            ("server.development", "--development", self.development.then(|| "true".to_owned())),
            ("server.frontend_url", "--frontend-url", self.frontend_url),
            ("server.static_dir", "--static-dir", self.static_dir),
            ("log.format", "--log-format", self.log_format),
            ("log.filter", "--log", self.log),
        ];
        let flags = given.into_iter().filter_map(|(key, name, value)| value.map(|value| Flag { key, name, value }));
        let sources = Sources::of_process(file.as_deref().map(Path::new), NOT_SETTINGS, flags.collect());
        let read = sources.path().map(|path| path.display().to_string());
        match load(&sources) {
            Ok(loaded) => Ok((loaded, read)),
            Err(refused) => Err(Failure::configuration(&refused)),
        }
    }
}

/// Check or show the configuration.
#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Report every error in the configuration
    Check(Settings),
    /// Show every setting, its value and the source of the value
    Show(Settings),
}

impl ConfigCommand {
    pub(super) fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        match self {
            Self::Check(settings) => {
                let (_, file) = settings.load()?;
                match terminal.is_json() {
                    true => terminal.json(&json!({ "valid": true, "file": file })),
                    false => terminal.line(format!(
                        "{} ({})",
                        terminal.good("The configuration is valid"),
                        file.unwrap_or_else(|| format!("no {}", source::DEFAULT_FILE))
                    )),
                }
            }
            Self::Show(settings) => show(&settings.load()?.0, terminal),
        }
        Ok(())
    }
}

fn show(loaded: &Loaded, terminal: &Terminal) {
    if terminal.is_json() {
        let entry = |setting: &crate::config::Setting| {
            let member = json!({
                "value": setting.value,
                "origin": setting.origin.to_string(),
                "env": setting.env,
                "accepted": setting.accepted,
            });
            (setting.key.to_string(), member)
        };
        terminal.json(&loaded.settings.iter().map(entry).collect::<serde_json::Map<String, Value>>());
        return;
    }
    let rows: Vec<_> = loaded
        .settings
        .iter()
        .map(|setting| {
            let value = setting.value.clone().unwrap_or_else(|| "-".to_owned());
            let origin = if setting.origin == Origin::Default { String::new() } else { setting.origin.to_string() };
            [setting.key.to_string(), value, origin, setting.env.to_string()]
        })
        .collect();
    terminal.table(["SETTING", "VALUE", "SET BY", "VARIABLE"], &rows);
}
