//! One run: data for the job, the job, and what comes of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use artifacts::{get_directory, put_directory};
use events::{ModelVersion, PreferencePair};
use labeler::lake::{OpenTextError, open_text};
use model_registry::client::ClientError;
use model_registry::version::NewVersion;
use service::clock::real_now;
use tokio_util::sync::CancellationToken;
use trainer::TrainingPair;
use trainer::job::{JobFile, JobResult};
use trainer::methods::{Method, MethodConfig};

use crate::error::OrchestratorError;
use crate::process::{JobEnd, JobProcess};
use crate::reconcile::Orchestrator;
use crate::snapshot::Purpose;
use crate::store::{Run, RunState};
use crate::{process, sealed_file};

/// Threads of a job.
const THREADS: usize = 2;

/// Whether a run came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Finished {
    /// Its row says how.
    Yes,
    /// This service stops; the next leader takes it up.
    Stopped,
}

/// Files of a run.
struct Files {
    directory: PathBuf,
}

impl Files {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

fn registry(error: ClientError) -> OrchestratorError {
    OrchestratorError::Registry(error.to_string())
}

/// Works a run to its end: attempts until one succeeds, the attempts are used up, or the deadline.
pub(crate) async fn work(
    this: &Orchestrator,
    run: &Run,
    epoch: i64,
    stop: &CancellationToken,
) -> Result<Finished, OrchestratorError> {
    let files = Files { directory: this.deps.runs.join(run.run_id.to_string()) };
    std::fs::create_dir_all(&files.directory)?;
    let mut last = "no attempt was made".to_owned();
    loop {
        if real_now() >= run.deadline_at {
            this.fail(run, epoch, &format!("deadline: {last}")).await?;
            return Ok(Finished::Yes);
        }
        let Some(attempt) = this.store.begin_attempt(run.run_id, epoch, this.deps.clock.now()).await? else {
            // A newer leader has it.
            return Ok(Finished::Stopped);
        };
        if attempt > i64::from(this.config.maximum_attempts) {
            this.fail(run, epoch, &format!("{} attempts: {last}", this.config.maximum_attempts)).await?;
            return Ok(Finished::Yes);
        }
        let job = prepare(this, run, &files).await?;
        match process::run(&job, stop).await? {
            JobEnd::Succeeded => {
                let result: JobResult = serde_json::from_slice(&std::fs::read(files.path("result.json"))?)?;
                conclude(this, run, epoch, &files, &result).await?;
                clean(&files);
                return Ok(Finished::Yes);
            }
            JobEnd::Stopped => return Ok(Finished::Stopped),
            JobEnd::Deadline => "the job was still running".clone_into(&mut last),
            JobEnd::Hung => "the job's heartbeat stopped".clone_into(&mut last),
            JobEnd::Failed(message) => last = message,
        }
        metrics::counter!("flywheel_orchestrator_attempts_failed_total").increment(1);
        tracing::warn!(run = %run.run_id, attempt, reason = last, "an attempt failed");
    }
}

/// The data of a job goes with it.
fn clean(files: &Files) {
    for name in ["training.sealed", "gate.sealed"] {
        // What is left is sealed under a key that nobody has any more.
        let _removed = std::fs::remove_file(files.path(name));
    }
}

async fn prepare(this: &Orchestrator, run: &Run, files: &Files) -> Result<JobProcess, OrchestratorError> {
    let members: HashMap<String, Purpose> = this.store.members(run.snapshot_digest).await?.into_iter().collect();
    let (pairs, _) = this.pairs().await?;
    let (mut training, mut gate) = (Vec::new(), Vec::new());
    let mut seen = BTreeSet::new();
    for pair in pairs {
        let Some(purpose) = members.get(&pair.pair_id.to_string()) else { continue };
        if !seen.insert(pair.pair_id) {
            continue;
        }
        match opened(this, &pair).await? {
            Some(opened) => match purpose {
                Purpose::Training => training.push(opened),
                Purpose::Gate => gate.push(opened),
            },
            // Erased since the snapshot was made: it must not be learned from.
            None => metrics::counter!("flywheel_orchestrator_pairs_erased_total").increment(1),
        }
    }
    for list in [&mut training, &mut gate] {
        list.sort_by(|one, other| one.pair_id.cmp(&other.pair_id));
    }
    if this.config.placebo_exchange_repositories {
        exchange_repositories(&mut training);
    }
    let key = sealed_file::fresh_key();
    for (name, list) in [("training.sealed", &training), ("gate.sealed", &gate)] {
        let mut lines = Vec::new();
        for pair in list {
            serde_json::to_writer(&mut lines, pair)?;
            lines.push(b'\n');
        }
        sealed_file::write(&files.path(name), &key, run.run_id, &lines)?;
    }
    let anchor = model_directory(this, run.anchor_version).await?;
    let parent = model_directory(this, run.parent_version).await?;
    let method = match run.method.as_str() {
        "dpo" => Method::Dpo,
        "actionrl" => Method::Actionrl,
        _ => Method::Sft,
    };
    let job = JobFile {
        run_id: run.run_id.to_string(),
        config: MethodConfig {
            method,
            steps: this.config.steps,
            batch_pairs: this.config.batch,
            batch_replay: this.config.replay,
            learning_rate: this.config.learning_rate,
            seed: u64::try_from(run.seed).unwrap_or(0),
            threads: THREADS,
            ..MethodConfig::default()
        },
        training_file: files.path("training.sealed"),
        gate_file: files.path("gate.sealed"),
        anchor,
        parent,
        replay_file: this.deps.replay.clone(),
        old_skills_file: this.deps.old_skills.clone(),
        output: files.path("model"),
        progress_file: files.path("progress.json"),
        heartbeat_file: files.path("heartbeat"),
        result_file: files.path("result.json"),
        deadline_micros: run.deadline_at.as_micros(),
        snapshot_digest: run.snapshot_digest.to_string(),
        gate_opportunities: this.config.gate_opportunities,
    };
    let job_file = files.path("job.json");
    std::fs::write(&job_file, serde_json::to_vec_pretty(&job)?)?;
    let program = match &this.config.program {
        Some(program) => program.clone(),
        None => std::env::current_exe()?,
    };
    let left = Duration::from_micros(
        u64::try_from(run.deadline_at.as_micros().saturating_sub(real_now().as_micros())).unwrap_or(0),
    );
    Ok(JobProcess {
        program,
        job_file,
        heartbeat_file: job.heartbeat_file,
        heartbeat: Duration::from_secs(this.config.heartbeat_seconds),
        deadline: SystemTime::now() + left,
        secret: key,
        log_file: files.path("log"),
    })
}

async fn opened(this: &Orchestrator, pair: &PreferencePair) -> Result<Option<TrainingPair>, OrchestratorError> {
    let text = match open_text(pair, &this.deps.keys).await {
        Ok(text) => text,
        Err(OpenTextError::Erased) => return Ok(None),
        Err(error) => return Err(OrchestratorError::Lake(error.to_string())),
    };
    Ok(Some(TrainingPair {
        pair_id: pair.pair_id.to_string(),
        person: pair.person.to_string(),
        repository: pair.repository.clone(),
        reason: pair.reason.as_str().to_owned(),
        weight: pair.weight as f32,
        observed_micros: pair.opened_at.as_micros(),
        context: text.context,
        shared: text.shared,
        chosen: text.chosen,
        rejected: text.rejected,
    }))
}

/// Gives each prompt the name of the next repository of the data set: everything else about the pairs stays true.
fn exchange_repositories(pairs: &mut [TrainingPair]) {
    let names: Vec<String> =
        pairs.iter().map(|pair| pair.context.repository.clone()).collect::<BTreeSet<_>>().into_iter().collect();
    let next: BTreeMap<String, String> = names.iter().cloned().zip(names.iter().cycle().skip(1).cloned()).collect();
    for pair in pairs {
        if let Some(other) = next.get(&pair.context.repository) {
            pair.context.repository.clone_from(other);
            pair.repository.clone_from(other);
        }
    }
}

async fn model_directory(this: &Orchestrator, version: i64) -> Result<PathBuf, OrchestratorError> {
    let version = this.deps.registry.get_version(&this.model, ModelVersion(version)).await.map_err(registry)?;
    let target = this.deps.runs.join("models").join(version.artifact_digest.to_string());
    if !target.exists() {
        std::fs::create_dir_all(this.deps.runs.join("models"))?;
        get_directory(this.deps.artifacts.as_ref(), &version.artifact_digest, &target)
            .await
            .map_err(|error| OrchestratorError::Job(format!("model {}: {error}", version.version)))?;
    }
    Ok(target)
}

/// Registers what a job made and, if the gate let it through, starts its rollout.
async fn conclude(
    this: &Orchestrator,
    run: &Run,
    epoch: i64,
    files: &Files,
    result: &JobResult,
) -> Result<(), OrchestratorError> {
    let directory = put_directory(this.deps.artifacts.as_ref(), &files.path("model"))
        .await
        .map_err(|error| OrchestratorError::Job(format!("the model can not be stored: {error}")))?;
    let evaluation = serde_json::to_value(result)?;
    let new = NewVersion {
        model: this.model.clone(),
        artifact_digest: directory.digest(),
        parent: Some(ModelVersion(run.parent_version)),
        anchor: Some(ModelVersion(run.anchor_version)),
        snapshot_digest: Some(run.snapshot_digest),
        run_id: Some(run.run_id),
        code_version: env!("CARGO_PKG_VERSION").to_owned(),
        method: run.method.clone(),
        audience: Some(this.audience.clone()),
        evaluation: evaluation.clone(),
    };
    let version = this.deps.registry.register_version(&new).await.map_err(registry)?;
    let eligible = result.gate.is_eligible();
    // A placebo is rolled out whatever the gate says: it must fail in front of developers, not before.
    let rolls_out = eligible || this.config.placebo_exchange_repositories;
    let rollout = if rolls_out {
        let policy = Some(&this.deps.rollout);
        Some(this.deps.registry.start_rollout(&this.model, version.version, policy).await.map_err(registry)?)
    } else {
        None
    };
    let mut detail = evaluation;
    if let Some(detail) = detail.as_object_mut() {
        detail.insert("reason".to_owned(), result.gate.reason().into());
        detail.insert("training_pairs".to_owned(), result.training_pairs.into());
    }
    let outcome = if eligible { "eligible" } else { "held" };
    let ids = (Some(version.version.0), rollout.map(|rollout| rollout.rollout_id.to_string()));
    let now = this.deps.clock.now();
    this.store.finish((run.run_id, epoch), RunState::Succeeded, outcome, &detail, ids, now).await?;
    metrics::counter!("flywheel_orchestrator_runs_finished_total", "outcome" => outcome).increment(1);
    tracing::info!(run = %run.run_id, version = %version.version, outcome, "a training run ended");
    Ok(())
}

/// How far the job in a run's directory is; none before it says so.
#[must_use]
pub fn progress_of(directory: &Path) -> Option<trainer::job::JobProgress> {
    serde_json::from_slice(&std::fs::read(directory.join("progress.json")).ok()?).ok()
}
