//! The operations behind the door: what may be done with models, versions and rollouts.

use std::sync::Arc;
use std::time::Duration;

use artifacts::{ArtifactError, ArtifactStore, DirectoryManifest, get_manifest};
use events::{IdSource, ModelName, ModelVersion, PairId, RolloutId, Sha256Digest, TenantId, Timestamp};
use serde_json::json;
use service::api_keys::ApiKey;
use service::clock::SharedClock;
use sqlx::AnyPool;
use tokio::sync::watch;

use crate::change::Change;
use crate::error::RegistryError;
use crate::evidence::{RolloutEvidence, Trial, evaluate, projected_blocks};
use crate::grpc::actor;
use crate::lineage::{SnapshotMember, Trace, TraceOf, VersionLineage, evaluation_digest};
use crate::policy::RolloutPolicy;
use crate::rollout::{Rollout, RolloutState, RolloutStep};
use crate::routing::RoutingTable;
use crate::store;
use crate::trace;
use crate::version::{Alias, AuditEntry, ModelSummary, NewVersion, Version};

/// Persons seen in this time are expected in a rollout.
const RECENTLY: Duration = Duration::from_secs(7 * 24 * 3600);
const LONGEST_TEXT: usize = 200;
const LONGEST_EVALUATION: usize = 256 * 1024;
const MOST_AUDIT_ENTRIES: i64 = 1000;
const MOST_MEMBERS: i64 = 1000;

/// What the registry stands on.
#[derive(Debug, Clone)]
pub struct RegistryDeps {
    /// The database; migrated.
    pub pool: AnyPool,
    /// The clock that starts blocks and says when they are complete.
    pub clock: SharedClock,
    /// Where rollout ids come from, and nothing else.
    pub ids: Arc<dyn IdSource>,
    /// Where artifacts are.
    pub artifacts: Arc<dyn ArtifactStore>,
}

/// The registry. Clones share everything.
#[derive(Debug, Clone)]
pub struct Registry {
    deps: RegistryDeps,
    defaults: Arc<RolloutPolicy>,
    changes: Arc<watch::Sender<u64>>,
}

/// Does an operation again that met a concurrent one, or whose connection broke.
async fn retried<T, F>(operation: impl FnMut() -> F) -> Result<T, RegistryError>
where
    F: Future<Output = Result<T, RegistryError>>,
{
    migrations::retried_if(operation, RegistryError::trouble).await.map_err(RegistryError::after_retries)
}

impl Registry {
    /// A registry in `deps.pool`'s database; `defaults` is the policy of rollouts that bring none.
    ///
    /// # Errors
    /// Defaults by which nothing can be judged.
    pub fn new(deps: RegistryDeps, defaults: RolloutPolicy) -> Result<Self, RegistryError> {
        defaults.validate()?;
        Ok(Self { deps, defaults: Arc::new(defaults), changes: Arc::new(watch::Sender::new(0)) })
    }

    /// The policy of rollouts that bring none.
    #[must_use]
    pub fn default_policy(&self) -> &RolloutPolicy {
        &self.defaults
    }

    pub(crate) fn pool(&self) -> &AnyPool {
        &self.deps.pool
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.deps.clock.now()
    }

    /// Changes when some model changed through this registry, in this process.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Registers a version after its artifact and lineage were verified. The same run and artifact give the same
    /// version again; without a run, the same artifact does.
    ///
    /// # Errors
    /// A missing or corrupt artifact, unknown lineage, an audience that is too wide, or a run that was registered with
    /// something else.
    pub async fn register_version(
        &self,
        tenant: &TenantId,
        actor: &str,
        new: &NewVersion,
    ) -> Result<Version, RegistryError> {
        short_text("code_version", &new.code_version)?;
        short_text("method", &new.method)?;
        if !new.evaluation.is_object() || new.evaluation.to_string().len() > LONGEST_EVALUATION {
            let expected = format!("a JSON object of at most {LONGEST_EVALUATION} bytes");
            return Err(RegistryError::InvalidArgument { field: "evaluation", expected });
        }
        // Outside the transaction: reading gigabytes must not hold up the database. Artifacts never change.
        let manifest = self.verify_artifact(new.artifact_digest).await?;
        let version = retried(|| self.try_register(tenant, actor, new, &manifest)).await?;
        self.changed();
        Ok(version)
    }

