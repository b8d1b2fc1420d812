//! The reconciler: take up the run there is, or decide whether to start one.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use artifacts::ArtifactStore;
use async_trait::async_trait;
use events::{Audience, IdSource, ModelName, ModelVersion, PersonPseudonym, RunId, TenantId};
use labeler::lake::{LakeExtent, LakeReader};
use model_registry::client::RegistryClient;
use model_registry::lineage::{Purpose, SnapshotFilters};
use model_registry::policy::RolloutPolicy;
use model_registry::version::Version;
use parking_lot::Mutex;
use service::clock::{SharedClock, real_now};
use service::keys::KeyStore;
use service::lease::{self, Fence, LeaseHandle, LeaseStore};
use service::reconciler::{Next, ReconcileError, Reconciler, ReconcilerHandle, RequestError, Schedule, drive};
use service::repositories::RepositoryRule;
use sqlx::AnyPool;
use tokio_util::sync::CancellationToken;

use crate::config::OrchestratorConfig;
use crate::data_set::manifest::{DataSetError, SnapshotPlan};
use crate::data_set::sources::Sources;
use crate::deadline::deadline;
use crate::error::OrchestratorError;
use crate::requests::Requests;
use crate::run::{Finished, work};
use crate::store::{NewRun, RunState, Store};
use crate::trigger::{NewEvidence, decide};

/// How long a leader that vanished keeps the lease. Real time.
const LEASE: Duration = Duration::from_secs(15);

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
    /// Reads those parts.
    pub lake: LakeReader,
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
    /// Names the code that builds data sets and trains; part of a data set's digest.
    pub code_version: String,
    /// Version of the label policy whose pairs data sets are built of: the configured one.
    pub label_policy_version: i32,
}

pub(crate) struct Orchestrator {
    pub(crate) config: OrchestratorConfig,
    pub(crate) deps: Deps,
    pub(crate) store: Store,
    pub(crate) model: ModelName,
    pub(crate) audience: Audience,
    pub(crate) sources: Sources,
    lake: LakeReader,
    lease: LeaseHandle,
    requests: Arc<Requests>,
    looked: Mutex<Option<Look>>,
    stop: CancellationToken,
}

/// What was found when the lake was last read. While nothing that it depends on has changed, reading everything again
/// would find the same.
struct Look {
    at: LakeState,
    evidence: NewEvidence,
}

/// What the evidence depends on.
#[derive(Debug, Clone, PartialEq)]
struct LakeState {
    extent: LakeExtent,
    rules: Vec<RepositoryRule>,
    sharing: BTreeSet<PersonPseudonym>,
    formula: u32,
    newest_run: Option<(RunId, RunState)>,
}

/// What became of the question whether to start a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Planned {
    /// A run is queued.
    Run,
    /// There is nothing that is worth one.
    Nothing,
    /// It can not be asked yet: a rollout is under way, or no version serves.
    NotYet,
}

/// What others may ask of a running orchestrator.
#[derive(Debug, Clone)]
pub struct Handle {
    /// Snapshots and runs.
    pub store: Store,
    /// The pairs.
    pub lake: LakeReader,
    requests: Arc<Requests>,
    driver: ReconcilerHandle,
}

impl Handle {
    /// Asks for a run on whatever is new, whatever the trigger says. The first look that can decide answers it, which
    /// none can while a run is active, a rollout is under way or no version serves; until then it is kept, in memory.
    pub fn request(&self) {
        self.requests.make();
        self.driver.notify();
    }

    /// Takes back every request that no look has answered.
    pub fn withdraw(&self) {
        self.requests.withdraw();
    }

