//! What a pair says about one region of the window: the text before and after it, and the region itself as it stood and
//! as each side would have it.
//!
//! The region covers the first action of either side, which is where they part; actions that reach over its edge widen
//! it. What both sides had done before is applied everywhere. Of the later actions of a side, those inside the region are
//! part of its answer, and the others belong to other regions.

use std::ops::Range;

use events::{ActionList, EditAction, EditContext};

use super::{Refusal, Sides};

/// An action at its place in the window's text.
#[derive(Clone, Copy)]
struct Placed<'a> {
    start: usize,
    end: usize,
    new_text: &'a str,
}

impl Placed<'_> {
    fn is_inside(&self, range: &Range<usize>) -> bool {
        self.start >= range.start && self.end <= range.end
    }

    fn reaches_over(&self, range: &Range<usize>) -> bool {
        self.start < range.end && self.end > range.start && !self.is_inside(range)
    }
}

/// How far a region reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// As far as the actions do.
    Change,
    /// Whole lines, and one more each way.
    Lines,
}

/// One region.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Region {
    pub(super) before: String,
    pub(super) standing: String,
    pub(super) after: String,
    /// Where the cursor is in `standing`, if it is there.
    pub(super) cursor: Option<usize>,
    pub(super) chosen: Option<String>,
    pub(super) rejected: Option<String>,
}

/// The region of a pair.
pub(super) fn region_of<'a>(sides: &Sides<'a>, extent: Extent) -> Result<Region, Refusal> {
    let text = &sides.context.window.text;
    let shared = placed(sides.context, sides.shared)?;
    let of_side = |side: Option<&'a ActionList>| side.map(|list| placed(sides.context, &list.actions)).transpose();
    let (chosen, rejected) = (of_side(sides.chosen)?, of_side(sides.rejected)?);
    let firsts: Vec<Placed<'a>> =
        chosen.iter().chain(&rejected).filter_map(|actions| actions.first().copied()).collect();
    let start = firsts.iter().map(|first| first.start).min().ok_or(Refusal::NothingChanges)?;
    let end = firsts.iter().map(|first| first.end).max().ok_or(Refusal::NothingChanges)?;
    let mut range = start..end;
    if extent == Extent::Lines {
        range = whole_lines(text, &range);
        range = previous_line(text, range.start)..next_line(text, range.end);
    }
    let all = || shared.iter().chain(chosen.iter().flatten()).chain(rejected.iter().flatten());
    while let Some(over) = all().find(|action| action.reaches_over(&range)) {
        range = range.start.min(over.start)..range.end.max(over.end);
        if extent == Extent::Lines {
            range = whole_lines(text, &range);
        }
    }

    let outside = |part: Range<usize>| {
        let is_there = |action: &&Placed<'a>| action.is_inside(&part) && !action.is_inside(&range);
        let actions = shared.iter().filter(is_there).copied().collect();
        applied(text, &part, actions)
    };
    let within = |actions: &[Placed<'a>]| -> Vec<Placed<'a>> {
        actions.iter().filter(|action| action.is_inside(&range)).copied().collect()
    };
    let before_both = within(&shared);
    let side = |actions: Option<&Vec<Placed<'a>>>| {
        actions.map(|actions| applied(text, &range, [before_both.clone(), within(actions)].concat())).transpose()
    };
    let cursor = sides.context.cursor_byte.checked_sub(sides.context.window.start_byte);
    let cursor = cursor.and_then(|cursor| usize::try_from(cursor).ok());
    // Where something was changed before, it is not known where in it the cursor would be.
    let is_as_it_was = before_both.is_empty();
    let cursor = cursor.filter(|cursor| {
        is_as_it_was && *cursor >= range.start && *cursor <= range.end && text.is_char_boundary(*cursor)
    });
    Ok(Region {
        before: outside(0..range.start)?,
        standing: applied(text, &range, before_both.clone())?,
        after: outside(range.end..text.len())?,
        cursor: cursor.map(|cursor| cursor - range.start),
        chosen: side(chosen.as_ref())?,
        rejected: side(rejected.as_ref())?,
    })
}

fn placed<'a>(context: &'a EditContext, actions: &'a [EditAction]) -> Result<Vec<Placed<'a>>, Refusal> {
    let base = context.window.start_byte;
    let offset = |place: u64| usize::try_from(place.checked_sub(base)?).ok();
    let place = |action: &'a EditAction| {
        let (start, end) = offset(action.range.start).zip(offset(action.range.end))?;
        let is_here = action.path == context.path && context.window.text.get(start..end)? == action.old_text;
        is_here.then_some(Placed { start, end, new_text: &action.new_text })
    };
    actions.iter().map(|action| place(action).ok_or(Refusal::Unfit)).collect()
}

