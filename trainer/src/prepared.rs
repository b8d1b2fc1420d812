//! Pairs in tokens: what every method works on.
//!
//! A pair with answers that are longer than the dialect writes, or that reach beyond the lines a prompt shows, is kept up
//! to the end of the action in which its sides diverge and is open-ended there: what came after is not said. Nothing is
//! cut before the end of that action, so that no pair is cut through its divergence; one whose diverging action itself
//! does not fit is left out and counted.

use edit_model::CodeTokenizer;
use edit_model::dialect::{DialectError, EncodedPair, encode_answer, encode_prompt, written_pair};
use events::{ActionList, EditAction};
use serde::{Deserialize, Serialize};

use crate::objective::TrainingSequence;
use crate::pairs::TrainingPair;

/// One side of a pair in tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Side {
    /// Prompt and answer; every answer token is a target.
    pub(crate) sequence: TrainingSequence,
    /// Number of answer tokens before the divergence.
    pub(crate) common: usize,
    /// Number of answer tokens up to the end of the diverging action.
    pub(crate) action_end: usize,
    /// Number of answer tokens.
    pub(crate) answer: usize,
}

impl Side {
    pub(crate) fn new(prompt: &[u32], answer: &[u32], common: usize, action_end: usize) -> Self {
        let tokens: Vec<u32> = prompt.iter().chain(answer).copied().collect();
        let first = prompt.len().saturating_sub(1) as u32;
        let target_positions = (first..first + answer.len() as u32).collect();
        Self { sequence: TrainingSequence { tokens, target_positions }, common, action_end, answer: answer.len() }
    }

    /// The tokens up to the answer.
    pub(crate) fn prompt_tokens(&self) -> &[u32] {
        &self.sequence.tokens[..self.sequence.tokens.len() - self.answer]
    }

    /// The tokens of the answer.
    pub(crate) fn answer_tokens(&self) -> &[u32] {
        &self.sequence.tokens[self.sequence.tokens.len() - self.answer..]
    }
}

/// A pair ready for any method.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PreparedPair {
    /// Both sides, and they diverge.
    Preference { chosen: Side, rejected: Side },
    /// Something wanted, nothing to compare it with.
    Positive { chosen: Side },
    /// Something not wanted, nothing to compare it with.
    Negative { rejected: Side },
}

impl PreparedPair {
    pub(crate) fn chosen(&self) -> Option<&Side> {
        match self {
            Self::Preference { chosen, .. } | Self::Positive { chosen } => Some(chosen),
            Self::Negative { .. } => None,
        }
    }

    pub(crate) fn rejected(&self) -> Option<&Side> {
        match self {
            Self::Preference { rejected, .. } | Self::Negative { rejected } => Some(rejected),
            Self::Positive { .. } => None,
        }
    }

    /// Chosen, then rejected.
    pub(crate) fn sides(&self) -> impl Iterator<Item = &Side> {
        self.chosen().into_iter().chain(self.rejected())
    }
}

/// A pair in tokens with its name and weight.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Prepared {
    /// Id of the pair.
    pub(crate) id: String,
    /// Its sides.
    pub(crate) pair: PreparedPair,
    /// Its weight, above 0.
    pub(crate) weight: f32,
}

/// How pairs are used, and why some are not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairCensus {
    /// Pairs with two sides that diverge.
    pub preferences: usize,
    /// Pairs with a chosen side only.
    pub positives: usize,
    /// Pairs with a rejected side only, where the method learns from these.
    #[serde(default)]
    pub negatives: usize,
    /// Of all these, pairs of which something after the diverging action is left out, because it does not fit.
    #[serde(default)]
    pub shortened: usize,
    /// Pairs without weight, or without a side that the method learns from.
    pub without_lesson: usize,
    /// Pairs whose sides do not differ as far as both are known.
    pub without_divergence: usize,
    /// Pairs that the dialect cannot write (outside the visible lines, too long, overlapping).
    pub unwritable: usize,
}

/// A pair in tokens, and whether something of it is left out.
type Written = Option<(PreparedPair, bool)>;

/// Whether less of the same could be written.
fn does_not_fit(error: &DialectError) -> bool {
    matches!(error, DialectError::TooLong | DialectError::NotVisible)
}

