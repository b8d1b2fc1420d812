//! What comes of a finished job: its model is checked against its result, stored, registered and, if the gate let it
//! through, rolled out.
//!
//! Everything here may be done twice (a crash between any two steps), and by two leaders at once (one of which was
//! stopped and woke up), and still a run becomes exactly one version with at most one rollout: the registry gives the
//! same run the same version, whichever artifact came first is the run's, and a candidate that has a rollout gets no
//! second one.

use artifacts::put_directory;
use edit_model::ModelManifest;
use events::ModelVersion;
use model_registry::client::ClientError;
use model_registry::lineage::Purpose;
use model_registry::version::{NewVersion, Version};
use trainer::gate::GateReport;
use trainer::job::JobResult;

use crate::attempts::FinishedAttempt;
use crate::config::OrchestratorConfig;
use crate::data_set::stored;
use crate::error::OrchestratorError;
use crate::reconcile::Orchestrator;
use crate::run::Finished;
use crate::store::{Ending, Run, RunState};

/// Refusals of the registry that another try meets again: the result is of no use.
const FINAL_REFUSALS: [&str; 6] = [
    "artifact_corrupt",
    "artifact_missing",
    "audience_mismatch",
    "invalid_argument",
    "snapshot_corrupt",
    "unknown_snapshot",
];

fn registry(error: ClientError) -> OrchestratorError {
    match error.code() {
        Some(code) if FINAL_REFUSALS.contains(&code) => OrchestratorError::Result(error.to_string()),
        _ => OrchestratorError::Registry(error.to_string()),
    }
}

/// Registers what a job made and, if the gate let it through, starts its rollout.
///
/// # Errors
/// [`OrchestratorError::Result`] when the result is of no use; anything else may succeed later.
pub(crate) async fn conclude(
    this: &Orchestrator,
    run: &Run,
    epoch: i64,
    finished: &FinishedAttempt,
) -> Result<Finished, OrchestratorError> {
    if !this.store.owns(run.run_id, epoch).await? {
        return Ok(Finished::Stopped);
    }
    let version = match registered(this, run).await? {
        Some(version) => version,
        None => register(this, run, finished).await?,
    };
    // What is registered decides, not what lies on disk: of two results the first registered one is the run's.
    let result: JobResult = serde_json::from_value(version.evaluation.clone())?;
    let holds_general = stored::holds(&this.deps.pool, run.snapshot_digest, Purpose::General).await?;
    let missing = missing(&this.config, &result.gate, holds_general);
    let eligible = result.gate.is_eligible() && missing.is_none();
    // A placebo is rolled out whatever the gate says: it must fail in front of developers, not before.
    let rolls_out = eligible || this.config.placebo_exchange_repositories;
    let rollout = if rolls_out { Some(roll_out(this, version.version).await?) } else { None };
    let mut detail = version.evaluation.clone();
    if let Some(detail) = detail.as_object_mut() {
        let reason = missing.map_or_else(|| result.gate.reason(), str::to_owned);
        detail.insert("reason".to_owned(), reason.into());
        detail.insert("training_pairs".to_owned(), result.training_pairs.into());
    }
    let outcome = if eligible { "eligible" } else { "held" };
    let ending = Ending {
        state: RunState::Succeeded,
        outcome,
        detail: &detail,
        version: Some(version.version.0),
        rollout_id: rollout,
    };
    if !this.store.finish(run.run_id, epoch, &ending, this.deps.clock.now()).await? {
        return Ok(Finished::Stopped);
    }
    metrics::counter!("flywheel_orchestrator_runs_finished_total", "outcome" => outcome).increment(1);
    tracing::info!(run = %run.run_id, version = %version.version, outcome, "a training run ended");
    Ok(Finished::Yes)
}

