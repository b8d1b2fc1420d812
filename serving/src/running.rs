//! The service put together: start from disk, follow the registry, answer, drain.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use events::{IdSource, ModelName, ModelVersion, TenantId, Timestamp};
use model_registry::client::RegistryClient;
use service::clock::SharedClock;
use service::http::Listener;
use service::readiness::Latch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cache::ResultCache;
use crate::config::ServingConfig;
use crate::database::{Database, DatabaseDirectory, Directory};
use crate::decision::DecisionPolicy;
use crate::door::Door;
use crate::engine::{ForeignEngine, Loading};
use crate::error::ServingError;
use crate::exposure::{ExposureQueue, People, Publisher};
use crate::log::Log;
use crate::models::{ModelSource, Models, RoutingSource};
use crate::pool::DecodePool;
use crate::proxy::{Proxy, ProxyDeps, Upstream};
use crate::registry::{ArtifactModels, Registry};
use crate::state::{Repetitions, State};

/// What serving stands on.
pub struct ServingDeps {
    /// Where exposures go.
    pub log: Log,
    /// Time of exposures, receipts and arms.
    pub clock: SharedClock,
    /// Ids of opportunities that clients do not name.
    pub ids: Arc<dyn IdSource>,
    /// Keys, consents, rules.
    pub database: Database,
    /// The file that wraps the database's keys; it also wraps what serving keeps on disk.
    pub key_file: PathBuf,
    /// Who says which version is served: one client, with a key of its own, for each tenant that is served here.
    pub registry: Vec<RegistryClient>,
    /// Where models come from.
    pub artifacts: Arc<dyn artifacts::ArtifactStore>,
    /// Serving's own directory: `routing.json`, `models/<digest>/`, `door.json`.
    pub data_dir: PathBuf,
    /// The server in front of which this one stands, if there is one.
    pub upstream: Option<Upstream>,
}

impl std::fmt::Debug for ServingDeps {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("ServingDeps(..)")
    }
}

/// What serving does now.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct ServingStatus {
    /// Every served model.
    pub models: Vec<ModelStatus>,
    /// Models whose newest routing is not followed.
    pub failures: Vec<RoutingFailure>,
    /// Exposures that are neither published nor dropped.
    pub exposures_pending: u64,
}

/// Why the newest routing of a model is not followed; what was served before, if anything, serves on.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct RoutingFailure {
    /// Owner of the model.
    pub tenant: TenantId,
    /// The model.
    pub model: ModelName,
    /// Names the version and the file.
    pub reason: String,
}

/// A served model.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct ModelStatus {
    /// Its owner.
    pub tenant: TenantId,
    /// Its name.
    pub model: ModelName,
    /// The routing that is followed.
    pub revision: i64,
    /// The promoted version.
    pub current: ModelVersion,
    /// The candidate on trial.
    pub canary: Option<ModelVersion>,
    /// The version of the hold-back.
    pub reference: Option<ModelVersion>,
    /// The versions that showed a suggestion in this process, with the time of the first.
    pub first_served: Vec<VersionStatus>,
}

/// A version that showed a suggestion.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct VersionStatus {
    /// The version.
    pub version: ModelVersion,
    /// When its first suggestion was flushed.
    pub first_served_at: Timestamp,
}

/// The running service.
pub struct Serving {
    state: Arc<State>,
    routing: Arc<dyn RoutingSource>,
    stop: CancellationToken,
    background: TaskTracker,
}

impl std::fmt::Debug for Serving {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Serving(..)")
    }
}

/// What others of the process may ask of a running service.
#[derive(Clone)]
pub struct ServingHandle {
    state: Arc<State>,
    routing: Arc<dyn RoutingSource>,
}

impl std::fmt::Debug for ServingHandle {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("ServingHandle(..)")
    }
}

impl ServingHandle {
    /// Looks at the registry now and follows what changed. False when it did not answer, or when some model's newest
    /// routing could not be followed.
    pub async fn refresh(&self) -> bool {
        self.state.models.refresh(&*self.routing).await.is_ok() && self.state.models.failures().is_empty()
    }

    /// Ends when every exposure of an answer that has ended is published or dropped.
    pub async fn settled(&self) {
        self.state.exposures.settled().await;
    }
}

/// Where things come from; tests put others in.
pub(crate) struct Sources {
    pub(crate) directory: Arc<dyn Directory>,
    pub(crate) people: Arc<dyn People>,
    pub(crate) models: Arc<dyn ModelSource>,
    pub(crate) routing: Arc<dyn RoutingSource>,
    pub(crate) log: Log,
    pub(crate) clock: SharedClock,
    pub(crate) ids: Arc<dyn IdSource>,
    pub(crate) key_file: PathBuf,
    pub(crate) data_dir: PathBuf,
    pub(crate) upstream: Option<Upstream>,
}

impl Serving {
    /// Loads the last good versions from disk and begins to follow the registry. Waits for no other service.
    ///
    /// # Errors
    /// A bad setting, or no thread.
    pub async fn start(config: ServingConfig, deps: ServingDeps) -> Result<Self, ServingError> {
        let refresh = Duration::from_secs(config.consent_refresh_seconds);
        let database = Arc::new(DatabaseDirectory::new(deps.database, refresh));
        let timeout = Duration::from_millis(config.registry_timeout_ms);
        let sources = Sources {
            directory: database.clone(),
            people: database,
            models: Arc::new(ArtifactModels::new(
                deps.artifacts,
                Loading {
                    weights: config.weights,
                    prefix_cache_bytes: config.prefix_cache_bytes,
                    prefix_lifetime: config.result_cache_lifetime(),
                },
                ForeignEngine::all(&config.engines)?,
            )),
            routing: Arc::new(Registry::new(deps.registry, timeout)),
            log: deps.log,
            clock: deps.clock,
            ids: deps.ids,
            key_file: deps.key_file,
            data_dir: deps.data_dir,
            upstream: deps.upstream,
        };
        Self::start_with(config, sources).await
    }