    async fn try_register(
        &self,
        tenant: &TenantId,
        actor: &str,
        new: &NewVersion,
        manifest: &DirectoryManifest,
    ) -> Result<Version, RegistryError> {
        let now = self.now();
        let mut change =
            Change::begin_or_create(self.pool(), tenant, &new.model, now, self.defaults.holdback_share).await?;
        if let Some(known) = store::same_registration(change.connection(), tenant, new).await? {
            return if is_same(&known, new) {
                Ok(known)
            } else {
                Err(RegistryError::VersionConflict { version: known.version })
            };
        }
        if let Some(parent) = new.parent {
            store::version(change.connection(), tenant, &new.model, parent).await?;
        }
        if let Some(anchor) = new.anchor {
            // The weights carry what the anchor learned.
            let anchor = store::version(change.connection(), tenant, &new.model, anchor).await?;
            if let Some(expected) = anchor.audience
                && new.audience.as_ref() != Some(&expected)
            {
                return Err(RegistryError::AudienceMismatch { of: "anchor", expected });
            }
        }
        if let Some(snapshot) = new.snapshot_digest {
            let found = trace::snapshot(change.connection(), tenant, snapshot).await?;
            if !found.is_verified {
                return Err(RegistryError::SnapshotCorrupt { snapshot });
            }
            if new.audience.as_ref() != Some(&found.audience) {
                return Err(RegistryError::AudienceMismatch { of: "snapshot", expected: found.audience });
            }
        }
        change.row.last_version += 1;
        let version = Version {
            tenant: tenant.clone(),
            model: new.model.clone(),
            version: ModelVersion(change.row.last_version),
            artifact_digest: new.artifact_digest,
            manifest: serde_json::from_slice(&manifest.to_bytes())
                .map_err(|_| RegistryError::Unreadable { what: "manifest" })?,
            parent: new.parent,
            anchor: new.anchor,
            snapshot_digest: new.snapshot_digest,
            run_id: new.run_id,
            code_version: new.code_version.clone(),
            method: new.method.clone(),
            audience: new.audience.clone(),
            evaluation: new.evaluation.clone(),
            evaluation_digest: evaluation_digest(&new.evaluation),
            registered_at: now,
            registered_by: actor.to_owned(),
            promoted_at: None,
        };
        store::insert_version(change.connection(), &version).await?;
        let detail = json!({
            "artifact_digest": version.artifact_digest, "parent": version.parent, "anchor": version.anchor,
            "snapshot_digest": version.snapshot_digest, "run_id": version.run_id, "method": version.method,
            "code_version": version.code_version, "audience": version.audience,
            "evaluation_digest": version.evaluation_digest,
        });
        change.commit(actor, "version_registered", &version.version.to_string(), detail).await?;
        metrics::counter!("flywheel_registry_versions_registered_total").increment(1);
        Ok(version)
    }

    /// Reads every file of an artifact and compares it with the manifest.
    ///
    /// # Errors
    /// Something is missing, is not what its digest promises, or cannot be read.
    pub async fn verify_artifact(&self, digest: Sha256Digest) -> Result<DirectoryManifest, RegistryError> {
        self.read_artifact(digest).await.map_err(|source| match source {
            ArtifactError::NotFound { .. } => RegistryError::ArtifactMissing { digest, source: Box::new(source) },
            ArtifactError::Corrupt { .. } | ArtifactError::CorruptFile { .. } | ArtifactError::BadManifest { .. } => {
                metrics::counter!("flywheel_registry_artifacts_corrupt_total").increment(1);
                RegistryError::ArtifactCorrupt { digest, source: Box::new(source) }
            }
            source => RegistryError::ArtifactUnavailable { digest, source },
        })
    }

