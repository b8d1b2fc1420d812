//! The job contract: a file says what to train, a heartbeat says that it lives, a result says what came out. It is
//! written down for trainers that are not ours in `docs/job-contract.md`.
//!
//! The caller opens the pairs (they are sealed on disk) and hands them over as JSON lines in memory; this room writes
//! no pair anywhere. Progress and result are replaced atomically. A job that was interrupted goes on at its last
//! checkpoint; its deadline is absolute and includes every attempt.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use edit_model::dialect::Habit;
use edit_model::{DecodeOptions, EditModel, ModelManifest, write_whole};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::checkpoint::Checkpoint;
use crate::error::TrainerError;
use crate::evaluation::{TaskSummary, answer_tasks, bits_by_language, in_parallel, matches_one};
use crate::examples::{BaseTask, read_tasks};
use crate::gate::{
    Behaviour, Decision, GateConfig, GateLimits, GateOutcome, GateReport, GateVerdict, LanguageReport, judge,
    judge_calibration, judge_harm, judge_languages, judge_rivals, judge_syntax,
};
use crate::memorisation::{Beat, MarkerPlan, MemorisationReport, ask_model, judge_memorisation, plant};
use crate::methods::{Method, MethodConfig, MethodData, TrainingProgress, fine_tuning_engine, train};
use crate::pairs::{TrainingPair, parse_pairs};
use crate::prepared::PairCensus;
use crate::step_log::StepLog;

/// Steps between checkpoints: a step takes about a second.
const CHECKPOINT_STEPS: usize = 10;

/// What a job is asked to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobFile {
    /// Id of the run.
    pub run_id: String,
    /// Method and its settings.
    pub config: MethodConfig,
    /// Sealed pairs to train on, as JSON lines once opened.
    pub training_file: PathBuf,
    /// Sealed pairs to judge by, one of each held-out opportunity, as JSON lines once opened; weight 0 is allowed.
    pub gate_file: PathBuf,
    /// Sealed pairs of repositories and people that train nothing, which bound the harm; absent while there are none.
    #[serde(default)]
    pub general_file: Option<PathBuf>,
    /// Model directory that training starts from and compares with.
    pub anchor: PathBuf,
    /// Model directory that the candidate must beat.
    pub parent: PathBuf,
    /// Model directories that it must beat, too, beside the anchor; one that is the parent or the anchor is passed over.
    #[serde(default)]
    pub rivals: Vec<PathBuf>,
    /// Base tasks that are replayed.
    pub replay_file: PathBuf,
    /// Base tasks from files that the base was not trained on.
    pub old_skills_file: PathBuf,
    /// Model directory to write.
    pub output: PathBuf,
    /// Replaced while the job runs; see [`JobProgress`].
    pub progress_file: PathBuf,
    /// Where every step leaves a line of JSON, a [`TrainingProgress`]; none: nowhere.
    #[serde(default)]
    pub steps_file: Option<PathBuf>,
    /// Touched while the job runs.
    pub heartbeat_file: PathBuf,
    /// Written at the end; see [`JobResult`].
    pub result_file: PathBuf,
    /// Real time in microseconds since 1970 at which the job gives up.
    pub deadline_micros: i64,
    /// Digest of the snapshot that the pairs come from.
    pub snapshot_digest: String,
    /// Names the code that trains; goes into the model's manifest.
    pub code_version: String,
    /// Fewest judged opportunities that allow a verdict.
    pub gate_opportunities: usize,
    /// Fewest opportunities of `general_file` that allow a verdict.
    #[serde(default)]
    pub general_opportunities: usize,
    /// What the gate lets through.
    #[serde(default)]
    pub gate: GateLimits,
    /// Most pairs that one person may have of the data set; what markers are planted by, where the gate asks for any.
    #[serde(default)]
    pub person_pairs: usize,
}

/// Where a job is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobProgress {
    /// `prepare`, `train`, `evaluate` or `done`.
    pub stage: String,
    /// Steps done.
    pub step: usize,
    /// Steps of the whole run.
    pub steps: usize,
    /// Loss of the last step.
    pub loss: Option<f64>,
    /// Seconds that the remaining steps will take.
    #[serde(default)]
    pub eta_seconds: Option<f64>,
    /// Held-out opportunities answered.
    pub evaluated: usize,
    /// Held-out opportunities to answer.
    pub to_evaluate: usize,
}

