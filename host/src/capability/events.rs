//! `wharf:events`: events of the topics that the release declares. `capability::hand_over` stores them, and
//! `plugin::tasks` delivers them. A grant allows the topics of other plugins that the release may subscribe to; those of
//! the host and of the plugin itself need no more than the grant.

pub mod topic_pattern;

use std::collections::BTreeSet;
use std::sync::Arc;

use uuid::Uuid;
use wasmtime::component::{HasSelf, Linker};

use self::topic_pattern::TopicPattern;
use super::declared_messages::DeclaredSubscription;
use super::hand_over::{MessageServices, Refusal, convert_refusals};
use super::message_check::{Counted, MessageLimits, PayloadSchemas, check_key, compile, refused};
use super::message_rate::MessageRates;
use super::parameter::{parameters, printable};
use super::{Boot, CallContext, Candidate, Capability, Guest, HostCalls, Limit};
use crate::config::kind;
use crate::error::{Error, FieldError, Result, code};
use crate::id::{EventId, PluginName, UserId};
use crate::message::{Message, NewEvent, Topic};

mod bindings {
    #![allow(missing_docs, unreachable_pub, reason = "generated")]
    wasmtime::component::bindgen!({
        inline: "package wharf:host-events; world imports { import wharf:events/publisher@0.1.0; }",
        path: "../wit",
        imports: { default: async | trappable },
    });
}
use bindings::wharf::events::publisher;

parameters! {
    /// The limits that a grant may change, and the topics of other plugins that it allows.
    Quota {
        rate: u32 = events_rate,
        payload: usize = events_payload,
        volume: u64 = events_volume,
    }
    sets {
        /// Topics of other plugins that the plugin may subscribe to.
        hear: TopicPattern = kind::set("topics such as items.created, or items.* for all topics of a plugin"),
    }
}

/// The capability.
pub struct Events {
    services: MessageServices,
    rates: MessageRates,
}

/// The state of one release.
pub struct EventsRelease {
    plugin: PluginName,
    services: MessageServices,
    /// The topics that it declares, without the plugin's name.
    topics: PayloadSchemas,
    limits: MessageLimits,
    /// The rate of the grant.
    rate: u32,
}

impl Capability for Events {
    const NAME: &'static str = "events";
    const MEANING: &'static str = "may publish events of its own topics, and receives those that it subscribes to: events \
                                   of the host, such as deleted accounts, and of the plugins that you name in events.hear";
    const INTERFACES: &'static [&'static str] = &["wharf:events/publisher@0.1.0"];
    type Grant = Quota;
    type Release = Arc<EventsRelease>;
    type Call = Arc<EventsRelease>;

    async fn open(boot: &Boot) -> Result<Self> {
        let Boot { config, clock, random, db, .. } = boot;
        let services = MessageServices::new(db.clone(), clock.clone(), random.clone());
        Ok(Self { services, rates: MessageRates::new(clock.clone(), config.plugins.events_rate) })
    }

    fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
        publisher::add_to_linker::<Guest, HasSelf<Guest>>(linker, |guest| guest)
    }

    async fn admit(&self, candidate: &Candidate<'_>, quota: Quota) -> Result<Arc<EventsRelease>> {
        let plugin = candidate.plugin.clone();
        check_subscriptions(&plugin, &candidate.messages.subscriptions, &quota.hear)?;
        let declared = candidate.messages.topics.iter().map(|topic| (topic.name.clone(), Some(topic.schema.clone())));
        let topics = compile("topic", declared.collect()).await?;
        if let Some((name, error)) = topics.keys().find_map(|name| Some((name, Topic::of(&plugin, name).err()?))) {
            return Err(refused(&format!("topic {name}: {error}")));
        }
        let counted = Counted { rate: Limit::EventsRate, payload: Limit::EventsPayload, volume: Limit::EventsVolume };
        let rate = self.rates.plugin(&plugin);
        let limits = MessageLimits { rate, payload: quota.payload, volume: quota.volume, counted };
        Ok(Arc::new(EventsRelease { plugin, services: self.services.clone(), topics, limits, rate: quota.rate }))
    }

    fn max_input_bytes(release: &Arc<EventsRelease>) -> usize {
        release.limits.payload
    }

    fn serve(release: &Arc<EventsRelease>) {
        release.limits.rate.set(release.rate);
    }

    fn enter(release: &Arc<EventsRelease>, _: &Arc<CallContext>) -> Arc<EventsRelease> {
        Arc::clone(release)
    }
}

