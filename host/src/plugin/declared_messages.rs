//! The part of a declaration about events and jobs: topics, subscriptions, jobs and schedules. The roles of a component
//! declare it; this module checks it. Owns its bounds.
//!
//! `capability::events` and `capability::jobs` hold the messages of the plugin against it, and limit what it asks for here:
//! the rate, the length of payloads, the time of a job. Knows no task.

use std::collections::BTreeSet;

use serde_json::{Map, Value};
use wharf_schedule_time::ScheduleTime;

use super::artifact::{invalid, printable};
use super::declared_json::parse;
use super::interface::subscriber::exports::wharf::events::subscriber;
use super::interface::topics::exports::wharf::events::topics;
use super::interface::worker::exports::wharf::jobs::worker;
use crate::capability::declared_messages::{
    DeclaredJob, DeclaredSchedule, DeclaredSubscription, DeclaredTopic, MissedTimes, RetryPolicy,
};
use crate::capability::events::Events;
use crate::capability::{Capability as _, DeclaredMessages};
use crate::error::{Error, Result};
use crate::id::PluginName;
use crate::message::{HostTopic, InvalidTopic, Topic};
use crate::route::payload::PayloadSchema;
use crate::route::{Access, Schemas};

/// The maximum number of topics of one plugin.
const MAX_TOPICS: usize = 64;
/// The maximum number of subscriptions of one plugin.
const MAX_SUBSCRIPTIONS: usize = 64;
/// The maximum number of jobs of one plugin.
const MAX_JOBS: usize = 64;
/// The maximum number of schedules of one plugin.
const MAX_SCHEDULES: usize = 32;
/// The maximum number of repetitions.
const MAX_RETRIES: u32 = 100;
/// The longest wait before the first repetition, in milliseconds: one hour.
const MAX_BACKOFF: u32 = 60 * 60 * 1000;
/// The shortest time limit of a job, in milliseconds.
const MIN_DEADLINE: u32 = 10;
/// The longest time for which an ended job can be kept, in milliseconds: one year.
const MAX_KEEP: u64 = 365 * 24 * 60 * 60 * 1000;

/// The results of the roles about events and jobs, before they are checked. A component without a role declares nothing.
#[derive(Debug, Default)]
pub(super) struct DeclaredRoles {
    pub(super) topics: Vec<topics::Topic>,
    pub(super) subscriptions: Vec<subscriber::Subscription>,
    pub(super) jobs: Vec<worker::Job>,
    pub(super) schedules: Vec<worker::Schedule>,
}

impl DeclaredRoles {
    /// Returns the lengths of the JSON texts.
    pub(super) fn json_lengths(&self) -> impl Iterator<Item = usize> + '_ {
        let topics = self.topics.iter().map(|topic| topic.schema.len());
        let jobs = self.jobs.iter().filter_map(|job| job.schema.as_ref().map(String::len));
        let payloads = self.schedules.iter().map(|schedule| schedule.payload.len());
        topics.chain(jobs).chain(payloads)
    }
}

/// Checks the results of the roles. `is_permission` tells the permissions that the plugin declares.
///
/// # Errors
/// The first part of it that is not valid.
pub(super) fn check(roles: DeclaredRoles, is_permission: impl Fn(&str) -> bool) -> Result<DeclaredMessages> {
    let numbers = [
        (roles.topics.len(), MAX_TOPICS, "topics"),
        (roles.subscriptions.len(), MAX_SUBSCRIPTIONS, "subscriptions"),
        (roles.jobs.len(), MAX_JOBS, "jobs"),
        (roles.schedules.len(), MAX_SCHEDULES, "schedules"),
    ];
    for (number, limit, noun) in numbers {
        if number > limit {
            return Err(invalid(format!("it declares more than {limit} {noun}")));
        }
    }
    let topics: Vec<_> =
        roles.topics.into_iter().map(|topic| check_topic(topic, &is_permission)).collect::<Result<_>>()?;
    let subscriptions: Vec<_> =
        roles.subscriptions.into_iter().map(|one| check_subscription(&one)).collect::<Result<_>>()?;
    let jobs: Vec<_> = roles.jobs.into_iter().map(check_job).collect::<Result<_>>()?;
    let schedules = roles.schedules.into_iter().map(|schedule| check_schedule(schedule, &jobs));
    let schedules: Vec<_> = schedules.collect::<Result<_>>()?;
    check_unique("topic", topics.iter().map(|topic| topic.name.as_str()))?;
    check_unique("subscription to", subscriptions.iter().map(|subscription| subscription.topic.as_str()))?;
    check_unique("job", jobs.iter().map(|job| job.name.as_str()))?;
    check_unique("schedule", schedules.iter().map(|schedule| schedule.name.as_str()))?;
    Ok(DeclaredMessages { topics, subscriptions, jobs, schedules })
}

