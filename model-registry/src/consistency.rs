//! Whether what the registry stores is consistent: artifacts by digest, lineage by digest, what serves, rollouts by
//! their own history, evidence by the outcomes it was taken from. Reads only; names ids, never persons.
//!
//! An outcome that comes when its block was judged changes no evidence that was acted on. So tallies may be behind the
//! outcomes, and the audit says how many are; ahead of them they must never be.

use std::collections::{BTreeMap, BTreeSet};

use events::{Arm, ModelName, ModelVersion, PersonPseudonym, RolloutId, Sha256Digest, TenantId};
use sqlx::{AnyConnection, Row};

use crate::error::RegistryError;
use crate::evidence::{PersonBlock, RolloutEvidence, evaluate};
use crate::lineage::evaluation_digest;
use crate::registry::{Registry, trial_of};
use crate::rollout::{Rollout, RolloutState, RolloutStep};
use crate::store;
use crate::trace;
use crate::version::{Alias, AuditEntry, Version};

const STEPS: [RolloutStep; 7] = [
    RolloutStep::Begin,
    RolloutStep::RequestApproval,
    RolloutStep::Promote,
    RolloutStep::Approve,
    RolloutStep::RollBack,
    RolloutStep::Hold,
    RolloutStep::Abort,
];

/// Rows of the change log that are read at once.
const ENTRIES: i64 = 1000;

/// Something that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it is about: a model, a version or a rollout.
    pub subject: String,
    /// A stable code.
    pub code: &'static str,
}

/// What one check came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Checked {
    /// How many were looked at.
    pub checked: u64,
    /// How many could not be judged.
    pub not_covered: u64,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

impl Checked {
    fn wrong(&mut self, subject: impl ToString, code: &'static str) {
        self.findings.push(Finding { subject: subject.to_string(), code });
    }

    fn unless(&mut self, holds: bool, subject: impl ToString, code: &'static str) {
        if !holds {
            self.wrong(subject, code);
        }
    }
}

/// What the checks of a tenant's registry came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Consistency {
    /// Distinct artifacts: every file of each is stored and is what its digest promises.
    pub artifacts: Checked,
    /// Versions: numbered without a hole, with the lineage that they name.
    pub lineage: Checked,
    /// Models: at most one current version, the routing that follows from the rows, a change log without a hole.
    pub current: Checked,
    /// Rollouts: their states follow from their history, and at most one of a model is active.
    pub rollouts: Checked,
    /// Tallies of persons in judged blocks against closed opportunities, and the evidence against the tallies.
    /// `not_covered` are tallies that outcomes came after.
    pub evidence: Checked,
}

/// What is read in one transaction, to be verified after it.
#[derive(Default)]
struct Artifacts {
    /// Who names an artifact, and what manifest the rows hold.
    named: BTreeMap<Sha256Digest, Vec<(String, serde_json::Value)>>,
}

impl Registry {
    /// Checks everything that the registry stores about a tenant. `artifact_read` is called with how many artifacts
    /// were read, and of how many.
    ///
    /// # Errors
    /// The database or the artifact store can not be read.
    pub async fn check_consistency(
        &self,
        tenant: &TenantId,
        artifact_read: &mut (dyn FnMut(u64, u64) + Send),
    ) -> Result<Consistency, RegistryError> {
        let mut result = Consistency::default();
        let mut artifacts = Artifacts::default();
        // One state of the rows, whatever is done meanwhile.
        let mut transaction = migrations::begin_read(self.pool()).await?;
        let models: Vec<String> = sqlx::query_scalar("SELECT model FROM models WHERE tenant = $1")
            .bind(tenant.as_str())
            .fetch_all(&mut *transaction)
            .await?;
        for model in models {
            let model: ModelName = model.parse().map_err(|_| RegistryError::Unreadable { what: "model" })?;
            check_model(&mut transaction, tenant, &model, &mut result, &mut artifacts).await?;
        }
        transaction.commit().await?;
        let of = artifacts.named.len() as u64;
        for (read, (digest, named)) in (1..).zip(artifacts.named) {
            result.artifacts.checked += 1;
            match self.verify_artifact(digest).await {
                Ok(manifest) => {
                    let manifest = serde_json::from_slice(&manifest.to_bytes()).ok();
                    for (subject, stored) in named {
                        let same = manifest.as_ref() == Some(&stored);
                        result.artifacts.unless(same, subject, "manifest_differs");
                    }
                }
                Err(error) if error.is_corrupt() => {
                    for (subject, _) in named {
                        result.artifacts.wrong(subject, error.code());
                    }
                }
                Err(error) => return Err(error),
            }
            artifact_read(read, of);
        }
        Ok(result)
    }
}

fn named(model: &ModelName, version: ModelVersion) -> String {
    format!("{model} version {version}")
}

