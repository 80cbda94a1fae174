//! The questions to a component before it becomes a release: its descriptor, its routes and its migrations, asked in
//! instances that have entered no capability.

use std::sync::Arc;

use wasmtime::Store;
use wasmtime::component::Linker;
use wasmtime::error::Context as _;

use super::Sandbox;
use super::execution::{Instantiating, Stop, run_until};
use crate::capability::guest::GuestResources;
use crate::capability::{CallContext, Capabilities, Dependencies, Entered, Grants, Guest};
use crate::error::Result;
use crate::id::PluginName;
use crate::plugin::artifact::{Artifact, MIGRATIONS, invalid, printable};
use crate::plugin::call_stats::CallStats;
use crate::plugin::declaration::{Declaration, DeclaredMigration};
use crate::plugin::engine::DECLARATION_TIME;
use crate::plugin::interface::{describe, migrate};
use crate::plugin::limits::CallLimits;
use crate::plugin::schema_compatibility::MigrationStep;

impl Sandbox {
    /// Asks a component for its declaration and its migrations. Sets `named` to the name in its descriptor if it has no
    /// name yet.
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
        let owner =
            if artifact.plays(MIGRATIONS) { Some(migrate::RolePre::new(instance).map_err(refuse)?) } else { None };
        let context = Arc::new(CallContext {
            plugin: plugin.clone(),
            release: 0,
            request_id: Arc::clone(request_id),
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
            invalid(format!("it fails when it is asked for its declaration: {error}")).with_internal(error.report())
        };

        let _slot = self.deploy_slot().await?;
        let mut describing = store();
        // Nobody reads these counts.
        let (slot, stats) = (describing.data().cpu_slot.clone(), CallStats::default());
        let work = async {
            let role = role.instantiate_async(&mut describing).await.context(Instantiating)?;
            let descriptor = role.wharf_plugin_descriptor().call_describe(&mut describing).await?;
            let api = role.wharf_plugin_http().call_routes(&mut describing).await?;
            Ok((descriptor, api))
        };
        let outcome = run_until(&slot, &stats, DECLARATION_TIME, work).await;
        let (descriptor, api) = outcome.map_err(|stop| stopped(stop, &describing))?;
        if named.is_none() {
            *named = descriptor.name.parse().ok();
        }
        let declaration = Declaration::check(descriptor, api)?;
        drop(describing);

        let Some(owner) = owner else { return Ok((declaration, Vec::new())) };
        let mut migrating = store();
        let slot = migrating.data().cpu_slot.clone();
        let work = async {
            let role = owner.instantiate_async(&mut migrating).await.context(Instantiating)?;
            role.wharf_sql_migrations().call_migrations(&mut migrating).await
        };
        let outcome = run_until(&slot, &stats, DECLARATION_TIME, work).await;
        let migrations = outcome.map_err(|stop| stopped(stop, &migrating))?;
        let migrations = migrations.into_iter().map(|migration| DeclaredMigration {
            step: MigrationStep { name: migration.name, oldest: migration.oldest },
            sql: migration.sql,
        });
        Ok((declaration, migrations.collect()))
    }
}