    pub(crate) async fn start_with(config: ServingConfig, sources: Sources) -> Result<Self, ServingError> {
        config.validate()?;
        let pool = DecodePool::start(config.threads, config.queue)?;
        let models =
            Models::new(sources.models, &sources.data_dir, config.max_loaded_models, config.keep_model_directories);
        models.restore().await;
        let (exposures, receiver) = ExposureQueue::new(config.exposure_queue);
        let publisher = Publisher::new(sources.log, sources.people, &config);
        let stop = CancellationToken::new();
        let door = Door::new(sources.directory, &config, &sources.data_dir, sources.key_file);
        let proxy = match sources.upstream {
            None => None,
            Some(upstream) => {
                let deps = ProxyDeps {
                    config: &config,
                    door: Arc::clone(&door),
                    exposures: exposures.clone(),
                    clock: Arc::clone(&sources.clock),
                    ids: Arc::clone(&sources.ids),
                    stop: stop.child_token(),
                };
                Some(Proxy::start(upstream, deps)?)
            }
        };
        let background = TaskTracker::new();
        background.spawn(publisher.run(receiver, stop.clone()));
        let poll = Duration::from_millis(config.routing_poll_ms);
        background.spawn(follow(Arc::clone(&models), Arc::clone(&sources.routing), poll, stop.clone()));
        background.close();
        let state = Arc::new(State {
            policy: DecisionPolicy::new(config.threshold, config.exploration),
            door,
            cache: ResultCache::new(config.result_cache_entries, config.result_cache_lifetime()),
            config,
            clock: sources.clock,
            ids: sources.ids,
            models,
            pool,
            exposures,
            answers: TaskTracker::new(),
            repetitions: Repetitions::new(),
            proxy,
        });
        Ok(Self { state, routing: sources.routing, stop, background })
    }

    /// The routes of the door.
    pub fn router(&self) -> Router {
        crate::http::router(Arc::clone(&self.state))
    }

    /// Looks at the registry now and follows what changed. False when it did not answer, or when some model's newest
    /// routing could not be followed.
    pub async fn refresh(&self) -> bool {
        self.handle().refresh().await
    }

    /// A handle for others of this process.
    #[must_use]
    pub fn handle(&self) -> ServingHandle {
        ServingHandle { state: Arc::clone(&self.state), routing: Arc::clone(&self.routing) }
    }

    /// Ends when every exposure of an answer that has ended is published or dropped.
    pub async fn settled(&self) {
        self.state.exposures.settled().await;
    }

    /// What is served.
    #[must_use]
    pub fn status(&self) -> ServingStatus {
        let failures = self.state.models.failures();
        let failures =
            failures.into_iter().map(|((tenant, model), reason)| RoutingFailure { tenant, model, reason }).collect();
        let first_served = self.state.models.first_served();
        let catalog = self.state.models.catalog();
        // The catalog is sorted by tenant and name.
        let models = catalog
            .iter()
            .map(|(key, served)| ModelStatus {
                tenant: key.0.clone(),
                model: key.1.clone(),
                revision: served.table.revision,
                current: served.table.current.version,
                canary: served.table.rollout.as_ref().map(|rollout| rollout.candidate.version),
                reference: served.table.reference.as_ref().map(|reference| reference.version),
                first_served: first_served
                    .iter()
                    .filter(|((tenant, model, _), _)| *tenant == key.0 && *model == key.1)
                    .map(|((_, _, version), at)| VersionStatus { version: *version, first_served_at: *at })
                    .collect(),
            })
            .collect();
        ServingStatus { models, failures, exposures_pending: self.state.exposures.pending() }
    }

    #[cfg(test)]
    pub(crate) fn state_for_tests(&self) -> &State {
        &self.state
    }

    /// Serves at `listener` until `shutdown`, then lets answers end and publishes what is in the queue. `ready` is
    /// released when the first model is loaded; before an upstream, which needs none, at once.
    pub async fn run(self, listener: Listener, ready: Latch, shutdown: CancellationToken) {
        let (models, needs_model) = (Arc::clone(&self.state.models), self.state.proxy.is_none());
        let waiting = tokio::spawn(async move {
            if needs_model {
                models.ready().await;
            }
            ready.release();
        });
        service::http::serve(listener, self.router(), &self.state.config.http, shutdown).await;
        self.state.answers.close();
        self.state.answers.wait().await;
        if let Some(proxy) = &self.state.proxy {
            proxy.finish().await;
        }
        self.stop.cancel();
        self.background.wait().await;
        waiting.abort();
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn follow(models: Arc<Models>, routing: Arc<dyn RoutingSource>, poll: Duration, stop: CancellationToken) {
    loop {
        let looked = tokio::select! {
            looked = models.refresh(&*routing) => looked,
            () = stop.cancelled() => return,
        };
        if let Err(reason) = looked {
            metrics::counter!("flywheel_serving_registry_failures_total").increment(1);
            tracing::debug!(%reason, "the registry does not answer; the last good versions serve on");
        }
        tokio::select! {
            () = tokio::time::sleep(poll) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Starts the service and serves until `shutdown`.
///
/// # Errors
/// As [`Serving::start`].
pub async fn run(
    config: ServingConfig,
    deps: ServingDeps,
    listener: Listener,
    ready: Latch,
    shutdown: CancellationToken,
) -> Result<(), ServingError> {
    Serving::start(config, deps).await?.run(listener, ready, shutdown).await;
    Ok(())
}
