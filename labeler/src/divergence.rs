//! The behavioral divergence point: where what the developer wanted parts from what the model proposed.
//!
//! # Definition
//!
//! Given a base text and two lists of actions over it, chosen and rejected (what was served):
//!
//! 1. The *canonical hunks* of a side are those between the base and the text that its actions make of it
//!    ([`hunks_between`]). A hunk has the place in the served order of the first action that touches it; hunks of one
//!    action are in the order of the text.
//! 2. *Clusters* are what canonical hunks of the two sides make up that share a byte or touch, directly or by others in
//!    between. Where both sides have part in a cluster, each side's hunks there become one over the whole cluster, at
//!    the place of the first of them: both replace the same old text. These are the *actions in effect*.
//! 3. *Shared* is the longest beginning of the rejected side's actions in effect that the chosen side has too, in
//!    whatever order.
//! 4. The sides *diverge* at the first rejected action behind that; or at STOP, if one side is known to end there and
//!    the other one goes on. Where a list is open and nothing more of it is known they do not diverge. The counterpart
//!    is the chosen action that replaces the same old text, else the first one that is left.
//! 5. The point is the number of shared actions and, in the new text of the diverging action, the first byte at which
//!    the two sides differ, moved back to where a character starts in both; 0 when they replace different text or one
//!    stops.
//!
//! # What follows, and the test that proves it
//!
//! Each is a property test below by the name given; the definition itself is compared with an oracle that knows neither
//! differences nor hunks and shares no code with this module.
//!
//! | obligation | test |
//! |---|---|
//! | what is computed is what is defined | `as_the_oracle_says` |
//! | how a side is cut into actions does not matter | `invariant_under_splitting_and_merging` |
//! | exchanged sides part at the same place, if both change the same places in the same order | `symmetric` |
//! | nothing before the point differs, and at the point something does | `minimal` |
//! | identical effect is no pair | `identical_effect_is_no_pair` |
//! | no effect of either side is lost or added | `keeps_the_effect_of_both_sides` |
//! | order is as served | `the_served_order_is_kept` |
//! | other orders of commuting actions do not diverge | `commuting_actions_in_another_order_do_not_diverge` |
//! | the first differing byte starts a character | `no_character_is_cut` |
//! | boundaries are those of both sides' hunks, and no others | `boundaries_are_the_union_of_both_sides` |
//! | the first differing token lies in that action | `the_first_differing_token_lies_in_the_diverging_action` |
//!
//! The last one holds for every tokenizer because a dialect tokenizes each text of an action by itself, between tokens
//! that no text contains; [`edit_model::dialect`] says where in the action that token begins.

use std::iter::Peekable;

use events::{ActionList, ByteRange, DivergencePoint, EditAction, EditContext, apply_actions};

use crate::alignment::{Hunk, hunks_between};

/// A hunk with its place in the served order: the number of the action that it came from, then its own first byte.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Ordered {
    hunk: Hunk,
    order: (usize, usize),
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
    Some(to_actions(context, &in_served_order(hunks_of(context, actions)?)))
}