async fn check_model(
    connection: &mut AnyConnection,
    tenant: &TenantId,
    model: &ModelName,
    result: &mut Consistency,
    artifacts: &mut Artifacts,
) -> Result<(), RegistryError> {
    let Some(row) = store::model_row(connection, tenant, model).await? else { return Ok(()) };
    let mut versions = store::all_versions(connection, tenant, model).await?;
    versions.sort_by_key(|version| version.version);
    for version in &versions {
        let by_digest = artifacts.named.entry(version.artifact_digest).or_default();
        by_digest.push((named(model, version.version), version.manifest.clone()));
    }
    check_lineage(connection, tenant, model, row.last_version, &versions, &mut result.lineage).await?;
    let entries = all_entries(connection, tenant, model).await?;
    check_current(connection, tenant, model, row, &versions, &entries, &mut result.current).await?;
    check_rollouts(connection, tenant, model, &entries, result).await
}

async fn check_lineage(
    connection: &mut AnyConnection,
    tenant: &TenantId,
    model: &ModelName,
    last_version: i64,
    versions: &[Version],
    checked: &mut Checked,
) -> Result<(), RegistryError> {
    let numbers: Vec<i64> = versions.iter().map(|version| version.version.0).collect();
    checked.unless(numbers == (1..=last_version).collect::<Vec<i64>>(), model, "version_numbers_have_a_hole");
    let known: BTreeSet<ModelVersion> = versions.iter().map(|version| version.version).collect();
    for version in versions {
        checked.checked += 1;
        let subject = || named(model, version.version);
        let digest = evaluation_digest(&version.evaluation);
        checked.unless(digest == version.evaluation_digest, subject(), "evaluation_corrupt");
        // What a version comes from was there before it: chains end.
        let is_earlier =
            |other: Option<ModelVersion>| other.is_none_or(|other| other < version.version && known.contains(&other));
        checked.unless(is_earlier(version.parent), subject(), "parent_unknown");
        checked.unless(is_earlier(version.anchor), subject(), "anchor_unknown");
        if let Some(snapshot) = version.snapshot_digest {
            match trace::snapshot(connection, tenant, snapshot).await {
                Ok(found) => {
                    checked.unless(found.is_verified, subject(), "snapshot_corrupt");
                    let same = version.audience.as_ref() == Some(&found.audience);
                    checked.unless(same, subject(), "audience_mismatch");
                }
                Err(error @ RegistryError::UnknownSnapshot { .. }) => checked.wrong(subject(), error.code()),
                Err(error) => return Err(error),
            }
        }
        if let Some(run) = version.run_id {
            let row =
                sqlx::query("SELECT snapshot_digest, version FROM training_runs WHERE tenant = $1 AND run_id = $2")
                    .bind(tenant.as_str())
                    .bind(run.to_string())
                    .fetch_optional(&mut *connection)
                    .await?;
            let Some(row) = row else {
                checked.wrong(subject(), "run_unknown");
                continue;
            };
            let snapshot: String = row.try_get("snapshot_digest")?;
            let same = version.snapshot_digest.is_some_and(|digest| digest.to_string() == snapshot);
            checked.unless(same, subject(), "run_of_another_snapshot");
            // A run that is about to say so names none yet.
            let named: Option<i64> = row.try_get("version")?;
            checked.unless(named.is_none_or(|named| named == version.version.0), subject(), "run_of_another_version");
        }
    }
    Ok(())
}

/// The whole change log of a model.
async fn all_entries(
    connection: &mut AnyConnection,
    tenant: &TenantId,
    model: &ModelName,
) -> Result<Vec<AuditEntry>, RegistryError> {
    let mut entries: Vec<AuditEntry> = Vec::new();
    loop {
        let after = entries.last().map_or(0, |entry| entry.revision);
        let more = store::audit(connection, tenant, model, after, ENTRIES).await?;
        if more.is_empty() {
            return Ok(entries);
        }
        entries.extend(more);
    }
}

async fn check_current(
    connection: &mut AnyConnection,
    tenant: &TenantId,
    model: &ModelName,
    mut row: store::ModelRow,
    versions: &[Version],
    entries: &[AuditEntry],
    checked: &mut Checked,
) -> Result<(), RegistryError> {
    checked.checked += 1;
    let revisions: Vec<i64> = entries.iter().map(|entry| entry.revision).collect();
    checked.unless(revisions == (1..=row.revision).collect::<Vec<i64>>(), model, "change_log_has_a_hole");
    let aliases = sqlx::query("SELECT alias, version FROM model_aliases WHERE tenant = $1 AND model = $2")
        .bind(tenant.as_str())
        .bind(model.as_str())
        .fetch_all(&mut *connection)
        .await?;
    let mut current = Vec::new();
    for alias in &aliases {
        let version = ModelVersion(alias.try_get("version")?);
        checked.unless(versions.iter().any(|known| known.version == version), model, "alias_of_no_version");
        if alias.try_get::<String, _>("alias")? == Alias::Current.as_str() {
            current.push(version);
        }
    }
    checked.unless(current.len() <= 1, model, "several_current_versions");
    let newest: Option<i64> = sqlx::query_scalar(
        "SELECT version FROM model_versions WHERE tenant = $1 AND model = $2 AND promotion IS NOT NULL \
         ORDER BY promotion DESC LIMIT 1",
    )
    .bind(tenant.as_str())
    .bind(model.as_str())
    .fetch_optional(&mut *connection)
    .await?;
    checked.unless(newest.map(ModelVersion) == current.first().copied(), model, "current_is_not_the_last_promoted");
    // The table that is served was built by the last change, which had this revision.
    let stored = row.routing.take();
    row.revision -= 1;
    let built = store::build_routing(connection, tenant, model, &row).await?;
    let text = built.as_ref().map(serde_json::to_string).transpose();
    let text = text.map_err(|_| RegistryError::Unreadable { what: "routing" })?;
    // Another release may write the same table in other words.
    let reads_alike = || stored.as_deref().and_then(|stored| serde_json::from_str(stored).ok()) == built;
    checked.unless(text == stored || reads_alike(), model, "routing_does_not_follow");
    Ok(())
}