    /// Looks now; returns when a look that began after this call has ended.
    ///
    /// # Errors
    /// The look failed, or another process leads.
    pub async fn look(&self) -> Result<(), RequestError> {
        self.driver.request().await
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
    let (model, audience) = config.validate()?;
    // A counter that begins with its first run would hide that run from whoever watches for an increase.
    for outcome in ["eligible", "held", "failed", "deadline"] {
        metrics::counter!("flywheel_orchestrator_runs_finished_total", "outcome" => outcome).increment(0);
    }
    let store = Store::new(deps.pool.clone(), deps.tenant.clone(), model.clone());
    let lake = deps.lake.clone();
    let lease_name = format!("orchestrator/{}/{model}", deps.tenant);
    let (lease, keeping) =
        lease::keep(LeaseStore::new(deps.pool.clone()), &lease_name, &deps.holder, LEASE, stop.clone());
    let requests = Arc::new(Requests::default());
    let reader = lake.clone();
    let orchestrator = Arc::new(Orchestrator {
        store: store.clone(),
        model,
        audience,
        sources: Sources::new(&deps.pool, deps.tenant.clone(), lake.clone(), deps.keys.clone()),
        lake,
        lease: lease.clone(),
        requests: Arc::clone(&requests),
        looked: Mutex::new(None),
        stop: stop.clone(),
        deps,
        config,
    });
    let period = Duration::from_secs(orchestrator.config.interval_seconds.max(1));
    let (driver, driving) = drive(orchestrator, Schedule::every(period), Some(lease), stop);
    let handle = Handle { store, lake: reader, requests, driver };
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
        let request = self.requests.pending();
        let planned = self.plan_run(&fence, request.is_some()).await?;
        if let Some(request) = request.filter(|_| planned != Planned::NotYet) {
            self.requests.answer(request);
        }
        Ok(if planned == Planned::Run { Next::Now } else { Next::Period })
    }
}

impl Orchestrator {
    /// Whether this process still leads, in the same epoch.
    pub(crate) fn leads(&self, epoch: i64) -> bool {
        self.lease.fence().is_some_and(|fence| fence.epoch() == epoch)
    }

    /// Queues a run if the trigger says so and no rollout is under way.
    async fn plan_run(&self, fence: &Fence, requested: bool) -> Result<Planned, OrchestratorError> {
        if !requested && !self.config.enabled {
            return Ok(Planned::Nothing);
        }
        let registry = |error: model_registry::client::ClientError| OrchestratorError::Registry(error.to_string());
        let models = self.deps.registry.list_models().await.map_err(registry)?;
        let summary = models.into_iter().find(|summary| summary.model == self.model);
        let serving = summary.filter(|summary| summary.active_rollout.is_none()).and_then(|summary| summary.current);
        let Some(parent) = serving else { return Ok(Planned::NotYet) };

        let state = self.lake_state().await?;
        let now = self.deps.clock.now();
        let known = self.looked.lock().as_ref().filter(|look| look.at == state).map(|look| look.evidence);
        if known.is_some_and(|evidence| decide(&self.config, evidence, requested, now).is_none()) {
            return Ok(Planned::Nothing);
        }
        let filters = SnapshotFilters { formula: state.formula, ..self.filters() };
        let planned = self.sources.plan(filters, &self.config.data_set, &state.rules, &state.sharing).await;
        let planned = match planned {
            Ok(planned) => Some(planned),
            Err(OrchestratorError::DataSet(DataSetError::Empty { .. })) => None,
            Err(error) => return Err(error),
        };
        let evidence = self.new_evidence(planned.as_ref().map(|(plan, _)| plan)).await?;
        let trigger = decide(&self.config, evidence, requested, now);
        *self.looked.lock() = Some(Look { at: state, evidence });
        let (Some((plan, parts)), Some(trigger)) = (planned, trigger) else { return Ok(Planned::Nothing) };

        let versions = self.deps.registry.list_versions(&self.model).await.map_err(registry)?;
        let run = NewRun {
            run_id: RunId::new(self.deps.ids.as_ref()),
            parent_version: parent.0,
            anchor_version: anchor_of(&versions, parent, self.config.chain_depth).0,
            method: self.config.method.clone(),
            seed: i64::try_from(self.config.seed).unwrap_or(i64::MAX),
            deadline_at: deadline(&self.config, plan.last_signal_at, now, real_now()),
            created_at: now,
        };
        self.store.queue(fence, &plan, &parts, &run).await?;
        self.report_plan(&plan, trigger.as_str(), &run);
        Ok(Planned::Run)
    }

    fn filters(&self) -> SnapshotFilters {
        self.config.filters(
            self.deps.tenant.clone(),
            self.model.clone(),
            self.audience.clone(),
            self.deps.label_policy_version,
            &self.deps.code_version,
        )
    }

