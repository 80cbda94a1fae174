//! Which releases can run on which state of a plugin's tables. Migrations only go forward, so a release that goes back, or
//! that still runs while they are applied, meets tables that are newer than itself: each migration says the oldest one
//! whose releases can (expand first, contract in a later release). Owns the rules; applies nothing.

use serde::{Deserialize, Serialize};

use super::artifact::{invalid, told};
use crate::db::plugin::StoredPlugin;
use crate::error::{Error, Result, code};

/// A migration, as recorded of a release and of a database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Step {
    /// Its name.
    pub name: String,
    /// The earliest migration whose releases can run after it; none: all can.
    pub oldest: Option<String>,
}

impl StoredPlugin {
    /// The migrations that its database has seen.
    pub(super) fn steps(&self) -> Result<Vec<Step>> {
        serde_json::from_str(&self.schema)
            .map_err(|error| Error::internal("a plugin's recorded schema is not readable").with_source(error))
    }
}

fn has(steps: &[Step], name: &str) -> bool {
    steps.iter().any(|step| step.name == name)
}

/// Whether what a component declares makes sense.
///
/// # Errors
/// A migration names one that does not stand before it.
pub(super) fn check_declared(steps: &[Step]) -> Result<()> {
    for (index, step) in steps.iter().enumerate() {
        if let Some(oldest) = &step.oldest
            && !steps.iter().take(index).any(|earlier| earlier.name == *oldest)
        {
            return Err(invalid(format!(
                "its migration '{}' says that '{}' is the oldest that can run after it, which is no earlier one",
                told(&step.name),
                told(oldest)
            )));
        }
    }
    Ok(())
}

/// Whether a release can run on tables that have seen `applied`.
///
/// # Errors
/// 409 `schema_too_new`: a migration that the release does not have has taken away what it needs.
pub(super) fn check_back(release: &[Step], applied: &[Step]) -> Result<()> {
    for step in applied.iter().skip(release.len()) {
        if let Some(oldest) = &step.oldest
            && !has(release, oldest)
        {
            let known = release.last().map_or("none", |step| step.name.as_str());
            return Err(too_new(format!(
                "Since the migration '{}' the plugin's tables need a release that has '{}'; this one has {}",
                told(&step.name),
                told(oldest),
                told(known)
            )));
        }
    }
    Ok(())
}

/// Whether the live release can run on what a new one will make of the tables.
///
/// # Errors
/// 409 `schema_too_new`: a release in between has to be deployed first.
pub(super) fn check_forward(new: &[Step], applied: &[Step], live: &[Step]) -> Result<()> {
    for step in new.iter().skip(applied.len()) {
        if let Some(oldest) = &step.oldest
            && !has(live, oldest)
        {
            return Err(too_new(format!(
                "The migration '{}' would break the live release, which does not have '{}': deploy a release with that \
                 one first",
                told(&step.name),
                told(oldest)
            )));
        }
    }
    Ok(())
}

fn too_new(text: String) -> Error {
    Error::conflict(code::SCHEMA_TOO_NEW, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(list: &[(&str, Option<&str>)]) -> Vec<Step> {
        list.iter().map(|(name, oldest)| Step { name: (*name).to_owned(), oldest: oldest.map(str::to_owned) }).collect()
    }

    #[test]
    fn only_a_contraction_bars_the_way_back() {
        let applied = steps(&[("1", None), ("2", None), ("3", Some("2"))]);
        let upto = |count: usize| applied.get(..count).unwrap();
        assert!(check_back(upto(2), &applied).is_ok());
        assert!(check_back(upto(3), &applied).is_ok());
        let text = check_back(upto(1), &applied).unwrap_err();
        let expected = "Since the migration '3' the plugin's tables need a release that has '2'; this one has 1";
        assert_eq!(text.public(), expected);
        assert!(check_back(&[], upto(2)).is_ok());
    }

    #[test]
    fn a_contraction_waits_for_a_live_release_that_allows_it() {
        let new = steps(&[("1", None), ("2", None), ("3", Some("2"))]);
        let upto = |count: usize| new.get(..count).unwrap();
        assert!(check_forward(&new, upto(2), upto(2)).is_ok());
        assert!(check_forward(&new, upto(1), upto(1)).is_err());
        // It has been applied before.
        assert!(check_forward(&new, &new, upto(1)).is_ok());
    }

    #[test]
    fn a_migration_names_an_earlier_one() {
        assert!(check_declared(&steps(&[("1", None), ("2", Some("1"))])).is_ok());
        assert!(check_declared(&steps(&[("1", Some("1"))])).is_err());
        assert!(check_declared(&steps(&[("1", Some("2")), ("2", None)])).is_err());
    }
}