/// What a verdict lacks that may start a rollout, whatever it says; none: it rests on enough. A data set that holds a set
/// *general* is judged by it: who leaves it out has not looked for harm.
fn missing(config: &OrchestratorConfig, gate: &GateReport, holds_general: bool) -> Option<&'static str> {
    let least_persons = config.gate.least_persons;
    if gate.opportunities < config.gate_opportunities {
        return Some("insufficient_opportunities");
    }
    if gate.persons < least_persons {
        return Some("insufficient_persons");
    }
    if config.gate.markers > 0 && gate.memorisation.is_none() {
        return Some("memorisation_not_asked");
    }
    if !holds_general && !config.data_set.require_general {
        return None;
    }
    let (opportunities, persons) = gate.general.map_or((0, 0), |general| (general.opportunities, general.persons));
    if opportunities < config.data_set.general_opportunities.max(1) {
        Some("insufficient_general_opportunities")
    } else if persons < least_persons {
        Some("insufficient_general_persons")
    } else {
        None
    }
}

/// The version that this run has become already.
async fn registered(this: &Orchestrator, run: &Run) -> Result<Option<Version>, OrchestratorError> {
    let versions = this.deps.registry.list_versions(&this.model).await.map_err(registry)?;
    Ok(versions.into_iter().find(|version| version.run_id == Some(run.run_id)))
}

async fn register(this: &Orchestrator, run: &Run, finished: &FinishedAttempt) -> Result<Version, OrchestratorError> {
    let directory = finished.directory.model();
    let manifest = ModelManifest::read(&directory).map_err(refused)?;
    check(run, finished, &manifest)?;
    let stored = put_directory(this.deps.artifacts.as_ref(), &directory)
        .await
        .map_err(|error| OrchestratorError::Files(std::io::Error::other(error)))?;
    // Compared with what was stored, not with what lies in the directory: nothing can change in between.
    for (name, digest) in &manifest.files {
        let sha256 = stored.file(name).map(|file| file.sha256.to_string());
        if sha256.as_deref() != Some(digest.as_str()) {
            return Err(refused(format!("{name} is missing, truncated or altered: it is not what the result says")));
        }
    }
    let new = NewVersion {
        model: this.model.clone(),
        artifact_digest: stored.digest(),
        parent: Some(ModelVersion(run.parent_version)),
        anchor: Some(ModelVersion(run.anchor_version)),
        snapshot_digest: Some(run.snapshot_digest),
        run_id: Some(run.run_id),
        // The code that trained it, which a leader of another release may find finished.
        code_version: finished.job.code_version.clone(),
        method: run.method.clone(),
        audience: Some(this.audience.clone()),
        evaluation: serde_json::to_value(&finished.result)?,
    };
    match this.deps.registry.register_version(&new).await {
        // Another leader was faster, with another artifact.
        Err(error) if error.code() == Some("version_conflict") => {
            let version = registered(this, run).await?;
            version.ok_or_else(|| OrchestratorError::Registry(error.to_string()))
        }
        version => version.map_err(registry),
    }
}

fn refused(reason: impl std::fmt::Display) -> OrchestratorError {
    OrchestratorError::Result(reason.to_string())
}

/// Whether result, model and run speak of the same thing.
fn check(run: &Run, finished: &FinishedAttempt, manifest: &ModelManifest) -> Result<(), OrchestratorError> {
    let (job, result) = (&finished.job, &finished.result);
    let digest_of = |directory: &std::path::Path| ModelManifest::read(directory).map(|manifest| manifest.digest());
    let snapshot = run.snapshot_digest.to_string();
    let agreements = [
        ("run_id", result.run_id == run.run_id.to_string()),
        ("method", result.method == run.method && manifest.method == run.method),
        ("snapshot_digest", manifest.snapshot_digest.as_deref() == Some(snapshot.as_str())),
        ("files", !manifest.files.is_empty() && manifest.files == result.files),
        ("model_digest", manifest.digest() == result.model_digest),
        ("anchor_digest", digest_of(&job.anchor).map_err(refused)? == result.anchor_digest),
        ("parent_digest", digest_of(&job.parent).map_err(refused)? == result.parent_digest),
    ];
    match agreements.into_iter().find(|(_, agrees)| !agrees) {
        Some((field, _)) => Err(refused(format!("{field} of the job's result is not that of its model and run"))),
        None => Ok(()),
    }
}

