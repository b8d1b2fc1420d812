//! The behavioral divergence point: where what the developer wanted parts from what the model proposed.
//!
//! # Definition
//!
//! Given a base text and two lists of actions over it, chosen and rejected (what was served):
//!
//! 1. The *canonical hunks* of a side are those between the base and the text that its actions make of it
//!    ([`hunks_between`](crate::alignment::hunks_between)). A hunk has the place in the served order of the first action
//!    that touches it; hunks of one action are in the order of the text.
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

use events::{ActionList, ByteRange, DivergencePoint, EditAction, EditContext, apply_actions};

use crate::alignment::{Change, Hunk, changes_between, changes_of_both, common_prefix};

/// A change with its place in the served order: the number of the action that it came from, then its own first byte.
#[derive(Debug, Clone, Copy)]
struct Ordered {
    change: Change,
    order: (usize, usize),
}

impl Ordered {
    /// The old text that it replaces.
    fn replaced(self) -> (usize, usize) {
        (self.change.start, self.change.end)
    }
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
    let result = result_of(context, actions)?;
    let changes = ordered(context, actions, changes_between(&context.window.text, &result))?;
    Some(to_actions(context, &result, &in_served_order(changes)))
}

/// Where `chosen` and `rejected` part, or none when they do not as far as both are known (identical effect is no pair),
/// or when a side does not fit the window.
#[must_use]
pub fn divergence(context: &EditContext, chosen: &ActionList, rejected: &ActionList) -> Option<Divergence> {
    let (made, served) = (result_of(context, &chosen.actions)?, result_of(context, &rejected.actions)?);
    if made == served {
        return None;
    }
    let sides = changes_of_both(&context.window.text, &made, &served);
    let sides = (ordered(context, &chosen.actions, sides.0)?, ordered(context, &rejected.actions, sides.1)?);
    let (chosen_changes, rejected_changes) = with_shared_boundaries(&sides.0, &sides.1);
    let (chosen_changes, rejected_changes) = (in_served_order(chosen_changes), in_served_order(rejected_changes));

    let mut places: Vec<(usize, usize)> =
        chosen_changes.iter().enumerate().map(|(index, ours)| (ours.change.start, index)).collect();
    places.sort_unstable();
    let of_chosen = |theirs: &Ordered| {
        let found = places.binary_search_by_key(&theirs.change.start, |(start, _)| *start).ok()?;
        let index = places.get(found)?.1;
        let ours = chosen_changes.get(index)?;
        let same =
            ours.replaced() == theirs.replaced() && ours.change.new_text(&made) == theirs.change.new_text(&served);
        same.then_some(index)
    };
    let shared: Vec<usize> = rejected_changes.iter().map_while(of_chosen).collect();
    let mut is_shared = vec![false; chosen_changes.len()];
    for index in &shared {
        is_shared[*index] = true;
    }
    let mut chosen_rest: Vec<Ordered> =
        chosen_changes.iter().zip(&is_shared).filter(|(_, is_shared)| !**is_shared).map(|(ours, _)| *ours).collect();
    let rejected_rest = &rejected_changes[shared.len()..];

    let byte = match rejected_rest.first() {
        Some(theirs) => {
            if chosen_rest.is_empty() && !chosen.closed {
                // What the developer would have done next is not known.
                return None;
            }
            match chosen_rest.iter().position(|ours| ours.replaced() == theirs.replaced()) {
                Some(counterpart) => {
                    chosen_rest[..=counterpart].rotate_right(1);
                    let text = theirs.change.new_text(&served);
                    chosen_rest.first().map_or(0, |ours| first_difference(ours.change.new_text(&made), text))
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
        shared: to_actions(context, &served, &rejected_changes[..shared.len()]),
        chosen: ActionList { actions: to_actions(context, &made, &chosen_rest), closed: chosen.closed },
        rejected: ActionList { actions: to_actions(context, &served, rejected_rest), closed: rejected.closed },
        point: DivergencePoint {
            action_index: u32::try_from(shared.len()).unwrap_or(u32::MAX),
            byte: u32::try_from(byte).unwrap_or(u32::MAX),
        },
    })
}

/// First byte at which two texts differ, moved back to where a character starts in both.
#[must_use]
pub fn first_difference(left: &str, right: &str) -> usize {
    let common = common_prefix(left.as_bytes(), right.as_bytes());
    (0..=common).rev().find(|place| left.is_char_boundary(*place) && right.is_char_boundary(*place)).unwrap_or(0)
}

/// The action that a hunk of the window's text is.
#[must_use]
pub fn to_action(context: &EditContext, hunk: &Hunk) -> EditAction {
    replacement(context, (hunk.start, hunk.end), &hunk.new_text)
}

fn to_actions(context: &EditContext, result: &str, changes: &[Ordered]) -> Vec<EditAction> {
    let action = |ordered: &Ordered| replacement(context, ordered.replaced(), ordered.change.new_text(result));
    changes.iter().map(action).collect()
}

fn replacement(context: &EditContext, (start, end): (usize, usize), new_text: &str) -> EditAction {
    let offset = |place: usize| context.window.start_byte.saturating_add(u64::try_from(place).unwrap_or(u64::MAX));
    EditAction {
        path: context.path.clone(),
        range: ByteRange::new(offset(start), offset(end)),
        old_text: context.window.text.get(start..end).unwrap_or_default().to_owned(),
        new_text: new_text.to_owned(),
    }
}

/// The window's text after actions, if all of them are about it.
fn result_of(context: &EditContext, actions: &[EditAction]) -> Option<String> {
    if actions.iter().any(|action| action.path != context.path) {
        return None;
    }
    apply_actions(context.window.start_byte, &context.window.text, actions)
}

/// The changes that actions made, in the order of the text as they are given, each with its place in the served order.
fn ordered(context: &EditContext, actions: &[EditAction], changes: Vec<Change>) -> Option<Vec<Ordered>> {
    let offset =
        |place: u64| place.checked_sub(context.window.start_byte).and_then(|place| usize::try_from(place).ok());
    let mut places: Vec<(usize, usize, usize)> = actions
        .iter()
        .enumerate()
        .map(|(index, action)| Some((offset(action.range.start)?, offset(action.range.end)?, index)))
        .collect::<Option<_>>()?;
    places.sort_unstable();
    // They do not overlap, so their ends ascend as well, as those of the changes do.
    let mut from = 0;
    let ordered = changes.into_iter().map(|change| {
        while places.get(from).is_some_and(|(_, end, _)| *end < change.start) {
            from += 1;
        }
        let touching = places[from..].iter().take_while(|(start, ..)| *start <= change.end).map(|place| place.2).min();
        // What was put into a repetition, or taken out of one, is told at its end, where no action may touch it.
        let before = || places[..from].last().map(|place| place.2);
        let rank = touching.or_else(before).unwrap_or(actions.len());
        Ordered { change, order: (rank, change.start) }
    });
    Some(ordered.collect())
}

fn in_served_order(mut side: Vec<Ordered>) -> Vec<Ordered> {
    side.sort_unstable_by_key(|ordered| ordered.order);
    side
}

/// Widens changes of the two sides that touch to their union. Both sides are in the order of the text, before and
/// after.
fn with_shared_boundaries(mut chosen: &[Ordered], mut rejected: &[Ordered]) -> (Vec<Ordered>, Vec<Ordered>) {
    let mut chosen_shared = Vec::with_capacity(chosen.len());
    let mut rejected_shared = Vec::with_capacity(rejected.len());
    while let Some(start) = [chosen.first(), rejected.first()].into_iter().flatten().map(|next| next.change.start).min()
    {
        let (mut ours, mut theirs, mut end) = (0, 0, start);
        while takes_touching(chosen, &mut ours, &mut end) || takes_touching(rejected, &mut theirs, &mut end) {}
        let (our_cluster, chosen_rest) = chosen.split_at(ours);
        let (their_cluster, rejected_rest) = rejected.split_at(theirs);
        if our_cluster.is_empty() || their_cluster.is_empty() {
            chosen_shared.extend_from_slice(our_cluster);
            rejected_shared.extend_from_slice(their_cluster);
        } else {
            chosen_shared.extend(widened(our_cluster, start, end));
            rejected_shared.extend(widened(their_cluster, start, end));
        }
        (chosen, rejected) = (chosen_rest, rejected_rest);
    }
    (chosen_shared, rejected_shared)
}

/// Takes the next change of a side into a cluster that has its first `taken` and reaches to `end`, if it touches it.
fn takes_touching(side: &[Ordered], taken: &mut usize, end: &mut usize) -> bool {
    let Some(next) = side.get(*taken).filter(|next| next.change.start <= *end) else { return false };
    *end = next.change.end.max(*end);
    *taken += 1;
    true
}

/// One change over `start..end` for all `members`, at the place of the first of them. What a side leaves as it was is
/// in its result as well, so the new text reaches as far beyond the first and the last one as the old text does.
fn widened(members: &[Ordered], start: usize, end: usize) -> Option<Ordered> {
    let (first, last) = (members.first()?.change, members.last()?.change);
    let change = Change {
        start,
        end,
        new_start: first.new_start - (first.start - start),
        new_end: last.new_end + (end - last.end),
    };
    Some(Ordered { change, order: members.iter().map(|member| member.order).min()? })
}

#[cfg(test)]
#[path = "divergence_tests.rs"]
mod tests;