/// Where `chosen` and `rejected` part, or none when they do not as far as both are known (identical effect is no pair),
/// or when a side does not fit the window.
#[must_use]
pub fn divergence(context: &EditContext, chosen: &ActionList, rejected: &ActionList) -> Option<Divergence> {
    let sides = (hunks_of(context, &chosen.actions)?, hunks_of(context, &rejected.actions)?);
    let (chosen_hunks, rejected_hunks) = with_shared_boundaries(&context.window.text, sides.0, sides.1);
    let (chosen_hunks, rejected_hunks) = (in_served_order(chosen_hunks), in_served_order(rejected_hunks));

    let mut places: Vec<(usize, usize)> =
        chosen_hunks.iter().enumerate().map(|(index, hunk)| (hunk.start, index)).collect();
    places.sort_unstable();
    let of_chosen = |served: &Hunk| {
        let found = places.binary_search_by_key(&served.start, |(start, _)| *start).ok()?;
        places.get(found).map(|(_, index)| *index).filter(|index| chosen_hunks.get(*index) == Some(served))
    };
    let shared: Vec<usize> = rejected_hunks.iter().map_while(of_chosen).collect();
    let mut is_shared = vec![false; chosen_hunks.len()];
    for index in &shared {
        is_shared[*index] = true;
    }
    let mut chosen_rest: Vec<&Hunk> =
        chosen_hunks.iter().zip(&is_shared).filter(|(_, is_shared)| !**is_shared).map(|(hunk, _)| hunk).collect();
    let rejected_rest = &rejected_hunks[shared.len()..];

    let byte = match rejected_rest.first() {
        Some(served) => {
            if chosen_rest.is_empty() && !chosen.closed {
                // What the developer would have done next is not known.
                return None;
            }
            match chosen_rest.iter().position(|hunk| (hunk.start, hunk.end) == (served.start, served.end)) {
                Some(counterpart) => {
                    chosen_rest[..=counterpart].rotate_right(1);
                    chosen_rest.first().map_or(0, |hunk| first_difference(&hunk.new_text, &served.new_text))
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
    Some(Divergence {
        shared: to_actions(context, &rejected_hunks[..shared.len()]),
        chosen: ActionList { actions: to_actions(context, chosen_rest), closed: chosen.closed },
        rejected: ActionList { actions: to_actions(context, rejected_rest), closed: rejected.closed },
        point: DivergencePoint {
            action_index: u32::try_from(shared.len()).unwrap_or(u32::MAX),
            byte: u32::try_from(byte).unwrap_or(u32::MAX),
        },
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
    let offset = |place: usize| context.window.start_byte.saturating_add(u64::try_from(place).unwrap_or(u64::MAX));
    EditAction {
        path: context.path.clone(),
        range: ByteRange::new(offset(hunk.start), offset(hunk.end)),
        old_text: context.window.text.get(hunk.start..hunk.end).unwrap_or_default().to_owned(),
        new_text: hunk.new_text.clone(),
    }
}

fn to_actions<'a>(context: &EditContext, hunks: impl IntoIterator<Item = &'a Hunk>) -> Vec<EditAction> {
    hunks.into_iter().map(|hunk| to_action(context, hunk)).collect()
}

/// The canonical hunks of a side in the order of the text, each with its place in the served order.
fn hunks_of(context: &EditContext, actions: &[EditAction]) -> Option<Vec<Ordered>> {
    if actions.iter().any(|action| action.path != context.path) {
        return None;
    }
    let text = &context.window.text;
    let result = apply_actions(context.window.start_byte, text, actions)?;
    let offset =
        |place: u64| place.checked_sub(context.window.start_byte).and_then(|place| usize::try_from(place).ok());
    let mut places: Vec<(usize, usize, usize)> = actions
        .iter()
        .enumerate()
        .map(|(index, action)| Some((offset(action.range.start)?, offset(action.range.end)?, index)))
        .collect::<Option<_>>()?;
    places.sort_unstable();
    // They do not overlap, so their ends ascend as well, as those of the hunks do.
    let mut from = 0;
    let ordered = hunks_between(text, &result).into_iter().map(|hunk| {
        while places.get(from).is_some_and(|(_, end, _)| *end < hunk.start) {
            from += 1;
        }
        let touching = places[from..].iter().take_while(|(start, ..)| *start <= hunk.end).map(|place| place.2).min();
        // What was put into a repetition, or taken out of one, is told at its end, where no action may touch it.
        let before = || places[..from].last().map(|place| place.2);
        let rank = touching.or_else(before).unwrap_or(actions.len());
        Ordered { order: (rank, hunk.start), hunk }
    });
    Some(ordered.collect())
}

fn in_served_order(mut side: Vec<Ordered>) -> Vec<Hunk> {
    side.sort_unstable_by_key(|ordered| ordered.order);
    side.into_iter().map(|ordered| ordered.hunk).collect()
}

/// Widens hunks of the two sides that touch to their union. Both sides are in the order of the text, before and after.
fn with_shared_boundaries(text: &str, chosen: Vec<Ordered>, rejected: Vec<Ordered>) -> (Vec<Ordered>, Vec<Ordered>) {
    let (mut chosen_shared, mut rejected_shared) = (Vec::new(), Vec::new());
    let (mut chosen, mut rejected) = (chosen.into_iter().peekable(), rejected.into_iter().peekable());
    while let Some(start) = [chosen.peek(), rejected.peek()].into_iter().flatten().map(|next| next.hunk.start).min() {
        let mut end = start;
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        while take_touching(&mut chosen, &mut end, &mut ours) || take_touching(&mut rejected, &mut end, &mut theirs) {}
        if ours.is_empty() || theirs.is_empty() {
            chosen_shared.append(&mut ours);
            rejected_shared.append(&mut theirs);
        } else {
            chosen_shared.push(widened(text, ours, start, end));
            rejected_shared.push(widened(text, theirs, start, end));
        }
    }
    (chosen_shared, rejected_shared)
}

/// Moves the next hunk of a side into a cluster that reaches to `end`, if it touches it.
fn take_touching(
    side: &mut Peekable<impl Iterator<Item = Ordered>>,
    end: &mut usize,
    cluster: &mut Vec<Ordered>,
) -> bool {
    let Some(next) = side.next_if(|next| next.hunk.start <= *end) else { return false };
    *end = next.hunk.end.max(*end);
    cluster.push(next);
    true
}

/// One hunk over `start..end` for all `members`, at the place of the first of them.
fn widened(text: &str, members: Vec<Ordered>, start: usize, end: usize) -> Ordered {
    let order = members.iter().map(|member| member.order).min().unwrap_or((usize::MAX, start));
    let mut new_text = String::new();
    let mut position = start;
    for member in members {
        new_text.push_str(&text[position..member.hunk.start]);
        new_text.push_str(&member.hunk.new_text);
        position = member.hunk.end;
    }
    new_text.push_str(&text[position..end]);
    Ordered { hunk: Hunk { start, end, new_text }, order }
}

#[cfg(test)]
#[path = "divergence_tests.rs"]
mod tests;
