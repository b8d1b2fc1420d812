//! Pretrains the base model on the packages of `edit-model/base/sources.json`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use edit_model::{CodeTokenizer, DecodeOptions, EditModel, ModelConfig, ModelManifest};
use simulator::{BaseCorpus, BaseManifest, BaseTaskGenerator, EditTask, Split, TaskKind};
use trainer::evaluation::{TaskSummary, answer_tasks};
use trainer::pretrain::{Next, PretrainConfig, run};
use trainer::{BaseTask, InventedTeams, OptimizerConfig};

fn base_task(task: EditTask) -> BaseTask {
    BaseTask { context: task.context, wanted: task.wanted }
}

fn is_identifier(text: &str) -> bool {
    text.chars().all(|character| character == '_' || character.is_ascii_alphanumeric())
}

fn setting<T: std::str::FromStr>(name: &str, default: T) -> T {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

#[allow(clippy::print_stdout, reason = "an example talks to its terminal")]
fn main() -> anyhow::Result<()> {
    let output = PathBuf::from(setting("OUTPUT", "/tmp/pretrain".to_owned()));
    std::fs::create_dir_all(&output)?;
    let threads = setting("THREADS", 2);
    let manifest = BaseManifest::read(Path::new("edit-model/base/sources.json"))?;
    let cache = simulator::default_source_cache().context("no cache folder")?;
    let started = Instant::now();
    let files = manifest.load(&cache, setting("PACKAGE_BYTES", 400_000))?;
    println!("files {} bytes {}", files.len(), files.iter().map(|file| file.text.len()).sum::<usize>());

    let tokenizer_path = output.join("tokenizer.json");
    let tokenizer = if tokenizer_path.exists() {
        let tokenizer = CodeTokenizer::load(&tokenizer_path)?;
        std::fs::write(&tokenizer_path, tokenizer.to_json()?)?;
        tokenizer
    } else {
        let texts = files.iter().step_by(3).map(|file| &*file.text);
        let tokenizer = CodeTokenizer::train(texts, 2048)?;
        std::fs::write(&tokenizer_path, tokenizer.to_json()?)?;
        tokenizer
    };
    println!("tokenizer {} tokens after {:.1} s", tokenizer.vocabulary_size(), started.elapsed().as_secs_f64());

    let train = Arc::new(BaseCorpus::index(files.clone(), Split::Train)?);
    let held_out = Arc::new(BaseCorpus::index(files, Split::HeldOut)?);
    println!(
        "places {} and {} after {:.1} s",
        train.place_count(),
        held_out.place_count(),
        started.elapsed().as_secs_f64()
    );
    let seed = setting("SEED", 1);
    if std::env::var_os("TOKENIZER_ONLY").is_some() {
        return Ok(());
    }
    let generator = BaseTaskGenerator::new(train.clone(), seed);
    let held_out = BaseTaskGenerator::new(held_out, seed + 1000);
    let probe: Vec<BaseTask> = (0..setting("PROBE", 200)).filter_map(|n| held_out.task_at(n)).map(base_task).collect();

    let special = tokenizer.special();
    let architecture = ModelConfig::base(tokenizer.vocabulary_size(), special.start, special.stop);
    let config = PretrainConfig {
        steps: setting("STEPS", 6000),
        batch_tasks: setting("BATCH", 32),
        optimizer: OptimizerConfig { learning_rate: setting("RATE", 2e-3), ..OptimizerConfig::default() },
        threads,
        seed,
        checkpoint: Some(output.join("checkpoint")),
        ..PretrainConfig::default()
    };
    let every = setting("EVERY", 250);
    let deadline = Duration::from_secs(setting("SECONDS", 100_000));
    // No affix of a rule that teams may draw later is taught here.
    let known: Vec<String> =
        simulator::convention::RULES.iter().map(|rule| format!("{rule:?}").to_lowercase()).collect();
    let mut dice = simulator::random::Dice::new(seed, "invented teams", &[]);
    let words: Vec<String> = (0..600)
        .map(|_| train.words().word(&mut dice).to_owned())
        .filter(|word| word.len() <= 9 && known.iter().all(|rule| !rule.contains(word.as_str())))
        .collect();
    let teams = InventedTeams::new(seed, edit_model::INVENTED_SLOTS, &words);
    let source = move |index| {
        let task = generator.task_at(index)?;
        let renames_function = task.kind == TaskKind::Plain
            && task.symbol.is_function()
            && task.wanted.actions.iter().all(|action| is_identifier(&action.new_text));
        Some(teams.apply(base_task(task), index, renames_function))
    };
    let mut losses = Vec::new();
    let model = run(&config, architecture.clone(), &tokenizer, &source, &mut |progress, engine| {
        losses.push(progress.loss);
        if progress.step.is_multiple_of(25) {
            let mean = losses.iter().sum::<f64>() / losses.len() as f64;
            losses.clear();
            println!(
                "step {} loss {mean:.4} norm {:.2} tokens {} {:.0} tokens/s tasks {:.0}% of the time",
                progress.step,
                progress.gradient_norm,
                progress.tokens,
                progress.tokens_per_second,
                100.0 * progress.task_seconds / progress.seconds
            );
        }
        if progress.step.is_multiple_of(every) {
            let look =
                EditModel::new(architecture.clone(), engine.weights().to_vec(), tokenizer.clone()).and_then(|model| {
                    let mut manifest = ModelManifest::new("flywheel-base", "pretrain", env!("CARGO_PKG_VERSION"));
                    manifest.details.insert("step".to_owned(), progress.step.into());
                    model.save(&output.join("export"), manifest)?;
                    Ok(model)
                });
            match look
                .map_err(trainer::TrainerError::from)
                .and_then(|model| answer_tasks(&model, &probe, &DecodeOptions::default(), threads))
            {
                Ok(outcomes) => println!("step {} {:?}", progress.step, TaskSummary::of(&outcomes)),
                Err(error) => println!("step {}: {error}", progress.step),
            }
        }
        if started.elapsed() >= deadline { Next::Stop } else { Next::Continue }
    })?;
    let manifest = ModelManifest::new("flywheel-base", "pretrain", env!("CARGO_PKG_VERSION"));
    model.save(&output.join("export"), manifest)?;
    println!("done after {:.0} s", started.elapsed().as_secs_f64());
    Ok(())
}
