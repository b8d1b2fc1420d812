//! `flywheel pretrain`: remakes the base model from its sources, resumable at any step.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use edit_model::{CodeTokenizer, DecodeOptions, EditModel, ModelConfig, ModelManifest};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use simulator::base::package_of;
use simulator::source::digest_hex;
use simulator::trajectory::training::QUIET_KINDS;
use simulator::trajectory::{TrajectorySplit, TrajectoryTasks};
use simulator::{BaseCorpus, BaseManifest, BaseTaskGenerator, Language, Mix, SourceFile, Split};
use trainer::evaluation::{TaskSummary, answer_tasks};
use trainer::pretrain::{Next, PretrainConfig, as_shipped, run as pretrain};
use trainer::{BaseTask, write_tasks};

use self::mixture::{Beside, Mixture};
use crate::cli::{CODE_VERSION, PretrainArgs};
use crate::failure::Failure;
use crate::trajectories::refused;

mod mixture;

/// Most bytes of one package: no package should dominate.
pub(crate) const PACKAGE_BYTES: usize = 400_000;
const VOCABULARY: usize = 2048;
/// Held-out tasks that are answered while training goes on.
const LOOK_TASKS: u64 = 200;
const LOOK_EVERY: usize = 500;
/// Base tasks that ship for replay, and held-out ones that judge what was forgotten.
const REPLAY_TASKS: u64 = 1500;
const OLD_SKILLS: u64 = 200;
/// Their first number: far from those that are looked at.
const OLD_SKILLS_FROM: u64 = 100_000;
/// How often progress is written where there is no terminal to draw a bar on.
const LINE_EVERY: usize = 50;

/// Texts in languages that the sources do not have, for the tokenizer: of no repository more than of a package.
fn other_texts(split: &TrajectorySplit) -> Vec<Arc<str>> {
    let mut texts: BTreeMap<(&str, &str), &Arc<str>> = BTreeMap::new();
    for played in &split.train {
        let trajectory = &played.trajectory;
        if Language::of_id(trajectory.language.id()).is_none() {
            for (file, text) in trajectory.files.iter().zip(&played.texts) {
                texts.insert((trajectory.repository.as_str(), file.path.as_str()), text);
            }
        }
    }
    let mut bytes: BTreeMap<&str, usize> = BTreeMap::new();
    let mut kept = Vec::new();
    for ((repository, _), text) in texts {
        let sum = bytes.entry(repository).or_default();
        *sum += text.len();
        if *sum <= PACKAGE_BYTES {
            kept.push(Arc::clone(text));
        }
    }
    kept
}

fn tokenizer(output: &Path, files: &[SourceFile], others: &[Arc<str>]) -> Result<CodeTokenizer, Failure> {
    let path = output.join("tokenizer.json");
    if path.exists() {
        return Ok(CodeTokenizer::load(&path)?);
    }
    let texts = files.iter().map(|file| &*file.text).chain(others.iter().map(|text| &**text)).step_by(3);
    let tokenizer = CodeTokenizer::train(texts, VOCABULARY)?;
    std::fs::write(&path, tokenizer.to_json()?)?;
    Ok(tokenizer)
}

/// What is learned from, with what is held out by name taken out of it.
struct Sources {
    /// Natural code.
    files: Vec<SourceFile>,
    trajectories: TrajectorySplit,
    /// The list of natural code, which goes with the model.
    listed: Vec<u8>,
    /// What `provenance.json` says of them.
    made_of: serde_json::Value,
}