/// Both sides up to the end of the action in which they diverge.
fn up_to_divergence(
    pair: &TrainingPair,
    chosen: &ActionList,
    rejected: &ActionList,
) -> Result<(ActionList, ActionList), DialectError> {
    let (wanted, proposed) = written_pair(&pair.context, &pair.shared, chosen, rejected)?;
    let shorter = wanted.len().min(proposed.len());
    let place = wanted.iter().zip(&proposed).position(|(left, right)| left != right).unwrap_or(shorter);
    let cut = |actions: Vec<EditAction>, closed: bool| ActionList {
        closed: closed && actions.len() <= place + 1,
        actions: actions.into_iter().take(place + 1).collect(),
    };
    Ok((cut(wanted, chosen.closed), cut(proposed, rejected.closed)))
}

fn both_sides(
    tokenizer: &CodeTokenizer,
    pair: &TrainingPair,
    chosen: &ActionList,
    rejected: &ActionList,
) -> Result<Written, DialectError> {
    let (encoded, is_shortened) = match EncodedPair::encode(tokenizer, &pair.context, &pair.shared, chosen, rejected) {
        Err(error) if does_not_fit(&error) => {
            let (chosen, rejected) = up_to_divergence(pair, chosen, rejected)?;
            (EncodedPair::encode(tokenizer, &pair.context, &[], &chosen, &rejected)?, true)
        }
        encoded => (encoded?, false),
    };
    let Some(place) = encoded.divergence else { return Ok(None) };
    let chosen = Side::new(&encoded.prompt, &encoded.chosen.tokens, place, encoded.chosen_end);
    let rejected = Side::new(&encoded.prompt, &encoded.rejected.tokens, place, encoded.rejected_end);
    Ok(Some((PreparedPair::Preference { chosen, rejected }, is_shortened)))
}

/// A side without another: what fits of it, at least its first action after those that are shared.
fn one_side(
    tokenizer: &CodeTokenizer,
    pair: &TrainingPair,
    side: &ActionList,
) -> Result<Option<(Side, bool)>, DialectError> {
    let mut actions =
        ActionList { actions: pair.shared.iter().chain(&side.actions).cloned().collect(), closed: side.closed };
    let whole = actions.actions.len();
    let prompt = encode_prompt(tokenizer, &pair.context)?;
    let answer = loop {
        match encode_answer(tokenizer, &pair.context, &actions) {
            Err(error) if does_not_fit(&error) && actions.actions.len() > pair.shared.len() + 1 => {
                actions.actions.pop();
                actions.closed = false;
            }
            answer => break answer?,
        }
    };
    if answer.tokens.is_empty() {
        return Ok(None);
    }
    let last_shared = pair.shared.len().checked_sub(1);
    let common = last_shared.and_then(|last| answer.action_ends.get(last)).copied().unwrap_or(0);
    let side = Side::new(&prompt.tokens, &answer.tokens, common, answer.tokens.len());
    Ok(Some((side, actions.actions.len() < whole)))
}

fn prepare(tokenizer: &CodeTokenizer, pair: &TrainingPair) -> Result<Written, DialectError> {
    match (&pair.chosen, &pair.rejected) {
        (Some(chosen), Some(rejected)) => both_sides(tokenizer, pair, chosen, rejected),
        (Some(chosen), None) => Ok(one_side(tokenizer, pair, chosen)?
            .map(|(chosen, is_shortened)| (PreparedPair::Positive { chosen }, is_shortened))),
        (None, Some(rejected)) => Ok(one_side(tokenizer, pair, rejected)?
            .map(|(rejected, is_shortened)| (PreparedPair::Negative { rejected }, is_shortened))),
        (None, None) => Ok(None),
    }
}

/// Encodes pairs. Those with a rejected side only are used where `with_negatives` says so.
pub(crate) fn prepare_all(
    tokenizer: &CodeTokenizer,
    pairs: &[TrainingPair],
    with_negatives: bool,
) -> (Vec<Prepared>, PairCensus) {
    let mut census = PairCensus::default();
    let mut prepared = Vec::new();
    for pair in pairs {
        let teaches = pair.chosen.is_some() || (with_negatives && pair.rejected.is_some());
        // A weight that is no number is none.
        if !(pair.weight > 0.0 && pair.weight.is_finite() && teaches) {
            census.without_lesson += 1;
            continue;
        }
        match prepare(tokenizer, pair) {
            Ok(Some((ready, is_shortened))) => {
                match &ready {
                    PreparedPair::Preference { .. } => census.preferences += 1,
                    PreparedPair::Positive { .. } => census.positives += 1,
                    PreparedPair::Negative { .. } => census.negatives += 1,
                }
                census.shortened += usize::from(is_shortened);
                prepared.push(Prepared { id: pair.pair_id.clone(), pair: ready, weight: pair.weight });
            }
            Ok(None) => census.without_divergence += 1,
            Err(_) => census.unwritable += 1,
        }
    }
    (prepared, census)
}
