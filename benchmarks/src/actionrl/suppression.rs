//! Whether a method that learns to refuse an action also refuses what is right after it.
//!
//! Of tasks with several edits: how likely the later ones are after the first as it was wanted (the corrected prefix),
//! and after the first as plain propagation writes it (the original prefix, what developers correct). They are written
//! alike in both, so that the same tokens are compared. How likely the answer ends: where another edit is wanted, and
//! where none is left. How likely the model is silent: where an edit is wanted, and where none is. Unconstrained
//! probabilities, as in the losses.

use std::ops::Range;

use edit_model::dialect::{encode_answer, encode_prompt};
use edit_model::{CodeTokenizer, Device, EditModel};
use events::{ActionList, EditAction, EditContext};
use serde::{Deserialize, Serialize};
use trainer::evaluation::TaskOutcome;
use trainer::{TrainerError, TrainingSequence, backends, log_probabilities};

/// Means over tasks; none where there is no such task.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Suppression {
    /// Log p of the later edits together, after the corrected prefix.
    pub(super) later_after_corrected: Option<f64>,
    /// The same tokens after the original prefix.
    pub(super) later_after_original: Option<f64>,
    /// P(STOP) after the first of several wanted edits.
    pub(super) stop_where_wanted: Option<f64>,
    /// P(STOP) after the last wanted edit.
    pub(super) stop_where_done: Option<f64>,
    /// P(NO_EDIT) where an edit is wanted.
    pub(super) silence_where_wanted: Option<f64>,
    /// P(NO_EDIT) where none is.
    pub(super) silence_where_not: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Probe {
    LaterAfterCorrected,
    LaterAfterOriginal,
    StopWhereWanted,
    StopWhereDone,
}

/// What a model is asked, in tokens.
#[derive(Debug, Default)]
pub(super) struct Probes {
    kinds: Vec<Probe>,
    sequences: Vec<TrainingSequence>,
}

/// A prompt and an answer of which some tokens count.
pub(super) fn sequence(prompt: &[u32], answer: &[u32], counted: Range<usize>) -> TrainingSequence {
    let before = prompt.len().saturating_sub(1);
    let target_positions = counted.map(|place| (before + place) as u32).collect();
    TrainingSequence { tokens: [prompt, answer].concat(), target_positions }
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
    // JSON has no number for what is none.
    let mean: f64 = sum / count;
    mean.is_finite().then_some(mean)
}

impl Probes {
    fn push(&mut self, kind: Probe, prompt: &[u32], answer: &[u32], counted: Range<usize>) {
        self.kinds.push(kind);
        self.sequences.push(sequence(prompt, answer, counted));
    }

    /// Asks about a task, as far as it has several edits and the dialect can write them.
    pub(super) fn add(
        &mut self,
        tokenizer: &CodeTokenizer,
        context: &EditContext,
        wanted: &[EditAction],
        plain: &[EditAction],
    ) {
        let encode = |actions: Vec<EditAction>| {
            let answer = encode_answer(tokenizer, context, &ActionList { actions, closed: true }).ok()?;
            let (first, last) = (*answer.action_ends.first()?, *answer.action_ends.last()?);
            Some((answer.tokens, first, last))
        };
        let Ok(prompt) = encode_prompt(tokenizer, context) else { return };
        let prompt = prompt.tokens;
        let Some((corrected, first, last)) = encode(wanted.to_vec()) else { return };
        self.push(Probe::StopWhereDone, &prompt, &corrected, last..last + 1);
        if first == last {
            return;
        }
        let stopped = [&corrected[..first], &[tokenizer.special().stop]].concat();
        self.push(Probe::StopWhereWanted, &prompt, &stopped, first..first + 1);
        let Some(proposed) = plain.first() else { return };
        let original = std::iter::once(proposed).chain(wanted.iter().skip(1)).cloned().collect();
        let Some((original, end, _)) = encode(original) else { return };
        if original[..end] != corrected[..first] && original[end..] == corrected[first..] {
            self.push(Probe::LaterAfterCorrected, &prompt, &corrected, first..last);
            self.push(Probe::LaterAfterOriginal, &prompt, &original, end..end + (last - first));
        }
    }

    /// What `model` says, and how it answered all tasks.
    pub(super) fn ask(
        &self,
        model: &EditModel,
        outcomes: &[TaskOutcome],
        threads: usize,
    ) -> Result<Suppression, TrainerError> {
        let backends = backends(Device::Cpu, model.network(), threads)?;
        let values: Vec<f64> = log_probabilities(backends, model.weights(), &self.sequences)?
            .iter()
            .map(|log_p| log_p.iter().map(|value| f64::from(*value)).sum())
            .collect();
        let of = |kind: Probe| {
            self.kinds.iter().zip(&values).filter(move |(found, _)| **found == kind).map(|(_, value)| *value)
        };
        let silence = |wants_edit: bool| {
            let asked = outcomes.iter().filter(move |outcome| outcome.wants_edit == wants_edit);
            mean(asked.map(|outcome| 1.0 - f64::from(outcome.gate_score)))
        };
        Ok(Suppression {
            later_after_corrected: mean(of(Probe::LaterAfterCorrected)),
            later_after_original: mean(of(Probe::LaterAfterOriginal)),
            stop_where_wanted: mean(of(Probe::StopWhereWanted).map(f64::exp)),
            stop_where_done: mean(of(Probe::StopWhereDone).map(f64::exp)),
            silence_where_wanted: silence(true),
            silence_where_not: silence(false),
        })
    }
}

