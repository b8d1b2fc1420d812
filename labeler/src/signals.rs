//! What the reports about an answer say without any text: what was accepted, refused and visible, and where reports
//! contradict each other or the answer.
//!
//! A client that errs must teach nothing and harm nobody else: what it reports against what is known is counted by its
//! reason, and of an opportunity whose reports cannot all be true no pair comes. Only a repetition is harmless.

use std::collections::BTreeMap;

use events::{Decision, EditAction, Origin, apply_actions};

use crate::decision_table::{Acceptance, Visibility};
use crate::document::{byte_at, length_in};
use crate::policy::LabelPolicy;
use crate::story::{Answer, Fact, Story, What};

/// How far a clock may seem to go back between two reports, for reports that were queued on different paths.
pub(crate) const CLOCK_TOLERANCE_MS: i64 = 1_000;

/// Reports that cannot be true together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Contradiction {
    /// Something was accepted or refused that was never delivered.
    NotDelivered,
    /// An action that the answer does not have.
    UnknownAction,
    /// An action was accepted whole, and then again.
    SecondAccept,
    /// The accepted length of an action became smaller: it is cumulative.
    LengthFell,
    /// The accepted length is nothing.
    NothingAccepted,
    /// The accepted length ends inside a character.
    LengthSplitsCharacter,
    /// The accepted length is greater than that of the action's text.
    LengthBeyondText,
    /// The actions of the answer overlap, or lie outside of the text, or replace what does not stand there.
    ActionsDoNotApply,
    /// The client's monotonic clock went back.
    ClockWentBack,
}

impl Contradiction {
    /// Its code, for metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotDelivered => "not_delivered",
            Self::UnknownAction => "unknown_action",
            Self::SecondAccept => "second_accept",
            Self::LengthFell => "accepted_length_fell",
            Self::NothingAccepted => "nothing_accepted",
            Self::LengthSplitsCharacter => "accepted_length_splits_character",
            Self::LengthBeyondText => "accepted_length_beyond_text",
            Self::ActionsDoNotApply => "actions_do_not_apply",
            Self::ClockWentBack => "clock_went_back",
        }
    }

    /// Whether nothing may be concluded from an opportunity with it.
    #[must_use]
    pub fn forbids_pairs(self) -> bool {
        self != Self::SecondAccept
    }
}

/// How much of one action was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accepted {
    /// All of it.
    Whole,
    /// That much of its new text, in the client's units.
    Units(u64),
}

/// Facts of a story that do not depend on text.
pub(crate) struct Signals {
    pub(crate) acceptance: Acceptance,
    /// By number of the action.
    pub(crate) accepted: BTreeMap<usize, Accepted>,
    /// Something was accepted, but not the first action.
    pub(crate) other_accepted: bool,
    /// The suggestion wrote text, and no acceptance is reported: that report is missing.
    pub(crate) unreported_accept: bool,
    /// How many leading actions were accepted whole.
    pub(crate) accepted_actions: usize,
    /// Number of the action that Esc was aimed at last, and the report's sequence number.
    pub(crate) dismissed: Option<(usize, i64)>,
    pub(crate) visibility: Visibility,
    /// How many actions were visible.
    pub(crate) visible: usize,
}

impl Signals {
    /// The accepted actions, each cut to what was accepted of it; none when a length fits no character.
    pub(crate) fn accepted_parts(&self, answer: &Answer, actions: &[EditAction]) -> Option<Vec<EditAction>> {
        self.accepted
            .iter()
            .filter_map(|(index, accepted)| Some((actions.get(*index)?, *accepted)))
            .map(|(action, accepted)| part(answer, action, accepted))
            .collect()
    }
}

/// What was accepted of an action.
pub(crate) fn part(answer: &Answer, action: &EditAction, accepted: Accepted) -> Option<EditAction> {
    match accepted {
        Accepted::Whole => Some(action.clone()),
        Accepted::Units(units) => {
            let bytes = byte_at(answer.encoding, &action.new_text, units)?;
            Some(EditAction { new_text: action.new_text[..bytes].to_owned(), ..action.clone() })
        }
    }
}