    async fn read_artifact(&self, digest: Sha256Digest) -> Result<DirectoryManifest, ArtifactError> {
        let store = self.deps.artifacts.as_ref();
        let manifest = get_manifest(store, &digest).await?;
        let failed = |source| ArtifactError::Io { action: "create", path: tempfile::env::temp_dir(), source };
        let scratch = tempfile::tempdir().map_err(failed)?;
        let path = scratch.path().join("file");
        for file in manifest.files() {
            // Through a file, because weights need not fit in memory; it is replaced each time.
            if store.get_to_file(&file.sha256, &path).await? != file.bytes {
                return Err(ArtifactError::CorruptFile { digest, path: file.path.clone() });
            }
        }
        Ok(manifest)
    }

    /// Everything that a version is about to serve with: its artifact, its data set and its evaluation are what they
    /// were when it was registered.
    ///
    /// # Errors
    /// Something is missing, altered, or cannot be read.
    pub async fn verify_version(
        &self,
        tenant: &TenantId,
        model: &ModelName,
        version: ModelVersion,
    ) -> Result<(), RegistryError> {
        let version = self.version(tenant, model, version).await?;
        if evaluation_digest(&version.evaluation) != version.evaluation_digest {
            return Err(RegistryError::EvaluationCorrupt { version: version.version });
        }
        if let Some(snapshot) = version.snapshot_digest {
            let mut connection = self.pool().acquire().await?;
            if !trace::snapshot(&mut connection, tenant, snapshot).await?.is_verified {
                return Err(RegistryError::SnapshotCorrupt { snapshot });
            }
        }
        self.verify_artifact(version.artifact_digest).await.map(|_| ())
    }

    /// Where a version comes from: the chain of weights that ends in it, itself first, each with its data set, code
    /// version and evaluation by digest.
    ///
    /// # Errors
    /// There is no such version.
    pub async fn lineage(
        &self,
        tenant: &TenantId,
        model: &ModelName,
        version: ModelVersion,
    ) -> Result<Vec<VersionLineage>, RegistryError> {
        trace::back(&mut *self.pool().acquire().await?, tenant, model, version).await
    }

    /// Pairs of a snapshot with their persons, after a pair, in order of pair ids, at most 1000.
    ///
    /// # Errors
    /// There is no such snapshot.
    pub async fn snapshot_members(
        &self,
        tenant: &TenantId,
        snapshot: Sha256Digest,
        after: Option<PairId>,
        limit: i64,
    ) -> Result<Vec<SnapshotMember>, RegistryError> {
        let mut connection = self.pool().acquire().await?;
        let limit = if (1..=MOST_MEMBERS).contains(&limit) { limit } else { MOST_MEMBERS };
        if !trace::is_known(&mut connection, tenant, snapshot).await? {
            return Err(RegistryError::UnknownSnapshot { snapshot });
        }
        trace::members(&mut connection, tenant, snapshot, after, limit).await
    }

    /// Every data set and version that a person's pairs, or one pair, went into: what an erasure must know.
    ///
    /// # Errors
    /// The database failed.
    pub async fn trace(&self, tenant: &TenantId, of: &TraceOf) -> Result<Trace, RegistryError> {
        trace::forward(&mut *self.pool().acquire().await?, tenant, of).await
    }

    /// One version.
    ///
    /// # Errors
    /// There is none.
    pub async fn version(
        &self,
        tenant: &TenantId,
        model: &ModelName,
        version: ModelVersion,
    ) -> Result<Version, RegistryError> {
        store::version(&mut *self.pool().acquire().await?, tenant, model, version).await
    }

