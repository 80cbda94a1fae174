//! The topics that a client wants to receive, and whether it may. The answer can change while a stream is open, so it is
//! asked for again.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::auth::Caller;
use crate::config::Secret;
use crate::error::{Error, Kind, Result, code};
use crate::http::browser_rules::{self, Credential};
use crate::http::call::Call;
use crate::http::{Host, access};
use crate::id::PluginName;
use crate::message::Topic;
use crate::plugin::canary::anonymous_caller;
use crate::plugin::generation::Absence;
use crate::route::Access;

/// `Retry-After` of a topic whose plugin is not served.
const RETRY_AFTER: Duration = Duration::from_secs(30);

/// See the module.
pub(super) struct Subscription {
    pub(super) host: Arc<Host>,
    /// The topics, each once.
    pub(super) topics: Vec<Topic>,
    /// The finding of the latest check about each topic, in the same order.
    checked: Vec<CheckedTopic>,
    token: Option<Secret>,
    address: IpAddr,
}

/// The finding of a check about a topic.
#[derive(Default)]
struct CheckedTopic {
    /// The access that the topic requires, and the plugin that declares it.
    required: Option<(Access, Option<PluginName>)>,
    /// The caller as the topic knows them. An API key is nobody to a public topic if it may not call plugins.
    caller: Option<Arc<Caller>>,
}

impl Subscription {
    pub(super) fn new(host: Arc<Host>, topics: BTreeSet<Topic>, call: &Call) -> Self {
        let token = match browser_rules::reading_credential(&call.headers) {
            Credential::Bearer(token) | Credential::Cookie(token) => Some(Secret::new(token)),
            Credential::Forged | Credential::None => None,
        };
        let topics: Vec<Topic> = topics.into_iter().collect();
        let checked = topics.iter().map(|_| CheckedTopic::default()).collect();
        Self { host, topics, checked, token, address: call.address }
    }

    /// Returns the caller if they may receive all topics at present. `None`: nobody who is known. The caller is looked up
    /// once, however many topics there are.
    ///
    /// # Errors
    /// 404 `topic_not_found`; the errors of the access check; 503 while it cannot be decided. Each that is due to a topic names
    /// it.
    pub(super) async fn admit(&mut self) -> Result<Option<Arc<Caller>>> {
        let found = access::look_up(&self.host.auth, self.credential(), self.address).await;
        self.decide(found)
    }

    /// Does the same for a stream that is open.
    ///
    /// # Errors
    /// As [`Subscription::admit`]. An API key that was revoked counts as no attempt.
    pub(super) async fn admit_again(&mut self) -> Result<Option<Arc<Caller>>> {
        let found = access::look_up_again(&self.host.auth, self.credential()).await;
        match found {
            // A caller who cannot be looked up now is not gone, not even to a public topic.
            Err(error) if matches!(error.kind(), Kind::Unavailable(_)) => Err(error),
            found => self.decide(found),
        }
    }

    fn credential(&self) -> Credential<'_> {
        self.token.as_ref().map_or(Credential::None, |token| Credential::Bearer(token.expose()))
    }

    fn decide(&mut self, found: Result<Arc<Caller>>) -> Result<Option<Arc<Caller>>> {
        let mut caller = None;
        for (topic, checked) in self.topics.iter().zip(&mut self.checked) {
            let required = match (required_by(&self.host, topic), checked.required.take()) {
                (Ok(required), _) => required,
                // The plugin of an open stream is not served now: a grant of it was revoked, for example. The caller is
                // checked all the same, or the stream would outlive their account.
                (Err(error), Some(before)) if matches!(error.kind(), Kind::Unavailable(_)) => before,
                (Err(error), _) => return Err(error),
            };
            let (access, plugin) = &*checked.required.insert(required);
            match access::decide(found.as_ref().ok(), access, plugin.as_ref()) {
                Ok(admitted) => checked.caller = admitted,
                Err(refusal) => return Err(naming(topic, found.err().unwrap_or(refusal))),
            }
            caller = caller.or_else(|| checked.caller.clone());
        }
        Ok(caller)
    }

    /// Returns the caller as a topic knows them.
    pub(super) fn caller_of(&self, topic: &str) -> Option<&Caller> {
        let mut topics = self.topics.iter().zip(&self.checked);
        let (_, checked) = topics.find(|(wanted, _)| wanted.as_str() == topic)?;
        checked.caller.as_deref()
    }

    /// Returns the name under which the streams of a caller are counted. Clients without credentials are counted by their
    /// network.
    pub(super) fn counted_as(&self, caller: Option<&Caller>) -> String {
        caller.map_or_else(|| anonymous_caller(self.address), |caller| caller.id().to_string())
    }

    /// Returns the names of the objects whose events of the host may end the access: the account, and the plugins.
    pub(super) fn depends_on(&self, caller: Option<&Caller>) -> BTreeSet<String> {
        let plugins = self.topics.iter().map(|topic| topic.source().to_owned());
        plugins.chain(caller.and_then(Caller::user_id).map(|user| user.to_string())).collect()
    }
}

/// Returns the access that a topic requires, and the plugin that declares it.
fn required_by(host: &Host, topic: &Topic) -> Result<(Access, Option<PluginName>)> {
    if topic.is_of_host() {
        return Ok((Access::Superuser, None));
    }
    let unknown = || Error::not_found(code::TOPIC_NOT_FOUND, format!("There is no topic '{topic}' for clients"));
    let (source, name) = topic.as_str().split_once('.').ok_or_else(unknown)?;
    let plugin: PluginName = source.parse().map_err(|_| unknown())?;
    let generation = host.plugins.generation();
    // A paused plugin publishes nothing, and its clients need not come back for that.
    let Some(release) = generation.plugins.current(&plugin) else {
        let reason = generation.plugins.absent.get(&plugin).map(|absent| absent.reason);
        return Err(match reason {
            None | Some(Absence::Removed) => unknown(),
            Some(_) => {
                let kind = Kind::Unavailable(RETRY_AFTER);
                let text = format!("The plugin of the topic '{topic}' is not available");
                Error::new(kind, code::PLUGIN_UNAVAILABLE, text)
            }
        });
    };
    let topics = &release.record.declaration.messages.topics;
    let declared = topics.iter().find(|declared| declared.name == name);
    let access = declared.and_then(|declared| declared.access.clone()).ok_or_else(unknown)?;
    Ok((access, Some(plugin)))
}

/// Names the topic in the refusal of a caller who lacks the access to it: a stream can have many topics.
fn naming(topic: &Topic, error: Error) -> Error {
    let about_topic = [code::NOT_AUTHENTICATED, code::FORBIDDEN, code::SECOND_FACTOR_REQUIRED];
    if !about_topic.contains(error.code()) {
        return error;
    }
    let text = format!("{} (topic '{topic}')", error.public());
    let named = Error::new(error.kind().clone(), error.code().clone(), text);
    error.members().iter().fold(named, |named, (name, value)| named.with_member(name, value.clone()))
}
