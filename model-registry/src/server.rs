//! The service put together: the door (gRPC and JSON at one address), the reconciler and its lease.

use std::sync::Arc;
use std::time::Duration;

use service::api_keys::ApiKeys;
use service::http::Listener;
use service::lease::{LeaseStore, keep};
use service::readiness::Latch;
use service::reconciler::{ReconcilerHandle, Schedule, drive};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::config::RegistryConfig;
use crate::error::RegistryError;
use crate::grpc::Door;
use crate::http::{self, HttpDoor};
use crate::proto::registry_server::RegistryServer;
use crate::reconciler::RolloutReconciler;
use crate::registry::{Registry, RegistryDeps};
use crate::rollout::RolloutStep;

/// The largest message that the door reads: an evaluation, and room around it.
const MOST_REQUEST_BYTES: usize = 1 << 20;

/// Why the registry cannot run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// Settings by which nothing can be judged.
    #[error("registry.rollout: {0}")]
    Config(#[from] RegistryError),
}

/// A registry that runs, for those in the same process.
#[derive(Debug, Clone)]
pub struct RunningRegistry {
    /// Its operations.
    pub registry: Registry,
    /// Asks the reconciler to look now (`request`), or soon (`notify`).
    pub reconciler: ReconcilerHandle,
}

/// Starts the registry: its operations, and the task that runs the door and the reconciler until `stop`. `holder` names
/// this process uniquely among those that share the database. The latch is released when the door answers.
///
/// # Errors
/// Settings by which nothing can be judged.
pub fn run(
    config: RegistryConfig,
    deps: RegistryDeps,
    holder: &str,
    listener: Listener,
    ready: Latch,
    stop: CancellationToken,
) -> Result<(RunningRegistry, impl Future<Output = ()> + Send + 'static), RunError> {
    let keys = ApiKeys::new(deps.pool.clone(), deps.clock.clone(), deps.ids.clone());
    let leases = LeaseStore::new(deps.pool.clone());
    let registry = Registry::new(deps, config.rollout.clone())?;
    let (lease, keep_lease) =
        keep(leases, RolloutReconciler::LEASE, holder, Duration::from_millis(config.lease_ms.max(100)), stop.clone());
    let (reconciler, reconcile) = drive(
        Arc::new(RolloutReconciler::new(registry.clone(), Some(lease.clone()))),
        Schedule::every(Duration::from_millis(config.reconcile_ms.max(10))),
        Some(lease),
        stop.clone(),
    );
    // A counter that begins with its first step would hide that step from whoever watches for an increase.
    for step in RolloutStep::ALL {
        metrics::counter!("flywheel_registry_rollout_steps_total", "step" => step.as_str()).increment(0);
    }
    let http_door = http::router(HttpDoor { registry: registry.clone(), keys: keys.clone() });
    let door = Door {
        registry: registry.clone(),
        keys,
        reconciler: reconciler.clone(),
        watches: Arc::new(Semaphore::new(config.max_watches.clamp(1, Semaphore::MAX_PERMITS))),
        watch_poll: Duration::from_millis(config.watch_poll_ms.max(10)),
        stop: stop.clone(),
    };
    let service = RegistryServer::new(door).max_decoding_message_size(MOST_REQUEST_BYTES);
    let router = Routes::new(service).into_axum_router().merge(http_door);
    let task = async move {
        ready.release();
        tokio::join!(service::http::serve(listener, router, &config.http, stop), keep_lease, reconcile);
    };
    Ok((RunningRegistry { registry, reconciler }, task))
}
