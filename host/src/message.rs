//! Messages: what plugins and the host hand over to be done after a commit. An event goes to all that subscribe to its
//! topic, a job to the plugin that enqueued it, a mail to its recipient.
//!
//! Owns the names and the stored form of messages. A message passes `capability::events`, `capability::jobs` or
//! `capability::email`, the outbox of the plugin (`db::plugin_data::outbox`) and `db::intake`, which turns it into tasks or
//! queues it. Knows none of them.

pub mod host_event;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::address::Address;
use crate::clock::Timestamp;
use crate::id::{EventId, JobId, MailId, PluginName, UserId};

/// The longest chain of events and jobs that cause each other.
pub const MAX_DEPTH: u32 = 16;

/// The longest ordering key and deduplication key, in bytes.
pub const MAX_KEY: usize = 200;

/// The name of a topic: that of its source and its own, `items.created`. The host's sources are no names of plugins.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Topic(Arc<str>);

/// A text that is not a [`Topic`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a topic is SOURCE.NAME, each of lower-case letters, digits and hyphens, at most 40 characters long")]
pub struct InvalidTopic;

impl Topic {
    /// Returns the topic of a plugin.
    pub fn of(plugin: &PluginName, name: &str) -> Result<Self, InvalidTopic> {
        format!("{plugin}.{name}").parse()
    }

    /// Returns the whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the name of the source: a plugin, or `user`, `session` or `release` of the host.
    pub fn source(&self) -> &str {
        self.0.split_once('.').map_or("", |(source, _)| source)
    }

    /// Returns whether the host publishes it.
    pub fn is_of_host(&self) -> bool {
        HostTopic::ALL.iter().any(|topic| topic.as_str() == self.as_str())
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Topic {
    type Err = InvalidTopic;

    fn from_str(text: &str) -> Result<Self, InvalidTopic> {
        let (source, name) = text.split_once('.').ok_or(InvalidTopic)?;
        // Both have the syntax of plugin names.
        let is_name = |text: &str| text.parse::<PluginName>().is_ok();
        if is_name(source) && is_name(name) { Ok(Self(text.into())) } else { Err(InvalidTopic) }
    }
}

impl TryFrom<String> for Topic {
    type Error = InvalidTopic;

    fn try_from(text: String) -> Result<Self, InvalidTopic> {
        text.parse()
    }
}

impl From<Topic> for String {
    fn from(topic: Topic) -> Self {
        topic.as_str().to_owned()
    }
}

impl From<HostTopic> for Topic {
    fn from(topic: HostTopic) -> Self {
        Self(topic.as_str().into())
    }
}

/// A topic of the host. `permission::is_reserved` keeps plugins from having the name of its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostTopic {
    /// An account was created. Payload: `id`.
    UserCreated,
    /// The address, the name, the activity, the roles or the privilege of an account changed, and not only a role that it
    /// has. Payload: `id`.
    UserUpdated,
    /// An account was deleted. Payload: `id`.
    UserDeleted,
    /// A session was ended before its time. Payload: `id`, `user_id`.
    SessionRevoked,
    /// A release became the live one. Payload: `plugin`, `release`.
    ReleaseActivated,
}

impl HostTopic {
    /// Every topic of the host.
    pub const ALL: [Self; 5] =
        [Self::UserCreated, Self::UserUpdated, Self::UserDeleted, Self::SessionRevoked, Self::ReleaseActivated];

    /// Returns the whole name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UserCreated => "user.created",
            Self::UserUpdated => "user.updated",
            Self::UserDeleted => "user.deleted",
            Self::SessionRevoked => "session.revoked",
            Self::ReleaseActivated => "release.activated",
        }
    }

    /// Returns whether the topics of a source are the host's.
    pub fn is_source(source: &str) -> bool {
        Self::ALL.iter().any(|topic| topic.as_str().split_once('.').is_some_and(|(own, _)| own == source))
    }
}

/// An event that is not stored yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewEvent {
    /// The id.
    pub id: EventId,
    /// The topic.
    pub topic: Topic,
    /// Events of one source with the same key keep their order.
    pub key: Option<String>,
    /// The payload, as JSON.
    pub payload: String,
    /// The account whose clients may receive it; `None`: those of all that the topic admits.
    pub audience: Option<UserId>,
    /// How many events and jobs caused each other before it.
    pub depth: u32,
    /// The request that caused it.
    pub request_id: Option<String>,
    /// When it was published.
    pub at: Timestamp,
}

impl NewEvent {
    /// Returns the lane of its deliveries: those of one subscriber in one lane keep their order.
    pub fn lane(&self) -> Option<String> {
        self.key.as_ref().map(|key| format!("{}/{key}", self.topic.source()))
    }
}