/// Checks that a grant allows each topic of another plugin that a release subscribes to.
///
/// # Errors
/// 403 with the whole set that the grant needs.
fn check_subscriptions(plugin: &PluginName, wanted: &[DeclaredSubscription], hear: &[TopicPattern]) -> Result<()> {
    let is_allowed = |topic: &Topic| {
        topic.is_of_host() || topic.source() == plugin.as_str() || hear.iter().any(|pattern| pattern.allows(topic))
    };
    let missing: BTreeSet<&Topic> =
        wanted.iter().map(|subscription| &subscription.topic).filter(|topic| !is_allowed(topic)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let missing: Vec<String> = missing.into_iter().map(Topic::to_string).collect();
    // A set that is granted replaces the one before, so it has the members of that one too.
    let needed: Vec<String> = hear.iter().map(TopicPattern::to_string).chain(missing.iter().cloned()).collect();
    let grant = format!("events.hear={}", needed.join(" "));
    let text = format!(
        "The component subscribes to topics that its grant does not allow: {}. Deploy it with --grant '{grant}'",
        missing.join(", ")
    );
    // The grant is last in the location, for programs that ask whether to give it.
    let finding = format!("'{grant}' is needed and not granted");
    let finding = FieldError::new(code::GRANT_MISSING.as_str().to_owned(), ["query", "grant", grant.as_str()], finding);
    Err(Error::forbidden(code::GRANT_MISSING, text).with_findings(vec![finding]))
}

impl Guest {
    async fn publish_event(&mut self, release: &EventsRelease, event: publisher::Event) -> Result<EventId, Refusal> {
        let publisher::Event { topic, key, payload, audience } = event;
        let optional = [&key, &audience].map(|text| text.as_ref().map_or(0, String::len));
        let texts = [topic.len(), payload.len()].into_iter().chain(optional);
        let _reservation = self.reserve(texts.fold(0, usize::saturating_add))?;
        let Some(schema) = release.topics.get(&topic) else {
            let reason = format!("topic: the plugin declares no topic '{}'", printable(&topic));
            return Err(Refusal::Invalid(reason));
        };
        check_key("key", key.as_deref())?;
        let audience = match audience.as_deref().map(str::parse::<Uuid>) {
            None => None,
            Some(Ok(id)) => Some(UserId(id)),
            Some(Err(_)) => return Err(Refusal::Invalid("audience: not a UUID".to_owned())),
        };
        let services = &release.services;
        let depth = self.check_message(services, &release.limits, schema, &payload).await?;
        let id = EventId(services.random.uuid().map_err(wasmtime::Error::msg)?);
        let event = NewEvent {
            id,
            topic: Topic::of(&release.plugin, &topic).map_err(wasmtime::Error::new)?,
            key,
            payload,
            audience,
            depth,
            request_id: self.context.request_id.as_deref().map(str::to_owned),
            at: services.clock.now(),
        };
        self.hand_over(services, Message::Event(event)).await?;
        Ok(id)
    }
}

impl publisher::Host for Guest {
    async fn publish(&mut self, event: publisher::Event) -> wasmtime::Result<Result<String, publisher::Error>> {
        self.charge(HostCalls::events)?;
        let release = match self.entered.events()? {
            Ok(release) => Arc::clone(release),
            Err(_revoked) => return Ok(Err(publisher::Error::Unavailable)),
        };
        match self.publish_event(&release, event).await {
            Ok(id) => Ok(Ok(id.to_string())),
            Err(refusal) => publisher::Error::try_from(refusal).map(Err),
        }
    }
}

convert_refusals!(publisher::Error);

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::publisher::Host as _;
    use super::*;
    use crate::capability::RunningTask;
    use crate::capability::message_fixture::{Fixture, declared, hits, subscription};
    use crate::db::task;
    use crate::message::{MAX_DEPTH, MAX_KEY};

    fn event(topic: &str, payload: &str) -> publisher::Event {
        publisher::Event { topic: topic.to_owned(), key: None, payload: payload.to_owned(), audience: None }
    }

    async fn publish(guest: &mut Guest, event: publisher::Event) -> Result<String, String> {
        guest.publish(event).await.unwrap().map_err(|error| match error {
            publisher::Error::Invalid(reason) => format!("invalid: {reason}"),
            publisher::Error::Limit(limit) => format!("limit: {limit}"),
            publisher::Error::Conflict => "conflict".to_owned(),
            publisher::Error::Unavailable => "unavailable".to_owned(),
        })
    }

    #[tokio::test]
    async fn an_event_of_a_plugin_without_a_database_is_stored_when_it_is_published() {
        let fixture = Fixture::open(|_| ()).await;
        let mut guest = fixture.call(&["events"], None).await;
        let keyed = publisher::Event { key: Some("7".to_owned()), ..event("created", r#"{"id": 7}"#) };
        let id = publish(&mut guest, keyed).await.unwrap();
        let stored = task::event(&fixture.boot.db, 1).await.unwrap().unwrap();
        assert_eq!((stored.id.to_string(), stored.ordering_key.as_deref()), (id, Some("7")));
        assert_eq!((stored.payload.as_str(), stored.published_at), (r#"{"id": 7}"#, fixture.boot.clock.now()));
        assert!(fixture.boot.db.signals().tasks_added().now_or_never().is_some(), "the subscribers are not woken");
    }

    #[tokio::test]
    async fn an_event_of_a_plugin_with_a_database_waits_in_its_outbox() {
        let fixture = Fixture::open(|_| ()).await;
        let mut guest = fixture.call(&["events", "sql"], None).await;
        let id = publish(&mut guest, event("created", r#"{"id": 7}"#)).await.unwrap();
        assert!(task::event(&fixture.boot.db, 1).await.unwrap().is_none());
        let waiting = fixture.boot.data.outbox(&fixture.plugin, 10).await.unwrap();
        let [message] = waiting.as_slice() else { panic!("{} messages", waiting.len()) };
        let Ok(Message::Event(event)) = serde_json::from_str(&message.text) else { panic!("{}", message.text) };
        assert_eq!((event.id.to_string(), event.topic.as_str(), event.depth), (id, "items.created", 0));
        assert_eq!(event.request_id.as_deref(), Some("r1"));
        let filled = fixture.boot.db.signals().filled_outboxes().now_or_never();
        assert_eq!(filled, Some(BTreeSet::from([fixture.plugin.clone()])));
    }

    #[tokio::test]
    async fn a_wrong_event_is_refused_with_the_name_of_the_member() {
        let fixture = Fixture::open(|_| ()).await;
        let mut guest = fixture.call(&["events"], None).await;
        let good = || event("created", r#"{"id": 1}"#);
        for (wrong, expected) in [
            (event("deleted", "{}"), "invalid: topic: the plugin declares no topic 'deleted'"),
            (event("items.created", "{}"), "invalid: topic: the plugin declares no topic 'items.created'"),
            (event("created", r#"{"id": "x"}"#), "invalid: payload.id: Input should be a valid integer, "),
            (event("created", "{"), "invalid: payload: not JSON ("),
            (publisher::Event { key: Some("k".repeat(MAX_KEY + 1)), ..good() }, "invalid: key: longer than 200 bytes"),
            (publisher::Event { key: Some("\0".to_owned()), ..good() }, "invalid: key: contains the character U+0000"),
            (publisher::Event { audience: Some("ann".to_owned()), ..good() }, "invalid: audience: not a UUID"),
        ] {
            let refused = publish(&mut guest, wrong).await.unwrap_err();
            assert!(refused.starts_with(expected), "{refused}");
        }
        let audience = Some("6F9619FF-8B86-D011-B42D-00CF4FC964FF".to_owned());
        publish(&mut guest, publisher::Event { audience, ..good() }).await.unwrap();
        assert!(!guest.dependencies.has_failed());
    }

    #[tokio::test]
    async fn the_limits_of_the_grant_are_refusals_that_name_them() {
        let fixture = Fixture::open(|config| config.plugins.events_payload = 1_024).await;
        let mut guest = fixture.call(&["events.rate=2"], None).await;
        let large = format!(r#"{{"id": 1, "text": "{}"}}"#, "x".repeat(1_024));
        assert_eq!(publish(&mut guest, event("created", &large)).await, Err("limit: payload: 1024".to_owned()));
        for payload in [r#"{"id": 1}"#, "{}"] {
            let _ = publish(&mut guest, event("created", payload)).await;
        }
        let refused = Err("limit: rate: 2".to_owned());
        assert_eq!(publish(&mut guest, event("created", r#"{"id": 2}"#)).await, refused);
        assert_eq!([Limit::EventsPayload, Limit::EventsRate].map(|limit| hits(&guest, limit)), [1, 1]);
        fixture.boot.clock.advance(std::time::Duration::from_secs(1));
        publish(&mut guest, event("created", r#"{"id": 3}"#)).await.unwrap();
    }

    #[tokio::test]
    async fn a_chain_of_events_that_cause_each_other_ends() {
        let fixture = Fixture::open(|_| ()).await;
        let task = |depth| Some(RunningTask { claim: task::Claim { seq: 1, claims: 1 }, is_job: false, depth });
        let mut guest = fixture.call(&["events"], task(MAX_DEPTH - 1)).await;
        publish(&mut guest, event("created", r#"{"id": 1}"#)).await.unwrap();
        let mut guest = fixture.call(&["events"], task(MAX_DEPTH)).await;
        let refused = publish(&mut guest, event("created", r#"{"id": 1}"#)).await;
        assert_eq!((refused, hits(&guest, Limit::MessageDepth)), (Err("limit: depth: 16".to_owned()), 1));
    }

    #[tokio::test]
    async fn nothing_is_published_after_a_revocation_or_without_the_grant() {
        let fixture = Fixture::open(|_| ()).await;
        let mut guest = fixture.call(&["events"], None).await;
        fixture.capabilities.forbid(&fixture.plugin, "events");
        let refused = publish(&mut guest, event("created", r#"{"id": 1}"#)).await;
        assert_eq!(refused, Err("unavailable".to_owned()));
        let mut guest = fixture.call(&["sql"], None).await;
        assert!(guest.publish(event("created", r#"{"id": 1}"#)).await.is_err());
        assert!(task::event(&fixture.boot.db, 1).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn topics_of_other_plugins_need_the_parameter_hear() {
        let fixture = Fixture::open(|_| ()).await;
        let topics = ["user.deleted", "items.created", "orders.paid", "notes.added"];
        let subscriptions = topics.map(subscription).into();
        let messages = crate::capability::DeclaredMessages { subscriptions, ..declared() };
        let refused = fixture.admit(&["events.hear=notes.*"], &messages).await.err().unwrap();
        assert_eq!(refused.code(), &code::GRANT_MISSING);
        let needed = "--grant 'events.hear=notes.* orders.paid'";
        assert!(refused.public().ends_with(needed), "{}", refused.public());
        for grant in ["events.hear=notes.* orders.paid", "events.hear=orders.* notes.added"] {
            assert!(fixture.admit(&[grant], &messages).await.is_ok(), "{grant}");
        }
    }
}
