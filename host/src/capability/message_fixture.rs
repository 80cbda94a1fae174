//! Calls of a release that declares a topic and two jobs, without WebAssembly: for the tests of events and jobs.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::declared_messages::{DeclaredJob, DeclaredMessages, DeclaredSubscription, DeclaredTopic, RetryPolicy};
use super::guest::{GuestLimits, GuestResources};
use super::log::PluginLogs;
use super::{
    Admitted, Boot, CallContext, Candidate, Capabilities, CpuScheduler, Dependencies, Grants, Guest, Limit,
    RunningTask, Usage,
};
use crate::cache::Caches;
use crate::clock::{Clock, Random, Timestamp};
use crate::config::Config;
use crate::db::plugin_data::PluginData;
use crate::egress::{Egress, EgressEnvironment};
use crate::error::Result;
use crate::id::PluginName;

const RETRY: RetryPolicy = RetryPolicy { retries: 1, backoff_ms: 1_000 };

/// Returns the declarations of the release: the topic `created`, whose payloads have an `id`, and the jobs `any` and
/// `typed`.
pub(super) fn declared() -> DeclaredMessages {
    let schema = json!({ "type": "object", "required": ["id"], "properties": { "id": { "type": "integer" } } });
    let job = |name: &str, schema| DeclaredJob {
        name: name.to_owned(),
        schema,
        retry: RETRY,
        deadline_ms: 1_000,
        concurrency: 1,
        keep_ms: 60_000,
    };
    DeclaredMessages {
        topics: vec![DeclaredTopic {
            name: "created".to_owned(),
            summary: String::new(),
            schema: schema.clone(),
            access: None,
        }],
        jobs: vec![job("any", None), job("typed", Some(schema))],
        ..DeclaredMessages::default()
    }
}

/// Returns a subscription to a topic.
pub(super) fn subscription(topic: &str) -> DeclaredSubscription {
    DeclaredSubscription { topic: topic.parse().unwrap(), retry: RETRY }
}

/// Returns how often a call hit a limit.
pub(super) fn hits(guest: &Guest, limit: Limit) -> u64 {
    guest.usage.hits().find(|(counted, _)| *counted == limit).unwrap().1
}

/// A host with the release of one plugin.
pub(super) struct Fixture {
    _dir: tempfile::TempDir,
    pub(super) boot: Boot,
    pub(super) capabilities: Capabilities,
    pub(super) plugin: PluginName,
}

impl Fixture {
    pub(super) async fn open(change: impl FnOnce(&mut Config)) -> Self {
        let (dir, db) = crate::db::tests::sqlite().await;
        let mut config = Config::default();
        dir.path().clone_into(&mut config.server.data_dir);
        change(&mut config);
        let clock = Clock::manual(Timestamp(1_700_000_000_000_000));
        let boot = Boot {
            data: Arc::new(PluginData::open(&db, &config, Random::System).unwrap()),
            cache: Caches::new(clock.clone(), config.plugins.cache_bytes),
            egress: Egress::new(EgressEnvironment::default(), Random::System),
            logs: PluginLogs::new(clock.clone(), (&config.plugins).into()),
            config: Arc::new(config),
            clock,
            random: Random::System,
            db,
            node: "test".into(),
        };
        let capabilities = Capabilities::open(&boot).await.unwrap();
        Self { _dir: dir, boot, capabilities, plugin: "items".parse().unwrap() }
    }

    /// Admits the release with other declarations.
    pub(super) async fn admit(&self, grants: &[&str], messages: &DeclaredMessages) -> Result<Admitted> {
        let grants = Grants::read(grants.iter().copied()).unwrap();
        let candidate =
            Candidate { plugin: &self.plugin, release: 1, settings: &Value::Null, permissions: Vec::new(), messages };
        self.capabilities.admit(&candidate, &grants).await
    }

    /// Begins a call of a request, or of a delivery or job.
    pub(super) async fn call(&self, grants: &[&str], task: Option<RunningTask>) -> Guest {
        let admitted = self.admit(grants, &declared()).await.unwrap();
        self.capabilities.serve(&self.plugin, &admitted);
        let context = Arc::new(CallContext {
            plugin: self.plugin.clone(),
            release: 1,
            request_id: Some("r1".into()),
            address: None,
            caller: None,
            trace: None,
            task,
        });
        let usage = Arc::<Usage>::default();
        let resources = GuestResources {
            output: self.boot.logs.plugin(&self.plugin),
            dependencies: Dependencies::new(Arc::clone(&usage)),
            usage,
            cpu_slot: CpuScheduler::new(1).plugin_queue().slot(),
        };
        let limits = GuestLimits::new(64 << 20, Duration::from_secs(1), 1_000);
        let entered = admitted.enter(&context);
        Guest::new(context, entered, limits, resources, self.boot.clock.clone())
    }
}
