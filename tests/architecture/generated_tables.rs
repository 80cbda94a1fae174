//! Compares the tables of the documents with the code: generated ones in `host/ARCHITECTURE.md`, and the settings in
//! `host/OPERATING.md`.

use crate::support::component::workspace;

/// Compares the table behind `<!-- generated: {name} -->` in `host/ARCHITECTURE.md` with the code, row by row. Rewrites
/// it when `WHARF_UPDATE_DOCS` is set.
fn check_table(name: &str, head: &str, rows: impl Iterator<Item = String>) {
    // Two tests rewrite the same file.
    static FILE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _guard = FILE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let file = workspace().join("host/ARCHITECTURE.md");
    let text = std::fs::read_to_string(&file).unwrap();
    let begin = format!("<!-- generated: {name} -->\n\n");
    let at = text.find(&begin).unwrap_or_else(|| panic!("{} has no marker for {name}", file.display())) + begin.len();
    let documented: String = text[at..].split_inclusive('\n').take_while(|line| line.starts_with('|')).collect();
    let rule = "|---".repeat(head.matches('|').count() - 1);
    let table: String = [head.to_owned(), format!("{rule}|")].into_iter().chain(rows).map(|row| row + "\n").collect();
    if std::env::var_os("WHARF_UPDATE_DOCS").is_some() {
        let end = at + documented.len();
        std::fs::write(&file, format!("{}{table}{}", &text[..at], &text[end..])).unwrap();
        return;
    }
    let differences: Vec<_> = std::iter::zip(table.lines(), documented.lines().chain(std::iter::repeat("")))
        .filter(|(right, found)| right != found)
        .collect();
    assert!(
        table == documented,
        "the table of {name} in host/ARCHITECTURE.md is out of date; WHARF_UPDATE_DOCS=1 rewrites it. \
         (Expected, found): {differences:#?}\n{table}"
    );
}

#[test]
fn the_table_of_error_codes_matches_the_code() {
    let row = |declared: &wharf::error::code::Declaration| {
        let statuses: Vec<String> = declared.statuses.iter().map(ToString::to_string).collect();
        format!("| `{}` | {} | {} |", declared.code, statuses.join(", "), declared.meaning())
    };
    check_table("error codes", "| code | status | meaning |", wharf::error::code::ALL.iter().map(row));
}

#[test]
fn the_table_of_status_codes_matches_the_code() {
    let row = |rule: &wharf::http::problem::StatusRule| {
        format!("| `{}` | {} | {} |", rule.kind, rule.status.as_u16(), rule.when)
    };
    check_table("status codes", "| kind | status | when |", wharf::http::problem::STATUSES.iter().map(row));
}

#[test]
fn every_setting_is_in_the_operating_guide_with_its_default() {
    let text = std::fs::read_to_string(workspace().join("host/OPERATING.md")).unwrap();
    let settings = wharf::config::load(&wharf::config::Sources::default()).unwrap().settings;
    let rows = settings.iter().map(|setting| {
        let default = setting.value.as_ref().map(|value| format!("`{value}`")).unwrap_or_default();
        format!("| `{}` | `{}` | {default} |", setting.key, setting.env)
    });
    let missing: Vec<String> = rows.filter(|row| !text.contains(row)).collect();
    assert!(missing.is_empty(), "host/OPERATING.md needs these rows: {missing:#?}");
}
