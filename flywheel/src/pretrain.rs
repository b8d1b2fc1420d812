//! `flywheel pretrain`: remakes the base model from its sources, resumable at any step.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use edit_model::dialect::Habit;
use edit_model::{CodeTokenizer, DecodeOptions, EditModel, ModelConfig, ModelManifest};
use indicatif::{ProgressBar, ProgressStyle};
use simulator::{BaseCorpus, BaseManifest, BaseTaskGenerator, EditTask, HabitTask, SpelledHabit, Split};
use trainer::evaluation::{TaskSummary, answer_tasks};
use trainer::pretrain::{Next, PretrainConfig, as_shipped, run as pretrain};
use trainer::{BaseTask, write_tasks};

use crate::cli::{CODE_VERSION, PretrainArgs};
use crate::failure::Failure;

/// Most bytes of one package: no package should dominate.
pub(crate) const PACKAGE_BYTES: usize = 400_000;
const VOCABULARY: usize = 2048;
/// Held-out tasks that are answered while training goes on.
const LOOK_TASKS: u64 = 200;
const LOOK_EVERY: usize = 500;
/// Base tasks that ship for replay, and held-out ones that judge what was forgotten.
const REPLAY_TASKS: u64 = 1500;
const OLD_SKILLS: u64 = 200;
/// How often progress is written where there is no terminal to draw a bar on.
const LINE_EVERY: usize = 50;

fn base_task(task: EditTask) -> BaseTask {
    BaseTask { context: task.context, wanted: task.wanted, habit: Habit::Untaught }
}

fn habit_task(HabitTask { task, habit }: HabitTask) -> BaseTask {
    let habit = match habit {
        None => Habit::Untaught,
        Some(SpelledHabit { before, after }) => Habit::Spelled { before, after },
    };
    BaseTask { habit, ..base_task(task) }
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
    trainer::probe(arguments.device).map_err(Failure::refuse)?;
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
    let tasks = |numbers: std::ops::Range<u64>| -> Vec<BaseTask> {
        numbers.filter_map(|number| held_out.task_at(number)).map(base_task).collect()
    };
    let looked_at = tasks(0..LOOK_TASKS);
    let replay: Vec<BaseTask> =
        (0..REPLAY_TASKS).filter_map(|number| generator.habit_task_at(number)).map(habit_task).collect();
    write_tasks(&export.join("replay.jsonl"), &replay)?;
    write_tasks(&export.join("old_skills.jsonl"), &tasks(100_000..100_000 + OLD_SKILLS))?;

    let special = tokenizer.special();
    let architecture = ModelConfig {
        written_vocab_size: Some(tokenizer.written_size()),
        ..ModelConfig::base(tokenizer.vocabulary_size(), special.start, special.stop)
    };
    let config = PretrainConfig {
        steps: arguments.steps,
        seed,
        device: arguments.device,
        checkpoint: Some(output.join("checkpoint")),
        ..PretrainConfig::default()
    };
    let source = move |number| generator.habit_task_at(number).map(habit_task);

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
