//! The behavioral divergence point: where what the developer wanted parts from what the model proposed.
//!
//! Both sides are written by one encoder over the same base text. The encoder knows effects only: a side's actions are
//! applied, the result is compared with the base, and the hunks of both sides that touch are widened to their union, so
//! that both replace the same old text. How a side was cut into actions therefore does not matter, and the first action
//! that differs is the first that differs *in effect*. Order stays as served; what both sides do in another order
//! commutes and is no divergence.

use events::{ActionList, ByteRange, DivergencePoint, EditAction, EditContext, apply_actions};

use crate::alignment::{Hunk, hunks_between};

/// A hunk with the place of the action that it came from, in served order.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Ordered {
    hunk: Hunk,
    rank: usize,
}

/// Chosen and rejected in canonical form, parted at their divergence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Divergence {
    /// Actions of both sides before the divergence, in served order.
    pub shared: Vec<EditAction>,
    /// The rest of the chosen side; the diverging action first.
    pub chosen: ActionList,
    /// The rest of the rejected side; the diverging action first.
    pub rejected: ActionList,
    /// Where they part.
    pub point: DivergencePoint,
}

/// The canonical form of `actions`: smallest runs of changed lexemes, in the order of the actions that made them. None
/// when the actions do not fit the window, overlap, or are about another file.
#[must_use]
pub fn canonical(context: &EditContext, actions: &[EditAction]) -> Option<Vec<EditAction>> {
    let ordered = ordered_hunks(context, actions)?;
    Some(ordered.into_iter().map(|ordered| to_action(context, &ordered.hunk)).collect())
}

/// Where `chosen` and `rejected` part, or none when they do not as far as both are known (identical effect is no pair),
/// or when a side does not fit the window.
#[must_use]
pub fn divergence(context: &EditContext, chosen: &ActionList, rejected: &ActionList) -> Option<Divergence> {
    let text = &context.window.text;
    let (mut chosen_hunks, mut rejected_hunks) =
        (ordered_hunks(context, &chosen.actions)?, ordered_hunks(context, &rejected.actions)?);
    share_boundaries(text, &mut chosen_hunks, &mut rejected_hunks);
    let mut shared = Vec::new();
    let mut left = rejected_hunks.into_iter().peekable();
    while let Some(served) = left.peek() {
        let Some(index) = chosen_hunks.iter().position(|candidate| candidate.hunk == served.hunk) else { break };
        shared.push(to_action(context, &served.hunk));
        chosen_hunks.remove(index);
        left.next();
    }
    let rejected_rest: Vec<Hunk> = left.map(|ordered| ordered.hunk).collect();
    let mut chosen_rest: Vec<Hunk> = chosen_hunks.into_iter().map(|ordered| ordered.hunk).collect();
    let byte = match rejected_rest.first() {
        Some(served) => {
            if chosen_rest.is_empty() && !chosen.closed {
                // What the developer would have done next is not known.
                return None;
            }
            match chosen_rest.iter().position(|hunk| (hunk.start, hunk.end) == (served.start, served.end)) {
                Some(counterpart) => {
                    let hunk = chosen_rest.remove(counterpart);
                    let byte = first_difference(&hunk.new_text, &served.new_text);
                    chosen_rest.insert(0, hunk);
                    byte
                }
                // Another place, or STOP: they part before the first byte.
                None => 0,
            }
        }
        None => {
            if chosen_rest.is_empty() || !rejected.closed {
                return None;
            }
            0
        }
    };
    let point = DivergencePoint {
        action_index: u32::try_from(shared.len()).unwrap_or(u32::MAX),
        byte: u32::try_from(byte).unwrap_or(u32::MAX),
    };
    let list = |hunks: Vec<Hunk>, closed| ActionList {
        actions: hunks.iter().map(|hunk| to_action(context, hunk)).collect(),
        closed,
    };
    Some(Divergence {
        shared,
        chosen: list(chosen_rest, chosen.closed),
        rejected: list(rejected_rest, rejected.closed),
        point,
    })
}