    /// Versions of a model, newest first, at most 1000.
    ///
    /// # Errors
    /// The database failed.
    pub async fn versions(&self, tenant: &TenantId, model: &ModelName) -> Result<Vec<Version>, RegistryError> {
        store::versions(&mut *self.pool().acquire().await?, tenant, model).await
    }

    /// Models of a tenant, by name, at most 1000.
    ///
    /// # Errors
    /// The database failed.
    pub async fn models(&self, tenant: &TenantId) -> Result<Vec<ModelSummary>, RegistryError> {
        store::models(&mut *self.pool().acquire().await?, tenant).await
    }

    /// Points `alias` to `version` if it points to `expected` now, once everything that the version serves with was
    /// verified again. While a rollout runs, the versions that it compares stay. Returns the model's new revision.
    ///
    /// # Errors
    /// The alias points elsewhere, there is no such version, it is not what was registered, or a rollout runs.
    pub async fn set_alias(
        &self,
        tenant: &TenantId,
        actor: &str,
        model: &ModelName,
        alias: Alias,
        version: ModelVersion,
        expected: Option<ModelVersion>,
    ) -> Result<i64, RegistryError> {
        self.verify_version(tenant, model, version).await?;
        let revision = retried(|| self.try_set_alias(tenant, actor, model, alias, version, expected)).await?;
        self.changed();
        Ok(revision)
    }

    async fn try_set_alias(
        &self,
        tenant: &TenantId,
        actor: &str,
        model: &ModelName,
        alias: Alias,
        version: ModelVersion,
        expected: Option<ModelVersion>,
    ) -> Result<i64, RegistryError> {
        let mut change = Change::begin(self.pool(), tenant, model, self.now()).await?;
        store::version(change.connection(), tenant, model, version).await?;
        let found = store::alias(change.connection(), tenant, model, alias).await?;
        if found != expected {
            return Err(RegistryError::AliasConflict { alias, expected, found });
        }
        if let Some(running) = store::active_rollout(change.connection(), tenant, model).await? {
            return Err(RegistryError::RolloutActive { model: model.clone(), rollout: running.rollout_id });
        }
        let (now, revision) = (change.now, change.revision());
        store::set_alias(change.connection(), tenant, model, alias, version, now, revision).await?;
        let detail = json!({ "alias": alias, "from": expected, "to": version });
        change.commit(actor, "alias_set", &version.to_string(), detail).await
    }

    /// Which version is served to whom: one look-up by key.
    ///
    /// # Errors
    /// There is no such model, or none of its versions is current.
    pub async fn routing(&self, tenant: &TenantId, model: &ModelName) -> Result<RoutingTable, RegistryError> {
        let mut connection = self.pool().acquire().await?;
        if let Some(table) = store::routing(&mut connection, tenant, model).await? {
            return Ok(table);
        }
        let is_known = store::model_row(&mut connection, tenant, model).await?.is_some();
        let model = model.clone();
        Err(if is_known { RegistryError::NoCurrentVersion { model } } else { RegistryError::UnknownModel { model } })
    }

    /// Starts a rollout: it is pending until the reconciler has verified the artifact once more. Asking again for the
    /// candidate and policy that are being rolled out gives the rollout that runs.
    ///
    /// # Errors
    /// Another rollout runs, there is no such version or no current one, the candidate is current already, or the
    /// policy does not hold.
    pub async fn start_rollout(
        &self,
        tenant: &TenantId,
        actor: &str,
        model: &ModelName,
        candidate: ModelVersion,
        policy: &RolloutPolicy,
    ) -> Result<Rollout, RegistryError> {
        policy.validate()?;
        let rollout = retried(|| self.try_start(tenant, actor, model, candidate, policy)).await?;
        self.changed();
        Ok(rollout)
    }

