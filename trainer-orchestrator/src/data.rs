//! The data of a job: the pairs of a snapshot, opened for the job alone.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use artifacts::get_directory;
use events::{ModelVersion, PairId, PreferencePair};
use labeler::lake::{OpenTextError, open_text};
use model_registry::lineage::Purpose;
use service::clock::real_now;
use trainer::job::JobFile;
use trainer::methods::{Method, MethodConfig};
use trainer::{TrainingPair, balance_silence, exchange_repositories};

use crate::attempts::AttemptDirectory;
use crate::data_set::candidates::choose;
use crate::data_set::caps::{Dimension, limit};
use crate::data_set::lesson::written_identifiers;
use crate::data_set::manifest::{Manifest, ManifestMember};
use crate::data_set::policy::DataSetPolicy;
use crate::data_set::stored;
use crate::erasure;
use crate::error::OrchestratorError;
use crate::process::JobProcess;
use crate::reconcile::{Orchestrator, lake_error};
use crate::rivals::best_earlier;
use crate::sealed_file;
use crate::store::Run;

/// Threads of a job.
const THREADS: usize = 2;

/// Writes everything that an attempt needs.
pub(crate) async fn prepare(
    this: &Orchestrator,
    run: &Run,
    attempt: &AttemptDirectory,
) -> Result<JobProcess, OrchestratorError> {
    let Opened { training, gate, general } = open_members(this, run).await?;
    let key = sealed_file::fresh_key();
    for (name, list) in [("training.sealed", &training), ("gate.sealed", &gate), ("general.sealed", &general)] {
        let mut lines = Vec::new();
        for pair in list {
            serde_json::to_writer(&mut lines, pair)?;
            lines.push(b'\n');
        }
        sealed_file::write(&attempt.file(name), &key, run.run_id, &lines)?;
    }
    let versions = this.deps.registry.list_versions(&this.model).await.map_err(registry)?;
    let mut rivals = Vec::new();
    let rollouts = this.deps.registry.list_rollouts(Some(&this.model)).await.map_err(registry)?;
    let (parent, anchor) = (ModelVersion(run.parent_version), ModelVersion(run.anchor_version));
    if let Some(best) = best_earlier(&versions, &rollouts, parent, anchor) {
        rivals.push(model_directory(this, best.0).await?);
    }
    let method: Method = run.method.parse().map_err(OrchestratorError::Job)?;
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
            device: this.config.device,
            ..MethodConfig::default()
        },
        training_file: attempt.file("training.sealed"),
        gate_file: attempt.file("gate.sealed"),
        general_file: (!general.is_empty()).then(|| attempt.file("general.sealed")),
        anchor: model_directory(this, run.anchor_version).await?,
        parent: model_directory(this, run.parent_version).await?,
        rivals,
        replay_file: this.deps.replay.clone(),
        old_skills_file: this.deps.old_skills.clone(),
        output: attempt.model(),
        progress_file: attempt.file("progress.json"),
        steps_file: Some(attempt.file("steps.jsonl")),
        heartbeat_file: attempt.file("heartbeat"),
        result_file: attempt.file("result.json"),
        deadline_micros: run.deadline_at.as_micros(),
        snapshot_digest: run.snapshot_digest.to_string(),
        code_version: this.deps.code_version.clone(),
        gate_opportunities: this.config.gate_opportunities,
        general_opportunities: this.config.data_set.general_opportunities,
        gate: this.config.gate.clone(),
        person_pairs: person_pairs(&this.config.data_set, &training),
    };
    let job_file = attempt.file("job.json");
    std::fs::write(&job_file, serde_json::to_vec_pretty(&job)?)?;
    let program = match &this.config.program {
        Some(program) => program.clone(),
        None => std::env::current_exe()?,
    };
    let left = u64::try_from(run.deadline_at.as_micros().saturating_sub(real_now().as_micros())).unwrap_or(0);
    Ok(JobProcess {
        program,
        job_file,
        heartbeat_file: job.heartbeat_file,
        heartbeat: Duration::from_secs(this.config.heartbeat_seconds),
        deadline: SystemTime::now() + Duration::from_micros(left),
        secret: key,
        log_file: attempt.file("log"),
    })
}