/// First byte at which two texts differ, moved back to where a character starts in both.
#[must_use]
pub fn first_difference(left: &str, right: &str) -> usize {
    let common = left.bytes().zip(right.bytes()).take_while(|(a, b)| a == b).count();
    (0..=common).rev().find(|place| left.is_char_boundary(*place) && right.is_char_boundary(*place)).unwrap_or(0)
}

/// The action that a hunk of the window's text is.
#[must_use]
pub fn to_action(context: &EditContext, hunk: &Hunk) -> EditAction {
    let offset = |place: usize| context.window.start_byte + u64::try_from(place).unwrap_or(u64::MAX);
    EditAction {
        path: context.path.clone(),
        range: ByteRange::new(offset(hunk.start), offset(hunk.end)),
        old_text: context.window.text.get(hunk.start..hunk.end).unwrap_or_default().to_owned(),
        new_text: hunk.new_text.clone(),
    }
}

fn ordered_hunks(context: &EditContext, actions: &[EditAction]) -> Option<Vec<Ordered>> {
    if actions.iter().any(|action| action.path != context.path) {
        return None;
    }
    let text = &context.window.text;
    let result = apply_actions(context.window.start_byte, text, actions)?;
    let offset =
        |place: u64| place.checked_sub(context.window.start_byte).and_then(|place| usize::try_from(place).ok());
    let places: Vec<(usize, usize)> =
        actions.iter().map(|action| offset(action.range.start).zip(offset(action.range.end))).collect::<Option<_>>()?;
    let mut ordered: Vec<Ordered> = hunks_between(text, &result)
        .into_iter()
        .map(|hunk| {
            let touching = places.iter().position(|(start, end)| hunk.touches(*start, *end));
            Ordered { hunk, rank: touching.unwrap_or(places.len()) }
        })
        .collect();
    // Stable: hunks of one action stay in the order of the text.
    ordered.sort_by_key(|ordered| ordered.rank);
    Some(ordered)
}

/// Widens hunks of the two sides that touch to their union.
fn share_boundaries(text: &str, chosen: &mut Vec<Ordered>, rejected: &mut Vec<Ordered>) {
    let mut ranges: Vec<(usize, usize)> =
        chosen.iter().chain(rejected.iter()).map(|ordered| (ordered.hunk.start, ordered.hunk.end)).collect();
    ranges.sort_unstable();
    let mut clusters: Vec<(usize, usize)> = Vec::new();
    for (start, end) in ranges {
        match clusters.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => clusters.push((start, end)),
        }
    }
    for (start, end) in clusters {
        let inside = |ordered: &Ordered| ordered.hunk.start >= start && ordered.hunk.end <= end;
        if chosen.iter().any(inside) && rejected.iter().any(inside) {
            widen(text, chosen, start, end);
            widen(text, rejected, start, end);
        }
    }
}

/// Replaces the hunks inside `start..end` by one over the whole range, at the place of the first of them.
fn widen(text: &str, side: &mut Vec<Ordered>, start: usize, end: usize) {
    let inside = |ordered: &Ordered| ordered.hunk.start >= start && ordered.hunk.end <= end;
    let Some(first) = side.iter().position(inside) else { return };
    let mut members: Vec<Hunk> = side.iter().filter(|ordered| inside(ordered)).map(|o| o.hunk.clone()).collect();
    members.sort();
    let mut new_text = String::new();
    let mut position = start;
    for member in &members {
        new_text.push_str(&text[position..member.start]);
        new_text.push_str(&member.new_text);
        position = member.end;
    }
    new_text.push_str(&text[position..end]);
    let rank = side[first].rank;
    side.retain(|ordered| !inside(ordered));
    // Everything before the first member was outside, so its index still is the place.
    side.insert(first, Ordered { hunk: Hunk { start, end, new_text }, rank });
}

#[cfg(test)]
#[path = "divergence_tests.rs"]
mod tests;