/// A part of the text with actions applied that all lie in it.
fn applied(text: &str, part: &Range<usize>, mut actions: Vec<Placed<'_>>) -> Result<String, Refusal> {
    actions.sort_by_key(|action| (action.start, action.end));
    let mut result = String::with_capacity(part.len());
    let mut position = part.start;
    for action in actions {
        // None where actions overlap.
        result.push_str(text.get(position..action.start).ok_or(Refusal::Unfit)?);
        result.push_str(action.new_text);
        position = action.end;
    }
    result.push_str(text.get(position..part.end).ok_or(Refusal::Unfit)?);
    Ok(result)
}

/// The lines that a range touches, with their line breaks.
fn whole_lines(text: &str, range: &Range<usize>) -> Range<usize> {
    let start = text[..range.start].rfind('\n').map_or(0, |line_break| line_break + 1);
    let ends_a_line = range.end > range.start && text[..range.end].ends_with('\n');
    let end = if ends_a_line { range.end } else { next_line(text, range.end) };
    start..end
}

/// Where the line after the one at `place` begins.
fn next_line(text: &str, place: usize) -> usize {
    text[place..].find('\n').map_or(text.len(), |line_break| place + line_break + 1)
}

/// Where the line before the one that begins at `start` begins.
fn previous_line(text: &str, start: usize) -> usize {
    let before = text[..start].strip_suffix('\n').unwrap_or(&text[..start]);
    before.rfind('\n').map_or(0, |line_break| line_break + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::export::tests::{context, list, somewhere};

    /// Lines with their line breaks; a text that ends with one has an empty line behind it.
    fn lines_of(text: &str) -> Vec<Range<usize>> {
        let mut start = 0;
        let line = |line: &str| {
            let end = (start + line.len() + 1).min(text.len());
            std::mem::replace(&mut start, end)..end
        };
        text.split('\n').map(line).collect()
    }

    /// What a region covers at least, line by line.
    fn needed(lines: &[Range<usize>], change: &Range<usize>, extent: Extent) -> Range<usize> {
        if extent == Extent::Change {
            return change.clone();
        }
        let line_at = |place: usize| lines.iter().rposition(|line| line.start <= place).unwrap();
        let (first, mut last) = (line_at(change.start), line_at(change.end));
        if change.end > change.start && lines[last].start == change.end {
            last -= 1;
        }
        lines[first.saturating_sub(1)].start..lines[(last + 1).min(lines.len() - 1)].end
    }

    /// The least range that is wide enough and that no action lies across, found by trying all of them.
    fn least(text: &str, extent: Extent, change: &Range<usize>, all: &[Placed<'_>]) -> Range<usize> {
        let lines = lines_of(text);
        let needed = needed(&lines, change, extent);
        let (starts, ends): (Vec<usize>, Vec<usize>) = match extent {
            Extent::Change => (0..=text.len()).map(|place| (place, place)).unzip(),
            Extent::Lines => lines.iter().map(|line| (line.start, line.end)).unzip(),
        };
        let wide = |range: &Range<usize>| range.start <= needed.start && range.end >= needed.end;
        let is_apart = |range: &Range<usize>| {
            let is_outside = |action: &Placed<'_>| action.end <= range.start || action.start >= range.end;
            let is_within = |action: &Placed<'_>| range.start <= action.start && action.end <= range.end;
            all.iter().all(|action| is_outside(action) || is_within(action))
        };
        let ranges = starts.iter().flat_map(|start| ends.iter().map(move |end| *start..*end));
        ranges.filter(|range| wide(range) && is_apart(range)).min_by_key(|range| range.end - range.start).unwrap()
    }

    /// A part with actions in it, from the last to the first.
    fn spliced(text: &str, part: Range<usize>, mut actions: Vec<Placed<'_>>) -> Result<String, Refusal> {
        actions.sort_by_key(|action| (action.start, action.end));
        if actions.windows(2).any(|two| two[1].start < two[0].end) {
            return Err(Refusal::Unfit);
        }
        let mut result = text[part.clone()].to_owned();
        for action in actions.into_iter().rev() {
            result.replace_range(action.start - part.start..action.end - part.start, action.new_text);
        }
        Ok(result)
    }

    /// A region as its definition says, slowly.
    fn defined<'a>(sides: &Sides<'a>, extent: Extent) -> Result<Region, Refusal> {
        let text = sides.context.window.text.as_str();
        let shared = placed(sides.context, sides.shared)?;
        let of_side = |side: Option<&'a ActionList>| side.map(|list| placed(sides.context, &list.actions)).transpose();
        let (chosen, rejected) = (of_side(sides.chosen)?, of_side(sides.rejected)?);
        let firsts: Vec<Placed<'a>> =
            [&chosen, &rejected].into_iter().flatten().filter_map(|actions| actions.first().copied()).collect();
        let start = firsts.iter().map(|first| first.start).min().ok_or(Refusal::NothingChanges)?;
        let end = firsts.iter().map(|first| first.end).max().ok_or(Refusal::NothingChanges)?;
        let of_sides = [&chosen, &rejected].into_iter().flatten().flatten();
        let all: Vec<Placed<'a>> = shared.iter().chain(of_sides).copied().collect();
        let range = least(text, extent, &(start..end), &all);

        let is_within = |action: &Placed<'a>| range.start <= action.start && action.end <= range.end;
        let (inside, outside): (Vec<Placed<'a>>, Vec<Placed<'a>>) = shared.into_iter().partition(is_within);
        let (ahead, behind): (Vec<Placed<'a>>, Vec<Placed<'a>>) =
            outside.into_iter().partition(|action| action.end <= range.start);
        let side = |actions: Vec<Placed<'a>>| {
            spliced(text, range.clone(), inside.iter().copied().chain(actions.into_iter().filter(is_within)).collect())
        };
        let cursor = usize::try_from(sides.context.cursor_byte - sides.context.window.start_byte).unwrap();
        let is_there = inside.is_empty()
            && (range.start..=range.end).contains(&cursor)
            && text.char_indices().map(|(place, _)| place).chain([text.len()]).any(|place| place == cursor);
        Ok(Region {
            before: spliced(text, 0..range.start, ahead)?,
            standing: spliced(text, range.clone(), inside.clone())?,
            after: spliced(text, range.end..text.len(), behind)?,
            cursor: is_there.then(|| cursor - range.start),
            chosen: chosen.map(side).transpose()?,
            rejected: rejected.map(side).transpose()?,
        })
    }

    /// Places, lengths and new texts of actions.
    fn actions(most: usize) -> impl Strategy<Value = Vec<(usize, usize, String)>> {
        prop::collection::vec((0_usize..40, 0_usize..6, "[x-z\n]{0,3}"), 0..=most)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1024, fork: false, ..ProptestConfig::default() })]

        #[test]
        fn a_region_is_the_least_that_no_action_lies_across(
            text in "[a-cé\n]{0,24}",
            shared in actions(2),
            chosen in prop::option::of(actions(3)),
            rejected in prop::option::of(actions(3)),
            cursor in 0_usize..60,
        ) {
            let context = context(&text, cursor % (text.len() + 1));
            let made = |(start, length, new_text): &(usize, usize, String)| somewhere(&text, *start, *length, new_text);
            let shared: Vec<EditAction> = shared.iter().map(made).collect();
            let [chosen, rejected] =
                [chosen, rejected].map(|side| side.map(|actions| list(actions.iter().map(made).collect())));
            let sides =
                Sides { context: &context, shared: &shared, chosen: chosen.as_ref(), rejected: rejected.as_ref() };
            for extent in [Extent::Change, Extent::Lines] {
                prop_assert!(region_of(&sides, extent) == defined(&sides, extent), "{extent:?} of {text:?}");
            }
        }
    }

    #[test]
    fn a_chain_of_actions_widens_a_region_from_one_to_the_next() {
        let context = context("0123456789", 0);
        let at = |start, length| somewhere(&context.window.text, start, length, "x");
        // They part in 2..5; 4..7 lies across its end, and 6..9 across the end of that.
        let (chosen, rejected) = (list(vec![at(4, 1), at(6, 3)]), list(vec![at(2, 1), at(4, 3)]));
        let sides = Sides { context: &context, shared: &[], chosen: Some(&chosen), rejected: Some(&rejected) };
        let region = region_of(&sides, Extent::Change).unwrap();
        assert_eq!((region.before.as_str(), region.standing.as_str(), region.after.as_str()), ("01", "2345678", "9"));
        assert_eq!((region.chosen.as_deref(), region.rejected.as_deref()), (Some("23x5x"), Some("x3x78")));
        // What both had done before lies across what one of them did: neither can be told.
        let shared = [at(8, 2)];
        assert!(region_of(&Sides { shared: &shared, ..sides }, Extent::Change).is_err_and(|why| why == Refusal::Unfit));
    }

    #[test]
    fn lines_are_found_at_both_ends_of_a_text() {
        let text = "one\ntwo\nthree";
        assert_eq!(whole_lines(text, &(5..6)), 4..8);
        assert_eq!(whole_lines(text, &(4..8)), 4..8);
        assert_eq!(whole_lines(text, &(4..4)), 4..8);
        assert_eq!(whole_lines(text, &(0..13)), 0..13);
        assert_eq!((previous_line(text, 8), previous_line(text, 4), previous_line(text, 0)), (4, 0, 0));
        assert_eq!((next_line(text, 0), next_line(text, 8), next_line(text, 13)), (4, 13, 13));
    }
}