    async fn lake_state(&self) -> Result<LakeState, OrchestratorError> {
        let extent = self.lake.extent(&self.deps.tenant).await.map_err(|error| lake_error(&error))?;
        // Compaction changes parts, and no pair: there is nothing new to look at.
        let extent = LakeExtent { parts: 0, ..extent };
        let rules = self.sources.rules().await?;
        let sharing = self.sources.sharing().await?;
        let formula = self.sources.formula().await?;
        let newest_run = self.store.runs(1).await?.pop().map(|run| (run.run_id, run.state));
        Ok(LakeState { extent, rules, sharing, formula, newest_run })
    }

    /// What of a planned data set is in none before it.
    async fn new_evidence(&self, plan: Option<&SnapshotPlan>) -> Result<NewEvidence, OrchestratorError> {
        let used = self.store.used_pairs().await?;
        let members = plan.into_iter().flat_map(|plan| &plan.members);
        let new: Vec<_> =
            members.filter(|member| member.teaches && !used.contains(&member.entry.pair_id.to_string())).collect();
        Ok(NewEvidence {
            pairs: new.len(),
            oldest: new.iter().map(|member| member.labeled_at).min(),
            last_failure: self.store.last_failure().await?,
            can_be_judged: plan.is_some_and(|plan| plan.can_be_judged(&self.config.data_set)),
        })
    }

    fn report_plan(&self, plan: &SnapshotPlan, trigger: &'static str, run: &NewRun) {
        metrics::counter!("flywheel_orchestrator_runs_queued_total", "trigger" => trigger).increment(1);
        tracing::info!(
            run = %run.run_id,
            trigger,
            snapshot = %plan.digest,
            training_pairs = plan.count(Purpose::Training),
            gate_pairs = plan.count(Purpose::Gate),
            general_pairs = plan.count(Purpose::General),
            effective_sample_size = plan.composition.weights.effective_sample_size,
            stages = ?plan.composition.stages,
            "a training run is queued"
        );
    }
}

pub(crate) fn lake_error(error: &labeler::lake::LakeError) -> OrchestratorError {
    OrchestratorError::Lake(error.to_string())
}

/// The version whose weights a run starts from: the parent, while fewer than `most` versions in a row have trained from
/// one another; else the base, that is the version at the start of the parent's chain.
fn anchor_of(versions: &[Version], parent: ModelVersion, most: u32) -> ModelVersion {
    let anchor = |version| versions.iter().find(|known| known.version == version).and_then(|known| known.anchor);
    let mut chain = vec![parent];
    while let Some(next) = chain.last().copied().and_then(anchor) {
        // A registry does not allow circles; a loop here would never end.
        if chain.contains(&next) {
            break;
        }
        chain.push(next);
    }
    let depth = u32::try_from(chain.len() - 1).unwrap_or(u32::MAX);
    if depth < most { parent } else { chain.last().copied().unwrap_or(parent) }
}

#[cfg(test)]
mod tests {
    use events::{Sha256Digest, TenantId, Timestamp};

    use super::*;

    fn version(number: i64, anchor: Option<i64>) -> Version {
        Version {
            tenant: TenantId::default(),
            model: "edit".parse().unwrap(),
            version: ModelVersion(number),
            artifact_digest: Sha256Digest::of(b""),
            manifest: serde_json::Value::Null,
            parent: None,
            anchor: anchor.map(ModelVersion),
            snapshot_digest: None,
            run_id: None,
            code_version: String::new(),
            method: String::new(),
            audience: None,
            evaluation: serde_json::Value::Null,
            evaluation_digest: Sha256Digest::of(b""),
            registered_at: Timestamp::EPOCH,
            registered_by: String::new(),
            promoted_at: None,
        }
    }

    #[test]
    fn chains_are_cut_at_the_base() {
        let versions = [version(1, None), version(2, Some(1)), version(3, Some(2)), version(4, Some(3))];
        let anchor = |parent, most| anchor_of(&versions, ModelVersion(parent), most).0;
        // By default nothing is handed on.
        assert_eq!([1, 2, 3, 4].map(|parent| anchor(parent, 0)), [1, 1, 1, 1]);
        assert_eq!([1, 2, 3, 4].map(|parent| anchor(parent, 1)), [1, 1, 1, 1]);
        assert_eq!([1, 2, 3, 4].map(|parent| anchor(parent, 3)), [1, 2, 3, 1]);
    }
}
