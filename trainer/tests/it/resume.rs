use std::path::Path;

use edit_model::EditModel;
use proptest::prelude::*;
use trainer::methods::{Method, MethodConfig, MethodData, TrainedWeights, fine_tuning_engine, train};
use trainer::{BaseTask, Checkpoint, TrainerError, TrainingPair};

use crate::fixture::{correction, model, silence, task};

const STEPS: usize = 9;

/// What a run needs, without what a kill takes.
struct Run<'a> {
    config: &'a MethodConfig,
    model: &'a EditModel,
    data: &'a MethodData,
    checkpoint: &'a Path,
    /// Steps between checkpoints.
    every: usize,
}

impl Run<'_> {
    /// Goes on from the last checkpoint, or begins, and is killed after the step `killed_at`.
    fn go_on(&self, killed_at: Option<usize>) -> Result<TrainedWeights, TrainerError> {
        let Self { config, model, data, .. } = self;
        let (first_step, weights, optimizer) = match Checkpoint::read(self.checkpoint)? {
            Some(saved) => (saved.header.step, saved.weights, Some(saved.optimizer)),
            None => (0, data.first_weights(model.network(), model.weights()), None),
        };
        let engine = fine_tuning_engine(config, data, model.network(), model.tokenizer(), weights, optimizer)?;
        train(config, data, engine, first_step, model.weights(), &mut |progress, engine| {
            if progress.step.is_multiple_of(self.every) && progress.step < progress.steps {
                Checkpoint::write(self.checkpoint, progress.step, "run", engine.weights(), engine.optimizer())?;
            }
            if killed_at == Some(progress.step) {
                return Err(TrainerError::Job("killed".to_owned()));
            }
            Ok(())
        })
    }
}

fn bits(trained: &TrainedWeights) -> Vec<u32> {
    trained.weights.iter().map(|weight| weight.to_bits()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn a_run_that_was_killed_at_any_steps_ends_as_one_that_was_not(
        method in prop::sample::select(Method::ALL.to_vec()),
        kills in prop::collection::vec(1..=STEPS, 1..4),
        (every, threads, seed) in (1..5_usize, 1..4_usize, any::<u64>()),
        torn in any::<bool>(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = folder.path().join("checkpoint");
        let model = model(1);
        let pairs: Vec<TrainingPair> = (0..10).map(correction).chain((0..6).map(silence)).collect();
        let replay: Vec<BaseTask> = (0..20).map(task).collect();
        let config = MethodConfig {
            method,
            steps: STEPS,
            batch_pairs: 5,
            batch_replay: 3,
            learning_rate: 1e-3,
            seed,
            threads,
            ..MethodConfig::default()
        };
        // A process that begins again prepares again.
        let prepare = || {
            MethodData::prepare(&config, model.network(), model.weights(), model.tokenizer(), &pairs, &replay).unwrap()
        };
        let never = folder.path().join("never");
        let whole = Run { config: &config, model: &model, data: &prepare(), checkpoint: &never, every: STEPS }
            .go_on(None)
            .unwrap();
        for killed_at in kills {
            let run = Run { config: &config, model: &model, data: &prepare(), checkpoint: &checkpoint, every };
            // A run that is past this step already goes on to its end.
            match run.go_on(Some(killed_at)) {
                Ok(trained) => prop_assert_eq!(bits(&trained), bits(&whole)),
                Err(error) => prop_assert_eq!(error.to_string(), "the job is refused: killed"),
            }
            if torn {
                // A kill in the middle of a checkpoint leaves a part of it beside the last.
                std::fs::write(folder.path().join("checkpoint.part"), b"FLYCKPT1 and then").unwrap();
            }
        }
        let run = Run { config: &config, model: &model, data: &prepare(), checkpoint: &checkpoint, every };
        let resumed = run.go_on(None).unwrap();
        prop_assert_eq!(bits(&resumed), bits(&whole));
        prop_assert_eq!(resumed.chosen_log_p_after.to_bits(), whole.chosen_log_p_after.to_bits());
    }
}