/// Starts the rollout of a candidate, or finds the one that it has.
async fn roll_out(this: &Orchestrator, version: ModelVersion) -> Result<String, OrchestratorError> {
    let known = this.deps.registry.list_rollouts(Some(&this.model)).await.map_err(registry)?;
    if let Some(rollout) = known.into_iter().find(|rollout| rollout.candidate == version) {
        return Ok(rollout.rollout_id.to_string());
    }
    let policy = Some(&this.deps.rollout);
    let rollout = this.deps.registry.start_rollout(&this.model, version, policy).await.map_err(registry)?;
    Ok(rollout.rollout_id.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_verdict_rests_on_enough_opportunities_and_persons_of_every_set_that_there_is() {
        let lacks = |changes: Value, holds_general: bool, require_general: bool| {
            let mut gate = json!({
                "verdict": "eligible", "reasons": [], "opportunities": 300, "persons": 10, "utility_candidate": 0.3,
                "utility_parent": 0.1, "estimate": 0.2, "low": 0.1, "high": 0.3, "shown_rate_candidate": 0.6,
                "shown_rate_parent": 0.6, "old_skills_candidate": 0.5, "old_skills_parent": 0.5,
            });
            gate.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
            let gate: GateReport = serde_json::from_value(gate).unwrap();
            let mut config = OrchestratorConfig::default();
            config.data_set.require_general = require_general;
            missing(&config, &gate, holds_general)
        };
        let general = |opportunities: usize, persons: usize| {
            json!({ "general": {
                "opportunities": opportunities, "persons": persons, "utility_candidate": 0.1, "utility_parent": 0.1,
                "estimate": 0.0, "low": -0.01, "high": 0.01,
            } })
        };
        assert_eq!(lacks(json!({}), false, false), None);
        assert_eq!(lacks(json!({ "opportunities": 299 }), false, false), Some("insufficient_opportunities"));
        assert_eq!(lacks(json!({ "persons": 9 }), false, false), Some("insufficient_persons"));
        for (holds, requires) in [(true, false), (false, true)] {
            assert_eq!(lacks(json!({ "general": null }), holds, requires), Some("insufficient_general_opportunities"));
            assert_eq!(lacks(general(99, 10), holds, requires), Some("insufficient_general_opportunities"));
            assert_eq!(lacks(general(100, 9), holds, requires), Some("insufficient_general_persons"));
            assert_eq!(lacks(general(100, 10), holds, requires), None);
        }
    }

    #[test]
    fn a_verdict_that_should_know_what_is_remembered_does() {
        let gate = |memorisation: Value| -> GateReport {
            let gate = json!({
                "verdict": "eligible", "reasons": [], "opportunities": 300, "persons": 10, "utility_candidate": 0.3,
                "utility_parent": 0.1, "estimate": 0.2, "low": 0.1, "high": 0.3, "shown_rate_candidate": 0.6,
                "shown_rate_parent": 0.6, "old_skills_candidate": 0.5, "old_skills_parent": 0.5,
                "memorisation": memorisation,
            });
            serde_json::from_value(gate).unwrap()
        };
        let asked = json!({
            "markers": 50, "episodes": 120, "markers_completed": 0, "controls_completed": 0, "p_value": 1.0,
        });
        let mut config = OrchestratorConfig::default();
        assert_eq!(missing(&config, &gate(Value::Null), false), None);
        config.gate.markers = 50;
        assert_eq!(missing(&config, &gate(Value::Null), false), Some("memorisation_not_asked"));
        assert_eq!(missing(&config, &gate(asked), false), None);
    }
}
