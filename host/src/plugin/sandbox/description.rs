//! The questions to a component before it becomes a release: its descriptor, its routes, its events, its jobs and its
//! migrations, asked in instances that have entered no capability.

use std::sync::Arc;

use wasmtime::Store;
use wasmtime::component::Linker;
use wasmtime::error::Context as _;

use super::Sandbox;
use super::execution::{Instantiating, Stop, run_until};
use crate::capability::guest::GuestResources;
use crate::capability::{CallContext, Capabilities, Dependencies, Entered, Grants, Guest};
use crate::error::{Result, code};
use crate::id::PluginName;
use crate::plugin::artifact::{Artifact, MIGRATIONS, SUBSCRIBER, TOPICS, WORKER, invalid, printable};
use crate::plugin::call_stats::CallStats;
use crate::plugin::declaration::{Declaration, DeclaredMigration};
use crate::plugin::declared_messages::DeclaredRoles;
use crate::plugin::engine::DECLARATION_TIME;
use crate::plugin::interface::{describe, migrate, subscriber, topics, worker};
use crate::plugin::limits::CallLimits;
use crate::plugin::schema_compatibility::MigrationStep;

impl Sandbox {
    /// Asks a component for its declaration and its migrations, each role in an instance of its own. Sets `named` to the
    /// name in its descriptor if it has no name yet.
    ///
    /// # Errors
    /// It traps, hits a limit, takes too long, or its declaration is not valid.
    pub(in crate::plugin) async fn describe(
        &self,
        artifact: &Artifact,
        plugin: &PluginName,
        request_id: &Arc<str>,
        named: &mut Option<PluginName>,
    ) -> Result<(Declaration, Vec<DeclaredMigration>)> {
        let refuse =
            |error: wasmtime::Error| invalid(format!("it does not link: {}", printable(&format!("{error:#}"))));
        // Everything is linked and nothing is entered: each function of a capability traps when it is called.
        let mut linker: Linker<Guest> = self.engine.linker()?;
        Capabilities::link(&mut linker, &Grants::all()).map_err(refuse)?;
        let instance = linker.instantiate_pre(&artifact.component).map_err(refuse)?;
        let role = describe::RolePre::new(instance.clone()).map_err(refuse)?;
        let context = Arc::new(CallContext {
            plugin: plugin.clone(),
            release: 0,
            request_id: Some(Arc::clone(request_id)),
            address: None,
            caller: None,
            trace: None,
            task: None,
        });
        let limits = CallLimits { cpu_time: DECLARATION_TIME, ..self.default_limits.clone() };
        let queue = self.cpu_queue();
        let resources = || GuestResources {
            output: self.logs.plugin(plugin),
            usage: Arc::default(),
            dependencies: Dependencies::new(Arc::default()),
            cpu_slot: queue.slot(),
        };
        let store = || self.store(Arc::clone(&context), Entered::default(), resources(), &limits, 0);
        let stopped = |stop: Stop, store: &Store<Guest>| {
            if let Some(mismatch) = stop.type_mismatch().filter(|_| store.data().limits.budget.limit_hit().is_none()) {
                return invalid(format!("it was built for another version of Wharf's interfaces: {mismatch}"));
            }
            let error = stop.into_error(store.data().limits.budget.limit_hit());
            if *error.code() == code::DEPENDENCY_UNAVAILABLE {
                return error;
            }
            invalid(format!("it fails when it is asked for its declaration: {error}")).with_internal(error.report())
        };

        // Nobody reads these counts.
        let stats = CallStats::default();
        // Asks a question in an instance of its own.
        macro_rules! ask {
            ($role:expr, |$guest:ident, $store:ident| $question:expr) => {{
                let mut $store = store();
                let slot = $store.data().cpu_slot.clone();
                let work = async {
                    let $guest = $role.instantiate_async(&mut $store).await.context(Instantiating)?;
                    $question
                };
                let outcome = run_until(&slot, &stats, DECLARATION_TIME, work).await;
                outcome.map_err(|stop| stopped(stop, &$store))?
            }};
        }

        let _slot = self.deploy_slot().await?;
        let (descriptor, api) = ask!(role, |guest, store| {
            let descriptor = guest.wharf_plugin_descriptor().call_describe(&mut store).await?;
            Ok((descriptor, guest.wharf_plugin_http().call_routes(&mut store).await?))
        });
        if named.is_none() {
            *named = descriptor.name.parse().ok();
        }
        let mut roles = DeclaredRoles::default();
        if artifact.plays(TOPICS) {
            let role = topics::RolePre::new(instance.clone()).map_err(refuse)?;
            roles.topics = ask!(role, |guest, store| guest.wharf_events_topics().call_topics(&mut store).await);
        }
        if artifact.plays(SUBSCRIBER) {
            let role = subscriber::RolePre::new(instance.clone()).map_err(refuse)?;
            roles.subscriptions =
                ask!(role, |guest, store| guest.wharf_events_subscriber().call_subscriptions(&mut store).await);
        }
        if artifact.plays(WORKER) {
            let role = worker::RolePre::new(instance.clone()).map_err(refuse)?;
            let declared = ask!(role, |guest, store| guest.wharf_jobs_worker().call_declare(&mut store).await);
            (roles.jobs, roles.schedules) = (declared.jobs, declared.schedules);
        }
        let declaration = Declaration::check(descriptor, api, roles)?;

        if !artifact.plays(MIGRATIONS) {
            return Ok((declaration, Vec::new()));
        }
        let role = migrate::RolePre::new(instance).map_err(refuse)?;
        let migrations = ask!(role, |guest, store| guest.wharf_sql_migrations().call_migrations(&mut store).await);
        let migrations = migrations.into_iter().map(|migration| DeclaredMigration {
            step: MigrationStep { name: migration.name, oldest: migration.oldest },
            sql: migration.sql,
        });
        Ok((declaration, migrations.collect()))
    }
}