/// What came out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobResult {
    /// Id of the run.
    pub run_id: String,
    /// Name of the method.
    pub method: String,
    /// Digest of the model that was written, over the digests of its files.
    pub model_digest: String,
    /// SHA-256 of every file of the model.
    pub files: BTreeMap<String, String>,
    /// Digest of the anchor.
    pub anchor_digest: String,
    /// Digest of the parent.
    pub parent_digest: String,
    /// Pairs handed over for training.
    pub training_pairs: usize,
    /// What they were.
    pub census: PairCensus,
    /// Repositories whose habit could be read from the pairs and spelled before the first step.
    #[serde(default)]
    pub spelled_habits: usize,
    /// Mean log p of the chosen side before training; it must not fall.
    pub chosen_log_p_before: f64,
    /// The same after training.
    pub chosen_log_p_after: f64,
    /// Loss of the last step.
    pub last_loss: f64,
    /// Seconds of training, of this attempt.
    pub training_seconds: f64,
    /// Tokens read while training, in this attempt.
    pub training_tokens: u64,
    /// Seconds of evaluation.
    pub evaluation_seconds: f64,
    /// What the gate says.
    pub gate: GateReport,
    /// Old skills of the candidate.
    pub old_skills_candidate: TaskSummary,
    /// Old skills of the parent.
    pub old_skills_parent: TaskSummary,
}

/// Looks on while a job runs.
pub type JobWatch<'a> = dyn FnMut(&JobProgress) + 'a;

struct Watchdog<'a, 'b> {
    job: &'a JobFile,
    progress: JobProgress,
    watch: &'a mut JobWatch<'b>,
}

impl Watchdog<'_, '_> {
    /// Shows that the job lives and where it is; refuses to go on after the deadline.
    fn beat(&mut self, change: impl FnOnce(&mut JobProgress)) -> Result<(), TrainerError> {
        change(&mut self.progress);
        (self.watch)(&self.progress);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_micros());
        let bytes = serde_json::to_vec(&self.progress)
            .map_err(|error| TrainerError::damaged(&self.job.progress_file, error.to_string()))?;
        write_whole(&self.job.progress_file, &bytes)?;
        std::fs::write(&self.job.heartbeat_file, now.to_string())
            .map_err(|source| TrainerError::file(&self.job.heartbeat_file, source))?;
        if i128::try_from(now).unwrap_or(i128::MAX) >= i128::from(self.job.deadline_micros) {
            return Err(TrainerError::Deadline { step: self.progress.step });
        }
        Ok(())
    }
}

/// Digest of everything that a checkpoint of this job must agree on.
fn job_digest(job: &JobFile, training: &[u8], anchor_digest: &str) -> Result<String, TrainerError> {
    let replay = std::fs::read(&job.replay_file).map_err(|source| TrainerError::file(&job.replay_file, source))?;
    let config = serde_json::to_vec(&job.config).map_err(|error| TrainerError::Job(error.to_string()))?;
    let mut hash = Sha256::new();
    for part in [config.as_slice(), training, anchor_digest.as_bytes(), replay.as_slice()] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    Ok(hex::encode(hash.finalize()))
}

fn check(config: &MethodConfig) -> Result<(), TrainerError> {
    let refuse = |reason: &str| Err(TrainerError::Job(reason.to_owned()));
    if config.steps == 0 || config.steps > 1_000_000 {
        return refuse("steps is out of range");
    }
    if config.batch_pairs == 0 || config.batch_pairs + config.batch_replay > 4096 {
        return refuse("the batch is empty or too large");
    }
    if !(1..=256).contains(&config.threads) {
        return refuse("threads is out of range");
    }
    if !(config.learning_rate > 0.0 && config.learning_rate < 1.0) {
        return refuse("learning_rate is out of range");
    }
    // Beside bounds, so that what is no number is refused.
    let is_weight = |value: f32| (0.0..1e6).contains(&value);
    if !(config.beta > 0.0 && is_weight(config.beta) && is_weight(config.lambda) && is_weight(config.replay_weight)) {
        return refuse("beta, lambda or replay_weight is out of range");
    }
    if !(0.0..1e6).contains(&config.habit_rate) {
        return refuse("habit_rate is out of range");
    }
    if !(0.0..0.5).contains(&config.label_smoothing) {
        return refuse("label_smoothing is out of range: 0 to below 0.5");
    }
    if !is_weight(config.positive_penalty) {
        return refuse("positive_penalty is out of range");
    }
    if !is_weight(config.desirable_weight) || !is_weight(config.undesirable_weight) {
        return refuse("desirable_weight or undesirable_weight is out of range");
    }
    if config.method == Method::Kto && config.batch_pairs < 2 {
        return refuse("kto needs at least two pairs in a step");
    }
    Ok(())
}