/// The members of a snapshot by what they are used for, opened, sorted by id.
#[derive(Default)]
struct Opened {
    training: Vec<TrainingPair>,
    gate: Vec<TrainingPair>,
    general: Vec<TrainingPair>,
}

async fn open_members(this: &Orchestrator, run: &Run) -> Result<Opened, OrchestratorError> {
    let manifest = stored::manifest(&this.deps.pool, &this.deps.tenant, run.snapshot_digest).await?;
    let members: HashMap<PairId, &ManifestMember> =
        manifest.members.iter().map(|member| (member.pair_id, member)).collect();
    // What is learned from is what the snapshot's digest names, or nothing.
    let wanted = manifest.members.iter().map(|member| (member.pair_id, member.content_digest)).collect();
    let mut texts = this.sources.sealed_texts(&manifest.filters.audience, wanted);
    let mut pairs = Vec::new();
    while let Some(found) = texts.next().await.map_err(|error| lake_error(&error))? {
        pairs.extend(found);
    }
    let missing = texts.missing();
    if missing > 0 {
        // Nothing is learned from less than the data set says, unless the rest may not be learned from any more: of a lake
        // that can be read as a whole, the pairs of erased persons are missing, those past retention, and no others.
        texts.whole().map_err(|error| lake_error(&error))?;
    }
    let named = pairs.len();
    erasure::leave_out(&this.deps.keys, &mut pairs).await?;
    let mut erased = missing + named - pairs.len();
    let mut all = Opened::default();
    for pair in allowed_now(this, &manifest, pairs).await? {
        let Some(member) = members.get(&pair.pair_id) else { continue };
        match opened(this, &pair, member).await? {
            Some(opened) => match member.purpose {
                Purpose::Training => all.training.push(opened),
                Purpose::Gate => all.gate.push(opened),
                Purpose::General => all.general.push(opened),
            },
            // Erased just now: it must not be learned from.
            None => erased += 1,
        }
    }
    if erased > 0 {
        metrics::counter!("flywheel_orchestrator_pairs_erased_total")
            .increment(u64::try_from(erased).unwrap_or(u64::MAX));
    }
    for list in [&mut all.training, &mut all.gate, &mut all.general] {
        list.sort_by(|one, other| one.pair_id.cmp(&other.pair_id));
    }
    balance_silence(&mut all.training);
    if this.config.placebo_exchange_repositories {
        exchange_repositories(&mut all.training);
    }
    mark_identifiers(&all.training, &mut all.gate);
    mark_identifiers(&all.training, &mut all.general);
    Ok(all)
}

/// Those of a data set's pairs that rules and consents allow now, whatever they did when it was made.
async fn allowed_now(
    this: &Orchestrator,
    manifest: &Manifest,
    pairs: Vec<PreferencePair>,
) -> Result<Vec<PreferencePair>, OrchestratorError> {
    let (rules, sharing) = (this.sources.rules().await?, this.sources.sharing().await?);
    let allowed = this.sources.allow_list(&rules).await?;
    let (pairs, left_out) = choose(&manifest.filters, &this.config.data_set, &allowed, &sharing, pairs);
    for (reason, count) in left_out {
        metrics::counter!("flywheel_orchestrator_pairs_withdrawn_total", "reason" => reason.as_str())
            .increment(u64::try_from(count).unwrap_or(u64::MAX));
    }
    Ok(pairs)
}

async fn opened(
    this: &Orchestrator,
    pair: &PreferencePair,
    member: &ManifestMember,
) -> Result<Option<TrainingPair>, OrchestratorError> {
    let text = match open_text(pair, &this.deps.keys).await {
        Ok(text) => text,
        Err(OpenTextError::Erased) => return Ok(None),
        Err(error) => return Err(OrchestratorError::Lake(error.to_string())),
    };
    Ok(Some(TrainingPair {
        weight: member.support.weight_millionths.map_or(pair.weight, |millionths| millionths as f64 / 1e6) as f32,
        support_people: member.support.people,
        ..TrainingPair::of(pair, text)
    }))
}