/// What the reports about the counted answer say, up to a time of the client.
pub(crate) fn signals(story: &Story, until_ms: i64, policy: &LabelPolicy) -> Signals {
    read(story, until_ms, policy).0
}

/// What is contradictory in a story: one entry for each report.
#[must_use]
pub fn contradictions(story: &Story, policy: &LabelPolicy) -> Vec<Contradiction> {
    let mut found = read(story, i64::MAX, policy).1;
    if let Some(text) = &story.answer.text {
        let window = &text.context.window;
        let is_elsewhere = text.actions.iter().any(|action| action.path != text.context.path);
        if !is_elsewhere && apply_actions(window.start_byte, &window.text, &text.actions).is_none() {
            found.push(Contradiction::ActionsDoNotApply);
        }
    }
    let times = story.facts.iter().map(|fact| fact.monotonic_ms);
    let mut latest = i64::MIN;
    for time in times {
        if time < latest.saturating_sub(CLOCK_TOLERANCE_MS) {
            found.push(Contradiction::ClockWentBack);
        }
        latest = latest.max(time);
    }
    found
}

fn read(story: &Story, until_ms: i64, policy: &LabelPolicy) -> (Signals, Vec<Contradiction>) {
    let actions = story.answer.text.as_ref().map(|text| text.actions.as_slice());
    let mut accepted: BTreeMap<usize, Accepted> = BTreeMap::new();
    let mut found = Vec::new();
    let (mut shown_ms, mut visible_for, mut visible, mut dismissed) = (None::<i64>, None::<i64>, 1, None);
    // Nobody can have seen, taken or refused what was not delivered, whatever a client says.
    let delivered = story.answer.receipt.decision == Decision::Shown;
    for fact in story.facts.iter().filter(|fact| fact.monotonic_ms <= until_ms && story.is_about_answer(fact)) {
        match fact.what {
            What::Accepted { .. } | What::Dismissed { .. } if !delivered => found.push(Contradiction::NotDelivered),
            What::Shown { actions_visible } if delivered => {
                shown_ms = Some(shown_ms.map_or(fact.monotonic_ms, |first| first.min(fact.monotonic_ms)));
                visible = visible.max(usize::try_from(actions_visible).unwrap_or(1));
            }
            What::Hidden { visible_ms } if delivered => visible_for = visible_for.max(Some(visible_ms)),
            What::Accepted { action_index, accepted_length } => match known_action(actions, action_index) {
                Some(index) => {
                    visible = visible.max(index + 1);
                    let new_text = actions.and_then(|actions| actions.get(index)).map(|action| &*action.new_text);
                    match told(&story.answer, new_text, accepted_length, &mut found) {
                        Some(told) => found.extend(accept(&mut accepted, index, told)),
                        None => found.push(Contradiction::NothingAccepted),
                    }
                }
                None => found.push(Contradiction::UnknownAction),
            },
            What::Dismissed { action_index } => match known_action(actions, action_index) {
                Some(index) => {
                    visible = visible.max(index + 1);
                    dismissed = Some((index, fact.sequence));
                }
                None => found.push(Contradiction::UnknownAction),
            },
            What::Shown { .. } | What::Hidden { .. } | What::Look { .. } | What::Edit { .. } => {}
        }
    }
    let acceptance = match accepted.get(&0) {
        None => Acceptance::None,
        Some(Accepted::Whole) => Acceptance::Whole,
        Some(Accepted::Units(_)) => Acceptance::Partial,
    };
    let is_whole = |index: &usize| accepted.get(index) == Some(&Accepted::Whole);
    let accepted_actions = (0..accepted.len()).take_while(is_whole).count();
    let was_handled = !accepted.is_empty() || dismissed.is_some();
    let visible_ms = visible_for.or_else(|| shown_ms.map(|shown| first_edit_after(story, shown).saturating_sub(shown)));
    let visibility = match visible_ms {
        _ if !delivered => Visibility::NotServed,
        _ if was_handled => Visibility::Visible,
        None => Visibility::Unseen,
        Some(visible_ms) if visible_ms < policy.superseded_below_ms => Visibility::Superseded,
        Some(_) => Visibility::Visible,
    };
    let other_accepted = acceptance == Acceptance::None && !accepted.is_empty();
    let wrote = |fact: &Fact| fact.monotonic_ms <= until_ms && story.is_written_by_answer(fact);
    let unreported_accept = accepted.is_empty() && story.facts.iter().any(wrote);
    let signals = Signals {
        acceptance,
        accepted,
        other_accepted,
        unreported_accept,
        accepted_actions,
        dismissed,
        visibility,
        visible,
    };
    (signals, found)
}