/// Runs a job to its end: trains from the anchor, writes the model, answers the held-out opportunities and the old
/// tasks with candidate and parent, judges, and writes the result. `training`, `gate` and `general` (of no line while
/// there is no such set) are JSON lines of [`TrainingPair`]. `watch` sees whatever the progress file says.
///
/// # Errors
/// See [`TrainerError`]; nothing is left in `output` that could be taken for a finished model without its result.
pub fn run_job(
    job: &JobFile,
    training: &[u8],
    gate: &[u8],
    general: &[u8],
    watch: &mut JobWatch<'_>,
) -> Result<JobResult, TrainerError> {
    check(&job.config)?;
    let progress = JobProgress {
        stage: "prepare".to_owned(),
        step: 0,
        steps: job.config.steps,
        loss: None,
        eta_seconds: None,
        evaluated: 0,
        to_evaluate: 0,
    };
    let mut watchdog = Watchdog { job, progress, watch };
    watchdog.beat(|_| {})?;
    let (anchor, anchor_manifest) = EditModel::load_with_manifest(&job.anchor)?;
    let (parent, parent_manifest) = EditModel::load_with_manifest(&job.parent)?;
    let pairs = parse_pairs(&job.training_file, training)?;
    let held_out = parse_pairs(&job.gate_file, gate)?;
    let elsewhere = parse_pairs(job.general_file.as_ref().unwrap_or(&job.gate_file), general)?;
    let replay = read_tasks(&job.replay_file)?;
    let old_skills = read_tasks(&job.old_skills_file)?;

    let started = Instant::now();
    let data =
        MethodData::prepare(&job.config, anchor.network(), anchor.weights(), anchor.tokenizer(), &pairs, &replay)?;
    let digest = job_digest(job, training, &anchor_manifest.digest())?;
    let checkpoint = checkpoint_path(&job.output);
    // A checkpoint of another job, or a damaged one, only costs the time it would have saved.
    let saved = Checkpoint::read(&checkpoint)
        .ok()
        .flatten()
        .filter(|saved| saved.header.run_digest == digest && saved.weights.len() == anchor.weights().len());
    let (first_step, weights, optimizer) = match saved {
        Some(saved) => (saved.header.step, saved.weights, Some(saved.optimizer)),
        None => (0, data.first_weights(anchor.network(), anchor.weights()), None),
    };
    if let Some(folder) = job.output.parent() {
        std::fs::create_dir_all(folder).map_err(|source| TrainerError::file(folder, source))?;
    }
    let mut step_log = match &job.steps_file {
        Some(file) => Some(StepLog::open(file, first_step)?),
        None => None,
    };
    let engine = fine_tuning_engine(&job.config, &data, anchor.network(), anchor.tokenizer(), weights, optimizer)?;
    let trained = train(&job.config, &data, engine, first_step, anchor.weights(), &mut |step, engine| {
        // Before the checkpoint: a run that goes on from it keeps the lines up to its step, and wants all of them.
        if let Some(log) = &mut step_log {
            log.write(step)?;
        }
        if step.step.is_multiple_of(CHECKPOINT_STEPS) && step.step < step.steps {
            Checkpoint::write(&checkpoint, step.step, &digest, engine.weights(), engine.optimizer())?;
        }
        tracing::info!(step = step.step, loss = step.loss, "training step");
        watchdog.beat(|progress| {
            progress.stage = "train".to_owned();
            progress.step = step.step;
            progress.loss = Some(step.loss);
            progress.eta_seconds = Some(step.eta_seconds);
        })
    })?;
    let training_seconds = started.elapsed().as_secs_f64();

    let candidate = anchor.with_weights(trained.weights.clone())?.in_served_precision()?;
    let manifest = save(job, &candidate, &anchor_manifest, &parent_manifest)?;
    // What is judged is what will answer.
    let served = |model: EditModel| model.served_with(job.gate.weights);
    let (candidate, parent) = (served(candidate)?, served(parent)?);

    let started = Instant::now();
    let gate_config = GateConfig {
        least_opportunities: job.gate_opportunities,
        least_general_opportunities: job.general_opportunities,
        limits: job.gate.clone(),
        ..GateConfig::default()
    };
    let mut opportunities: Vec<&TrainingPair> = held_out.iter().filter(|pair| is_judgeable(pair)).collect();
    let adapt = opportunities.len();
    opportunities.extend(elsewhere.iter().filter(|pair| is_judgeable(pair)));
    let (digests, rivals) = rivals(job, (&anchor, &anchor_manifest), &parent_manifest)?;
    let rivals = rivals.into_iter().map(served).collect::<Result<Vec<_>, _>>()?;
    // Harm elsewhere is judged beside the parent alone.
    let (here, there) = opportunities.split_at(adapt);
    let none: &[EditModel] = &[];
    let chunks = here.chunks(32).map(|chunk| (chunk, rivals.as_slice()));
    let mut outcomes = Vec::with_capacity(opportunities.len());
    for (chunk, rivals) in chunks.chain(there.chunks(32).map(|chunk| (chunk, none))) {
        outcomes.extend(gate_outcomes(&candidate, &parent, rivals, chunk, job.config.threads)?);
        let (evaluated, total) = (outcomes.len(), opportunities.len());
        watchdog.beat(|progress| {
            progress.stage = "evaluate".to_owned();
            progress.evaluated = evaluated;
            progress.to_evaluate = total;
        })?;
    }
    let mut old = |model: &EditModel| -> Result<TaskSummary, TrainerError> {
        let mut all = Vec::with_capacity(old_skills.len());
        for chunk in old_skills.chunks(64) {
            all.extend(answer_tasks(model, chunk, &DecodeOptions::default(), job.config.threads)?);
            watchdog.beat(|_| {})?;
        }
        Ok(TaskSummary::of(&all))
    };
    let (old_skills_candidate, old_skills_parent) = (old(&candidate)?, old(&parent)?);
    let languages = languages(&candidate, &parent, &old_skills, job.config.threads)?;
    watchdog.beat(|_| {})?;
    let remembered = remembered(job, &anchor, &pairs, &replay, &mut || watchdog.beat(|_| {}))?;
    let general = outcomes.split_off(adapt);
    let mut report = judge(&gate_config, &outcomes, old_skills_candidate.exact, old_skills_parent.exact);
    judge_harm(&gate_config, &mut report, &general);
    judge_rivals(&gate_config, &mut report, &outcomes, &digests);
    judge_languages(&gate_config, &mut report, languages);
    let broken = (old_skills_candidate.parse_errors, old_skills_parent.parse_errors);
    judge_syntax(&gate_config, &mut report, broken.0, broken.1);
    judge_calibration(&gate_config, &mut report, &outcomes);
    if let Some(remembered) = remembered {
        judge_memorisation(&job.gate, &mut report, remembered);
    }
    check_health(&mut report, trained.chosen_log_p_before, trained.chosen_log_p_after);
    let last = trained.history.last();
    let result = JobResult {
        run_id: job.run_id.clone(),
        method: job.config.method.name().to_owned(),
        model_digest: manifest.digest(),
        files: manifest.files,
        anchor_digest: anchor_manifest.digest(),
        parent_digest: parent_manifest.digest(),
        training_pairs: pairs.len(),
        census: trained.census,
        spelled_habits: data.spelled_habits(),
        chosen_log_p_before: trained.chosen_log_p_before,
        chosen_log_p_after: trained.chosen_log_p_after,
        last_loss: last.map_or(0.0, |step: &TrainingProgress| step.loss),
        training_seconds,
        training_tokens: last.map_or(0, |step| step.tokens),
        evaluation_seconds: started.elapsed().as_secs_f64(),
        gate: report,
        old_skills_candidate,
        old_skills_parent,
    };
    let bytes = serde_json::to_vec_pretty(&result)
        .map_err(|error| TrainerError::damaged(&job.result_file, error.to_string()))?;
    write_whole(&job.result_file, &bytes)?;
    watchdog.beat(|progress| progress.stage = "done".to_owned())?;
    match std::fs::remove_file(&checkpoint) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(TrainerError::file(&checkpoint, source)),
        _ => Ok(result),
    }
}