impl Sources {
    fn read(arguments: &PretrainArgs) -> Result<Self, Failure> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../edit-model/base/sources.json");
        let manifest = BaseManifest::read(&path).map_err(Failure::refuse)?;
        let listed = std::fs::read(&path)
            .map_err(|error| Failure::refused(format!("{} can not be read: {error}", path.display())))?;
        let held_out: BTreeSet<String> = arguments.hold_out.iter().cloned().collect();
        let trajectories = TrajectorySplit::read(&arguments.trajectories, &held_out).map_err(refused)?;
        let repositories = &trajectories.sources.repositories;
        let is_known = |name: &String| {
            manifest.packages.iter().any(|package| package.package == *name)
                || repositories.keys().any(|repository| repository == name || package_of(repository) == name)
        };
        if let Some(name) = held_out.iter().find(|name| !is_known(name)) {
            return Err(Failure::refused(format!(
                "--hold-out {name}: neither a package of the sources nor a repository of the trajectories"
            )));
        }
        if !arguments.trajectories.is_empty() {
            if trajectories.train.is_empty() {
                return Err(Failure::refused("--trajectories: nothing in them may be learned from"));
            }
            if trajectories.held_out.is_empty() {
                return Err(Failure::refused(
                    "--trajectories: none of their repositories is held out, so nothing could judge; name one with \
                     --hold-out",
                ));
            }
        }
        let mut files = manifest.load(&arguments.sources, PACKAGE_BYTES).map_err(Failure::refuse)?;
        files.retain(|file| !held_out.contains(&*file.repository));
        let beside = (!arguments.trajectories.is_empty()).then(|| {
            json!({
                "share": arguments.share,
                "no_edit": Mix::default().no_edit,
                "no_edit_done_away_before": QUIET_KINDS,
                "sources": trajectories.sources,
            })
        });
        let made_of = json!({
            "seed": arguments.seed,
            "held_out_by_name": held_out,
            "sources_sha256": digest_hex(&listed),
            "bytes_per_package": PACKAGE_BYTES,
            "trajectories": beside,
        });
        Ok(Self { files, trajectories, listed, made_of })
    }

    /// Whoever goes on with a checkpoint has to have the same. Without trajectories a run is what it always was.
    fn digest(&self, arguments: &PretrainArgs) -> String {
        let is_mixed = !arguments.trajectories.is_empty() || !arguments.hold_out.is_empty();
        if is_mixed { digest_hex(self.made_of.to_string().as_bytes()) } else { String::new() }
    }
}

/// Held-out tasks that are answered while training goes on.
struct Looked {
    natural: Vec<BaseTask>,
    trajectories: Vec<BaseTask>,
}

impl Looked {
    fn told(&self, model: &EditModel, threads: usize) -> anyhow::Result<String> {
        let summary = |tasks: &[BaseTask]| -> anyhow::Result<TaskSummary> {
            Ok(TaskSummary::of(&answer_tasks(model, tasks, &DecodeOptions::default(), threads)?))
        };
        let natural = summary(&self.natural)?;
        let (exact, silent) = (natural.exact * 100.0, natural.silent * 100.0);
        let mut told = format!("{exact:.1}% of held-out edits exact, {silent:.1}% of silences right");
        if !self.trajectories.is_empty() {
            let beside = summary(&self.trajectories)?;
            let (right, silent) = (beside.first_matches * 100.0, beside.silent * 100.0);
            told.push_str(&format!("; trajectories: {right:.1}% of first actions right, {silent:.1}% of silences"));
        }
        Ok(told)
    }
}