#[cfg(test)]
mod tests {
    use events::{ByteRange, Window};

    use super::*;
    use crate::convention::base_folder;

    const TEXT: &str = "let total = read_rows(path);\nlet other = read_rows(name);\n";

    fn context() -> EditContext {
        EditContext {
            repository: "left-press".to_owned(),
            path: "src/rows.rs".to_owned(),
            language: "rust".to_owned(),
            recent_edits: Vec::new(),
            window: Window { start_byte: 0, first_line: 0, text: TEXT.to_owned() },
            cursor_byte: 0,
        }
    }

    /// Writes `new` in the place of a call.
    fn action(call: usize, new: &str) -> EditAction {
        let (start, old) = TEXT.match_indices("read_rows").nth(call).unwrap();
        EditAction {
            path: "src/rows.rs".to_owned(),
            range: ByteRange::new(start as u64, (start + old.len()) as u64),
            old_text: old.to_owned(),
            new_text: new.to_owned(),
        }
    }

    /// Log p of every token of the answer `actions`, STOP included.
    fn answer(model: &EditModel, actions: &[EditAction]) -> Vec<f64> {
        let context = context();
        let list = ActionList { actions: actions.to_vec(), closed: true };
        let prompt = encode_prompt(model.tokenizer(), &context).unwrap().tokens;
        let tokens = encode_answer(model.tokenizer(), &context, &list).unwrap().tokens;
        (0..tokens.len())
            .map(|place| {
                // Token by token, each in a sequence that ends with it.
                let sequence = sequence(&prompt, &tokens[..=place], place..place + 1);
                let backends = backends(Device::Cpu, model.network(), 1).unwrap();
                f64::from(log_probabilities(backends, model.weights(), &[sequence]).unwrap()[0][0])
            })
            .collect()
    }

    fn outcome(wants_edit: bool, gate_score: f32) -> TaskOutcome {
        TaskOutcome { wants_edit, shown: true, first_matches: true, exact: true, gate_score, breaks_syntax: None }
    }

    fn near(found: Option<f64>, expected: f64) {
        assert!(found.is_some_and(|found| (found - expected).abs() < 1e-3), "{found:?} {expected}");
    }

    #[test]
    fn later_edits_and_ends_are_as_likely_as_token_by_token() {
        let model = EditModel::load(&base_folder()).unwrap();
        let wanted = [action(0, "cache.fetch_rows"), action(1, "cache.fetch_rows")];
        let plain = [action(0, "fetch_rows"), action(1, "fetch_rows")];
        let mut probes = Probes::default();
        probes.add(model.tokenizer(), &context(), &wanted, &plain);
        let outcomes = [outcome(true, 0.75), outcome(true, 0.25), outcome(false, 0.125)];
        let found = probes.ask(&model, &outcomes, 2).unwrap();

        let corrected = answer(&model, &wanted);
        let first = answer(&model, &wanted[..1]);
        let original = answer(&model, &[plain[0].clone(), wanted[1].clone()]);
        let proposed = answer(&model, &plain[..1]);
        // An answer of one edit is the prefix and STOP.
        let later = |whole: &[f64], prefix: &[f64]| whole[prefix.len() - 1..whole.len() - 1].iter().sum::<f64>();
        near(found.later_after_corrected, later(&corrected, &first));
        near(found.later_after_original, later(&original, &proposed));
        assert_ne!(found.later_after_corrected, found.later_after_original);
        near(found.stop_where_wanted, first[first.len() - 1].exp());
        near(found.stop_where_done, corrected[corrected.len() - 1].exp());
        near(found.silence_where_wanted, 0.5);
        near(found.silence_where_not, 0.875);
    }

    #[test]
    fn a_task_of_one_edit_says_nothing_of_later_ones() {
        let model = EditModel::load(&base_folder()).unwrap();
        let mut probes = Probes::default();
        probes.add(model.tokenizer(), &context(), &[action(1, "fetch_rows")], &[action(1, "rows")]);
        // Nor does one whose first edit is plain, or one that wants none.
        let plain = [action(0, "fetch_rows"), action(1, "fetch_rows")];
        probes.add(model.tokenizer(), &context(), &plain, &plain);
        probes.add(model.tokenizer(), &context(), &[], &[]);
        assert_eq!(probes.kinds, [Probe::StopWhereDone, Probe::StopWhereDone, Probe::StopWhereWanted]);
        let found = probes.ask(&model, &[], 1).unwrap();
        assert_eq!((found.later_after_corrected, found.later_after_original), (None, None));
        assert_eq!((found.silence_where_wanted, found.silence_where_not), (None, None));
    }
}
