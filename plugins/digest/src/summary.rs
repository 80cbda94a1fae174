//! The mail: the changes of a user's items, as text and as HTML. The templates are in `templates/`.

use askama::Template;

/// The kind of a change.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Created,
    Changed,
    Deleted,
}

impl Kind {
    /// In the order of the mail.
    const ALL: [Self; 3] = [Self::Created, Self::Changed, Self::Deleted];

    /// Returns the name in the database.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Changed => "changed",
            Self::Deleted => "deleted",
        }
    }

    fn heading(self) -> &'static str {
        match self {
            Self::Created => "Created",
            Self::Changed => "Changed",
            Self::Deleted => "Deleted",
        }
    }
}

/// The changes of one kind.
struct Section {
    heading: &'static str,
    titles: Vec<String>,
}

/// The content of a mail.
pub(crate) struct Summary<'a> {
    day: &'a str,
    sections: Vec<Section>,
    /// The number of changes that are not listed.
    more: u64,
}

impl<'a> Summary<'a> {
    /// Groups the listed ones of `count` changes: the kind, and the title if it is known.
    pub(crate) fn new(day: &'a str, listed: Vec<(String, Option<String>)>, count: u64) -> Self {
        let more = count.saturating_sub(u64::try_from(listed.len()).unwrap_or(u64::MAX));
        let mut sections = Kind::ALL.map(|kind| (kind, Section { heading: kind.heading(), titles: Vec::new() }));
        for (name, title) in listed {
            if let Some((_, section)) = sections.iter_mut().find(|(kind, _)| kind.name() == name) {
                section.titles.push(title.map_or_else(|| "An older item".to_owned(), |title| on_one_line(&title)));
            }
        }
        let sections = sections.into_iter().map(|(_, section)| section).filter(|section| !section.titles.is_empty());
        Self { day, sections: sections.collect(), more }
    }
}

/// Returns a title that cannot look like another part of the mail.
fn on_one_line(title: &str) -> String {
    title.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The body for every mail program.
#[derive(Template)]
#[template(path = "digest.txt")]
pub(crate) struct TextDigest<'a> {
    pub(crate) summary: &'a Summary<'a>,
}

/// The body for mail programs that show HTML. The template escapes the titles.
#[derive(Template)]
#[template(path = "digest.html")]
pub(crate) struct HtmlDigest<'a> {
    pub(crate) summary: &'a Summary<'a>,
}
