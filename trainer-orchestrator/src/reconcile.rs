//! The reconciler: take up the run there is, or decide whether to start one.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use artifacts::ArtifactStore;
use async_trait::async_trait;
use events::{Audience, IdSource, ModelName, PreferencePair, RunId, TenantId};
use labeler::lake::LakeReader;
use model_registry::client::RegistryClient;
use model_registry::policy::RolloutPolicy;
use service::clock::{SharedClock, real_now};
use service::keys::KeyStore;
use service::lease::{self, LeaseHandle, LeaseStore};
use service::reconciler::{Next, ReconcileError, Reconciler, ReconcilerHandle, Schedule, drive};
use sqlx::AnyPool;
use tokio_util::sync::CancellationToken;

use crate::config::OrchestratorConfig;
use crate::error::OrchestratorError;
use crate::run::{Finished, work};
use crate::snapshot::{Filters, SnapshotPlan, plan};
use crate::store::{NewRun, PartRead, RunState, Store};
use crate::trigger::{NewEvidence, decide};

/// How long a leader that vanished keeps the lease. Real time.
const LEASE: Duration = Duration::from_secs(15);
/// Version of the label table that snapshots are built on.
const LABEL_POLICY_VERSION: i32 = 1;

/// What the orchestrator works with.
#[derive(Debug, Clone)]
pub struct Deps {
    /// The database.
    pub pool: AnyPool,
    /// The clock of labels and turns.
    pub clock: SharedClock,
    /// Where run ids come from.
    pub ids: Arc<dyn IdSource>,
    /// Opens pairs for the job.
    pub keys: KeyStore,
    /// Holds lake parts and model directories.
    pub artifacts: Arc<dyn ArtifactStore>,
    /// Versions and rollouts.
    pub registry: RegistryClient,
    /// Whose data.
    pub tenant: TenantId,
    /// Where runs keep their files.
    pub runs: PathBuf,
    /// Base tasks that are replayed, and the old skills that must not be lost.
    pub replay: PathBuf,
    /// See [`Deps::replay`].
    pub old_skills: PathBuf,
    /// How a candidate is rolled out.
    pub rollout: RolloutPolicy,
    /// Names this process in the lease.
    pub holder: String,
}

pub(crate) struct Orchestrator {
    pub(crate) config: OrchestratorConfig,
    pub(crate) deps: Deps,
    pub(crate) store: Store,
    pub(crate) model: ModelName,
    pub(crate) audience: Audience,
    lake: LakeReader,
    lease: LeaseHandle,
    requested: Arc<AtomicBool>,
    stop: CancellationToken,
}

/// What others may ask of a running orchestrator.
#[derive(Debug, Clone)]
pub struct Handle {
    /// Snapshots and runs.
    pub store: Store,
    /// The pairs.
    pub lake: LakeReader,
    requested: Arc<AtomicBool>,
    driver: ReconcilerHandle,
}

impl Handle {
    /// Asks for a run on whatever is new, whatever the trigger says.
    pub fn request(&self) {
        self.requested.store(true, Ordering::SeqCst);
        self.driver.notify();
    }

    /// Tells that something changed.
    pub fn notify(&self) {
        self.driver.notify();
    }
}

/// Starts the orchestrator. Returns its handle and the task that runs until `stop`.
///
/// # Errors
/// A setting that is not usable.
pub fn run(
    config: OrchestratorConfig,
    deps: Deps,
    stop: CancellationToken,
) -> Result<(Handle, impl Future<Output = ()> + Send + use<>), OrchestratorError> {
    let setting = |key, reason: String| OrchestratorError::Config { key, reason };
    let model: ModelName = config.model.parse().map_err(|error| setting("model", format!("{error}")))?;
    let audience: Audience = config.audience.parse().map_err(|error| setting("audience", format!("{error}")))?;
    if !["sft", "dpo", "actionrl"].contains(&config.method.as_str()) {
        return Err(setting("method", format!("expected sft, dpo or actionrl, got \"{}\"", config.method)));
    }
    if config.batch == 0 || config.steps == 0 {
        return Err(setting("steps", "steps and batch must be at least 1".to_owned()));
    }
    let store = Store::new(deps.pool.clone(), deps.tenant.clone(), model.clone());
    let lake = LakeReader::new(deps.pool.clone(), Arc::clone(&deps.artifacts));
    let lease_name = format!("orchestrator/{}/{model}", deps.tenant);
    let (lease, keeping) =
        lease::keep(LeaseStore::new(deps.pool.clone()), &lease_name, &deps.holder, LEASE, stop.clone());
    let requested = Arc::new(AtomicBool::new(false));
    let reader = lake.clone();
    let orchestrator = Arc::new(Orchestrator {
        store: store.clone(),
        model,
        audience,
        lake,
        lease: lease.clone(),
        requested: Arc::clone(&requested),
        stop: stop.clone(),
        deps,
        config,
    });
    let period = Duration::from_secs(orchestrator.config.interval_seconds.max(1));
    let (driver, driving) = drive(orchestrator, Schedule::every(period), Some(lease), stop);
    let handle = Handle { store, lake: reader, requested, driver };
    Ok((handle, async move {
        tokio::join!(keeping, driving);
    }))
}

