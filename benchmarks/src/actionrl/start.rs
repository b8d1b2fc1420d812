//! The small model of the first stages: the shipped base's tokenizer, tasks and way of pretraining, in at most a million
//! parameters. It is made once, in pieces, and kept with the runs.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use edit_model::dialect::Habit;
use edit_model::{CodeTokenizer, EditModel, MANIFEST_FILE, ModelConfig, ModelManifest};
use simulator::{BaseCorpus, BaseTaskGenerator, HabitTask, SpelledHabit, Split};
use trainer::BaseTask;
use trainer::pretrain::{Next, PretrainConfig, as_shipped, run as pretrain};

use crate::convention::base_files;
use crate::measurement::tell;

/// Copying appears late in models that are small.
const STEPS: usize = 4_000;
const SEED: u64 = 1;
const TELL_EVERY: usize = 200;

fn architecture(tokenizer: &CodeTokenizer) -> ModelConfig {
    let special = tokenizer.special();
    ModelConfig {
        hidden_size: 96,
        intermediate_size: 256,
        num_attention_heads: 3,
        num_key_value_heads: 3,
        written_vocab_size: Some(tokenizer.written_size()),
        ..ModelConfig::base(tokenizer.vocabulary_size(), special.start, special.stop)
    }
}

fn base_task(HabitTask { task, habit }: HabitTask) -> BaseTask {
    let habit = match habit {
        None => Habit::Untaught,
        Some(SpelledHabit { before, after }) => Habit::Spelled { before, after },
    };
    BaseTask { context: task.context, wanted: task.wanted, habit }
}

/// The small model in `folder`; none when `until` came before it was finished.
pub(super) fn small_model(
    folder: &Path,
    tokenizer: &CodeTokenizer,
    threads: usize,
    until: Instant,
) -> anyhow::Result<Option<EditModel>> {
    if folder.join(MANIFEST_FILE).is_file() {
        return Ok(Some(EditModel::load(folder)?));
    }
    std::fs::create_dir_all(folder).with_context(|| format!("{} can not be made", folder.display()))?;
    let corpus = Arc::new(BaseCorpus::index(base_files()?, Split::Train)?);
    let generator = BaseTaskGenerator::new(corpus, SEED);
    let source = move |number| generator.habit_task_at(number).map(base_task);
    let config = PretrainConfig {
        steps: STEPS,
        seed: SEED,
        threads,
        checkpoint: Some(folder.join("checkpoint")),
        ..PretrainConfig::default()
    };
    let architecture = architecture(tokenizer);
    let mut is_stopped = false;
    let model = pretrain(&config, architecture.clone(), tokenizer, &source, &mut |progress, _| {
        if progress.step.is_multiple_of(TELL_EVERY) {
            let (step, loss) = (progress.step, progress.loss);
            tell(&format!("actionrl: the small model, step {step} of {STEPS}, loss {loss:.3}"));
        }
        is_stopped = progress.step < STEPS && Instant::now() >= until;
        if is_stopped { Next::Stop } else { Next::Continue }
    })?;
    if is_stopped {
        return Ok(None);
    }
    let model = as_shipped(&architecture, model.weights(), tokenizer)?.in_served_precision()?;
    model.save(folder, ModelManifest::new("flywheel-small", "pretrain", env!("CARGO_PKG_VERSION")))?;
    Ok(Some(model))
}

#[cfg(test)]
mod tests {
    use edit_model::Network;

    use super::*;
    use crate::convention::base_folder;

    #[test]
    fn the_small_model_has_at_most_a_million_parameters() {
        let tokenizer = CodeTokenizer::load(&base_folder().join("tokenizer.json")).unwrap();
        let parameters = Network::new(architecture(&tokenizer)).unwrap().parameter_count();
        assert!((500_000..=1_000_000).contains(&parameters), "{parameters}");
    }
}