fn check_topic(topic: topics::Topic, is_permission: impl Fn(&str) -> bool) -> Result<DeclaredTopic> {
    let here = format!("topic '{}'", printable(&topic.name));
    check_name(&topic.name, &here)?;
    let access = match topic.access {
        None => None,
        Some(topics::Access::Public) => Some(Access::Public),
        Some(topics::Access::Authenticated) => Some(Access::Authenticated),
        Some(topics::Access::Superuser) => Some(Access::Superuser),
        Some(topics::Access::Permission(name)) if is_permission(&name) => Some(Access::Permission(name)),
        Some(topics::Access::Permission(name)) => {
            return Err(invalid(format!("{here}: permission '{}' is not declared", printable(&name))));
        }
    };
    let schema = parse(&topic.schema, &format!("{here}: its schema"))?;
    Ok(DeclaredTopic { name: topic.name, summary: printable(&topic.summary), schema, access })
}

fn check_subscription(subscription: &subscriber::Subscription) -> Result<DeclaredSubscription> {
    let here = format!("subscription to '{}'", printable(&subscription.topic));
    let topic = subscription.topic.parse().map_err(|error: InvalidTopic| invalid(format!("{here}: {error}")))?;
    let retry = check_retry(subscription.retries, subscription.backoff_ms, &here)?;
    Ok(DeclaredSubscription { topic, retry })
}

fn check_job(job: worker::Job) -> Result<DeclaredJob> {
    let here = format!("job '{}'", printable(&job.name));
    check_name(&job.name, &here)?;
    let retry = check_retry(job.retries, job.backoff_ms, &here)?;
    if job.deadline_ms < MIN_DEADLINE {
        return Err(invalid(format!("{here}: its deadline is shorter than {MIN_DEADLINE} ms")));
    }
    if job.concurrency == 0 {
        return Err(invalid(format!("{here}: its concurrency is 0, so it could never run")));
    }
    if job.keep_ms > MAX_KEEP {
        return Err(invalid(format!("{here}: it is kept for longer than {MAX_KEEP} ms")));
    }
    let schema = job.schema.map(|text| parse(&text, &format!("{here}: its schema"))).transpose()?;
    Ok(DeclaredJob {
        name: job.name,
        schema,
        retry,
        deadline_ms: job.deadline_ms,
        concurrency: job.concurrency,
        keep_ms: job.keep_ms,
    })
}

fn check_schedule(schedule: worker::Schedule, jobs: &[DeclaredJob]) -> Result<DeclaredSchedule> {
    let here = format!("schedule '{}'", printable(&schedule.name));
    check_name(&schedule.name, &here)?;
    ScheduleTime::parse(&schedule.cron, &schedule.time_zone)
        .map_err(|error| invalid(format!("{here}: {}", printable(&error.to_string()))))?;
    if !jobs.iter().any(|job| job.name == schedule.job) {
        return Err(invalid(format!("{here}: job '{}' is not declared", printable(&schedule.job))));
    }
    parse(&schedule.payload, &format!("{here}: its payload"))?;
    let missed = match schedule.missed {
        worker::Missed::Skip => MissedTimes::Skip,
        worker::Missed::Once => MissedTimes::Once,
    };
    let worker::Schedule { name, cron, time_zone, job, payload, .. } = schedule;
    Ok(DeclaredSchedule { name, cron, time_zone, missed, job, payload })
}

/// Checks a name, which has the syntax of plugin names.
fn check_name(name: &str, here: &str) -> Result<()> {
    match name.parse::<PluginName>() {
        Ok(_) => Ok(()),
        Err(_) => Err(invalid(format!(
            "{here}: a name is 1 to {} characters of a-z, 0-9 and '-', and begins with a letter",
            PluginName::MAX_LEN
        ))),
    }
}

