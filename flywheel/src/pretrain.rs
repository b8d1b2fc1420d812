//! `flywheel pretrain`: remakes the base model from its sources, resumable at any step.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use edit_model::{CodeTokenizer, DecodeOptions, EditModel, ModelConfig, ModelManifest};
use indicatif::{ProgressBar, ProgressStyle};
use simulator::convention::RULES;
use simulator::random::Dice;
use simulator::{BaseCorpus, BaseManifest, BaseTaskGenerator, EditTask, Split, TaskKind};
use trainer::evaluation::{TaskSummary, answer_tasks};
use trainer::pretrain::{Next, PretrainConfig, run as pretrain};
use trainer::{BaseTask, InventedTeams, write_tasks};

use crate::cli::PretrainArgs;
use crate::failure::Failure;

/// Most bytes of one package: no package should dominate.
const PACKAGE_BYTES: usize = 400_000;
const VOCABULARY: usize = 2048;
/// Held-out tasks that are answered while training goes on.
const LOOK_TASKS: usize = 200;
const LOOK_EVERY: usize = 500;
/// Base tasks that ship for replay, and held-out ones that judge what was forgotten.
const REPLAY_TASKS: u64 = 1500;
const OLD_SKILLS: u64 = 200;
/// Invented teams: repositories whose names decide about an affix, so that names are worth attending to. None of their
/// affixes is one that a demo may draw later.
const TEAMS: usize = 96;
const TEAM_WORDS: usize = 600;

fn base_task(task: EditTask) -> BaseTask {
    BaseTask { context: task.context, wanted: task.wanted }
}

fn is_identifier(text: &str) -> bool {
    text.chars().all(|character| character == '_' || character.is_ascii_alphanumeric())
}

fn words_for_teams(corpus: &BaseCorpus, seed: u64) -> Vec<String> {
    let known: Vec<String> = RULES.iter().map(|rule| format!("{rule:?}").to_lowercase()).collect();
    let mut dice = Dice::new(seed, "invented teams", &[]);
    (0..TEAM_WORDS)
        .map(|_| corpus.words().word(&mut dice).to_owned())
        .filter(|word| word.len() <= 9 && known.iter().all(|rule| !rule.contains(word.as_str())))
        .collect()
}

fn tokenizer(output: &Path, files: &[simulator::SourceFile]) -> Result<CodeTokenizer, Failure> {
    let path = output.join("tokenizer.json");
    if path.exists() {
        return Ok(CodeTokenizer::load(&path)?);
    }
    let tokenizer = CodeTokenizer::train(files.iter().step_by(3).map(|file| &*file.text), VOCABULARY)?;
    std::fs::write(&path, tokenizer.to_json()?)?;
    Ok(tokenizer)
}

/// Trains and writes `OUTPUT/export`: the files of `edit-model/base`.
pub(crate) fn run(arguments: &PretrainArgs) -> Result<ExitCode, Failure> {
    let output = &arguments.output;
    let export = output.join("export");
    std::fs::create_dir_all(&export)
        .map_err(|error| Failure::refused(format!("{} can not be written: {error}", output.display())))?;
    let manifest_file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../edit-model/base/sources.json");
    let manifest = BaseManifest::read(&manifest_file).map_err(Failure::refuse)?;
    let files = manifest.load(&arguments.sources, PACKAGE_BYTES).map_err(Failure::refuse)?;
    let tokenizer = tokenizer(output, &files)?;
    let train = Arc::new(BaseCorpus::index(files.clone(), Split::Train)?);
    let held_out = Arc::new(BaseCorpus::index(files, Split::HeldOut)?);
    let seed = arguments.seed;
    let generator = BaseTaskGenerator::new(Arc::clone(&train), seed);
    let held_out = BaseTaskGenerator::new(held_out, seed + 1000);
    let tasks = |from: &BaseTaskGenerator, numbers: std::ops::Range<u64>| -> Vec<BaseTask> {
        numbers.filter_map(|number| from.task_at(number)).map(base_task).collect()
    };
    let looked_at = tasks(&held_out, 0..LOOK_TASKS as u64);
    write_tasks(&export.join("replay.jsonl"), &tasks(&generator, 0..REPLAY_TASKS))?;
    write_tasks(&export.join("old_skills.jsonl"), &tasks(&held_out, 100_000..100_000 + OLD_SKILLS))?;

    let special = tokenizer.special();
    let architecture = ModelConfig::base(tokenizer.vocabulary_size(), special.start, special.stop);
    let defaults = PretrainConfig::default();
    let config = PretrainConfig {
        steps: arguments.steps.unwrap_or(defaults.steps),
        seed,
        checkpoint: Some(output.join("checkpoint")),
        ..defaults
    };
    let teams = InventedTeams::new(seed, TEAMS, &words_for_teams(&train, seed));
    let source = move |number| {
        let task = generator.task_at(number)?;
        let renames_function = task.kind == TaskKind::Plain
            && task.symbol.is_function()
            && task.wanted.actions.iter().all(|action| is_identifier(&action.new_text));
        Some(teams.apply(base_task(task), number, renames_function))
    };

    let bar = ProgressBar::new(config.steps as u64);
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} steps, {eta} to go  {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let save = |model: &EditModel, step: usize| {
        let mut manifest = ModelManifest::new("flywheel-base", "pretrain", env!("CARGO_PKG_VERSION"));
        manifest.details.insert("steps".to_owned(), step.into());
        manifest.details.insert("seed".to_owned(), seed.into());
        model.save(&export, manifest)
    };
    let started = Instant::now();
    let (mut look, mut failed) = (String::new(), None);
    let model = pretrain(&config, architecture.clone(), &tokenizer, &source, &mut |progress, engine| {
        bar.set_position(progress.step as u64);
        if progress.step.is_multiple_of(LOOK_EVERY) {
            let answered = EditModel::new(architecture.clone(), engine.weights().to_vec(), tokenizer.clone())
                .map_err(anyhow::Error::from)
                .and_then(|model| {
                    save(&model, progress.step)?;
                    Ok(TaskSummary::of(&answer_tasks(&model, &looked_at, &DecodeOptions::default(), config.threads)?))
                });
            match answered {
                Ok(summary) => {
                    look = format!(
                        "held out: {:.0}% exact, {:.0}% rightly silent",
                        summary.exact * 100.0,
                        summary.silent * 100.0
                    );
                }
                Err(error) => {
                    failed = Some(error);
                    return Next::Stop;
                }
            }
        }
        bar.set_message(format!("loss {:.3}, {:.0} tokens/s  {look}", progress.loss, progress.tokens_per_second));
        Next::Continue
    })?;
    if let Some(error) = failed {
        return Err(Failure::Broke(error));
    }
    save(&model, config.steps)?;
    bar.finish();
    let summary = TaskSummary::of(&answer_tasks(&model, &looked_at, &DecodeOptions::default(), config.threads)?);
    crate::table::print(&format!(
        "{} after {:.0} s: {:.1}% of held-out edits exact, {:.1}% of silences right",
        export.display(),
        started.elapsed().as_secs_f64(),
        summary.exact * 100.0,
        summary.silent * 100.0
    ))?;
    Ok(ExitCode::SUCCESS)
}
