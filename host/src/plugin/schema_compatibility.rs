//! Schema compatibility: which releases can run on which state of a plugin's tables. Migrations only go forward, so an
//! earlier release after a rollback, or the live release during a deploy, can meet tables that are newer than itself.
//! Each migration therefore names the oldest migration whose releases can run on its result (expand first, contract in
//! a later release). Owns the rules; applies no migration.

use serde::{Deserialize, Serialize};

use super::artifact::{invalid, printable};
use crate::db::plugin::StoredPlugin;
use crate::error::{Error, Result, code};

/// A migration as it is recorded for a release and for a database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct MigrationStep {
    /// Its name.
    pub name: String,
    /// The oldest migration whose releases can run after this one; `None` if all can.
    pub oldest: Option<String>,
}

impl StoredPlugin {
    /// Returns the migrations that were applied to its database.
    pub(super) fn steps(&self) -> Result<Vec<MigrationStep>> {
        serde_json::from_str(&self.schema)
            .map_err(|error| Error::internal("a plugin's recorded schema is not readable").with_source(error))
    }
}

fn has(steps: &[MigrationStep], name: &str) -> bool {
    steps.iter().any(|step| step.name == name)
}

/// Returns the first migration of a release that a database with the migrations `applied` does not have at its place.
pub(super) fn first_missing<'a>(release: &'a [MigrationStep], applied: &[MigrationStep]) -> Option<&'a str> {
    let mut steps = release.iter().enumerate();
    let missing = steps.find(|(index, step)| applied.get(*index).is_none_or(|one| one.name != step.name));
    missing.map(|(_, step)| step.name.as_str())
}

/// Checks declared migrations.
///
/// # Errors
/// A migration names one that does not precede it.
pub(super) fn check_declared(steps: &[MigrationStep]) -> Result<()> {
    for (index, step) in steps.iter().enumerate() {
        if let Some(oldest) = &step.oldest
            && !steps.iter().take(index).any(|earlier| earlier.name == *oldest)
        {
            return Err(invalid(format!(
                "its migration '{}' names '{}' as the oldest that can run after it, which is not an earlier migration",
                printable(&step.name),
                printable(oldest)
            )));
        }
    }
    Ok(())
}

/// Checks that a release can run on tables with the migrations `applied`.
///
/// # Errors
/// 409 `schema_too_new`: a later migration is not compatible with the release.
pub(super) fn check_back(release: &[MigrationStep], applied: &[MigrationStep]) -> Result<()> {
    for step in applied.iter().skip(release.len()) {
        if let Some(oldest) = &step.oldest
            && !has(release, oldest)
        {
            let known = release.last().map_or("none", |step| step.name.as_str());
            return Err(too_new(format!(
                "Since the migration '{}' the plugin's tables need a release that has '{}'; this one has {}",
                printable(&step.name),
                printable(oldest),
                printable(known)
            )));
        }
    }
    Ok(())
}

/// Checks that the live release can run on the tables after the migrations of a new release.
///
/// # Errors
/// 409 `schema_too_new`: another release has to be deployed in between.
pub(super) fn check_forward(new: &[MigrationStep], applied: &[MigrationStep], live: &[MigrationStep]) -> Result<()> {
    // Only the same migrations were applied: the record can have one that was never applied, and has another name.
    let same = new.iter().zip(applied).take_while(|(step, one)| step.name == one.name).count();
    for step in new.iter().skip(same) {
        if let Some(oldest) = &step.oldest
            && !has(live, oldest)
        {
            return Err(too_new(format!(
                "The migration '{}' would break the live release, which does not have '{}': deploy a release with that \
                 one first",
                printable(&step.name),
                printable(oldest)
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

    fn steps(list: &[(&str, Option<&str>)]) -> Vec<MigrationStep> {
        list.iter()
            .map(|(name, oldest)| MigrationStep { name: (*name).to_owned(), oldest: oldest.map(str::to_owned) })
            .collect()
    }

    #[test]
    fn only_a_contraction_prevents_a_rollback() {
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
    fn a_release_needs_its_migrations_at_their_places() {
        let applied = steps(&[("1", None), ("2", None)]);
        let missing = |list: &[&str]| {
            let release: Vec<_> = list.iter().map(|name| (*name, None)).collect();
            first_missing(&steps(&release), &applied).map(str::to_owned)
        };
        assert_eq!([missing(&[]), missing(&["1"]), missing(&["1", "2"])], [None, None, None]);
        assert_eq!(missing(&["1", "2", "3"]).unwrap(), "3");
        assert_eq!(missing(&["2", "1"]).unwrap(), "2");
    }

    #[test]
    fn a_contraction_needs_a_live_release_that_allows_it() {
        let new = steps(&[("1", None), ("2", None), ("3", Some("2"))]);
        let upto = |count: usize| new.get(..count).unwrap();
        assert!(check_forward(&new, upto(2), upto(2)).is_ok());
        assert!(check_forward(&new, upto(1), upto(1)).is_err());
        // It was applied before.
        assert!(check_forward(&new, &new, upto(1)).is_ok());
        // The recorded one at its place is another one.
        assert!(check_forward(&new, &steps(&[("1", None), ("2", None), ("x", None)]), upto(1)).is_err());
    }

    #[test]
    fn a_migration_must_name_an_earlier_one() {
        assert!(check_declared(&steps(&[("1", None), ("2", Some("1"))])).is_ok());
        assert!(check_declared(&steps(&[("1", Some("1"))])).is_err());
        assert!(check_declared(&steps(&[("1", Some("2")), ("2", None)])).is_err());
    }
}