    async fn try_start(
        &self,
        tenant: &TenantId,
        actor: &str,
        model: &ModelName,
        candidate: ModelVersion,
        policy: &RolloutPolicy,
    ) -> Result<Rollout, RegistryError> {
        let mut change = Change::begin(self.pool(), tenant, model, self.now()).await?;
        store::version(change.connection(), tenant, model, candidate).await?;
        if let Some(running) = store::active_rollout(change.connection(), tenant, model).await? {
            return if running.candidate == candidate && running.policy == *policy {
                Ok(running)
            } else {
                Err(RegistryError::RolloutActive { model: model.clone(), rollout: running.rollout_id })
            };
        }
        let baseline = store::alias(change.connection(), tenant, model, Alias::Current)
            .await?
            .ok_or_else(|| RegistryError::NoCurrentVersion { model: model.clone() })?;
        if baseline == candidate {
            return Err(RegistryError::AlreadyCurrent { version: candidate });
        }
        let reference = store::alias(change.connection(), tenant, model, Alias::Reference).await?;
        let since = change.now - RECENTLY;
        let persons = store::persons_since(change.connection(), tenant, model, since).await?;
        let rollout = Rollout {
            rollout_id: RolloutId::new(self.deps.ids.as_ref()),
            tenant: tenant.clone(),
            model: model.clone(),
            candidate,
            baseline,
            reference,
            policy: policy.clone(),
            state: RolloutState::Pending,
            created_at: change.now,
            started_at: None,
            finished_at: None,
            blocks_complete: 0,
            projected_blocks: projected_blocks(policy, persons),
            reason: "started".to_owned(),
            decided_by: None,
        };
        store::insert_rollout(change.connection(), &rollout).await?;
        change.row.holdback_share = policy.holdback_share;
        let detail = json!({
            "candidate": candidate, "baseline": baseline, "reference": reference, "policy": policy,
            "projected_blocks": rollout.projected_blocks,
        });
        change.commit(actor, "rollout_started", &rollout.rollout_id.to_string(), detail).await?;
        metrics::counter!("flywheel_registry_rollouts_started_total").increment(1);
        Ok(rollout)
    }

    /// Rollouts of a tenant, newest first, at most 1000.
    ///
    /// # Errors
    /// The database failed.
    pub async fn rollouts(&self, tenant: &TenantId, model: Option<&ModelName>) -> Result<Vec<Rollout>, RegistryError> {
        store::rollouts(&mut *self.pool().acquire().await?, tenant, model).await
    }

    /// One rollout of a tenant.
    ///
    /// # Errors
    /// There is none.
    pub async fn rollout(&self, tenant: &TenantId, rollout: RolloutId) -> Result<Rollout, RegistryError> {
        let found = store::rollout(&mut *self.pool().acquire().await?, rollout).await?;
        // Another tenant's rollout does not exist here.
        if found.tenant == *tenant { Ok(found) } else { Err(RegistryError::UnknownRollout { rollout }) }
    }

    /// The evidence of a rollout so far.
    ///
    /// # Errors
    /// There is no such rollout.
    pub async fn evidence(&self, tenant: &TenantId, rollout: RolloutId) -> Result<RolloutEvidence, RegistryError> {
        self.rollout(tenant, rollout).await?;
        evaluate_rollout(self.pool(), rollout, self.now()).await
    }

    /// A step that a named person decides: approve, abort or roll back. The audit log names the person and the key.
    ///
    /// # Errors
    /// There is no such rollout, it cannot take this step, `person` or `reason` is empty or too long, or current is
    /// not what it was.
    pub async fn decide(
        &self,
        key: &ApiKey,
        rollout: RolloutId,
        step: RolloutStep,
        person: &str,
        reason: &str,
    ) -> Result<Rollout, RegistryError> {
        short_text("decided_by", person)?;
        if reason.chars().count() > LONGEST_TEXT || reason.chars().any(char::is_control) {
            let expected = format!("at most {LONGEST_TEXT} characters and no control characters");
            return Err(RegistryError::InvalidArgument { field: "reason", expected });
        }
        let model = self.rollout(&key.tenant, rollout).await?.model;
        let decided = retried(|| self.try_decide(key, &model, rollout, step, person, reason)).await?;
        self.changed();
        Ok(decided)
    }

