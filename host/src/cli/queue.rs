//! The parts that `wharf events`, `wharf jobs` and `wharf mail` share: pages of a queue, reasons in a table, and the question
//! before many entries are deleted.

use clap::Args;
use form_urlencoded::Serializer;
use serde_json::Value;

use super::api::Api;
use super::failure::Failure;
use super::plugin::view::text;
use super::terminal::Terminal;

/// The most characters of a reason in a table.
const SHORT: usize = 60;

/// The page of a list.
#[derive(Debug, Args)]
pub(super) struct PageOptions {
    /// Show the oldest first
    #[arg(long)]
    pub(super) oldest: bool,
    /// Continue behind this number
    #[arg(long, value_name = "NUMBER")]
    pub(super) after: Option<i64>,
    /// The number of rows to show
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) limit: u32,
}

impl PageOptions {
    /// Returns the query of the page with the filters that have a value.
    pub(super) fn query(&self, filters: &[(&str, Option<&str>)]) -> String {
        let mut query = Serializer::new(String::new());
        query.append_pair("limit", &self.limit.to_string());
        query.append_pair("order", if self.oldest { "oldest" } else { "newest" });
        for (name, value) in filters {
            if let Some(value) = value {
                query.append_pair(name, value);
            }
        }
        if let Some(after) = self.after {
            query.append_pair("cursor", &after.to_string());
        }
        query.finish()
    }
}

/// Says how the next page is shown, if there is one.
pub(super) fn hint_at_next(page: &Value, terminal: &Terminal) {
    if let Some(next) = page.get("next").and_then(Value::as_i64) {
        terminal.hint(format!("`--after {next}` shows the next ones"));
    }
}

/// Returns the beginning of a reason, for a table.
pub(super) fn shortened(reason: String) -> String {
    match reason.char_indices().nth(SHORT) {
        Some((end, _)) => format!("{}…", reason.get(..end).unwrap_or_default()),
        None => reason,
    }
}

/// Prints a member of an object, unless it is empty.
pub(super) fn show_member(name: &str, value: &str, terminal: &Terminal) {
    if !value.is_empty() {
        terminal.line(format!("  {name:<12}{value}"));
    }
}

/// Prints the message of a response.
pub(super) fn show_message(response: &Value, terminal: &Terminal) {
    terminal.line(text(response, "message"));
}

/// Returns the failure of a change that names no entry. `forms` are the commands that name one or many.
pub(super) fn unnamed(entry: &str, forms: &[String]) -> Failure {
    let forms: Vec<_> = forms.iter().map(|form| format!("`{form}`")).collect();
    Failure::usage(format!("the command names no {entry}")).next(format!("Use one of {}.", forms.join(", ")))
}

/// Asks before many entries are deleted.
pub(super) fn confirm_drop(entries: &str, api: &Api, terminal: &Terminal) -> Result<(), Failure> {
    let question = format!("This deletes {entries} at {}. Type 'drop' to confirm", api.url());
    let typed = terminal.ask(&question).map_err(|failure| failure.next("Add --yes to skip the question."))?;
    if typed == "drop" { Ok(()) } else { Err(Failure::new("nothing was dropped")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_asked_for_with_the_filters_that_were_given() {
        let page = PageOptions { oldest: true, after: Some(7), limit: 5 };
        let filters = [("plugin", Some("items")), ("state", None), ("name", Some("a&b"))];
        assert_eq!(page.query(&filters), "limit=5&order=oldest&plugin=items&name=a%26b&cursor=7");
        let page = PageOptions { oldest: false, after: None, limit: 50 };
        assert_eq!(page.query(&[]), "limit=50&order=newest");
    }

    #[test]
    fn a_long_reason_is_cut_at_a_character() {
        assert_eq!(shortened("é".repeat(SHORT)), "é".repeat(SHORT));
        assert_eq!(shortened("é".repeat(SHORT + 1)), format!("{}…", "é".repeat(SHORT)));
    }
}