/// The number of an action of the answer; any when its text is not known.
fn known_action(actions: Option<&[EditAction]>, index: i32) -> Option<usize> {
    let index = usize::try_from(index).ok()?;
    actions.is_none_or(|actions| index < actions.len()).then_some(index)
}

/// What a report of acceptance says, exactly; none for a length of nothing. A length that cannot be one leaves open how
/// much was accepted.
fn told(
    answer: &Answer,
    new_text: Option<&str>,
    length: Option<i64>,
    found: &mut Vec<Contradiction>,
) -> Option<Accepted> {
    let Some(units) = length else { return Some(Accepted::Whole) };
    let units = u64::try_from(units).unwrap_or(0);
    let whole = new_text.map(|text| length_in(answer.encoding, text));
    if whole == Some(units) {
        return Some(Accepted::Whole);
    }
    if units == 0 {
        return None;
    }
    if whole.is_some_and(|whole| units > whole) {
        found.push(Contradiction::LengthBeyondText);
    } else if new_text.is_some_and(|text| byte_at(answer.encoding, text, units).is_none()) {
        found.push(Contradiction::LengthSplitsCharacter);
    }
    Some(Accepted::Units(units))
}

fn accept(known: &mut BTreeMap<usize, Accepted>, index: usize, told: Accepted) -> Option<Contradiction> {
    match (known.get(&index).copied(), told) {
        (Some(Accepted::Whole), _) => Some(Contradiction::SecondAccept),
        (Some(Accepted::Units(before)), Accepted::Units(units)) if units < before => Some(Contradiction::LengthFell),
        _ => {
            known.insert(index, told);
            None
        }
    }
}

/// Changes of the suggestion's document by hand: what was visible until then is not visible any more. A paste and a redo
/// are the hand's, too; a formatter, another program or another suggestion may come by itself.
pub(crate) fn edits_by_hand(story: &Story) -> impl Iterator<Item = &Fact> {
    let path = story.answer.text.as_ref().map(|exposure| exposure.context.path.as_str());
    story.facts.iter().filter(move |fact| match &fact.what {
        What::Edit { origin: Origin::Typed | Origin::Undo | Origin::Redo | Origin::Paste, text } => {
            path.zip(text.as_ref()).is_none_or(|(path, text)| text.path == path)
        }
        _ => false,
    })
}