    async fn try_decide(
        &self,
        key: &ApiKey,
        model: &ModelName,
        rollout: RolloutId,
        step: RolloutStep,
        person: &str,
        reason: &str,
    ) -> Result<Rollout, RegistryError> {
        let mut change = Change::begin(self.pool(), &key.tenant, model, self.now()).await?;
        let mut rollout = store::rollout(change.connection(), rollout).await?;
        rollout.decided_by = Some(person.to_owned());
        rollout.reason = if reason.is_empty() { step.action().to_owned() } else { reason.to_owned() };
        take_step(change, rollout, step, By::Person { name: person, key: &actor(key) }, None).await
    }

    /// Writes down that the holder of a key is given text of pairs that the model learns from, before it is given. It
    /// changes nothing of the model, but stands in its audit log, so that one list tells who did what with it.
    ///
    /// # Errors
    /// There is no such model, or the database failed: then nothing must be given.
    pub async fn record_reading(
        &self,
        key: &ApiKey,
        model: &ModelName,
        action: &'static str,
        subject: &str,
        detail: &serde_json::Value,
    ) -> Result<i64, RegistryError> {
        short_text("subject", subject)?;
        retried(|| self.try_record_reading(key, model, action, subject, detail)).await
    }

    async fn try_record_reading(
        &self,
        key: &ApiKey,
        model: &ModelName,
        action: &'static str,
        subject: &str,
        detail: &serde_json::Value,
    ) -> Result<i64, RegistryError> {
        let change = Change::begin(self.pool(), &key.tenant, model, self.now()).await?;
        change.commit(&actor(key), action, subject, detail.clone()).await
    }

    /// The reconciler's step.
    pub(crate) fn stepped(&self) {
        self.changed();
    }

    /// Changes of a model after a revision, oldest first, at most 1000.
    ///
    /// # Errors
    /// The database failed.
    pub async fn audit(
        &self,
        tenant: &TenantId,
        model: &ModelName,
        after_revision: i64,
        limit: i64,
    ) -> Result<Vec<AuditEntry>, RegistryError> {
        let limit = if (1..=MOST_AUDIT_ENTRIES).contains(&limit) { limit } else { MOST_AUDIT_ENTRIES };
        store::audit(&mut *self.pool().acquire().await?, tenant, model, after_revision, limit).await
    }
}

/// Who takes a step.
#[derive(Debug, Clone, Copy)]
pub(crate) enum By<'a> {
    /// The reconciler, by evidence.
    Reconciler,
    /// A person, through an API key.
    Person { name: &'a str, key: &'a str },
}