/// What a run like the candidate's remembers of markers, where the gate asks: the same settings, anchor and pairs, and
/// markers among them. The candidate itself must not learn any, so another model does, which is left here. An attempt
/// that is killed meanwhile begins it anew.
fn remembered(
    job: &JobFile,
    anchor: &EditModel,
    pairs: &[TrainingPair],
    replay: &[BaseTask],
    beat: &mut Beat<'_>,
) -> Result<Option<MemorisationReport>, TrainerError> {
    if job.gate.markers == 0 {
        return Ok(None);
    }
    let plan = MarkerPlan {
        markers: job.gate.markers,
        most_episodes: job.gate.marker_episodes,
        most_pairs: job.person_pairs,
        seed: job.config.seed,
    };
    let planted = plant(anchor.tokenizer(), pairs, &plan);
    let marked: Vec<TrainingPair> = pairs.iter().chain(&planted.pairs).cloned().collect();
    let (config, network) = (&job.config, anchor.network());
    let data = MethodData::prepare(config, network, anchor.weights(), anchor.tokenizer(), &marked, replay)?;
    beat()?;
    let first_weights = data.first_weights(network, anchor.weights());
    let engine = fine_tuning_engine(config, &data, network, anchor.tokenizer(), first_weights, None)?;
    let trained = train(config, &data, engine, 0, anchor.weights(), &mut |_, _| beat())?;
    let model = anchor.with_weights(trained.weights)?.in_served_precision()?.served_with(job.gate.weights)?;
    beat()?;
    ask_model(&model, &planted.places, config.threads, beat).map(Some)
}