async fn check_rollouts(
    connection: &mut AnyConnection,
    tenant: &TenantId,
    model: &ModelName,
    entries: &[AuditEntry],
    result: &mut Consistency,
) -> Result<(), RegistryError> {
    let rollouts = store::all_rollouts(connection, tenant, model).await?;
    let active = rollouts.iter().filter(|rollout| rollout.state.is_active()).count();
    result.rollouts.unless(active <= 1, model, "several_active_rollouts");
    for rollout in &rollouts {
        let checked = &mut result.rollouts;
        checked.checked += 1;
        match reached(rollout.rollout_id, entries) {
            Ok(state) => checked.unless(state == rollout.state, rollout.rollout_id, "state_does_not_follow"),
            Err(code) => checked.wrong(rollout.rollout_id, code),
        }
        let ended = rollout.finished_at.is_some() != rollout.state.is_active();
        checked.unless(ended, rollout.rollout_id, "end_does_not_follow");
        check_evidence(connection, rollout, &mut result.evidence).await?;
    }
    Ok(())
}

/// The state to which the change log leads a rollout, step by step.
fn reached(rollout: RolloutId, entries: &[AuditEntry]) -> Result<RolloutState, &'static str> {
    let subject = rollout.to_string();
    let mut state = None;
    for entry in entries.iter().filter(|entry| entry.subject == subject) {
        if entry.action == "rollout_started" {
            if state.replace(RolloutState::Pending).is_some() {
                return Err("started_twice");
            }
            continue;
        }
        let Some(step) = STEPS.into_iter().find(|step| step.action() == entry.action) else { continue };
        let before = state.ok_or("history_has_no_beginning")?;
        let after = before.after(step).map_err(|_| "no_such_step_from_there")?;
        let says =
            |field: &str, state: RolloutState| entry.detail.get(field).is_some_and(|found| found == state.as_str());
        if !says("from", before) || !says("to", after) {
            return Err("history_contradicts_itself");
        }
        state = Some(after);
    }
    state.ok_or("history_has_no_beginning")
}

type Place = (i64, Arm, PersonPseudonym);

fn by_place(tallies: &[PersonBlock]) -> BTreeMap<Place, &PersonBlock> {
    tallies.iter().map(|tally| ((tally.block, tally.arm, tally.person.clone()), tally)).collect()
}

async fn check_evidence(
    connection: &mut AnyConnection,
    rollout: &Rollout,
    checked: &mut Checked,
) -> Result<(), RegistryError> {
    let subject = rollout.rollout_id;
    let text: Option<String> = sqlx::query_scalar("SELECT evidence FROM rollouts WHERE rollout_id = $1")
        .bind(subject.to_string())
        .fetch_one(&mut *connection)
        .await?;
    let frozen = store::frozen_tallies(connection, subject).await?;
    let Some(text) = text else {
        checked.unless(rollout.blocks_complete == 0 && frozen.is_empty(), subject, "judged_without_evidence");
        return Ok(());
    };
    let Ok(stored) = serde_json::from_str::<RolloutEvidence>(&text) else {
        checked.wrong(subject, "evidence_unreadable");
        return Ok(());
    };
    checked.unless(stored.blocks_complete == rollout.blocks_complete, subject, "evidence_of_other_blocks");
    let again = evaluate(&trial_of(rollout, rollout.blocks_complete, stored.at), &rollout.policy, &frozen);
    // As text: reading a number may change its last digit.
    let again = serde_json::to_string(&again).map_err(|_| RegistryError::Unreadable { what: "evidence" })?;
    checked.unless(again == text, subject, "evidence_does_not_follow");
    let live = store::live_tallies(connection, rollout, 0, rollout.blocks_complete, stored.at).await?;
    let (frozen, live) = (by_place(&frozen), by_place(&live));
    let mut unfounded = false;
    for (place, tally) in &frozen {
        checked.checked += 1;
        match live.get(place) {
            Some(live) if live == tally => {}
            Some(live) if live.opportunities > tally.opportunities => checked.not_covered += 1,
            _ => unfounded = true,
        }
    }
    // One finding a rollout: more would be about persons.
    checked.unless(!unfounded, subject, "tallies_without_outcomes");
    checked.not_covered += live.keys().filter(|place| !frozen.contains_key(place)).count() as u64;
    Ok(())
}
