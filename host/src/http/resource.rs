//! The routes of the host, one file per resource. Each file declares its routes next to their handlers.

mod audit;
mod dev_mail;
mod docs;
mod event_stream;
mod factors;
mod health;
mod identities;
mod invitations;
mod keys;
mod login;
mod mails;
mod metrics;
mod oidc;
mod pagination;
mod partial_update;
mod passkeys;
mod permissions;
mod plugins;
mod private;
mod roles;
mod schedules;
mod second_factor;
mod sessions;
mod settings;
mod signing_keys;
mod tasks;
mod test_email;
mod users;
mod verification;

use super::Host;
use super::host_route::HostRoute;
use crate::config::Config;
use crate::email::Delivery;

/// Returns every route of the host, below `/api/v1` and elsewhere.
pub fn routes(config: &Config) -> Vec<HostRoute<Host>> {
    let mut routes = Vec::new();
    routes.extend(login::routes());
    routes.extend(oidc::routes());
    routes.extend(users::routes());
    routes.extend(invitations::routes());
    routes.extend(verification::routes());
    routes.extend(sessions::routes());
    routes.extend(second_factor::routes());
    routes.extend(factors::routes());
    routes.extend(identities::routes());
    routes.extend(passkeys::routes());
    routes.extend(keys::routes());
    routes.extend(signing_keys::routes());
    routes.extend(roles::routes());
    routes.extend(permissions::routes());
    routes.extend(test_email::routes());
    routes.extend(audit::routes());
    routes.extend(settings::routes());
    routes.extend(plugins::routes(config.plugins.upload_bytes));
    routes.extend(tasks::routes());
    routes.extend(schedules::routes());
    routes.extend(mails::routes());
    routes.extend(event_stream::routes());
    routes.extend(health::routes());
    routes.extend(metrics::routes());
    if config.server.docs {
        routes.extend(docs::routes());
    }
    if config.server.development {
        routes.extend(private::routes());
    }
    if Delivery::of(config) == Delivery::Log {
        routes.extend(dev_mail::routes());
    }
    routes
}

#[cfg(test)]
mod tests;