/// A run after which the wanted side is less likely than before has failed, whatever else it gained: preference losses
/// can win by pushing both sides down. What is no number has failed, too.
fn check_health(report: &mut GateReport, before: f64, after: f64) {
    if after >= before {
        return;
    }
    report.reasons.push("chosen_log_p_fell".to_owned());
    if report.verdict == GateVerdict::Eligible {
        report.verdict = GateVerdict::Held;
    }
}

fn checkpoint_path(output: &Path) -> PathBuf {
    let mut name = output.as_os_str().to_owned();
    name.push(".checkpoint");
    PathBuf::from(name)
}

fn save(
    job: &JobFile,
    candidate: &EditModel,
    anchor: &ModelManifest,
    parent: &ModelManifest,
) -> Result<ModelManifest, TrainerError> {
    let mut manifest = ModelManifest::new(&anchor.name, job.config.method.name(), &job.code_version);
    manifest.parent_digest = Some(parent.digest());
    manifest.anchor_digest = Some(anchor.digest());
    manifest.snapshot_digest = Some(job.snapshot_digest.clone());
    let config = serde_json::to_value(&job.config).map_err(|error| TrainerError::Job(error.to_string()))?;
    manifest.details.insert("config".to_owned(), config);
    Ok(candidate.save(&job.output, manifest)?)
}

/// Whether a pair says what the developer wanted: one that does not can judge nobody.
fn is_judgeable(pair: &TrainingPair) -> bool {
    pair.chosen.as_ref().is_some_and(|chosen| chosen.closed || !chosen.actions.is_empty() || !pair.shared.is_empty())
}

/// Digests of the models that the candidate must beat beside its parent, and the models: what training started from and
/// those that the job names, each once.
fn rivals(
    job: &JobFile,
    (anchor, anchor_manifest): (&EditModel, &ModelManifest),
    parent: &ModelManifest,
) -> Result<(Vec<String>, Vec<EditModel>), TrainerError> {
    let (mut digests, mut models) = (Vec::new(), Vec::new());
    let mut add = |digest: String, model: EditModel| {
        if digest != parent.digest() && !digests.contains(&digest) {
            digests.push(digest);
            models.push(model);
        }
    };
    add(anchor_manifest.digest(), anchor.clone());
    for directory in &job.rivals {
        let (model, manifest) = EditModel::load_with_manifest(directory)?;
        add(manifest.digest(), model);
    }
    Ok((digests, models))
}

