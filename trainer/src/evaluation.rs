//! What a model does on tasks with one right answer: exact match where an edit is wanted, silence where none is.

use std::collections::BTreeMap;

use edit_model::{DecodeOptions, Device, EditModel};
use events::{EditContext, apply_actions};
use serde::{Deserialize, Serialize};

use crate::device::backends;
use crate::engine::log_probabilities;
use crate::error::TrainerError;
use crate::examples::{BaseTask, TokenWeights, base_group};
use crate::gate::{UTILITY_MATCH, UTILITY_WRONG};
use crate::syntax::introduces_errors;

/// How one task was answered.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TaskOutcome {
    /// Whether an edit was wanted.
    pub wants_edit: bool,
    /// Whether the model spoke.
    pub shown: bool,
    /// Whether the first action is one of those wanted, in effect (for a task that wants none: whether it was silent).
    pub first_matches: bool,
    /// Whether the window after the answer is exactly the wanted one.
    pub exact: bool,
    /// Probability of speaking.
    pub gate_score: f32,
    /// Whether what was shown breaks the syntax of the window; none where nothing was, or nothing is known.
    pub breaks_syntax: Option<bool>,
}

/// Outcomes in one line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct TaskSummary {
    /// Tasks that want an edit.
    pub edits: usize,
    /// Share of them answered exactly.
    pub exact: f64,
    /// Share of them whose first action is right.
    pub first_matches: f64,
    /// Share of them on which the model spoke.
    pub edits_shown: f64,
    /// Tasks that want none.
    pub silences: usize,
    /// Share of them on which the model was silent.
    pub silent: f64,
    /// Share of what was shown, on either, that breaks the syntax of the window, of what can be parsed.
    #[serde(default)]
    pub parse_errors: f64,
}

impl TaskSummary {
    /// Sums up outcomes.
    #[must_use]
    pub fn of(outcomes: &[TaskOutcome]) -> Self {
        let share = |count: usize, total: usize| if total == 0 { 0.0 } else { count as f64 / total as f64 };
        let edits: Vec<&TaskOutcome> = outcomes.iter().filter(|outcome| outcome.wants_edit).collect();
        let silences = outcomes.len() - edits.len();
        let count = |test: fn(&TaskOutcome) -> bool| edits.iter().filter(|outcome| test(outcome)).count();
        let parsed = outcomes.iter().filter_map(|outcome| outcome.breaks_syntax);
        let silent = outcomes.iter().filter(|outcome| !outcome.wants_edit && !outcome.shown).count();
        Self {
            edits: edits.len(),
            exact: share(count(|outcome| outcome.exact), edits.len()),
            first_matches: share(count(|outcome| outcome.first_matches), edits.len()),
            edits_shown: share(count(|outcome| outcome.shown), edits.len()),
            silences,
            silent: share(silent, silences),
            parse_errors: share(parsed.clone().filter(|breaks| *breaks).count(), parsed.count()),
        }
    }
}

impl TaskSummary {
    /// Utility per opportunity over `summaries` together, by the formula of the gate: a first action that is right is
    /// worth [`UTILITY_MATCH`], one that is shown and is not [`UTILITY_WRONG`], silence 0.
    #[must_use]
    pub fn utility(summaries: &[Self]) -> f64 {
        let (mut sum, mut tasks) = (0.0, 0.0);
        for summary in summaries {
            let (edits, silences) = (summary.edits as f64, summary.silences as f64);
            let right = summary.first_matches * edits;
            let shown = summary.edits_shown * edits + (1.0 - summary.silent) * silences;
            sum += UTILITY_MATCH * right + UTILITY_WRONG * (shown - right);
            tasks += edits + silences;
        }
        sum / f64::max(tasks, 1.0)
    }
}

fn window_after(context: &EditContext, actions: &[events::EditAction]) -> Option<String> {
    apply_actions(context.window.start_byte, &context.window.text, actions)
}

/// Whether `action` alone has the effect of one of `wanted` alone.
#[must_use]
pub fn matches_one(context: &EditContext, action: &events::EditAction, wanted: &[events::EditAction]) -> bool {
    let Some(after) = window_after(context, std::slice::from_ref(action)) else { return false };
    wanted.iter().any(|other| window_after(context, std::slice::from_ref(other)).as_ref() == Some(&after))
}

/// Asks `model` one task.
///
/// # Errors
/// [`TrainerError::Model`] when the context is unusable.
pub fn answer_task(model: &EditModel, task: &BaseTask, options: &DecodeOptions) -> Result<TaskOutcome, TrainerError> {
    let completion = model.complete(&task.context, options, &|| false, &mut |_| {})?;
    let actions = &completion.actions.actions;
    let wants_edit = !task.wanted.is_no_edit();
    let first_matches = match actions.first() {
        Some(action) => matches_one(&task.context, action, &task.wanted.actions),
        None => !wants_edit,
    };
    let after = window_after(&task.context, actions);
    let breaks_syntax = if actions.is_empty() {
        None
    } else {
        let (language, before) = (&task.context.language, &task.context.window.text);
        after.as_ref().and_then(|after| introduces_errors(language, before, after))
    };
    let exact = after == window_after(&task.context, &task.wanted.actions);
    let (shown, gate_score) = (!actions.is_empty(), completion.gate_score);
    Ok(TaskOutcome { wants_edit, shown, first_matches, exact, gate_score, breaks_syntax })
}