#[async_trait]
impl Reconciler for Orchestrator {
    fn name(&self) -> &'static str {
        "trainer-orchestrator"
    }

    async fn activate(&self) -> Result<Next, ReconcileError> {
        let Some(fence) = self.lease.fence() else { return Ok(Next::Period) };
        if let Some(run) = self.store.active().await? {
            return match work(self, &run, fence.epoch(), &self.stop).await? {
                Finished::Yes => Ok(Next::Now),
                Finished::Stopped => Ok(Next::Period),
            };
        }
        if self.plan_run().await? { Ok(Next::Now) } else { Ok(Next::Period) }
    }
}

impl Orchestrator {
    /// Queues a run if the trigger says so and no rollout is under way. Returns whether it did.
    async fn plan_run(&self) -> Result<bool, OrchestratorError> {
        let requested = self.requested.load(Ordering::SeqCst);
        if !requested && !self.config.enabled {
            return Ok(false);
        }
        let registry = |error: model_registry::client::ClientError| OrchestratorError::Registry(error.to_string());
        let models = self.deps.registry.list_models().await.map_err(registry)?;
        let Some(summary) = models.into_iter().find(|summary| summary.model == self.model) else { return Ok(false) };
        let (Some(parent), None) = (summary.current, summary.active_rollout) else { return Ok(false) };

        let (pairs, parts) = self.pairs().await?;
        let used = self.store.used_pairs().await?;
        let new = |pair: &&PreferencePair| pair.weight > 0.0 && !used.contains(&pair.pair_id.to_string());
        let evidence = NewEvidence {
            pairs: pairs.iter().filter(new).count(),
            oldest: pairs.iter().filter(new).map(|pair| pair.labeled_at).min(),
        };
        let now = self.deps.clock.now();
        let Some(trigger) = decide(&self.config, evidence, requested, now) else { return Ok(false) };
        let filters = Filters {
            tenant: self.deps.tenant.clone(),
            model: self.model.clone(),
            audience: self.audience.clone(),
            label_policy_version: LABEL_POLICY_VERSION,
            code_version: env!("CARGO_PKG_VERSION").to_owned(),
            maximum_pairs: self.config.maximum_pairs,
            gate_opportunities: self.config.gate_opportunities,
            placebo_exchange_repositories: self.config.placebo_exchange_repositories,
        };
        let Some(plan) = plan(filters, pairs) else { return Ok(false) };
        let run = NewRun {
            run_id: RunId::new(self.deps.ids.as_ref()),
            parent_version: parent.0,
            // Versions train from the base: chaining from the parent adds up what was forgotten.
            anchor_version: 1,
            method: self.config.method.clone(),
            seed: i64::try_from(self.config.seed).unwrap_or(i64::MAX),
            deadline_at: real_now() + Duration::from_secs(self.config.deadline_seconds),
            created_at: now,
        };
        self.store.queue(&plan, &parts, &run).await?;
        self.requested.store(false, Ordering::SeqCst);
        self.report_plan(&plan, trigger.as_str(), &run);
        Ok(true)
    }

    fn report_plan(&self, plan: &SnapshotPlan, trigger: &'static str, run: &NewRun) {
        metrics::counter!("flywheel_orchestrator_runs_queued_total", "trigger" => trigger).increment(1);
        tracing::info!(
            run = %run.run_id,
            trigger,
            snapshot = %plan.digest,
            training_pairs = plan.training.len(),
            gate_pairs = plan.gate.len(),
            left_out = ?plan.left_out,
            "a training run is queued"
        );
    }

    /// All pairs of the tenant's lake, with the parts that they lie in.
    pub(crate) async fn pairs(&self) -> Result<(Vec<PreferencePair>, Vec<PartRead>), OrchestratorError> {
        let lake = |error: labeler::lake::LakeError| OrchestratorError::Lake(error.to_string());
        let mut pairs = Vec::new();
        let mut read = Vec::new();
        for part in self.lake.parts(&self.deps.tenant).await.map_err(lake)? {
            pairs.extend(self.lake.read(&part).await.map_err(lake)?);
            read.push(PartRead {
                digest: part.digest,
                partition: i64::from(part.partition),
                first_position: part.first_position.to_string(),
                last_position: part.last_position.to_string(),
            });
        }
        Ok((pairs, read))
    }

    pub(crate) async fn fail(
        &self,
        run: &crate::store::Run,
        epoch: i64,
        reason: &str,
    ) -> Result<(), OrchestratorError> {
        let detail = serde_json::json!({ "reason": reason });
        self.store
            .finish((run.run_id, epoch), RunState::Failed, "failed", &detail, (None, None), self.deps.clock.now())
            .await?;
        metrics::counter!("flywheel_orchestrator_runs_finished_total", "outcome" => "failed").increment(1);
        tracing::error!(run = %run.run_id, reason, "a training run failed");
        Ok(())
    }
}