/// Most pairs that a data set of `training` would let one person more have, who made as many as all others.
fn person_pairs(policy: &DataSetPolicy, training: &[TrainingPair]) -> usize {
    let mut sizes: HashMap<&str, usize> = HashMap::new();
    for pair in training.iter().filter(|pair| pair.support_people == 1) {
        *sizes.entry(&pair.person).or_default() += 1;
    }
    let nobodys = training.len() - sizes.values().sum::<usize>();
    let sizes: Vec<usize> = sizes.into_values().chain([training.len()]).collect();
    limit(&sizes, nobodys, Dimension::Person.permille(policy))
}

/// Says of every pair that judges whether its developer wrote only names that pairs which train write, too.
fn mark_identifiers(training: &[TrainingPair], judging: &mut [TrainingPair]) {
    let written = |pair: &TrainingPair| written_identifiers(&pair.shared, pair.chosen.as_ref());
    let known: HashSet<u64> = training.iter().flat_map(written).collect();
    for pair in judging {
        pair.identifiers_seen = Some(written(pair).iter().all(|name| known.contains(name)));
    }
}

/// The files of a version, verified each time: a directory that was altered since it was fetched is fetched again.
async fn model_directory(this: &Orchestrator, version: i64) -> Result<PathBuf, OrchestratorError> {
    let version = this.deps.registry.get_version(&this.model, ModelVersion(version)).await.map_err(registry)?;
    let target = this.deps.runs.join("models").join(version.artifact_digest.to_string());
    get_directory(this.deps.artifacts.as_ref(), &version.artifact_digest, &target)
        .await
        .map_err(|error| OrchestratorError::Job(format!("version {} can not be loaded: {error}", version.version)))?;
    Ok(target)
}

fn registry(error: model_registry::ClientError) -> OrchestratorError {
    OrchestratorError::Registry(error.to_string())
}

#[cfg(test)]
mod tests {
    use events::{ActionList, ByteRange, EditAction, EditContext, Window};

    use super::*;

    fn pair(number: usize, chosen: ActionList) -> TrainingPair {
        TrainingPair {
            pair_id: format!("{number:04}"),
            person: "p".to_owned(),
            repository: format!("r{}", number % 3),
            reason: "missed".to_owned(),
            weight: 1.0,
            support_people: 1,
            observed_micros: 0,
            off_policy: false,
            context: EditContext {
                repository: format!("r{}", number % 3),
                path: "a.rs".to_owned(),
                language: "rust".to_owned(),
                recent_edits: Vec::new(),
                window: Window { start_byte: 0, first_line: 0, text: String::new() },
                cursor_byte: 0,
            },
            shared: Vec::new(),
            chosen: Some(chosen),
            rejected: None,
            identifiers_seen: None,
        }
    }

    #[test]
    fn one_person_more_has_three_times_the_mean_or_a_share_of_all() {
        let mut pairs: Vec<TrainingPair> = (0..120).map(|number| pair(number, edit())).collect();
        for (number, pair) in pairs.iter_mut().enumerate() {
            pair.person = format!("p{}", number % 40);
        }
        let policy = DataSetPolicy::default();
        // Three of each of 40 persons, and nine of the one: three times 129 / 41.
        assert_eq!(person_pairs(&policy, &pairs), 9);
        assert_eq!(person_pairs(&DataSetPolicy { most_of_person_permille: 200, ..policy }, &pairs), 30);
    }

    fn edit() -> ActionList {
        let action = EditAction {
            path: "a.rs".to_owned(),
            range: ByteRange::new(0, 0),
            old_text: String::new(),
            new_text: "x".to_owned(),
        };
        ActionList { actions: vec![action], closed: true }
    }

    #[test]
    fn names_that_nothing_that_trains_writes_are_marked() {
        let writes = |text: &str| {
            let mut list = edit();
            list.actions[0].new_text = text.to_owned();
            pair(0, list)
        };
        let training = [writes("fetch(item)"), pair(1, ActionList::no_edit())];
        let mut judging = [writes("item.fetch()"), writes("item.load()"), pair(2, ActionList::no_edit())];
        mark_identifiers(&training, &mut judging);
        assert_eq!(judging.map(|pair| pair.identifiers_seen), [Some(true), Some(false), Some(true)]);
    }
}
