//! Path templates: `/items/{id}`. A parameter is one whole segment; literals consist of unreserved characters.

use std::fmt;

/// The maximum number of segments of a template.
const MAX_SEGMENTS: usize = 32;
/// The maximum length of a template, in bytes.
const MAX_LEN: usize = 512;

/// A checked path template, absolute, without a trailing slash (`/` alone is the empty template).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    segments: Vec<Segment>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Literal(String),
    Param(String),
}

/// The reason why a text is not a path template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTemplate {
    /// No leading slash.
    #[error("a path begins with '/'")]
    NotAbsolute,
    /// Two slashes in a row.
    #[error("a path has no empty segment")]
    EmptySegment,
    /// A segment has a character outside `A-Z a-z 0-9 - . _ ~`, or a brace in the middle.
    #[error("segment '{0}' is neither plain text (letters, digits, '-', '.', '_', '~') nor a parameter in braces")]
    Segment(String),
    /// `.` or `..`.
    #[error("clients would remove the segment '{0}' when they resolve the path")]
    Dots(String),
    /// Two parameters have the same name.
    #[error("parameter '{0}' is used twice")]
    DuplicateParam(String),
    /// More than 32 segments or 512 bytes.
    #[error("a path has at most {MAX_SEGMENTS} segments and {MAX_LEN} bytes")]
    TooLong,
}

impl Template {
    /// Parses a template; a trailing slash is ignored.
    ///
    /// # Errors
    /// The reason why the text is not a template.
    pub fn parse(text: &str) -> Result<Self, InvalidTemplate> {
        let rest = text.strip_prefix('/').ok_or(InvalidTemplate::NotAbsolute)?;
        if text.len() > MAX_LEN {
            return Err(InvalidTemplate::TooLong);
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let mut segments: Vec<Segment> = Vec::new();
        if !rest.is_empty() {
            for part in rest.split('/') {
                let segment = Segment::parse(part)?;
                if let Segment::Param(name) = &segment
                    && segments.contains(&segment)
                {
                    return Err(InvalidTemplate::DuplicateParam(name.clone()));
                }
                segments.push(segment);
            }
        }
        if segments.len() > MAX_SEGMENTS {
            return Err(InvalidTemplate::TooLong);
        }
        Ok(Self { segments })
    }

    /// Returns this template below `mount`.
    #[must_use]
    pub fn below(&self, mount: &Self) -> Self {
        Self { segments: mount.segments.iter().chain(&self.segments).cloned().collect() }
    }

    /// Returns whether every segment is a literal.
    pub fn is_literal(&self) -> bool {
        self.segments.iter().all(|segment| matches!(segment, Segment::Literal(_)))
    }

    /// Returns whether `self` is `other` or lies below it, segment by segment.
    pub fn is_within(&self, other: &Self) -> bool {
        self.segments.len() >= other.segments.len() && self.segments.iter().zip(&other.segments).all(|(a, b)| a == b)
    }

    /// Returns the number of segments.
    pub fn depth(&self) -> usize {
        self.segments.len()
    }

    /// Returns the path prefix that a host route claims: `/api/v1/users/{id}` claims `/api/v1/users`, `/docs/x` claims
    /// `/docs`.
    #[must_use]
    pub fn root(&self) -> Self {
        let api = self.segments.first() == Some(&Segment::Literal("api".to_owned()));
        let literal = |segment: &&Segment| matches!(segment, Segment::Literal(_));
        Self { segments: self.segments.iter().take_while(literal).take(if api { 3 } else { 1 }).cloned().collect() }
    }

    /// Returns whether `self` matches every path that `other` matches.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        self.segments.len() == other.segments.len()
            && self.segments.iter().zip(&other.segments).all(|pair| match pair {
                (Segment::Param(_), _) => true,
                (Segment::Literal(own), Segment::Literal(theirs)) => own == theirs,
                (Segment::Literal(_), Segment::Param(_)) => false,
            })
    }

    /// Returns the parameters in order: the index of the segment, from 0, and the name.
    pub fn params(&self) -> impl Iterator<Item = (usize, &str)> {
        self.segments.iter().enumerate().filter_map(|(index, segment)| match segment {
            Segment::Param(name) => Some((index, name.as_str())),
            Segment::Literal(_) => None,
        })
    }

    /// Returns the template with parameters named by position, so that equal shapes have equal keys.
    pub(crate) fn key(&self) -> String {
        let mut key = String::new();
        for (index, segment) in self.segments.iter().enumerate() {
            key.push('/');
            match segment {
                Segment::Literal(text) => key.push_str(text),
                Segment::Param(_) => key.push_str(&format!("{{p{index}}}")),
            }
        }
        if key.is_empty() { "/".to_owned() } else { key }
    }
}

impl Segment {
    fn parse(part: &str) -> Result<Self, InvalidTemplate> {
        if part.is_empty() {
            return Err(InvalidTemplate::EmptySegment);
        }
        if let Some(name) = part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
            let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            let begins = name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
            return if plain && begins {
                Ok(Self::Param(name.to_owned()))
            } else {
                Err(InvalidTemplate::Segment(part.to_owned()))
            };
        }
        if matches!(part, "." | "..") {
            return Err(InvalidTemplate::Dots(part.to_owned()));
        }
        if part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~')) {
            Ok(Self::Literal(part.to_owned()))
        } else {
            Err(InvalidTemplate::Segment(part.to_owned()))
        }
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.segments.is_empty() {
            return f.write_str("/");
        }
        for segment in &self.segments {
            match segment {
                Segment::Literal(text) => write!(f, "/{text}")?,
                Segment::Param(name) => write!(f, "/{{{name}}}")?,
            }
        }
        Ok(())
    }
}

impl std::str::FromStr for Template {
    type Err = InvalidTemplate;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl serde::Serialize for Template {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Template {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_trailing_slash_is_ignored() {
        assert_eq!(Template::parse("/items/"), Template::parse("/items"));
        assert_eq!(Template::parse("/").unwrap().to_string(), "/");
    }

    #[test]
    fn an_invalid_template_is_refused_with_its_reason() {
        for (text, reason) in [
            ("items", InvalidTemplate::NotAbsolute),
            ("/a//b", InvalidTemplate::EmptySegment),
            ("/a/{b", InvalidTemplate::Segment("{b".into())),
            ("/a/x{b}", InvalidTemplate::Segment("x{b}".into())),
            ("/a/{}", InvalidTemplate::Segment("{}".into())),
            ("/a/%2F", InvalidTemplate::Segment("%2F".into())),
            ("/a/..", InvalidTemplate::Dots("..".into())),
            ("/{a}/{a}", InvalidTemplate::DuplicateParam("a".into())),
        ] {
            assert_eq!(Template::parse(text), Err(reason), "{text}");
        }
        assert_eq!(Template::parse(&"/a".repeat(33)), Err(InvalidTemplate::TooLong));
    }

    #[test]
    fn a_template_lies_within_another_by_whole_segments() {
        let parse = |text| Template::parse(text).unwrap();
        assert!(parse("/api/v1/items").is_within(&parse("/api/v1")));
        assert!(!parse("/api/v10").is_within(&parse("/api/v1")));
    }
}