/// Trains and writes `OUTPUT/export`: the files of `edit-model/base`.
pub(crate) fn run(arguments: &PretrainArgs) -> Result<ExitCode, Failure> {
    trainer::probe(arguments.device).map_err(Failure::refuse)?;
    let output = &arguments.output;
    let export = output.join("export");
    std::fs::create_dir_all(&export)
        .map_err(|error| Failure::refused(format!("{} can not be written: {error}", output.display())))?;
    let sources = Sources::read(arguments)?;
    let digest = sources.digest(arguments);
    let Sources { files, trajectories, listed, made_of } = sources;
    let tokenizer = tokenizer(output, &files, &other_texts(&trajectories))?;
    let train = Arc::new(BaseCorpus::index(files.clone(), Split::Train)?);
    let held_out = Arc::new(BaseCorpus::index(files, Split::HeldOut)?);
    let seed = arguments.seed;
    let mixture = |natural, played, seed| {
        let share = arguments.share;
        let beside = |tasks| Beside { tasks, share, tokenizer: tokenizer.clone() };
        let tasks = (!arguments.trajectories.is_empty()).then(|| TrajectoryTasks::new(played, seed));
        Mixture::new(BaseTaskGenerator::new(natural, seed), tasks.map(beside), seed)
    };
    let learned = mixture(train, trajectories.train, seed);
    let judging = mixture(held_out, trajectories.held_out, seed + 1000);
    let looked_at = Looked {
        natural: (0..LOOK_TASKS).filter_map(|number| judging.natural(number)).collect(),
        trajectories: (0..LOOK_TASKS).filter_map(|number| judging.beside(number)).collect(),
    };
    let replay: Vec<BaseTask> = (0..REPLAY_TASKS).filter_map(|number| learned.learned(number)).collect();
    write_tasks(&export.join("replay.jsonl"), &replay)?;
    let old_skills: Vec<BaseTask> =
        (OLD_SKILLS_FROM..OLD_SKILLS_FROM + OLD_SKILLS).filter_map(|number| judging.judged(number)).collect();
    write_tasks(&export.join("old_skills.jsonl"), &old_skills)?;
    let provenance = json!({
        "format": 1, "code_version": CODE_VERSION, "steps": arguments.steps, "made_of": made_of,
    });
    std::fs::write(export.join("sources.json"), listed)?;
    std::fs::write(export.join("provenance.json"), serde_json::to_string_pretty(&provenance)? + "\n")?;

    let special = tokenizer.special();
    let architecture = ModelConfig {
        written_vocab_size: Some(tokenizer.written_size()),
        ..ModelConfig::base(tokenizer.vocabulary_size(), special.start, special.stop)
    };
    let config = PretrainConfig {
        steps: arguments.steps,
        seed,
        source: digest,
        device: arguments.device,
        checkpoint: Some(output.join("checkpoint")),
        ..PretrainConfig::default()
    };
    let source = move |number| learned.learned(number);

    let bar = ProgressBar::new(config.steps as u64);
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} steps, {eta} to go  {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let save = |model: &EditModel, step: usize| {
        let mut manifest = ModelManifest::new("flywheel-base", "pretrain", CODE_VERSION);
        manifest.details.insert("steps".to_owned(), step.into());
        manifest.details.insert("seed".to_owned(), seed.into());
        model.save(&export, manifest)
    };
    let started = Instant::now();
    let (mut look, mut failed) = (String::new(), None);
    let model = pretrain(&config, architecture.clone(), &tokenizer, &source, &mut |progress, engine| {
        bar.set_position(progress.step as u64);
        if progress.step.is_multiple_of(LOOK_EVERY) {
            let answered = as_shipped(&architecture, engine.weights(), &tokenizer)
                .map_err(anyhow::Error::from)
                .and_then(|model| {
                    save(&model, progress.step)?;
                    looked_at.told(&model, config.threads)
                });
            match answered {
                Ok(told) => look = told,
                Err(error) => {
                    failed = Some(error);
                    return Next::Stop;
                }
            }
        }
        let line = format!("loss {:.3}, {:.0} tokens/s  {look}", progress.loss, progress.tokens_per_second);
        if bar.is_hidden() && progress.step.is_multiple_of(LINE_EVERY) {
            // A pipe that nobody reads any more must not end an hour of work.
            let _ = crate::table::print(&format!("step {}: {line}", progress.step));
        }
        bar.set_message(line);
        Next::Continue
    })?;
    if let Some(error) = failed {
        return Err(Failure::Broke(error));
    }
    let model = as_shipped(&architecture, model.weights(), &tokenizer)?;
    save(&model, config.steps)?;
    bar.finish();
    let told = looked_at.told(&model, config.threads)?;
    let seconds = started.elapsed().as_secs_f64();
    crate::table::print(&format!("{} after {seconds:.0} s: {told}", export.display()))?;
    Ok(ExitCode::SUCCESS)
}
