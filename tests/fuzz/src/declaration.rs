//! A component's declaration. The input is text, one member per line:
//!
//! ```text
//! name items
//! version 1.0.0
//! summary What it is for
//! permission read-all Read what is another's
//! settings {"type":"object"}
//! schema Item {"type":"object"}
//! route GET /{id} public {"parameters":[{"name":"id","in":"path"}]}
//! cache 1000 true tag,other
//! topic created public {"type":"object"}
//! subscription user.deleted 3 1000
//! job sync 60000 1 {"type":"object"}
//! schedule nightly sync Europe/Berlin {} 30 2 * * *
//! step 0002 0001
//! applied 0001
//! live 0001
//! ```
//!
//! `cache` applies to the route before it. `public`, `authenticated` and `superuser` are access levels; any other word
//! is a permission. A topic whose access is `nobody` has none.
//!
//! Properties: an accepted declaration follows every documented rule, and is unchanged after it was stored and read
//! again; a rejection is one line.

use std::collections::BTreeSet;

use serde_json::{Map, Value};
use wharf::clock::Timestamp;
use wharf::plugin::declaration::Declaration;
use wharf::plugin::fuzzing::{self, Declared, DeclaredAccess, DeclaredRoute, DeclaredSchedule};
use wharf::plugin::schema_compatibility::MigrationStep;
use wharf::route::{Access, Template};

use crate::input::{assert_line, assert_refusal, lines, unescaped, words};

#[derive(Default)]
struct Input {
    declared: Declared,
    steps: Vec<MigrationStep>,
    applied: Vec<MigrationStep>,
    live: Vec<MigrationStep>,
}

impl Input {
    fn read(data: &[u8]) -> Self {
        let mut input = Self::default();
        let declared = &mut input.declared;
        let step = |rest: &str| {
            let [name, oldest] = words(rest);
            MigrationStep { name: name.to_owned(), oldest: Some(oldest.to_owned()).filter(|oldest| !oldest.is_empty()) }
        };
        for line in lines(data) {
            let [member, rest] = words(&line);
            let [first, second] = words(rest).map(unescaped);
            match member {
                "name" => declared.name = unescaped(rest),
                "version" => declared.version = unescaped(rest),
                "summary" => declared.summary = unescaped(rest),
                "permission" => declared.permissions.push((first, second)),
                "settings" => declared.settings_schema = Some(rest.to_owned()),
                "schema" => declared.schemas.push((first, words::<2>(rest)[1].to_owned())),
                "route" => declared.routes.push(route(rest)),
                "cache" => {
                    let [ttl, per_caller, tags] = words(rest);
                    let tags = tags.split(',').map(unescaped).collect();
                    if let Some(route) = declared.routes.last_mut() {
                        route.cache = Some((ttl.parse().unwrap_or(1), per_caller == "true", tags));
                    }
                }
                "topic" => {
                    let [name, access, schema] = words(rest);
                    let access = Some(access).filter(|access| *access != "nobody").map(self::access);
                    declared.topics.push((unescaped(name), access, schema.to_owned()));
                }
                "subscription" => {
                    let [topic, retries, backoff] = words(rest);
                    let number = |text: &str| text.parse().unwrap_or(1);
                    declared.subscriptions.push((unescaped(topic), number(retries), number(backoff)));
                }
                "job" => {
                    let [name, deadline, concurrency, schema] = words(rest);
                    let number = |text: &str| text.parse().unwrap_or(10);
                    let schema = Some(schema.to_owned()).filter(|schema| !schema.is_empty());
                    declared.jobs.push((unescaped(name), number(deadline), number(concurrency), schema));
                }
                "schedule" => {
                    let [name, job, zone, payload, cron] = words(rest);
                    let [name, job, time_zone, payload, cron] = [name, job, zone, payload, cron].map(unescaped);
                    declared.schedules.push(DeclaredSchedule { name, cron, time_zone, job, payload });
                }
                "step" => input.steps.push(step(rest)),
                "applied" => input.applied.push(step(rest)),
                "live" => input.live.push(step(rest)),
                _ => {}
            }
        }
        input
    }
}

fn route(rest: &str) -> DeclaredRoute {
    let [method, path, access, operation] = words(rest);
    DeclaredRoute {
        method: unescaped(method),
        path: unescaped(path),
        access: self::access(access),
        operation: operation.to_owned(),
        cache: None,
    }
}

fn access(word: &str) -> DeclaredAccess {
    match word {
        "public" => DeclaredAccess::Public,
        "authenticated" => DeclaredAccess::Authenticated,
        "superuser" => DeclaredAccess::Superuser,
        name => DeclaredAccess::Permission(unescaped(name)),
    }
}

/// Checks one declaration.
pub fn check(data: &[u8]) {
    let Input { declared, steps, applied, live } = Input::read(data);
    check_steps(&steps, &applied, &live);
    let twice = fuzzing::declaration(declared.clone());
    let declaration = match fuzzing::declaration(declared.clone()) {
        Ok(declaration) => declaration,
        Err(error) => {
            assert!(twice.is_err());
            return assert_refusal(&error);
        }
    };
    assert_eq!(twice.ok().as_ref(), Some(&declaration));
    check_rules(&declared, &declaration);
    check_messages(&declared, &declaration);

    let stored = serde_json::to_string(&declaration).expect("a declaration becomes JSON");
    match serde_json::from_str::<Declaration>(&stored) {
        Ok(again) => assert_eq!(again, declaration, "it differs after a restart"),
        Err(error) => panic!("it was accepted but cannot be read after a restart: {error}"),
    }

    for settings in [Value::Object(Map::new()), Value::Null, serde_json::json!({ "a": 1, "b": ["x\n"] })] {
        if let Err(error) = fuzzing::settings(&declaration, &settings) {
            assert_refusal(&error);
        }
    }
    let mount: Template = "/api/v1/fuzz".parse().unwrap();
    match fuzzing::routes(&declaration, &"fuzz".parse().unwrap(), &mount) {
        Err(error) => assert_refusal(&error),
        Ok(routes) => {
            assert_eq!(routes.len(), declaration.routes.len());
            for ((method, template), route) in routes.iter().zip(&declaration.routes) {
                assert!(*method == route.method && template.is_within(&mount));
            }
        }
    }
}

