//! Webhooks: users register endpoints, which are URLs of their own servers, and the plugin sends events there. Each request
//! is signed as the [Standard Webhooks](https://www.standardwebhooks.com) specification says. `README.md` is the guide for
//! users and operators.
//!
//! An event passes three steps, and each survives a crash:
//!
//! - [`receiving`] gets the event, and stores a delivery for each endpoint that may have it, with a job for each, in one
//!   transaction. A second delivery of the same event adds nothing.
//! - [`sending`] runs the job: one request. A failed one is repeated by the host's queue, for about a day.
//! - [`deliveries`] shows the deliveries to the owner of the endpoint, and [`retention`] deletes old ones.
//!
//! The rights of an endpoint are checked at the first step and again before each request ([`rights`]), because an account
//! can be deactivated, or lose a privilege, in between.
//!
//! It needs the grants `auth`, `config`, `events` (with `hear` for the topics of items), `http` (with `hosts` for the servers
//! of the endpoints, or `https://*` for every public one), `jobs`, `sql` and `users`.

use wharf_sdk::prelude::*;

mod deliveries;
mod endpoints;
mod message;
mod receiver_url;
mod receiving;
mod retention;
mod rights;
mod secret;
mod sending;
mod stored;
mod time;
mod topic;

#[cfg(test)]
mod tests;

plugin! {
    name: "webhooks",
    summary: "Sends events to servers of users",
    settings: receiver_url::Configuration,
    migrations: "migrations",
    routes: [
        endpoints::read_endpoints,
        endpoints::create_endpoint,
        endpoints::read_endpoint,
        endpoints::update_endpoint,
        endpoints::delete_endpoint,
        endpoints::rotate_secret,
        deliveries::test_endpoint,
        deliveries::read_deliveries,
        deliveries::retry_delivery,
    ],
    subscriptions: [
        receiving::item_created,
        receiving::item_updated,
        receiving::item_deleted,
        receiving::user_created,
        receiving::user_updated,
        receiving::user_deleted,
    ],
    jobs: [sending::deliver],
    schedules: [retention::prune],
}