fn check_retry(retries: u32, backoff_ms: u32, here: &str) -> Result<RetryPolicy> {
    if retries > MAX_RETRIES {
        return Err(invalid(format!("{here}: it is repeated more than {MAX_RETRIES} times")));
    }
    if !(1..=MAX_BACKOFF).contains(&backoff_ms) {
        return Err(invalid(format!("{here}: its backoff is not between 1 and {MAX_BACKOFF} ms")));
    }
    Ok(RetryPolicy { retries, backoff_ms })
}

fn check_unique<'a>(noun: &str, names: impl Iterator<Item = &'a str>) -> Result<()> {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(invalid(format!("it declares the {noun} '{name}' twice")));
        }
    }
    Ok(())
}

/// Checks that the topics exist that the host and the plugin itself are to publish. The topics of another plugin may be
/// declared later.
///
/// # Errors
/// The first one that does not exist.
pub(super) fn check_sources(messages: &DeclaredMessages, plugin: &PluginName) -> Result<()> {
    for DeclaredSubscription { topic, .. } in &messages.subscriptions {
        if is_host_source(topic) && !topic.is_of_host() {
            let topics: Vec<&str> = HostTopic::ALL.into_iter().map(HostTopic::as_str).collect();
            return Err(invalid(format!("subscription to '{topic}': the host's topics are {}", topics.join(", "))));
        }
        let is_declared = |own: &DeclaredTopic| Topic::of(plugin, &own.name).is_ok_and(|own| own == *topic);
        if topic.source() == plugin.as_str() && !messages.topics.iter().any(is_declared) {
            return Err(invalid(format!("subscription to '{topic}': the plugin does not declare this topic")));
        }
    }
    Ok(())
}

/// Returns the grants that allow the subscriptions to topics of other plugins. `capability::events` refuses a release that
/// lacks one.
pub(super) fn grants_to_hear(messages: &DeclaredMessages, plugin: &PluginName) -> Vec<String> {
    let topics = messages.subscriptions.iter().map(|subscription| &subscription.topic);
    let foreign = topics.filter(|topic| topic.source() != plugin.as_str() && !is_host_source(topic));
    foreign.map(|topic| format!("{}.hear={topic}", Events::NAME)).collect()
}

fn is_host_source(topic: &Topic) -> bool {
    let source = topic.source();
    HostTopic::ALL.iter().any(|own| own.as_str().split_once('.').is_some_and(|(of_host, _)| of_host == source))
}

