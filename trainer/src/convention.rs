//! How fast a model learns a habit: a few steps on corrections, then tasks it has never seen.

use std::collections::BTreeMap;

use edit_model::{DecodeOptions, EditModel};
use serde::{Deserialize, Serialize};

use crate::error::TrainerError;
use crate::evaluation::{TaskOutcome, TaskSummary, answer_tasks};
use crate::examples::BaseTask;
use crate::methods::{MethodConfig, train_from_anchor};
use crate::pairs::TrainingPair;

/// What is taught and what is judged.
#[derive(Debug, Clone, Copy)]
pub struct ConventionTrial<'a> {
    /// What developers did: corrections, where chosen follows the convention and rejected is the plain form, and what
    /// they accepted beside them.
    pub pairs: &'a [TrainingPair],
    /// Tasks that want the convention, none of them taught.
    pub convention_tasks: &'a [BaseTask],
    /// Tasks of the same repositories that follow no convention or want no edit, none of them taught.
    pub other_tasks: &'a [BaseTask],
    /// The base's old skills, from files it was not trained on.
    pub old_skills: &'a [BaseTask],
    /// Base tasks replayed while teaching.
    pub replay: &'a [BaseTask],
}

/// What one trial measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConventionReport {
    /// Settings of the run.
    pub config: MethodConfig,
    /// Pairs given.
    pub pairs: usize,
    /// The convention before.
    pub convention_before: TaskSummary,
    /// The convention after.
    pub convention_after: TaskSummary,
    /// The convention after, by repository.
    pub convention_by_repository: BTreeMap<String, TaskSummary>,
    /// The other tasks before.
    pub other_before: TaskSummary,
    /// The other tasks after.
    pub other_after: TaskSummary,
    /// Old skills before.
    pub old_before: TaskSummary,
    /// Old skills after.
    pub old_after: TaskSummary,
    /// Mean log p of the chosen side before.
    pub chosen_log_p_before: f64,
    /// Mean log p of the chosen side after.
    pub chosen_log_p_after: f64,
    /// Seconds of training.
    pub training_seconds: f64,
    /// Seconds of a step.
    pub seconds_per_step: f64,
    /// Tokens read in each second of training.
    pub tokens_per_second: f64,
}

/// Teaches `base` the corrections and judges it before and after, in the precision it would be served in.
///
/// # Errors
/// As training and answering.
pub fn measure(
    base: &EditModel,
    config: &MethodConfig,
    trial: &ConventionTrial<'_>,
) -> Result<ConventionReport, TrainerError> {
    let options = DecodeOptions::default();
    let answer = |model: &EditModel, tasks: &[BaseTask]| answer_tasks(model, tasks, &options, config.threads);
    let judge = |model: &EditModel, tasks: &[BaseTask]| answer(model, tasks).map(|outcomes| TaskSummary::of(&outcomes));
    let convention_before = judge(base, trial.convention_tasks)?;
    let other_before = judge(base, trial.other_tasks)?;
    let old_before = judge(base, trial.old_skills)?;
    let trained =
        train_from_anchor(config, base.network(), base.weights(), base.tokenizer(), trial.pairs, trial.replay)?;
    let taught = base.with_weights(trained.weights)?.in_served_precision()?;
    let outcomes = answer(&taught, trial.convention_tasks)?;
    let mut by_repository: BTreeMap<&str, Vec<TaskOutcome>> = BTreeMap::new();
    for (task, outcome) in trial.convention_tasks.iter().zip(&outcomes) {
        by_repository.entry(&task.context.repository).or_default().push(*outcome);
    }
    let last = trained.history.last();
    let training_seconds = last.map_or(0.0, |progress| progress.seconds);
    Ok(ConventionReport {
        config: config.clone(),
        pairs: trial.pairs.len(),
        convention_before,
        convention_after: TaskSummary::of(&outcomes),
        convention_by_repository: (by_repository.into_iter())
            .map(|(repository, outcomes)| (repository.to_owned(), TaskSummary::of(&outcomes)))
            .collect(),
        other_before,
        other_after: judge(&taught, trial.other_tasks)?,
        old_before,
        old_after: judge(&taught, trial.old_skills)?,
        chosen_log_p_before: trained.chosen_log_p_before,
        chosen_log_p_after: trained.chosen_log_p_after,
        training_seconds,
        seconds_per_step: training_seconds / config.steps.max(1) as f64,
        tokens_per_second: last.map_or(0.0, |progress| progress.tokens as f64) / training_seconds.max(1e-9),
    })
}
