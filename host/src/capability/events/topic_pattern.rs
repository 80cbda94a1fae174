//! The topics that a grant allows a plugin to subscribe to: `items.created`, or `items.*` for all of one plugin.

use std::fmt;
use std::str::FromStr;

use crate::id::PluginName;
use crate::message::Topic;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum TopicPattern {
    /// All topics of a plugin, also those of its later releases.
    Source(PluginName),
    /// One topic.
    Topic(Topic),
}

impl TopicPattern {
    /// Returns whether it allows a topic.
    pub(super) fn allows(&self, topic: &Topic) -> bool {
        match self {
            Self::Source(source) => source.as_str() == topic.source(),
            Self::Topic(allowed) => allowed == topic,
        }
    }
}

impl fmt::Display for TopicPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source(source) => write!(f, "{source}.*"),
            Self::Topic(topic) => topic.fmt(f),
        }
    }
}

impl FromStr for TopicPattern {
    type Err = String;

    /// The error continues a sentence after the text.
    fn from_str(text: &str) -> Result<Self, String> {
        let pattern = match text.strip_suffix(".*") {
            Some(source) => source.parse().ok().map(Self::Source),
            None => text.parse().ok().map(Self::Topic),
        };
        pattern.ok_or_else(|| "is neither SOURCE.NAME nor SOURCE.*".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_a_topic_or_all_topics_of_a_plugin() {
        let allows = |pattern: &str, topic: &str| {
            let read: TopicPattern = pattern.parse().unwrap();
            assert_eq!(read.to_string(), pattern);
            read.allows(&topic.parse().unwrap())
        };
        assert!(allows("items.created", "items.created") && allows("items.*", "items.created"));
        assert!(!allows("items.created", "items.deleted") && !allows("items.*", "items-2.created"));
        for wrong in ["", "*", ".*", "*.created", "items", "items.", "items.**", "items.cre*", "Items.*", "a.b.*"] {
            assert!(wrong.parse::<TopicPattern>().is_err(), "{wrong:?}");
        }
    }
}
