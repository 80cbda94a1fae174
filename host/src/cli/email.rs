//! `wharf email`: lists, previews and writes the templates of mails. It uses the configuration and needs no running host.

use std::io::Write as _;
use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use serde_json::json;

use super::config::Settings;
use super::failure::Failure;
use super::terminal::Terminal;
use crate::email::{Template, Templates};

/// List, preview and write the templates of mails.
#[derive(Debug, Subcommand)]
pub(super) enum EmailCommand {
    /// List all mails, and the templates that email.templates_dir replaces
    List(Settings),
    /// Show a mail with sample values
    Preview(PreviewCommand),
    /// Write the built-in templates to a directory, to change them; existing files stay
    Export(ExportCommand),
}

/// Show a mail with sample values.
#[derive(Debug, Args)]
pub(super) struct PreviewCommand {
    /// The name of the mail
    #[arg(value_parser = PossibleValuesParser::new(names()))]
    name: String,
    /// Show the HTML and not the text
    #[arg(long)]
    html: bool,
    #[command(flatten)]
    settings: Settings,
}

/// Write the built-in templates to a directory.
#[derive(Debug, Args)]
pub(super) struct ExportCommand {
    /// The directory; created if it is missing
    directory: PathBuf,
}

fn names() -> impl Iterator<Item = &'static str> {
    Template::ALL.iter().map(|template| template.as_str())
}

impl EmailCommand {
    pub(super) fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        match self {
            Self::List(settings) => list(&open(settings)?, terminal),
            Self::Preview(command) => return command.run(terminal),
            Self::Export(command) => return command.run(terminal),
        }
        Ok(())
    }
}

fn open(settings: Settings) -> Result<Templates, Failure> {
    let (loaded, _) = settings.load()?;
    Templates::new(&loaded.config).map_err(|error| Failure::host(&error))
}

fn list(templates: &Templates, terminal: &Terminal) {
    if terminal.is_json() {
        let entry = |template: &Template| {
            let replaced = templates.replaced(*template);
            json!({ "name": template.as_str(), "meaning": template.meaning(), "replaced": replaced })
        };
        terminal.json(&Template::ALL.iter().map(entry).collect::<Vec<_>>());
        return;
    }
    let row = |template: &Template| {
        let replaced = templates.replaced(*template).join(", ");
        [template.as_str().to_owned(), template.meaning().to_owned(), replaced]
    };
    terminal.table(["NAME", "OCCASION", "REPLACED"], &Template::ALL.iter().map(row).collect::<Vec<_>>());
}

impl PreviewCommand {
    fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        let templates = open(self.settings)?;
        let template = Template::ALL.iter().find(|template| template.as_str() == self.name);
        let template = template.ok_or_else(|| Failure::usage(format!("there is no mail {}", self.name)))?;
        let message = templates.preview(*template).map_err(|error| Failure::host(&error))?;
        match (terminal.is_json(), self.html) {
            (true, _) => terminal.json(&json!({
                "name": self.name, "to": message.to, "subject": message.subject,
                "text": message.text, "html": message.html,
            })),
            (false, true) => terminal.line(message.html),
            (false, false) => {
                terminal.line(format!("To: {}\nSubject: {}\n\n{}", message.to, message.subject, message.text));
            }
        }
        Ok(())
    }
}

impl ExportCommand {
    fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        let failed = |name: &str, error: std::io::Error| {
            Failure::new(format!("{} cannot be written: {error}", self.directory.join(name).display()))
        };
        std::fs::create_dir_all(&self.directory).map_err(|error| failed("", error))?;
        let (mut written, mut kept) = (Vec::new(), Vec::new());
        for (name, source) in Templates::built_in() {
            match std::fs::File::create_new(self.directory.join(name)) {
                Ok(mut file) => {
                    file.write_all(source.as_bytes()).map_err(|error| failed(name, error))?;
                    written.push(name);
                }
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => kept.push(name),
                Err(error) => return Err(failed(name, error)),
            }
        }
        if terminal.is_json() {
            terminal.json(&json!({ "directory": self.directory, "written": written, "kept": kept }));
        } else {
            let kept = if kept.is_empty() { String::new() } else { format!("; kept {} existing files", kept.len()) };
            terminal.line(format!("Wrote {} templates to {}{kept}", written.len(), self.directory.display()));
            terminal.hint("Delete the files that you do not change, and set email.templates_dir to the directory");
        }
        Ok(())
    }
}