/// Asks `model` every task, on `threads` threads; the order is kept.
///
/// # Errors
/// [`TrainerError::Model`] when a context is unusable.
pub fn answer_tasks(
    model: &EditModel,
    tasks: &[BaseTask],
    options: &DecodeOptions,
    threads: usize,
) -> Result<Vec<TaskOutcome>, TrainerError> {
    in_parallel(tasks, threads, |task| answer_task(model, task, options))
}

/// What some answers cost.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct AnswerBits {
    /// Bits of all their tokens.
    pub(crate) bits: f64,
    /// Bytes of text in their actions, old and new.
    pub(crate) bytes: usize,
}

impl AnswerBits {
    pub(crate) fn per_byte(&self) -> f64 {
        self.bits / self.bytes.max(1) as f64
    }
}

/// What the wanted edits of `tasks` cost `model`, by language: tokenizers may cut the same text otherwise, bytes they can
/// not. Tasks that want none write no text and count nowhere.
///
/// # Errors
/// [`TrainerError::Model`] for a sequence that the network cannot take.
pub(crate) fn bits_by_language(
    model: &EditModel,
    tasks: &[BaseTask],
    threads: usize,
) -> Result<BTreeMap<String, AnswerBits>, TrainerError> {
    let weights = TokenWeights { answer: 1.0, prompt: 0.0 };
    let (mut written, mut sequences) = (Vec::new(), Vec::new());
    for task in tasks.iter().filter(|task| !task.wanted.is_no_edit()) {
        if let Some(group) = base_group(model.tokenizer(), task, weights, 0) {
            written.push(task);
            sequences.extend(group.sequences);
        }
    }
    let backends = backends(Device::Cpu, model.network(), threads)?;
    let values = log_probabilities(backends, model.weights(), &sequences)?;
    let mut by_language: BTreeMap<String, AnswerBits> = BTreeMap::new();
    for (task, log_p) in written.into_iter().zip(values) {
        let cost = by_language.entry(task.context.language.clone()).or_default();
        cost.bits -= log_p.iter().map(|value| f64::from(*value)).sum::<f64>() / std::f64::consts::LN_2;
        cost.bytes +=
            task.wanted.actions.iter().map(|action| action.old_text.len() + action.new_text.len()).sum::<usize>();
    }
    Ok(by_language)
}

/// Bits that a byte of the wanted edits of `tasks` costs `model`, in all languages together.
///
/// # Errors
/// [`TrainerError::Model`] for a sequence that the network cannot take.
pub fn bits_per_byte(model: &EditModel, tasks: &[BaseTask], threads: usize) -> Result<f64, TrainerError> {
    let mut all = AnswerBits::default();
    for cost in bits_by_language(model, tasks, threads)?.into_values() {
        all.bits += cost.bits;
        all.bytes += cost.bytes;
    }
    Ok(all.per_byte())
}

/// Applies `work` to every item on `threads` threads; the order is kept.
///
/// # Errors
/// The first error of the first thread that has one.
pub fn in_parallel<T: Sync, R: Send>(
    items: &[T],
    threads: usize,
    work: impl Fn(&T) -> Result<R, TrainerError> + Sync,
) -> Result<Vec<R>, TrainerError> {
    let share = items.len().div_ceil(threads.max(1)).max(1);
    let work = &work;
    std::thread::scope(|scope| {
        let workers: Vec<_> = items
            .chunks(share)
            .map(|chunk| scope.spawn(move || chunk.iter().map(work).collect::<Result<Vec<R>, TrainerError>>()))
            .collect();
        let mut all = Vec::with_capacity(items.len());
        for worker in workers {
            all.extend(worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(all)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(wants_edit: bool, shown: bool, first_matches: bool) -> TaskOutcome {
        TaskOutcome { wants_edit, shown, first_matches, exact: false, gate_score: 0.5, breaks_syntax: None }
    }

    #[test]
    fn utility_is_a_mean_over_all_tasks_by_the_formula_of_the_gate() {
        // Two right, one wrong and one missed edit; one unwanted action and one right silence.
        let mixed = TaskSummary::of(&[
            outcome(true, true, true),
            outcome(true, true, true),
            outcome(true, true, false),
            outcome(true, false, false),
            outcome(false, true, false),
            outcome(false, false, true),
        ]);
        let near = |utility: f64, expected: f64| assert!((utility - expected).abs() < 1e-12, "{utility} {expected}");
        // 2 x 0.75 - 2 x 0.25 over 6 tasks.
        near(TaskSummary::utility(&[mixed]), 1.0 / 6.0);
        let silent = TaskSummary::of(&[outcome(true, false, false), outcome(false, false, true)]);
        near(TaskSummary::utility(&[silent]), 0.0);
        // Tasks count, not summaries: 1.0 over 6 + 2 tasks.
        near(TaskSummary::utility(&[mixed, silent]), 1.0 / 8.0);
        let loud = TaskSummary::of(&[outcome(false, true, false)]);
        near(TaskSummary::utility(&[loud]), -0.25);
        near(TaskSummary::utility(&[mixed, silent, loud]), 0.75 / 9.0);
        near(TaskSummary::utility(&[]), 0.0);
    }

    #[test]
    fn parse_errors_are_a_share_of_what_is_shown_and_can_be_parsed() {
        let outcomes = [Some(true), Some(false), None, Some(false), Some(false)]
            .map(|breaks_syntax| TaskOutcome { breaks_syntax, ..outcome(true, true, true) });
        assert!((TaskSummary::of(&outcomes).parse_errors - 0.25).abs() < 1e-12);
        assert_eq!(TaskSummary::of(&[outcome(false, false, true)]).parse_errors, 0.0);
    }
}