/// Takes `step` and commits: the rollout's row, the alias where the step moves it, routing, audit and event at once.
pub(crate) async fn take_step(
    mut change: Change,
    mut rollout: Rollout,
    step: RolloutStep,
    by: By<'_>,
    evidence: Option<&RolloutEvidence>,
) -> Result<Rollout, RegistryError> {
    let (before, blocks_before) = (rollout.state, rollout.blocks_complete);
    rollout.state = before.after(step)?;
    if let Some(evidence) = evidence {
        rollout.blocks_complete = evidence.blocks_complete;
    }
    let now = change.now;
    if step == RolloutStep::Begin {
        rollout.started_at = Some(now);
    }
    if !rollout.state.is_active() {
        rollout.finished_at = Some(now);
    }
    let moved = match (before, rollout.state) {
        (_, RolloutState::Promoted) => Some((rollout.baseline, rollout.candidate)),
        (RolloutState::Promoted, RolloutState::RolledBack) => Some((rollout.candidate, rollout.baseline)),
        _ => None,
    };
    if let Some((from, to)) = moved {
        let (tenant, model) = (rollout.tenant.clone(), rollout.model.clone());
        if before == RolloutState::Promoted
            && let Some(running) = store::active_rollout(change.connection(), &tenant, &model).await?
        {
            return Err(RegistryError::RolloutActive { model, rollout: running.rollout_id });
        }
        let found = store::alias(change.connection(), &tenant, &model, Alias::Current).await?;
        if found != Some(from) {
            return Err(RegistryError::AliasConflict { alias: Alias::Current, expected: Some(from), found });
        }
        let revision = change.revision();
        store::set_alias(change.connection(), &tenant, &model, Alias::Current, to, now, revision).await?;
        if before == RolloutState::Promoted {
            store::withdraw_promotion(change.connection(), &tenant, &model, from).await?;
        }
    }
    let text =
        evidence.map(serde_json::to_string).transpose().map_err(|_| RegistryError::Unreadable { what: "evidence" })?;
    if !store::update_rollout(change.connection(), &rollout, before, blocks_before, text.as_deref()).await? {
        return Err(RegistryError::Contended);
    }
    let (actor, key) = match by {
        By::Reconciler => (crate::reconciler::ACTOR, None),
        By::Person { name, key } => (name, Some(key)),
    };
    let detail = json!({
        "from": before, "to": rollout.state, "candidate": rollout.candidate, "baseline": rollout.baseline,
        "blocks_complete": rollout.blocks_complete, "reason": rollout.reason,
        "no_harm_e_value": evidence.map(|evidence| evidence.no_harm.largest_e_value),
        "harm_e_value": evidence.map(|evidence| evidence.harm.largest_e_value), "key": key,
    });
    change.commit(actor, step.action(), &rollout.rollout_id.to_string(), detail).await?;
    metrics::counter!("flywheel_registry_rollout_steps_total", "step" => step.as_str()).increment(1);
    Ok(rollout)
}

/// The evidence of a rollout at `now`: frozen tallies of the blocks that were judged, and, while it runs, the outcomes
/// of blocks that are complete but were not judged yet. Reads only.
///
/// # Errors
/// There is no such rollout, or the database failed.
pub async fn evaluate_rollout(
    pool: &AnyPool,
    rollout: RolloutId,
    now: Timestamp,
) -> Result<RolloutEvidence, RegistryError> {
    let mut connection = pool.acquire().await?;
    let rollout = store::rollout(&mut connection, rollout).await?;
    let mut tallies = store::frozen_tallies(&mut connection, rollout.rollout_id).await?;
    let mut blocks_complete = rollout.blocks_complete;
    if rollout.state.is_serving() {
        let complete = rollout.complete_blocks_at(now);
        if complete > blocks_complete {
            tallies.extend(store::live_tallies(&mut connection, &rollout, blocks_complete, complete, now).await?);
            blocks_complete = complete;
        }
    }
    Ok(evaluate(&trial_of(&rollout, blocks_complete, now), &rollout.policy, &tallies))
}

pub(crate) fn trial_of(rollout: &Rollout, blocks_complete: i64, at: Timestamp) -> Trial {
    Trial {
        rollout_id: rollout.rollout_id,
        candidate: rollout.candidate,
        baseline: rollout.baseline,
        reference: rollout.reference,
        blocks_complete,
        at,
    }
}

fn is_same(known: &Version, new: &NewVersion) -> bool {
    known.artifact_digest == new.artifact_digest
        && known.run_id == new.run_id
        && known.parent == new.parent
        && known.anchor == new.anchor
        && known.snapshot_digest == new.snapshot_digest
        && known.audience == new.audience
}

fn short_text(field: &'static str, text: &str) -> Result<(), RegistryError> {
    if text.trim().is_empty() || text.chars().count() > LONGEST_TEXT || text.chars().any(char::is_control) {
        let expected = format!("1 to {LONGEST_TEXT} characters and no control characters");
        return Err(RegistryError::InvalidArgument { field, expected });
    }
    Ok(())
}
