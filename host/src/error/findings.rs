//! The findings of one refused input. Owns their form and their bounds: a client chooses how many findings its input
//! causes and how long their locations are, so both are limited. Findings beyond the limit are counted and not kept.

use std::borrow::Cow;

/// The maximum number of findings that are kept.
pub const MAX_FINDINGS: usize = 100;

/// The maximum length of all names in one location, in bytes. The client chooses the names of members.
const MAX_LOCATION: usize = 1024;

/// The maximum length of a finding's text, in bytes. Texts can repeat parts of a schema.
pub const MAX_TEXT: usize = 1024;

/// Stands for the rest of a name or text.
const CUT: char = '…';

/// One rejected input. Serialized as FastAPI does it: `{"type":…,"loc":[…],"msg":…}`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct FieldError {
    /// A stable word for programs, such as `string_too_long`.
    #[serde(rename = "type")]
    pub kind: Cow<'static, str>,
    /// The location: first `body`, `query` or `path`, then member names and indexes.
    pub loc: Vec<Loc>,
    /// A text for people.
    pub msg: String,
}

impl FieldError {
    /// Creates a finding at `loc`, outermost step first.
    pub fn new(
        kind: impl Into<Cow<'static, str>>,
        loc: impl IntoIterator<Item = impl Into<Loc>>,
        msg: impl Into<String>,
    ) -> Self {
        Self { kind: kind.into(), loc: loc.into_iter().map(Into::into).collect(), msg: msg.into() }
    }
}

/// One step of a location in the input.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(untagged)]
pub enum Loc {
    /// The name of a member.
    Name(String),
    /// The index of a list element, or the byte offset of malformed JSON.
    Index(u64),
}

impl From<&str> for Loc {
    fn from(name: &str) -> Self {
        Self::Name(name.to_owned())
    }
}

impl From<String> for Loc {
    fn from(name: String) -> Self {
        Self::Name(name)
    }
}

impl From<u64> for Loc {
    fn from(index: u64) -> Self {
        Self::Index(index)
    }
}

/// At most [`MAX_FINDINGS`] findings, and the number of the others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    listed: Vec<FieldError>,
    omitted: usize,
}

impl Findings {
    /// Adds a finding. If the list is full, it is only counted.
    pub fn push(&mut self, finding: FieldError) {
        if self.is_full() {
            self.omit(1);
        } else {
            self.listed.push(bounded(finding));
        }
    }

    /// Counts findings that are not listed.
    pub fn omit(&mut self, count: usize) {
        self.omitted = self.omitted.saturating_add(count);
    }

    /// Adds the findings of another part of the input.
    pub fn append(&mut self, other: Self) {
        for finding in other.listed {
            self.push(finding);
        }
        self.omit(other.omitted);
    }

    /// Returns whether a further finding would only be counted. Its location need not be built then.
    pub fn is_full(&self) -> bool {
        self.listed.len() >= MAX_FINDINGS
    }

    /// Returns whether a listed finding has this location.
    pub fn has_location(&self, location: &[Loc]) -> bool {
        self.listed.iter().any(|finding| finding.loc == location)
    }

    /// Returns whether there is no finding.
    pub fn is_empty(&self) -> bool {
        self.listed.is_empty() && self.omitted == 0
    }

    /// Returns the findings that are listed.
    pub fn listed(&self) -> &[FieldError] {
        &self.listed
    }

    /// Returns the listed findings and the number of the others.
    pub fn into_parts(self) -> (Vec<FieldError>, usize) {
        (self.listed, self.omitted)
    }
}

impl From<Vec<FieldError>> for Findings {
    fn from(list: Vec<FieldError>) -> Self {
        let mut findings = Self::default();
        list.into_iter().for_each(|finding| findings.push(finding));
        findings
    }
}

fn bounded(mut finding: FieldError) -> FieldError {
    cut(&mut finding.msg, MAX_TEXT);
    finding.loc = bounded_location(finding.loc);
    finding
}

/// A location while it is built. It copies at most [`MAX_LOCATION`] bytes of names, however long and many they are.
#[derive(Debug)]
pub struct LocationBuilder {
    steps: Vec<Loc>,
    left: usize,
}

impl Default for LocationBuilder {
    fn default() -> Self {
        Self { steps: Vec::new(), left: MAX_LOCATION }
    }
}

impl LocationBuilder {
    /// Adds the name of a member.
    pub fn push_name(&mut self, name: &str) {
        let mut kept = name.get(..name.floor_char_boundary(self.left)).unwrap_or_default().to_owned();
        if kept.len() < name.len() {
            kept.push(CUT);
        }
        self.left = self.left.saturating_sub(kept.len());
        self.steps.push(Loc::Name(kept));
    }

    /// Adds the index of an element.
    pub fn push_index(&mut self, index: usize) {
        self.steps.push(Loc::Index(index as u64));
    }

    /// Returns the location.
    pub fn finish(self) -> Vec<Loc> {
        self.steps
    }
}

/// Returns a location with at most [`MAX_LOCATION`] bytes of names. Longer names are cut.
fn bounded_location(mut location: Vec<Loc>) -> Vec<Loc> {
    let mut left = MAX_LOCATION;
    for step in &mut location {
        if let Loc::Name(name) = step {
            cut(name, left);
            left = left.saturating_sub(name.len());
        }
    }
    location
}

/// Shortens a text to the given number of bytes and marks the cut.
fn cut(text: &mut String, most: usize) {
    if text.len() <= most {
        return;
    }
    text.truncate(text.floor_char_boundary(most));
    text.push(CUT);
    text.shrink_to_fit();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(name: &str) -> FieldError {
        FieldError::new("missing", ["body", name], "Field required")
    }

    #[test]
    fn findings_beyond_the_limit_are_counted() {
        let mut findings = Findings::default();
        assert!(findings.is_empty());
        (0..MAX_FINDINGS + 7).for_each(|number| findings.push(finding(&number.to_string())));
        let mut more = Findings::from(vec![finding("a"), finding("b")]);
        more.omit(1);
        findings.append(more);
        let (listed, omitted) = findings.into_parts();
        assert_eq!((listed.len(), omitted), (MAX_FINDINGS, 10));
    }

    #[test]
    fn long_names_and_texts_are_cut_at_a_character() {
        let names = ["body", &"ä".repeat(4_000), "next", "last"];
        let findings = Findings::from(vec![FieldError::new("x", names, "ö".repeat(4_000))]);
        let finding = findings.listed().first().unwrap();
        assert_eq!(finding.msg.chars().count(), MAX_TEXT / 2 + 1);
        let bytes: usize = finding.loc.iter().map(|step| serde_json::to_string(step).unwrap().len()).sum();
        assert!(bytes < MAX_LOCATION + 32, "{bytes}");
        assert_eq!(finding.loc.last(), Some(&Loc::from("…")));
    }

    #[test]
    fn a_location_that_is_bounded_while_it_is_built_is_the_one_that_is_cut_afterwards() {
        for length in [0, 1, 340, 341, 342, 1_018, 1_020, 1_021, 4_000] {
            let names = ["body".to_owned(), "ä".repeat(length), "b".repeat(length), "€".repeat(length)];
            let mut builder = LocationBuilder::default();
            names.iter().for_each(|name| builder.push_name(name));
            let built = builder.finish();
            assert_eq!(built, bounded_location(names.map(Loc::from).to_vec()), "{length}");
            assert_eq!(built, bounded_location(built.clone()), "{length}");
        }
    }
}
