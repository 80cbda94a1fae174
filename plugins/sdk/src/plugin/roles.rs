//! The roles of a plugin for events and jobs: its declarations in the form of the interfaces, and its handlers by their
//! positions in these declarations.

use super::{Access, Component, Exports, JobDeclaration, Plugin, SubscriptionDeclaration, TopicDeclaration};
use crate::bindings::subscriber_role::exports::wharf::events::subscriber;
use crate::bindings::topics_role::exports::wharf::events::topics;
use crate::bindings::worker_role::exports::wharf::jobs::worker;
use crate::task::TaskError;

impl Plugin {
    pub(crate) fn wit_topics(&self) -> Vec<topics::Topic> {
        let own = |topic: &TopicDeclaration| topics::Topic {
            name: topic.name.to_owned(),
            summary: topic.summary.to_owned(),
            schema: (topic.schema)(),
            access: topic.access.map(|access| match access {
                Access::Public => topics::Access::Public,
                Access::Authenticated => topics::Access::Authenticated,
                Access::Permission(name) => topics::Access::Permission(name.to_owned()),
                Access::Superuser => topics::Access::Superuser,
            }),
        };
        self.topics.iter().map(own).collect()
    }

    pub(crate) fn wit_subscriptions(&self) -> Vec<subscriber::Subscription> {
        let own = |subscription: &SubscriptionDeclaration| subscriber::Subscription {
            topic: subscription.topic.to_owned(),
            retries: subscription.retries,
            backoff_ms: subscription.backoff_ms,
        };
        self.subscriptions.iter().map(own).collect()
    }

    pub(crate) fn receive(&self, subscription: u32, event: subscriber::Event) -> Result<(), TaskError> {
        let index = usize::try_from(subscription).unwrap_or(usize::MAX);
        let subscription = self.subscriptions.get(index);
        let subscription = subscription
            .ok_or_else(|| TaskError::reject("the host delivered to a subscription that does not exist"))?;
        (subscription.handle)(event)
    }

    /// Returns the jobs in the order of the declaration: those of `jobs: […]`, then those of the schedules.
    pub(crate) fn all_jobs(&self) -> impl Iterator<Item = &JobDeclaration> {
        self.jobs.iter().chain(self.schedules.iter().map(|schedule| &schedule.job))
    }

    pub(crate) fn wit_jobs(&self) -> worker::Declaration {
        let job = |job: &JobDeclaration| worker::Job {
            name: job.name.to_owned(),
            schema: Some((job.schema)()),
            retries: job.retries,
            backoff_ms: job.backoff_ms,
            deadline_ms: job.deadline_ms,
            concurrency: job.concurrency,
            keep_ms: job.keep_ms,
        };
        let schedules = self.schedules.iter().map(|schedule| worker::Schedule {
            name: schedule.name.to_owned(),
            cron: schedule.cron.to_owned(),
            time_zone: schedule.time_zone.to_owned(),
            missed: schedule.missed,
            job: schedule.job.name.to_owned(),
            payload: (schedule.payload)(),
        });
        worker::Declaration { jobs: self.all_jobs().map(job).collect(), schedules: schedules.collect() }
    }

    pub(crate) fn run(&self, task: worker::Task) -> Result<Option<String>, TaskError> {
        let index = usize::try_from(task.job).unwrap_or(usize::MAX);
        let job = self.all_jobs().nth(index);
        let job = job.ok_or_else(|| TaskError::reject("the host ran a job that does not exist"))?;
        (job.run)(task)
    }
}

impl<C: Component> topics::Guest for Exports<C> {
    fn topics() -> Vec<topics::Topic> {
        C::PLUGIN.wit_topics()
    }
}

impl<C: Component> subscriber::Guest for Exports<C> {
    fn subscriptions() -> Vec<subscriber::Subscription> {
        C::PLUGIN.wit_subscriptions()
    }

    fn receive(subscription: u32, event: subscriber::Event) -> Result<(), subscriber::Failure> {
        C::PLUGIN.receive(subscription, event).map_err(|error| match error {
            TaskError::Retry(reason) => subscriber::Failure::Retry(reason),
            TaskError::Reject(reason) => subscriber::Failure::Reject(reason),
        })
    }
}

impl<C: Component> worker::Guest for Exports<C> {
    fn declare() -> worker::Declaration {
        C::PLUGIN.wit_jobs()
    }

    fn run(task: worker::Task) -> Result<Option<String>, worker::Failure> {
        C::PLUGIN.run(task).map_err(|error| match error {
            TaskError::Retry(reason) => worker::Failure::Retry(reason),
            TaskError::Reject(reason) => worker::Failure::Reject(reason),
        })
    }
}