/// `[a-z][a-z0-9-]{0,39}`
fn is_name(text: &str) -> bool {
    let begins = text.starts_with(|c: char| c.is_ascii_lowercase());
    begins && text.len() <= 40 && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn check_rules(declared: &Declared, declaration: &Declaration) {
    assert_eq!((&declaration.name, &declaration.version), (&declared.name, &declared.version));
    assert_line(&declaration.version);
    assert_line(&declaration.summary);
    assert!(declaration.summary.chars().count() <= 301);
    let names: BTreeSet<&str> = declaration.permissions.iter().map(|permission| permission.name.as_str()).collect();
    assert!(names.len() == declared.permissions.len() && names.len() <= 128 && names.iter().all(|name| is_name(name)));
    declaration.permissions.iter().for_each(|permission| assert_line(&permission.summary));
    let schemas = declaration.schemas();
    assert!(schemas.len() == declared.schemas.len() && schemas.len() <= 1024);
    for name in schemas.keys() {
        assert!(!name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)), "{name:?}");
    }
    assert!((1..=256).contains(&declaration.routes.len()) && declaration.routes.len() == declared.routes.len());
    for route in &declaration.routes {
        assert!(["GET", "POST", "PUT", "PATCH", "DELETE"].contains(&route.method.as_str()));
        assert_eq!(route.path.to_string().parse::<Template>().as_ref(), Ok(&route.path));
        if let Access::Permission(name) = &route.access {
            assert!(names.contains(name.as_str()), "{name} is not declared");
        }
        if let Some(cache) = &route.cache {
            assert_eq!(route.method, "GET");
            assert!(cache.tags.len() <= wharf::cache::MAX_TAGS);
            assert!(cache.tags.iter().all(|tag| tag.len() <= wharf::cache::MAX_TAG));
        }
    }
}

fn check_messages(declared: &Declared, declaration: &Declaration) {
    let messages = &declaration.messages;
    let of_topics: BTreeSet<&str> = messages.topics.iter().map(|topic| topic.name.as_str()).collect();
    let subscribed: BTreeSet<&str> = messages.subscriptions.iter().map(|one| one.topic.as_str()).collect();
    let of_jobs: BTreeSet<&str> = messages.jobs.iter().map(|job| job.name.as_str()).collect();
    let of_schedules: BTreeSet<&str> = messages.schedules.iter().map(|schedule| schedule.name.as_str()).collect();
    for (names, declared, limit) in [
        (&of_topics, declared.topics.len(), 64),
        (&subscribed, declared.subscriptions.len(), 64),
        (&of_jobs, declared.jobs.len(), 64),
        (&of_schedules, declared.schedules.len(), 32),
    ] {
        assert!(names.len() == declared && declared <= limit);
    }
    assert!([of_topics, of_jobs.clone(), of_schedules].iter().flatten().all(|name| is_name(name)));
    let permissions: Vec<&str> = declaration.permissions.iter().map(|permission| permission.name.as_str()).collect();
    for topic in &messages.topics {
        if let Some(Access::Permission(name)) = &topic.access {
            assert!(permissions.contains(&name.as_str()), "{name} is not declared");
        }
    }
    for subscription in &messages.subscriptions {
        let retry = subscription.retry;
        assert!(retry.retries <= 100 && (1..=3_600_000).contains(&retry.backoff_ms));
    }
    assert!(messages.jobs.iter().all(|job| job.deadline_ms >= 10 && job.concurrency > 0));
    for schedule in &messages.schedules {
        assert!(of_jobs.contains(schedule.job.as_str()), "{} is not declared", schedule.job);
        // 2026-03-28T00:00:00Z, just before clocks change in Europe.
        let after = Timestamp(1_774_656_000_000_000);
        let times = fuzzing::schedule_times(&schedule.cron, &schedule.time_zone, after, 8).unwrap();
        assert_eq!(times.len(), 8);
        assert!(times[0] > after && times.is_sorted_by(|a, b| b.since(*a).as_secs() >= 60), "{schedule:?}");
    }
}

fn check_steps(steps: &[MigrationStep], applied: &[MigrationStep], live: &[MigrationStep]) {
    match fuzzing::migrations(steps, applied, live) {
        Err(error) => assert_refusal(&error),
        Ok(()) => {
            let has = |list: &[MigrationStep], name: &str| list.iter().any(|step| step.name == name);
            for (at, step) in steps.iter().enumerate() {
                let Some(oldest) = &step.oldest else { continue };
                assert!(has(&steps[..at], oldest), "{oldest} is not an earlier migration");
                assert!(at < applied.len() || has(live, oldest), "{} breaks the live release", step.name);
            }
            for step in applied.iter().skip(steps.len()) {
                assert!(step.oldest.as_ref().is_none_or(|oldest| has(steps, oldest)), "{} breaks it", step.name);
            }
        }
    }
}
