//! Running the labeler: the step, its three sinks, and compaction and retention of what one of them writes.

use std::sync::Arc;

use artifacts::ArtifactStore;
use bus::{Bus, BusError};
use service::clock::SharedClock;
use service::keys::KeyStore;
use service::readiness::Latch;
use sqlx::AnyPool;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::LabelerConfig;
use crate::keys::LoadedKeys;
use crate::lake::LakeWriter;
use crate::lake::compaction::{self, Compactor};
use crate::ledger::Ledger;
use crate::policy_record::{TellError, tell_in_time};
use crate::sink::{Sink, SinkError, run_sink_in_turn};
use crate::step;
use crate::tally::Tally;

/// What the labeler stands on.
#[derive(Clone)]
pub struct Deps {
    /// The log. Its topics exist.
    pub bus: Arc<dyn Bus>,
    /// The migrated database.
    pub pool: AnyPool,
    /// Persons' data keys and tenants' secrets.
    pub keys: KeyStore,
    /// Where parts are stored.
    pub artifacts: Arc<dyn ArtifactStore>,
    /// Says how old labels are.
    pub clock: SharedClock,
    /// Names this process in leases, among all that share the database.
    pub holder: String,
}

/// Why the labeler stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabelerError {
    /// The step cannot run.
    #[error("labeler: {0}")]
    Step(#[from] BusError),
    /// The log cannot be told the label policy.
    #[error("labeler: {0}")]
    Policy(#[from] TellError),
    /// A sink cannot go on.
    #[error("labeler: {0}")]
    Sink(#[from] SinkError),
    /// A part of it panicked.
    #[error("labeler: a task ended abnormally")]
    Task,
}

/// Tells the log the label policy, if it is another one, and is `ready`; runs the step and the sinks until `shutdown`,
/// or until one of them cannot go on; then all stop.
///
/// # Errors
/// The first failure that trying again cannot help.
pub async fn run(
    config: LabelerConfig,
    deps: Deps,
    ready: Latch,
    shutdown: CancellationToken,
) -> Result<(), LabelerError> {
    let stop = shutdown.child_token();
    let mut tasks: JoinSet<Result<(), LabelerError>> = JoinSet::new();
    let keys = Arc::new(LoadedKeys::new(deps.keys.clone()));
    let (bus, pool, step_stop) = (Arc::clone(&deps.bus), deps.pool.clone(), stop.clone());
    let (policy, limits) = (config.policy.clone(), config.limits.clone());
    tasks.spawn(async move {
        // First the policy, then the records that it is in force for.
        let Some(policy) = tell_in_time(&*bus, &pool, &policy, &step_stop).await? else { return Ok(()) };
        ready.release();
        bus.step(step::spec(), step::handler(keys, policy, limits), step_stop).await?;
        Ok(())
    });
    let sinks: [Box<dyn Sink>; 3] = [
        Box::new(LakeWriter::new(Arc::clone(&deps.artifacts), config.lake.clone())),
        Box::new(Ledger::new(config.sinks.clone())),
        Box::new(Tally::new(config.sinks.clone())),
    ];
    for sink in sinks {
        let (bus, pool, stop) = (Arc::clone(&deps.bus), deps.pool.clone(), stop.clone());
        let holder = deps.holder.clone();
        tasks.spawn(async move { Ok(run_sink_in_turn(bus, pool, sink, &holder, stop).await?) });
    }
    let (pool, artifacts) = (deps.pool.clone(), Arc::clone(&deps.artifacts));
    let compactor = Compactor::new(pool, artifacts, deps.keys.clone(), Arc::clone(&deps.clock), config.lake.clone());
    let compacting = compaction::run(compactor, &deps.holder, stop.clone());
    tasks.spawn(async move {
        compacting.await;
        Ok(())
    });
    let mut result = Ok(());
    while let Some(ended) = tasks.join_next().await {
        let ended = ended.unwrap_or(Err(LabelerError::Task));
        stop.cancel();
        if result.is_ok() {
            result = ended;
        }
    }
    result
}
