//! Output and questions. Results go to standard output, and all other lines to standard error, so that a script reads
//! nothing but the result. A reader that has closed the pipe (`| head`) is not an error.

use std::io::{IsTerminal, Write as _};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use owo_colors::{OwoColorize as _, Style};
use serde::Serialize;

use super::failure::Failure;

/// The interval between two frames of a spinner.
const TICK: Duration = Duration::from_millis(100);

/// Standard output and standard error, with the form in which to write.
pub(super) struct Terminal {
    json: bool,
    colours: bool,
    error_colours: bool,
}

impl Terminal {
    pub(super) fn new(json: bool) -> Self {
        Self { json, colours: colours(&std::io::stdout()), error_colours: colours(&std::io::stderr()) }
    }

    /// Returns whether results are written as JSON.
    pub(super) fn is_json(&self) -> bool {
        self.json
    }

    /// Returns whether log lines may have colours.
    pub(super) fn error_colours(&self) -> bool {
        self.error_colours
    }

    /// Writes a line of the result, for people.
    #[allow(clippy::unused_self, reason = "all output goes through the terminal")]
    pub(super) fn line(&self, text: impl AsRef<str>) {
        let _ = writeln!(std::io::stdout(), "{}", text.as_ref());
    }

    /// Writes the result as JSON, for programs.
    pub(super) fn json(&self, value: &impl Serialize) {
        self.line(serde_json::to_string_pretty(value).unwrap_or_default());
    }

    /// Writes a note on the progress; for people only.
    pub(super) fn note(&self, text: impl AsRef<str>) {
        if !self.json {
            let _ = writeln!(std::io::stderr(), "{}", text.as_ref());
        }
    }

    /// Writes a possible next step; for people only.
    pub(super) fn hint(&self, text: impl AsRef<str>) {
        let text = text.as_ref();
        self.note(if self.error_colours { text.dimmed().to_string() } else { text.to_owned() });
    }

    pub(super) fn bold(&self, text: &str) -> String {
        self.styled(text, Style::new().bold())
    }

    pub(super) fn faint(&self, text: &str) -> String {
        self.styled(text, Style::new().dimmed())
    }

    pub(super) fn warning(&self, text: &str) -> String {
        self.styled(text, Style::new().yellow().bold())
    }

    pub(super) fn good(&self, text: &str) -> String {
        self.styled(text, Style::new().green())
    }

    pub(super) fn bad(&self, text: &str) -> String {
        self.styled(text, Style::new().red())
    }

    fn styled(&self, text: &str, style: Style) -> String {
        if self.colours { text.style(style).to_string() } else { text.to_owned() }
    }

    /// Writes a table whose columns are as wide as their widest cell.
    pub(super) fn table<const N: usize>(&self, head: [&str; N], rows: &[[String; N]]) {
        let widths: [usize; N] = std::array::from_fn(|column| {
            let cells =
                rows.iter().filter_map(|row| row.get(column).map(String::as_str)).chain(head.get(column).copied());
            cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
        });
        let line = |cells: &mut dyn Iterator<Item = &str>| {
            let padded: Vec<_> = cells.zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            padded.join("  ").trim_end().to_owned()
        };
        self.line(self.bold(&line(&mut head.iter().copied())));
        for row in rows {
            self.line(line(&mut row.iter().map(String::as_str)));
        }
    }

    /// Creates a progress bar for `length` bytes. It draws nothing unless standard error is a terminal.
    pub(super) fn progress(&self, length: u64) -> ProgressBar {
        if self.json || !std::io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let template = "{bar:30} {bytes}/{total_bytes} {bytes_per_sec}";
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        ProgressBar::new(length).with_style(style)
    }

    /// Turns a progress bar into a spinner with a text.
    #[allow(clippy::unused_self, reason = "all output goes through the terminal")]
    pub(super) fn spin(&self, bar: &ProgressBar, text: String) {
        let first = bar.message().is_empty();
        bar.set_message(text);
        if first {
            let style = ProgressStyle::with_template("{spinner} {msg} {elapsed:.dim}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.enable_steady_tick(TICK);
        }
    }

    /// Writes the failure of a command.
    pub(super) fn fail(&self, failure: &Failure) {
        let mut out = std::io::stderr().lock();
        if self.json {
            let _ = writeln!(out, "{}", failure.to_json());
            return;
        }
        let label = if self.error_colours { "error:".red().bold().to_string() } else { "error:".to_owned() };
        let _ = writeln!(out, "{label} {}", failure.text);
        for detail in &failure.details {
            let _ = writeln!(out, "  {detail}");
        }
        if let Some(next) = &failure.next {
            let _ = writeln!(out, "{next}");
        }
    }

    /// Returns whether a person can read a question and answer it.
    pub(super) fn can_ask(&self) -> bool {
        !self.json && std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
    }

    /// Asks for a line. The question goes to standard error, because it is no part of the result.
    pub(super) fn ask(&self, question: &str) -> Result<String, Failure> {
        if !std::io::stdin().is_terminal() {
            return Err(Failure::usage(format!("cannot ask {question:?}: standard input is not a terminal")));
        }
        let mut out = std::io::stderr();
        let _ = write!(out, "{question}: ");
        let _ = out.flush();
        let mut line = String::new();
        std::io::stdin()
            .read_line(&mut line)
            .map_err(|error| Failure::new(format!("cannot read the answer: {error}")))?;
        Ok(line.trim().to_owned())
    }
}

/// Returns whether to use colours: on a terminal, unless `NO_COLOR` (no-color.org) or `TERM=dumb` is set.
fn colours(stream: &impl IsTerminal) -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    stream.is_terminal() && !refused && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}