/// When the document next changed by hand.
fn first_edit_after(story: &Story, shown_ms: i64) -> i64 {
    let times = edits_by_hand(story).map(|fact| fact.monotonic_ms);
    times.filter(|time| *time >= shown_ms).min().unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::story::EditText;
    use crate::story::testing::{action, story};

    fn accepted(action_index: i32, accepted_length: Option<i64>) -> What {
        What::Accepted { action_index, accepted_length }
    }

    #[test]
    fn every_contradiction_is_told_by_its_reason() {
        let smile = || vec![action(8, "b", "a😀é")];
        let overlap = vec![action(8, "b", "c"), action(8, "b;", "d;")];
        let edit = What::Edit { origin: Origin::Typed, text: None };
        let policy = LabelPolicy::default();
        let cases = [
            (smile(), vec![(0, accepted(0, Some(2)))], Some(Contradiction::LengthSplitsCharacter)),
            (smile(), vec![(0, accepted(0, Some(5)))], Some(Contradiction::LengthBeyondText)),
            (smile(), vec![(0, accepted(0, Some(0)))], Some(Contradiction::NothingAccepted)),
            (smile(), vec![(0, accepted(0, Some(3))), (1, accepted(0, Some(1)))], Some(Contradiction::LengthFell)),
            (smile(), vec![(0, accepted(0, None)), (1, accepted(0, None))], Some(Contradiction::SecondAccept)),
            (smile(), vec![(0, accepted(1, None))], Some(Contradiction::UnknownAction)),
            (smile(), vec![(0, What::Dismissed { action_index: 4 })], Some(Contradiction::UnknownAction)),
            (overlap, vec![], Some(Contradiction::ActionsDoNotApply)),
            (vec![action(40, "b", "c")], vec![], Some(Contradiction::ActionsDoNotApply)),
            (smile(), vec![(5_000, edit.clone()), (3_000, edit)], Some(Contradiction::ClockWentBack)),
            (smile(), vec![(0, accepted(0, Some(1))), (1, accepted(0, Some(3))), (2, accepted(0, Some(4)))], None),
        ];
        for (actions, reports, expected) in cases {
            let found = contradictions(&story(Decision::Shown, actions, &reports), &policy);
            assert_eq!(found, expected.into_iter().collect::<Vec<_>>(), "{reports:?}");
        }
        let withheld = story(Decision::Withheld, smile(), &[(0, accepted(0, None))]);
        assert_eq!(contradictions(&withheld, &policy), [Contradiction::NotDelivered]);
    }

    #[test]
    fn only_the_hand_at_work_in_the_same_file_hides_what_is_visible() {
        let edit = |origin, path: &str| What::Edit {
            origin,
            text: Some(EditText {
                path: path.to_owned(),
                start: 0,
                end: 0,
                old_text: String::new(),
                new_text: "x".to_owned(),
            }),
        };
        let cases = [
            (edit(Origin::Typed, "p"), Visibility::Superseded),
            (edit(Origin::Undo, "p"), Visibility::Superseded),
            (edit(Origin::Redo, "p"), Visibility::Superseded),
            (edit(Origin::Paste, "p"), Visibility::Superseded),
            (edit(Origin::Typed, "q"), Visibility::Visible),
            (edit(Origin::Paste, "q"), Visibility::Visible),
            (edit(Origin::External, "p"), Visibility::Visible),
            (edit(Origin::Formatter, "p"), Visibility::Visible),
        ];
        for (edit, visibility) in cases {
            let reports = [(0, What::Shown { actions_visible: 1 }), (100, edit)];
            let told = story(Decision::Shown, vec![action(8, "b", "c")], &reports);
            assert_eq!(signals(&told, i64::MAX, &LabelPolicy::default()).visibility, visibility, "{reports:?}");
        }
    }

    #[test]
    fn cumulative_lengths_are_utf16_units_and_the_last_one_may_be_the_whole() {
        let policy = LabelPolicy::default();
        for (units, written) in [(1, "a"), (3, "a😀"), (4, "a😀é")] {
            let actions = vec![action(8, "b", "a😀é"), action(0, "let", "const")];
            let told = story(Decision::Shown, actions.clone(), &[(0, accepted(0, Some(units)))]);
            let signals = signals(&told, i64::MAX, &policy);
            let parts = signals.accepted_parts(&told.answer, &actions).unwrap();
            assert_eq!((parts.len(), parts[0].new_text.as_str()), (1, written));
            let is_whole = signals.acceptance == Acceptance::Whole;
            assert_eq!((is_whole, signals.accepted_actions), (units == 4, usize::from(units == 4)));
        }
        // A part of a later action is not the whole of it.
        let actions = vec![action(8, "b", "c"), action(0, "let", "const")];
        let told = story(Decision::Shown, actions, &[(0, accepted(0, None)), (1, accepted(1, Some(2)))]);
        assert_eq!(signals(&told, i64::MAX, &policy).accepted_actions, 1);
    }
}