/// Compiles the schemas of topics and jobs, and holds the payloads of the schedules against them.
///
/// # Errors
/// A schema is not a JSON schema or exceeds a bound, or a payload does not fit.
pub(super) fn check_schemas(messages: &DeclaredMessages) -> Result<()> {
    let mut schemas = Schemas::new(Map::new()).map_err(Error::internal)?;
    let mut compile = |here: &str, schema: Option<&Value>| {
        let compiled = PayloadSchema::compile(schema, &mut schemas);
        compiled.map_err(|error| invalid(format!("{here}: its schema: {}", printable(&error.to_string()))))
    };
    for topic in &messages.topics {
        compile(&format!("topic '{}'", topic.name), Some(&topic.schema))?;
    }
    for job in &messages.jobs {
        let schema = compile(&format!("job '{}'", job.name), job.schema.as_ref())?;
        for schedule in messages.schedules.iter().filter(|schedule| schedule.job == job.name) {
            schema.check(&schedule.payload).map_err(|reason| {
                let here = format!("schedule '{}': its payload does not fit job '{}'", schedule.name, job.name);
                invalid(format!("{here}: {}", printable(&reason)))
            })?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(name: &str, schema: &str, access: Option<topics::Access>) -> topics::Topic {
        topics::Topic { name: name.to_owned(), summary: "A\nsummary".to_owned(), schema: schema.to_owned(), access }
    }

    fn subscription(topic: &str) -> subscriber::Subscription {
        subscriber::Subscription { topic: topic.to_owned(), retries: 3, backoff_ms: 1_000 }
    }

    fn job(name: &str) -> worker::Job {
        let schema = Some(r#"{"type":"object","required":["id"]}"#.to_owned());
        let name = name.to_owned();
        worker::Job { name, schema, retries: 3, backoff_ms: 1_000, deadline_ms: 10, concurrency: 1, keep_ms: 0 }
    }

    fn schedule(name: &str, job: &str, payload: &str) -> worker::Schedule {
        worker::Schedule {
            name: name.to_owned(),
            cron: "0 2 * * *".to_owned(),
            time_zone: "Europe/Berlin".to_owned(),
            missed: worker::Missed::Once,
            job: job.to_owned(),
            payload: payload.to_owned(),
        }
    }

    fn checked(roles: DeclaredRoles) -> Result<DeclaredMessages> {
        check(roles, |name| name == "read")
    }

    /// Returns the reason why roles are refused.
    fn refusal(roles: DeclaredRoles) -> String {
        let public = checked(roles).unwrap_err().public().to_owned();
        public.strip_prefix("The file cannot be deployed: ").unwrap().to_owned()
    }

    #[test]
    fn an_accepted_declaration_is_readable_again() {
        let access = [None, Some(topics::Access::Public), Some(topics::Access::Permission("read".to_owned()))];
        let names = ["created", "updated", "deleted"];
        let messages = checked(DeclaredRoles {
            topics: names.into_iter().zip(access).map(|(name, access)| topic(name, "{}", access)).collect(),
            subscriptions: vec![subscription("user.deleted"), subscription("orders.paid")],
            jobs: vec![job("sync"), worker::Job { schema: None, ..job("report") }],
            schedules: vec![schedule("nightly", "sync", r#"{"id":1}"#)],
        })
        .unwrap();
        assert_eq!(messages.topics[0].summary, "A summary");
        assert_eq!(messages.subscriptions[1].topic.as_str(), "orders.paid");
        let stored = serde_json::to_string(&messages).unwrap();
        assert_eq!(serde_json::from_str::<DeclaredMessages>(&stored).unwrap(), messages);
        assert_eq!(serde_json::from_str::<DeclaredMessages>("{}").unwrap(), DeclaredMessages::default());
    }

    #[test]
    fn names_are_valid_and_unique() {
        let name = "a name is 1 to 40 characters of a-z, 0-9 and '-', and begins with a letter";
        for bad in ["", "Created", "1", "a.b", "items.created", "a\n"] {
            let here = format!("'{}': {name}", printable(bad));
            let refused = |roles| assert!(refusal(roles).ends_with(&here), "{bad:?}");
            refused(DeclaredRoles { topics: vec![topic(bad, "{}", None)], ..DeclaredRoles::default() });
            refused(DeclaredRoles { jobs: vec![job(bad)], ..DeclaredRoles::default() });
            let schedules = vec![schedule(bad, "sync", "1")];
            refused(DeclaredRoles { schedules, ..DeclaredRoles::default() });
        }
        let twice = DeclaredRoles { topics: vec![topic("a", "1", None); 2], ..DeclaredRoles::default() };
        assert_eq!(refusal(twice), "it declares the topic 'a' twice");
        let twice = DeclaredRoles { subscriptions: vec![subscription("a.b"); 2], ..DeclaredRoles::default() };
        assert_eq!(refusal(twice), "it declares the subscription to 'a.b' twice");
        let twice = DeclaredRoles { jobs: vec![job("a"); 2], ..DeclaredRoles::default() };
        assert_eq!(refusal(twice), "it declares the job 'a' twice");
        let schedules = vec![schedule("a", "sync", "1"); 2];
        let twice = DeclaredRoles { jobs: vec![job("sync")], schedules, ..DeclaredRoles::default() };
        assert_eq!(refusal(twice), "it declares the schedule 'a' twice");
    }

    #[test]
    fn numbers_are_bounded() {
        type Change = fn(&mut worker::Job);

        let many = |count: usize| DeclaredRoles {
            topics: (0..count).map(|index| topic(&format!("t{index}"), "{}", None)).collect(),
            ..DeclaredRoles::default()
        };
        assert!(checked(many(MAX_TOPICS)).is_ok());
        assert_eq!(refusal(many(MAX_TOPICS + 1)), "it declares more than 64 topics");
        let jobs = |change: Change| {
            let mut job = job("sync");
            change(&mut job);
            DeclaredRoles { jobs: vec![job], ..DeclaredRoles::default() }
        };
        let too_much: [(Change, &str); 6] = [
            (|job| job.retries = 101, "it is repeated more than 100 times"),
            (|job| job.backoff_ms = 0, "its backoff is not between 1 and 3600000 ms"),
            (|job| job.backoff_ms = 3_600_001, "its backoff is not between 1 and 3600000 ms"),
            (|job| job.deadline_ms = 9, "its deadline is shorter than 10 ms"),
            (|job| job.concurrency = 0, "its concurrency is 0, so it could never run"),
            (|job| job.keep_ms = u64::MAX, "it is kept for longer than 31536000000 ms"),
        ];
        for (change, reason) in too_much {
            assert_eq!(refusal(jobs(change)), format!("job 'sync': {reason}"));
        }
    }

    #[test]
    fn parts_that_refer_to_nothing_are_refused() {
        let access = Some(topics::Access::Permission("write".to_owned()));
        let roles = DeclaredRoles { topics: vec![topic("a", "{}", access)], ..DeclaredRoles::default() };
        assert_eq!(refusal(roles), "topic 'a': permission 'write' is not declared");
        let roles = DeclaredRoles { schedules: vec![schedule("a", "sync", "1")], ..DeclaredRoles::default() };
        assert_eq!(refusal(roles), "schedule 'a': job 'sync' is not declared");
        let schedules = vec![worker::Schedule { time_zone: "Mars/Olympus".to_owned(), ..schedule("a", "sync", "1") }];
        let roles = DeclaredRoles { jobs: vec![job("sync")], schedules, ..DeclaredRoles::default() };
        assert!(refusal(roles).starts_with("schedule 'a': 'Mars/Olympus' is not a name of the IANA"));
        let schedules = vec![schedule("a", "sync", "{")];
        let roles = DeclaredRoles { jobs: vec![job("sync")], schedules, ..DeclaredRoles::default() };
        assert!(refusal(roles).starts_with("schedule 'a': its payload is not JSON"));
        let roles = DeclaredRoles { subscriptions: vec![subscription("everything")], ..DeclaredRoles::default() };
        assert!(refusal(roles).starts_with("subscription to 'everything': a topic is SOURCE.NAME"));
    }

    #[test]
    fn topics_of_the_host_and_of_the_plugin_must_exist() {
        let plugin: PluginName = "items".parse().unwrap();
        let sources = |subscribed: &str| {
            let topics = vec![topic("created", "{}", None)];
            let subscriptions = vec![subscription(subscribed)];
            let messages = checked(DeclaredRoles { topics, subscriptions, ..DeclaredRoles::default() }).unwrap();
            let foreign = grants_to_hear(&messages, &plugin);
            check_sources(&messages, &plugin).map(|()| foreign).map_err(|error| error.public().to_owned())
        };
        assert_eq!(sources("user.deleted").unwrap(), [""; 0]);
        assert_eq!(sources("items.created").unwrap(), [""; 0]);
        assert_eq!(sources("orders.paid").unwrap(), ["events.hear=orders.paid"]);
        assert!(sources("user.born").unwrap_err().contains("the host's topics are user.created, "));
        assert!(sources("items.deleted").unwrap_err().ends_with("the plugin does not declare this topic"));
    }

    #[test]
    fn schemas_and_the_payloads_of_schedules_are_checked() {
        let refusal = |topic_schema: &str, payload: &str| {
            let messages = checked(DeclaredRoles {
                topics: vec![topic("a", topic_schema, None)],
                jobs: vec![job("sync"), worker::Job { schema: None, ..job("report") }],
                schedules: vec![schedule("one", "sync", payload), schedule("two", "report", "[]")],
                ..DeclaredRoles::default()
            });
            check_schemas(&messages.unwrap()).map_err(|error| error.public().to_owned())
        };
        assert_eq!(refusal("{}", r#"{"id":1}"#), Ok(()));
        assert!(refusal(r#"{"type":"thing"}"#, r#"{"id":1}"#).unwrap_err().contains("topic 'a': its schema: "));
        let error = refusal("{}", "{}").unwrap_err();
        assert!(
            error.ends_with("schedule 'one': its payload does not fit job 'sync': payload.id: Field required"),
            "{error}"
        );
    }
}
