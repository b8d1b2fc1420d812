//! Chosen and rejected written by one encoder with the same boundaries, so that they differ first where they differ in
//! effect.
//!
//! Where the first differing token is. Every text of an action is tokenized by itself and stands between structuring
//! tokens, which no text encodes to. So for any tokenizer no token reaches over the border of an action, and actions
//! that are equal are equal in tokens: the first difference lies in the first action that differs, for both sides.
//! Within it all tokens before the difference are the same and spell the same bytes. The token therefore begins at the
//! same byte on both sides, at or before the first differing byte: before it when a tokenizer merges what is common
//! with what differs, or splits what is common otherwise because of what follows. Losses begin at this token, which is
//! found by comparing tokens. Found from the byte it could be another one on each side, and the tokens before it that
//! differ already would count for neither.

use events::{ActionList, EditAction, EditContext};

use super::hunk::{Hunk, anchor, from_actions};
use super::prompt::whole_lines;
use super::{Answer, DialectError, encode_hunks, encode_prompt};
use crate::tokenizer::CodeTokenizer;

/// Both sides of a preference over one prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedPair {
    /// The prompt's tokens.
    pub prompt: Vec<u32>,
    /// What should have been written.
    pub chosen: Answer,
    /// What was written.
    pub rejected: Answer,
    /// First differing token, or `None` when the sides do not differ as far as both are known.
    pub divergence: Option<usize>,
    /// End of the chosen action that holds the divergence.
    pub chosen_end: usize,
    /// End of the rejected action that holds the divergence.
    pub rejected_end: usize,
}

impl EncodedPair {
    /// Encodes `shared` followed by each side.
    ///
    /// # Errors
    /// See [`DialectError`].
    pub fn encode(
        tokenizer: &CodeTokenizer,
        context: &EditContext,
        shared: &[EditAction],
        chosen: &ActionList,
        rejected: &ActionList,
    ) -> Result<Self, DialectError> {
        let prompt = encode_prompt(tokenizer, context)?;
        let (chosen_hunks, rejected_hunks) = hunks_of_both(context, shared, chosen, rejected)?;
        let chosen = encode_hunks(tokenizer, context, &prompt, &chosen_hunks, chosen.closed)?;
        let rejected = encode_hunks(tokenizer, context, &prompt, &rejected_hunks, rejected.closed)?;
        let divergence = divergence(&chosen.tokens, &rejected.tokens);
        let end = |answer: &Answer| {
            divergence
                .and_then(|place| answer.action_ends.iter().copied().find(|end| *end > place))
                .unwrap_or(answer.tokens.len())
        };
        let (chosen_end, rejected_end) = (end(&chosen), end(&rejected));
        Ok(Self { prompt: prompt.tokens, chosen, rejected, divergence, chosen_end, rejected_end })
    }
}

/// The actions of both sides as their answers write them, `shared` first: what training is shown. Every line counts as
/// shown whole, because no prompt is rendered.
///
/// # Errors
/// See [`DialectError`].
pub fn written_pair(
    context: &EditContext,
    shared: &[EditAction],
    chosen: &ActionList,
    rejected: &ActionList,
) -> Result<(Vec<EditAction>, Vec<EditAction>), DialectError> {
    let (chosen, rejected) = hunks_of_both(context, shared, chosen, rejected)?;
    Ok((anchored(context, &chosen)?, anchored(context, &rejected)?))
}

/// The same for actions that are compared with none.
///
/// # Errors
/// See [`DialectError`].
pub fn written(context: &EditContext, actions: &[EditAction]) -> Result<Vec<EditAction>, DialectError> {
    anchored(context, &from_actions(context, actions)?)
}

fn anchored(context: &EditContext, hunks: &[Hunk]) -> Result<Vec<EditAction>, DialectError> {
    let text = &context.window.text;
    let lines = whole_lines(text);
    hunks.iter().map(|hunk| anchor(text, &lines, hunk).map(|anchored| anchored.hunk.to_action(context))).collect()
}

/// `shared` and each side's own actions as hunks: with the same boundaries, in the same order as far as they are equal.
fn hunks_of_both(
    context: &EditContext,
    shared: &[EditAction],
    chosen: &ActionList,
    rejected: &ActionList,
) -> Result<(Vec<Hunk>, Vec<Hunk>), DialectError> {
    let with_shared = |list: &ActionList| {
        let actions: Vec<EditAction> = shared.iter().chain(&list.actions).cloned().collect();
        from_actions(context, &actions)
    };
    let (mut chosen, mut rejected) = (with_shared(chosen)?, with_shared(rejected)?);
    share_boundaries(&context.window.text, &mut chosen, &mut rejected);
    let chosen = in_order_of(chosen, &rejected);
    Ok((chosen, rejected))
}

/// The first place where both lists have a token and the tokens differ. A list that merely ends is open, not different.
#[must_use]
pub fn divergence(chosen: &[u32], rejected: &[u32]) -> Option<usize> {
    chosen.iter().zip(rejected).position(|(a, b)| a != b)
}

/// Widens hunks of the two sides that touch to their union, so that both replace the same old text.
fn share_boundaries(text: &str, chosen: &mut Vec<Hunk>, rejected: &mut Vec<Hunk>) {
    let mut clusters: Vec<(usize, usize)> =
        chosen.iter().chain(rejected.iter()).map(|hunk| (hunk.start, hunk.end)).collect();
    clusters.sort_unstable();
    let mut merged: Vec<(usize, usize)> = Vec::new();
    for (start, end) in clusters {
        match merged.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => merged.push((start, end)),
        }
    }
    for (start, end) in merged {
        let inside = |hunk: &&Hunk| hunk.start >= start && hunk.end <= end;
        if chosen.iter().any(|hunk| inside(&hunk)) && rejected.iter().any(|hunk| inside(&hunk)) {
            widen(text, chosen, start, end);
            widen(text, rejected, start, end);
        }
    }
}

/// Replaces the hunks inside `start..end` by one over the whole range, at the place of the first of them.
fn widen(text: &str, hunks: &mut Vec<Hunk>, start: usize, end: usize) {
    let inside = |hunk: &Hunk| hunk.start >= start && hunk.end <= end;
    let Some(first) = hunks.iter().position(inside) else { return };
    let mut members: Vec<Hunk> = hunks.iter().filter(|hunk| inside(hunk)).cloned().collect();
    members.sort_by_key(|hunk| (hunk.start, hunk.end));
    let mut new_text = String::new();
    let mut position = start;
    for member in &members {
        new_text.push_str(&text[position..member.start]);
        new_text.push_str(&member.new_text);
        position = member.end;
    }
    new_text.push_str(&text[position..end]);
    let mut index = 0;
    hunks.retain(|hunk| {
        let keep = !inside(hunk) || index == first;
        index += 1;
        keep
    });
    if let Some(hunk) = hunks.get_mut(first) {
        *hunk = Hunk { start, end, new_text };
    }
}

/// Actions that both sides make, in the order they were served, then the others: they commute, so order is no
/// difference.
fn in_order_of(mut chosen: Vec<Hunk>, rejected: &[Hunk]) -> Vec<Hunk> {
    let mut ordered = Vec::with_capacity(chosen.len());
    for hunk in rejected {
        let Some(index) = chosen.iter().position(|candidate| candidate == hunk) else { break };
        ordered.push(chosen.remove(index));
    }
    ordered.append(&mut chosen);
    ordered
}
