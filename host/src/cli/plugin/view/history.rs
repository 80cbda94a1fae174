//! The output of `wharf plugin releases` and `wharf plugin history`.

use serde_json::{Map, Value};

use super::{DIGEST_DIGITS, HOST, account_name, bytes, members, text, to_the_second};
use crate::cli::terminal::Terminal;

/// Prints the stored releases, newest first. `email_addresses` is by account.
pub(in crate::cli::plugin) fn releases(response: &Value, email_addresses: &Map<String, Value>, terminal: &Terminal) {
    let mark = |release: &Value| {
        let is = |name: &str| response.get(name).is_some_and(|number| Some(number) == release.get("number"));
        if is("live") {
            "live"
        } else if is("on_trial") {
            "canary"
        } else {
            ""
        }
    };
    let rows: Vec<_> = members(response, "data")
        .map(|release| {
            [
                text(release, "number"),
                mark(release).to_owned(),
                text(release, "version"),
                text(release, "digest").chars().take(DIGEST_DIGITS).collect(),
                bytes(release.get("size")),
                to_the_second(&text(release, "created_at")),
                account_name(&text(release, "created_by"), email_addresses),
            ]
        })
        .collect();
    terminal.table(["RELEASE", "", "VERSION", "DIGEST", "SIZE", "DEPLOYED (UTC)", "BY"], &rows);
}

/// Prints the operations, newest first.
pub(in crate::cli::plugin) fn history(response: &Value, terminal: &Terminal) {
    let rows: Vec<_> = members(response, "data").map(row).collect();
    terminal.table(["WHEN (UTC)", "WHAT", "WHO", "OUTCOME", "RELEASE", "WHY"], &rows);
    let all = response.get("count").and_then(Value::as_u64).and_then(|all| usize::try_from(all).ok());
    if let Some(all) = all.filter(|all| *all > rows.len()) {
        terminal.hint(format!("These are the latest {} of {all}; --limit shows more", rows.len()));
    }
}

fn row(entry: &Value) -> [String; 6] {
    let detail = entry.get("detail").unwrap_or(&Value::Null);
    let [email, id] = [text(entry, "actor_email"), text(entry, "actor")];
    let who = if !email.is_empty() {
        email
    } else if !id.is_empty() {
        id
    } else {
        HOST.to_owned()
    };
    let what = [text(entry, "action"), text(detail, "capability")].join(" ").trim().to_owned();
    [to_the_second(&text(entry, "at")), what, who, text(entry, "outcome"), release(detail), reason(detail)]
}

/// Returns the release of an entry, and the one before it.
fn release(detail: &Value) -> String {
    let [before, after, release] = ["before", "after", "release"].map(|name| text(detail, name));
    let on_trial = detail.get("canary").and_then(Value::as_bool).unwrap_or_default();
    let percent = text(detail, "percent");
    match (before.is_empty(), after.is_empty()) {
        (false, false) if on_trial => format!("{after} next to {before}"),
        (false, false) => format!("{before} → {after}"),
        (true, false) => after,
        // Removed.
        (false, true) => before,
        (true, true) if !percent.is_empty() => format!("{release} at {percent}%"),
        (true, true) => release,
    }
}

fn reason(detail: &Value) -> String {
    let deleted = detail.get("delete_data").and_then(Value::as_bool);
    let fate = deleted.map(|deleted| if deleted { "data deleted" } else { "data kept" });
    let stage = Some(text(detail, "stage")).filter(|stage| !stage.is_empty()).map(|stage| format!("at {stage}"));
    let parts = [fate.map(str::to_owned), stage, Some(text(detail, "reason")).filter(|reason| !reason.is_empty())];
    parts.into_iter().flatten().collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row_of(action: &str, detail: &Value) -> [String; 3] {
        let entry = json!({ "at": "2026-11-23T14:35:13.768681Z", "action": action, "outcome": "success",
            "actor": "a-1", "actor_email": null, "detail": detail });
        let [when, what, who, outcome, release, why] = row(&entry);
        assert_eq!((when.as_str(), who.as_str(), outcome.as_str()), ("2026-11-23 14:35:13", "a-1", "success"));
        [what, release, why]
    }

    #[test]
    fn each_operation_is_shown_with_its_release_and_reason() {
        let deploy = |detail: &Value| row_of("deploy", detail);
        assert_eq!(deploy(&json!({ "before": null, "after": 1, "canary": false })), ["deploy", "1", ""]);
        assert_eq!(deploy(&json!({ "before": 3, "after": 4, "canary": false })), ["deploy", "3 → 4", ""]);
        assert_eq!(deploy(&json!({ "before": 3, "after": 4, "canary": true })), ["deploy", "4 next to 3", ""]);
        let refused = json!({ "stage": "describe", "code": "x", "reason": "Not\na plugin" });
        assert_eq!(deploy(&refused), ["deploy", "", "at describe: Not a plugin"]);
        let back = json!({ "before": 4, "after": 3, "reason": "It failed" });
        assert_eq!(row_of("rollback", &back), ["rollback", "4 → 3", "It failed"]);
        assert_eq!(row_of("step", &json!({ "release": 4, "percent": 25.5 })), ["step", "4 at 25.5%", ""]);
        assert_eq!(row_of("abort", &json!({ "release": 4, "reason": "Worse" })), ["abort", "4", "Worse"]);
        assert_eq!(row_of("revoke", &json!({ "capability": "sql" })), ["revoke sql", "", ""]);
        let removed = json!({ "before": 4, "delete_data": true });
        assert_eq!(row_of("remove", &removed), ["remove", "4", "data deleted"]);
    }

    #[test]
    fn an_operation_without_an_account_is_the_hosts() {
        let [_, _, who, ..] = row(&json!({ "actor": null, "detail": null }));
        assert_eq!(who, HOST);
        let [_, _, who, ..] = row(&json!({ "actor": "a-1", "actor_email": "a@example.com" }));
        assert_eq!(who, "a@example.com");
    }
}
