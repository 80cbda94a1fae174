//! Grants and limits as text. The input is text: one grant or limit per line (`sql.rows=500`, `memory=64MiB`), an empty
//! line, and a later list.
//!
//! Properties: a parsed list has one canonical form, which parses to the same list; merging follows its documentation;
//! a rejection is one line.

use wharf::capability::Grants;
use wharf::plugin::limits::LimitOverrides;

use crate::input::{assert_line, lines};

/// Checks a list and a later one.
pub fn check(data: &[u8]) {
    let lines = lines(data);
    let mut parts = lines.splitn(2, String::is_empty);
    let before: Vec<&str> = parts.next().unwrap_or_default().iter().map(String::as_str).collect();
    let after: Vec<&str> = parts.next().unwrap_or_default().iter().map(String::as_str).collect();
    if let (Some(before), Some(after)) = (read_grants(&before), read_grants(&after)) {
        let merged = before.clone().merged(after.clone());
        check_merged(&before.to_texts(), &after.to_texts(), &merged.to_texts());
        assert_eq!(merged.clone().merged(Grants::default()), merged, "merging an empty list changed something");
        read_grants(&merged.to_texts().iter().map(String::as_str).collect::<Vec<_>>())
            .expect("merged grants are grants");
    }
    if let (Some(before), Some(after)) = (read_limits(&before), read_limits(&after)) {
        let merged = before.clone().merged(after.clone());
        check_merged(&before.to_texts(), &after.to_texts(), &merged.to_texts());
        read_limits(&merged.to_texts().iter().map(String::as_str).collect::<Vec<_>>())
            .expect("merged limits are limits");
    }
}

fn read_grants(texts: &[&str]) -> Option<Grants> {
    let grants = match Grants::read(texts.iter().copied()) {
        Ok(grants) => grants,
        Err(error) => {
            assert_line(&error.to_string());
            return None;
        }
    };
    let written = grants.to_texts();
    written.iter().for_each(|text| assert_line(text));
    assert_eq!(
        Grants::read(written.iter().map(String::as_str)).as_ref(),
        Ok(&grants),
        "{written:?} cannot be parsed again"
    );
    let stored = serde_json::to_string(&grants).unwrap();
    assert_eq!(serde_json::from_str::<Grants>(&stored).ok().as_ref(), Some(&grants), "{stored} cannot be parsed again");
    let mut backwards = texts.to_vec();
    backwards.reverse();
    assert_eq!(Grants::read(backwards).as_ref(), Ok(&grants), "the order makes a difference");
    for name in grants.names() {
        assert!(wharf::plugin::fuzzing::capabilities().contains(&name), "{name} is not a capability");
    }
    if let [text] = texts {
        check_meaning(text, &written);
    }
    Some(grants)
}

/// Checks that a value keeps its meaning in canonical form, by a naive parser of its unit.
fn check_meaning(given: &str, written: &[String]) {
    let Some((name, value)) = given.split_once('=') else { return };
    let Some(kept) = written.iter().find_map(|text| text.strip_prefix(&format!("{}=", name.trim()))) else { return };
    if let (Some(value), Some(kept)) = (quantity(value), quantity(kept)) {
        assert_eq!(value, kept, "{given} became {written:?}");
    }
}

/// Returns the first number in bytes, in nanoseconds or without a unit; `None` for several numbers or an unknown unit.
fn quantity(text: &str) -> Option<u128> {
    let text = text.trim().to_ascii_lowercase();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let unit = match text[digits..].trim() {
        "" | "b" => 1,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        _ => return None,
    };
    Some(text[..digits].parse::<u64>().ok()? as u128 * unit)
}

fn read_limits(texts: &[&str]) -> Option<LimitOverrides> {
    let limits = match LimitOverrides::read(texts.iter().copied()) {
        Ok(limits) => limits,
        Err(error) => {
            assert_line(&error);
            return None;
        }
    };
    let written = limits.to_texts();
    assert_eq!(
        LimitOverrides::read(written.iter().map(String::as_str)).as_ref(),
        Ok(&limits),
        "{written:?} cannot be parsed again"
    );
    Some(limits)
}

/// Checks that a merged list has all entries of `after`, and those of `before` that `after` does not replace.
fn check_merged(before: &[String], after: &[String], merged: &[String]) {
    let name = |text: &String| text.split('=').next().unwrap_or_default().to_owned();
    let mut expected: Vec<String> =
        before.iter().filter(|text| !after.iter().any(|it| name(it) == name(text))).cloned().collect();
    expected.extend(after.iter().cloned());
    // If only one of the lists has a capability, a `default` in it removes nothing yet.
    let taken = |texts: &[String]| -> Vec<String> {
        let mut texts: Vec<String> = texts.iter().filter(|text| !text.ends_with("=default")).cloned().collect();
        texts.sort();
        texts
    };
    assert_eq!(taken(merged), taken(&expected), "{before:?} and {after:?}");
}