/// The order in which waiting jobs start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Priority {
    /// After the others.
    Low,
    /// As deliveries of events.
    #[default]
    Normal,
    /// Before the others.
    High,
}

impl Priority {
    /// Every priority.
    pub const ALL: [Self; 3] = [Self::Low, Self::Normal, Self::High];

    /// Returns the word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
        }
    }

    /// Returns the digit at the end of the name of a queue: a higher priority sorts later.
    pub fn digit(self) -> char {
        match self {
            Self::Low => '0',
            Self::Normal => '1',
            Self::High => '2',
        }
    }
}

/// A job that is not stored yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewJob {
    /// The id.
    pub id: JobId,
    /// The name in the declaration.
    pub name: String,
    /// The payload, as JSON.
    pub payload: String,
    /// The earliest start.
    pub due_at: Timestamp,
    /// The priority.
    pub priority: Priority,
    /// While a job with the same name and key waits or runs, this one is dropped.
    pub dedup_key: Option<String>,
    /// The schedule that caused it, and its time.
    pub scheduled: Option<(String, Timestamp)>,
    /// How many events and jobs caused each other before it.
    pub depth: u32,
    /// The request that caused it.
    pub request_id: Option<String>,
    /// When it was enqueued.
    pub at: Timestamp,
}

/// The recipient of a mail of a plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MailRecipient {
    /// An account. Its address is looked up when the mail is sent.
    Account(UserId),
    /// An address that the grant of the plugin allows.
    Address(Address),
}

/// A file in a mail of a plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MailAttachment {
    /// The name.
    pub name: String,
    /// The media type.
    pub content_type: String,
    /// The content in base64.
    pub content: String,
}

/// A mail of a plugin that is not queued yet, checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginMail {
    /// The id.
    pub id: MailId,
    /// The recipient.
    pub to: MailRecipient,
    /// The subject, one line.
    pub subject: String,
    /// The body as plain text.
    pub text: String,
    /// The body as HTML.
    pub html: Option<String>,
    /// The files.
    pub attachments: Vec<MailAttachment>,
    /// Another mail of the plugin with this key is left out for a day.
    pub dedup_key: Option<String>,
    /// The request that caused it.
    pub request_id: Option<String>,
    /// When it was sent by the plugin.
    pub at: Timestamp,
}

/// A message of a plugin, as its outbox stores it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Message {
    /// An event of the plugin.
    Event(NewEvent),
    /// A job of the plugin.
    Job(NewJob),
    /// The end of a job of the plugin.
    Cancel {
        /// The job.
        job: JobId,
        /// When it was cancelled.
        at: Timestamp,
    },
    /// A mail of the plugin.
    Mail(PluginMail),
}

/// Returns the name of the queue of a task: what is claimed together.
pub fn queue_name(plugin: &PluginName, name: &str, priority: Priority) -> String {
    format!("{plugin}/{name}/{}", priority.digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_has_a_source_and_a_name() {
        let plugin: PluginName = "items".parse().unwrap();
        assert_eq!(Topic::of(&plugin, "created").unwrap().as_str(), "items.created");
        assert_eq!("user.deleted".parse::<Topic>().unwrap().source(), "user");
        for text in ["", ".", "items", "items.", ".created", "Items.created", "items.a.b", "items.a b", "items.\0"] {
            assert_eq!(text.parse::<Topic>(), Err(InvalidTopic), "{text:?}");
        }
    }

    #[test]
    fn every_host_topic_is_a_topic() {
        for topic in HostTopic::ALL {
            assert!(topic.as_str().parse::<Topic>().unwrap().is_of_host());
        }
        assert!(!"items.created".parse::<Topic>().unwrap().is_of_host());
    }

    #[test]
    fn a_stored_message_is_readable_again() {
        let at = Timestamp(1);
        let event = NewEvent {
            id: EventId(uuid::Uuid::nil()),
            topic: "items.created".parse().unwrap(),
            key: Some("1".to_owned()),
            payload: "{}".to_owned(),
            audience: None,
            depth: 0,
            request_id: None,
            at,
        };
        assert_eq!(event.lane().as_deref(), Some("items/1"));
        let mail = PluginMail {
            id: MailId(uuid::Uuid::nil()),
            to: MailRecipient::Address("jane@example.com".parse().unwrap()),
            subject: "Hello".to_owned(),
            text: "Hello\0".to_owned(),
            html: None,
            attachments: Vec::new(),
            dedup_key: None,
            request_id: None,
            at,
        };
        for message in
            [Message::Event(event), Message::Cancel { job: JobId(uuid::Uuid::nil()), at }, Message::Mail(mail)]
        {
            let text = serde_json::to_string(&message).unwrap();
            assert_eq!(serde_json::from_str::<Message>(&text).unwrap(), message);
        }
    }
}