/// What the wanted edits of old tasks cost candidate and parent, by language.
fn languages(
    candidate: &EditModel,
    parent: &EditModel,
    tasks: &[BaseTask],
    threads: usize,
) -> Result<Vec<LanguageReport>, TrainerError> {
    let of_parent = bits_by_language(parent, tasks, threads)?;
    let reports = bits_by_language(candidate, tasks, threads)?.into_iter().filter_map(|(language, bits)| {
        let parent = of_parent.get(&language)?;
        Some(LanguageReport {
            language,
            bytes: bits.bytes,
            bits_per_byte_candidate: bits.per_byte(),
            bits_per_byte_parent: parent.per_byte(),
        })
    });
    Ok(reports.collect())
}

/// What candidate, parent and the other models that it must beat do at held-out opportunities.
///
/// # Errors
/// [`TrainerError::Model`] when a context is unusable.
pub fn gate_outcomes(
    candidate: &EditModel,
    parent: &EditModel,
    rivals: &[EditModel],
    opportunities: &[&TrainingPair],
    threads: usize,
) -> Result<Vec<GateOutcome>, TrainerError> {
    let options = DecodeOptions { max_actions: 1, ..DecodeOptions::default() };
    in_parallel(opportunities, threads, |pair| {
        let task = wanted_task(pair);
        let behave = |model: &EditModel| -> Result<(Behaviour, f32), TrainerError> {
            let completion = model.complete(&task.context, &options, &|| false, &mut |_| {})?;
            let behaviour = match completion.actions.actions.first() {
                None => Behaviour { shown: false, matches: task.wanted.is_no_edit() },
                Some(action) => {
                    let matches = matches_one(&task.context, action, &task.wanted.actions);
                    Behaviour { shown: true, matches }
                }
            };
            Ok((behaviour, completion.gate_score))
        };
        let (candidate, gate_score) = behave(candidate)?;
        Ok(GateOutcome {
            person: pair.person.clone(),
            language: pair.context.language.clone(),
            candidate,
            parent: behave(parent)?.0,
            rivals: (rivals.iter())
                .map(|rival| behave(rival).map(|(behaviour, _)| behaviour))
                .collect::<Result<Vec<Behaviour>, TrainerError>>()?,
            decision: Some(Decision { gate_score, wants_edit: !task.wanted.is_no_edit() }),
            identifiers_seen: pair.identifiers_seen,
        })
    })
}

/// The context of a pair with everything that the developer wanted there.
fn wanted_task(pair: &TrainingPair) -> BaseTask {
    let mut wanted = pair.chosen.clone().unwrap_or_default();
    wanted.actions = pair.shared.iter().cloned().chain(wanted.actions).collect();
    BaseTask { context: pair.context.clone(), wanted, habit: Habit::Repository }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_makes_what_was_wanted_less_likely_is_held() {
        let behaviour = |matches| Behaviour { shown: true, matches };
        let outcomes: Vec<GateOutcome> = (0..300)
            .map(|number| GateOutcome {
                person: format!("p{}", number % 30),
                language: "rust".to_owned(),
                candidate: behaviour(true),
                parent: behaviour(number % 2 == 0),
                rivals: Vec::new(),
                decision: None,
                identifiers_seen: None,
            })
            .collect();
        let judged = |before: f64, after: f64| {
            let mut report = judge(&GateConfig::default(), &outcomes, 0.7, 0.7);
            check_health(&mut report, before, after);
            (report.verdict, report.reason())
        };
        assert_eq!(judged(-3.0, -2.0), (GateVerdict::Eligible, "eligible".to_owned()));
        assert_eq!(judged(-2.0, -3.0), (GateVerdict::Held, "chosen_log_p_fell".to_owned()));
        assert_eq!(judged(-2.0, f64::NAN), (GateVerdict::Held, "chosen_log_p_fell".to_owned()));
    }
}
